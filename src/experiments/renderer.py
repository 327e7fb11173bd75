"""The codec alone, for tokens that were generated before: no language model is loaded.

renderer = load_renderer("builtin", "auto")
clips = renderer.render(tokens)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from src.generator import (
    Generator,
    GeneratorError,
    audiocraft_without_clap,
    files_of,
    hash_of,
)
from src.protocol import Checkpoint

if TYPE_CHECKING:
    from audiocraft.models.encodec import CompressionModel


class Renderer:
    """Renders as the generator does whose codec it has.

    checkpoint: of the whole generator, so that tokens of another one are told apart. frame_rate in
    frames a second, sample_rate in Hz. device: "cpu" or "cuda".
    """

    def __init__(self, codec: CompressionModel, checkpoint: Checkpoint) -> None:
        self.codec, self.checkpoint = codec.eval(), checkpoint
        self.sample_rate = int(codec.sample_rate)
        self.frame_rate = float(codec.frame_rate)
        self.device = next(codec.parameters()).device.type

    render = Generator.render


def load_renderer(model: str, device: str = "auto") -> Renderer:
    """The codec of `model`: "builtin", a hub name, or a folder. Raises GeneratorError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with audiocraft_without_clap():
        import audiocraft.models  # noqa: F401
    if model == "builtin":
        from src.decoding.builtin import WEIGHT_FILES, as_compression_model, load_codec

        codec = as_compression_model(load_codec(device))
        return Renderer(codec, Checkpoint(name=model, sha256=hash_of(WEIGHT_FILES)))
    from audiocraft.models.builders import get_wrapped_compression_model
    from audiocraft.models.loaders import load_compression_model
    from omegaconf import OmegaConf

    try:
        codec = load_compression_model(model, device=device)
        # Stereo models interleave two codecs' codebooks, which the language model's file says. Of
        # its weights nothing is read.
        lm_file = files_of(model)[0]
        kept = torch.load(str(lm_file), map_location="cpu", mmap=True)["xp.cfg"]
        codec = get_wrapped_compression_model(codec, OmegaConf.create(kept))
    except Exception as error:  # the hub, torch and omegaconf raise many types
        raise GeneratorError(
            f"the codec of {model} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    return Renderer(codec, Checkpoint(name=model, sha256=hash_of(files_of(model))))
