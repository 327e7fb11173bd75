"""The built-in stack: a small MusicGen with its codec, loaded as audiocraft's classes.

Everything is on disk in the repository, so this works offline. How it was made, what it can do and
what it cannot is in `builtin/README.md`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from src.data.files import ROOT
from src.decoding.codec import Codec, CodecConfig

if TYPE_CHECKING:
    from audiocraft.models.encodec import CompressionModel
    from audiocraft.models.lm import LMModel

BUILTIN_DIR = ROOT / "builtin"
TEXT_ENCODER = BUILTIN_DIR / "text_encoder"
LM_WEIGHTS = BUILTIN_DIR / "lm.safetensors"
CODEC_WEIGHTS = BUILTIN_DIR / "codec.safetensors"
CONFIG = BUILTIN_DIR / "config.json"
# Decoded on a CPU: what more need is memory anew for each layer, which costs a tenth.
FRAMES_AT_ONCE = 600
# What the generator's hash is taken over, in this order.
WEIGHT_FILES = (LM_WEIGHTS, CODEC_WEIGHTS, TEXT_ENCODER / "model.safetensors")


def load_config() -> dict[str, Any]:
    """The sizes of the language model and of the codec, as the recipe wrote them."""
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    return config


def load_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors as float32 (they are stored as float16)."""
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(path).items()}


def load_codec(device: str = "cpu") -> Codec:
    """The trained codec, float32, in evaluation mode."""
    known = {field.name for field in fields(CodecConfig)}
    codec = Codec(CodecConfig(**{k: v for k, v in load_config()["codec"].items() if k in known}))
    codec.load_state_dict(load_weights(CODEC_WEIGHTS))
    return codec.to(device).eval()


def load_lm(device: str = "cpu") -> LMModel:
    """The trained language model as audiocraft's `LMModel`, float32, in evaluation mode."""
    from audiocraft.models.lm import LMModel
    from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
    from audiocraft.modules.conditioners import (
        ConditionFuser,
        ConditioningProvider,
        T5Conditioner,
    )

    config = load_config()["lm"]
    name = str(TEXT_ENCODER)
    # T5Conditioner takes only names that its class attributes list.
    if name not in T5Conditioner.MODELS:
        T5Conditioner.MODELS = [*T5Conditioner.MODELS, name]
        T5Conditioner.MODELS_DIMS = {**T5Conditioner.MODELS_DIMS, name: config["text_dim"]}
    text = T5Conditioner(name, output_dim=config["dim"], finetune=False, device=device)
    lm = LMModel(
        DelayedPatternProvider(config["codebooks"], delays=list(range(config["codebooks"]))),
        ConditioningProvider({"description": text}, device=device),
        ConditionFuser(
            {"cross": ["description"], "prepend": [], "sum": [], "input_interpolate": []}
        ),
        n_q=config["codebooks"],
        card=config["card"],
        dim=config["dim"],
        num_heads=config["num_heads"],
        hidden_scale=config["hidden_scale"],
        num_layers=config["num_layers"],
        norm="layer_norm",
        norm_first=True,
        bias_proj=False,
        bias_ff=False,
        bias_attn=False,
        causal=True,
        cross_attention=True,
        activation="gelu",
        dropout=0.0,
        memory_efficient=True,
        attention_as_float32=False,
        positional_embedding="sin",
        cfg_coef=3.0,
    )
    lm.load_state_dict(load_weights(LM_WEIGHTS))
    return lm.to(device).eval()


def as_compression_model(codec: Codec) -> CompressionModel:
    """The codec behind audiocraft's interface of a neural codec."""
    from audiocraft.models.encodec import CompressionModel
    from audiocraft.quantization import QuantizedResult

    class BuiltinCompressionModel(CompressionModel):
        """`Codec` as a CompressionModel: audio is float32 [B, 1, T], codes int64 [B, K, frames]."""

        def __init__(self, codec: Codec) -> None:
            super().__init__()
            self.codec = codec
            self.active = codec.config.codebooks

        def forward(self, x: Tensor) -> Any:
            """Encode and decode: audiocraft's QuantizedResult, `x` of the input's length."""
            codes, _ = self.encode(x)
            bandwidth = torch.tensor(self.active * 10 * self.frame_rate / 1000)
            return QuantizedResult(self.decode(codes)[..., : x.shape[-1]], codes, bandwidth)

        def encode(self, x: Tensor) -> tuple[Tensor, None]:
            """float32 [B, 1, T] -> codes and no scale."""
            return self.codec.encode(x[:, 0])[:, : self.active], None

        def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:  # noqa: ARG002
            """int64 [B, K, frames] -> float32 [B, 1, frames * hop]."""
            if codes.is_cuda:
                return self.codec.decode(codes)[:, None]
            at_once = max(1, FRAMES_AT_ONCE // codes.shape[-1])
            return torch.cat([self.codec.decode(part) for part in codes.split(at_once)])[:, None]

        def decode_latent(self, codes: Tensor) -> Tensor:
            """int64 [B, K, frames] -> float32 [B, latent, frames]."""
            return self.codec.quantizer.decode(codes).transpose(1, 2)

        @property
        def context(self) -> int:
            """As `Renderer.context`; audiocraft's codecs have no such attribute."""
            return self.codec.config.context

        @property
        def channels(self) -> int:
            return 1

        @property
        def frame_rate(self) -> float:
            return self.codec.config.sample_rate / self.codec.config.hop

        @property
        def sample_rate(self) -> int:
            return self.codec.config.sample_rate

        @property
        def cardinality(self) -> int:
            return self.codec.config.cardinality

        @property
        def num_codebooks(self) -> int:
            return self.active

        @property
        def total_codebooks(self) -> int:
            return self.codec.config.codebooks

        def set_num_codebooks(self, n: int) -> None:
            """Encode to the first n codebooks only.

            Raises:
                ValueError: n is not between 1 and the number of codebooks.
            """
            if not 1 <= n <= self.total_codebooks:
                raise ValueError(f"this codec has 1 to {self.total_codebooks} codebooks, not {n}")
            self.active = n

    return BuiltinCompressionModel(codec).eval()
