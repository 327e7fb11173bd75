"""The codec alone renders what the whole generator renders, of the built-in model and of
MusicGen's checkpoint files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.generator import (
    GeneratorError,
    audiocraft_without_clap,
    load_generator,
    load_renderer,
)

CODEC = {
    "compression_model": "encodec",
    "device": "cpu",
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": 800,
        "channels": 1,
        "renormalize": False,
        "causal": False,
    },
    "seanet": {
        "dimension": 8,
        "channels": 1,
        "n_filters": 2,
        "n_residual_layers": 1,
        "ratios": [4, 4],
        "lstm": 0,
        "encoder": {},
        "decoder": {},
    },
    "rvq": {"n_q": 4, "bins": 16},
}
STEREO = {"interleave_stereo_codebooks": {"use": True, "per_timestep": False}}


def checkpoint(folder: Path, lm_config: dict) -> torch.nn.Module:
    """A small codec in audiocraft's files; the codec itself."""
    with audiocraft_without_clap():
        from audiocraft.models import builders
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    codec = builders.get_compression_model(OmegaConf.create(CODEC)).eval()
    kept = {"best_state": codec.state_dict(), "xp.cfg": OmegaConf.to_yaml(OmegaConf.create(CODEC))}
    torch.save(kept, folder / "compression_state_dict.bin")
    lm = {"best_state": {}, "xp.cfg": OmegaConf.to_yaml(OmegaConf.create(lm_config))}
    torch.save(lm, folder / "state_dict.bin")
    return codec


def test_the_builtin_codec_renders_as_the_generator_does() -> None:
    generator, renderer = load_generator("builtin"), load_renderer("builtin")
    assert renderer.checkpoint == generator.checkpoint
    assert (renderer.frame_rate, renderer.device) == (generator.frame_rate, generator.device)
    tokens = torch.randint(1024, (2, 4, 30), generator=torch.Generator().manual_seed(0))
    for own, other in zip(renderer.render(tokens), generator.render(tokens), strict=True):
        assert own.rate == other.rate
        assert np.array_equal(own.samples, other.samples)


def test_musicgens_codec_is_loaded_without_its_language_model(tmp_path: Path) -> None:
    codec = checkpoint(tmp_path, {})
    renderer = load_renderer(str(tmp_path), "cpu")
    tokens = torch.randint(16, (1, 4, 10), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = codec.decode(tokens, None)[0].numpy()
    (clip,) = renderer.render(tokens)
    assert (clip.rate, renderer.frame_rate) == (800, 50.0)
    assert np.array_equal(clip.samples, expected)


def test_a_stereo_models_codebooks_are_two_channels(tmp_path: Path) -> None:
    codec = checkpoint(tmp_path, STEREO)
    renderer = load_renderer(str(tmp_path), "cpu")
    tokens = torch.randint(16, (1, 8, 10), generator=torch.Generator().manual_seed(0))
    (clip,) = renderer.render(tokens)
    with torch.inference_mode():
        left, right = (codec.decode(tokens[:, side::2], None)[0, 0] for side in range(2))
    assert np.allclose(clip.samples, torch.stack([left, right]).numpy(), atol=1e-6)


def test_a_folder_without_a_codec_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"the codec of .* cannot be loaded"):
        load_renderer(str(tmp_path), "cpu")
