"""The rows of doctor's table (src/experiments/doctor.py): what each looks at. No torch here.

What torch and the GPUs are is asked of each environment in a process of its own; models are loaded
in self_tests.py.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from src.client import ServerClient
from src.connection import ServerUnreachable
from src.data import hub
from src.data.files import ROOT
from src.experiments import self_tests
from src.judges.controls import Wrong
from src.judges.registry import JUDGES
from src.runs import provenance
from src.runs.local_server import PYTHON, local_server
from src.runs.preflight import USABLE, hosted_or_hostable, judge_parts, states_on, verifier_part
from src.runs.settings import AUTO, MUSICGEN_FRAME_RATE, server_token
from src.verifier_core import VERIFIERS
from src.weights.files import Part, absent, find, why_not_loaded
from src.weights.musicgen import model_parts

FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX"}
ENVIRONMENTS = {"generator": Path(sys.executable), "verifier": PYTHON}
# Layers and width of each released MusicGen; all have 4 codebooks of 2048 (Copet et al., arXiv
# 2306.05284). Beside their weights lie those of T5 and of the codec, in float32.
MUSICGENS = {"small": (24, 1024), "medium": (48, 1536), "large": (48, 2048)}
CODEBOOKS, VOCABULARY, BESIDE = 4, 4 * 2048, 0.7e9
PROBE_SECONDS = 120.0
SHOWN_FILES = 70  # characters of the names of missing files

Status = Literal["ok", "missing", "FAILED", "skipped"]


class Found(NamedTuple):
    """text: what was found. how: what to do to get what is missing."""

    status: Status
    text: str
    how: str = ""


Check = tuple[str, str, Callable[[], Found]]  # group and name of a row, and what looks


def examine(look: Callable[[], Found]) -> Found:
    """What a check found, whatever happens in it."""
    try:
        return look()
    except self_tests.Problem as error:
        return Found("FAILED", " ".join(str(error).split()))
    except Exception as error:  # any: the table goes on
        return Found("FAILED", why_not_loaded(error))


def checks_of(model: str, server: str, tests: bool, stack: ExitStack) -> list[Check]:
    """All rows, in order. The stack ends what self-tests start."""
    rows: list[Check] = [
        ("machine", "system", system),
        ("machine", "memory", memory),
        ("machine", "disk: results", partial(disk, Path("results"))),
        ("machine", "disk: hub's cache", lambda: disk(hub.hub_cache())),
    ]
    for name, python in ENVIRONMENTS.items():
        rows.append(("environments", name, partial(environment, name, python)))
        rows.append(("environments", f"GPU for {name}", partial(gpus, python)))
    rows.append(("environments", "--max_rows auto", max_rows))
    rows.append(("files", f"generator {model}", lambda: files(model_parts(model))))
    parts = [*map(verifier_part, VERIFIERS), *judge_parts(JUDGES)]
    rows += [("files", part.title, partial(files, [part])) for part in parts]
    rows.append(("network", "hub", hub_answers))
    rows.append(("network", "verifier server", partial(server_answers, server)))
    return [*rows, *_self_tests(model, stack)] if tests else rows


def _self_tests(model: str, stack: ExitStack) -> list[Check]:
    """Of each model whose files are there."""
    clients: list[ServerClient] = []
    verifiers = [n for n in VERIFIERS if not absent(verifier_part(n).files)]
    listed = [n for n, judge in JUDGES.items() if not issubclass(judge, Wrong)]
    judges = [n for n in listed if not absent(judge_parts([n])[0].files)]

    def generator() -> Found:
        if any(part.problem or absent(part.files) for part in model_parts(model)):
            return Found("skipped", "its files are not there, or of no use")
        return Found("ok", self_tests.try_generator(model))

    def server() -> Found:
        hub.go_offline()  # all that is loaded from here on is there
        if not PYTHON.exists():
            return Found("skipped", "the verifier environment is not built")
        url = stack.enter_context(local_server([]))  # all that can be hosted; none is waited for
        clients.append(ServerClient(url, server_token()))
        return Found("ok", f"it loads {', '.join(verifiers)}")

    def verifier(name: str) -> Found:
        if not clients:
            return Found("skipped", "there is no server")
        return Found("ok", self_tests.try_verifier(name, clients[0]))

    def judge(name: str) -> Found:
        return Found("ok", self_tests.try_judge(name))

    group = "self-tests"
    rows: list[Check] = [(group, "a verifier server", server)]
    rows.append((group, f"generator {model}", generator))
    rows += [(group, f"verifier {name}", partial(verifier, name)) for name in verifiers]
    return [*rows, *((group, f"judge {name}", partial(judge, name)) for name in judges)]


def system() -> Found:
    about, code = provenance.machine(), provenance.commit()
    flags = re.findall(r"\w+", (Path("/proc/cpuinfo").read_text() + "\nflags").split("\nflags")[1])
    known = " ".join(name for flag, name in FLAGS.items() if flag in flags) or "no AVX2"
    commit = f"{code['commit'][:10]}{', changed' * code['dirty']}" if code["commit"] else "unknown"
    return Found(
        "ok",
        f"{about['system']}, {' '.join(platform.libc_ver())}; {about['cpu']}, "
        f"{about['cpu_count']} cores, {known}; commit {commit}",
    )


def memory() -> Found:
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    total, free = (int(kilobytes[name]) / 1e6 for name in ("MemTotal", "MemAvailable"))
    return Found("ok", f"{free:.1f} of {total:.1f} GB available")


def disk(folder: Path) -> Found:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise self_tests.Problem(f"{there} is not writable")
    return Found("ok", f"{shutil.disk_usage(there).free / 1e9:.0f} GB free at {folder}")


@cache
def probed(python: Path) -> dict[str, Any]:
    """What src/runs/probe.py says in that environment. Raises Problem."""
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    done = run([str(python), "-m", "src.runs.probe"], timeout=PROBE_SECONDS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise self_tests.Problem(f"torch cannot be imported: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment(name: str, python: Path) -> Found:
    if not python.exists():
        return Found("missing", "not built", f"make setup, or envs/setup.sh {name}")
    versions = probed(python)["versions"].items()
    return Found("ok", ", ".join(f"{package} {version}" for package, version in versions))


def gpus(python: Path) -> Found:
    if not python.exists():
        return Found("skipped", "the environment is not built")
    found = probed(python)["gpus"]
    text = "; ".join(
        f"{gpu['name']}, {gpu['free'] / 1e9:.1f} of {gpu['memory'] / 1e9:.1f} GB free, {gpu['sm']} "
        f"(torch has kernels for {gpu['kernels']})"
        for gpu in found
    )
    if problems := "; ".join(gpu["problem"] for gpu in found if gpu["problem"]):
        raise self_tests.Problem(f"{problems}: {text}")
    return Found("ok", text) if found else Found("skipped", "torch finds none")


def max_rows() -> Found:
    """What it comes to for a MusicGen in float16, by the GPU's memory that is free now."""
    found = probed(ENVIRONMENTS["generator"])["gpus"]
    if not found:
        return Found("skipped", "64: a CPU gains nothing from more")
    sizes = {name: rows_of(*size, found[0]["free"]) for name, size in MUSICGENS.items()}
    return Found("ok", "; ".join(f"{name} {rows}" for name, rows in sizes.items()))


