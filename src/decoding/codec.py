"""The built-in neural codec: 16 kHz mono audio <-> 4 codebooks of 1024 tokens, 50 frames a second.

It works at the frame rate instead of the audio rate, so that it trains and runs on a CPU: the
encoder sees a log-magnitude spectrogram, the decoder predicts magnitude and phase of an inverse
STFT, as in Vocos (Siuzdak, arXiv 2306.00814), with ConvNeXt blocks (Liu et al., arXiv 2201.03545).
The quantizer is residual vector quantization (SoundStream, Zeghidour et al., arXiv 2107.03312).

Only torch is imported here: the recipe trains these modules, `builtin.py` wraps them as
audiocraft's `CompressionModel`. The encoder sees few frames on either side on purpose: a token that
depends on little is a token that a small language model can predict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED_KERNEL = 7  # of the decoder's first convolution


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec. `hop` samples are one frame."""

    sample_rate: int = 16_000
    hop: int = 320
    window: int = 1024
    synthesis_window: int = 1280
    codebooks: int = 4
    cardinality: int = 1024
    latent: int = 64
    encoder_width: int = 256
    encoder_blocks: int = 2
    encoder_kernel: int = 3
    decoder_width: int = 320
    decoder_blocks: int = 6
    decoder_kernel: int = 7

    @property
    def context(self) -> int:
        """How many frames on either side of a frame its decoded samples depend on.

        Half of each convolution's kernel, one convolution after the other, and the neighbours
        whose synthesis windows reach into the frame.
        """
        convolutions = EMBED_KERNEL // 2 + self.decoder_blocks * (self.decoder_kernel // 2)
        return convolutions + math.ceil((self.synthesis_window - self.hop) / 2 / self.hop)


class Block(nn.Module):
    """ConvNeXt block over frames, [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 3 * width)
        self.project = nn.Linear(3 * width, width)
        self.gain = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.gain * self.project(F.gelu(self.expand(self.norm(y))))


class Encoder(nn.Module):
    """Audio -> latent frames."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_width
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        self.embed = nn.Linear(config.window // 2 + 1, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.encoder_kernel, 1 / config.encoder_blocks)
            for _ in range(config.encoder_blocks)
        )
        self.out = nn.Linear(width, config.latent)

    def forward(self, audio: Tensor) -> Tensor:
        """float32 [B, samples] -> [B, frames, latent]; samples are padded to whole frames."""
        config = self.config
        audio = F.pad(audio, (0, -audio.shape[-1] % config.hop))
        margin = config.window - config.hop  # windows are centred on their frame
        audio = F.pad(audio, (margin // 2, margin - margin // 2))
        spectrum = torch.stft(
            audio, config.window, config.hop, window=self.window, center=False, return_complex=True
        ).abs()
        x = self.norm(self.embed(torch.log(spectrum.transpose(1, 2) + 1e-2)))
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class Quantizer(nn.Module):
    """Residual vector quantization by nearest neighbours. Codebooks are learned by the recipe."""

    codebooks: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.register_buffer(
            "codebooks", torch.zeros(config.codebooks, config.cardinality, config.latent)
        )

    def nearest(self, residual: Tensor, codebook: int) -> Tensor:
        """[N, latent] -> int64 [N]: the nearest entry of one codebook."""
        entries = self.codebooks[codebook]
        return (entries.square().sum(1) - 2 * residual @ entries.T).argmin(1)

    def encode(self, latent: Tensor) -> Tensor:
        """[B, T, latent] -> int64 [B, codebooks, T]."""
        residual = latent.reshape(-1, latent.shape[-1])
        codes = []
        for index, entries in enumerate(self.codebooks):
            chosen = self.nearest(residual, index)
            residual = residual - entries[chosen]
            codes.append(chosen)
        return torch.stack(codes).view(len(codes), *latent.shape[:2]).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, K, T] -> [B, T, latent]: the sum of the first K codebooks' entries."""
        return torch.stack([self.codebooks[k][codes[:, k]] for k in range(codes.shape[1])]).sum(0)


class Decoder(nn.Module):
    """Latent frames -> audio through a predicted spectrum."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        width, bins = config.decoder_width, config.synthesis_window // 2 + 1
        self.register_buffer("window", torch.hann_window(config.synthesis_window), persistent=False)
        self.embed = nn.Conv1d(config.latent, width, EMBED_KERNEL, padding=EMBED_KERNEL // 2)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_kernel, 1 / config.decoder_blocks)
            for _ in range(config.decoder_blocks)
        )
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * bins)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, T, latent] -> float32 [B, T * hop] audio."""
        x = self.norm(self.embed(latent.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        magnitude, phase = self.head(self.final_norm(x)).float().transpose(1, 2).chunk(2, dim=1)
        return self.synthesise(torch.polar(magnitude.clamp(max=6).exp(), phase))

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """complex64 [B, bins, T] -> float32 [B, T * hop]: overlap-add of windowed frames."""
        config = self.config
        frames = torch.fft.irfft(spectrum, config.synthesis_window, dim=1) * self.window[:, None]
        count = spectrum.shape[-1]
        length = (count - 1) * config.hop + config.synthesis_window

        def overlap_add(columns: Tensor) -> Tensor:
            return F.fold(
                columns, (1, length), (1, config.synthesis_window), stride=(1, config.hop)
            )

        envelope = overlap_add(self.window.square()[None, :, None].expand(1, -1, count))
        margin = (config.synthesis_window - config.hop) // 2
        audio = overlap_add(frames) / envelope.clamp(min=1e-3)
        return audio[:, 0, 0, margin : margin + count * config.hop]


class Codec(nn.Module):
    """Encoder, quantizer and decoder together."""

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or CodecConfig()
        self.encoder = Encoder(self.config)
        self.quantizer = Quantizer(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, audio: Tensor) -> Tensor:
        """float32 [B, samples] -> int64 [B, codebooks, frames]."""
        return self.quantizer.encode(self.encoder(audio))

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, K <= codebooks, frames] -> float32 [B, frames * hop]."""
        return self.decoder(self.quantizer.decode(codes))
