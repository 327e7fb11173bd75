"""Preflight, the verifiers: what the server hosts, or what one on this machine could host."""

import json
import urllib.error
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.data import hub
from src.judges.registry import JUDGES
from src.protocol import VERIFIERS_PATH
from src.runs.settings import server_token
from src.verifier import components, remote_parts
from src.verifier_core import VERIFIERS
from src.weights.files import absent, fetch_command
from src.weights.musicgen import ROOT, Missing

if TYPE_CHECKING:
    from src.experiments.scaling_settings import ExperimentSettings
    from src.runs.settings import BenchmarkSettings

PYTHON = "envs/verifier/.venv/bin/python"


def missing_verifiers(settings: "BenchmarkSettings | ExperimentSettings") -> list[Missing]:
    """Of the verifiers that select or judge, those that cannot score."""
    names: list[str] = []
    for expression in settings.selectors:
        try:
            names += remote_parts(components(expression))
        except ValueError as error:
            return [Missing(f"verifier {expression!r}", "nowhere", str(error))]
    judging = [n for n in settings.judges or () if n not in JUDGES and n in VERIFIERS]
    names = list(dict.fromkeys([*names, *judging]))
    if not names:
        return []
    if settings.server == "auto":
        found = _weights(names)
        if not (ROOT / PYTHON).exists():
            found.append(
                Missing("the verifier environment", f"{PYTHON} is not there", "make setup")
            )
        return found
    try:
        hosted = hosted_verifiers(settings.server)
    except (OSError, ValueError) as error:
        server = Missing(
            f"a verifier server at {settings.server} ({error})",
            "this repository",
            f"in another terminal: {PYTHON} verifier_server.py; or let this run start its "
            "own: --server auto",
        )
        return [server, *_weights(names)]
    flag = "--verifier" if settings.selector else "--verifiers"
    return [
        Missing(
            f"verifier {name} on the server",
            settings.server,
            f"{hosted.get(name, 'it hosts ' + (', '.join(hosted) or 'nothing'))}. "
            f"Start it with --models {' '.join(names)}, or choose another "
            f"{'--judges' if name in judging else flag}",
        )
        for name in names
        if hosted.get(name) not in ("ready", "loading")
    ]


def hosted_or_hostable(server: str) -> list[str]:
    """All verifiers that the server has, or, with 'auto', that one on this machine could have.

    Raises OSError or ValueError for a server that does not answer.
    """
    if server == "auto":
        return [name for name, adapter in VERIFIERS.items() if adapter(name).missing() is None]
    hosted = hosted_verifiers(server)
    return [name for name, state in hosted.items() if state in ("ready", "loading")]


def _weights(names: Sequence[str]) -> list[Missing]:
    """What a server on this machine could not host."""
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
            how = fetch_command(name, PYTHON)
            found.append(Missing(f"verifier {name}: {what}", sources, how, adapter.licence))
        elif problem:
            found.append(Missing(f"verifier {name}", "this repository", problem))
    return found


def hosted_verifiers(server: str) -> dict[str, str]:
    """Verifiers of a running server and their state, or problem. Raises OSError or ValueError."""
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
