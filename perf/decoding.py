"""Tokens a second: this decoder side by side with audiocraft's own `LMModel.generate`.

    python perf/decoding.py --model builtin
    python perf/decoding.py --model small --require 4

Both decode the same number of candidates of one prompt, with guidance and top-k, in the same dtype
on the same threads; tokens only, neither text encoder nor codec. Repetitions alternate, after one
warm-up each, so that whatever else the machine does meets both. `small` is MusicGen-small's shape
(24 layers, 1024 wide, 16 heads, 4 codebooks of 2048) with random weights: speed does not depend on
what they are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from src.decoding.decoder import Decoder, Sampling
from src.generator import audiocraft_without_clap
from tests.generator.random_models import attributes, condition, random_lm

SMALL = {"dim": 1024, "layers": 24, "heads": 16, "card": 2048}


def load(model: str) -> torch.nn.Module:
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


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run, the device's work included."""
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> int:
    """Print the table; 1 when the ratio asked for is not reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["builtin", "small"], default="builtin")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--text_tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--require", type=float, help="exit with 1 below this median ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm = load(options.model).to(options.device)
    prompt = " ".join(f"word{i}" for i in range(options.text_tokens))
    texts = attributes(*[prompt] * options.candidates)
    source = condition(lm, prompt)
    decoder = Decoder(lm, Sampling(top_k=250, guidance=3.0), max_rows=options.candidates)

    def audiocraft() -> torch.Tensor:
        return lm.generate(None, texts, max_gen_len=options.frames, top_k=250, cfg_coef=3.0)

    def ours() -> torch.Tensor:
        decoding = decoder.begin([source], options.candidates, options.frames, ["key"], seed=1)
        decoding.advance(options.frames)
        return decoding.tokens()

    runs = {"audiocraft": audiocraft, "curator": ours}
    with torch.inference_mode():
        for run in runs.values():
            assert run().shape == (options.candidates, lm.n_q, options.frames)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in tqdm(range(options.repetitions), unit="repetition", leave=False):
            for name, run in runs.items():
                times[name].append(seconds(run))
    ratios = [a / b for a, b in zip(times["audiocraft"], times["curator"], strict=True)]
    print(
        f"{options.model}, {options.candidates} candidates, {options.frames} frames, "
        f"{options.text_tokens} text tokens, float32, {options.device}, {options.threads} threads"
    )
    print(f"{'':12}{'median s':>10}{'min':>8}{'max':>8}{'ms/step':>10}{'frames/s':>11}")
    for name, t in times.items():
        step = median(t) / (options.frames + 3) * 1000
        rate = options.candidates * options.frames / median(t)
        print(f"{name:12}{median(t):10.2f}{min(t):8.2f}{max(t):8.2f}{step:10.1f}{rate:11.0f}")
    print(f"audiocraft / curator: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return int(options.require is not None and median(ratios) < options.require)


if __name__ == "__main__":
    sys.exit(main())
