"""--fetch: what verifiers need comes from a real HTTP server, which answers as the hub does."""

import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from src.data import hub
from src.data.files import ROOT
from src.judges.passt import CHECKPOINT, PasstListener
from src.runs import fetch
from src.verifier_core import VERIFIERS, NotHosted
from src.weights.files import find, locate
from tests.hub_server import HubServer
from tests.verifier.fetching import CONTENT, LARGE, PLAIN, SMALL, Fetch, file, sha256

Log = pytest.LogCaptureFixture


def test_what_is_fetched_goes_into_the_set_folder_or_the_caches_and_is_found_there(
    mirror: HubServer, fetched: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file(name) for name in CONTENT]
    for _ in range(2):
        assert fetched(*files)
        assert [locate(one).read_bytes() for one in files] == list(CONTENT.values())
        assert all(locate(one).is_relative_to(tmp_path / "weights") for one in files)
        assert [len(mirror.downloads(name)) for name in CONTENT] == [1, 1, 1]
    monkeypatch.delenv("CURATOR_WEIGHTS")
    assert [find(one) for one in files] == [None] * 3
    assert fetched(*files)
    assert locate(file(PLAIN)).is_relative_to(tmp_path / "cache")
    found_by_other_programs = huggingface_hub.try_to_load_from_cache(
        "owner/model", "large.bin", cache_dir=hub.hub_cache()
    )
    assert found_by_other_programs == str(locate(file(LARGE)))


def test_a_licence_without_commercial_use_is_shown_before_anything_is_asked(
    mirror: HubServer, fetched: Fetch, caplog: Log
) -> None:
    mirror.refused[SMALL] = 404
    fetched(file(SMALL), licence="CC-BY-NC 4.0")
    first, second = caplog.records[:2]
    assert first.levelname == "WARNING"
    assert "small: NOT FOR COMMERCIAL USE; licence: CC-BY-NC 4.0" in first.getMessage()
    assert "404" in second.getMessage()


def test_a_file_that_a_person_put_there_is_not_replaced(
    mirror: HubServer, fetched: Fetch, tmp_path: Path, caplog: Log
) -> None:
    mine = tmp_path / "weights" / PLAIN
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    assert fetched(file(PLAIN))
    assert "published" not in caplog.text
    assert fetched(file(PLAIN, sha256(CONTENT[PLAIN])))
    assert f"{mine} is not the published file: its hash is {sha256(b'mine')}" in caplog.text
    assert mine.read_bytes() == b"mine"
    assert mirror.requests == []


def test_what_does_not_exist_is_named_and_the_rest_is_fetched(
    mirror: HubServer, fetched: Fetch, caplog: Log
) -> None:
    assert not fetched(file("owner/model/gone.bin"), *map(file, CONTENT))
    assert f"{mirror.url}/owner/model/resolve/main/gone.bin does not exist (404)" in caplog.text
    assert all(find(file(name)) for name in CONTENT)
    assert "not complete: small" in caplog.text


def test_a_file_that_the_hub_has_in_another_version_by_now_is_refused_before_it_comes(
    mirror: HubServer, fetched: Fetch, caplog: Log
) -> None:
    assert not fetched(file(LARGE, sha256="0" * 64))
    assert f"is now another file (sha256 {sha256(CONTENT[LARGE])}) than the one" in caplog.text
    assert "hf download owner/model large.bin" in caplog.text
    assert mirror.sent == []


