"""The sentences of all reports: what a table cannot say, or what matters most in it.

Tables have the numbers and a verdict for each; a sentence is here only where a reader would
overlook or misread them. Each function makes one, and knows nothing of how a study is made.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.methods import SearchCell
from src.reports.table import Row, brackets, digits_of
from src.runs.measures import Measure, Verdict
from src.runs.records import Record
from src.stats.intervals import PERMUTATIONS, Interval

SHOWN_FAILURES = 5
LONGEST_REASON = 200  # characters; records have it whole
FEW_PROMPTS = 10  # a bootstrap over fewer gives intervals that are too narrow


def weights(measures: Iterable[Measure]) -> list[str]:
    """Which weights each measure is made with."""
    named = [f"  {m.name}: {m.checkpoint}" for m in measures if m.checkpoint]
    return ["Weights, and how their SHA-256 begins:", *named] if named else []


def few_prompts(prompts: int) -> str:
    """Whether intervals over so many prompts are to be relied on; empty where they are."""
    if prompts < 2:
        return "No intervals are given: they need 2 finished prompts or more."
    if prompts < FEW_PROMPTS:
        return f"{prompts} prompts are too few to rely on these intervals."
    return ""


def shortened(reason: str) -> str:
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" ..")


def unjudged(measure: str, clips: int, reason: str) -> str:
    return f"{measure}: no number for {clips} clip(s): {shortened(reason)}"


# Of benchmark.py.
DIFFERENCES = (
    "Differences are to the baseline over the same prompts, with 95% intervals. Better, worse: the "
    "interval excludes zero. Not independent: the selector's own number, or trained on its data."
)
PERMUTED = (
    "p: of a measure of sets, how often a difference as large comes about when the two clips of "
    f"each prompt change places by chance ({PERMUTATIONS:,} times)."
)
NO_BASELINE = "No differences are given: baseline is not among the methods (--method baseline ..)."


def no_judge(selector: Measure, asked: bool) -> str:
    lacking = "is independent of it" if asked else "was asked"
    return (
        f"{selector.name} chose these clips and no judge {lacking}: its own number does not show "
        "that they are better."
    )


def follows(
    methods: Sequence[str], selector: Measure, judge: Measure, own: Verdict, judged: Verdict
) -> str:
    """Whether a judge follows the selector. own, judged: verdicts of each by its own number."""
    chosen = {
        "better": "better than the baseline",
        "worse": "worse than the baseline",
        "unclear": "not shown to differ from the baseline",
    }[own]
    follows = {
        "better": "and the primary judge {} agrees: better",
        "worse": "but the primary judge {} disagrees: worse",
        "unclear": "but the primary judge {} does not follow: no clear difference",
    }
    apart = {  # there is no gain to agree with
        "better": "the primary judge {} says better",
        "worse": "the primary judge {} says worse",
        "unclear": "the primary judge {} shows no clear difference",
    }
    says = (follows if own == "better" else apart)[judged].format(judge.name)
    return f"{', '.join(methods)}: {chosen} by {selector.name}, which chose the clips, {says}."


def made_from(measure: str, rows: Sequence[Row]) -> str:
    """The clips and windows of each method that a measure of sets is made from."""
    counts = {row["method"]: f"{row['prompts']} clips ({row['windows']} windows)" for row in rows}
    if len(set(counts.values())) == 1:
        return f"{measure}: from {next(iter(counts.values()))} of each method."
    return f"{measure}: from {', '.join(f'{m} {n}' for m, n in counts.items())}."


def unread(measure: str, captions: int, of: int, tokens: int) -> str:
    return (
        f"{measure} reads only the start of {captions} of {of} captions ({tokens} tokens unread)."
    )


def failed(records: Sequence[Record]) -> list[str]:
    """How many prompts failed, and the first of them."""
    if not records:
        return []
    first = [f"  {r['method']} {r['prompt_id']}: {r['reason']}" for r in records[:SHOWN_FAILURES]]
    return [f"Failed: {len(records)} (method and prompt, see records.jsonl):", *first]


# Of latency_experiment.py.
EQUALS = (
    "its time x: the search's seconds as a multiple of those of best_of_n, which is interpolated "
    "between the N that were measured (the baseline is N = 1), never beyond."
)
NO_LINE = (
    "no line: rows side by side do not cost what they would alone, so that seconds are not a line "
    "over frames and the fixed cost is unknown."
)
NOT_COMPARED = "Nothing is compared: best_of_n is not among the methods (--method best_of_n ..)."
NO_SPREAD = "One repetition has no spread: no intervals (--repetitions)."
CODE_CHANGED = "The code changed between starts: the seconds are of several versions."


def seconds(repetitions: int, prompts: int, batch: int) -> str:
    how = "one at a time" if batch == 1 else f"{batch} side by side, a share each"
    return (
        f"Seconds: medians over {repetitions} repetitions of {prompts} prompts, {how}; quartiles; "
        "in brackets 95% intervals, which resample repetitions and prompts. RTF: seconds of "
        "compute per second of audio. Verdict: seconds beside frames, within the interval."
    )


def costs(searches: int, off_plan: Sequence[Record]) -> str:
    if not off_plan:
        return f"Frames and clips: each of {searches} searches cost exactly what its method should."
    first = off_plan[0]
    return (
        f"{len(off_plan)} searches did not cost the frames and clips that they should, such as "
        f"{SearchCell.from_record(first['cell']).name} on {first['prompt_id']}: a defect, please "
        "report it."
    )


def claim(method: str, rows: Sequence[Row]) -> str:
    """Where k rollouts are said to cost k + 1 times the frames. rows: of costs."""
    held = [row["candidates"] for row in rows if row["low"] <= row["claimed_frames"] <= row["high"]]
    at = f"at N = {', '.join(map(str, held))}" if held else "at no N"
    claimed, exact = (span([row[key] for row in rows]) for key in ("claimed_frames", "frames"))
    return (
        f"{method}: N x (k+1) is the claim, {claimed} times best_of_n's frames; rollouts stop at "
        f"the clip's end, so that exactly it is {exact} times. For seconds the claim holds {at}."
    )


def span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def left_out(prompts: Sequence[str], reason: str) -> str:
    return (
        f"Left out everywhere, since they failed: {', '.join(prompts)}. The first: "
        f"{shortened(reason)}"
    )


def changed(searches: Sequence[str]) -> str:
    return f"Repetitions did not all choose the same clip: {', '.join(searches[:SHOWN_FAILURES])}."


def machine(start: Mapping[str, Any]) -> str:
    cores, threads = f"{start['cpu_count']} cores", f"torch threads: {start['torch_threads']}"
    where = ", ".join([start["cpu"], cores, threads, *start["gpus"]])
    return (
        f"Seconds and memory are those of this machine ({where}) with this model; frames and clips "
        "are the same on any. Peaks of memory have the model in them, and a process's also what "
        "earlier searches have left to it."
    )


def busy(before: float, most: float, own: int) -> str:
    return (
        f"The machine was busy: load average {before:.2f} before the run, up to {most:.2f} in it, "
        f"of which it makes {own} at most itself. These seconds are not to be relied on."
    )


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
