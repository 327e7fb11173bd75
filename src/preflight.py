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
import json
import logging
import os
import sys
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from src import hub
from src.weights import ROOT, Missing, hub_needed, missing_encoder, missing_model

if TYPE_CHECKING:
    from src.prompts import Prompt
    from src.settings import BenchmarkSettings

log = logging.getLogger(__name__)

GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


class Exit(IntEnum):
    """Exit codes of every script."""

    DONE = 0
    PROMPTS_FAILED = 1  # some; the same command takes them up again
    USAGE = 2
    MISSING = 3  # and listed
    SERVER = 4  # the verifier server was lost; the same command resumes
    FOLDER = 5  # the run's folder is in use or damaged
    INTERRUPTED = 130


@dataclass(frozen=True)
class Ready:
    """Settings with their judges, the prompts, and what is missing (empty: the run can start)."""

    settings: "BenchmarkSettings"
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


def look(settings: "BenchmarkSettings") -> Ready:
    """Look for everything that the run needs.

    Judges by default are those of the profile that can judge these prompts. When nothing is left to
    be downloaded, hub libraries are kept off the network from here on.
    """
    prompts, missing = _prompts(settings)
    model = str(settings.model)
    checks: list[Callable[[], list[Missing]]] = [
        lambda: missing_model(model),
        lambda: missing_encoder(model),
        lambda: _verifier(settings),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(lambda check: check(), checks):
            missing += found
    judges, found = _judges(settings, prompts)
    missing += found + _writable(settings.output)
    if not missing and not hub_needed(model):
        hub.go_offline()
    return Ready(replace(settings, judges=judges), prompts, missing)


def message(missing: Sequence[Missing]) -> str:
    """One text that lists everything missing."""
    lines = [f"Nothing was started: {len(missing)} thing(s) missing.", ""]
    for number, item in enumerate(missing, start=1):
        source = f"{item.source}; licence {item.licence}" if item.licence else item.source
        lines += [f"{number}. {item.what}", f"   from: {source}", f"   do:   {item.how}", ""]
    lines.append(
        "Without any download: python benchmark.py --profile builtin --server auto --verifier tags"
    )
    return "\n".join(lines)


def _verifier(settings: "BenchmarkSettings") -> list[Missing]:
    from src.verifier import components

    try:
        names = [name for name in components(settings.verifier) if name != "perplexity"]
    except ValueError as error:
        return [Missing(f"verifier {settings.verifier!r}", "nowhere", str(error))]
    if not names:
        return []
    python = "envs/verifier/.venv/bin/python"
    if settings.server == "auto":
        found = _weights(names, python)
        if not (ROOT / python).exists():
            found.append(
                Missing("the verifier environment", f"{python} is not there", "make setup")
            )
        return found
    try:
        hosted = hosted_verifiers(settings.server)
    except (OSError, ValueError) as error:
        server = Missing(
            f"a verifier server at {settings.server} ({error})",
            "this repository",
            f"in another terminal: {python} verifier_server.py; or let this run start its "
            "own: --server auto",
        )
        return [server, *_weights(names, python)]
    return [
        Missing(
            f"verifier {name} on the server",
            settings.server,
            f"{hosted.get(name, 'it hosts ' + (', '.join(hosted) or 'nothing'))}. "
            f"Start it with --models {name}, or choose another --verifier",
        )
        for name in names
        if hosted.get(name) not in ("ready", "loading")
    ]


def _weights(names: Sequence[str], python: str) -> list[Missing]:
    """What a server on this machine could not host."""
    from src.verifier_core import VERIFIERS
    from src.verifier_weights import absent, fetch_command

    found = []
    for name in names:
        if name not in VERIFIERS:
            there = ", ".join(VERIFIERS)
            found.append(Missing(f"verifier {name}", "nowhere", f"there are {there}"))
            continue
        adapter = VERIFIERS[name](name)
        problem = adapter.missing()
        if problem and (files := absent(adapter.files)):
            what = ", ".join(f"{f.name} ({f.size})" if f.size else f.name for f in files)
            sources = ", ".join(dict.fromkeys(f.source for f in files))
            how = fetch_command(name, python)
            found.append(Missing(f"verifier {name}: {what}", sources, how, adapter.licence))
        elif problem:
            found.append(Missing(f"verifier {name}", "this repository", problem))
    return found


def hosted_verifiers(server: str) -> dict[str, str]:
    """Verifiers of a running server and their state, or problem. Raises OSError or ValueError."""
    from src.settings import server_token
    from src.wire import VERIFIERS_PATH

    token = server_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = json.loads(
            hub.fetch(server.rstrip("/") + VERIFIERS_PATH, headers=headers, proxies={})
        )
        return {v["name"]: v.get("problem") or v["state"] for v in answer["verifiers"]}
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise OSError("it wants a token: set CURATOR_TOKEN") from error
        raise OSError(f"it answered {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError("nothing answers") from error
    except (KeyError, TypeError) as error:
        raise ValueError("what answers is no verifier server") from error


def _prompts(settings: "BenchmarkSettings") -> tuple[list["Prompt"], list[Missing]]:
    from src.prompts import PromptError, load_prompts

    if settings.prompts == "musiccaps":
        return [], [
            Missing(
                "MusicCaps by name (its table, and music_data/<ytid>.wav as references)",
                "https://huggingface.co/datasets/google/MusicCaps",
                "this version has no download_data.py yet. Save the table (musiccaps-public.csv) "
                "and pass it: --prompts musiccaps-public.csv. Or --prompts builtin",
                "CC-BY-SA 4.0 (captions)",
            )
        ]
    try:
        return load_prompts(str(settings.prompts), settings.num_samples, settings.data_dir), []
    except PromptError as error:
        return [], [Missing("prompts", str(settings.prompts), str(error))]


def _judges(
    settings: "BenchmarkSettings", prompts: Sequence["Prompt"]
) -> tuple[tuple[str, ...], list[Missing]]:
    """The run's judges, and what those that were asked for by name lack."""
    from src.metrics import JUDGES
    from src.settings import PROFILE_JUDGES

    referenced = [p for p in prompts if p.reference and p.reference.is_file()]
    if settings.judges is None:
        default = PROFILE_JUDGES[settings.profile]
        able = tuple(n for n in default if referenced or not JUDGES[n].needs_reference)
        if not default:
            log.warning(
                "clips are not judged: the paper profile's judges (CLAP score, PaSST KLD) are not "
                "in this version; --judges %s can be asked for by name",
                " ".join(JUDGES),
            )
        elif able != default:
            out = [name for name in default if name not in able]
            log.warning("left out, for want of references: judges %s", ", ".join(out))
        return able, []
    found = []
    if unknown := [name for name in settings.judges if name not in JUDGES]:
        found.append(
            Missing(
                f"judge(s) {', '.join(unknown)}",
                f"there are {', '.join(JUDGES)}",
                "name those with --judges, or --judges none",
            )
        )
    needing = [n for n in settings.judges if n in JUDGES and JUDGES[n].needs_reference]
    if needing and prompts and not referenced:
        found.append(
            Missing(
                f"reference audio for {', '.join(needing)}: no prompt has any",
                f"the table's `path` column, or {settings.data_dir}/<ytid>.wav",
                "add the files, or leave these judges out: --judges none, or others by name",
            )
        )
    elif needing and len(referenced) < len(prompts):
        few = f"{len(prompts) - len(referenced)} of {len(prompts)}"
        log.warning("%s prompts have no reference audio for %s", few, ", ".join(needing))
    return settings.judges, found


def _writable(output: Path) -> list[Missing]:
    """Looks only: a run that cannot start leaves no folder behind."""
    there = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    problem = f"{there} is {'not writable' if there.is_dir() else 'not a folder'}"
    return [Missing(f"a folder to write to: {output}", problem, "choose another: --output")]
