"""The sentences of all reports: what a table cannot say, or what matters most in it.

Tables have the numbers and a verdict for each; a sentence is here only where a reader would
overlook or misread them. Each function makes one, and knows nothing of how a study is made.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from src.reports.table import brackets, digits_of
from src.runs.measures import Measure, Verdict
from src.runs.records import Record
from src.stats.intervals import Interval

SHOWN_FAILURES = 5
LONGEST_REASON = 200  # characters; records have it whole
FEW_PROMPTS = 10  # a bootstrap over fewer gives intervals that are too narrow


def weights(measures: Iterable[Measure]) -> list[str]:
    """Which weights each measure is made with."""
    named = [f"  {m.name}: {m.checkpoint}" for m in measures if m.checkpoint]
    return ["Weights, and how their SHA-256 begins:", *named] if named else []


def few_prompts(count: int, what: str = "prompts", reliable: int = FEW_PROMPTS) -> str:
    """Whether intervals over so many prompts (or `what`) can be relied on; empty where they can."""
    if count < 2:
        return f"No intervals are given: they need 2 finished {what} or more."
    return f"{count} {what} are too few to rely on these intervals." if count < reliable else ""


def shortened(reason: str) -> str:
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ..")


def failed(records: Sequence[Record]) -> Iterator[str]:
    """How many prompts failed, and the first of them."""
    if records:
        first = [f"{r['method']} {r['prompt_id']}: {r['reason']}" for r in records[:SHOWN_FAILURES]]
        named = "; ".join(map(shortened, first))
        yield f"Failed: {len(records)} (method and prompt, see records.jsonl): {named}"


# Of pools and sweeps.
NO_JUDGE = "No judge has scored this pool: nothing here shows that selected clips are better."
OF_POOLS = (
    "Gains are in within-prompt standard deviations, positive where better, with 95% intervals "
    "over prompts. Better, worse: the interval excludes zero. Own number: the measure is the "
    "selector's, no evidence. Shares data: trained on the selector's data, not independent."
)
OF_COSTS = (
    "*: on the Pareto front of frames; +: of seconds. To equal frames: to best-of-n with as many "
    "frames, and whether that is better. Differences have 95% intervals, paired by prompt. (pool): "
    "exact expectations from the pool. Seconds are those of two runs, on whatever else the machine "
    "did: latency_experiment.py compares seconds."
)
SAME_SCORES = "{} gives all clips of a prompt the same score: it selects nothing."


def selectors_judged(
    n: int, gains: Mapping[str, float], judged: Mapping[Verdict | None, Sequence[str]]
) -> str:
    """What each selector gains by its own number, and whether a judge follows.

    judged: the selectors by the verdict of the first judge that is independent of each.
    """
    own = ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
    says: dict[Verdict | None, str] = {
        "better": "follows {}",
        "unclear": "does not clearly follow {}",
        "worse": "contradicts {}",
        None: "has no numbers for {}: no evidence of better clips",
    }
    answers = [text.format(", ".join(judged[v])) for v, text in says.items() if judged.get(v)]
    return (
        f"By its own number each selector gains with best-of-{n}: {own}. The first judge that is "
        f"independent of it {'; it '.join(answers)}."
    )


def serves_best(
    judge: str, best: str, gain: Interval, clearly: Sequence[str], others: Sequence[str]
) -> str:
    """Which selector a judge gains most from. clearly: those that it is clearly better than."""
    if not gain.mean > 0:
        return f"By {judge}, no selector that is independent of it gains anything."
    than = [f"clearly better than {', '.join(clearly)}"] if clearly else []
    than += [f"not clearly better than {', '.join(others)}"] if others else []
    return (
        f"Of the selectors independent of {judge}, {best} gains most by it at equal frames, "
        f"{brackets(gain)}: {'; '.join(than)}. The best of several on the same prompts is slightly "
        "overestimated."
    )


def over_optimisation(falls: Mapping[str, Interval], pairs: int) -> str:
    """falls: by pair, the change of a transfer that clearly falls. pairs: that have a transfer."""
    named = "; ".join(f"{name} {brackets(change)}" for name, change in falls.items())
    return (
        f"Over-optimisation: the transfer falls clearly with N for {len(falls)} of {pairs} pairs "
        f"of a selector and a judge{f' ({named})' if named else ''}; one in forty would by chance, "
        "and a selector whose scores have a long upper tail falls a little without any."
    )


def harm(losses: Mapping[str, Interval], n: int) -> str:
    """losses: by pair and the N at which it is best, what is lost from there to the largest."""
    named = "; ".join(f"{name} {brackets(lost, digits_of(lost))}" for name, lost in losses.items())
    return (
        f"More search does harm, from the best N to {n}, in the judge's unit, negative where "
        f"worse: {named}."
    )


def first_prune(starts: Mapping[float, Sequence[str]], never: Mapping[str, str]) -> str:
    """starts: verifiers by the seconds at which their score begins to rank as at the end; never:
    of the others the highest tau."""
    places = [f"at {seconds:g} s with {', '.join(names)}" for seconds, names in starts.items()]
    places += [
        f"at no length surely with {name} (tau {best} at most)" for name, best in never.items()
    ]
    return (
        "A beam search could start to prune where the score surely orders three pairs of clips in "
        f"four as at the end (tau 0.5): {'; '.join(places)}."
    )


def at_equal_frames(measure: Measure, verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """verdicts: of each tree search's settings, whatever the measure is worth as evidence."""
    own = "" if measure.is_judge else ", its own number"
    counts = [
        f"{method} is clearly better in {found.count('better')} and clearly worse in "
        f"{found.count('worse')} of {len(found)} settings"
        for method, found in verdicts.items()
    ]
    return f"Beside best-of-n with as many frames by {measure.name}{own}: {'; '.join(counts)}."


def small_pool(size: int, n: int) -> str:
    return (
        f"A pool of {size} is small for N = {n}: unbiased, but few clips decide. Take twice the "
        "largest N or more."
    )


def beyond_pool(budgets: Sequence[int], size: int) -> str:
    larger = ", ".join(map(str, budgets))
    return f"N = {larger} is left out: the pool has {size} candidates a prompt."


def without_numbers(measure: str, reasons: Sequence[str], prompts: int) -> str:
    return (
        f"{measure}: no numbers for {len(reasons)} of {prompts} prompts; its cells are over the "
        f"others. {shortened(reasons[0])}"
    )


def over_fewer(measures: Sequence[str], prompts: int, of: int) -> str:
    return (
        f"{', '.join(measures)}: over the {prompts} of {of} prompts that all of these have numbers "
        "for."
    )
