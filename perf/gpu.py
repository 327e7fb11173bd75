"""What a GPU makes of the decoder: is it right, does it wait, how exact, how fast, how large?

    python perf/gpu.py --output results/gpu        (or: make gpu-check)
    python perf/gpu.py --device cpu                a dry run in small, without a GPU
    python perf/gpu.py --sections right waits      some of the sections

Needs torch (2.1 or later) and numpy alone: a stub stands in for audiocraft where that is missing,
and what needs another package is skipped, with the reason. Prints a JSON line for every finding as
it goes and tables at the end; with --output they are also in gpu.jsonl and gpu.md there. Takes six
minutes at most: what does not fit is skipped, and says so. An error in one section does not stop
the others. The exit code is 1 when anything is wrong, or failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from perf.gpu_check.convolutions import convolutions
from perf.gpu_check.environment import environment
from perf.gpu_check.kernels import beside_torch, right_fused, speed_fused, waits_fused
from perf.gpu_check.memory import memory
from perf.gpu_check.precision import precision
from perf.gpu_check.report import Check, markdown
from perf.gpu_check.right import right
from perf.gpu_check.scale import DRY, FULL
from perf.gpu_check.speed import speed
from perf.gpu_check.waits import waits
from perf.stub_lm import stand_in_for_audiocraft
from src.decoding import kernels
from src.decoding.device import usable_device


class Section(NamedTuple):
    """run: reports what it finds. kept: seconds that the sections before it leave to it."""

    run: Callable[[Check], None]
    kept: float


SECONDS = 330.0
# The most decisive first.
SECTIONS = {
    "environment": Section(environment, 0),
    "right": Section(right, 60),
    "waits": Section(waits, 10),
    "convolutions": Section(convolutions, 20),
    "precision": Section(precision, 20),
    "speed": Section(speed, 90),
    "memory": Section(memory, 40),
    # Last: a fault in a kernel leaves no GPU to go on with.
    "kernels": Section(beside_torch, 20),
    "right_fused": Section(right_fused, 20),
    "waits_fused": Section(waits_fused, 5),
    "speed_fused": Section(speed_fused, 30),
}


def run(check: Check, names: list[str]) -> None:
    """The sections in their order, each whatever became of the others."""
    wanted = [name for name in SECTIONS if name in names]
    for number, name in enumerate(wanted):
        kept = sum(SECTIONS[later].kept for later in wanted[number + 1 :])
        kept *= check.seconds / SECONDS
        try:
            with check.section(name, kept):
                SECTIONS[name].run(check)
        except Exception as error:
            traceback.print_exc()
            check.say("section", passed=False, error=f"{type(error).__name__}: {error}"[:300])
        gc.collect()
        if check.on_gpu:
            torch.cuda.empty_cache()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu: a dry run in small")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all sections")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, help="folder for gpu.jsonl and gpu.md")
    options = parser.parse_args()
    try:
        options.device = usable_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> int:
    """1 when anything is wrong, or failed."""
    options = parse()
    stub = stand_in_for_audiocraft()
    scale = DRY if options.device == "cpu" else FULL
    kernels.enabled = False  # but in the sections called fused
    check = Check(torch.device(options.device), options.seconds, scale, stub)
    run(check, options.sections)
    tables = markdown(check.lines)
    print(f"\n{tables}\n{check.summary()}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(line) + "\n" for line in check.lines)
        (options.output / "gpu.jsonl").write_text(lines)
        (options.output / "gpu.md").write_text(f"{tables}\n{check.summary()}\n")
    return int(check.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
