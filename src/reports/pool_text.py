"""What a pool's study says and does not, as a table and sentences for people."""

import math
import textwrap

from src.reports.benchmark_tables import FEW_PROMPTS, LONGEST_REASON
from src.reports.pool_selectors import selector_sentences
from src.reports.pool_study import Pair, Prefix, Study, past_peak, relation
from src.reports.text import WIDTH, brackets, columns, digits_of, wrapped
from src.stats.intervals import Interval

RANKS = 0.5  # a tau from which three pairs of clips in four are ordered alike
SHOWN_BUDGETS = 6  # at most, as far as they fit the width
RELATIONS = {"own": "own number", "shares data": "shares data", "": ""}


def study_text(study: Study) -> str:
    """Under each measure the selectors: means by N, and the gain in deviations; then sentences."""
    clips = study.prompts * study.size
    head = [
        study.title,
        f"{study.prompts} prompts x {study.size} candidates of {study.duration:g} s, {clips:,} "
        "clips: all of what follows comes from them, exactly.",
    ]
    return "\n".join([*wrapped(head), *ruled(_gains(study)), *wrapped(findings(study))])


def findings(study: Study) -> list[str]:
    """What the study shows and does not, in sentences."""
    lines = [
        "Gains are in within-prompt standard deviations, positive where better, with 95% "
        "intervals over prompts. Own number: the measure is the selector's, no evidence. Shares "
        "data: trained on the selector's data, not independent."
    ]
    lines += [line for s in study.selectors if (line := _verdict(study, s))]
    lines += selector_sentences(study)
    lines += _over_optimised(study)
    lines += _alike(study)
    lines += [line for v in study.selectors if (line := _prefix(study, v))]
    lines += _straight(study)
    if study.prompts < 2:
        lines.append("No intervals are given: they need two prompts or more.")
    elif study.prompts < FEW_PROMPTS:
        lines.append(f"{study.prompts} prompts are too few to rely on these intervals.")
    if study.largest * 2 > study.size > 1:
        lines.append(
            f"A pool of {study.size} is small for N = {study.largest}: unbiased, but few clips "
            "decide. Take twice the largest N or more."
        )
    if study.dropped:
        larger = ", ".join(map(str, study.dropped))
        lines.append(f"N = {larger} is left out: the pool has {study.size} candidates a prompt.")
    for name, reasons in study.refused.items():
        lines.append(
            f"{name}: no numbers for {len(reasons)} of {study.prompts} prompts; its cells are over "
            f"the others. {textwrap.shorten(reasons[0], LONGEST_REASON, placeholder=' ..')}"
        )
    lines += [f"{m.name}: {m.note}." for m in study.measures.values() if m.note]
    lines.append("Weights, and how their SHA-256 begins:")
    weights = {name: study.measures[name].checkpoint for name in study.shown}
    lines += [f"  {name}: {checkpoint}" for name, checkpoint in weights.items() if checkpoint]
    return lines


def _gains(study: Study) -> list[str]:
    """The table, with as many budgets as fit: the first, and the largest ones."""
    for count in range(SHOWN_BUDGETS, 1, -1):
        lines = _gains_at(study, count)
        if max(map(len, lines)) <= WIDTH:
            break
    return lines


def _gains_at(study: Study, count: int) -> list[str]:
    shown = [0, *range(max(1, len(study.budgets) - count + 1), len(study.budgets))]
    budgets = [f"N={study.budgets[i]}" for i in shown]
    rows: list[tuple[str, ...]] = []
    headings: dict[int, str] = {}
    for name in study.shown:
        measure = study.measures[name]
        primary = study.judges[:1] == (name,)
        arrow = "↑" if measure.higher_is_better else "↓"
        headings[len(rows)] = f"{name} {arrow}  {'primary judge' if primary else measure.role}"
        pairs = [p for s in study.selectors if (p := study.pairs.get((s, name)))]
        digits = digits_of(point.mean for pair in pairs for point in pair.points)
        for p in pairs:
            means = [f"{p.points[i].mean:.{digits}f}" for i in shown]
            gain, relation = brackets(p.standard), RELATIONS[p.relation]
            rows.append((f"  {p.selector}", str(len(p.prompts)), *means, gain, relation))
    header = ("selector", "prompts", *budgets, f"gain at {study.largest} (sd)", "")
    aligned = columns([header, *rows], left=(0, len(header) - 1))
    lines = aligned[:1]
    for index, line in enumerate(aligned[1:]):
        lines += ["", headings[index]] if index in headings else []
        lines.append(line)
    return lines


