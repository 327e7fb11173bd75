"""The adapters with small random weights in upstream's formats, as the tests of all of them need.

A module of tests takes one by `CASE = "muq"`, or several by parametrising the fixture `case`
(`each`); then `adapter` is loaded once a process, and `own` is a folder of weights to be damaged.
"""

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.models.adapter import Adapter
from src.models.clap import ClapVerifier
from src.models.imagebind import ImageBindVerifier
from src.models.muq import MuqVerifier
from src.models.quality import QualityVerifier
from src.models.tags import TaggerVerifier
from src.protocol import Checkpoint
from src.weights.files import WEIGHTS_VARIABLE
from tests.verifier import clap_weights


@dataclass(frozen=True)
class Case:
    """One adapter. What tells adapters apart, and how their files are written."""

    name: str
    build: Callable[[], Any]
    make: Callable[[Path], None]  # writes a folder for CURATOR_WEIGHTS
    identity: str  # its checkpoint's name
    network: Callable[[Any], nn.Module]
    sound: Callable[[float, int], np.ndarray]  # seconds, seed
    file: str = ""  # its weights, in the folder; none for those of the repository
    pickled: str = ""  # the same as torch saves it, where that has another name
    read: Callable[[Path], dict[str, Tensor]] = torch.load
    write: Callable[[dict[str, Tensor], Path], None] = torch.save
    patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    half: tuple[str, ...] = ("bfloat16", "float16")
    seconds: tuple[float, ...] = (10, 2, 17, 10, 30, 2.5, 2)
    heard: tuple[int, ...] = (2, 10, 17, 30)
    shortest: int = 1  # samples
    tokens: int | None = None  # that it reads of a prompt; None: all
    prompt: Callable[[int], str] = lambda tokens: " ".join(["piano"] * tokens)


def _late(name: str) -> Callable[..., Any]:
    """tests.verifier.<name>, whose module and its libraries are imported when it is called."""
    module, function = name.split(".")

    def call(*args: Any, **options: Any) -> Any:
        return getattr(import_module(f"tests.verifier.{module}"), function)(*args, **options)

    return call


def _state(prefix: str, path: Path) -> dict[str, Tensor]:
    kept = torch.load(path, mmap=True, weights_only=False)["state_dict"]
    return {name.removeprefix(prefix): tensor for name, tensor in kept.items()}


def _patch_quality(patch: pytest.MonkeyPatch) -> None:
    from audiobox_aesthetics.model import aes

    from tests.verifier.test_quality import SMALL_WAVLM

    patch.setattr(aes, "DEFAULT_AUDIO_CFG", SMALL_WAVLM)


def _patch_imagebind(patch: pytest.MonkeyPatch) -> None:
    small = _late("test_imagebind.small_imagebind")
    patch.setattr("src.models.imagebind.imagebind_huge", small)


def noisy_tones(seconds: float, seed: int, rate: int) -> np.ndarray:
    """A tone that changes every half second, over noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = random.uniform(100, 2000, len(time) // (rate // 2) + 1)[(time * 2).astype(int)]
    noise = random.standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.03 * noise).astype(np.float32)


def sweep(seconds: float, rate: int, pitch: float = 440) -> np.ndarray:
    """A tone that rises, the same at every rate."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time))).astype(np.float32)


def score(verifier: Adapter, clip: np.ndarray, prompt: str = "a slow piano piece") -> float:
    """One clip's score."""
    return verifier.score([clip], [prompt])[0].value


_MULAN = "models--OpenMuQ--MuQ-MuLan-large/snapshots/" + "0" * 40

