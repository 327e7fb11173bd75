"""Step 7 of the recipe: 256 prompts for a confirmation, with reference clips of 5 s.

    envs/training/.venv/bin/python -m builtin.recipe.make_confirmation --work build/recipe

Whatever was chosen by looking at the 64 prompts of `prompts.csv` can be confirmed on these. None of
their pieces is in that table or was trained on, and each piece serves one prompt: the pieces held
out for the test first, then those that validation listened to. Leads and combinations of attributes
as in make_prompts. Needs `pieces.jsonl` of step 1 alone, and renders only what it chooses.

Writes confirmation/prompts.csv and confirmation/references/ beside the tables that it reads.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import soundfile
from tqdm import tqdm

from builtin.recipe.captions import Attributes, caption
from builtin.recipe.corpus import RATE, Event, Renderer, arrange, held_out, split_of
from builtin.recipe.make_prompts import COLUMNS, choose, table_row

COUNT, SECONDS = 256, 5
SEED = 2  # prompts.csv has 1
DRAWS = 60  # of each piece; many, so that almost every piece fits some lead in its turn
# Of soundfile, 0 to 1: the bit rate (VBR) at which 256 references stay under 3.3 MB.
COMPRESSION = 0.952


def draw(pieces: list[dict], taken: set[str]) -> Iterator[tuple[dict, Attributes, list[Event]]]:
    """Rows as corpus.make describes clips, and what renders them; no caption twice.

    taken: captions that are not to be drawn; those drawn are added.
    """
    for piece in pieces:
        for number in range(DRAWS):
            rng = random.Random(f"confirmation/{SEED}/{piece['id']}/{number}")
            if (arranged := arrange(piece, rng)) is None:
                continue
            attributes, events = arranged
            text = caption(attributes, rng)
            if text in taken:
                continue
            taken.add(text)
            row = {
                "split": split_of(piece["id"]),
                "caption": text,
                "piece": piece["id"],
                "held_out_combination": held_out(attributes),
                **asdict(attributes),
            }
            yield row, attributes, events


def main() -> None:
    """Choose, render, and write the table and its references."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/recipe"), help="folder of the recipe's files"
    )
    parser.add_argument("--target", type=Path, default=Path("builtin"))
    options = parser.parse_args()
    earlier = json.loads((options.target / "prompts.json").read_text()).values()
    used = {row["piece"] for row in earlier}
    pieces = [json.loads(line) for line in (options.work / "pieces.jsonl").open()]
    unseen = [p for p in pieces if split_of(p["id"]) != "train" and p["id"] not in used]
    drawn = list(draw(unseen, {row["caption"] for row in earlier}))
    chosen = choose([row for row, *_ in drawn], COUNT, SEED, ("test", "valid"))

    references = options.target / "confirmation" / "references"
    references.mkdir(parents=True, exist_ok=True)
    renderer = Renderer()
    with (references.parent / "prompts.csv").open("w", newline="") as out:
        table = csv.DictWriter(out, (*COLUMNS, "piece"))
        table.writeheader()
        for number, index in enumerate(tqdm(chosen, unit="clip")):
            row, attributes, events = drawn[index]
            name = f"conf-{number:03d}"
            soundfile.write(
                references / f"{name}.ogg",
                renderer(attributes, events)[: RATE * SECONDS],
                RATE,
                format="OGG",
                subtype="OPUS",
                compression_level=COMPRESSION,
            )
            columns = table_row(name, row, SECONDS, number < COUNT // 2)
            table.writerow({**columns, "piece": row["piece"]})


if __name__ == "__main__":
    main()
