"""What measures of sets make of few clips: a simulation, and its figure.

    python perf/set_measures.py --output results/performance/set_measures.png

Clips and references are one normal vector each, of 200 dimensions like the built-in tagger's
embeddings, with unit variances: clips from the references' own distribution, or with 0.8 of its
variance. FAD and KAD, each the mean and the middle 95% of the draws, over the number of clips (as
many references). A measure that is fit for few clips is at 0 for equal distributions, and larger
where they differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.reports.figure import COLOURS, GREY, MARKERS, panels, styled
from src.stats.sets import STATISTICS

DIMENSIONS, DRAWS = 200, 40
CLIPS = (16, 32, 64, 128, 256, 512)
VARIANCES = {"equal distributions": 1.0, "0.8 of the variance": 0.8}
TITLES = {"frechet": "FAD", "kernel": "KAD"}


def simulate(statistic: str, clips: int, variance: float) -> np.ndarray:
    """The measure of several draws: [DRAWS]. The same draws for every statistic and variance."""
    random, found = np.random.default_rng(clips), []
    for _ in range(DRAWS):
        theirs, own = random.normal(size=(2, clips, 1, DIMENSIONS))
        found.append(STATISTICS[statistic](theirs)(own * variance**0.5))
    return np.array(found)


@styled
def draw(path: Path) -> None:
    """The figure; its numbers go to stdout."""
    caption = f"{DIMENSIONS} dimensions; mean and middle 95% of {DRAWS} draws; no real clips"
    figure, axes = panels(2, "Measures of sets, by the number of clips", caption, height=2.2)
    for ax, (statistic, title) in zip(axes, TITLES.items(), strict=True):
        for (name, variance), colour, marker in zip(
            VARIANCES.items(), COLOURS, MARKERS, strict=False
        ):
            draws = np.array([simulate(statistic, clips, variance) for clips in CLIPS])
            means, ends = draws.mean(1), np.quantile(draws, [0.025, 0.975], axis=1)
            ax.plot(CLIPS, means, color=colour, marker=marker, markersize=3.5, label=name)
            ax.fill_between(CLIPS, *ends, color=colour, alpha=0.2, linewidth=0)
            shown = ", ".join(f"{n}: {x:.3g}" for n, x in zip(CLIPS, means, strict=True))
            print(f"{title}, {name}: {shown}")
        ax.axhline(0, color=GREY, linewidth=0.6)
        ax.set(title=title, xlabel="clips", xscale="log")
        ax.set_xticks(CLIPS, map(str, CLIPS))
        ax.minorticks_off()
    axes[0].legend()
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the figure, a PNG")
    draw(parser.parse_args().output)
