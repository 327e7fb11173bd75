"""Whole searches, side by side with the plain way to do them on audiocraft's public API.

    python perf/search.py --output results/performance
    python perf/search.py --method sbs --verifier tags --prompts 1 --repetitions 3

The plain way takes one prompt at a time, samples with `MusicGen.generate`, goes on from audio with
`generate_continuation`, and has perplexity from a second pass, `LMModel.compute_predictions`. Both
ways search with the same N, M and k on the built-in model, on the same threads, and ask the same
server for `tags`. Repetitions alternate, after one warm-up each. Ends in a table on stdout and,
with --output, in search-<verifiers>.json (whose seconds are a prompt's) and .png there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from tqdm import tqdm

from perf.figures import draw
from src.client import ServerClient
from src.data.audio import Clip
from src.data.prompts import Selection, load_prompts
from src.generator import Generator, load_generator
from src.methods import METHODS
from src.runs.local_server import local_server
from src.scoring import ScoreInput, Verifier
from src.search import search
from src.verifier import build_verifier, load_calibration


class Plain:
    """Searches as a user of audiocraft would write them."""

    def __init__(self, generator: Generator, options: argparse.Namespace) -> None:
        from audiocraft.models import MusicGen

        self.model = MusicGen("builtin", generator.codec, generator.lm, max_duration=30)
        self.options = options

    def search(self, method: str, text: str, verifier: Verifier) -> None:
        options = self.options
        if method == "best_of_n":
            self.best(1, *self.sample(text, None, options.duration), text, verifier)
            return
        families = options.candidates // options.beam_width
        rollout = options.step_size * options.lookahead_k if method == "lookahead" else 0
        audio, reached = None, 0.0
        while reached < options.duration:
            reached = min(reached + options.step_size, options.duration)
            tokens, audio = self.sample(text, audio, reached)
            ahead = min(reached + rollout, options.duration)
            seen = (tokens, audio)
            if ahead > reached:
                seen = self.sample(text, audio, ahead, greedy=True)
            last = reached >= options.duration
            kept = self.best(1 if last else families, *seen, text, verifier)
            audio = audio[kept].repeat_interleave(options.beam_width, 0)

    def sample(
        self, text: str, audio: Tensor | None, seconds: float, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """N candidates of that length: int64 [N, codebooks, frames], and their audio."""
        self.model.set_generation_params(not greedy, top_k=250, duration=seconds, cfg_coef=3.0)
        texts = [text] * self.options.candidates
        if audio is None:
            audio, tokens = self.model.generate(texts, return_tokens=True)
        else:
            rate = self.model.sample_rate
            audio, tokens = self.model.generate_continuation(audio, rate, texts, return_tokens=True)
        return tokens, audio

    def best(
        self, count: int, tokens: Tensor, audio: Tensor, text: str, verifier: Verifier
    ) -> list[int]:
        """The best candidates' places."""
        from audiocraft.modules.conditioners import ConditioningAttributes

        if verifier.needs_audio:
            clips = [Clip(samples.numpy(), self.model.sample_rate) for samples in audio]
            scores = verifier.score([ScoreInput(text, clip, 0.0, None) for clip in clips])
            values = torch.tensor([getattr(score, "value", -torch.inf) for score in scores])
        else:
            attributes = [ConditioningAttributes(text={"description": text})] * len(tokens)
            output = self.model.lm.compute_predictions(tokens, attributes)
            log_probs = output.logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
            values = log_probs.nan_to_num().mul(output.mask).sum((1, 2)) / output.mask.sum((1, 2))
        return values.topk(count).indices.tolist()


seeds = itertools.count()


def seconds(run: Callable[..., object], *args: object) -> float:
    began = time.perf_counter()
    run(*args)
    return time.perf_counter() - began


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    searching = ["best_of_n", "sbs", "lookahead"]  # what `Plain` knows
    parser.add_argument("--method", nargs="+", choices=searching, default=searching)
    parser.add_argument("--verifier", nargs="+", default=["perplexity", "tags"])
    parser.add_argument("--prompts", nargs="+", type=int, default=[1, 4], help="side by side")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--beam_width", type=int, default=4)
    parser.add_argument("--lookahead_k", type=int, default=1)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--step_size", type=float, default=2.0, help="seconds")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for JSON and figure")
    return parser.parse_args()


def measure(
    method: str, verifier: Verifier, generator: Generator, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds a prompt of each repetition: the plain way's, and with so many prompts together."""
    own = {p.name: getattr(options, p.name) for p in METHODS[method].parameters}
    shape = (options.candidates, options.duration, options.step_size, generator.frame_rate)
    plan, plain = METHODS[method].make_plan(*shape, own), Plain(generator, options)
    prompts = load_prompts("builtin", Selection(limit=max(options.prompts)), Path("data"))
    times: dict[str, list[float]] = {"plain": [], **{str(n): [] for n in options.prompts}}
    for repetition in range(options.repetitions + 1):
        taken = {"plain": seconds(plain.search, method, prompts[0].text, verifier)}
        for count in options.prompts:
            # Audio that the server has not heard before, nor remembers.
            seed = next(seeds)
            ours = seconds(search, plan, prompts[:count], generator, verifier, seed)
            taken[str(count)] = ours / count
        for key, value in taken.items() if repetition else ():  # the first warms up
            times[key].append(value)
    return times


@torch.inference_mode()
def main() -> None:
    options = options_of()
    generator = load_generator("builtin")
    constants = load_calibration(generator.checkpoint, Path("data"))
    rows = []
    with ExitStack() as stack:
        client = None
        if "tags" in options.verifier:
            client = ServerClient(stack.enter_context(local_server(["tags"])), None)
        for name, method in tqdm([*itertools.product(options.verifier, options.method)]):
            verifier = build_verifier(name, generator.checkpoint, client, constants)
            times = measure(method, verifier, generator, options)
            rows.append({"method": method, "verifier": name, "seconds": times})
    print("verifier    method     prompts  plain s  s a prompt  times as fast")
    for row, count in itertools.product(rows, options.prompts):
        base, taken = row["seconds"]["plain"], row["seconds"][str(count)]
        ratios = [a / b for a, b in zip(base, taken, strict=True)]
        print(
            f"{row['verifier']:12}{row['method']:11}{count:7}{median(base):9.2f}{median(taken):12.2f}"
            f"  {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if options.output:
        settings = {k: v for k, v in vars(options).items() if k != "output"}
        record = {"settings": settings, "threads": torch.get_num_threads(), "searches": rows}
        path = options.output / f"search-{'-'.join(options.verifier)}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        draw(path)


if __name__ == "__main__":
    main()
