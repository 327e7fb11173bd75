"""Step 1 of the recipe: public-domain scores -> lists of notes.

    envs/training/.venv/bin/python -m builtin.recipe.scores --work build/recipe

Reads tunes and chorales from the corpus that ships inside music21 and writes `pieces.jsonl`, one
piece a line. Only collections whose music is in the public domain and whose transcriptions carry no
restriction in the corpus are read (`SOURCES`); collections marked non-commercial or with a
copyright line are left out. Nothing of a score is redistributed: the notes become audio.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from music21 import converter, corpus, key, meter, note, stream
from tqdm import tqdm

from builtin.recipe.arguments import recipe_parser

log = logging.getLogger("scores")

# Folder of music21's corpus -> (collection, how many files to read at most).
SOURCES = {
    "bach": ("J. S. Bach, four-part chorales (before 1750)", 400),
    "ryansMammoth": ("W. B. Ryan, Ryan's Mammoth Collection (1883)", 1100),
    "oneills1850": ("F. O'Neill, Music of Ireland (1903)", 40),
    "airdsAirs": ("J. Aird, A Selection of Airs (1778-1801)", 6),
}
DANCES = ("reel", "jig", "hornpipe", "strathspey", "waltz", "march", "polka", "air", "quickstep")


@dataclass
class Piece:
    """One tune or chorale. Notes are [onset, duration, MIDI pitch], in quarter notes."""

    id: str
    source: str
    title: str
    style: str
    mode: str
    tonic: int
    meter: str
    bars: list[float]
    parts: list[list[tuple[float, float, int]]]


def style_of(source: str, title: str, time_signature: str) -> str:
    """The word for the style that captions use, from the collection, the title and the meter."""
    if source == "bach":
        return "chorale"
    words = re.findall(r"[a-z]+", title.lower())
    for dance in DANCES:
        if dance in words or any(word.endswith(dance) for word in words):
            return "march" if dance == "quickstep" else dance
    return {"6/8": "jig", "9/8": "jig", "3/4": "waltz"}.get(time_signature, "folk tune")


def to_piece(score: stream.Stream, source: str, name: str) -> Piece | None:
    """A parsed score as notes, or None when it has no key, odd meters or too little music."""
    signatures = list(score.recurse().getElementsByClass(meter.TimeSignature))
    if not signatures or len({s.ratioString for s in signatures}) > 1:
        return None
    time_signature = signatures[0].ratioString
    time_signature = {"C": "4/4", "C|": "2/2"}.get(time_signature, time_signature)
    if time_signature not in {"4/4", "2/2", "2/4", "3/4", "6/8", "9/8", "3/8", "6/4", "3/2"}:
        return None
    parts = []
    for part in score.parts if hasattr(score, "parts") and len(score.parts) else [score]:
        notes = [
            (float(n.getOffsetInHierarchy(score)), float(n.quarterLength), int(n.pitch.midi))
            for n in part.stripTies().recurse().getElementsByClass(note.Note)
            if n.quarterLength > 0
        ]
        if notes:
            parts.append(sorted(notes))
    if not parts or len(parts) not in (1, 4) or len(parts[0]) < 24:
        return None
    estimated = score.analyze("key")
    declared = next(iter(score.recurse().getElementsByClass(key.Key)), None)
    chosen = (
        declared
        if isinstance(declared, key.Key) and declared.mode in ("major", "minor")
        else estimated
    )
    if estimated.mode != chosen.mode and source != "bach":
        chosen = estimated
    first = score.parts[0] if hasattr(score, "parts") and len(score.parts) else score
    bars = sorted({float(m.offset) for m in first.getElementsByClass(stream.Measure)})
    title = (score.metadata.title if score.metadata else None) or name
    if len(bars) < 6:
        return None
    return Piece(
        name,
        source,
        title,
        style_of(source, title, time_signature),
        chosen.mode,
        int(chosen.tonic.pitchClass),
        time_signature,
        bars,
        parts,
    )


def read(job: tuple[str, str]) -> list[dict]:
    """All pieces of one corpus file. A piece that music21 cannot read is left out."""
    source, path = job
    warnings.filterwarnings("ignore")
    try:
        parsed = converter.parse(path)
    except Exception as error:  # music21 raises many types on malformed scores
        log.debug("left out %s: %s", path, error)
        return []
    scores = list(parsed.scores) if isinstance(parsed, stream.Opus) else [parsed]
    pieces = []
    for index, score in enumerate(scores):
        try:
            piece = to_piece(score, source, f"{source}/{Path(path).stem}/{index}")
        except Exception as error:
            log.debug("left out %s of %s: %s", index, path, error)
            continue
        if piece:
            pieces.append(asdict(piece))
    return pieces


def main() -> None:
    """Read every source and write pieces.jsonl."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.work.mkdir(parents=True, exist_ok=True)
    jobs = []
    for source, (_, limit) in SOURCES.items():
        paths = sorted(
            str(p) for p in corpus.getComposer(source) if Path(p).suffix in {".abc", ".mxl", ".xml"}
        )
        jobs += [(source, path) for path in paths[:limit]]
    target = options.work / "pieces.jsonl"
    count = 0
    with target.with_suffix(".part").open("w") as out, ProcessPoolExecutor(options.workers) as pool:
        for pieces in tqdm(pool.map(read, jobs, chunksize=4), total=len(jobs), unit="file"):
            for piece in pieces:
                out.write(json.dumps(piece) + "\n")
                count += 1
    target.with_suffix(".part").replace(target)
    log.info("%d pieces in %s", count, target)


if __name__ == "__main__":
    main()
