"""Preflight, the judges: which ones a run has, and what they lack."""

import logging
from collections.abc import Sequence

from src.data.prompts import Prompt
from src.judges.registry import JUDGES
from src.runs.settings import PROFILE_JUDGES, Needs
from src.scoring import ExpressionError, components
from src.verifier_core import VERIFIERS
from src.weights.files import Missing, fetch_command, missing

log = logging.getLogger(__name__)


def choose_judges(needs: Needs, prompts: Sequence[Prompt]) -> tuple[tuple[str, ...], list[Missing]]:
    """The run's judges, and what they lack. Verifiers that judge are looked for elsewhere.

    Judges by default are those of the profile that can say something: without references none that
    compares with them, and none whose number is that of the verifier that selects. Whatever is
    asked for by name has to be there.
    """
    referenced = sum(p.reference is not None and p.reference.is_file() for p in prompts)
    if needs.judges is None:
        chosen = _defaults(needs, referenced > 0 or not prompts)
    else:
        chosen = tuple(name for name in needs.judges if name != needs.selector)
        if len(chosen) < len(needs.judges):
            log.warning("%s selects: its own number is shown as the selector's", needs.selector)
    found = []
    if unknown := [name for name in chosen if name not in JUDGES and name not in VERIFIERS]:
        there = f"there are {', '.join(JUDGES)}; and the verifiers {', '.join(VERIFIERS)}"
        how = "name those with --judges, or --judges none"
        found.append(Missing(f"judge(s) {', '.join(unknown)}", there, how))
    networks = {JUDGES[name].listener_class: name for name in chosen if name in JUDGES}
    for network, name in networks.items():  # several judges may hear through one
        how = f"{fetch_command(name)}; or other judges by name: --judges msd_kld, --judges none"
        found += missing(f"judge {name}", network.files, how, JUDGES[name].licence)
    comparing = ", ".join(n for n in chosen if n in JUDGES and JUDGES[n].needs_reference)
    if comparing and prompts and not referenced:
        found.append(
            Missing(
                f"reference audio for {comparing}: no prompt has any",
                f"the table's `path` column, or {needs.data_dir}/<ytid>.wav",
                "download_data.py gets MusicCaps'; or leave these judges out: --judges none, or "
                "others by name",
            )
        )
    elif comparing and referenced < len(prompts):
        lacking = f"{len(prompts) - referenced} of {len(prompts)}"
        log.warning("%s prompts have no reference audio for %s", lacking, comparing)
    return chosen, found


def _defaults(needs: Needs, referenced: bool) -> tuple[str, ...]:
    try:
        selecting = set(components(needs.selector)) if needs.selector else set()
    except ExpressionError:  # which the look at the verifiers reports
        selecting = set()
    chosen, reasons = [], []
    for name in PROFILE_JUDGES[needs.profile]:
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
