"""What a run needs and does not have, all of it at once, before torch is imported.

    ready = preflight.look(needs)
    ready.missing    # everything that is not there; empty: the run can start

Looks for the model and its text encoder (local folder, hub cache, or the hub itself), the prompts,
the judges' references, the verifier server and a place to write. Whatever needs a network is asked
side by side and gets hub.PROBE_SECONDS.

Only the standard library is imported at the top: this module also has to say that it runs in the
wrong environment.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.data import hub
from src.data.files import ROOT
from src.runs.ending import Exit
from src.weights.files import Missing, absent
from src.weights.musicgen import model_parts

if TYPE_CHECKING:
    from src.data.prompts import Prompt
    from src.runs.settings import Needs

WITHOUT_DOWNLOAD = "benchmark.py --profile builtin --server auto --verifier tags"
GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


@dataclass(frozen=True)
class Ready:
    """The prompts, the judges' names, and what is missing (empty: the run can start)."""

    prompts: Sequence["Prompt"]
    judges: tuple[str, ...]
    missing: Sequence[Missing]


def check_environment(
    name: str = "generator", packages: Sequence[str] = GENERATOR_PACKAGES
) -> None:
    """Exit 3, saying what to run or to activate, when this Python lacks an environment's
    packages."""
    lacks = [package for package in packages if importlib.util.find_spec(package) is None]
    if not lacks:
        return
    python, script = f"envs/{name}/.venv/bin/python", Path(sys.argv[0]).name
    build = "" if (ROOT / python).exists() else f"It is not built yet: envs/setup.sh {name}\n"
    sys.stderr.write(
        f"{script} runs in the {name} environment. {sys.executable} lacks {', '.join(lacks)}.\n"
        f"{build}Run it as   {python} {script} ..\n"
        f"or first    source envs/{name}/.venv/bin/activate\n"
    )
    raise SystemExit(Exit.MISSING)


def look(needs: "Needs") -> Ready:
    """Look for everything that the run needs.

    Judges by default are those of the profile that can judge these prompts. When nothing is left to
    be downloaded, hub libraries are kept off the network from here on.
    """
    from src.runs.preflight.judges import choose_judges
    from src.runs.preflight.verifiers import missing_verifiers

    prompts, missing = _prompts(needs)
    parts = model_parts(needs.model, needs.decodes)
    checks = [*(part.missing for part in parts), lambda: missing_verifiers(needs)]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda check: check(), checks):
            missing += found
    judges, found = choose_judges(needs, prompts)
    missing += found + _writable(needs.output)
    if not missing and not any(absent(part.files) for part in parts):
        hub.go_offline()
    return Ready(prompts, judges, missing)


def message(missing: Sequence[Missing], without: str = WITHOUT_DOWNLOAD) -> str:
    """One text that lists everything missing. without: the command that needs no download."""
    lines = [f"Nothing was started: {len(missing)} thing(s) missing.", ""]
    for number, item in enumerate(missing, start=1):
        source = f"{item.source}; licence {item.licence}" if item.licence else item.source
        lines += [f"{number}. {item.what}", f"   from: {source}", f"   do:   {item.how}", ""]
    lines.append(f"Without any download: python {without}")
    return "\n".join(lines)


def _prompts(needs: "Needs") -> tuple[list["Prompt"], list[Missing]]:
    from src.data import musiccaps
    from src.data.prompts import PromptError, load_prompts

    if needs.known is not None:
        return list(needs.known), []
    what, source, licence, instead = "prompts", needs.prompts, "", ""
    try:
        if needs.prompts == "musiccaps" and not (needs.data_dir / musiccaps.TABLE_NAME).is_file():
            what, licence = "the table of MusicCaps", "CC-BY-SA 4.0 (captions)"
            source = f"https://huggingface.co/datasets/{musiccaps.REPOSITORY}"
            instead = ". Or take other prompts: --prompts my.csv, --prompts builtin"
            musiccaps.fetch_table(needs.data_dir)
        return load_prompts(needs.prompts, needs.selection, needs.data_dir), []
    except PromptError as error:
        return [], [Missing(what, source, f"{error}{instead}", licence)]


def _writable(output: Path) -> list[Missing]:
    """Looks only: a run that cannot start leaves no folder behind."""
    there = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    problem = f"{there} is {'not writable' if there.is_dir() else 'not a folder'}"
    return [Missing(f"a folder to write to: {output}", problem, "choose another: --output")]
