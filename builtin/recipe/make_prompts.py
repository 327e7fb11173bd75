"""Step 6 of the recipe: 64 held-out prompts with reference audio, in MusicCaps' columns.

    envs/training/.venv/bin/python -m builtin.recipe.make_prompts --work build/recipe

Prompts come from pieces that training never saw, evenly over the instruments; every fourth also
asks for a combination of attributes that training never saw. Any first n of the table are varied.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval", "path",
)  # fmt: skip


def choose(rows: list[dict], count: int, seed: int, splits: Sequence[str] = ("test",)) -> list[int]:
    """Indices of `count` rows, each of a piece of its own: the leads in turn, every fourth a
    held-out combination; of the first split what fits, then of the next."""
    rng = random.Random(seed)
    order: list[int] = []
    for split in splits:
        group = [i for i, row in enumerate(rows) if row["split"] == split]
        rng.shuffle(group)
        order += group
    leads = sorted({row["lead"] for row in rows})
    rng.shuffle(leads)
    chosen: list[int] = []
    for number in range(count):
        unseen = number % 4 == 3
        taken = Counter(rows[i]["lead"] for i in chosen)
        pieces = {rows[i]["piece"] for i in chosen}
        for lead in sorted(leads, key=lambda name: taken[name]):  # the least asked for first
            fitting = (
                i
                for i in order
                if rows[i]["lead"] == lead
                and rows[i]["held_out_combination"] == unseen
                and rows[i]["piece"] not in pieces
            )
            if (index := next(fitting, None)) is not None:
                chosen.append(index)
                break
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} prompts of {count} found: render more test clips")
    return chosen


def table_row(name: str, row: dict, seconds: int, balanced: bool) -> dict:
    """A clip's row in MusicCaps' columns; its reference is references/<name>.ogg."""
    drums = "drums" if row["drums"] else "no drums"
    aspects = [row[key] for key in ("lead", "accompaniment", "tempo", "mode", "style")] + [drums]
    return {
        "ytid": name, "start_s": 0, "end_s": seconds, "audioset_positive_labels": "",
        "aspect_list": str([a for a in aspects if a]), "caption": row["caption"],
        "author_id": 0, "is_balanced_subset": balanced, "is_audioset_eval": False,
        "path": f"references/{name}.ogg",
    }  # fmt: skip


def main() -> None:
    """Write prompts.csv, prompts.json (all attributes) and references/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/recipe"), help="folder of the recipe's files"
    )
    parser.add_argument("--target", type=Path, default=Path("builtin"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.work / "clips.jsonl").open()]
    audio = np.load(options.work / "audio.npy", mmap_mode="r")
    references = options.target / "references"
    references.mkdir(exist_ok=True)
    chosen = choose(rows, options.count, options.seed)
    attributes = {}
    with (options.target / "prompts.csv").open("w", newline="") as out:
        table = csv.DictWriter(out, COLUMNS)
        table.writeheader()
        for number, index in enumerate(chosen):
            row, name = rows[index], f"builtin-{number:02d}"
            soundfile.write(
                references / f"{name}.ogg", audio[index], 16_000, format="OGG", subtype="OPUS"
            )
            table.writerow(table_row(name, row, 10, number < 32))
            attributes[name] = {**row, "row": index}
    (options.target / "prompts.json").write_text(json.dumps(attributes, indent=1) + "\n")


if __name__ == "__main__":
    main()
