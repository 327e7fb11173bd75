"""Step 6 of the recipe: held-out prompts with reference audio, in MusicCaps' columns.

    envs/training/.venv/bin/python -m builtin.recipe.make_prompts --work build/recipe
    envs/training/.venv/bin/python -m builtin.recipe.make_prompts --confirmation --work build/recipe

64 prompts with references of 10 s, from the test clips of step 2. Prompts come from pieces that
training never saw, evenly over the instruments; every fourth also asks for a combination of
attributes that training never saw. Any first n of the table are varied.

With --confirmation 256 further ones with references of 5 s, in a folder of their own: whatever was
chosen by looking at the 64 can be confirmed on these. None of their pieces is among those of the 64
or was trained on, and each piece serves one prompt: those held out for the test first, then those
that validation listened to. Needs `pieces.jsonl` of step 1 alone, and renders only what it chooses.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from builtin.recipe.arguments import recipe_parser
from builtin.recipe.captions import Attributes, caption
from builtin.recipe.corpus import RATE, Event, Renderer, arrange, described, split_of

COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval", "path",
)  # fmt: skip

DRAWS = 60  # of each piece; many, so that almost every piece fits some lead in its turn


@dataclass(frozen=True)
class PromptSet:
    """How many prompts, with references of how many seconds. splits: whose pieces, the preferred
    first. compression: of soundfile, 0 to 1, what bit rate (VBR)."""

    name: str
    count: int
    seed: int
    seconds: int
    splits: tuple[str, ...]
    compression: float | None = None


PROMPTS = PromptSet("builtin-{:02d}", 64, 1, 10, ("test",))
# 256 references stay under 3.3 MB.
CONFIRMATION = PromptSet("conf-{:03d}", 256, 2, 5, ("test", "valid"), 0.952)


def draw(
    pieces: Iterable[dict], taken: set[str], seed: int
) -> Iterator[tuple[dict, Attributes, list[Event]]]:
    """Rows as corpus.make describes clips, and what renders them; no caption twice.

    taken: captions that are not to be drawn; those drawn are added.
    """
    for piece in pieces:
        for number in range(DRAWS):
            rng = random.Random(f"confirmation/{seed}/{piece['id']}/{number}")
            if (arranged := arrange(piece, rng)) is None:
                continue
            attributes, events = arranged
            text = caption(attributes, rng)
            if text not in taken:
                taken.add(text)
                yield described(piece, attributes, text), attributes, events


def choose(rows: Sequence[dict], count: int, seed: int, splits: Sequence[str]) -> list[int]:
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


def write(
    folder: Path, made: PromptSet, chosen: Sequence[dict], audio: Iterable[np.ndarray]
) -> None:
    """prompts.csv and references/. audio: of each chosen row, int16 [samples]."""
    references = folder / "references"
    references.mkdir(parents=True, exist_ok=True)
    columns = COLUMNS if made is PROMPTS else (*COLUMNS, "piece")
    with (folder / "prompts.csv").open("w", newline="") as out:
        table = csv.DictWriter(out, columns, extrasaction="ignore")
        table.writeheader()
        progress = tqdm(zip(chosen, audio, strict=True), total=made.count, unit="clip")
        for number, (row, samples) in enumerate(progress):
            name = made.name.format(number)
            soundfile.write(
                references / f"{name}.ogg",
                samples[: RATE * made.seconds],
                RATE,
                format="OGG",
                subtype="OPUS",
                compression_level=made.compression,
            )
            cells = table_row(name, row, made.seconds, number < made.count // 2)
            table.writerow({**cells, "piece": row["piece"]})


def main() -> None:
    """Write prompts.csv, prompts.json (all attributes) and references/, or the confirmation's."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--target", type=Path, default=Path("builtin"))
    parser.add_argument("--confirmation", action="store_true", help="256 further prompts")
    options = parser.parse_args()
    known = options.target / "prompts.json"
    if options.confirmation:
        made, earlier = CONFIRMATION, json.loads(known.read_text()).values()
        used = {row["piece"] for row in earlier}
        pieces = [json.loads(line) for line in (options.work / "pieces.jsonl").open()]
        unseen = [p for p in pieces if split_of(p["id"]) != "train" and p["id"] not in used]
        drawn = list(draw(unseen, {row["caption"] for row in earlier}, made.seed))
        rows = [row for row, *_ in drawn]
        chosen = choose(rows, made.count, made.seed, made.splits)
        renderer = Renderer()
        audio = (renderer(*drawn[index][1:]) for index in chosen)
        write(options.target / "confirmation", made, [rows[index] for index in chosen], audio)
        return
    rows = [json.loads(line) for line in (options.work / "clips.jsonl").open()]
    clips = np.load(options.work / "audio.npy", mmap_mode="r")
    chosen = choose(rows, PROMPTS.count, PROMPTS.seed, PROMPTS.splits)
    write(options.target, PROMPTS, [rows[at] for at in chosen], (clips[at] for at in chosen))
    attributes = {
        PROMPTS.name.format(number): {**rows[at], "row": at} for number, at in enumerate(chosen)
    }
    known.write_text(json.dumps(attributes, indent=1) + "\n")


if __name__ == "__main__":
    main()
