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

from src.budget import Ledger
from src.data import hub
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.generator import (
    GeneratorError,
    audiocraft_without_clap,
    checkpoint_of,
    hash_of,
    load_generator,
    load_renderer,
)
from src.methods import METHODS
from src.protocol import Score
from src.tree.group import Group
from src.weights.files import WeightsError

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


def test_a_sample_depends_on_the_codecs_context_and_on_no_frame_beyond_it(generator):
    context, hop, middle = generator.context, 320, 40
    tokens = torch.randint(0, 1024, (1, 4, 81), generator=torch.Generator().manual_seed(0))

    def changes(frame: int) -> bool:
        """Whether the middle frame's audio is another one when this frame's tokens are others."""
        other = tokens.clone()
        other[..., frame] = (other[..., frame] + 511) % 1024
        own, changed = (generator.render(t)[0].samples[0] for t in (tokens, other))
        place = slice(middle * hop, (middle + 1) * hop)
        return not np.array_equal(own[place], changed[place])

    assert changes(middle - context)
    assert changes(middle + context)
    assert not changes(middle - context - 1)
    assert not changes(middle + context + 1)


@pytest.mark.parametrize("frames", [24, 60, 100])
def test_the_rest_after_what_is_settled_is_rendered_as_in_the_whole_but_for_rounding(
    generator, frames: int
) -> None:
    tokens = torch.randint(0, 1024, (3, 4, 150), generator=torch.Generator().manual_seed(1))
    earlier = generator.render(tokens[..., : frames + 7])
    settled = [generator.settled(clip, frames) for clip in earlier]
    assert [clip.samples.shape[1] for clip in settled] == [(frames - generator.context) * 320] * 3
    joined = generator.render_rest(tokens, settled)
    for clip, whole, begun in zip(joined, generator.render(tokens), settled, strict=True):
        assert np.abs(clip.samples - whole.samples).max() < 1e-5
        assert np.abs(whole.samples).max() > 0.01
        assert np.array_equal(clip.samples[:, : begun.samples.shape[1]], begun.samples)


def test_of_no_more_frames_than_the_context_nothing_is_settled(generator):
    (clip,) = generator.render(torch.zeros(1, 4, 30, dtype=torch.int64))
    assert generator.settled(clip, generator.context) is None
    assert generator.settled(clip, generator.context + 1) is not None


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
    assert renderer.settled(clip, 10) is None  # it has an LSTM


def test_a_stereo_models_codebooks_are_two_channels(tmp_path: Path) -> None:
    codec = checkpoint(tmp_path, STEREO)
    renderer = load_renderer(str(tmp_path), "cpu")
    tokens = torch.randint(16, (1, 8, 10), generator=torch.Generator().manual_seed(0))
    (clip,) = renderer.render(tokens)
    with torch.inference_mode():
        left, right = (codec.decode(tokens[:, side::2], None)[0, 0] for side in range(2))
    assert np.allclose(clip.samples, torch.stack([left, right]).numpy(), atol=1e-6)


def test_a_stereo_model_that_points_to_its_codec_is_rendered_by_it_and_named_after_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    shape = {"num_filters": 2, "upsampling_ratios": [4, 4], "codebook_size": 1024}
    codec = EncodecModel(EncodecConfig(**shape, sampling_rate=800, target_bandwidths=[2.0]))
    cache = tmp_path / "models--owner--codec" / "snapshots" / "main"
    codec.eval().save_pretrained(cache)
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(tmp_path))  # which the library has read already
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)
    checkpoint(tmp_path, STEREO)
    torch.save({"pretrained": "owner/codec"}, tmp_path / "compression_state_dict.bin")
    renderer = load_renderer(str(tmp_path), "cpu")
    files = [tmp_path / "state_dict.bin", cache / "model.safetensors"]
    assert renderer.checkpoint.sha256 == hash_of(files)
    tokens = torch.randint(16, (1, 8, 10), generator=torch.Generator().manual_seed(0))
    (clip,) = renderer.render(tokens)
    with torch.inference_mode():
        left, right = (codec.decode(tokens[None, :, side::2], [None])[0][0, 0] for side in range(2))
    assert np.allclose(clip.samples, torch.stack([left, right]).numpy(), atol=1e-6)


def test_weights_in_transformers_format_and_a_damaged_blob_of_a_hub_cache_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOCRAFT_CACHE_DIR", str(tmp_path / "hub"))
    snapshot = hub.snapshot("owner/model", tmp_path / "hub")
    snapshot.mkdir(parents=True)
    checkpoint(snapshot, {})
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    (snapshot / "state_dict.bin").rename(blob)
    (snapshot / "state_dict.bin").symlink_to(blob)
    with pytest.raises(WeightsError, match=r"is damaged or another file.*the hub says 000"):
        checkpoint_of("owner/model")
    for load in (load_generator, load_renderer):
        torch.save({"decoder.weight": torch.zeros(1)}, snapshot / "compression_state_dict.bin")
        with pytest.raises(GeneratorError, match=r"compression_state_dict\.bin has no xp\.cfg"):
            load(str(snapshot), "cpu")


@pytest.mark.parametrize(("method", "k"), [("sbs", 0), ("lookahead", 1)])
def test_a_search_hears_what_a_whole_rendering_has_but_for_rounding_and_keeps_a_whole_one(
    generator, monkeypatch: pytest.MonkeyPatch, method: str, k: int
) -> None:
    """Every clip that the verifier got, against its tokens rendered in one piece."""
    asked: list[torch.Tensor] = []
    decoded: list[int] = []
    heard: list[Clip] = []

    class Loudest:
        name, needs_audio, checkpoints = "loudest", True, {}

        def score(self, inputs):
            asked.append(group.candidates.tokens())
            heard.extend(item.clip for item in inputs)
            return [Score(value=float(np.abs(item.clip.samples).max())) for item in inputs]

        def take_usage(self) -> Ledger:
            return Ledger()

    prompts = [Prompt(id=i, text=f"slow {i}", key=i) for i in ("harp", "flute")]
    plan = METHODS[method].make_plan(4, 2.4, 0.8, 50, {"beam_width": 2, "lookahead_k": k})
    group = Group(plan, prompts, generator, Loudest(), seed=3)
    decode = generator.codec.decode
    with monkeypatch.context() as patch:
        patch.setattr(
            generator.codec, "decode", lambda t, s: decoded.append(t.shape[-1]) or decode(t, s)
        )
        results = plan.method.run(group)
    *heard_frames, _ = decoded  # the last are the winners', whole
    assert sum(heard_frames) < sum(tokens.shape[-1] for tokens in asked)
    whole = [clip for tokens in asked for clip in generator.render(tokens)]
    for own, expected in zip(heard, whole, strict=True):
        assert np.abs(own.samples - expected.samples).max() < 1e-5
    winners = np.stack([result.winner.tokens for result in results]).astype(np.int64)
    for result, expected in zip(results, generator.render(torch.from_numpy(winners)), strict=True):
        assert np.array_equal(result.winner.clip.samples, expected.samples)
