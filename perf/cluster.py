"""How fast a run on many machines would be, and what saturates first: a simulation.

    python perf/cluster.py                                # 1, 8, 64 GPUs, the best split of each
    python perf/cluster.py --generators 6 --verifiers 2   # this split alone
    python perf/cluster.py --costs measured --generators 1 --verifiers 1     # the built-in model
    python perf/cluster.py --arithmetic                   # hours and bytes of all MusicCaps
    python perf/cluster.py --check points.json            # beside what was measured

A discrete-event model (perf/cluster_simulation.py says what it has and what it leaves out) of
generators that hold --in_flight groups of prompts each, verifiers with micro-batches, a store for
each node, and one driver that writes. What a group does follows from the methods' plans. What that
takes, by --costs:

    measured   the built-in model and tags, each actor on a machine of its own: seconds by stage of
               the run in --latency (latency_experiment.py), with longer clips slower by attention
    h200       MusicGen's decoder steps as measured on an H200 (results/gpu); rendering, verifiers,
               network and disk are ASSUMED in perf/cluster.toml
    floor      the least that an H100's bandwidth or arithmetic allow a step; the rest ASSUMED

So only `measured` stands on whole searches. Put your own numbers in a copy of perf/cluster.toml
(--assumptions), or give --decode_ms, --render_ms, --score_ms. With one GPU, generator and verifier
share it. --check reads a list of objects with `prompts_per_minute`, what else to set (flags without
dashes, such as "generators": 2, "cores": 2, "method": "sbs"), and perhaps a `note`.

Columns: prompts a minute; most: what no schedule exceeds (asymptotic bound); gain: over one group
in flight; first: what is busy for the largest part of the time; then those parts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from perf.cluster_case import DEFAULT_VERIFIERS, LATENCY, Case, Row, check, gigabytes, hours
from perf.cluster_costs import CostsError
from src.budget import PlanError
from src.data.files import ROOT
from src.methods import METHODS, PARAMETERS
from src.reports.figure import GREY, look, panels, styled
from src.reports.table import layout, write_tables
from src.runs.records import RunFolderError


@styled
def draw(cases: list[Case], gpus: int, path: Path) -> None:
    """Prompts a minute by how many GPUs are verifiers', a panel a method."""
    cases = [case for case in cases if case.plan.budget > 1] or cases  # a baseline asks for little
    methods = list(dict.fromkeys(case.plan.method.name for case in cases))
    options = cases[0].options
    title = f"{gpus} GPUs split among generators and verifiers: simulated prompts a minute"
    caption = (
        f"MusicGen {options.model}, costs: {options.costs}, N = {options.candidates}, clips of "
        f"{options.duration:g} s, {options.in_flight} groups in flight. What is assumed: "
        "perf/cluster.toml. Rings: the best split. Grey: a verifier that hears nothing."
    )
    figure, axes = panels(len(methods), title, caption, height=1.9)
    for ax, method in zip(axes, methods, strict=True):
        for index, case in enumerate(c for c in cases if c.plan.method.name == method):
            (colour, marker), splits = look(index), case.splits(gpus)
            rates = [60 * case.prompts * case.run(*split).rate for split in splits]
            if case.hears_nothing:
                ax.axhline(rates[0], color=GREY, linewidth=0.8, label=case.verifier)
                continue
            at = [verifiers for _, verifiers in splits]
            ax.plot(at, rates, color=colour, marker=marker, markersize=3, label=case.verifier)
            best = max(range(len(at)), key=rates.__getitem__)
            ax.plot(at[best], rates[best], "o", color=colour, markersize=8, fillstyle="none")
        ax.set(title=method, xlabel="verifiers")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("prompts a minute")
    axes[-1].legend(loc="center right")
    figure.savefig(path, dpi=120)


def print_rows(rows: list[Row]) -> None:
    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [{name: text(row.get(name, "")) for name in names} for row in rows]
    print("\n".join(layout({"": texts}, left=("method", "verifier", "first", "note"))))


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--costs", choices=["measured", "h200", "floor"], default="h200")
    add("--latency", type=Path, default=LATENCY, metavar="RUN", help="folder of measured costs")
    add("--assumptions", type=Path, default=ROOT / "perf/cluster.toml", metavar="FILE")
    add("--model", choices=["small", "medium", "large"], default="small", help="MusicGen's size")
    add("--method", nargs="+", choices=METHODS, metavar="METHOD",
        default=["baseline", "best_of_n", "sbs", "lookahead"])  # fmt: skip
    add("--verifier", nargs="+", metavar="NAME", help="default: clap, muq, perplexity; of costs "
        "`measured` tags. Those know the run's own alone, and what hears nothing")  # fmt: skip
    add("--candidates", type=int, default=16, help="N")
    for parameter in PARAMETERS:
        add(f"--{parameter.name}", type=type(parameter.default), default=parameter.default,
            help=parameter.help)  # fmt: skip
    add("--duration", type=float, default=10.0, help="seconds")
    add("--step_size", type=float, default=2.0, help="seconds")
    add("--max_rows", type=int, default=64, help="candidates side by side in a group")
    add("--save_audio", choices=["winners", "all", "none"], default="winners")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64], help="split in the best way")
    add("--generators", type=int, help="this many, in place of --gpus")
    add("--verifiers", type=int, help="beside --generators")
    add("--in_flight", type=int, default=2, help="groups that a generator holds")
    add("--balanced", action="store_true",
        help="ask the verifier with the fewest clips, not the next in turn")  # fmt: skip
    add("--cores", type=float, help="shared by all that computes; without: each has its own")
    add("--decode_ms", type=float, help="a decoder position, whatever the rows")
    add("--render_ms", type=float, help="a clip of 10 s")
    add("--score_ms", type=float, help="a clip of 10 s")
    add("--spread", type=float, help="of stages' seconds, a part of their mean; 0: all alike")
    add("--arithmetic", action="store_true", help="hours and bytes, no simulation")
    add("--prompts", type=int, default=5521, help="of --arithmetic: MusicCaps has 5,521")
    add("--check", type=Path, metavar="FILE", help="JSON of points that were measured")
    add("--output", type=Path, metavar="FOLDER", help="for cluster.csv and cluster.png")
    return parser.parse_args(arguments)


def table(options: argparse.Namespace) -> dict[str, list[Row]]:
    """What is asked for: tables by name."""
    if options.check:
        return {"check": check(options)}
    if options.arithmetic:
        return {"hours": hours(options), "gigabytes": gigabytes(options)}
    verifiers = options.verifier or DEFAULT_VERIFIERS[options.costs]
    cases = [Case(m, v, options) for m in options.method for v in verifiers]
    if options.generators:
        splits = [(case, (options.generators, options.verifiers or 0)) for case in cases]
    else:
        splits = [(case, case.best(gpus)) for case in cases for gpus in options.gpus]
    if options.output:
        draw(cases, 8, options.output / "cluster.png")
    return {"cluster": [case.row(*split) for case, split in tqdm(splits, leave=False)]}


def main() -> None:
    options = options_of()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    try:
        tables = table(options)
    except (CostsError, PlanError, RunFolderError) as error:
        sys.exit(str(error))
    for rows in tables.values():
        print_rows(rows)
    if options.output:
        write_tables(options.output, tables)


if __name__ == "__main__":
    main()
