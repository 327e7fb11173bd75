"""Random CLAP and PaSST weights, and what audiocraft's own metric classes make of them.

    envs/generator/.venv/bin/python -m tests.generator.published FOLDER

Writes FOLDER/weights, a folder for CURATOR_WEIGHTS, and FOLDER/said.json: the figures of
audiocraft's CLAPTextConsistencyMetric and PasstKLDivergenceMetric, one clip at a time, in a process
of its own, where laion_clap is imported before audiocraft and finds its tokenizers in a hub cache,
and PaSST its weights in that of torch.hub: audiocraft's own way.

The fixtures are imported by the tests of the judges; both share one such folder.
"""

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from src.data.audio import Clip
from src.judges.base import Listener
from src.models.adapter import undisturbed
from src.models.clap import from_this_machine
from src.weights.files import WEIGHTS_VARIABLE
from tests.passt_weights import write_passt
from tests.verifier import clap_weights

PROMPT = clap_weights.PROMPTS[0]
# seconds, rate, channels
CLAP_CASES = {
    "mono": (2, 32_000, 1),
    "stereo": (10, 32_000, 2),
    "low": (3, 16_000, 1),
    "low stereo": (2, 16_000, 2),
}
KLD_CASES = {
    "mono": (3, 32_000, 1),
    "stereo": (2, 32_000, 2),
    "low": (2, 16_000, 1),
    "two pieces": (20.5, 32_000, 1),
    "a piece skipped": (20.1, 32_000, 1),
}


def sound(seconds: float, rate: int, channels: int, seed: int = 0) -> Clip:
    """Another quiet chord in each channel."""
    seeds = range(10 * seed, 10 * seed + channels)
    chords = [0.3 * clap_weights.clip(seconds, seed, rate) for seed in seeds]
    return Clip(np.stack(chords).astype(np.float32), rate)


def reference(seconds: float, rate: int, channels: int) -> Clip:
    return sound(seconds, rate, channels, seed=1)


@contextlib.contextmanager
def small_networks() -> Iterator[None]:
    """Within, laion_clap and hear21passt build their networks with fewer and narrower layers.

    What is compared is what goes in, what comes out, and whose weights: no layer's size.
    """
    import laion_clap  # noqa: F401 (after which it imports its parts by names of their own)
    from clap_module import factory
    from clap_module.htsat import HTSAT_Swin_Transformer
    from hear21passt.models.passt import PaSST

    def with_options(kind: type, **small: Any) -> Any:
        build = kind.__init__  # type: ignore[misc]
        return patch.object(kind, "__init__", lambda self, **full: build(self, **full | small))

    clap = factory._MODEL_CONFIGS["HTSAT-base"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(clap, "embed_dim", 8 * 32)
        with (
            with_options(HTSAT_Swin_Transformer, embed_dim=32, depths=[2, 2, 2, 2]),
            with_options(PaSST, embed_dim=96, depth=1, num_heads=2),
        ):
            yield


def shared_folder() -> Path:
    """What `main` writes."""
    return clap_weights.written_by("tests.generator.published")


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Within, torch's default is float64; the process is afterwards as it was, and nothing is said.

    What a library prints, warns of, seeds or patches is no business of a run's.
    """
    import torch

    def state() -> dict[str, Any]:
        return clap_weights.surroundings() | {"stft": torch.stft, "out": sys.stdout}

    torch.set_default_dtype(torch.float64)
    try:
        before = state()
        out, err = io.StringIO(), io.StringIO()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        after = state()
    finally:
        torch.set_default_dtype(torch.float32)
    assert after == before
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert [str(warning.message) for warning in warned] == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own folder of weights; the hub's and torch.hub's caches are empty."""
    from src.generator import audiocraft_without_clap

    with audiocraft_without_clap():
        import audiocraft.data.audio_utils  # noqa: F401
        import torch.distributed.nn.jit.instantiator  # noqa: F401 (appends a folder to sys.path)

    folder = shared_folder() / "weights"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
        monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("empty hub")))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for variable in ("HF_HUB_CACHE", "TORCH_HOME"):
            monkeypatch.delenv(variable, raising=False)
        # As the first judge would: small_networks needs the library before that.
        with nothing_left_behind(), undisturbed(), from_this_machine():
            import laion_clap  # noqa: F401
        with small_networks():
            yield folder
        Listener.shared.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """audiocraft's own figures."""
    return json.loads((shared_folder() / "said.json").read_text())


def audiocrafts_figures(folder: Path) -> dict[str, Any]:
    import laion_clap  # noqa: F401 (audiocraft must find it)
    import torch
    from audiocraft.data.audio_utils import normalize_audio
    from audiocraft.metrics import CLAPTextConsistencyMetric, PasstKLDivergenceMetric

    def normalised(clip: Clip) -> torch.Tensor:
        return normalize_audio(
            torch.from_numpy(clip.samples.copy()),
            strategy="loudness",
            sample_rate=clip.rate,
            loudness_headroom_db=14,
        )

    def clap_score(clip: Clip) -> float:
        clap.reset()
        clap.update(
            normalised(clip)[None],
            [PROMPT],
            torch.tensor([clip.samples.shape[1]]),
            torch.tensor([clip.rate]),
        )
        return clap.compute()

    def kld(clip: Clip, other: Clip) -> dict[str, float]:
        passt.reset()
        passt.update(
            normalised(clip)[None],
            torch.from_numpy(other.samples)[None],
            torch.tensor([clip.samples.shape[1]]),
            torch.tensor([clip.rate]),
        )
        return passt.compute()

    checkpoint = folder / "weights" / clap_weights.CHECKPOINT
    clap = CLAPTextConsistencyMetric(checkpoint, model_arch="HTSAT-base", enable_fusion=False)
    passt = PasstKLDivergenceMetric(pretrained_length=20)
    with torch.no_grad():
        return {
            "clap": {name: clap_score(sound(*case)) for name, case in CLAP_CASES.items()},
            "kld": {name: kld(sound(*c), reference(*c)) for name, c in KLD_CASES.items()},
        }


def main(folder: Path) -> None:
    os.environ["TORCH_HOME"] = str(folder / "torch")
    # sets HF_HOME for what is imported afterwards
    clap_weights.main(folder, with_naive=False, building=small_networks)
    with small_networks():
        checkpoint = write_passt(folder / "weights")
        cache = folder / "torch" / "hub" / "checkpoints"
        cache.mkdir(parents=True)
        (cache / checkpoint.name).symlink_to(checkpoint)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            found = audiocrafts_figures(folder)
    (folder / "said.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
