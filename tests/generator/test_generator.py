"""Loading and rendering: the built-in model, folders, conditions, hashes, audiocraft's import.

The codec alone renders what the whole generator renders, of the built-in model and of MusicGen's
checkpoint files.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.generator import (
    GeneratorError,
    audiocraft_without_clap,
    hash_of,
    load_generator,
    load_renderer,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator():
    return load_generator("builtin")


def test_the_builtin_model_makes_clips(generator):
    candidates = generator.begin(["a slow harp", "drums"], ["a", "b"], 2, 25, seed=1)
    candidates.advance(25)
    clips = generator.render(candidates.tokens())
    assert [clip.samples.shape for clip in clips] == [(1, 8000)] * 4
    assert {clip.rate for clip in clips} == {16_000}
    assert generator.checkpoint.name == "builtin"
    assert (generator.device, generator.dtype, generator.channels) == ("cpu", "float32", 1)


def test_conditions_are_audiocrafts_of_the_prompt_alone(generator):
    from audiocraft.modules.conditioners import ConditioningAttributes

    prompt = "A lively violin reel over piano chords."
    attributes = [ConditioningAttributes(text={"description": prompt})]
    provider = generator.lm.condition_provider
    with torch.inference_mode():
        expected = provider(provider.tokenize(attributes))["description"][0][0]
    assert torch.equal(generator.condition(prompt), expected)
    assert generator.condition(prompt) is generator.condition(prompt)


def test_rendering_in_batches_is_rendering_one_by_one(generator):
    tokens = torch.randint(0, 1024, (19, 4, 20), generator=torch.Generator().manual_seed(0))
    together = generator.render(tokens)
    for index in (0, 15, 16, 18):
        alone = generator.render(tokens[index : index + 1])[0]
        assert abs(alone.samples - together[index].samples).max() < 1e-5


def test_musicgen_imports_without_network_or_tokenizers_where_laion_clap_is_installed(tmp_path):
    """As it comes, importing audiocraft loads CLAP's tokenizers from the hub and dies."""
    code = (
        "from src.generator import audiocraft_without_clap\n"
        "with audiocraft_without_clap():\n"
        "    from audiocraft.models import MusicGen\n"
        "import importlib.util, sys\n"
        "assert 'laion_clap' not in sys.modules\n"
        "assert importlib.util.find_spec('laion_clap') is not None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_without_weights_or_codec_is_a_clear_error(tmp_path):
    with pytest.raises(GeneratorError, match=r"state_dict\.bin"):
        load_generator(str(tmp_path))
    with pytest.raises(GeneratorError, match=r"the codec of .* cannot be loaded"):
        load_renderer(str(tmp_path), "cpu")


def test_the_hash_of_a_model_is_that_of_its_files_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    own = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    assert hash_of([first, second]) == hashlib.sha256("".join(own).encode()).hexdigest()
    assert hash_of([first, second]) != hash_of([second, first])


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


def test_the_builtin_codec_renders_as_the_generator_does(generator) -> None:
    renderer = load_renderer("builtin")
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
