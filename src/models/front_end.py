"""musicnn's front end on a CPU, where it is nearly all of a tagger's work.

The same convolutions as `Musicnn` defines, arranged so that little is computed twice. A timbral
filter is 7 frames long, so what it makes of a frame follows from 7 columns of the spectrogram,
wherever in a clip or window they lie: each distinct patch of 7 columns is computed once, and
remembered. Windows overlap, the candidates of a search share the audio of their parents, and a
search hears its clips again at each step, 2 s longer. The temporal filters are up to 128 frames
long and see the ends of their window nearly everywhere: they are computed for each window.

Both are written as matrix products with a running maximum over the bands, which stays in the
processor's cache; convolutions write the bands out first, 13 MB a window.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.memory import DIGEST_BYTES, RowMemory, digest

PATCH_BYTES = 64 * 2**20  # that remembered patches take: some 32,000, 8 minutes of distinct audio
# A matrix product's shape decides in which order some libraries sum, the more so with many threads:
# what some odd rows come to, or several windows at once, depends on how many there are. The same
# audio has to give the same numbers to the last bit, whatever else is computed with it. So patches
# are filled up with zeros to a multiple of 64, and windows come one by one; tests hold it to that.
PATCHES_AT_ONCE, ROWS_FILLED_TO = 512, 64
FRAMES_AT_ONCE = 16  # of a temporal filter's output


class Block(nn.Module):
    """Convolution, ReLU, batch norm and max pool, in an order that costs less and gives the same.

    ReLU and batch norm are monotone in each channel, so they commute with the maximum, and after
    it there is little left to do. Where batch norm falls (scale < 0), the maximum of its output is
    at the convolution's minimum: such channels are stored with the convolution negated.
    """

    def __init__(self, conv: nn.Module, channels: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = conv
        self.pool = pool
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.pool(self.conv(x)))

    def finish(self, peak: Tensor) -> Tensor:
        """What comes after the pool: [W, C, ...] -> the same shape."""
        scale, shift = (p.view(-1, *(1,) * (peak.dim() - 2)) for p in (self.scale, self.shift))
        return F.relu(peak * scale.sign()) * scale + shift


class FrontEnd:
    """What `Musicnn`'s timbral and temporal blocks make of windows, on the CPU.

    Equal to the blocks' own `forward` but for rounding. A window's numbers do not depend on the
    other windows at all. For one thread.
    """

    def __init__(self, timbral: Sequence[Block], temporal: Sequence[Block]) -> None:
        self.timbral, self.temporal = timbral, temporal
        channels = sum(len(block.scale) for block in timbral)
        self.memory = RowMemory(channels, PATCH_BYTES)

    def __call__(self, x: Tensor) -> Tensor:
        """The network's scaled input, float32 [W, 96, T] -> float32 [W, channels, T]."""
        return torch.cat(
            [self._timbral(x), *(b.finish(temporal_peaks(x, b.conv)) for b in self.temporal)], 1
        )

    def _timbral(self, x: Tensor) -> Tensor:
        """float32 [W, 96, T] -> float32 [W, timbral channels, T]."""
        count, _, frames = x.shape
        length = self.timbral[0].conv.weight.shape[-1]
        # What is beyond a window is zero ("same" padding).
        columns = F.pad(x, (length // 2, length // 2)).transpose(1, 2).contiguous()
        keys = []
        for window in columns.numpy():
            digests = b"".join(digest(column) for column in window)
            ends = range(DIGEST_BYTES * length, len(digests) + 1, DIGEST_BYTES)
            keys += [digests[end - DIGEST_BYTES * length : end] for end in ends]
        patches = columns.unfold(1, length, 1)  # [W, T, 96, length]

        def compute(indices: list[int]) -> Tensor:
            window, frame = np.divmod(indices, frames)
            portions = patches[window, frame].split(PATCHES_AT_ONCE)
            return torch.cat([self._timbral_of_patches(portion) for portion in portions])

        return self.memory.rows(keys, compute).view(count, frames, -1).transpose(1, 2)

    def _timbral_of_patches(self, patches: Tensor) -> Tensor:
        """float32 [patches, 96, length] -> float32 [patches, channels]."""
        filled = F.pad(patches, (0, 0, 0, 0, 0, -len(patches) % ROWS_FILLED_TO))
        peaks = [(block, timbral_peaks(filled, block.conv)) for block in self.timbral]
        return torch.cat([block.finish(peak) for block, peak in peaks], 1)[: len(patches)]


def timbral_peaks(patches: Tensor, conv: nn.Module) -> Tensor:
    """The greatest output over the bands of a convolution that is as long as the patches.

    patches: float32 [n, bands, length], of an even number of bands; conv: its weight
    [C, 1, height, length] -> float32 [n, C].

    A convolution over bands by Karatsuba's trick, for three quarters of the multiplications. With
    x0 and x1 the even and the odd bands of the input, h0 and h1 those of a filter, neighbouring
    outputs are

        y[2m]     = h0 x0[m] + h1 x1[m]    = (h0 + h1) x1[m] + h0 (x0[m] - x1[m])
        y[2m + 1] = h0 x1[m] + h1 x0[m+1]  = (h0 + h1) x1[m] + h1 (x0[m+1] - x1[m])

    where each product is a filter of half the height, from band m on; the first is shared.
    """
    weight, bias = conv.weight[:, 0], conv.bias
    channels, height, length = weight.shape
    weight = F.pad(weight, (0, 0, 0, height % 2)).permute(1, 2, 0)  # [height, length, C]
    h0, h1 = weight[0::2].reshape(-1, channels), weight[1::2].reshape(-1, channels)
    both, taps = h0 + h1, len(h0)
    x0, x1 = patches[:, 0::2], patches[:, 1::2]
    even, odd = x0 - x1, F.pad(x0[:, 1:] - x1[:, :-1], (0, 0, 0, 1))
    x1, even, odd = x1.flatten(1), even.flatten(1), odd.flatten(1)
    peak = patches.new_full((len(patches), channels), -torch.inf)
    shared, output = torch.empty_like(peak), torch.empty_like(peak)
    outputs = patches.shape[1] - height + 1
    for band in range(0, outputs, 2):
        seen = slice(band // 2 * length, band // 2 * length + taps)
        torch.mm(x1[:, seen], both, out=shared)
        torch.addmm(shared, even[:, seen], h0, out=output)
        torch.maximum(peak, output, out=peak)
        if band + 1 < outputs:
            torch.maximum(peak, shared.addmm_(odd[:, seen], h1), out=peak)
    return peak + bias


def temporal_peaks(x: Tensor, conv: nn.Module) -> Tensor:
    """The greatest output over the bands of a convolution along time, "same" padded.

    x: float32 [W, bands, T]; conv: its weight [C, 1, 1, length] -> float32 [W, C, T].

    Some frames' outputs are one matrix product, with a matrix that holds the filters once for each
    of these frames, shifted. It has no rows for frames beyond the window, which are zero.
    """
    filters = conv.weight[:, 0, 0].T  # [length, C]
    length, channels = filters.shape
    before = length // 2 - 1  # TensorFlow puts the odd one of an even filter's padding last
    shifted = x.new_zeros(length + FRAMES_AT_ONCE - 1, FRAMES_AT_ONCE, channels)
    for shift in range(FRAMES_AT_ONCE):
        shifted[shift : shift + length, shift] = filters
    count, bands, frames = x.shape
    peaks = x.new_empty(count, frames, channels)
    for first in range(0, frames, FRAMES_AT_ONCE):
        some = min(FRAMES_AT_ONCE, frames - first)
        start = first - before
        seen = slice(max(0, start), min(frames, start + length + some - 1))
        matrix = shifted[seen.start - start : seen.stop - start, :some].flatten(1)
        outputs = x.new_empty(bands, some * channels)
        for window, peak in zip(x, peaks, strict=True):  # one by one: see ROWS_FILLED_TO
            torch.mm(window[:, seen], matrix, out=outputs)
            peak[first : first + some] = outputs.view(bands, some, channels).amax(0)
    return (peaks + conv.bias).transpose(1, 2)