CASES = {
    case.name: case
    for case in (
        Case(
            "tags",
            partial(TaggerVerifier, "tags"),
            lambda folder: None,
            identity="MTT_musicnn",
            network=lambda adapter: adapter.tagger,
            sound=partial(noisy_tones, rate=16_000),
            half=(),  # of log-odds, half precision keeps little
        ),
        Case(
            "quality",
            partial(QualityVerifier, "quality"),
            _late("test_quality.save_model"),
            identity="facebook/audiobox-aesthetics",
            network=lambda adapter: adapter._model,
            sound=partial(noisy_tones, rate=16_000),
            file="model.safetensors",
            pickled="checkpoint.pt",
            read=load_file,
            write=save_file,
            patch=_patch_quality,
        ),
        Case(
            "muq",
            partial(MuqVerifier, "muq"),
            _late("test_muq.make_hub_cache"),
            identity="OpenMuQ/MuQ-MuLan-large",
            network=lambda adapter: adapter._model,
            sound=partial(noisy_tones, rate=24_000),
            file=f"{_MULAN}/pytorch_model.bin",
            shortest=2_400,
            tokens=28,  # 512 less the marks of start and end in the released one
        ),
        Case(
            "imagebind",
            partial(ImageBindVerifier, "imagebind"),
            _late("test_imagebind.write_imagebind_weights"),
            identity="imagebind_huge",
            network=lambda adapter: adapter._model,
            sound=partial(noisy_tones, rate=16_000),
            file="imagebind_huge.pth",
            patch=_patch_imagebind,
            half=("bfloat16",),
            shortest=400,
            tokens=75,
        ),
        Case(
            "clap",
            partial(ClapVerifier, "clap"),
            lambda folder: folder.symlink_to(clap_weights.shared_folder() / "weights"),
            identity=clap_weights.CHECKPOINT,
            network=lambda adapter: adapter._library,
            sound=clap_weights.clip,
            file=clap_weights.CHECKPOINT,
            read=partial(_state, "module."),
            half=(),  # test_clap.py
            seconds=(2, 17, 10),
            heard=(10, 17),
            tokens=75,
            prompt=lambda tokens: "a" * tokens,  # a token is a byte in these weights
        ),
    )
}


def each(*left_out: str) -> pytest.MarkDecorator:
    """The module's tests, or a test, for each adapter but those."""
    slow = {"clap": pytest.mark.slow}  # its libraries' imports and weights take half a minute
    cases = [pytest.param(n, marks=slow.get(n, ())) for n in CASES if n not in left_out]
    return pytest.mark.parametrize("case", cases, indirect=True)


@cache
def folder_of(name: str) -> Path:
    """The case's weights, in a folder that goes with this process."""
    folder = clap_weights.folder_of_this_process(name) / "weights"
    if name != "clap":
        folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        CASES[name].patch(patch)
        CASES[name].make(folder)
    return folder


@dataclass(frozen=True)
class Loaded:
    """An adapter, and what surrounded its first load in this process."""

    adapter: Any
    checkpoint: Checkpoint
    before: dict[str, Any]
    after: dict[str, Any]
    printed: str
    connections: list[object]


@cache
def loaded_once(name: str) -> Loaded:
    adapter, said, tries = CASES[name].build(), io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(socket.socket, "connect", lambda self, address: tries.append(address))
        before = clap_weights.surroundings()
        checkpoint = adapter.load("cpu")
        after = clap_weights.surroundings()
    return Loaded(adapter, checkpoint, before, after, said.getvalue(), tries)


# Fixtures, which conftest.py imports


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[getattr(request, "param", None) or request.module.CASE]


@pytest.fixture(scope="module")
def weights(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own folder of weights; the caches of the hub and of this program are empty."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(folder_of(case.name)))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("HF_HUB_CACHE", raising=False)
        case.patch(patch)
        yield folder_of(case.name)


@pytest.fixture(scope="module")
def loaded(case: Case, weights: Path) -> Loaded:
    return loaded_once(case.name)


@pytest.fixture(scope="module")
def adapter(loaded: Loaded) -> Adapter:
    return loaded.adapter


@pytest.fixture
def own(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to the weights, which a test may `put` others in the place of."""
    place = tmp_path / "weights"
    for file in weights.resolve().rglob("*"):
        if file.is_file():
            link = place / file.relative_to(weights.resolve())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(place))
    return place


def vacate(path: Path) -> Path:
    """The path, where nothing lies any more: what was linked there stays as it is."""
    path.unlink(missing_ok=True)
    return path
