"""What a latency run shows and does not, in sentences; and how its numbers are written."""

import math
from collections.abc import Iterator, Sequence

from src.budget import TREE_METHODS
from src.experiments.latency_settings import QUIET_LOAD, Cell
from src.reports.benchmark_tables import LONGEST_REASON
from src.reports.latency_summary import Comparison, LatencySummary
from src.stats.intervals import Interval
from src.stats.timing import Line

FEW_REPETITIONS = 5  # resampling fewer gives intervals that are too narrow
CROOKED = 0.1  # a line from which a median lies further off than this part says nothing
SAID = {
    "as frames": "no different within the spread",
    "below frames": "less",
    "above frames": "more",
    "no spread": "not to be told",
}


def findings(found: LatencySummary) -> list[str]:
    """What the tables show and do not, in sentences."""
    measured = [*_how(found), *_claims(found), *_where(found), *_lines(found)]
    return [*(measured if found.cells else []), *_to_know(found)]


def verdict(found: Comparison) -> str:
    """Whether the ratio of seconds is that of the frames, within its interval."""
    if math.isnan(found.seconds.low):
        return "no spread"
    if found.seconds.low <= found.frames <= found.seconds.high:
        return "as frames"
    return "below frames" if found.seconds.high < found.frames else "above frames"


def _how(found: LatencySummary) -> Iterator[str]:
    batch = found.settings["batch"]
    yield (
        f"Seconds: medians over {len(found.repetitions)} repetitions of {len(found.prompts)} "
        f"prompts, {'one at a time' if batch == 1 else f'{batch} side by side, a share each'}; "
        "quartiles; in brackets 95% intervals, which resample repetitions and prompts. "
        "RTF: seconds of compute per second of audio."
    )
    if found.equals:
        yield (
            "its time x: how many times as long as that best_of_n the search takes. best_of_n is "
            "interpolated between the N that were measured (the baseline is N = 1), never beyond."
        )


def _claims(found: LatencySummary) -> Iterator[str]:
    """Frames against what is said of them, seconds against frames."""
    total = len(found.cells) * len(found.repetitions) * len(found.prompts)
    if found.off_plan:
        first = found.off_plan[0]
        yield (
            f"{len(found.off_plan)} searches did not cost the frames and clips that they should, "
            f"such as {first['method']} on {first['prompt_id']}: a defect, please report it."
        )
    else:
        yield f"Frames and clips: each of {total} searches cost exactly what its method should."
    for method in found.methods:
        beside = {c: x for c, x in found.comparisons.items() if c.method == method}
        if not beside:
            continue
        if any(x.frames != x.claimed for x in beside.values()):
            held = [c for c, x in beside.items() if x.seconds.low <= x.claimed <= x.seconds.high]
            at = ", ".join(str(cell.candidates) for cell in held)
            yield (
                f"{method}: N x (k+1) is the claim, {_range([x.claimed for x in beside.values()])} "
                "times best_of_n's frames; rollouts stop at the clip's end, so that exactly it is "
                f"{_range([x.frames for x in beside.values()])} times. Within the spread the claim "
                f"{f'holds for seconds at N = {at}' if held else 'holds for seconds at no N'}."
            )
        said: dict[str, list[str]] = {}
        for cell, x in beside.items():
            said.setdefault(verdict(x), []).append(str(cell.candidates))
        if set(said) != {"no spread"}:
            against = "the baseline's" if method == "best_of_n" else "best_of_n's"
            yield (
                f"{method}: {_range([x.seconds.mean for x in beside.values()])} times {against} "
                "seconds; beside the ratio of frames this is "
                + "; ".join(f"{SAID[v]} at N = {', '.join(ns)}" for v, ns in said.items())
            ) + "."


def _where(found: LatencySummary) -> Iterator[str]:
    """Which stage takes the most, at each method's largest N."""
    parts = []
    for method in found.methods:
        cell = max((c for c in found.cells if c.method == method), key=lambda c: c.candidates)
        own = found.cells[cell]
        stage = max(own.stages, key=lambda name: own.stages[name])
        parts.append(f"{stage} {own.stages[stage] / own.median:.0%} of {cell.name}")
    if parts:
        yield f"The largest part of the time: {'; '.join(parts)}."


