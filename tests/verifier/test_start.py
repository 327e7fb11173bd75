"""How the server starts and ends: what it hosts and leaves out, how it ends when it cannot.

Starting late, hanging up and stopping: nothing is lost, and nothing is computed for nobody.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from src.server.settings import ServerSettings, SettingsError, configure_torch
from src.verifier_core import VERIFIERS
from src.weights.files import TAGGERS
from tests.verifier.server_process import REAL_MODELS, ROOT, ServerProcess, answer_to, values, wav

pytestmark = pytest.mark.usefixtures("nothing_fetched")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "verifier_server.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_model_without_its_weights_costs_one_line_and_exit_2(tmp_path: Path) -> None:
    done = run("--models", "clap")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "clap: music_audioset_epoch_15_esc_90.14.pt (2.4 GB, lukewys/laion_clap)" in line
    assert f"python verifier_server.py --fetch clap --weights_dir {tmp_path}" in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--models", "nope"), "nope: no such verifier; there are clap"),
        (("--fetch",), "--fetch which?"),
        (("--fetch", "nope"), "nope: no such verifier"),
        (("--fetch", "clap"), "HF_HUB_OFFLINE is set"),
        (("--device", "gpu"), "--device gpu: there are auto, cpu, cuda"),
        (("--device", "cuda:9", "--models", "tags"), "torch sees no such GPU"),
        (("--device", "cpu", "--dtype", "float16"), "--dtype float16 needs a GPU"),
        (("--port", "65536"), "--port 65536"),
        (("--host", "300.1.1.1"), "--host 300.1.1.1: not an address of this machine"),
        (("--host", "192.0.2.1"), "--host 192.0.2.1: not an address of this machine"),
        (("--token", "två ord"), "the token (CURATOR_TOKEN) may have letters"),
        (("--token", " "), "--token is empty"),
        (("--batch.max_queue", "3"), "--batch.max_queue must be at least --limits.max_files"),
        (("--max_connections", "32"), "--max_connections must be more than --max_requests"),
        (("--weights_dir", "/no/such/folder"), "/no/such/folder is not a folder"),
        (("--dtype", "int8"), "dtype"),
        (("--log_level", "loud"), "log_level"),
    ],
)
def test_wrong_flags_end_with_a_clear_line(options: tuple[str, ...], reason: str) -> None:
    done = run(*options)
    assert done.returncode == (1 if options == ("--fetch", "clap") else 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_with_1(server: ServerProcess) -> None:
    done = run("--models", "tags", "--host", "127.0.0.1", "--port", server.url.split(":")[-1])
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def configured(device: str, dtype: Any = "float32") -> str:
    return configure_torch(ServerSettings(device=device, dtype=dtype, threads=1), 1)


def test_a_cpu_that_auto_comes_to_computes_in_all_but_float16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match="a CPU computes in float32 or bfloat16"):
        configured("auto", "float16")
    assert configured("auto") == configured("auto", "bfloat16") == "cpu"


def test_convolutions_are_exact_on_a_gpu_for_all_models_of_the_process() -> None:
    torch.backends.cudnn.allow_tf32 = True
    configured("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_gpus_that_are_there_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_86", "sm_90"])
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: (8, 9))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "card")
    for device, expected in (("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1")):
        ServerSettings(device=device).check()
        assert configured(device, "float16") == expected
    with pytest.raises(SettingsError, match="it sees 2 of them: cuda:0 to cuda:1"):
        configured("cuda:2")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: (10, 0))
    with pytest.raises(SettingsError, match=r"has no kernels for this card \(sm_100\)"):
        configured("auto")


def test_the_weights_folder_of_the_flag_is_the_processs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    ServerSettings(weights_dir=Path("mine")).use_weights_dir()
    assert os.environ["CURATOR_WEIGHTS"] == str(tmp_path / "mine")
    monkeypatch.setenv("CURATOR_WEIGHTS", "gone")
    with pytest.raises(SettingsError, match="CURATOR_WEIGHTS: gone is not a folder"):
        ServerSettings().use_weights_dir()
    ServerSettings(fetch=("clap",)).use_weights_dir()  # a download makes the folder


def test_help_names_every_verifier_the_exit_codes_and_what_each_flag_does() -> None:
    done = run("--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    for part in (*VERIFIERS, "Exit codes: 0", "HF_ENDPOINT", "CURATOR_WEIGHTS", "float16 is for"):
        assert part in text


def test_with_no_flags_what_is_there_is_hosted_and_the_rest_is_named_in_a_line_each(
    tmp_path: Path,
) -> None:
    """Quality's file is there and is torn, MuQ's licence is not for commercial use."""
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    for file in VERIFIERS["muq"]("muq").files:
        path = tmp_path / file.repository.replace("/", "--") / file.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"torn")
    log = tmp_path / "log"
    with ServerProcess(log, "--threads", "1", server=REAL_MODELS) as server:
        server.wait_until_ready()
        ready = server.get("/ready").json()
        listed = server.get("/verifiers").json()["verifiers"]
    text = log.read_text()
    assert ready["models"] == {
        **dict.fromkeys(("quality", "muq"), "failed"),
        **dict.fromkeys(TAGGERS, "ready"),
    }
    for name, problem in ready["problems"].items():
        assert problem.startswith(str(tmp_path))  # the sentence alone, without the error's type
        assert f"--fetch {name}" in problem
        assert "\n" not in problem
    assert {v["name"]: v["problem"] for v in listed if v["problem"]} == ready["problems"]
    for name in ("clap", "imagebind"):
        (line,) = (line for line in text.splitlines() if f"{name} is left out" in line)
        assert f"python verifier_server.py --fetch {name}" in line
    assert "muq: NOT FOR COMMERCIAL USE; licence: CC-BY-NC 4.0" in text
    assert "Traceback" not in text


def test_a_request_to_a_loading_model_is_answered_once_it_is_loaded(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "slow_to_load") as server:
        assert server.get("/ready").status_code == 503
        response = server.post([wav(1.0)], verifiers=("slow_to_load",))
        assert values(response, "slow_to_load") == pytest.approx([0], abs=1e-4)
        assert server.get("/ready").status_code == 200
        assert server.metric('curator_model_ready{model="slow_to_load"}') == 1


def test_a_server_is_stopped_while_its_model_loads(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "slow_to_load") as server:
        server.terminate()
        assert server.process.wait(timeout=25) == 0


def test_a_client_that_hangs_up_costs_no_compute(server: ServerProcess) -> None:
    metrics = ('curator_dropped_clips_total{model="fake"}', 'curator_clips_total{model="fake"}')
    before = [server.metric(name) for name in metrics]
    with ThreadPoolExecutor(2) as clients:
        blocked = clients.submit(server.post, [wav()], ["sleep 1"])
        time.sleep(0.3)
        with server.connect(server.raw_post([wav()] * 3)):
            time.sleep(0.3)
        values(blocked.result())
    assert values(server.post([wav()]))
    assert [server.metric(name) - a for name, a in zip(metrics, before, strict=True)] == [3, 2]


def test_a_client_that_hangs_up_while_headers_are_read_leaves_no_trace_in_the_log(
    server: ServerProcess,
) -> None:
    gone = 'curator_rejects_total{model="",reason="client_gone"}'
    before, body = server.metric(gone), server.raw_post([wav(seconds=0.02)] * 250)
    for milliseconds in range(4, 34, 2):
        with server.connect(body):
            time.sleep(milliseconds / 1000)
    server.wait_for(gone, before + 15)
    text = server.log.read_text()
    assert "Exception ignored" not in text
    assert "closed file" not in text


def test_an_upload_that_is_cut_off_leaves_the_server_working(server: ServerProcess) -> None:
    gone = 'curator_rejects_total{model="",reason="client_gone"}'
    before = server.metric(gone)
    server.connect(server.raw_post([wav()] * 3)[:-2000]).close()
    assert values(server.post([wav(1.0)])) == pytest.approx([0], abs=1e-4)
    assert server.metric(gone) == before + 1
    assert server.metric("curator_requests_uploading") == 0
    assert server.metric("curator_held_bytes") == 0


def test_sigterm_finishes_what_is_queued_accepts_no_more_and_exits_0(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", "--models", "fake", "--batch.max_clips", "1") as server:
        with ThreadPoolExecutor(1) as clients:
            queued = clients.submit(server.post, [wav(1.0)] * 3, ["sleep 0.3"] * 3)
            time.sleep(0.4)
            server.terminate()
            time.sleep(0.2)
            with pytest.raises(requests.ConnectionError):
                server.get("/health")
            assert values(queued.result()) == pytest.approx([0, 0, 0], abs=1e-4)
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log.read_text()


def test_sigterm_exits_0_within_its_limit_when_work_is_not_done(tmp_path: Path) -> None:
    options = ("--models", "fake", "--stop_seconds", "1")
    with ServerProcess(tmp_path / "log", *options) as server, ThreadPoolExecutor(1) as clients:
        unfinished = clients.submit(server.post, [wav()], ["sleep 30"])
        with server.connect(server.raw_post([wav()])[:-100]) as incomplete:
            time.sleep(0.4)
            server.terminate()
            for body in (answer_to(incomplete)[1], unfinished.result().json()):
                assert body["error"] == "stopping"
        assert server.process.wait(timeout=25) == 0  # and not after the 30 s of work
    assert "Traceback" not in server.log.read_text()
