"""Preflight: everything missing at once, within seconds, whatever the network does."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from src.data import hub
from src.data.prompts import Prompt
from src.runs import preflight
from src.runs.settings import PROFILE_JUDGES, BenchmarkSettings, parse

ROOT = Path(__file__).parents[2]
WHOLE_MODEL = ("state_dict.bin", "compression_state_dict.bin")
WHOLE_ENCODER = ("config.json", "spiece.model", "model.safetensors")


@pytest.fixture(autouse=True)
def _nothing_cached_and_nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "AUDIOCRAFT_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CURATOR_TOKEN", "CURATOR_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, bytes]]]:
    """A loopback server in the place of the hub and of a verifier server: path -> answer."""
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            if status == 401 or self.headers.get("Authorization") == "Bearer wrong":
                status = 401
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answers["url"] = (0, f"http://127.0.0.1:{server.server_port}".encode())
        monkeypatch.setenv("HF_ENDPOINT", url_of(answers))
        yield answers
        server.shutdown()


def url_of(answers: dict[str, tuple[int, bytes]]) -> str:
    return answers["url"][1].decode()


def cache(name: str, files: tuple[str, ...]) -> Path:
    folder = hub.hub_cache() / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots" / "abc123").mkdir(parents=True)
    for file in files:
        (folder / "snapshots" / "abc123" / file).touch()
    return folder / "snapshots" / "abc123"


def find(*args: str) -> tuple[Sequence[Prompt], list[str]]:
    """The prompts, and what is missing as one text each."""
    ready = look(*args)
    return ready.prompts, [preflight.message([item]) for item in ready.missing]


def look(*args: str) -> preflight.Ready:
    if "--judges" not in args and "--profile" not in args:
        args = ("--judges", "none", *args)
    args = ("--prompts", "a piano", *args)
    return preflight.look(parse(BenchmarkSettings, args, prog="benchmark.py"))


def test_everything_missing_is_listed_at_once_with_source_licence_and_remedy() -> None:
    settings = parse(BenchmarkSettings, ("--verifier", "clap"), prog="benchmark.py")
    text = preflight.message(preflight.look(settings).missing)
    for part in (
        "6 thing(s) missing",
        "state_dict.bin, compression_state_dict.bin",
        "https://huggingface.co/facebook/musicgen-small; licence CC-BY-NC 4.0",
        "t5-base",
        "hf download",
        "the table of MusicCaps",
        "CC-BY-SA 4.0",
        "judge kld_pq",
        "--fetch kld_pq",
        "http://127.0.0.1:8000",
        "verifier_server.py",
        "music_audioset_epoch_15_esc_90.14.pt",
        "--profile builtin --server auto --verifier tags",
    ):
        assert part in text


def test_a_cached_model_needs_no_network_and_keeps_libraries_off_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "fetch", lambda *args, **kwargs: pytest.fail("asked the network"))
    cache("facebook/musicgen-small", WHOLE_MODEL)
    cache("t5-base", WHOLE_ENCODER)
    prompts, missing = find()
    assert missing == []
    assert [p.text for p in prompts] == ["a piano"]
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_a_half_cached_model_is_missing_its_other_half() -> None:
    cache("facebook/musicgen-small", WHOLE_MODEL[:1])
    cache("t5-base", ("config.json", "spiece.model", "pytorch_model.bin"))
    (text,) = find()[1]
    assert "MusicGen facebook/musicgen-small: compression_state_dict.bin (not in" in text
    assert "HF_HUB_OFFLINE is set" in text


def test_what_the_hub_can_give_is_not_missing(
    monkeypatch: pytest.MonkeyPatch, online: dict[str, tuple[int, bytes]]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    online["/api/models/facebook/musicgen-small"] = online["/api/models/t5-base"] = (200, b"{}")
    assert find()[1] == []
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_a_name_that_the_hub_does_not_know_is_said(
    monkeypatch: pytest.MonkeyPatch, online: dict[str, tuple[int, bytes]]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    online["/api/models/t5-base"] = (200, b"{}")
    (text,) = find("--model", "facebook/musicgen-smal")[1]
    assert "has no public model of that name" in text


def test_a_network_that_swallows_everything_costs_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        start = time.monotonic()
        missing = find("--verifier", "tags", "--server", address)[1]
        assert time.monotonic() - start < 3
    assert len(missing) == 3
    assert all("cannot be reached" in text for text in missing[:2])
    assert "no answer within" in missing[2]


def test_a_silent_server_is_told_alike_whichever_clock_runs_out_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Opener:
        def open(self, *args: object, **options: object) -> None:
            raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.build_opener", lambda *handlers: Opener())
    with pytest.raises(TimeoutError, match="no answer within 3 s"):
        hub.fetch("http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["no-such-thing", "a/b/c"])
def test_a_model_that_is_neither_name_nor_folder_is_said(name: str) -> None:
    assert "neither 'builtin', nor a hub name" in find("--model", name)[1][0]


def test_a_local_folder_is_looked_into(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    cache("t5-base", WHOLE_ENCODER)
    assert "state_dict.bin, compression_state_dict.bin in " in find("--model", str(folder))[1][0]
    for file in WHOLE_MODEL:
        (folder / file).touch()
    assert find("--model", str(folder))[1] == []


def test_the_text_encoder_is_the_one_that_the_checkpoint_names(tmp_path: Path) -> None:
    config = (
        "conditioners:\n  description:\n    model: t5\n    t5:\n      name: google/flan-t5-small\n"
        "      finetune: false\nother:\n  name: wrong\n"
    )
    for file in WHOLE_MODEL:
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}X" + config.encode() + b"q\x01")
    (text,) = find("--model", str(tmp_path))[1]
    assert "text encoder google/flan-t5-small" in text


def hosting(online: dict[str, tuple[int, bytes]], **states: str) -> str:
    listing = {"verifiers": [{"name": name, "state": s} for name, s in states.items()]}
    online["/verifiers"] = (200, json.dumps(listing).encode())
    return url_of(online)


@pytest.fixture
def _model_is_there() -> None:
    cache("facebook/musicgen-small", WHOLE_MODEL)
    cache("t5-base", WHOLE_ENCODER)


@pytest.mark.usefixtures("_model_is_there")
def test_a_server_that_hosts_the_verifier_is_enough(online: dict) -> None:
    url = hosting(online, tags="ready", tags_msd="loading")
    assert find("--verifier", "tags+tags_msd+perplexity", "--server", url)[1] == []


@pytest.mark.usefixtures("_model_is_there")
def test_a_server_without_the_verifier_names_what_it_hosts(online: dict) -> None:
    url = hosting(online, tags="ready")
    (text,) = find("--verifier", "tags_msd", "--server", url)[1]
    assert "it hosts tags. Start it with --models tags_msd" in text


@pytest.mark.usefixtures("_model_is_there")
def test_a_token_that_is_wanted_is_asked_for(online: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURATOR_TOKEN", "wrong")
    url = hosting(online, tags="ready")
    (text,) = find("--verifier", "tags", "--server", url)[1]
    assert "set CURATOR_TOKEN" in text


@pytest.mark.usefixtures("_model_is_there")
def test_something_else_at_the_servers_address_is_said(online: dict) -> None:
    online["/verifiers"] = (200, b"<html>")
    (text,) = find("--verifier", "tags", "--server", url_of(online))[1]
    assert "a verifier server at" in text


@pytest.mark.usefixtures("_model_is_there")
@pytest.mark.parametrize("expression", ["0.5*", "tags+tags", "tags,perplexity"])
def test_a_verifier_that_cannot_be_read_is_said(expression: str) -> None:
    (text,) = find("--verifier", expression)[1]
    assert "--verifier" in text


@pytest.mark.usefixtures("_model_is_there")
def test_an_unknown_verifier_is_said_before_a_server_is_started() -> None:
    (text,) = find("--verifier", "clapp", "--server", "auto")[1]
    assert "verifier clapp" in text
    assert "there are clap, quality, muq, imagebind, tags" in text


@pytest.mark.usefixtures("_model_is_there")
def test_weights_that_a_server_of_this_run_would_lack_are_listed_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = find("--verifier", "clap+muq+tags", "--server", "auto")[1]
    clap, muq = (text for text in texts if "verifier environment" not in text)
    assert "music_audioset_epoch_15_esc_90.14.pt (2.4 GB), vocab.json" in clap
    assert "https://huggingface.co/lukewys/laion_clap" in clap
    assert "do:   envs/verifier/.venv/bin/python verifier_server.py --fetch clap\n" in clap
    assert "licence CC-BY-NC 4.0 (no commercial use)" in muq
    monkeypatch.setenv("CURATOR_WEIGHTS", str(tmp_path))
    (tmp_path / "checkpoint.pt").touch()
    texts = find("--verifier", "quality+imagebind", "--server", "auto")[1]
    (imagebind,) = (text for text in texts if "verifier environment" not in text)
    assert "verifier imagebind: imagebind_huge.pth (4.8 GB)" in imagebind
    assert f"--fetch imagebind --weights_dir {tmp_path}" in imagebind


@pytest.mark.usefixtures("_model_is_there")
def test_judges_that_need_references_are_missing_them_when_no_prompt_has_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("id,caption,path\na,x,a.ogg\nb,y,b.ogg\n")
    (text,) = find("--prompts", "p.csv", "--judges", "msd_kld", "mtt_vgg")[1]
    assert "reference audio for msd_kld: no prompt has any" in text
    assert find("--prompts", "p.csv", "--judges", "mtt_vgg")[1] == []
    (tmp_path / "a.ogg").touch()
    assert find("--prompts", "p.csv", "--judges", "msd_kld")[1] == []
    assert "1 of 2 prompts have no reference audio for msd_kld" in caplog.text


@pytest.mark.usefixtures("_model_is_there")
def test_default_judges_without_references_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p.csv").write_text("id,caption,path\na,x,a.ogg\n")
    builtin = ("--profile", "builtin", "--model", "facebook/musicgen-small")
    ready = look(*builtin, "--prompts", "p.csv")
    assert (ready.settings.judges, ready.missing) == (("mtt_vgg",), [])
    assert "judges left out: msd_kld (no prompt has reference audio)" in caplog.text
    (tmp_path / "a.ogg").touch()
    assert look(*builtin, "--prompts", "p.csv").settings.judges == PROFILE_JUDGES["builtin"]
    assert look(*builtin, "--prompts", "p.csv", "--judges", "none").settings.judges == ()


@pytest.mark.usefixtures("_model_is_there")
def test_weights_of_judges_are_missing_once_for_each_network_with_the_command() -> None:
    texts = find("--judges", "kld_pq", "kld_qp", "clap_score", "mtt_vgg", "--prompts", TABLE)[1]
    passt, clap = texts
    assert "judge kld_qp: passt" in passt
    assert "--fetch kld_qp" in passt
    assert "judge clap_score: music_audioset_epoch_15_esc_90.14.pt (2.4 GB" in clap
    assert "--judges none" in clap


TABLE = str(ROOT / "builtin" / "prompts.csv")


@pytest.mark.usefixtures("_model_is_there")
def test_default_judges_of_the_paper_profile_are_those_that_say_something(
    caplog: pytest.LogCaptureFixture,
) -> None:
    paper = ("--profile", "paper", "--prompts")
    assert look(*paper, TABLE).settings.judges == ("kld_pq", "clap_score")
    assert look(*paper, "a piano").settings.judges == ("clap_score",)
    assert "kld_pq (no prompt has reference audio)" in caplog.text
    selected = look(*paper, TABLE, "--verifier", "clap+perplexity", "--server", "auto")
    assert selected.settings.judges == ("kld_pq",)
    assert "clap_score (its number is that of clap, which selects)" in caplog.text


@pytest.mark.usefixtures("_model_is_there")
def test_verifiers_that_judge_must_be_hosted_like_the_one_that_selects(online: dict) -> None:
    url = hosting(online, tags="ready", tags_msd="loading")
    ask = ("--verifier", "tags", "--server", url, "--judges", "tags_msd")
    assert find(*ask)[1] == []
    assert look(*ask).settings.judges == ("tags_msd",)
    (text,) = find(*ask, "clap")[1]
    assert "verifier clap on the server" in text
    assert "Start it with --models tags tags_msd clap, or choose another --judges" in text


@pytest.mark.usefixtures("_model_is_there")
def test_a_judge_by_the_name_of_the_selector_is_left_to_the_selectors_column(
    online: dict, caplog: pytest.LogCaptureFixture
) -> None:
    url = hosting(online, tags="ready", clap="ready")
    ready = look("--verifier", "clap", "--server", url, "--judges", "clap", "tags")
    assert (ready.settings.judges, ready.missing) == (("tags",), [])
    assert "clap selects: its own number is shown as the selector's" in caplog.text


@pytest.mark.usefixtures("_model_is_there")
def test_musiccaps_is_read_from_the_data_folder_and_cut_to_what_is_asked(tmp_path: Path) -> None:
    columns = "ytid,start_s,end_s,caption,is_balanced_subset,is_audioset_eval"
    rows = [f"-id{n},30,40,caption {n},{n % 2 == 0},True" for n in range(6)]
    (tmp_path / "music_data").mkdir()
    (tmp_path / "music_data" / "musiccaps.csv").write_text("\n".join([columns, *rows]))
    ask = ("--prompts", "musiccaps", "--judges", "none")
    assert [p.id for p in look(*ask, "--num_samples", "2").prompts] == ["-id0", "-id1"]
    balanced = look(*ask, "--subset", "balanced").prompts
    assert [p.id for p in balanced] == ["-id0", "-id2", "-id4"]
    (tmp_path / "ids.txt").write_text("-id5\n-id3\n")
    assert {p.id for p in look(*ask, "--ids", "ids.txt").prompts} == {"-id3", "-id5"}
    assert find(*ask, "--referenced")[1]
    (tmp_path / "music_data" / "-id4.wav").touch()
    assert [p.id for p in look(*ask, "--referenced").prompts] == ["-id4"]
    drawn = look(*ask, "--pick", "random", "--pick_seed", "3", "--num_samples", "3").prompts
    assert len(drawn) == 3


@pytest.mark.usefixtures("_model_is_there")
def test_an_unknown_judge_lists_those_there_are() -> None:
    (text,) = find("--judges", "kld")[1]
    assert "judge(s) kld" in text
    assert "msd_kld" in text


@pytest.mark.usefixtures("_model_is_there")
def test_a_results_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (text,) = find("--output", "file/results")[1]
    assert "a folder to write to: file/results" in text
    assert "file is not a folder" in text


def test_looking_leaves_no_folder_behind(tmp_path: Path) -> None:
    assert find("--output", "a/b")[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_model_is_there")
def test_a_prompt_table_with_a_fault_is_part_of_the_list(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text\nx\n")
    assert "no `caption` column" in find("--prompts", "p.csv")[1][0]


def test_another_python_is_told_which_environment_to_use(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-s", "-E", str(ROOT / "benchmark.py")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == preflight.Exit.MISSING
    assert "envs/generator/.venv/bin/python benchmark.py" in run.stderr


def test_torch_is_not_imported_to_find_out_what_is_missing() -> None:
    code = (
        "import sys, benchmark; code = benchmark.main(['--verifier', 'clap']);"
        "sys.exit(code + 100 * ('torch' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == preflight.Exit.MISSING, run.stderr