def _lines(found: LatencySummary) -> Iterator[str]:
    for method, line in found.lines.items():
        if line.worst > CROOKED:
            yield (
                f"{method}: its seconds are not a line over its frames (off by up to "
                f"{line.worst:.0%}): rows side by side do not cost what they would alone, and no "
                "fixed cost can be told."
            )
        else:
            yield f"{method}: {_line(line)}; all medians within {line.worst:.1%} of that line."


def _line(line: Line) -> str:
    unclear = line.fixed.low <= 0 <= line.fixed.high
    fixed = f"{bracketed(line.fixed)} s fixed" + (" (not told from none)" if unclear else "")
    return f"{fixed} and {bracketed(Interval(*(1e3 * x for x in line.per_frame)))} ms a frame"


def _to_know(found: LatencySummary) -> Iterator[str]:
    """What to know when reading the numbers."""
    searched = [cell for cell in found.cells if cell.method in TREE_METHODS]
    if searched and not found.comparisons:
        yield "Nothing is compared: best_of_n is not among the methods (--method best_of_n ..)."
    if found.cells and not found.has_spread:
        yield "One repetition has no spread: no intervals (--repetitions)."
    elif found.cells and len(found.repetitions) < FEW_REPETITIONS:
        yield f"{len(found.repetitions)} repetitions are too few to rely on these intervals."
    if skipped := found.manifest["skipped"]:
        names = ", ".join(Cell(**cell).name for cell in skipped)
        yield f"Skipped, since M does not divide N: {names}."
    if found.unfinished:
        yield f"Left out, since unfinished: repetition {', '.join(map(str, found.unfinished))}."
    if found.failed:
        reason = found.failed[0]["reason"][:LONGEST_REASON]
        lost = sorted({record["prompt_id"] for record in found.failed})
        yield f"Left out everywhere, since they failed: {', '.join(lost)}. The first: {reason}"
    changed = [
        f"{prompt} ({cell.name})"
        for cell, own in found.cells.items()
        for prompt, count in own.winners.items()
        if count > 1
    ]
    if changed:
        yield f"Repetitions did not all choose the same clip: {', '.join(changed[:5])}."
    yield from _machine(found)


def _machine(found: LatencySummary) -> Iterator[str]:
    if not found.starts:
        return
    last = found.starts[-1]
    where = [last["cpu"], f"{last['cpu_count']} cores", f"torch threads: {last['torch_threads']}"]
    yield (
        f"Seconds and memory are those of this machine ({', '.join([*where, *last['gpus']])}) with "
        "this model; frames and clips are the same on any. Peaks of memory have the model in them, "
        "and a process's also what earlier searches have left to it."
    )
    before = max(start["load_average"][0] for start in found.starts)
    own = max(last["torch_threads"], last["cpu_count"] if found.settings["server"] == "auto" else 0)
    if before > QUIET_LOAD or max(found.loads) > own + 2 * QUIET_LOAD:
        yield (
            f"The machine was busy: load average {before:.2f} before the run, up to "
            f"{max(found.loads):.2f} in it, of which it makes {own} at most itself. "
            "These seconds are not to be relied on."
        )
    if len(found.starts) > 1:
        yield f"Measured in {len(found.starts)} starts; what the machine did between is unknown."
    commits = {(start["commit"], start["dirty"]) for start in found.starts}
    if len(commits) > 1:
        yield "The code changed between starts: the seconds are of several versions."


def bracketed(value: Interval | None, absent: str = "") -> str:
    """Such as "1.23 [1.20, 1.31]"; without brackets where there is no interval."""
    if value is None:
        return absent
    if math.isnan(value.low):
        return figures(value.mean)
    return f"{figures(value.mean)} [{figures(value.low)}, {figures(value.high)}]"


def figures(value: float, decimals: int = 6) -> str:
    """Three figures, no exponent, at most so many decimals: 0.0123, 1.23, 1,234."""
    digits = decimals if value == 0 else 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), decimals)}f}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
