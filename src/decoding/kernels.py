"""Kernels of a decoding step on a GPU: fewer and shorter than torch's for so few rows.

A step is bound by how many short kernels it has. `add_norm` is one in place of three. `attend` is
one or a few in place of six or more: softmax goes on over blocks of positions as they are read
(FlashAttention, Dao et al., arXiv 2205.14135), rows that share keys and values read them once
together, and where that would leave most of the GPU idle, positions are split over programs
(Flash-Decoding, Dao et al., 2023).

The code is Triton's (`triton_kernels`). Grids and splits follow from shapes alone, so that launches
can be captured.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

# Launching them one by one takes the host longer than torch's: they pay in CUDA graphs.
enabled = True

HEAD_DIMS = (16, 32, 64, 128)
TILE_BYTES = 1 << 13  # of keys that a program reads at once
PROGRAMS = 512  # keep a large GPU busy: about four a multiprocessor
MOST_SPLITS = 32

# groups, keys, values, bias: `past.Attended`
Stretch = tuple[int, Tensor, Tensor, Tensor | None]


def available(x: Tensor) -> bool:
    """Whether the kernels are enabled and work where x is, in its dtype. On a GPU the first call
    tries them out."""
    return enabled and x.is_cuda and _fault(x.device, x.dtype) is None


def can_attend(queries: Tensor) -> bool:
    return queries.shape[-1] in HEAD_DIMS and available(queries)


@functools.cache
def _fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torch's own kernels are taken instead; None where they need not be. Logged once."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU of capability 8.0 or more"
    try:
        error = _largest_error(device, dtype)
    except torch.cuda.OutOfMemoryError:
        raise
    except ModuleNotFoundError as missing:
        logger.debug("decoding without fused kernels: %s", missing)
        return str(missing)
    except Exception as failure:  # no C compiler, an assembler that is too old, ..
        logger.warning("decoding without fused kernels, which cannot be compiled: %s", failure)
        return str(failure)
    if error < 0.05:
        return None
    logger.warning("decoding without fused kernels, which err by %.2g in %s", error, dtype)
    return f"they err by {error:.2g}"


@torch.inference_mode()
def _largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """Of both kernels in small, against torch in float32. Infinite where one gives no number."""
    seeded = torch.Generator().manual_seed(0)
    x, y, bias, queries, own, shared = (
        torch.randn(shape, generator=seeded).to(device, dtype)
        for shape in ((6, 96), (4, 96), (70,), (1, 2, 4, 64), (2, 8, 70, 64), (2, 2, 70, 64))
    )
    weight, x = torch.linspace(0.5, 1.5, 96, device=device), x.float()
    summed = x + F.pad(y.float(), (0, 0, 0, 2))
    expected = [F.layer_norm(summed, (96,), weight, weight)]
    found = [add_norm(x, y, weight, weight, 1e-5, dtype)]
    keys, values = (
        torch.cat([shared[i][:, None].expand(2, 4, 70, 64), own[i].view(2, 4, 70, 64)], 2).float()
        for i in range(2)
    )
    scores = queries[0].float()[:, :, None] @ keys.transpose(2, 3) / 8 + bias.float().repeat(2)
    expected.append((scores.softmax(-1) @ values).squeeze(2))
    found.append(attend(queries, [(1, *shared, bias), (4, *own, bias)])[0])
    errors = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: int | None = None,
) -> Tensor:
    """x += y, in place, in y's rows; returns the layer norm of x's first `rows` rows, or of all.

    x: float32 [all rows, dim], contiguous; y: [at most as many, dim] -> `dtype` [rows, dim].
    """
    from src.decoding import triton_kernels

    normed, dim = len(x) if rows is None else rows, x.shape[1]
    y = y if y.stride(1) == 1 else y.contiguous()
    result = torch.empty(normed, dim, dtype=dtype, device=x.device)
    triton_kernels.add_norm[(len(x),)](
        *(x, y, weight, bias, result, dim, eps, y.stride(0), len(y), normed),
        BLOCK=_power_of_two(dim),
        num_warps=8 if dim > 1024 else 4,
    )
    return result


def attend(queries: Tensor, stretches: Sequence[Stretch]) -> Tensor:
    """Softmax attention of one query a row to stretches of positions that groups of rows share.

    queries: [.., heads, slots, head dim]. Of each stretch: keys and values, [.. * heads * groups,
    positions, head dim], `groups` of slots that lie side by side; bias: of the scores, [positions]
    or [.. * heads, 1, positions], the latter for one group. Returns the queries' shape, in memory
    [.., slots, heads, head dim].
    """
    from src.decoding import triton_kernels

    shape, dtype = queries.shape, queries.dtype
    queries = queries.flatten(0, -4)
    queries = queries if queries.stride(-1) == 1 else queries.contiguous()
    outer, heads, slots, dim = queries.shape
    rows = outer * slots * heads
    result = queries.new_empty(outer, slots, heads, dim)
    block = max(16, min(128, TILE_BYTES // (dim * dtype.itemsize)))
    # Products of float32 are without tensor cores: larger ones would only take longer to compile.
    most = 16 if dtype == torch.float32 else 64
    plans = [
        _plan(outer * heads * groups, slots // groups, keys.shape[1], block, most)
        for groups, keys, _, _ in stretches
    ]
    number = sum(splits for _, _, splits in plans)
    parts, log_sums = result, result  # the latter is not written where there is one part
    if number > 1:
        parts = result.new_empty(number, *result.shape, dtype=torch.float32)
        log_sums = parts.new_empty(number, rows)
    part = 0
    for (groups, keys, values, bias), (tile, tiles, splits) in zip(stretches, plans, strict=True):
        length = keys.shape[1]
        assert keys.stride() == values.stride() == (keys.stride(0), dim, 1)
        triton_kernels.attend[(outer * heads * groups * tiles, splits)](
            *(queries, keys, values, keys if bias is None else bias),
            *(parts[part:] if number > 1 else parts, log_sums[part:] if number > 1 else log_sums),
            *(length, -(-length // (block * splits)) * block),
            *(heads, slots, groups, tiles, rows, dim**-0.5, *queries.stride()[:3]),
            *(keys.stride(0), 0 if bias is None or bias.dim() == 1 else bias.stride(0)),
            DIM=dim,
            TILE=tile,
            BLOCK=block,
            BIASED=bias is not None,
            WHOLE=number == 1,
            num_warps=4,
            num_stages=3,
        )
        part += splits
    if number > 1:
        triton_kernels.join[(rows,)](
            *(parts, log_sums, result, number, rows),
            DIM=dim,
            PARTS=_power_of_two(number),
            num_warps=1,
        )
    return result.transpose(1, 2).view(shape)


def _plan(
    batch_groups: int, members: int, length: int, block: int, most: int
) -> tuple[int, int, int]:
    """Queries of a tile, at most so many, tiles of a group, and splits of its positions."""
    tile = 1
    if members > 1:  # products of tensor cores have 16 rows or more
        tile = 16 if length <= block else min(most, max(16, _power_of_two(members)))
    tiles = -(-members // tile)
    blocks = -(-length // block)
    splits = min(blocks, MOST_SPLITS, max(1, PROGRAMS // (batch_groups * tiles)))
    return tile, tiles, -(-blocks // -(-blocks // splits))


def _power_of_two(number: int) -> int:
    """The least that is not smaller."""
    return 1 << (number - 1).bit_length()
