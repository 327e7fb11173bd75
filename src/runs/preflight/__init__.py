"""What a run needs and does not have, all of it at once, before torch is imported.

    ready = preflight.look(settings)
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from src.data import hub
from src.runs.ending import Exit
from src.weights.musicgen import ROOT, Missing, hub_needed, missing_encoder, missing_model

if TYPE_CHECKING:
    from src.data.prompts import Prompt
    from src.experiments.scaling_settings import ExperimentSettings
    from src.runs.settings import BenchmarkSettings

S = TypeVar("S", "BenchmarkSettings", "ExperimentSettings")
WITHOUT_DOWNLOAD = "benchmark.py --profile builtin --server auto --verifier tags"
GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


@dataclass(frozen=True)
class Ready(Generic[S]):
    """Settings with their judges, the prompts, and what is missing (empty: the run can start)."""

    settings: S
    prompts: Sequence["Prompt"]
    missing: Sequence[Missing]


def check_environment() -> None:
    """Exit 3, saying what to activate, when this Python is not the generator environment's."""
    absent = [
        package for package in GENERATOR_PACKAGES if importlib.util.find_spec(package) is None
    ]
    if not absent:
        return
    python, script = "envs/generator/.venv/bin/python", Path(sys.argv[0]).name
    build = "" if (ROOT / python).exists() else "It is not built yet: make setup\n"
    sys.stderr.write(
        f"{script} runs in the generator environment. {sys.executable} lacks {', '.join(absent)}.\n"
        f"{build}Run it as   {python} {script} ..\n"
        "or first    source envs/generator/.venv/bin/activate\n"
    )
    raise SystemExit(Exit.MISSING)


def look(settings: S, known: Sequence["Prompt"] | None = None, decodes: bool = True) -> Ready[S]:
    """Look for everything that the run needs.

    known: the prompts, where they are not to be looked for. decodes: whether the language model,
    and with it its text encoder, is used. Judges by default are those of the profile that can judge
    these prompts. When nothing is left to be downloaded, hub libraries are kept off the network
    from here on.
    """
    from src.runs.preflight.judges import choose_judges
    from src.runs.preflight.verifiers import missing_verifiers

    prompts, missing = _prompts(settings) if known is None else (list(known), [])
    model = str(settings.model)
    checks: list[Callable[[], list[Missing]]] = [
        lambda: missing_model(model),
        lambda: missing_encoder(model) if decodes else [],
        lambda: missing_verifiers(settings),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(lambda check: check(), checks):
            missing += found
    judges, found = choose_judges(settings, prompts)
    missing += found + _writable(settings.output)
    if not missing and not hub_needed(model):
        hub.go_offline()
    return Ready(replace(settings, judges=judges), prompts, missing)


def message(missing: Sequence[Missing], without: str = WITHOUT_DOWNLOAD) -> str:
    """One text that lists everything missing. without: the command that needs no download."""
    lines = [f"Nothing was started: {len(missing)} thing(s) missing.", ""]
    for number, item in enumerate(missing, start=1):
        source = f"{item.source}; licence {item.licence}" if item.licence else item.source
        lines += [f"{number}. {item.what}", f"   from: {source}", f"   do:   {item.how}", ""]
    lines.append(f"Without any download: python {without}")
    return "\n".join(lines)


def _prompts(
    settings: "BenchmarkSettings | ExperimentSettings",
) -> tuple[list["Prompt"], list[Missing]]:
    from src.data.musiccaps import MusicCapsError, fetch_table, find_table
    from src.data.prompts import PromptError, load_prompts

    try:
        if settings.prompts == "musiccaps" and find_table(settings.data_dir) is None:
            fetch_table(settings.data_dir)
        return load_prompts(str(settings.prompts), settings.selection(), settings.data_dir), []
    except MusicCapsError as error:
        return [], [
            Missing(
                "the table of MusicCaps",
                "https://huggingface.co/datasets/google/MusicCaps",
                f"{error}. Or take other prompts: --prompts my.csv, --prompts builtin",
                "CC-BY-SA 4.0 (captions)",
            )
        ]
    except PromptError as error:
        return [], [Missing("prompts", str(settings.prompts), str(error))]


def _writable(output: Path) -> list[Missing]:
    """Looks only: a run that cannot start leaves no folder behind."""
    there = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    problem = f"{there} is {'not writable' if there.is_dir() else 'not a folder'}"
    return [Missing(f"a folder to write to: {output}", problem, "choose another: --output")]
