"""The committed benchmark as the first release would have written it."""

import json
import lzma
import shutil
from pathlib import Path

from src.runs.records import COMPRESSED, MANIFEST, RECORDS, Record

ROOT = Path(__file__).resolve().parents[2]
(COMMITTED,) = (ROOT / "results" / "builtin").glob("benchmark-builtin-tags-n8-*")


def first_release(output: Path) -> Path:
    """A copy whose manifest knows neither kinds nor checkpoints of measures, and whose records name
    audio that is not there."""
    folder = Path(shutil.copytree(COMMITTED, output / "builtin"))
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["unread"]
    for measure in manifest["measures"]:
        del measure["kind"], measure["checkpoint"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    lines = lzma.decompress((folder / COMPRESSED).read_bytes()).splitlines()
    (folder / COMPRESSED).unlink()
    records: list[Record] = list(map(json.loads, lines))
    for record in records:
        record["audio"] = f"audio/{record['method']}/{record['prompt_id']}.wav"
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
