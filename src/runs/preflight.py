"""What a run needs and does not have, all of it at once, before torch is imported.

    ready = preflight.look(settings, ("tags",), settings.judges, selector="tags")
    ready.missing    # everything that is not there; empty: the run can start

Looks for the model and its text encoder (local folder, hub cache, or the hub itself), the prompts,
the judges' weights and references, the verifiers (on the server, or what one on this machine could
host) and a place to write. Whatever needs a network is asked side by side and gets
hub.PROBE_SECONDS.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.client import ServerClient, VerifierError
from src.data import hub
from src.data.files import ROOT
from src.data.prompts import TABLE_NAME, Prompt, PromptError, load_prompts
from src.judges.base import Listener
from src.judges.registry import JUDGES, all_three
from src.runs.records import RunFolderError
from src.runs.settings import PROFILE_JUDGES, Settings, server_token
from src.scoring import LIKELIHOODS, ExpressionError, components, host_of, is_medoid, remote_parts
from src.verifier_core import VERIFIERS
from src.weights.files import PYTHON, Missing, Part, absent, fetch_command
from src.weights.musicgen import model_parts

log = logging.getLogger(__name__)

WITHOUT_DOWNLOAD = "benchmark.py --profile builtin --server auto --verifier tags"
USABLE = ("ready", "loading")  # states of a verifier


@dataclass(frozen=True)
class Ready:
    """The prompts, the judges' names, and what is missing (empty: the run can start)."""

    prompts: Sequence[Prompt]
    judges: tuple[str, ...]
    missing: Sequence[Missing]


def look(
    settings: Settings,
    verifiers: Sequence[str],
    judges: Sequence[str] | None = (),
    *,
    selector: str | None = None,
    prompts: Sequence[Prompt] | None = None,
    decodes: bool = True,
) -> Ready:
    """Look for everything that a run with these settings needs.

    verifiers: all that select or score, sums among them. judges: None for those of the profile that
    can judge these prompts. selector: the one verifier whose own number judges nothing; None where
    several select in turn. prompts: where they need not be looked for. decodes: whether the
    language model, and with it its text encoder, is used, and not the codec alone.

    When nothing is left to be downloaded, hub libraries are kept off the network from here on.
    Raises RunFolderError where nothing lacks but a place to write.
    """
    lacking: list[Missing] = []
    if prompts is None:
        prompts, lacking = _prompts(settings)
    parts = model_parts(str(settings.model), decodes)
    judging = [name for name in judges or () if name not in JUDGES and name in VERIFIERS]
    checks = [
        *(part.missing for part in parts),
        lambda: _missing_verifiers(settings.server, verifiers, judging, selector),
    ]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda check: check(), checks):
            lacking += found
    if judges is None:
        chosen = _default_judges(settings, selector, prompts)
    else:
        chosen = tuple(name for name in judges if name != selector)
        if len(chosen) < len(judges):
            log.warning("%s selects: its own number is shown as the selector's", selector)
    lacking += _missing_for_judges(chosen, prompts, settings.data_dir)
    if problem := _unwritable(settings.output):
        if not lacking:
            raise RunFolderError(f"{problem}: choose another --output")
        remedy = "choose another: --output"
        lacking.append(Missing(f"a folder to write to: {settings.output}", problem, remedy))
    if not lacking and not any(absent(part.files) for part in parts):
        hub.go_offline()
    if any(prompt.wrong for prompt in prompts):
        chosen = tuple(name for name in all_three(chosen) if name != selector)
    return Ready(prompts, chosen, lacking)


def message(missing: Sequence[Missing], without: str = WITHOUT_DOWNLOAD) -> str:
    """One text that lists everything missing. without: the command that needs no download."""
    count = "one thing is" if len(missing) == 1 else f"{len(missing)} things are"
    lines = [f"Nothing was started: {count} missing.", ""]
    for number, item in enumerate(missing, start=1):
        source = f"{item.source}; licence {item.licence}" if item.licence else item.source
        lines += [f"{number}. {item.what}", f"   from: {source}", f"   do:   {item.how}", ""]
    if any(item.licence for item in missing):  # what can be downloaded has one
        lines.append(f"Without any download: python {without}")
    return "\n".join(lines).rstrip()


def hosted_or_hostable(server: str) -> list[str]:
    """All verifiers that the server has, or, with 'auto', that one on this machine could have.

    Empty for a server that does not answer.
    """
    if server == "auto":
        return [name for name, adapter in VERIFIERS.items() if adapter(name).missing() is None]
    try:
        return [name for name, state in states_on(server).items() if state in USABLE]
    except VerifierError:
        return []


def _prompts(settings: Settings) -> tuple[list[Prompt], list[Missing]]:
    source, data_dir = str(settings.prompts), settings.data_dir
    try:
        if source == "musiccaps" and not (data_dir / TABLE_NAME).is_file():
            hub.musiccaps_table(data_dir)
    except PromptError as error:
        url = f"https://huggingface.co/datasets/{hub.MUSICCAPS}"
        how = f"{error}. Or take other prompts: --prompts my.csv, --prompts builtin"
        return [], [Missing("the table of MusicCaps", url, how, "CC-BY-SA 4.0 (captions)")]
    try:
        return load_prompts(source, settings.selection(), data_dir), []
    except PromptError as error:
        return [], [Missing("prompts", source, str(error))]


