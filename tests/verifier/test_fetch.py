"""--fetch: what verifiers need comes from a real HTTP server, which answers as the hub does."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from src.data import hub
from src.judges.passt import CHECKPOINT, PasstListener
from src.runs import fetch
from src.verifier_core import VERIFIERS, NotHosted
from src.weights import download
from src.weights.files import find, locate
from tests.verifier.fetching import CONTENT, LARGE, PLAIN, SMALL, Host, file, sha256
from tests.verifier.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_fetched_is_found_and_not_fetched_again(mirror: HubServer, host: Host) -> None:
    host(*map(file, CONTENT))
    assert fetch.fetch(["small"]) == 0
    for name, content in CONTENT.items():
        assert locate(file(name)).read_bytes() == content
        assert len(mirror.downloads(name)) == 1
    mirror.requests.clear()
    assert fetch.fetch(["small", "small"]) == 0
    assert mirror.requests == []


def test_files_go_into_the_folder_that_is_set_and_else_into_the_caches(
    mirror: HubServer, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(*map(file, CONTENT))
    assert fetch.fetch(["small"]) == 0
    assert all(locate(file(name)).is_relative_to(tmp_path / "weights") for name in CONTENT)
    monkeypatch.delenv("CURATOR_WEIGHTS")
    assert [find(file(name)) for name in CONTENT] == [None] * 3
    assert fetch.fetch(["small"]) == 0
    assert locate(file(LARGE)).is_relative_to(hub.hub_cache())
    assert locate(file(PLAIN)).is_relative_to(tmp_path / "cache")


def test_other_programs_find_what_was_fetched_in_the_hubs_cache(
    mirror: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CURATOR_WEIGHTS")
    host(file(LARGE))
    fetch.fetch(["small"])
    path = huggingface_hub.try_to_load_from_cache(
        "owner/model", "large.bin", cache_dir=hub.hub_cache()
    )
    assert path == str(find(file(LARGE)))


def test_a_licence_without_commercial_use_is_said_before_anything_is_asked(
    mirror: HubServer, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host(file(SMALL), licence_="CC-BY-NC 4.0")
    mirror.refused[SMALL] = 404
    fetch.fetch(["small"])
    first, second = caplog.records[:2]
    assert first.levelname == "WARNING"
    assert "small: NOT FOR COMMERCIAL USE; licence: CC-BY-NC 4.0" in first.getMessage()
    assert "404" in second.getMessage()


def test_a_damaged_file_is_kept_until_there_is_another(mirror: HubServer, host: Host) -> None:
    host(file(PLAIN))
    fetch.fetch(["small"])
    locate(file(PLAIN)).write_bytes(b"damaged")
    mirror.refused[PLAIN] = 500
    assert fetch.fetch(["small"]) == 1
    assert find(file(PLAIN)) is not None


def test_a_file_that_a_person_put_there_is_not_replaced(
    mirror: HubServer,
    host: Host,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = tmp_path / "weights" / PLAIN
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    host(file(PLAIN))
    assert fetch.fetch(["small"]) == 0
    host(file(PLAIN, sha256(CONTENT[PLAIN])))
    assert fetch.fetch(["small"]) == 1
    assert "delete it" in caplog.text
    assert mine.read_bytes() == b"mine"


def test_what_does_not_exist_is_named_and_the_rest_is_fetched(
    mirror: HubServer, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host(file("owner/model/gone.bin"), *map(file, CONTENT))
    assert fetch.fetch(["small"]) == 1
    assert f"{mirror.url}/owner/model/resolve/main/gone.bin does not exist (404)" in caplog.text
    assert all(find(file(name)) for name in CONTENT)
    assert "not complete: small" in caplog.text


def test_a_format_that_the_repository_lacks_is_replaced_by_the_one_it_has(
    mirror: HubServer, host: Host
) -> None:
    wanted = file("owner/model/model.safetensors", instead="large.bin")
    host(wanted)
    assert fetch.fetch(["small"]) == 0
    assert locate(wanted).read_bytes() == CONTENT[LARGE]
    mirror.requests.clear()
    assert fetch.fetch(["small"]) == 0
    assert mirror.requests == []


def test_without_a_network_it_is_said_once_and_soon(
    mirror: HubServer,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    host(file(LARGE), file(SMALL))
    begin = time.monotonic()
    assert fetch.fetch(["small"]) == 1
    assert time.monotonic() - begin < 3
    text = f"127.0.0.1:{port} cannot be reached (Connection refused)"
    assert sum(text in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_choice_asks_nothing_and_names_the_variable(
    mirror: HubServer,
    host: Host,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host(file(PLAIN))
    monkeypatch.setenv(variable, "1")
    assert fetch.fetch(["small"]) == 1
    assert f"{variable} is set" in caplog.text
    assert mirror.requests == []


def test_a_disk_without_room_is_said_before_anything_is_downloaded(
    mirror: HubServer,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 600_000, 400_000))
    host(*map(file, CONTENT))
    assert fetch.fetch(["small"]) == 1
    assert "500 kB needed, 400 kB free" in caplog.text
    assert all(mirror.downloads(name) == [] for name in CONTENT)
    part = tmp_path / "weights" / f"{PLAIN}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(CONTENT[PLAIN][:150_000])
    assert fetch.fetch(["small"]) == 0  # what came already needs no room


def test_a_network_that_swallows_everything_is_waited_for_once(
    mirror: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
    host(*(file(f"owner/model/{i}.bin") for i in range(10)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        assert fetch.fetch(["small"]) == 1
        assert time.monotonic() - begin < 2


def test_a_repository_that_was_updated_meanwhile_is_whole_and_nothing_comes_twice(
    mirror: HubServer, host: Host
) -> None:
    host(file(LARGE))
    fetch.fetch(["small"])
    mirror.commit = "b" * 40
    host(file(LARGE), file(SMALL))
    mirror.sent.clear()
    assert fetch.fetch(["small"]) == 0
    assert locate(file(LARGE)).parent == locate(file(SMALL)).parent
    assert mirror.downloads(LARGE) == []


def test_what_a_judge_needs_is_fetched_by_the_judges_name(
    mirror: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name in ("kld_pq", "kld_qp", "kld_both"):
        assert fetch.wanted(name).files == (CHECKPOINT,)
    assert fetch.wanted("clap_score").files == VERIFIERS["clap"]("clap").files
    monkeypatch.setattr(PasstListener, "files", (file(PLAIN),))
    assert fetch.fetch(["kld_pq", "kld_both"]) == 0
    assert locate(file(PLAIN)).read_bytes() == CONTENT[PLAIN]
    assert len(mirror.downloads(PLAIN)) == 1
    assert "kld_pq: licence: Apache-2.0" in caplog.text


def test_names_are_checked_and_at_least_one_is_needed(mirror: HubServer) -> None:
    for names, reason in [((), "which?"), (("clap", "nope"), "nope: no such verifier")]:
        with pytest.raises(NotHosted, match=f"{reason}.*clap, quality.*judges clap_score, kld_pq"):
            fetch.fetch(names)
    assert mirror.requests == []


def test_a_verifier_that_comes_with_the_repository_needs_nothing(mirror: HubServer) -> None:
    assert fetch.fetch(["tags"]) == 0
    assert mirror.requests == []


def command(*arguments: str) -> list[str]:
    return [sys.executable, "verifier_server.py", "--fetch", *arguments]


HUB_CHUNK = 10 * 2**20  # bytes; what huggingface_hub writes at once


def hub_of_quality(mirror: HubServer) -> tuple[str, bytes]:
    (needed,) = VERIFIERS["quality"]("quality").files
    name = f"{needed.repository}/{needed.name}"
    mirror.files[name] = np.random.default_rng(2).bytes(2 * HUB_CHUNK + 1_000_000)
    return name, mirror.files[name]


def test_the_command_line_fetches_into_the_folder_it_is_given(
    mirror: HubServer, tmp_path: Path
) -> None:
    name, content = hub_of_quality(mirror)
    mirror.cut[name] = [HUB_CHUNK + 1000, 10**9]
    folder = tmp_path / "a new folder"
    done = subprocess.run(
        command("quality", "--weights_dir", str(folder)), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "quality: every file is there" in done.stderr
    assert "Traceback" not in done.stderr
    (path,) = folder.glob("models--*/snapshots/*/*")
    assert path.read_bytes() == content
    assert mirror.downloads(name)[-2:] == [0, HUB_CHUNK]  # not by Xet, which the server offers


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(mirror: HubServer, tmp_path: Path) -> None:
    name, content = hub_of_quality(mirror)
    mirror.stalled.add(name)
    with subprocess.Popen(command("quality"), cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 30
        while not any(
            partial.stat().st_size for partial in (tmp_path / "weights").rglob("*.incomplete")
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, text = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "the same command goes on" in text
    assert "Traceback" not in text
    mirror.stalled.clear()
    done = subprocess.run(command("quality"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert mirror.downloads(name)[-1] == HUB_CHUNK
    (path,) = (tmp_path / "weights").glob("models--*/snapshots/*/*")
    assert path.read_bytes() == content