@pytest.mark.parametrize("listening", [True, False])
def test_a_network_that_is_not_there_is_reported_soon_and_once_for_each_host(
    listening: bool, fetched: Fetch, monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        plain = file(PLAIN)
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        if not listening:
            silent.close()
        begin = time.monotonic()
        assert not fetched(*(file(f"owner/model/{i}.bin") for i in range(10)), plain)
        assert time.monotonic() - begin < 2
    assert caplog.text.count(f"{address} cannot be reached") == 1
    assert listening or "(Connection refused)" in caplog.text
    assert find(plain)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_choice_asks_nothing_and_names_the_variable(
    variable: str,
    mirror: HubServer,
    fetched: Fetch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Log,
) -> None:
    monkeypatch.setenv(variable, "1")
    assert not fetched(file(PLAIN))
    assert f"{variable} is set" in caplog.text
    assert mirror.requests == []


def test_a_repository_that_was_updated_meanwhile_is_whole_and_nothing_is_sent_twice(
    mirror: HubServer, fetched: Fetch, caplog: Log
) -> None:
    assert fetched(file(LARGE))
    mirror.commit = "b" * 40
    mirror.sent.clear()
    assert not fetched(file(LARGE), file(SMALL))  # the cache has moved on to the new revision
    assert "not complete: small; the same command goes on" in caplog.text
    assert fetched(file(LARGE), file(SMALL))
    assert locate(file(LARGE)).parent == locate(file(SMALL)).parent
    assert mirror.downloads(LARGE) == []


def test_what_a_judge_needs_is_fetched_by_the_judges_name(
    mirror: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    caplog.set_level("INFO")
    for name in ("kld_pq", "kld_qp", "kld_both"):
        assert fetch.files_of(name) == (CHECKPOINT,)
    assert fetch.files_of("clap_score") == VERIFIERS["clap"]("clap").files
    monkeypatch.setattr(PasstListener, "files", (file(PLAIN),))
    assert fetch.fetch(["kld_pq", "kld_both"]) == 0
    assert locate(file(PLAIN)).read_bytes() == CONTENT[PLAIN]
    assert len(mirror.downloads(PLAIN)) == 1
    assert "kld_pq: licence: Apache-2.0" in caplog.text


def test_names_are_checked_and_what_comes_with_the_repository_needs_nothing(
    mirror: HubServer,
) -> None:
    for names, reason in [((), "which?"), (("clap", "nope"), "nope: no such verifier")]:
        with pytest.raises(NotHosted, match=f"{reason}.*clap, quality.*judges clap_score, kld_pq"):
            fetch.fetch(names)
    assert fetch.fetch(["tags"]) == 0
    assert mirror.requests == []


HUB_CHUNK = 10 * 2**20  # bytes; what huggingface_hub writes at once


@pytest.fixture
def muq(mirror: HubServer) -> str:
    """The weights of a real verifier, of two chunks and a bit; its other files are there, too."""
    for needed in VERIFIERS["muq"]("muq").files:
        mirror.files[f"{needed.repository}/{needed.name}"] = b"{}"
    name = "OpenMuQ/MuQ-MuLan-large/pytorch_model.bin"  # no hash is known
    mirror.files[name] = np.random.default_rng(2).bytes(2 * HUB_CHUNK + 1_000_000)
    return name


@contextmanager
def command_line(
    *options: str, largest_file: int = resource.RLIM_INFINITY
) -> Iterator[subprocess.Popen[str]]:
    """`--fetch muq` as a process that Ctrl-C ends, also when it does not end these tests.

    largest_file: bytes; stands for a full disk.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

    with subprocess.Popen(
        [sys.executable, "verifier_server.py", "--fetch", "muq", *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_full_disk_ends_with_5_and_one_line(mirror: HubServer, muq: str, tmp_path: Path) -> None:
    with command_line("--weights_dir", str(tmp_path / "w"), largest_file=HUB_CHUNK) as process:
        _, text = process.communicate(timeout=60)
    assert process.returncode == 5, text
    assert f"{tmp_path / 'w'} cannot be written: File too large; make room" in text
    assert "Traceback" not in text


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on_in_the_folder_it_is_given(
    mirror: HubServer, muq: str, tmp_path: Path
) -> None:
    mirror.stalled.add(muq)
    folder = tmp_path / "a new folder"
    with command_line("--weights_dir", str(folder)) as process:
        deadline = time.monotonic() + 30
        while not any(partial.stat().st_size for partial in folder.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on" in text
    assert "Traceback" not in text
    mirror.stalled.clear()
    with command_line("--weights_dir", str(folder)) as process:
        _, text = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "muq: every file is there" in text
    assert mirror.downloads(muq)[-2:] == [0, HUB_CHUNK]  # not by Xet, which the server offers
    (path,) = folder.glob("models--*/snapshots/*/pytorch_model.bin")
    assert path.read_bytes() == mirror.files[muq]
