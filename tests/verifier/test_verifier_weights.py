"""Where weight files are looked for, what they are held to, and what is said of missing ones."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from src.data import hub
from src.weights import files as verifier_weights
from src.weights.files import (
    WeightFile,
    WeightsError,
    absent,
    fetch_command,
    find,
    git_hash,
    is_non_commercial,
    locate,
    missing_line,
    record_of,
    sha256,
    user_cache,
    why_not_loaded,
)

HUB_FILE = WeightFile("model.bin", repository="owner/name", size="2 GB")
PLAIN_FILE = WeightFile("plain.pth", url="https://example.org/plain.pth")
LARGE = b"x" * verifier_weights.REMEMBER_FROM


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
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read to hash them."""
    read: list[Path] = []
    real = verifier_weights._hash
    monkeypatch.setattr(verifier_weights, "_hash", lambda path: read.append(path) or real(path))
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


def test_each_place_is_looked_into_and_the_more_particular_one_first(weights: Path) -> None:
    assert find(HUB_FILE) is None
    for make in (
        lambda: in_hub_cache(hub.hub_cache(), b"1", digest(b"1")),
        lambda: put(weights / "model.bin"),
        lambda: in_hub_cache(weights, b"1", digest(b"1")),
        lambda: put(weights / "owner--name" / "model.bin"),
    ):
        assert make() == find(HUB_FILE)


def test_what_comes_from_no_hub_is_found_in_the_folder_or_the_users_cache(weights: Path) -> None:
    assert find(PLAIN_FILE) is None
    assert put(user_cache() / "weights" / "plain.pth") == find(PLAIN_FILE)
    assert put(weights / "plain.pth") == find(PLAIN_FILE)


def test_a_file_in_another_format_stands_in_for_the_one_that_is_not_there(weights: Path) -> None:
    file = WeightFile("model.safetensors", repository="owner/name", instead="model.bin")
    assert put(weights / "owner--name" / "model.bin") == find(file)
    assert put(weights / "model.safetensors") == find(file)
    assert absent([file, HUB_FILE, PLAIN_FILE]) == [PLAIN_FILE]


def test_a_missing_file_is_named_with_its_source() -> None:
    with pytest.raises(WeightsError, match=r"model\.bin is missing.*huggingface\.co/owner/name"):
        locate(HUB_FILE)


def test_a_file_that_is_not_the_one_expected_is_refused_with_both_hashes(weights: Path) -> None:
    path = put(weights / "plain.pth")
    assert locate(PLAIN_FILE) == path
    right, wrong = digest(b"weights"), digest(b"others")
    assert locate(WeightFile("plain.pth", sha256=right.upper())) == path
    with pytest.raises(WeightsError) as caught:
        locate(WeightFile("plain.pth", url="https://example.org/plain.pth", sha256=wrong))
    for part in (str(path), right, wrong, "delete it", "https://example.org/plain.pth"):
        assert part in str(caught.value)


def test_a_file_is_held_to_the_record_beside_it(weights: Path) -> None:
    path = put(weights / "plain.pth")
    record_of(path).write_text(f"{digest(b'weights')}  plain.pth\n")
    assert locate(PLAIN_FILE) == path
    record_of(path).write_text(f"{digest(b'others')}  plain.pth\n")
    with pytest.raises(WeightsError, match=r"plain\.pth\.sha256 says"):
        locate(PLAIN_FILE)
    for nonsense in ("", "nonsense", "12ab"):
        record_of(path).write_text(nonsense)
        with pytest.raises(WeightsError, match="holds no sha256"):
            locate(PLAIN_FILE)


@pytest.mark.parametrize("kind", ["sha256", "git"])
def test_a_file_of_a_hub_cache_is_held_to_the_hash_that_it_is_called_by(
    weights: Path, tmp_path: Path, kind: str
) -> None:
    plain = put(tmp_path / "plain", b"weights")
    blob = sha256(plain) if kind == "sha256" else git_hash(plain)
    link = in_hub_cache(weights, b"weights", blob)
    assert locate(HUB_FILE) == link
    link.resolve().write_bytes(b"w3ights")
    with pytest.raises(WeightsError, match=f"the hub says {blob}"):
        locate(HUB_FILE)


