"""How large everything is: on a GPU, and in a dry run on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from perf.stub_lm import Shape


@dataclass(frozen=True)
class Scale:
    """Sizes of what the sections decode and compute.

    item: seconds that must be left to begin another item. scenario: the model that `right` decodes,
    for so many frames, so many candidates of each of two prompts. clip: seconds of audio. builtin:
    candidates of each of two prompts, and frames. copied: numbers (of two bytes) of the copy that
    measures bandwidth; side: of the square matrices that measure arithmetic. models, cells
    (candidates and past, what searches do first), steps: what speed is measured of; attended: the
    cells of single kernels. held: candidates and frames whose memory is compared with the formula;
    shapes: the same of decodings that follow each other. All memory is that of the first model.
    """

    item: float
    scenario: Shape
    frames: int
    candidates: int
    clip: float
    builtin: tuple[int, int]
    copied: int
    side: int
    models: dict[str, Shape]
    cells: tuple[tuple[int, int], ...]
    steps: int
    attended: tuple[tuple[int, int], ...]
    held: tuple[int, int]
    shapes: tuple[tuple[int, int], ...]


FULL = Scale(
    item=10.0,
    scenario=Shape(layers=4, dim=256, heads=4, card=512),
    frames=120,
    candidates=8,
    clip=10.0,
    builtin=(8, 500),
    copied=1 << 29,
    side=8192,
    models={
        "small": Shape(layers=24, dim=1024, heads=16),
        "medium": Shape(layers=48, dim=1536, heads=24),
        "large": Shape(layers=48, dim=2048, heads=32),
    },
    # 500 positions are 10 s
    cells=(
        *((16, 500), (64, 500), (1, 500), (4, 500)),
        *((16, 1500), (64, 1500), (1, 1500), (4, 1500)),
    ),
    steps=20,
    attended=tuple((candidates, past) for past in (512, 1536) for candidates in (16, 1, 64)),
    held=(64, 100),
    shapes=((64, 60), (16, 60), (48, 30), (37, 77)),
)
TINY = Shape(layers=2, dim=32, heads=2, card=64)
DRY = Scale(
    item=1.0,
    scenario=TINY,
    frames=24,
    candidates=4,
    clip=3.0,
    builtin=(2, 30),
    copied=1 << 22,
    side=256,
    models={"tiny": TINY},
    cells=((1, 10), (8, 10), (8, 20)),
    steps=5,
    attended=((8, 30), (1, 30)),
    held=(4, 20),
    shapes=((4, 9), (2, 12)),
)
