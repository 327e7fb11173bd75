"""Preflight, the verifiers: what the server hosts, or what one on this machine could host."""

from collections.abc import Sequence

from src.client import ServerClient, VerifierError
from src.data import hub
from src.data.files import ROOT
from src.judges.registry import JUDGES
from src.runs.settings import Needs, server_token
from src.scoring import components, remote_parts
from src.verifier_core import VERIFIERS
from src.weights.files import PYTHON, Missing, fetch_command, missing

USABLE = ("ready", "loading")  # states of a verifier


def missing_verifiers(needs: Needs) -> list[Missing]:
    """Of the verifiers that select or judge, those that cannot score."""
    names: list[str] = []
    for expression in needs.verifiers:
        try:
            names += remote_parts(components(expression))
        except ValueError as error:
            return [Missing(f"verifier {expression!r}", "nowhere", str(error))]
    judging = [n for n in needs.judges or () if n not in JUDGES and n in VERIFIERS]
    names = list(dict.fromkeys([*names, *judging]))
    if not names:
        return []
    if needs.server == "auto":
        found = _not_hostable(names)
        if not (ROOT / PYTHON).exists():
            why = f"{PYTHON} is not there"
            found.append(Missing("the verifier environment", why, "make setup"))
        return found
    try:
        hosted = hosted_verifiers(needs.server)
    except VerifierError as error:
        what = f"a verifier server at {needs.server}"
        return [Missing(what, "this repository", str(error)), *_not_hostable(names)]
    there = f"it hosts {', '.join(hosted) or 'nothing'}"
    flag = "--verifier" if needs.selector else "--verifiers"
    return [
        Missing(
            f"verifier {name} on the server",
            needs.server,
            f"{hosted.get(name, there)}. Start it with --models {' '.join(names)}, or choose "
            f"another {'--judges' if name in judging else flag}",
        )
        for name in names
        if hosted.get(name) not in USABLE
    ]


def hosted_or_hostable(server: str) -> list[str]:
    """All verifiers that the server has, or, with 'auto', that one on this machine could have.

    Empty for a server that does not answer.
    """
    if server == "auto":
        return [name for name, adapter in VERIFIERS.items() if adapter(name).missing() is None]
    try:
        hosted = hosted_verifiers(server)
    except VerifierError:
        return []
    return [name for name, state in hosted.items() if state in USABLE]


def hosted_verifiers(server: str) -> dict[str, str]:
    """Verifiers of a running server and their state, or problem. Raises VerifierError soon."""
    client = ServerClient(server, server_token(), total_seconds=hub.PROBE_SECONDS)
    verifiers = client.listing().verifiers
    return {verifier.name: verifier.problem or verifier.state for verifier in verifiers}


def _not_hostable(names: Sequence[str]) -> list[Missing]:
    """What a server on this machine could not host."""
    found = []
    for name in names:
        what = f"verifier {name}"
        if name not in VERIFIERS:
            found.append(Missing(what, "nowhere", f"there are {', '.join(VERIFIERS)}"))
            continue
        adapter = VERIFIERS[name](name)
        if files := missing(what, adapter.files, fetch_command(name), adapter.licence):
            found += files
        elif problem := adapter.missing():
            found.append(Missing(what, "this repository", problem))
    return found
