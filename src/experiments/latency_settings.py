"""The settings of latency_experiment.py, and the cells that they make: a method with its budget."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import tyro

from src.budget import METHODS, TREE_METHODS, Method, Plan, PlanError, make_plan
from src.runs.settings import (
    MUSICGEN_FRAME_RATE,
    NO_JUDGES,
    BenchmarkSettings,
    Settings,
    UsageError,
)
from src.verifier import components, remote_parts

# Of one core, for a minute: what the system itself does stays below.
QUIET_LOAD = 0.25


@dataclass(frozen=True)
class Cell:
    """A method with its budget: what is measured again and again. As in `Plan`, what a method does
    not use is neutral."""

    method: Method
    candidates: int
    beam_width: int = 1
    lookahead_k: int = 0

    @property
    def name(self) -> str:
        if self.method == "baseline":
            return self.method
        name = f"{self.method} n={self.candidates}"
        if self.method in TREE_METHODS:
            name += f" m={self.beam_width}"
        return name + (f" k={self.lookahead_k}" if self.method == "lookahead" else "")

    def plan(self, duration: float, step_size: float, frame_rate: float) -> Plan:
        """duration, step_size: seconds. Raises PlanError."""
        return make_plan(
            **asdict(self), duration=duration, step_size=step_size, frame_rate=frame_rate
        )


@dataclass(frozen=True, kw_only=True)
class LatencySettings(Settings):
    """What each search method costs: seconds by stage, frames, clips scored, bytes and memory.

    Every method at every N of --budgets is a cell. All cells are measured once a repetition, in an
    order drawn anew for each, so that what slows the machine for a while meets all of them alike.
    Untimed runs come before, and no text stays encoded for the next. Costs are compared with
    best_of_n's at equal N, equal frames and equal seconds. Everything goes to results/<run>/; the
    same command again goes on where a run stopped. Leave the machine alone meanwhile: the run notes
    its load, and says so when something else ran.

    Examples:
      # without weights or a GPU: minutes
      python latency_experiment.py --profile builtin --num_samples 5 --verifier perplexity
      # a verifier on the server: rendering, uploads and its queue count too
      python latency_experiment.py --profile builtin --server auto --verifier tags \\
          --budgets 4 8 16 --repetitions 7
      # how dear lookahead is: three steps ahead, a prune each second
      python latency_experiment.py --profile builtin --method best_of_n lookahead \\
          --lookahead_k 3 --step_size 1 --budgets 4 8 16 32
      # MusicGen on a GPU, five prompts side by side: throughput
      python latency_experiment.py --verifier clap --batch 5 --max_rows 160

    Exit codes: 0 done; 1 some prompts failed (run again to retry them); 2 wrong usage; 3 something
    is missing, listed; 4 the verifier server was lost; 5 the run's folder is in use or damaged;
    130 interrupted. After 1, 4 and 130 the same command resumes.
    """

    #: One or several. What costs are compared with needs best_of_n.
    method: tuple[Method, ...] = METHODS
    #: Every N to measure; the baseline has one candidate whatever N is.
    budgets: tuple[int, ...] = (4, 8, 16, 32)
    #: perplexity, pmi (local); tags, clap, quality, muq, imagebind (on the server); or a weighted
    #: sum such as tags+perplexity.
    verifier: str = "perplexity"
    #: M: children of each kept parent in a tree search. An N that it does not divide is skipped
    #: there, and listed.
    beam_width: int = 4
    #: k: steps of greedy rollout before lookahead scores a candidate.
    lookahead_k: int = 1
    #: How often every cell is measured. Intervals need two, and are to be relied on from five.
    repetitions: int = 5
    #: Prompts searched side by side. 1 measures latency; more, throughput: a prompt's seconds are
    #: then its share of its group's.
    batch: int = 1
    #: Prompts to run, of those that the next five flags leave.
    num_samples: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 5

    def check(self) -> None:
        super().check()
        self.check_guidance([self.verifier])
        for name in ("repetitions", "batch", "beam_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("method", "budgets"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                given = " ".join(map(str, values)) or "nothing"
                raise UsageError(f"--{name} needs one or several different values, not {given}")
        try:
            for cell in self.cells():
                cell.plan(self.duration, self.step_size, MUSICGEN_FRAME_RATE)
        except PlanError as error:
            raise UsageError(str(error)) from error
        if not self.cells():
            raise UsageError(
                f"--beam_width {self.beam_width} divides no N of --budgets: nothing to measure"
            )

    def cells(self) -> tuple[Cell, ...]:
        """What is measured, by method and N."""
        return tuple(cell for cell in self._asked() if not self._skips(cell))

    def skipped(self) -> tuple[Cell, ...]:
        """Tree searches whose M does not divide N."""
        return tuple(cell for cell in self._asked() if self._skips(cell))

    def as_benchmark(self) -> BenchmarkSettings:
        """The benchmark with the same parts: what the preflight looks for, and what is built."""
        shared = {f.name: getattr(self, f.name) for f in fields(Settings)}
        return BenchmarkSettings(
            **shared, method=self.method, verifier=self.verifier, judges=(NO_JUDGES,)
        ).resolved()

    def decisive(self) -> dict[str, Any]:
        """Seconds depend on how many rows run at once and on whose server scores, too."""
        server = "auto" if self.server == "auto" else "one that ran already"
        if not remote_parts(components(self.verifier)):
            server = "none"
        return super().decisive() | {"max_rows": self.max_rows, "server": server}

    def _asked(self) -> list[Cell]:
        cells = []
        for method in self.method:
            if method == "baseline":
                cells.append(Cell(method, 1))
                continue
            for n in self.budgets:
                m = self.beam_width if method in TREE_METHODS else 1
                cells.append(Cell(method, n, m, self.lookahead_k if method == "lookahead" else 0))
        return cells

    def _skips(self, cell: Cell) -> bool:
        return cell.candidates % cell.beam_width != 0