def _verdict(study: Study, selector: str) -> str:
    """Whether the primary judge follows the selector."""
    own = study.pairs.get((selector, selector))
    if own is None or own.standard is None:
        return f"{selector} gives all clips of a prompt the same score: it selects nothing."
    name = study.primary(selector)
    gained = f"{selector}: best-of-{study.largest} gains {own.standard.mean:.2f} by its own number"
    pair = study.pairs.get((selector, name)) if name else None
    if pair is None or pair.standard is None:
        return f"{gained}; no independent judge has numbers for it, so no evidence of better clips."
    follows = {
        "better": "follows",
        "worse": "says the opposite",
        "unclear": "does not follow, its interval includes zero",
    }[_direction(pair.standard)]
    link = "and" if follows == "follows" else "but"
    return f"{gained}, {link} the judge {name} {follows}: {brackets(pair.standard)}."


def _over_optimised(study: Study) -> list[str]:
    known: list[Pair] = []
    without: dict[str, list[str]] = {}
    for (s, m), pair in study.pairs.items():
        if pair.relation == "own" or m not in study.judges:
            continue
        if pair.change is not None:
            known.append(pair)
        for reason in dict.fromkeys(t.reason for t in pair.transfers if t.ratio is None):
            without.setdefault(reason, []).append(f"{s} to {m}")
    falls = [p for p in known if p.change is not None and p.change.high < 0]
    lines = []
    if known:
        named = "; ".join(f"{p.selector} to {p.measure} {brackets(p.change)}" for p in falls)
        lines.append(
            f"Over-optimisation: the transfer falls clearly with N for {len(falls)} of "
            f"{len(known)} pairs of a selector and a judge"
            + (f" ({named})" if falls else "")
            + "; of so many, one in forty would by chance, and a selector whose scores have a long "
            "upper tail falls a little without any."
        )
    for pair in study.pairs.values():
        peak = past_peak(study, pair) if pair.measure in study.judges else None
        if peak is not None and peak[0] > 1 and peak[1].high < 0:
            lines.append(
                f"More search does harm: what {pair.selector} selects is best by {pair.measure} at "
                f"N = {peak[0]}; from there to {study.largest} it loses "
                f"{brackets(peak[1], digits_of(peak[1]))} (its unit, negative: worse)."
            )
    for reason, pairs in without.items():
        some = ", ".join(pairs[:4]) + (", .." if len(pairs) > 4 else "")
        lines.append(f"No transfer for {some}: {reason}.")
    return lines


def _alike(study: Study) -> list[str]:
    """The two measures that agree most and the two that agree least, own numbers aside."""
    known = [
        (found.tau.mean, f"{a} and {b} (tau {brackets(found.tau)})")
        for (a, b), found in study.agreement.items()
        if found.prompts and relation(study.measures, a, b) != "own"
    ]
    if len(known) < 2:
        return []
    return [f"Most alike within prompts: {max(known)[1]}; least: {min(known)[1]}."]


def _prefix(study: Study, verifier: str) -> str:
    """At which step a beam search could start to prune."""
    own = [
        p
        for p in study.prefixes
        if (p.verifier, p.measure) == (verifier, verifier) and p.agreement.prompts
    ]
    if not own:
        return ""
    start: Prefix | None = None
    for prefix in reversed(own):
        if not prefix.agreement.tau.low >= RANKS:
            break
        start = prefix
    if start is None:
        best = max(own, key=lambda p: p.agreement.tau.mean)
        return (
            f"{verifier}: no beginning surely orders three pairs of clips in four as the whole "
            f"clips; the best is {_prefix_tau(best)}. A beam search with it prunes by little."
        )
    line = (
        f"{verifier}: a beam search could start to prune at {start.seconds:g} s: from there on its "
        f"score orders three pairs of clips in four as at the end ({_prefix_tau(start)})"
    )
    judge = study.primary(verifier)
    judged = {p.seconds: p for p in study.prefixes if (p.verifier, p.measure) == (verifier, judge)}
    now, end = judged.get(start.seconds), judged.get(study.duration)
    if now and end and now.agreement.prompts and end.agreement.prompts:
        line += (
            f"; with the judge {judge} {now.agreement.tau.mean:+.2f} there and "
            f"{end.agreement.tau.mean:+.2f} as a whole"
        )
    return line + "."


def _prefix_tau(prefix: Prefix) -> str:
    return f"tau {brackets(prefix.agreement.tau)} at {prefix.seconds:g} s"


def _straight(study: Study) -> list[str]:
    fits = [p.fit for s in study.selectors if (p := study.pairs.get((s, s))) and p.fit]
    known = [(f.r2, f.r2_log2) for f in fits if math.isfinite(f.r2)]
    if not known:
        return []
    least, log2 = (min(values) for values in zip(*known, strict=True))
    return [
        f"a + b*E_n fits the selectors' own scores with R2 of {least:.4f} or more (log2 N: "
        f"{log2:.4f})."
    ]


def _direction(found: Interval) -> str:
    if not (found.low > 0 or found.high < 0):
        return "unclear"
    return "better" if found.low > 0 else "worse"


def ruled(lines: list[str]) -> list[str]:
    rule = "-" * min(WIDTH, max(map(len, lines), default=WIDTH))
    return [rule, *lines, rule]
