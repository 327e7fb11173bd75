"""Milliseconds a step: this decoder side by side with audiocraft's own `LMModel.generate`.

    python perf/decoding.py --model builtin
    python perf/decoding.py --model small --candidates 1 16 --position 50 250 500 --families 4

Both decode the same number of candidates of one prompt, with guidance and top-k, on the same
threads; tokens only, neither text encoder nor codec. `--position` says around which position the
steps lie, since attention grows with the past; `--families 4` measures the decoder a second time
with a past that four parents share among their children, as after a prune to four. Half precision
(`--dtype`) is this decoder's alone: audiocraft decodes in float32 on a CPU.

Repetitions alternate, after one warm-up each, so that whatever else the machine does meets both.
`small` is MusicGen-small's shape (24 layers, 1024 wide, 16 heads, 4 codebooks of 2048) with random
weights: speed does not depend on what they are. Ends in a table on stdout and, with --output, in
decoding-<model>.json and .png there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from tqdm import tqdm

from perf.figures import draw
from src.decoding.decoder import Decoder, Sampling
from src.generator import DTYPES, audiocraft_without_clap
from tests.generator.random_models import attributes, condition, random_lm

SMALL = {"dim": 1024, "layers": 24, "heads": 16, "card": 2048}


def load(model: str) -> nn.Module:
    """The built-in language model's weights, or random ones; the text is random words either way,
    so that its length can be chosen."""
    if model == "small":
        return random_lm(**SMALL)
    from src.decoding.builtin import load_config, load_lm

    config = load_config()["lm"]
    lm = random_lm(config["dim"], config["num_layers"], config["num_heads"], config["card"])
    with audiocraft_without_clap():
        trained = load_lm().state_dict()
    own = {name: w for name, w in trained.items() if not name.startswith("condition_provider")}
    lm.load_state_dict(own, strict=False)
    return lm


def audiocraft_step(lm: nn.Module, given: Tensor, prompt: str, frames: int) -> float:
    """Seconds a step of audiocraft's generate, after the pass over the given tokens."""
    at: list[float] = []
    lm.generate(
        given if given.shape[-1] else None,
        attributes(*[prompt] * len(given)),
        max_gen_len=given.shape[-1] + frames,
        top_k=250,
        cfg_coef=3.0,
        callback=lambda *_: at.append(time.perf_counter()),
    )
    return (at[-1] - at[0]) / (len(at) - 1)


def own_step(decoder: Decoder, source: Tensor, given: Tensor, frames: int, families: int) -> float:
    """Seconds a step of ours. families: how many pasts the candidates share; 0: each its own."""
    candidates, before = len(given), given.shape[-1]
    some = given if before else None
    decoding = decoder.begin([source], candidates, before + frames, ["key"], 1, some)
    decoding.advance(1)
    if families:
        size = candidates // families
        decoding.select([row // size * size for row in range(candidates)])
    mark = decoding.mark()
    decoding.advance(frames - 1)  # a search makes room for a whole step before it, not in it
    decoding.rewind(mark)
    began = time.perf_counter()
    decoding.advance(frames - 1)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / (frames - 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["builtin", "small"], default="builtin")
    parser.add_argument("--candidates", type=int, nargs="+", default=[16])
    parser.add_argument("--position", type=int, nargs="+", default=[50])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--families", type=int, nargs="+", default=[])
    parser.add_argument("--frames", type=int, default=100, help="steps timed around a position")
    parser.add_argument("--text_tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--require", type=float, help="exit with 1 below this median ratio")
    parser.add_argument("--output", type=Path, help="folder for JSON and figure")
    options = parser.parse_args()
    if min(options.position) < options.frames // 2:
        parser.error(f"--position starts at half of --frames, {options.frames // 2}")
    return options


@torch.inference_mode()
def measure(
    lm: nn.Module, options: argparse.Namespace, candidates: int, position: int
) -> dict[str, list[float]]:
    """Milliseconds a step of each repetition, by who decodes and how."""
    prompt = " ".join(f"word{i}" for i in range(options.text_tokens))
    source = condition(lm, prompt)
    shape = (candidates, lm.n_q, position - options.frames // 2)
    given = torch.randint(0, lm.card, shape, device=options.device)
    runs: dict[str, Callable[[], float]] = {
        "audiocraft": lambda: audiocraft_step(lm, given, prompt, options.frames)
    }
    fitting = [n for n in options.families if candidates > n and candidates % n == 0]
    for dtype, families in itertools.product(options.dtype, [0, *fitting]):
        decoder = Decoder(lm, Sampling(top_k=250, guidance=3.0), DTYPES[dtype], candidates)
        name = f"{dtype}, {families} pasts" if families else dtype
        runs[name] = lambda d=decoder, f=families: own_step(d, source, given, options.frames, f)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(options.repetitions + 1):
        for name, run in runs.items():
            taken = run() * 1000
            if repetition:  # the first warms up
                times[name].append(taken)
    return times


def main() -> int:
    """Print the table; 1 when the ratio asked for is not reached."""
    options = parse()
    torch.set_num_threads(options.threads)
    lm = load(options.model).to(options.device)
    cells = list(itertools.product(options.candidates, options.position))
    rows = [
        {"candidates": candidates, "position": position, "milliseconds": times}
        for candidates, position in tqdm(cells, unit="cell", leave=False)
        if (times := measure(lm, options, candidates, position))
    ]
    print(
        f"{options.model}, {options.text_tokens} text tokens, {options.device}, "
        f"{options.threads} threads; ms a step, and audiocraft's as a multiple of it"
    )
    lowest = float("inf")
    for row in rows:
        base = row["milliseconds"]["audiocraft"]
        print(f"{row['candidates']} candidates at {row['position']}: audiocraft {median(base):.1f}")
        for name, taken in list(row["milliseconds"].items())[1:]:
            ratios = [a / b for a, b in zip(base, taken, strict=True)]
            spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"    {name:24}{median(taken):8.1f}{spread:>24}")
            lowest = min(lowest, median(ratios))
    if options.output:
        known = {k: v for k, v in vars(options).items() if k != "output"}
        record = {"settings": known, "torch": torch.__version__, "cells": rows}
        path = options.output / f"decoding-{options.model}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        draw(path)
    return int(options.require is not None and lowest < options.require)


if __name__ == "__main__":
    sys.exit(main())
