"""A small MuQ-MuLan with random weights, as upstream's three hub repositories lay it out.

The backbones' own weights differ from the copies in MuLan's file, as a fine-tuned model's do: what
mixes them up scores differently.
"""

import json
import string
from pathlib import Path
from typing import Any

import torch
from muq import MuQ, MuQConfig, MuQMuLan, MuQMuLanConfig
from muq.muq_mulan import (
    AudioTransformerConfig,
    ModalModelConfig,
    MuLanConfig,
    TextTransformerConfig,
)
from safetensors.torch import save_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Wav2Vec2ConformerConfig,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizerFast,
)

from src.data import hub

MULAN, MUQ, ROBERTA = "OpenMuQ/MuQ-MuLan-large", "OpenMuQ/MuQ-large-msd-iter", "xlm-roberta-base"
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


def upstream(cache: Path, **options: Any) -> MuQMuLan:
    """The library's own model, as its README loads it."""
    return MuQMuLan.from_pretrained(MULAN, cache_dir=str(cache), **options)


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
    save_model(model, str(place / "model.safetensors"))
