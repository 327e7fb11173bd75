"""The Triton code of `kernels`, which launches it: for Triton 2.1 and later, on CUDA.

Each program writes rows of its own and sums in an order that the shapes decide: the same inputs
give the same bits, and a row that is not a number stays alone.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def add_norm(
    x, y, weight, bias, result, dim, eps, y_stride, added, normed,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A program a row of x, float32 [rows, dim], BLOCK >= dim. x += y in rows below `added`; their
    layer norm, of rows below `normed`, to the result."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < dim
    also = inside & (row < added)
    value = tl.load(x + row * dim + at, mask=inside, other=0.0)
    value += tl.load(y + row * y_stride + at, mask=also, other=0.0).to(tl.float32)
    tl.store(x + row * dim + at, value, mask=also)
    mean = tl.sum(value, 0) / dim
    value = tl.where(inside, value - mean, 0.0)
    value = value / tl.sqrt(tl.sum(value * value, 0) / dim + eps)
    value = value * tl.load(weight + at, mask=inside, other=0.0)
    value += tl.load(bias + at, mask=inside, other=0.0)
    value = value.to(result.dtype.element_ty)
    tl.store(result + row * dim + at, value, mask=inside & (row < normed))


@triton.jit(do_not_specialize=["length", "each"])
def attend(
    queries, keys, values, bias, result, log_sums, length, each,
    heads, slots, groups, tiles, rows, scale, outer_stride, head_stride, slot_stride,
    batch_stride, bias_stride,
    DIM: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Attention of `TILE` queries of one group to `each` positions of its keys and values.

    Programs: [outer * heads * groups * tiles, splits]. queries: strided [outer, heads, slots, DIM];
    keys, values: [outer * heads * groups, length, DIM]; result: [splits, outer, slots, heads, DIM].
    log_sums: float32 [splits, outer, slots, heads], the weights' sum's logarithm, unless WHOLE.
    rows: outer * slots * heads. TILE is 1, for groups of one row, or at least 16.
    """
    program, split = tl.program_id(0), tl.program_id(1)
    tile, batch_group = program % tiles, program // tiles
    group, batch = batch_group % groups, batch_group // groups
    outer, head = (batch // heads).to(tl.int64), batch % heads
    in_group = slots // groups
    dims = tl.arange(0, DIM)
    queries += outer * outer_stride + head * head_stride
    if TILE == 1:
        slot = group
        query = tl.load(queries + slot * slot_stride + dims).to(tl.float32)
        top = scale * 0.0 - float("inf")  # a scalar of the device
        # Every place in a block for itself, to be added up at the end.
        total = tl.zeros([BLOCK], tl.float32)
        sums = tl.zeros([BLOCK, DIM], tl.float32)
    else:
        member = tile * TILE + tl.arange(0, TILE)
        slot = group * in_group + member
        query = tl.load(
            queries + slot[:, None] * slot_stride + dims[None, :],
            mask=member[:, None] < in_group, other=0.0,
        )  # fmt: skip
        top = tl.full([TILE], float("-inf"), tl.float32)
        total = tl.zeros([TILE], tl.float32)
        sums = tl.zeros([TILE, DIM], tl.float32)
    keys += batch_group.to(tl.int64) * batch_stride
    values += batch_group.to(tl.int64) * batch_stride
    bias += batch_group * bias_stride
    end = tl.minimum(length, (split + 1) * each)
    for first in range(split * each, end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        there = at < end
        places = at[:, None] * DIM + dims[None, :]
        key = tl.load(keys + places, mask=there[:, None], other=0.0)
        value = tl.load(values + places, mask=there[:, None], other=0.0)
        added = tl.where(there, 0.0, float("-inf"))
        if BIASED:
            added += tl.load(bias + at, mask=there, other=0.0).to(tl.float32)
        if TILE == 1:
            scores = tl.sum(key.to(tl.float32) * query[None, :], 1) * scale + added
            higher = tl.maximum(top, tl.max(scores, 0))
        else:
            scores = tl.dot(query, tl.trans(key), allow_tf32=False) * scale + added[None, :]
            higher = tl.maximum(top, tl.max(scores, 1))
        # Where nothing is there yet, -inf - -inf would not be a number.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        faded = tl.exp(top - safe)
        if TILE == 1:
            weights = tl.exp(scores - safe)
            total = total * faded + weights
            sums = sums * faded + weights[:, None] * value.to(tl.float32)
        else:
            weights = tl.exp(scores - safe[:, None])
            total = total * faded + tl.sum(weights, 1)
            product = tl.dot(weights.to(value.dtype), value, allow_tf32=False)
            sums = sums * faded[:, None] + product
        top = higher
    row = (outer * slots + slot) * heads + head
    result += split * rows * DIM
    log_sums += split * rows
    if TILE == 1:
        of_all = tl.sum(total, 0)
        joined = tl.sum(sums, 0) / tl.where(of_all == 0.0, 1.0, of_all)
        tl.store(result + row * DIM + dims, joined.to(result.dtype.element_ty))
        if not WHOLE:
            tl.store(log_sums + row, top + tl.log(of_all))
    else:
        mine = member < in_group
        places = row[:, None] * DIM + dims[None, :]
        sums = sums / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(result + places, sums.to(result.dtype.element_ty), mask=mine[:, None])
        if not WHOLE:
            tl.store(log_sums + row, top + tl.log(total), mask=mine)


@triton.jit
def join(parts, log_sums, result, number, rows, DIM: tl.constexpr, PARTS: tl.constexpr):
    """A program a row: attention to all of its `number` <= PARTS parts, [number, rows, DIM]. Their
    share is the sum of their weights, whose logarithms are [number, rows]."""
    row = tl.program_id(0)
    part, dims = tl.arange(0, PARTS), tl.arange(0, DIM)
    there = part < number
    log_sum = tl.load(log_sums + part * rows + row, mask=there, other=float("-inf"))
    share = tl.exp(log_sum - tl.max(log_sum, 0))
    places = (part[:, None] * rows + row) * DIM + dims[None, :]
    of_part = tl.load(parts + places, mask=there[:, None], other=0.0)
    joined = tl.sum(share[:, None] * of_part, 0) / tl.sum(share, 0)
    tl.store(result + row * DIM + dims, joined.to(result.dtype.element_ty))
