"""Tables, figures and pages anew, from the records of runs alone.

    python -m src.reports results/benchmark-builtin-tags-n8-1a2b3c4d
    python -m src.reports results/pool-builtin-m32-1a2b3c4d results/sweep-builtin-tags-p16-*

writes each run's CSV files, figures and listening page into its folder and prints what they show. A
pool's best-of-n stands beside the sweeps that are named with it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from src.reports import benchmark, latency, pool
from src.reports.command import parser_of, printed
from src.runs.arguments import given
from src.runs.pool import load_pool
from src.runs.records import RunFolderError, read_manifest

BUDGETS = (1, 2, 4, 8, 16)
REPORTS = {"benchmark": benchmark.report, "latency": latency.report}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("src.reports", __doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_DIR", help="of any script")
    parser.add_argument(
        "--sweep", type=Path, nargs="+", default=[], help="folders of tree searches"
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="of a pool: N")
    parser.add_argument("--sums", nargs="+", default=[], help="of a pool: 'min(tags,pmi)'")
    parser.add_argument("--output", type=Path, help="one folder for all of a pool's and sweeps'")
    asked = parser.parse_args(given(arguments, parser.prog))
    runs = [*asked.runs, *asked.sweep]
    if not runs:
        parser.error("name the folders of one or several runs")

    def report() -> str:
        kinds = {folder: kind_of(folder) for folder in dict.fromkeys(runs)}
        texts = [REPORTS[kind](folder)[0] for folder, kind in kinds.items() if kind in REPORTS]
        pools = [folder for folder, kind in kinds.items() if kind == "pool"]
        sweeps = [folder for folder, kind in kinds.items() if kind == "sweep"]
        if len(pools) > 1:
            parser.error("name one pool at most")
        if pools or sweeps:
            found = load_pool(pools[0], asked.sums) if pools else None
            texts.append(pool.report(found, sweeps, asked.budgets, asked.output))
        return "\n\n".join(texts)

    return printed(report)


def kind_of(folder: Path) -> str:
    """Which script's run it is: benchmark, latency, pool or sweep. Raises RunFolderError."""
    identity = read_manifest(folder).get("identity", {})
    kind = identity.get("script", "benchmark" if "settings" in identity else "")
    if kind not in (*REPORTS, "pool", "sweep"):
        raise RunFolderError(f"{folder} is no run's folder: its manifest names no known script")
    return str(kind)


if __name__ == "__main__":
    sys.exit(main())
