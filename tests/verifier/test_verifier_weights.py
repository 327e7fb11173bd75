"""Where weight files are looked for, what they are held to, and what is said of missing ones."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from src.data import hub
from src.models.clap import ClapVerifier
from src.weights.files import (
    PYTHON,
    REMEMBER_FROM,
    WeightFile,
    WeightsError,
    absent,
    fetch_command,
    find,
    is_non_commercial,
    locate,
    sha256,
    user_cache,
    why_not_loaded,
)

HUB_FILE = WeightFile("model.bin", repository="owner/name", size="2 GB")
PLAIN_FILE = WeightFile("plain.pth", url="https://example.org/plain.pth")
LARGE = b"x" * REMEMBER_FROM


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and empty caches."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CURATOR_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes were read to hash them."""
    read: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(file.name) or real(file, kind)
    )
    return read


def put(path: Path, data: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_hub_cache(cache: Path, data: bytes, blob: str) -> Path:
    """A file as huggingface_hub caches it: a link to the bytes, which lie under their hash."""
    folder = cache / "models--owner--name"
    put(folder / "refs" / "main", b"abc")
    link = folder / "snapshots" / "abc" / "model.bin"
    link.parent.mkdir(parents=True)
    link.symlink_to(put(folder / "blobs" / blob, data))
    return link


def test_each_place_is_looked_into_and_the_more_particular_one_first(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = weights.parent / "transformers"
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(transformers))
    monkeypatch.chdir(weights.parent)
    for file, places in {
        HUB_FILE: (
            lambda: in_hub_cache(hub.hub_cache(), b"1", digest(b"1")),
            lambda: put(weights / "model.bin"),
            lambda: in_hub_cache(weights, b"1", digest(b"1")),
            lambda: put(weights / "owner--name" / "model.bin"),
        ),
        replace(HUB_FILE, repository="roberta-base"): (
            lambda: put(transformers / "models--FacebookAI--roberta-base/snapshots/main/model.bin"),
            lambda: put(transformers / "models--roberta-base/snapshots/main/model.bin"),
            lambda: put(hub.snapshot("FacebookAI/roberta-base", hub.hub_cache()) / "model.bin"),
            lambda: put(weights / "FacebookAI--roberta-base" / "model.bin"),
        ),
        PLAIN_FILE: (
            lambda: put(Path(".checkpoints/plain.pth")),
            lambda: put(user_cache() / "weights" / "plain.pth"),
            lambda: put(weights / "plain.pth"),
        ),
    }.items():
        with pytest.raises(WeightsError, match=rf"{file.name} is missing.*{file.source}"):
            locate(file)
        for make in places:
            assert make() == find(file)
        for path in (*weights.parent.rglob("model.bin"), *weights.parent.rglob("plain.pth")):
            path.unlink()


def test_a_file_in_another_format_stands_in_for_the_one_that_is_not_there(weights: Path) -> None:
    file = WeightFile("model.safetensors", repository="owner/name", instead="model.bin")
    assert put(weights / "owner--name" / "model.bin") == find(file)
    assert put(weights / "model.safetensors") == find(file)
    assert absent([file, HUB_FILE, PLAIN_FILE]) == [PLAIN_FILE]


def test_a_file_that_is_not_the_published_one_is_used_and_both_hashes_are_logged(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(weights / "plain.pth")
    own, published = digest(b"weights"), digest(b"others")
    assert locate(PLAIN_FILE) == locate(replace(PLAIN_FILE, sha256=own.upper())) == path
    assert caplog.text == ""
    assert locate(replace(PLAIN_FILE, sha256=published)) == path
    for part in (str(path), own, published):
        assert part in caplog.text


def test_a_large_file_of_a_hub_cache_is_held_to_the_hash_that_it_is_named_by(
    weights: Path,
) -> None:
    link = in_hub_cache(weights, b"weights", digest(b"weights"))
    assert locate(HUB_FILE) == link
    link.resolve().write_bytes(b"w3ights")
    for file in (HUB_FILE, replace(HUB_FILE, sha256=digest(b"w3ights"))):
        with pytest.raises(WeightsError, match=f"the hub says {digest(b'weights')}.*delete it"):
            locate(file)


def test_a_large_file_is_hashed_once_until_it_changes_and_a_small_one_each_time(
    tmp_path: Path, hashed: list[str]
) -> None:
    path, link = put(tmp_path / "large", LARGE), tmp_path / "link"
    link.symlink_to(path)
    assert sha256(path) == sha256(path) == sha256(link) == digest(LARGE)
    assert hashed == [str(path)]
    same_size = b"y" * len(LARGE)
    put(path, same_size)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert sha256(path) == digest(same_size)
    assert len(hashed) == 2
    small = put(tmp_path / "small")
    assert sha256(small) == sha256(small) == digest(b"weights")
    assert len(hashed) == 4


@pytest.mark.parametrize("broken", [b"short", b"\xff\xfe"])
def test_a_broken_memory_is_made_anew_and_none_costs_time_only(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, broken: bytes
) -> None:
    path = put(tmp_path / "large", LARGE)
    sha256(path)
    (kept,) = (user_cache() / "sha256").iterdir()
    kept.write_bytes(broken)
    assert sha256(path) == sha256(path) == digest(LARGE)
    assert len(hashed) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(put(tmp_path / "a file")))
    assert sha256(path) == sha256(path) == digest(LARGE)
    assert len(hashed) == 4


def test_what_is_missing_is_one_line_with_the_command_that_gets_it(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClapVerifier, "files", (HUB_FILE, PLAIN_FILE))
    assert ClapVerifier("clap").missing() == (
        "model.bin (2 GB, owner/name), plain.pth (https://example.org/plain.pth) not found; get it "
        f"with: {PYTHON} verifier_server.py --fetch clap --weights_dir {weights}"
    )
    put(weights / "model.bin")
    put(weights / "plain.pth")
    assert ClapVerifier("clap").missing() is None
    monkeypatch.setenv("CURATOR_WEIGHTS", "/my weights")
    assert fetch_command("muq").endswith("--fetch muq --weights_dir '/my weights'")
    monkeypatch.delenv("CURATOR_WEIGHTS")
    assert fetch_command("muq") == f"{PYTHON} verifier_server.py --fetch muq"


def test_licences_without_commercial_use_are_told_apart() -> None:
    assert all(map(is_non_commercial, ("CC-BY-NC 4.0 (no commercial use)", "cc-by-nc-sa-4.0")))
    assert not any(map(is_non_commercial, ("CC-BY 4.0", "MIT", "")))


class OutOfMemoryError(RuntimeError):
    """Called as torch's is."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (WeightsError("x.pt is torn; fetch it again"), "x.pt is torn; fetch it again"),
        (
            ModuleNotFoundError("No module named 'muq'", name="muq"),
            "its library muq is not in this environment: make setup",
        ),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB. GPU 0 has ..."),
            "out of memory (CUDA out of memory): host fewer --models, or another --device",
        ),
        (MemoryError(), "out of memory (on the CPU): host fewer --models, or another --device"),
        (KeyError("state_dict"), "KeyError: 'state_dict'"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("several\n  lines"), "RuntimeError: several lines"),
    ],
)
def test_why_a_model_did_not_load_is_one_line(error: BaseException, text: str) -> None:
    assert why_not_loaded(error) == text
