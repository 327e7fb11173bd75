"""What verifiers and judges can hear, for people: a text and a figure (validity_study.py)."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.reports.figure import GREY, WIDTH, intervals, look, new_figure, styled
from src.reports.pool_figures import DIVERGING
from src.reports.table import (
    ABSENT,
    Row,
    brackets,
    document,
    interval_of,
    layout,
)
from src.stats.intervals import Interval

ROW = 0.26  # inches, of a measure
TITLE = "What each verifier and judge can hear"
NEGATIVES = {
    "auc": "all others",
    "auc_similar": "most similar 5",
    "auc_drums": "same lead, other drums",
    "auc_tempo": "same lead, other tempo",
}
NOTES = (
    "Asked about the references, cut to the clips' duration. Brackets: 95% intervals over prompts; "
    "validity.csv has all.",
    "Right reference: under a prompt, how often it scores best of all (first; by chance one in "
    "their number), and the share of wrong references that score worse (AUC; by chance .5). Most "
    "similar 5: by the words of the table's aspects. Lead: the first aspect.",
    "Judges that compare with a reference hear second parts of references against first parts. "
    "Likelihoods are those of the references' tokens.",
    "Preferred to: how often a reference scores better than its degraded copy. A semitone up: "
    "played 6% faster.",
    "Own clips: how often a generated clip suits its own prompt or reference best of all, and the "
    "share of wrong ones that it suits less. Retest: Kendall's tau within prompts between the "
    "numbers of a clip's two halves.",
    "For 0.1 sd: how many prompts show such a gain as not zero with 80% power at 5%, two-sided, by "
    "the spread of this pool's gains (normal approximation).",
)


class Table:
    """Rows of validity_study.py by measure, test and kind."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row["measure"], row["test"], row["kind"]): row for row in rows}
        self.measures = list(dict.fromkeys(row["measure"] for row in rows))
        self.prompts = max(row["prompts"] for row in rows)

    def kinds(self, test: str) -> list[str]:
        return list(dict.fromkeys(kind for _, of, kind in self.rows if of == test))

    def estimate(self, measure: str, test: str, kind: str) -> Interval | None:
        row = self.rows.get((measure, test, kind))
        return None if row is None else interval_of(row, "value")

    def text(self, measure: str, test: str, kind: str, form: str = ".2f") -> str:
        return brackets(self.estimate(measure, test, kind), form)

    def mean(self, measure: str, test: str, kind: str, form: str = ".2f") -> str:
        found = self.estimate(measure, test, kind)
        return ABSENT if found is None else format(found.mean, form)


def validity_text(rows: Sequence[Row]) -> str:
    """Three tables and what their columns mean."""
    table = Table(rows)
    negatives = [kind for kind in NEGATIVES if kind in table.kinds("identification")]
    needed = table.kinds("power")
    identified = [
        {"right reference": m, "first": table.text(m, "identification", "first")}
        | {f"AUC, {NEGATIVES[k]}": table.text(m, "identification", k) for k in negatives}
        for m in table.measures
    ]
    preferred = [
        {"preferred to": m}
        | {kind: table.mean(m, "discrimination", kind) for kind in table.kinds("discrimination")}
        for m in table.measures
    ]
    clips = [
        {"own clips": m, "first": table.text(m, "own clips", "first")}
        | {"AUC": table.text(m, "own clips", "auc"), "retest tau": table.text(m, "retest", "tau")}
        | {f"for {k.removeprefix('prompts_')} sd": table.mean(m, "power", k, ".0f") for k in needed}
        for m in table.measures
    ]
    lines = [line for part in (identified, preferred, clips) for line in ("", *layout({"": part}))]
    return document([f"{TITLE}: {table.prompts} references"], lines[1:], NOTES)


@styled
def validity_figure(rows: Sequence[Row], title: str) -> Figure:
    """AUC of the right reference, whose own clips it knows, and above what damage it is."""
    table = Table(rows)
    names, kinds = table.measures, table.kinds("discrimination")
    caption = (
        "Above: the share of wrong references that score worse than the right one, of all and of "
        "those that are hard to tell by the table's aspects (lead: the first one); of generated "
        "clips the share of wrong prompts that they suit less, and Kendall's tau of their halves "
        f"within prompts. Bars: 95% interval over {table.prompts} prompts. Below: how often a "
        "reference is preferred to its degraded copy. Judges that compare with a reference hear "
        "second parts of references against first parts."
    )
    height = 2 * ROW * len(names) + 2.6
    figure = new_figure(WIDTH, height, f"{title}: what each measure can hear", caption)
    ratios: dict[str, Any] = {"width_ratios": (3, 2), "height_ratios": (1.15, 1)}
    axes = figure.subplot_mosaic("AB;CC", **ratios)
    identified, clips, ax = (axes[name] for name in "ABC")
    auc = {("identification", kind): label for kind, label in NEGATIVES.items()}
    _dots(identified, table, auc)
    _dots(clips, table, {("own clips", "auc"): "own clips, AUC", ("retest", "tau"): "retest, tau"})
    identified.set(title="the right reference among others", xlabel="AUC")
    clips.set(title="generated clips", xlabel="AUC, tau")
    clips.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    clips.set_yticklabels([])
    colours = ScalarMappable(Normalize(0, 1), DIVERGING)
    for y, name in enumerate(names):
        for x, kind in enumerate(kinds):
            if found := table.estimate(name, "discrimination", kind):
                face: Any = colours.to_rgba(found.mean)  # type: ignore[arg-type]
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white"))
                ax.text(x, y, f"{found.mean:.2f}", fontsize=6, ha="center", va="center")
    ax.set(
        xlim=(-0.5, len(kinds) - 0.5), ylim=(len(names) - 0.5, -0.5), title="preferred to its copy"
    )
    ax.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _dots(ax: Axes, table: Table, shown: Mapping[tuple[str, str], str]) -> None:
    """Estimates with intervals, a row a measure, those of one measure below each other."""
    for index, ((test, kind), label) in enumerate(shown.items()):
        found = {
            y + (index - (len(shown) - 1) / 2) * 0.18: estimate
            for y, name in enumerate(table.measures)
            if (estimate := table.estimate(name, test, kind))
        }
        if found:
            colour, marker = look(index)
            places = list(found), list(found.values())
            intervals(ax, *places, colour, sideways=True, fmt=marker, label=label)
    ax.axvline(0.5, color=GREY, linewidth=0.6, linestyle="--", zorder=0)
    ax.set_ylim(len(table.measures) - 0.5, -0.5)
    ax.set_yticks(range(len(table.measures)), table.measures)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