def _missing_verifiers(
    server: str, verifiers: Sequence[str], judging: Sequence[str], selector: str | None
) -> list[Missing]:
    """Of the verifiers that select or judge, those that cannot score."""
    names: list[str] = []
    for expression in verifiers:
        try:
            parts = components(expression)
        except ExpressionError as error:
            return [Missing(f"verifier {expression!r}", "nowhere", str(error))]
        embedding = [name for name, adapter in VERIFIERS.items() if adapter(name).embeds]
        lacking = [p for p in parts if is_medoid(p) and host_of(p) in {*VERIFIERS} - {*embedding}]
        if lacking:
            why = f"{host_of(lacking[0])} has none"
            how = f"take the medoid of {', '.join(embedding)}"
            return [Missing(f"embeddings for {expression}", why, how)]
        names += remote_parts(parts)
    names = list(dict.fromkeys([*names, *judging]))
    if not names:
        return []
    if server == "auto":
        found = _not_hostable(names)
        if not (ROOT / PYTHON).exists():
            why = f"{PYTHON} is not there"
            found.append(Missing("the verifier environment", why, "make setup"))
        return found
    try:
        hosted = states_on(server)
    except VerifierError as error:
        what = f"a verifier server at {server}"
        return [Missing(what, "this repository", str(error)), *_not_hostable(names)]
    there = f"it hosts {', '.join(hosted) or 'nothing'}"
    flag = "--verifier" if selector else "--verifiers"
    return [
        Missing(
            f"verifier {name} on the server",
            server,
            f"{hosted.get(name, there)}. Start it with --models {' '.join(names)}, or choose "
            f"another {'--judges' if name in judging else flag}",
        )
        for name in names
        if hosted.get(name) not in USABLE
    ]


def states_on(server: str) -> dict[str, str]:
    """Verifiers of a running server and their state, or problem. Raises VerifierError soon."""
    client = ServerClient(server, server_token(), total_seconds=hub.PROBE_SECONDS)
    verifiers = client.listing().verifiers
    return {verifier.name: verifier.problem or verifier.state for verifier in verifiers}


def _not_hostable(names: Sequence[str]) -> list[Missing]:
    """What a server on this machine could not host."""
    found = []
    for name in names:
        if name not in VERIFIERS:
            there = f"there are {', '.join((*VERIFIERS, *LIKELIHOODS))}"
            found.append(Missing(f"verifier {name}", "nowhere", there))
            continue
        found += verifier_part(name).missing()
    return found


def verifier_part(name: str) -> Part:
    """What a server needs to host a verifier, a name of VERIFIERS."""
    adapter = VERIFIERS[name](name)
    return Part(f"verifier {name}", adapter.files, fetch_command(name), adapter.licence)


def judge_parts(names: Iterable[str]) -> list[Part]:
    """What judges of JUDGES need, once for those that hear through one network."""
    networks: dict[type[Listener], list[str]] = {}
    for name in names:
        networks.setdefault(JUDGES[name].listener_class, []).append(name)
    return [
        Part(
            f"judge {', '.join(own)}",
            network.files,
            f"{fetch_command(own[0])}; or other judges by name: --judges msd_kld, --judges none",
            JUDGES[own[0]].licence,
        )
        for network, own in networks.items()
    ]


def _default_judges(
    settings: Settings, selector: str | None, prompts: Sequence[Prompt]
) -> tuple[str, ...]:
    """Judges of the profile that can say something: without references none that compares with
    them, and none whose number is that of the verifier that selects."""
    try:
        selecting = set(map(host_of, components(selector))) if selector else set()
    except ExpressionError:  # which the look at the verifiers reports
        selecting = set()
    chosen, reasons = [], []
    for name in PROFILE_JUDGES[settings.profile]:
        judge = JUDGES[name]
        if judge.needs_reference and prompts and not any(p.is_referenced for p in prompts):
            reasons.append(f"{name} (no prompt has reference audio)")
        elif own := selecting & set(judge.is_verifier):
            reasons.append(f"{name} (its number is that of {', '.join(own)}, which selects)")
        else:
            chosen.append(name)
    if reasons:
        log.warning("judges left out: %s", "; ".join(reasons))
    return tuple(chosen)


def _missing_for_judges(
    names: Sequence[str], prompts: Sequence[Prompt], data_dir: Path
) -> list[Missing]:
    """What the judges lack. Verifiers that judge are looked for elsewhere."""
    found = []
    if unknown := [name for name in names if name not in JUDGES and name not in VERIFIERS]:
        there = f"there are {', '.join(JUDGES)}; and the verifiers {', '.join(VERIFIERS)}"
        how = "name those with --judges, or --judges none"
        found.append(Missing(f"judge(s) {', '.join(unknown)}", there, how))
    judges = {name: JUDGES[name] for name in names if name in JUDGES}
    for part in judge_parts(judges):
        found += part.missing()
    comparing = ", ".join(name for name, judge in judges.items() if judge.needs_reference)
    lacking = sum(not p.is_referenced for p in prompts)
    if comparing and prompts and lacking == len(prompts):
        found.append(
            Missing(
                f"reference audio for {comparing}: no prompt has any",
                f"the table's `path` column, or {data_dir}/<ytid>.wav",
                "download_data.py gets MusicCaps'; or leave these judges out: --judges none, or "
                "others by name",
            )
        )
    elif comparing and lacking:
        ratio = f"{lacking} of {len(prompts)}"
        log.warning("%s prompts have no reference audio for %s", ratio, comparing)
    return found


def _unwritable(output: Path) -> str:
    """Why runs cannot make their folders there; empty where they can.

    Looks only: a run that cannot start leaves no folder behind.
    """
    there = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ""
    return f"{there} is {'not writable' if there.is_dir() else 'not a folder'}"
