"""Step 7 of the recipe: what the stored weights can do, measured on held-out prompts.

    envs/generator/.venv/bin/python -m builtin.recipe.evaluate --work build/recipe

Loads `builtin/` as users do and writes `builtin/figures.json`:

- codec: on held-out pieces, log-mel distance, correlation of tag log-odds with the original's, how
  often the highest tag stays the same. (Needs the recipe's folder for the uncompressed clips.)
- instrument: how often the instrument that the tagger hears first (among the corpus') is one that
  the prompt asks for; generated clips against the references.
- conditioning: mean log-odds of the tags that a prompt names, on its own clips less on the clips of
  the other prompts, with a 95% interval over prompts.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from builtin.recipe.arguments import recipe_parser
from builtin.recipe.captions import INSTRUMENT_WORDS
from builtin.recipe.train_codec import MelLoss
from src.data.audio import read_audio
from src.data.prompts import Selection, load_prompts
from src.decoding.builtin import BUILTIN_DIR, load_codec
from src.generator import load_generator
from src.models.tagger import Tagger, load_tagger
from src.models.tags import named_tags
from src.stats.intervals import mean_interval

log = logging.getLogger("evaluate")
INSTRUMENTS = tuple(INSTRUMENT_WORDS)


def log_odds(tagger: Tagger, clips: list[np.ndarray]) -> np.ndarray:
    """float32 [clips, 50], a few clips at a time."""
    rows = [
        tagger.logits([torch.from_numpy(c) for c in clips[i : i + 16]])
        for i in range(0, len(clips), 16)
    ]
    return torch.cat(rows).numpy()


@torch.inference_mode()
def evaluate_codec(work: Path, tagger: Tagger, count: int) -> dict[str, float]:
    """The codec against the uncompressed clips of held-out pieces."""
    splits = [json.loads(line)["split"] for line in (work / "clips.jsonl").open()]
    rows = [i for i, split in enumerate(splits) if split == "test"][:count]
    audio = np.load(work / "audio.npy", mmap_mode="r")[rows].astype(np.float32) / 32768
    codec = load_codec()
    distance = MelLoss(codec.config.sample_rate)
    coded, total = [], 0.0
    for clip in tqdm(torch.from_numpy(audio), desc="codec", unit="clip"):
        output = codec.decode(codec.encode(clip[None]))
        for window in (512, 1024, 2048):
            a, b = distance.features(output, window), distance.features(clip[None], window)
            total += float((torch.log10(a + 1e-5) - torch.log10(b + 1e-5)).abs().mean()) / 3
        coded.append(output[0].numpy())
    before, after = log_odds(tagger, list(audio)), log_odds(tagger, coded)
    return {
        "clips": len(rows),
        "log10_mel_distance": total / len(rows),
        "tag_log_odds_correlation": float(np.corrcoef(before.ravel(), after.ravel())[0, 1]),
        "top_tag_agreement": float((before.argmax(1) == after.argmax(1)).mean()),
    }


def heard(odds: np.ndarray, tags: list[str]) -> list[str]:
    """The corpus' instrument with the highest log-odds, for each clip."""
    columns = [tags.index(name) for name in INSTRUMENTS]
    return [INSTRUMENTS[i] for i in odds[:, columns].argmax(1)]


def main() -> None:
    """Generate, score, write figures.json."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="print the figures, do not write them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tagger = load_tagger("tags")
    tags = list(tagger.tags)
    figures: dict[str, object] = {}
    if (options.work / "audio.npy").exists():
        figures["codec"] = evaluate_codec(options.work, tagger, 64)
    prompts = load_prompts("builtin", Selection(options.prompts), Path())
    attributes = json.loads((BUILTIN_DIR / "prompts.json").read_text())
    generator = load_generator("builtin")
    odds = []
    for first in tqdm(range(0, len(prompts), 16), desc="generate", unit="group"):
        group = prompts[first : first + 16]
        frames = round(options.seconds * generator.frame_rate)
        decoding = generator.begin(
            [p.text for p in group],
            [p.key for p in group],
            options.candidates,
            frames,
            options.seed,
        )
        decoding.advance(frames)
        clips = [clip.samples.mean(0) for clip in generator.render(decoding.tokens())]
        odds.append(log_odds(tagger, clips))
    generated = np.concatenate(odds).reshape(len(prompts), options.candidates, -1)
    length = round(options.seconds * 16_000)
    references = log_odds(
        tagger, [read_audio(p.reference).samples.mean(0)[:length] for p in prompts if p.reference]
    )

    asked = [{attributes[p.id]["lead"], attributes[p.id]["accompaniment"]} for p in prompts]
    lead = [attributes[p.id]["lead"] for p in prompts]
    on_references = [h in a for h, a in zip(heard(references, tags), asked, strict=True)]
    on_generated = [[h in a for h in heard(g, tags)] for g, a in zip(generated, asked, strict=True)]
    by_lead = {
        name: [
            float(np.mean([x for x, n in zip(on, lead, strict=True) if n == name]))
            for on in (on_references, on_generated)
        ]
        for name in sorted(set(lead))
    }
    figures["instrument"] = {
        "references": float(np.mean(on_references)),
        "generated": float(np.mean(on_generated)),
        "ratio": float(np.mean(on_generated) / np.mean(on_references)),
        "by_lead_references_generated": by_lead,
    }
    named = [named_tags(p.text, "tags") for p in prompts]

    def score(prompt: int, clips: np.ndarray) -> float:
        wanted = [tags.index(t) for t in named[prompt].wanted]
        unwanted = [tags.index(t) for t in named[prompt].unwanted]
        value = clips[:, wanted].mean() if wanted else 0.0
        return float(value - clips[:, unwanted].mean()) if unwanted else float(value)

    right = np.array([score(i, generated[i]) for i in range(len(prompts))])
    wrong = np.array(
        [
            np.mean([score(i, generated[j]) for j in range(len(prompts)) if j != i])
            for i in range(len(prompts))
        ]
    )
    on_reference = np.array([score(i, references[i : i + 1]) for i in range(len(prompts))])
    mean, low, high = mean_interval(right - wrong)
    figures["conditioning"] = {
        "right_prompt": float(right.mean()),
        "other_prompts": float(wrong.mean()),
        "references": float(on_reference.mean()),
        "right_minus_other": mean,
        "interval_95": [low, high],
    }
    figures["setting"] = {
        "prompts": len(prompts),
        "candidates": options.candidates,
        "seconds": options.seconds,
        "seed": options.seed,
    }
    print(json.dumps(figures, indent=2))
    if not options.dry:
        (BUILTIN_DIR / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
