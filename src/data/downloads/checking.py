"""--check: the files against the manifest and the table, offline; and what a run ends with."""

from collections import Counter
from collections.abc import Sequence

from src.data.downloads.manifest import Manifest, failed_row, inspect_file, is_there, unlisted
from src.data.downloads.reasons import REASONS
from src.data.musiccaps import Section


def check(manifest: Manifest, sections: Sequence[Section]) -> tuple[list[str], bool]:
    """What is wrong with the files, a line each, and whether every section's file is good.

    A file that is not what was written is marked in the manifest, so that the next run fetches it
    again. Clips that were never had are left to the summary. Raises OSError.
    """
    problems: list[str] = []
    for section in sections:
        row, path = manifest.rows.get(section.ytid), manifest.audio(section)
        if row is None or row["status"] != "ok":
            if path.exists() and (row or {}).get("reason") != "damaged":
                problems.append(f"{path.name}: unlisted: no row of the manifest says it is good")
            continue
        if not path.exists():
            problems.append(f"{path.name}: missing, though the manifest lists it")
            problem = "the file is gone"
        else:
            facts, wrong = inspect_file(path, section, row.get("sample_rate"))
            if wrong:
                problems.append(f"{path.name}: wrong: it {wrong}")
            elif facts["sha256"] != row.get("sha256"):
                problems.append(f"{path.name}: damaged: its sha256 is not the manifest's")
            else:
                continue
            problem = problems[-1].partition(": ")[2]
        manifest.append(failed_row(section, "damaged", problem))
    problems += [
        f"{name}: unlisted: not a clip of the table" for name in unlisted(manifest, sections)
    ]
    return problems, not problems and all(is_there(manifest, section) for section in sections)


def summary(manifest: Manifest, sections: Sequence[Section], rate: int | None) -> str:
    """How many of the sections are there, and of the others how many are not for which reason.

    rate: Hz that a file must have to count; None for any.
    """
    missing = [section for section in sections if not is_there(manifest, section, rate)]
    lines = [f"{len(sections) - len(missing)} of {len(sections)} clips are in {manifest.data_dir}"]
    counts = Counter(_reason(manifest, section) for section in missing)
    for name, count in counts.most_common():
        text = REASONS[name].text if name in REASONS else "not tried yet"
        later = name not in REASONS or REASONS[name].passes
        again = "" if later else " (left alone without --retry)"
        lines.append(f"{count:6d}  {name:<14}  {text}{again}")
    return "\n".join(lines)


def _reason(manifest: Manifest, section: Section) -> str:
    row = manifest.rows.get(section.ytid)
    if row is None or row["status"] == "ok":  # ok, but at another rate, or its file is gone
        return "to do"
    return str(row.get("reason", "other")) if row.get("reason") in REASONS else "other"
