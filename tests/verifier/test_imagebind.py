"""The `imagebind` verifier's scores against the library itself, with small random weights.

The library's side is its documented way: WAV files, imagebind.data's loaders, the whole model's
forward pass.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from src.data.audio import Clip, write_wav
from src.models import imagebind
from src.models.imagebind import ImageBindVerifier, import_imagebind
from tests.verifier.adapters import noisy_tones, score, vacate

RATE = ImageBindVerifier.sample_rate
FILE = "imagebind_huge.pth"
BLOCKS = ("embed_dim", "num_blocks", "num_heads")
SIZES = {"out_embed_dim": 32, "audio_drop_path": 0.5}
for branch in ("vision", "depth", "thermal", "imu"):
    SIZES |= {f"{branch}_{what}": size for what, size in zip(BLOCKS, (16, 1, 2), strict=True)}
for branch, blocks in (("audio", 3), ("text", 2)):
    SIZES |= {f"{branch}_{what}": size for what, size in zip(BLOCKS, (32, blocks, 4), strict=True)}


def small_imagebind() -> nn.Module:
    """The library's own class, with everything that it lets be chosen small."""
    import_imagebind()
    from imagebind.models.imagebind_model import ImageBindModel

    return ImageBindModel(**SIZES)


def write_imagebind_weights(folder: Path) -> None:
    """Write imagebind_huge.pth with a small model's state, as upstream's: names and tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_imagebind()
        with torch.no_grad():
            # As initialised, the class token hardly hears the rest: scores would all be alike.
            for name, parameter in model.named_parameters():
                if "trunks" in name and parameter.ndim == 2:
                    parameter.mul_(2)
    torch.save(model.state_dict(), folder / FILE)


CASE = "imagebind"
REAL = imagebind.imagebind_huge  # before a fixture puts the small one in its place
tones = partial(noisy_tones, rate=RATE)


@pytest.fixture(scope="module")
def upstream(weights: Path) -> nn.Module:
    """The whole model, loaded as upstream loads it."""
    model = small_imagebind()
    model.load_state_dict(torch.load(weights / FILE, weights_only=True))
    return model.eval()


@torch.inference_mode()
def upstream_audio(model: nn.Module, folder: Path, audio: np.ndarray) -> torch.Tensor:
    """float32 [D]: what upstream's documented call gives for a WAV file; audio: [T] or [C, T]."""
    from imagebind.data import load_and_transform_audio_data

    path = folder / "upstream.wav"
    write_wav(path, Clip(np.atleast_2d(audio), RATE))
    return model({"audio": load_and_transform_audio_data([str(path)], "cpu")})["audio"][0]


@torch.inference_mode()
def upstream_text(model: nn.Module, prompt: str) -> torch.Tensor:
    from imagebind.data import load_and_transform_text

    return model({"text": load_and_transform_text([prompt], "cpu")})["text"][0]


# The score


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (0.5, [0]),
        (1.3, [0]),
        (2, [0]),
        (10, [0, 2, 4, 6, 8]),
        (17, [0, 2, 4, 6, 8, 10, 12, 14, 15]),
    ],
)
def test_the_score_is_the_cosine_of_upstreams_embeddings_of_the_clips_two_second_pieces(
    adapter: ImageBindVerifier,
    upstream: nn.Module,
    tmp_path: Path,
    seconds: float,
    starts: list[int],
) -> None:
    clip = tones(seconds, 1)
    pieces = [clip[start * RATE : (start + 2) * RATE] for start in starts]
    embeddings = [upstream_audio(upstream, tmp_path, piece) for piece in pieces]
    audio = torch.stack([normalize(one, dim=0) for one in embeddings]).mean(dim=0)
    text = upstream_text(upstream, "a slow piano piece")
    expected = float(normalize(audio, dim=0) @ normalize(text, dim=0))
    assert score(adapter, clip) == pytest.approx(expected, abs=1e-5)


def test_the_models_patches_leave_out_the_last_25_ms_of_a_window(
    adapter: ImageBindVerifier,
) -> None:
    clip = tones(2, 5)
    before = score(adapter, clip)
    for start, is_heard in ((31_600, False), (31_500, True)):
        changed = clip.copy()
        changed[start:] = 0
        assert (abs(score(adapter, changed) - before) > 1e-5) == is_heard


# Loading


def test_only_what_audio_and_text_need_is_kept_in_memory(
    adapter: ImageBindVerifier, upstream: nn.Module
) -> None:
    kept = adapter._model.state_dict()
    whole = upstream.state_dict()
    assert kept.keys() == {name for name in whole if name.split(".")[1] in ("audio", "text")}
    assert all(torch.equal(kept[name], whole[name]) for name in kept)


def test_a_file_that_changes_after_it_was_loaded_does_not_change_the_model(own: Path) -> None:
    content, path = (own / FILE).read_bytes(), vacate(own / FILE)
    path.write_bytes(content)
    verifier, clip = ImageBindVerifier("imagebind"), tones(2, 20)
    verifier.load("cpu")
    before = score(verifier, clip, "first prompt")
    with path.open("r+b") as file:  # in place: the memory of a mapped file would follow
        file.write(bytes(path.stat().st_size))
    assert score(verifier, clip, "first prompt") == before
    assert score(verifier, clip, "second prompt") != 0


def test_the_real_architecture_is_the_librarys_and_takes_no_memory_until_its_weights_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(imagebind, "imagebind_huge", REAL)
    import_imagebind()
    model = imagebind._without_memory()
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert sum(p.numel() for p in model.parameters()) == 1_200_781_057
    imagebind._drop_other_branches(model)
    assert sum(p.numel() for p in model.parameters()) == 440_268_289
