"""Preflight, the judges: which ones a run has, and what they lack.

Judges by default are those of the profile that can say something: without references none that
compares with them, and none whose number is that of the verifier that selects. Whatever is asked
for by name has to be there.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.judges.registry import JUDGES
from src.runs.settings import PROFILE_JUDGES
from src.verifier import ExpressionError, components
from src.verifier_core import VERIFIERS
from src.weights.files import absent, listing
from src.weights.musicgen import Missing

if TYPE_CHECKING:
    from src.data.prompts import Prompt
    from src.experiments.scaling_settings import ExperimentSettings
    from src.runs.settings import BenchmarkSettings

log = logging.getLogger(__name__)

FETCH = "envs/verifier/.venv/bin/python verifier_server.py --fetch"


def choose_judges(
    settings: "BenchmarkSettings | ExperimentSettings", prompts: Sequence["Prompt"]
) -> tuple[tuple[str, ...], list[Missing]]:
    """The run's judges, and what they lack. Verifiers that judge are looked for elsewhere."""
    referenced = [p for p in prompts if p.reference and p.reference.is_file()]
    if settings.judges is None:
        chosen = _defaults(settings, not prompts or bool(referenced))
        _warn_of_absent_references(chosen, len(prompts) - len(referenced), len(prompts))
        return chosen, _weights(chosen)
    chosen = tuple(name for name in settings.judges if name != settings.selector)
    if len(chosen) < len(settings.judges):
        log.warning("%s selects: its own number is shown as the selector's", settings.selector)
    found = _unknown(chosen) + _weights(chosen)
    needing = [name for name in chosen if name in JUDGES and JUDGES[name].needs_reference]
    if needing and prompts and not referenced:
        found.append(
            Missing(
                f"reference audio for {', '.join(needing)}: no prompt has any",
                f"the table's `path` column, or {settings.data_dir}/<ytid>.wav",
                "download_data.py gets MusicCaps'; or leave these judges out: --judges none, or "
                "others by name",
            )
        )
    else:
        _warn_of_absent_references(chosen, len(prompts) - len(referenced), len(prompts))
    return chosen, found


def _defaults(
    settings: "BenchmarkSettings | ExperimentSettings", referenced: bool
) -> tuple[str, ...]:
    try:
        selecting = set(components(settings.selector)) if settings.selector else set()
    except ExpressionError:  # which the look at the verifiers reports
        selecting = set()
    chosen, reasons = [], []
    for name in PROFILE_JUDGES[settings.profile]:
        judge = JUDGES[name]
        if judge.needs_reference and not referenced:
            reasons.append(f"{name} (no prompt has reference audio)")
        elif own := selecting & set(judge.is_verifier):
            reasons.append(f"{name} (its number is that of {', '.join(own)}, which selects)")
        else:
            chosen.append(name)
    if reasons:
        log.warning("judges left out: %s", "; ".join(reasons))
    return tuple(chosen)


def _warn_of_absent_references(judges: Sequence[str], lacking: int, total: int) -> None:
    needing = [name for name in judges if name in JUDGES and JUDGES[name].needs_reference]
    if needing and lacking:
        few = f"{lacking} of {total}"
        log.warning("%s prompts have no reference audio for %s", few, ", ".join(needing))


def _unknown(names: Sequence[str]) -> list[Missing]:
    unknown = [name for name in names if name not in JUDGES and name not in VERIFIERS]
    if not unknown:
        return []
    there = f"there are {', '.join(JUDGES)}; and the verifiers {', '.join(VERIFIERS)}"
    return [
        Missing(
            f"judge(s) {', '.join(unknown)}", there, "name those with --judges, or --judges none"
        )
    ]


def _weights(names: Sequence[str]) -> list[Missing]:
    """Weight files of this process's judges that are not on this machine; of a network once."""
    listeners = {JUDGES[name].listener_class: name for name in names if name in JUDGES}
    found = []
    for listener, name in listeners.items():
        if files := absent(listener.files):
            sources = ", ".join(dict.fromkeys(file.source for file in files))
            licences = "; ".join(dict.fromkeys(f.licence for f in files if f.licence))
            found.append(
                Missing(
                    f"judge {name}: {listing(files)}",
                    sources,
                    f"{FETCH} {name}; or other judges by name: --judges msd_kld, --judges none",
                    JUDGES[name].licence or licences,
                )
            )
    return found
