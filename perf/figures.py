"""Figures of what perf/decoding.py and perf/search.py measured, from their JSON.

    python perf/figures.py results/performance

Draws decoding*.json and search*.json of a folder as PNGs beside them: how many times as fast as
audiocraft, the median of the repetitions with the least and the most. Both scripts do so too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.methods import colour_of
from src.reports.figure import COLOURS, GREY, MARKERS, panels, styled

Spread = tuple[float, float, float]  # median, least, most


def spread(base: list[float], taken: list[float]) -> Spread:
    """How many times as long `base` took, repetition by repetition."""
    ratios = [a / b for a, b in zip(base, taken, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def bars(spreads: list[Spread]) -> list[list[float]]:
    """The lengths of error bars, below and above."""
    return [[mid - least for mid, least, _ in spreads], [most - mid for mid, _, most in spreads]]


@styled
def draw_decoding(record: dict[str, Any], path: Path) -> None:
    """A panel for each number of candidates; ratios over the position."""
    cells, settings = record["cells"], record["settings"]
    counts = sorted({cell["candidates"] for cell in cells})
    title = f"Decoding, {settings['model']}: times as fast as audiocraft's float32"
    caption = (
        f"{settings['text_tokens']} text tokens, {settings['threads']} threads, "
        f"{settings['repetitions']} repetitions of {settings['frames']} steps; "
        "lines join medians, bars the least and the most"
    )
    figure, axes = panels(len(counts), title, caption, height=2.2, sharey=True)
    for ax, count in zip(axes, counts, strict=True):
        of_count = [cell for cell in cells if cell["candidates"] == count]
        at = [cell["position"] for cell in of_count]
        names = [name for name in of_count[0]["milliseconds"] if name != "audiocraft"]
        for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
            times = [cell["milliseconds"] for cell in of_count]
            found = [spread(t["audiocraft"], t[name]) for t in times]
            medians = [mid for mid, _, _ in found]
            style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1}
            ax.errorbar(at, medians, bars(found), label=name, capsize=2, **style)
        ax.axhline(1, color=GREY, linewidth=0.6)
        ax.set(title=f"N = {count}", xlabel="position")
        ax.legend(loc="lower right")
    axes[0].set_ylim(bottom=0)  # of all, which share it, once all is drawn
    figure.savefig(path)


@styled
def draw_searches(record: dict[str, Any], path: Path) -> None:
    """A panel for each verifier; a group of bars for each number of prompts side by side."""
    searches, settings = record["searches"], record["settings"]
    verifiers = list(dict.fromkeys(row["verifier"] for row in searches))
    title = "Whole searches: times as fast as the plain way on audiocraft's public API"
    caption = (
        f"N = {settings['candidates']}, M = {settings['beam_width']}, "
        f"k = {settings['lookahead_k']}, {settings['duration']:g} s in steps of "
        f"{settings['step_size']:g} s, {record['threads']} threads, {settings['repetitions']} "
        "repetitions; bars are medians, whiskers the least and the most"
    )
    figure, axes = panels(len(verifiers), title, caption, height=2.2, sharey=True)
    for ax, verifier in zip(axes, verifiers, strict=True):
        rows = [row for row in searches if row["verifier"] == verifier]
        width = 0.8 / len(rows)
        for place, row in enumerate(rows):
            counts = [name for name in row["seconds"] if name != "plain"]
            found = [spread(row["seconds"]["plain"], row["seconds"][name]) for name in counts]
            at = [i + (place - (len(rows) - 1) / 2) * width for i in range(len(counts))]
            heights = [mid for mid, _, _ in found]
            colour = colour_of(row["method"])
            ax.bar(at, heights, 0.9 * width, yerr=bars(found), capsize=2, color=colour)
            ax.bar(0, 0, color=colour, label=row["method"])
        ax.axhline(1, color=GREY, linewidth=0.6)
        ax.set(title=verifier, xlabel="prompts side by side")
        ax.set_xticks(range(len(counts)), counts)
    axes[0].legend()
    figure.savefig(path)


def draw(path: Path) -> None:
    """The figure of a JSON file, beside it."""
    record = json.loads(path.read_text())
    (draw_searches if "searches" in record else draw_decoding)(record, path.with_suffix(".png"))


def main() -> None:
    if len(sys.argv) != 2 or not (folder := Path(sys.argv[1])).is_dir():
        sys.exit(__doc__)
    for path in sorted([*folder.glob("decoding*.json"), *folder.glob("search*.json")]):
        draw(path)
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
