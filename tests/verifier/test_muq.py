"""MuQ-MuLan against the library called as its README does it, with small random weights.

They lie as in upstream's three hub repositories. The backbones' own weights differ from the copies
in MuLan's file, as a fine-tuned model's do: what mixes them up scores differently.
"""

import json
import string
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from muq import MuQ, MuQConfig, MuQMuLan, MuQMuLanConfig
from muq.muq_mulan import (
    AudioTransformerConfig,
    ModalModelConfig,
    MuLanConfig,
    TextTransformerConfig,
)
from safetensors.torch import save_file, save_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Wav2Vec2ConformerConfig,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizerFast,
)

from src.data import hub
from src.models.muq import MuqVerifier
from src.weights.files import WeightsError
from tests.verifier.adapters import noisy_tones, score, vacate
from tests.verifier.clap_weights import Surprise

MULAN, MUQ, ROBERTA = "OpenMuQ/MuQ-MuLan-large", "OpenMuQ/MuQ-large-msd-iter", "xlm-roberta-base"
WEIGHTS = "pytorch_model.bin"
RATE = 24_000
TEXT_TOKENS = 30  # the text model's longest input, special tokens included


def make_hub_cache(cache: Path) -> None:
    """Fill `cache` with the three repositories, in the layout of the hub's cache."""
    with torch.random.fork_rng([]):
        _save_muq(_repository(cache, MUQ))
        _save_roberta(_repository(cache, ROBERTA))
        _save_mulan(_repository(cache, MULAN), cache)


def folder(cache: Path, repository: str) -> Path:
    """Where a repository's files lie."""
    return hub.snapshot(repository, cache)


def _repository(cache: Path, name: str) -> Path:
    revision = cache / f"models--{name.replace('/', '--')}" / "refs" / "main"
    revision.parent.mkdir(parents=True)
    revision.write_text("0" * 40)
    place = folder(cache, name)
    place.mkdir(parents=True)
    return place


def _save_muq(place: Path) -> None:
    conformer = Wav2Vec2ConformerConfig(
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        position_embeddings_type="rotary",
        conv_depthwise_kernel_size=5,
    )
    config = {
        "codebook_size": 16,
        "conv_dim": 8,
        "encoder_dim": 32,
        "encoder_depth": 2,
        "stat": {"melspec_2048_mean": -10.0, "melspec_2048_std": 20.0},
        "w2v2_config": json.loads(conformer.to_json_string(use_diff=False)),
    }
    (place / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    save_model(MuQ(MuQConfig(**config)), str(place / "model.safetensors"))


def _save_roberta(place: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *string.ascii_lowercase, *string.punctuation, "▁piano", "▁drums"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in pieces], 3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = XLMRobertaTokenizerFast(tokenizer_object=tokenizer)
    fast.save_pretrained(place)
    torch.manual_seed(2)
    model = XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=len(fast),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=TEXT_TOKENS + 2,
            type_vocab_size=1,
        )
    )
    model.save_pretrained(place)


def _save_mulan(place: Path, cache: Path) -> None:
    config = MuQMuLanConfig(
        mulan=MuLanConfig(dim_latent=16),
        audio_model=ModalModelConfig(name=MUQ, model_dim=32),
        text_model=ModalModelConfig(name=ROBERTA, model_dim=16),
        audio_transformer=AudioTransformerConfig(dim=16, tf_depth=1, heads=2, dim_head=8),
        text_transformer=TextTransformerConfig(dim=16, tf_depth=1, heads=2, dim_head=8),
    )
    as_json = {name: vars(part) for name, part in vars(config).items()}
    (place / "config.json").write_text(json.dumps(as_json))
    model = MuQMuLan(as_json, hf_hub_cache_dir=str(cache))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    torch.save(model.state_dict(), place / WEIGHTS)


CASE = "muq"
tones = partial(noisy_tones, rate=RATE)


@pytest.fixture(scope="module")
def library(weights: Path) -> MuQMuLan:
    """The library's own model, as its README loads it."""
    return MuQMuLan.from_pretrained(MULAN, cache_dir=str(weights), strict=True).eval()


def similarity(library: MuQMuLan, audio: np.ndarray, prompt: str) -> float:
    """Upstream's, but for the length of its mean over windows."""
    with torch.no_grad():
        latents = library(wavs=torch.tensor(audio)[None])
        texts = library(texts=[prompt])
        unit = latents / latents.norm()
        return float(library.calc_similarity(unit, texts))


@pytest.mark.parametrize("seconds", [2, 7.3, 10, 20, 30])
def test_score_is_the_librarys_on_short_clips_and_on_multiples_of_ten_seconds(
    adapter: MuqVerifier, library: MuQMuLan, seconds: float
) -> None:
    audio = tones(seconds, 1)
    expected = similarity(library, audio, "loud drums, no piano")
    assert score(adapter, audio, "loud drums, no piano") == pytest.approx(expected, abs=1e-5)


