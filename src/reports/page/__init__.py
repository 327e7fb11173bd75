"""The listening page: a run's index.html, made from its records alone.

`python -m src.reports RUN_DIR` makes it for any run of benchmark.py: finished, still running or
interrupted. The page is one file with its styles and scripts inside; it names audio relatively and
asks for nothing from outside, so it works from the disk and from a file server. Here is what it
says; how it looks and behaves is in the files beside this module.

Captions are anybody's text. The template escapes them, the scripts write them as text and never as
markup, and the page's own policy lets no script run but the page's.
"""

import base64
import hashlib
import os.path
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.data.files import whole_file
from src.methods import BASELINE, METHODS
from src.reports.benchmark_study import Study, difference_text, value_of
from src.reports.table import describe, shown
from src.runs.measures import Measure
from src.runs.records import Record, key_of

HERE = Path(__file__).parent
# One module, in this order: each part uses what stands before it.
SCRIPTS = ("markup.js", "player.js", "tree.js", "clips.js", "choose.js")
STYLES = ("base.css", "page.css")
# Results beside the page that it links to.
FILES = ("benchmark.png", "summary.csv", "per_clip.csv", "records.jsonl", "manifest.json")
REACH = 3  # folders above the run's in which a reference is linked to: results/demo/run/../../..


def write_page(folder: Path, study: Study, findings: Sequence[str]) -> Path:
    """Write a run's page and return its path. findings: the report's sentences."""
    page = one_file(
        HERE / "page.html",
        scripts=[HERE / name for name in SCRIPTS],
        styles=[HERE / name for name in STYLES],
        media="'self' file:",
        title=study.manifest["title"],
        study=study,
        describe=describe,
        difference_text=difference_text,
        shown=shown,
        findings=findings,
        files=[name for name in FILES if (folder / name).is_file()],
        saved=sum(bool(link(folder, record.get("audio"))) for record in study.done),
        clips=_clips(study),
        prompts=_prompts(folder, study),
    )
    path = folder / "index.html"
    with whole_file(path) as file:
        file.writelines(piece.encode() for piece in page)
    return path


def one_file(
    template: Path, scripts: Sequence[Path], styles: Sequence[Path], media: str, **values: Any
) -> Iterator[str]:
    """A page with its scripts and styles inside, which its policy lets run alone; in pieces.

    media: where its audio may come from, as a Content-Security-Policy names it. values: what the
    template shows besides `script`, `style` and `policy`.
    """
    code, style = (
        "\n".join(path.read_text(encoding="utf-8") for path in paths) for paths in (scripts, styles)
    )
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson escapes what could end a script element; keys keep their order.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    sums = [hashlib.sha256(text.encode()).digest() for text in (style, code)]
    of_style, of_script = (base64.b64encode(digest).decode() for digest in sums)
    policy = (
        f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'; "
        f"media-src {media}; base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template.name)
    return page.generate(script=code, style=style, policy=policy, **values)


def _clips(study: Study) -> dict[str, Any]:
    """What the clips of all prompts have in common."""
    finished = {record["method"] for record in (*study.done, *study.failed)}
    return {
        "methods": [m for m in study.manifest["identity"]["settings"]["method"] if m in finished],
        "baseline": BASELINE,
        "summaries": {m: METHODS[m].summary for m in METHODS if m in finished},
        "measures": [
            {
                "name": m.name,
                "arrow": m.arrow,
                "better": m.sign,
                "evidence": m.is_judge,
                "role": describe(m),
                "short": m.role,
                "digits": study.digits(m.name),
            }
            for m in study.measures
            if m.kind == "clip"
        ],
    }


def _prompts(folder: Path, study: Study) -> Iterator[dict[str, Any]]:
    """Each prompt's clips; no more than one prompt's trees are in memory."""
    measures = [measure for measure in study.measures if measure.kind == "clip"]
    prompts: dict[str, list[Record]] = defaultdict(list)
    for record in (*study.done, *study.failed):
        prompts[record["prompt_id"]].append(record)
    for name, own in prompts.items():
        references = (link(folder, record.get("reference"), REACH) for record in own)
        whole = (study.records[key_of(record)] for record in own)
        yield {
            "id": name,
            "text": own[0].get("prompt", name),
            "reference": next(filter(None, references), None),
            "clips": {record["method"]: _clip(folder, record, measures) for record in whole},
        }


def link(folder: Path, name: str | None, above: int = 0) -> str | None:
    """A file's name relative to the run's folder; None where there is no such file.

    None too where it lies neither in the folder nor in one that is at most `above` folders up: such
    a link would break as soon as the run is moved.
    """
    if name is None or Path(name).is_absolute():
        return None
    here = folder.resolve()
    reach = [here, *here.parents][: above + 1][-1]
    path = Path(os.path.normpath(here / name))
    return name if path.is_relative_to(reach) and path.is_file() else None


def _clip(folder: Path, record: Record, measures: Sequence[Measure]) -> dict[str, Any]:
    """One method's clip of one prompt. scores: in the order of `measures`, None where there is
    none. tree: by step its candidates, each [slot, parent, score, log-probability, kept]; with why,
    where it has no score. silent: what to say of a silent winner, or nothing."""
    if record["status"] != "ok":
        where = ""
        if "step" in record:
            where = f"step {record['step']}, candidate {record['slot']}, {record['verifier']}: "
        return {"failed": f"{where}{record['reason']}"}
    nodes, leaves = record.get("tree", []), record.get("candidates")
    slot = nodes[-1]["slot"] if nodes else 0  # of one that is left at the end
    steps: list[list[Any]] = [[] for _ in {node["step"] for node in nodes}]
    for node in nodes:
        score, log_prob = _short(node["score"].get("value")), _short(node["log_prob"])
        steps[node["step"]].append(
            [node["slot"], node["parent"], score, log_prob, int(node["kept"])]
            + ([node["score"]["reason"]] if score is None else [])
        )
    return {
        "audio": link(folder, record.get("audio")),
        "leaves": leaves if leaves and link(folder, f"{leaves}/{slot:03d}.wav") else None,
        "scores": [_short(value_of(record, measure)) for measure in measures],
        "unjudged": record["unjudged"],
        "parts": {k: _short(v) for k, v in record["winner"]["score"]["components"].items()},
        "log_prob": _short(record["winner"].get("log_prob")),
        "silent": _silence(record["winner"]),
        "frames": record["ledger"]["frames"],
        "scored": record["ledger"]["clips"],
        "tree": steps,
    }


def _silence(winner: Record) -> str:
    level = winner.get("level")
    if not winner.get("silent"):
        return ""
    return "silent: nothing but zeros" if level is None else f"silent: {level:.0f} dB"


def _short(value: float | None) -> float | None:
    """Six digits: enough to read, a third of the bytes."""
    return None if value is None else float(f"{value:.6g}")
