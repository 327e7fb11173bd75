"""MusicCaps' table: from the hub in both environments, or from a file; --help."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.data.hub import MUSICCAPS
from tests.downloader.conftest import COLUMNS, ROOT, Downloads
from tests.hub_server import HubServer, hub_server

TABLE = (
    ",".join(COLUMNS) + "\n"
    "-0Gj8-vB1q4,30,40,\"/m/0140xf,/m/04rlf\",\"['low quality', 'sustained']\","
    '"The ""low"" quality recording\nfeatures a ballad.",4,False,True\n'
    "0123456789a,0,10,/m/04rlf,['rock'],A café song.,9,True,False\n"
).encode()
FETCH = (
    "import sys; from pathlib import Path; from src.data import hub\n"
    "hub.musiccaps_table(Path(sys.argv[1]))"
)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        server.files[f"{MUSICCAPS}/musiccaps-public.csv"] = TABLE
        yield server


@pytest.mark.parametrize("environment", ["downloader", "generator"])
def test_the_hubs_table_is_kept_as_it_is_by_both_environments(
    hub: HubServer, tmp_path: Path, environment: str
) -> None:
    python = ROOT / "envs" / environment / ".venv" / "bin" / "python"
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [str(python), "-c", FETCH, str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "musiccaps.csv").read_bytes() == TABLE


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("silent", "cannot be reached"),
        ("absent", "cannot be reached"),
        ("failing", "answered 503"),
        ("unknown", "has no public data set"),
        ("offline", "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_without_the_table_is_one_sentence_within_seconds(
    downloads: Downloads, hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    hub.refused = {f"api/datasets/{MUSICCAPS}": 503} if fault == "failing" else {}
    hub.files = {} if fault == "unknown" else hub.files
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if fault == "offline" else "0")
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = {"absent": "127.0.0.1:9", "silent": f"127.0.0.1:{silent.getsockname()[1]}"}
        monkeypatch.setenv("HF_ENDPOINT", f"http://{addresses.get(fault, hub.url[7:])}")
        code, _, errors = downloads.run()
    assert code == 3
    assert said in errors
    assert "--csv musiccaps-public.csv" in errors
    assert "Traceback" not in errors
    assert time.monotonic() - started < 12


def test_a_table_that_is_none_is_an_error_and_not_kept(downloads: Downloads) -> None:
    (downloads.folder / "table.csv").write_text("ytid,start_s,caption\na,0,x\n")
    code, _, errors = downloads.run()
    assert code == 3
    assert "has no column end_s" in errors
    assert not (downloads.data_dir / "musiccaps.csv").exists()


def test_a_table_without_subsets_serves_all_and_names_the_column_it_lacks(
    downloads: Downloads,
) -> None:
    (downloads.folder / "table.csv").write_text("ytid,start_s,end_s,caption\na,0,1,x\n")
    downloads.host("a")
    assert downloads.run()[0] == 0
    code, _, errors = downloads.run("--split", "balanced")
    assert code == 3
    assert "no column is_balanced_subset" in errors


def test_help_teaches_by_examples(downloads: Downloads) -> None:
    code, output, _ = downloads.run("--help")
    assert code == 0
    assert all(word in output for word in ("Examples:", "--split balanced", "Exit codes:"))