def test_seventeen_seconds_are_the_mean_of_the_first_and_the_last_ten(
    adapter: MuqVerifier, library: MuQMuLan
) -> None:
    audio = tones(17, 2)
    with torch.no_grad():
        ends = np.stack([audio[: 10 * RATE], audio[-10 * RATE :]])
        mean = library(wavs=torch.tensor(ends)).mean(dim=0)
        expected = float(library.calc_similarity(mean / mean.norm(), library(texts=["drums"])[0]))
    assert score(adapter, audio, "drums") == pytest.approx(expected, abs=1e-5)


def test_tokens_are_counted_in_any_thread_while_prompts_are_scored(adapter: MuqVerifier) -> None:
    prompts = [" ".join(["drums"] * length) for length in range(TEXT_TOKENS, TEXT_TOKENS + 200)]

    def count(_: int) -> list[int]:
        return [adapter.unread_tokens(prompt) for prompt in prompts]

    def embed(_: int) -> list[int]:
        with torch.no_grad():
            return [len(adapter._model(texts=[f"{prompt} x"])[0]) for prompt in prompts[:60]]

    with ThreadPoolExecutor(4) as threads:
        counts = threads.map(count, range(3))
        assert threads.submit(embed, 0).result() == [16] * 60
        assert list(counts) == [list(range(2, 202))] * 3


# Loading


def loaded_from(own: Path) -> MuqVerifier:
    verifier = MuqVerifier("muq")
    assert verifier.missing() is None
    assert verifier.load("cpu").name == MULAN
    return verifier


def test_the_backbones_own_weights_are_not_needed_and_the_withdrawn_file_is_never_taken(
    own: Path, adapter: MuqVerifier
) -> None:
    for repository in (MUQ, ROBERTA):
        (folder(own, repository) / "model.safetensors").unlink()
    checkpoint = folder(own, MULAN) / WEIGHTS
    others = {name: 2 * weight for name, weight in torch.load(checkpoint).items()}
    save_file(others, checkpoint.with_name("model.safetensors"))
    assert score(loaded_from(own), tones(2, 14)) == score(adapter, tones(2, 14))
    checkpoint.unlink()
    assert WEIGHTS in (MuqVerifier("muq").missing() or "")


def test_settings_of_later_versions_are_dropped_as_the_library_does(
    own: Path, adapter: MuqVerifier
) -> None:
    for repository in (MUQ, MULAN):
        path = folder(own, repository) / "config.json"
        config = json.loads(path.read_text()) | {"added_later": 1}
        if repository == MULAN:
            config["mulan"] |= {"added_later": 1}
        vacate(path).write_text(json.dumps(config))
    assert score(loaded_from(own), tones(2, 14)) == score(adapter, tones(2, 14))


@pytest.mark.parametrize(
    ("repository", "name"),
    [(MULAN, "config.json"), (MUQ, "config.json"), (ROBERTA, "config.json"),
     (ROBERTA, "tokenizer.json")],
)  # fmt: skip
def test_a_torn_configuration_or_tokenizer_is_named(own: Path, repository: str, name: str) -> None:
    path = folder(own, repository) / name
    half = path.read_text()[: path.stat().st_size // 2]
    vacate(path).write_text(half)
    with pytest.raises(
        WeightsError, match=rf"{repository.replace('/', '--')}.*{name}.*--fetch muq"
    ):
        MuqVerifier("muq").load("cpu")


def test_buffers_that_older_versions_of_transformers_saved_are_passed_over(own: Path) -> None:
    checkpoint = folder(own, MULAN) / WEIGHTS
    positions = torch.arange(TEXT_TOKENS + 2)[None]
    state = {**torch.load(checkpoint), "mulan.text.model.embeddings.position_ids": positions}
    torch.save(state, vacate(checkpoint))
    loaded_from(own)


def test_nothing_that_a_configuration_names_is_run(own: Path, tmp_path: Path) -> None:
    torch.save(Surprise(tmp_path / "sprung"), tmp_path / "rvq.pth")
    path = folder(own, MUQ) / "config.json"
    trap = {"use_rvq_target": True, "rvq_ckpt_path": str(tmp_path / "rvq.pth")}
    config = json.loads(path.read_text()) | trap
    vacate(path).write_text(json.dumps(config))
    # The quantizer is one that this model has no weights of.
    with pytest.raises(WeightsError, match="Missing key"):
        MuqVerifier("muq").load("cpu")
    assert not (tmp_path / "sprung").exists()