def test_gits_hash_is_gits(tmp_path: Path) -> None:
    # echo hello | git hash-object --stdin
    assert git_hash(put(tmp_path / "f", b"hello\n")) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_large_file_is_hashed_once(tmp_path: Path, hashed: list[Path]) -> None:
    path = put(tmp_path / "large", LARGE)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert sha256(path) == sha256(path) == sha256(link) == digest(LARGE)
    assert hashed == [path]


def test_a_file_that_changed_is_hashed_again(tmp_path: Path, hashed: list[Path]) -> None:
    path = put(tmp_path / "large", LARGE)
    sha256(path)
    same_size = b"y" * len(LARGE)
    put(path, same_size)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert sha256(path) == digest(same_size)
    put(path, LARGE + b"x")
    assert sha256(path) == digest(LARGE + b"x")
    assert len(hashed) == 3


def test_small_files_are_not_remembered(tmp_path: Path, hashed: list[Path]) -> None:
    path = put(tmp_path / "small")
    assert sha256(path) == sha256(path) == digest(b"weights")
    assert len(hashed) == 2
    assert not user_cache().exists()


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b"null", b'{"%s": 3}', b'{"%s": [%d, %d, "short"]}', b"\xff\xfe", b"1" * 99],
)
def test_a_broken_memory_is_ignored_and_made_anew(
    tmp_path: Path, hashed: list[Path], broken: bytes
) -> None:
    path = put(tmp_path / "large", LARGE)
    state = path.stat()
    facts = (bytes(path), state.st_size, state.st_mtime_ns)[: broken.count(b"%")]
    put(user_cache() / "sha256.json", broken % facts if facts else broken)
    assert sha256(path) == sha256(path) == digest(LARGE)
    assert len(hashed) == 1


def test_a_home_that_cannot_be_written_costs_time_only(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "large", LARGE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(put(tmp_path / "a file")))
    assert sha256(path) == sha256(path) == digest(LARGE)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert sha256(path) == digest(LARGE)
    assert len(hashed) == 3


def test_threads_that_hash_at_once_are_all_remembered(tmp_path: Path, hashed: list[Path]) -> None:
    paths = [put(tmp_path / f"large{i}", LARGE + bytes([i])) for i in range(6)]
    for _ in range(2):
        threads = [threading.Thread(target=sha256, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(hashed) == sorted(paths)
    assert [p.name for p in user_cache().iterdir()] == ["sha256.json"]


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    first, second = put(tmp_path / "first", LARGE), put(tmp_path / "second", LARGE)
    sha256(first)
    first.unlink()
    sha256(second)
    text = (user_cache() / "sha256.json").read_text()
    assert str(second) in text
    assert str(first) not in text


def test_what_is_missing_is_one_line_with_the_command_that_gets_it(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = missing_line("clap", [HUB_FILE, PLAIN_FILE])
    assert line == (
        "model.bin (2 GB, owner/name) and 1 more file not found; get it with: "
        f"python verifier_server.py --fetch clap --weights_dir {weights}"
    )
    put(weights / "model.bin")
    line = missing_line("clap", [HUB_FILE, PLAIN_FILE])
    assert line is not None
    assert line.startswith("plain.pth (https://example.org/plain.pth) not found")
    put(weights / "plain.pth")
    assert missing_line("clap", [HUB_FILE, PLAIN_FILE]) is None
    monkeypatch.setenv("CURATOR_WEIGHTS", "/my weights")
    assert fetch_command("muq").endswith("--fetch muq --weights_dir '/my weights'")
    monkeypatch.delenv("CURATOR_WEIGHTS")
    assert fetch_command("muq", "py") == "py verifier_server.py --fetch muq"


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-NC 4.0 (no commercial use)", True),
        ("cc-by-nc-sa-4.0", True),
        ("CC-BY 4.0", False),
        ("MIT", False),
        ("", False),
    ],
)
def test_licences_without_commercial_use_are_told_apart(licence: str, expected: bool) -> None:
    assert is_non_commercial(licence) is expected


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
