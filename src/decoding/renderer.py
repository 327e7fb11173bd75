"""Tokens to audio, by the codec of a MusicGen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from src.data.audio import Clip, resample
from src.decoding.device import memory_for
from src.protocol import Checkpoint

if TYPE_CHECKING:
    from audiocraft.models.encodec import CompressionModel

RENDERED_AT_ONCE = 160.0  # seconds of audio a codec batch: more saves nothing, and takes memory
RENDERED_BYTES = 30e6  # that EnCodec takes for a second of audio


class Renderer:
    """A codec: tokens to audio.

    checkpoint: name and hash of the whole generator's weights, so that tokens of another one are
    told apart. sample_rate in Hz; frame_rate in frames a second; channels of the audio. device:
    "cpu" or "cuda". context: how many frames on either side of a frame its samples depend on; None
    for a codec that hears all of a clip at once (EnCodec has an LSTM).
    """

    def __init__(self, codec: CompressionModel, checkpoint: Checkpoint) -> None:
        self.codec, self.checkpoint = codec.eval(), checkpoint
        self.sample_rate = int(codec.sample_rate)
        self.frame_rate = float(codec.frame_rate)
        self.channels = int(codec.channels)
        self.device = next(codec.parameters()).device.type
        self.context: int | None = getattr(codec, "context", None)

    @torch.inference_mode()
    def render(self, tokens: Tensor) -> list[Clip]:
        """int64 [B, codebooks, frames] -> B clips of float32 [channels, frames / frame_rate s]."""
        clips, device = [], next(self.codec.parameters()).device
        seconds = tokens.shape[-1] / self.frame_rate
        at_once = max(1, int(RENDERED_AT_ONCE / max(seconds, 1.0)))
        with memory_for(f"rendering {at_once} clips of {seconds:g} s", "lower --duration"):
            for batch in tokens.to(device).split(at_once):
                for audio in self.codec.decode(batch, None).float().cpu():
                    clips.append(Clip(audio.numpy(), self.sample_rate))
        return clips

    @torch.inference_mode()
    def encode(self, clip: Clip) -> Tensor:
        """A clip of any rate and number of channels -> int64 [codebooks, frames]."""
        from audiocraft.data.audio_utils import convert_audio_channels

        samples = torch.from_numpy(resample(clip, self.sample_rate).samples)
        audio = convert_audio_channels(samples, self.channels)[None]
        with memory_for(f"encoding a clip of {clip.seconds:g} s", "take shorter references"):
            tokens, _scale = self.codec.encode(audio.to(next(self.codec.parameters()).device))
        return tokens[0].cpu()

    def reconstruct(self, clip: Clip) -> Clip:
        """What the codec leaves of a clip: encoded and decoded, in the codec's rate."""
        (clip,) = self.render(self.encode(clip)[None])
        return clip

    def render_rest(self, tokens: Tensor, beginnings: Sequence[Clip]) -> list[Clip]:
        """As `render`, but for rounding, where the clips' `settled` beginnings are there already.

        beginnings: B, all of one length. What follows them is decoded, with its context. For audio
        that is listened to and thrown away: what is kept is decoded in one piece.
        """
        assert self.context is not None
        hop = round(self.sample_rate / self.frame_rate)
        there = beginnings[0].samples.shape[1]
        start = max(0, there // hop - self.context)
        rest = self.render(tokens[..., start:])
        return [
            Clip(np.hstack([begun.samples, more.samples[:, there - start * hop :]]), more.rate)
            for begun, more in zip(beginnings, rest, strict=True)
        ]

    def settled(self, clip: Clip, frames: int) -> Clip | None:
        """The beginning of a clip that nothing but its first `frames` frames has a part in.

        None where there is no such beginning.
        """
        if self.context is None or frames <= self.context:
            return None
        hop = round(self.sample_rate / self.frame_rate)
        return Clip(clip.samples[:, : (frames - self.context) * hop], clip.rate)
