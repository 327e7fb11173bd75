"""Bytes of keys and values that a search holds, a candidate, for models of every size.

    python perf/memory.py --candidates 16 --beam_width 4

Runs each method's steps on a model of one narrow layer, with the real decoder, and looks how many
positions it keeps at most. Beside it what it would be if every candidate had a past of its own (one
cache of the final length a row). Parents are those of the best of random scores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from src.decoding.decoder import Decoder, Decoding
from src.methods import METHODS
from src.tree.node import children
from tests.generator.random_models import condition, random_lm

MODELS = {"builtin": (6, 320), "small": (24, 1024), "medium": (48, 1536), "large": (48, 2048)}
FRAME_RATE = 50


def peak(decoding: Decoding, steps: list[int], rollouts: list[int], width: int) -> int:
    """The most bytes that the decoding held, between and after the steps of a search."""
    most, candidates = 0, decoding.rows
    for step, rollout in zip(steps, rollouts, strict=True):
        mark = decoding.mark()  # so that the last step does not let go of them
        decoding.advance(step)
        if rollout:
            mark = decoding.mark()
            decoding.advance(rollout, greedy=True)
            decoding.rewind(mark)
        most = max(most, decoding.nbytes)
        if decoding.finished < decoding.frames:
            best = torch.rand(candidates).argsort(descending=True)[: candidates // width].tolist()
            decoding.select(children(best, len(best), width))
            most = max(most, decoding.nbytes)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--beam_width", type=int, default=4)
    parser.add_argument("--lookahead_k", type=int, default=1)
    parser.add_argument("--step_size", type=float, default=2.0, help="seconds")
    parser.add_argument("--duration", type=float, nargs="+", default=[5, 10, 30], help="seconds")
    parser.add_argument(
        "--itemsize", type=int, default=2, help="bytes a number: 2 in half precision"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    lm = random_lm(dim=16, layers=1, heads=1)
    heads = "".join(f"{name + ' MB':>12}" for name in MODELS)
    print(
        f"N = {options.candidates}, M = {options.beam_width}, k = {options.lookahead_k}, "
        f"{options.itemsize} bytes a number: a candidate's keys and values"
    )
    print(f"{'method':11}{'seconds':>8}{'positions':>11}{'alone':>7}{'share':>7}{heads}")
    for method in ("best_of_n", "sbs", "lookahead"):
        own = {p.name: getattr(options, p.name) for p in METHODS[method].parameters}
        for duration in options.duration:
            shape = (options.candidates, duration, options.step_size, FRAME_RATE)
            plan = METHODS[method].make_plan(*shape, own)
            begun = Decoder(lm).begin(
                [condition(lm, "x")], options.candidates, plan.frames, ["k"], seed=1
            )
            steps = list(plan.steps) if METHODS[method].prunes else [plan.frames]
            rollouts = [plan.rollout(step) for step in range(len(steps))]
            most = peak(begun, steps, rollouts, options.beam_width)
            positions = most / options.candidates / (2 * 16 * 4)  # keys, values; width; float32
            alone = plan.frames + max(begun.decoder.delays)
            sizes = [
                positions * 2 * dim * (2 * layers - 1) * options.itemsize / 1e6
                for layers, dim in MODELS.values()
            ]
            cells = "".join(f"{size:12.1f}" for size in sizes)
            print(
                f"{method:11}{duration:8g}{positions:11.0f}{alone:7}{positions / alone:7.2f}{cells}"
            )


if __name__ == "__main__":
    main()
