"""What a sweep's searches give for their cost, as a table and sentences for people."""

from src.reports.benchmark_summary import Measure
from src.reports.cost_study import CostPoint, CostStudy
from src.reports.pool_text import ruled
from src.reports.text import WIDTH, brackets, columns, digits_of, wrapped
from src.stats.intervals import Interval


def cost_text(costs: CostStudy) -> str:
    """Under each measure the cells by cost; then what was left out."""
    lines: list[str] = []
    for measure in costs.measures:
        found = [p for p in costs.points if p.measure == measure.name]
        if not found:
            continue
        role = measure.role if measure.is_evidence else "own verifier: no evidence"
        found.sort(key=lambda p: (p.frames, p.seconds))
        lines += ["", f"{measure.name} {measure.arrow}  {role}, {found[0].prompts} prompts"]
        table = _table(found, with_ends=True)
        lines += table if max(map(len, table)) <= WIDTH else _table(found, with_ends=False)
    notes = [
        "*: on the Pareto front of frames; +: of seconds. To equal frames: to best-of-n with as "
        "many frames. Differences have 95% intervals, paired by prompt. (pool): exact expectations "
        "from the pool. Seconds are those of two runs, on whatever else the machine did: "
        "latency_experiment.py compares seconds.",
        *(sentence for measure in costs.measures for sentence in _verdicts(costs, measure)),
        *costs.notes,
    ]
    return "\n".join([*wrapped([costs.title]), *ruled(lines[1:]), *wrapped(notes)])


def _table(found: list[CostPoint], with_ends: bool) -> list[str]:
    """with_ends: whether differences to one sample have their intervals."""
    digits = digits_of(p.mean for p in found)
    header = ("", "frames", "seconds", "value", "to one sample", "to equal frames")
    rows = [_cost_row(point, digits, with_ends) for point in found]
    return columns([header, *rows], left=(0, 4, 5))


def _cost_row(point: CostPoint, digits: int, with_ends: bool) -> tuple[str, ...]:
    cell = point.cell
    front = "".join(mark for mark, on in zip("*+", point.on_front, strict=True) if on)
    step = "" if cell.step_size is None else f" {cell.step_size:g}s"
    source = " (pool)" if cell.source == "pool" else ""
    return (
        f"{front:2} {cell.method} {cell.label}{step}{source}",
        f"{point.frames:,.0f}",
        f"{point.seconds:.3g}",
        f"{point.mean:.{digits}f}",
        brackets(point.gain, digits) if with_ends else _mean(point.gain, digits),
        brackets(point.over_matched, digits),
    )


def _mean(found: Interval | None, digits: int) -> str:
    return "-" if found is None else f"{found.mean:+.{digits}f}"


def _verdicts(costs: CostStudy, measure: Measure) -> list[str]:
    """Whether the tree searches beat best-of-n for as many frames."""
    found = [
        (p.cell, measure.direction(p.over_matched))
        for p in costs.points
        if p.measure == measure.name and p.over_matched
    ]
    lines = []
    for method in dict.fromkeys(cell.method for cell, _ in found):
        sides = [side for cell, side in found if cell.method == method]
        better, worse = sides.count("better"), sides.count("worse")
        own = "" if measure.is_evidence else ", its own number"
        lines.append(
            f"{method} by {measure.name}{own}: clearly better than best-of-n with as many frames "
            f"in {better} of {len(sides)} settings, clearly worse in {worse}."
        )
    return lines
