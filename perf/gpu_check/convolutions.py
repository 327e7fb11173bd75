"""Whether convolutions that measure are as exact on a GPU as in float32: what TF32 would spoil."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from perf.gpu_check.report import Check

# How many times the error of a CPU's float32: TF32, which keeps 10 bits of 23, makes it a thousand
# times as large or more; other orders of the same sums, or Winograd's, do not.
ALLOWED = 30
LEAST = 1e-6  # a relative error that is rounding however the CPU fares


def convolutions(check: Check) -> None:
    """Spectrogram, pre-emphasis, taggers, codec, each against float64 on the CPU."""
    for what, make in MEASURING.items():
        if check.late(what):
            continue
        try:
            run = make(check.scale.clip)
        except ImportError as error:
            check.skip(what, f"needs {error.name}")
            continue
        compare(check, what, run)


Measuring = Callable[[torch.dtype, torch.device], Tensor]
"""Computes in that dtype on that device, always of the same float32 input."""


@torch.inference_mode()
def compare(check: Check, what: str, run: Measuring) -> None:
    """Relative root mean square errors of the CPU's float32, of float32 here, and with TF32."""
    cpu = torch.device("cpu")
    exact = run(torch.float64, cpu).double()

    def error(device: torch.device) -> float:
        difference = run(torch.float32, device).double().cpu() - exact
        return (difference.square().mean() / exact.square().mean()).sqrt().item()

    on_cpu, here = error(cpu), error(check.device)
    with_tf32 = None
    if check.on_gpu:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            with_tf32 = error(check.device)
    check.say(
        what,
        passed=here <= max(ALLOWED * on_cpu, LEAST),
        error_on_cpu=on_cpu,
        error_here=here,
        with_tf32=with_tf32,
    )


def sound(seconds: float, rate: int) -> Tensor:
    """float32 [samples]: a loud low tone and faint noise, so that the high bands are quiet."""
    seeded = torch.Generator().manual_seed(0)
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    noise = torch.randn(len(time), generator=seeded, dtype=torch.float64)
    return (0.7 * torch.sin(2 * math.pi * 220 * time) + 1e-3 * noise).float()


def spectrogram(seconds: float) -> Measuring:
    """CLAP's: an STFT of 1024 samples at 48 kHz as a convolution; what is above 5 kHz, in dB."""
    wave = sound(seconds, 48000)[None, None]
    time = torch.arange(1024, dtype=torch.float64)
    bins = torch.arange(5000 * 1024 // 48000, 513, dtype=torch.float64)[:, None]
    angle = 2 * math.pi * bins * time / 1024
    kernel = torch.cat([angle.cos(), angle.sin()])[:, None]
    kernel = (kernel * torch.hann_window(1024, dtype=torch.float64)).float()

    def run(dtype: torch.dtype, device: torch.device) -> Tensor:
        parts = F.conv1d(wave.to(device, dtype), kernel.to(device, dtype), stride=480)
        power = parts.unflatten(1, (2, -1)).square().sum(1)
        return 10 * torch.log10(power + 1e-10)

    return run


def pre_emphasis(seconds: float) -> Measuring:
    """PaSST's: y[t] = x[t] - 0.97 x[t - 1] at 32 kHz, as a convolution."""
    wave, kernel = sound(seconds, 32000)[None, None], torch.tensor([[[-0.97, 1.0]]])

    def run(dtype: torch.dtype, device: torch.device) -> Tensor:
        return F.conv1d(wave.to(device, dtype), kernel.to(device, dtype))

    return run


def tagger(name: str) -> Callable[[float], Measuring]:
    """A built-in tagger's log-odds of the windows of a clip, from the same spectrogram."""

    def make(seconds: float) -> Measuring:
        from src.models.tagger import load_tagger  # needs packages beyond torch

        loaded = load_tagger(name)
        windows = loaded.windows(sound(seconds, 16000))

        def run(dtype: torch.dtype, device: torch.device) -> Tensor:
            return loaded.network.to(device, dtype)(windows.to(device, dtype))

        return run

    return make


def codec(seconds: float) -> Measuring:
    """The built-in codec's audio of random tokens, 4 clips."""
    import safetensors  # noqa: F401

    from src.decoding.builtin import load_codec

    loaded = load_codec()
    seeded = torch.Generator().manual_seed(0)
    shape = (4, loaded.config.codebooks, int(seconds * 50))
    codes = torch.randint(loaded.config.cardinality, shape, generator=seeded)

    def run(dtype: torch.dtype, device: torch.device) -> Tensor:
        return loaded.to(device, dtype).decode(codes.to(device))

    return run


MEASURING: dict[str, Callable[[float], Measuring]] = {
    "STFT by convolution": spectrogram,
    "pre-emphasis": pre_emphasis,
    "tagger tags": tagger("tags"),
    "tagger tags_vgg": tagger("tags_vgg"),
    "built-in codec": codec,
}
