"""Audiobox Aesthetics with random weights, in the format of upstream's checkpoint file.

The library fixes WavLM's sizes in a module constant: SMALL_WAVLM put in its place makes a model of
0.1 M parameters instead of 104 M.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model.aes import AXES_NAME, DEFAULT_AUDIO_CFG, AesMultiOutput
from audiobox_aesthetics.model.wavlm import WavLMConfig

RATE = 16_000
PUBLISHED_WAVLM = DEFAULT_AUDIO_CFG
SMALL_WAVLM = WavLMConfig(
    {
        **vars(PUBLISHED_WAVLM),
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "conv_pos": 16,
        # 16 channels a group: with 8, oneDNN in torch 2.4.1 computes bfloat16 wrongly on a CPU.
        "conv_pos_groups": 2,
    }
)
STATISTICS = {
    axis: {"mean": 4.0 + index, "std": 1.0 + index / 4} for index, axis in enumerate(AXES_NAME)
}


def make_checkpoint(layers: int) -> dict[str, Any]:
    """What upstream's checkpoint.pt holds, for a WavLM of so many layers."""
    settings = {
        "proj_num_layer": 2,
        "proj_ln": True,
        "proj_act_fn": "gelu",
        "proj_dropout": 0.1,
        "nth_layer": layers + 1,
        "use_weighted_layer_sum": True,
        "precision": "bf16",
        "normalize_embed": True,
        "output_dim": 1,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = AesMultiOutput(**settings, target_transform=STATISTICS)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "proj_layer" in name or "layer_weights" in name:
                    weight += torch.randn_like(weight)
    return {
        "state_dict": {f"model.{name}": weight for name, weight in model.state_dict().items()},
        "model_cfg": {**settings, "freeze_encoder": True},
        "target_transform": STATISTICS,
    }


def save_checkpoint(path: Path, **changes: Any) -> None:
    """Save a whole small checkpoint but for `changes` to its three parts."""
    torch.save({**make_checkpoint(SMALL_WAVLM.encoder_layers), **changes}, path)


def axes(library: AesPredictor, *clips: np.ndarray) -> list[dict[str, float]]:
    """The library's own scores."""
    return library.forward([{"path": torch.tensor(c)[None], "sample_rate": RATE} for c in clips])
