"""The decoder's kernels beside torch's: how exact, and how many microseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from perf.gpu_check.models import fastest_dtype, half_dtypes, short
from perf.gpu_check.report import Check
from perf.gpu_check.right import right
from perf.gpu_check.speed import speed
from perf.gpu_check.waits import waits
from src.decoding import kernels
from src.decoding.layers import Norm, Text, attention
from src.decoding.past import Attended, Past

HEAD_DIM = 64
FAMILIES = 4
OWN = 64  # positions of its own that a row has beside its family's
TEXT_TOKENS = 32
CALLS = 10  # in a graph
# Of float64's result, where torch's own kernels are as far off or less: they round scores.
SLACK = 1.5


class Fixed(Past):
    """A past that is there already."""

    stretches: list[Attended]

    def attended(self, layer: int) -> list[Attended]:  # noqa: ARG002
        return self.stretches


@dataclass(frozen=True)
class Inputs:
    """What one layer's kernels are given, guided: one prompt's candidates with a past."""

    past: Fixed
    queries: Tensor
    text: Text
    text_queries: Tensor
    norm: Norm
    x: Tensor
    y: Tensor

    @classmethod
    def random(
        cls, heads: int, candidates: int, past: int, families: int,
        dtype: torch.dtype, device: torch.device,
    ) -> Inputs:  # fmt: skip
        """families: how many share a past but for the last positions; 0: each has its own."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=torch.float32).to(dtype)

        def stretch(groups: int, positions: int) -> Attended:
            cache = normal(2, 2, 1, heads, groups, positions, HEAD_DIM)
            bias = torch.zeros(positions, device=device, dtype=dtype)
            bias[positions - positions // 8 :] = -torch.inf  # padded
            return Attended.of(groups, cache, bias)

        dim = heads * HEAD_DIM
        made = Fixed(1, candidates, [2], heads, HEAD_DIM, dtype, device)
        own = min(OWN, past // 2) if families else past
        made.shared = [None] if families else []  # type: ignore[list-item]  # how many counts
        made.stretches = [*([stretch(families, past - own)] if families else [])]
        made.stretches.append(stretch(candidates, own))
        qkv = normal(2, 1, candidates, 3, heads, HEAD_DIM).permute(3, 0, 1, 4, 2, 5)
        keys, values = normal(2, heads, TEXT_TOKENS, HEAD_DIM)
        bias = keys.new_zeros(heads, 1, TEXT_TOKENS)
        weight = torch.linspace(0.5, 1.5, dim, device=device)
        return cls(
            past=made,
            queries=qkv[0],
            text=Text(keys, values, bias),
            text_queries=normal(1, candidates, heads, HEAD_DIM).transpose(1, 2),
            norm=Norm(weight, weight, 1e-5, dtype),
            x=normal(2 * candidates, dim).float(),
            y=normal(2 * candidates, dim),
        )

    def double(self) -> Inputs:
        """In float64: the reference."""
        past = Fixed(
            1, self.past.slots, [2], self.past.heads, HEAD_DIM, torch.float64, self.x.device
        )
        past.shared = self.past.shared
        past.stretches = [
            Attended(s.groups, *(x if x is None else x.double() for x in s[1:]))
            for s in self.past.stretches
        ]  # fmt: skip
        norm = Norm(self.norm.weight.double(), self.norm.bias.double(), 1e-5, torch.float64)
        text = Text(*(x if x is None else x.double() for x in self.text))
        queries = self.queries.double(), self.text_queries.double()
        return Inputs(past, queries[0], text, queries[1], norm, self.x.double(), self.y.double())

    def attend(self) -> Tensor:
        """As it is given to the next product: [rows, dim]."""
        y = self.past.attend(0, self.queries)
        return y.transpose(2, 3).reshape(self.x.shape)

    def attend_to_text(self) -> Tensor:
        queries = self.text_queries
        if kernels.can_attend(queries):
            y = kernels.attend(queries, [(1, *self.text)])
        else:
            y = attention(queries.flatten(0, 1), *self.text).view(queries.shape)
        return y.transpose(1, 2).reshape(-1, self.x.shape[1])

    def add_norm(self) -> Tensor:
        return self.norm.of_sum(self.x, self.y)


KERNELS: dict[str, Callable[[Inputs], Tensor]] = {
    "attention": Inputs.attend,
    "attention on the text": Inputs.attend_to_text,
    "addition and norm": Inputs.add_norm,
}


@contextmanager
def fused() -> Iterator[None]:
    """Inside: decoding by the kernels, as it is where nobody says otherwise."""
    with patch.object(kernels, "enabled", True):
        yield


@fused()
def right_fused(check: Check) -> None:
    """What `right` asks, of decoding by the kernels."""
    right(check)


@fused()
def waits_fused(check: Check) -> None:
    """What `waits` asks, of decoding by the kernels."""
    waits(check)


@fused()
def speed_fused(check: Check) -> None:
    """What `speed` measures, of 16 candidates, as searches have by default."""
    cells = tuple(cell for cell in check.scale.cells if cell[0] == 16) or check.scale.cells[:1]
    whole, check.scale = check.scale, replace(check.scale, cells=cells)
    speed(check)
    check.scale = whole


@fused()
def beside_torch(check: Check) -> None:
    """In every dtype: do they work, and how exact are they? Then microseconds in half precision."""
    for dtype in (torch.float32, *half_dtypes(check.device)):
        if not torch.empty(0, device=check.device).is_cuda:
            check.skip(short(dtype), "needs a GPU")
            continue
        why = kernels._fault(check.device, dtype)
        check.say(f"{short(dtype)}, work here", passed=why is None, why=why)
        if why is None:
            exactness(check, dtype)
    dtype = fastest_dtype(check.device)
    if not kernels.available(torch.empty(0, device=check.device, dtype=dtype)):
        return
    for name, shape in check.scale.models.items():
        if name == "medium":
            continue
        for candidates, past in check.scale.attended:
            for families in (0, FAMILIES) if candidates > FAMILIES else (0,):
                what = f"{name}, {candidates} candidates at {past}"
                what += f", {families} families" if families else ""
                if not check.late(what, 2.0):
                    sizes = (shape.heads, candidates, past, families)
                    times(check, what, Inputs.random(*sizes, dtype, check.device), not families)


def exactness(check: Check, dtype: torch.dtype) -> None:
    """Against float64, beside torch's."""
    for families in (0, FAMILIES):
        inputs = Inputs.random(2, 8, 200, families, dtype, check.device)
        for name, run in KERNELS.items():
            if families and name != "attention":
                continue
            start = inputs.x.clone()
            found = run(inputs)
            inputs.x.copy_(start)
            with patch.object(kernels, "available", lambda x: False):  # noqa: ARG005
                by_torch = run(inputs)
                inputs.x.copy_(start)
                right = run(inputs.double())
            error, of_torch = relative(found, right), relative(by_torch, right)
            what = f"{short(dtype)}, {name}" + (f", {families} families" if families else "")
            check.say(
                what,
                passed=error <= max(SLACK * of_torch, 2e-6),
                error=error,
                error_of_torch=of_torch,
            )


def relative(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


def times(check: Check, what: str, inputs: Inputs, every: bool) -> None:
    """every: all kernels, not attention alone. gb_per_s: of keys and values, by the kernel."""
    moved = sum(2 * stretch.keys.nbytes for stretch in inputs.past.stretches)
    for name, run in KERNELS.items():
        if name != "attention" and not every:
            continue
        ours = microseconds(lambda run=run: run(inputs))
        with patch.object(kernels, "available", lambda x: False):  # noqa: ARG005
            by_torch = microseconds(lambda run=run: run(inputs))
        rate = moved / ours / 1e3 if name == "attention" else None
        check.say(f"{what}: {name}", None, us=ours, us_of_torch=by_torch, gb_per_s=rate)


def microseconds(run: Callable[[], object]) -> float:
    """Of one of the calls in a graph, the best of five replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    found = []
    for _ in range(5):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        found.append(begun.elapsed_time(ended) * 1e3 / CALLS)
    return min(found)