def rows_of(layers: int, dim: int, free: float) -> str:
    """How many rows of a MusicGen in float16 fit into so many free bytes, at 10 s and 30 s."""
    from src.decoding.decoder import row_bytes
    from src.decoding.transformer import position_bytes
    from src.generator import rows_that_fit

    left = free - BESIDE - weight_bytes(layers, dim)
    if left <= 0:
        return "does not fit"
    rows = {}
    for seconds in (10, 30):
        positions = round(seconds * MUSICGEN_FRAME_RATE) + CODEBOOKS
        row = row_bytes(positions, position_bytes(layers, dim, itemsize=2), VOCABULARY)
        rows[seconds] = rows_that_fit(left, row)
    return ", ".join(f"{count} at {seconds} s" for seconds, count in rows.items())


def weight_bytes(layers: int, dim: int) -> int:
    """Of a MusicGen in float16: each layer's two attentions and its feed-forward of fourfold
    width; the embeddings and the output layers of all codebooks."""
    return 2 * (16 * layers * dim**2 + 2 * VOCABULARY * dim)


def files(parts: Sequence[Part]) -> Found:
    """Where the parts lie; else which files are missing, their licence, and how to get them.

    What a library downloads by itself is missing, too, until it has.
    """
    every = [file for part in parts for file in part.files]
    licences = {part.licence or file.licence for part in parts for file in part.files} - {""}
    terms = f"; licence {', '.join(sorted(licences))}" if licences else ""
    lacking, items = absent(every), [item for part in parts for item in part.missing()]
    if lacking or items:
        names = ", ".join(f"{f.name} ({f.size})" if f.size else f.name for f in lacking)
        text = textwrap.shorten(names or items[0].what, SHOWN_FILES, placeholder=" ..")
        how = "; ".join(item.how for item in items) or "comes from the hub when it is first used"
        return Found("missing", text + terms, how)
    places = sorted({str(place.parent) for file in every if (place := find(file))})
    return Found("ok", f"{', '.join(places) or 'part of the repository'}{terms}")


def hub_answers() -> Found:
    if hub.is_offline():
        return Found("skipped", "HF_HUB_OFFLINE is set: nothing is downloaded")
    problem = hub.hub_problem("facebook/musicgen-small")
    return Found("missing", problem) if problem else Found("ok", f"{hub.endpoint()} answers")


def server_answers(url: str) -> Found:
    try:
        states = states_on(url)
    except ServerUnreachable:
        could = ", ".join(hosted_or_hostable(AUTO))
        return Found("missing", f"none at {url}; one here could host {could}", "make serve")
    text = ", ".join(f"{name}: {state}" for name, state in states.items())
    if any(state not in USABLE for state in states.values()):
        raise self_tests.Problem(text)
    return Found("ok", f"{url}: {text}")
