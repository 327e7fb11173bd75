"""Read what listeners sent back: which method they prefer, by question.

An answer is 1 for the second method, 0 for the first and 1/2 for no difference. Listeners' answers
are averaged within a prompt, and prompts are what the interval is over.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy import stats

from src.reports.listening import Key, ListeningError, Results
from src.reports.table import (
    Row,
    Texts,
    brackets,
    document,
    few_prompts,
    interval_of,
    layout,
    shown,
)
from src.stats.intervals import mean_interval

TIE = 0.5


def read_answers(key: Key, paths: Sequence[Path]) -> pd.DataFrame:
    """A row an answer: listener, prompt, question, again, value (0, 1/2, 1), side.

    Raises ListeningError for a file that is damaged, of another page or of a listener twice.
    """
    rows, seen = [], dict[str, Path]()
    for path in paths:
        results = Results.read(path)
        if results.page != key.page:
            raise ListeningError(f"{path} is of page {results.page[:8]}, the key of {key.page[:8]}")
        other = seen.setdefault(results.listener, path)
        if other is not path:
            raise ListeningError(f"{other} and {path} are of one listener: name the later alone")
        names = [heard.pair for heard in results.pairs]
        asked = {question for heard in results.pairs for question in heard.answers}
        if len(set(names)) < len(names) or {*names} - {*key.pairs} or asked - {*key.questions}:
            raise ListeningError(f"{path} is damaged: its pairs or questions are not the page's")
        for heard in results.pairs:
            pair = key.pairs[heard.pair]
            for question, answer in heard.answers.items():
                method = {"a": pair.a, "b": pair.b, "tie": None}[answer]
                value = TIE if method is None else float(key.methods.index(method))
                who = {"listener": results.listener, "prompt": pair.prompt, "question": question}
                rows.append(who | {"again": pair.again, "value": value, "side": answer})
    if not rows:
        raise ListeningError("none of the files has an answer")
    return pd.DataFrame(rows)


def tables(key: Key, answers: pd.DataFrame) -> dict[str, list[Row]]:
    """preference: a row a question. by_prompt: listeners' mean of each prompt, identical clips
    included. listeners: what each has answered, over all questions."""
    first = answers[~answers["again"]]
    by_prompt: list[Row] = []
    rows: list[Row] = []
    for question in key.questions:
        own = first[first["question"] == question]
        if own.empty:
            continue
        means = own.groupby("prompt")["value"].mean()
        means = pd.concat([means, pd.Series(TIE, index=list(key.identical), dtype=float)])
        by_prompt += [
            {"question": question, "prompt": prompt, "preference": value}
            for prompt, value in means.items()
        ]
        rows.append({"question": question, **_preference(means), **_agreement(own)})
    listeners: list[Row] = [
        {
            "listener": listener,
            "answers": len(own),
            "ties": (own["side"] == "tie").mean(),
            "side_a": _share_of_a(own),
            "consistent": _consistency(own),
        }
        for listener, own in answers.groupby("listener")
    ]
    return {"preference": rows, "by_prompt": by_prompt, "listeners": listeners}


def _preference(means: pd.Series) -> Row:
    """Of the prompts' means. p: of an exact sign test over prompts, two-sided; prompts at 1/2 are
    left out. An interval has no ends where all prompts are alike: it would have no width."""
    found = mean_interval(means)
    low, high = (found.low, found.high) if means.nunique() > 1 else (math.nan, math.nan)
    more, less = int((means > TIE).sum()), int((means < TIE).sum())
    p = stats.binomtest(more, more + less).pvalue if more + less else math.nan
    return {"prompts": len(means), "preference": found.mean, "low": low, "high": high, "p": p}


def _agreement(own: pd.DataFrame) -> Row:
    """How often two listeners gave the same of the three answers to a prompt, and how often they
    would by chance, with their answers dealt over prompts at random."""
    counts = own.groupby(["prompt", "value"]).size().unstack(fill_value=0)
    of_prompt = counts.sum(axis=1)
    twos = (of_prompt * (of_prompt - 1)).sum()
    return {
        "listeners": own["listener"].nunique(),
        "answers": len(own),
        "ties": (own["value"] == TIE).mean(),
        "agreement": (counts * (counts - 1)).sum().sum() / twos if twos else math.nan,
        "by_chance": ((counts.sum() / len(own)) ** 2).sum() if twos else math.nan,
    }


def _share_of_a(own: pd.DataFrame) -> float:
    """How often side A was preferred, of the answers that prefer one."""
    return (own.loc[own["side"] != "tie", "side"] == "a").mean()


def _consistency(own: pd.DataFrame) -> float:
    """How often the second answer to a pair prefers what the first did; NaN without a second."""
    index = ["listener", "prompt", "question"]
    again, first = (own[own["again"] == late].set_index(index)["value"] for late in (True, False))
    both = pd.concat([first, again], axis=1, join="inner", keys=["first", "again"])
    return (both["first"] == both["again"]).mean()


def text_of(key: Key, answers: pd.DataFrame, found: dict[str, list[Row]]) -> str:
    """The tables for a terminal."""
    first, second = key.methods
    rows: list[Texts] = [
        {
            "": row["question"],
            f"prefer {second}": brackets(interval_of(row, "preference"), ".2f"),
            "p": shown(row["p"], ".2g"),
            "prompts": shown(row["prompts"]),
            "listeners": shown(row["listeners"]),
            "answers": shown(row["answers"]),
            "no difference": shown(row["ties"], ".0%"),
            "agree": shown(row["agreement"], ".0%"),
            "by chance": shown(row["by_chance"], ".0%"),
        }
        for row in found["preference"]
    ]
    notes = [
        f"1 prefers {second}, 0 prefers {first}, 0.50 is no preference. 95% intervals are over "
        "prompts, for these listeners; p is of an exact sign test over prompts.",
        few_prompts(min(row["prompts"] for row in found["preference"])),
        f"{len(key.identical)} prompts have the same clip by both methods and count as no "
        "difference, unheard." * bool(key.identical),
        f"Of the answers with a preference {shown(_share_of_a(answers), '.0%')} are for side A.",
    ]
    if answers["again"].any():
        notes.append(f"Same answer to pairs heard twice: {shown(_consistency(answers), '.0%')}.")
    head = [f"Listening test {key.page[:8]}: {second} against {first}, {key.run}"]
    return document(head, layout({"": rows}), filter(None, notes))
