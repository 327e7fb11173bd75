"""The settings of verifier_experiment.py: pools, and the grid of tree searches."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from src.budget import Plan, whole_frames
from src.cells import SearchCell, grid, split
from src.cluster.settings import ClusterSettings
from src.judges.base import SetJudge
from src.judges.registry import JUDGES
from src.methods import BEST_OF_N, METHODS, PARAMETERS
from src.runs.settings import (
    MUSICGEN_FRAME_RATE,
    NONE,
    MethodName,
    Names,
    UsageError,
    with_parameters,
)
from src.scoring import LIKELIHOODS, components, parse

# What decides a pool's candidates, besides the weights, the prompts, the device and the dtype.
GENERATING = ("duration", "seed", "temperature", "top_k", "guidance")


@partial(with_parameters, grids=True)
@dataclass(frozen=True, kw_only=True)
class ExperimentSettings(ClusterSettings):
    """How scores grow with N, who selects well for whom, and what beam search could see.

    One pool of candidates a prompt is generated once, and scored once by every verifier and every
    judge; what best-of-n gives follows from it for every n and every selector x judge pair, without
    generating again. Tree searches (--method) have to run for each cell of their grid. Everything
    goes to results/pool-<..>/ and results/sweep-<..>/; the same command goes on where a run
    stopped, and another verifier, judge, prefix or cell is added to what is there.

    Examples:
      # without weights or a GPU
      python verifier_experiment.py --profile builtin --server auto --samples 10 --duration 10
      # an old pool: statistics again, offline; or one more verifier and judge
      python verifier_experiment.py --pool results/pool-builtin-m16-0123abcd
      # do two verifiers together select better than each alone?
      python verifier_experiment.py --pool results/pool-builtin-m16-0123abcd --sums tags+pmi
      python verifier_experiment.py --pool results/pool-builtin-m16-0123abcd --server auto \\
          --verifiers tags_msd --judges msd_vgg_kld
      # beam search and lookahead too, selected by two verifiers in turn
      python verifier_experiment.py --profile builtin --server auto --method sbs lookahead \\
          --sweep_verifiers tags perplexity --budgets 4 8 16 --beam_widths 2 4 --lookahead_ks 1 2
      # tree searches alone, without a pool
      python verifier_experiment.py --profile builtin --server auto --pool_size 0 \\
          --method baseline best_of_n sbs --verifiers tags --budgets 8 --seeds 42 43 44
    """

    #: N of best-of-n and of the tree searches.
    budgets: tuple[int, ...] = (1, 2, 4, 8)
    #: Which verifiers score the pool, one by one: perplexity and pmi (local, always there), and any
    #: of the server; 'medoid(tags)' is how near a clip is to the prompt's others in the pool.
    #: Default: all that the server has; with --pool those only that are named.
    verifiers: Names = None
    #: Weighted sums and other expressions of the pool's verifiers that select as well, such as
    #: tags+pmi, 0.7*tags+0.3*pmi, 'min(tags,pmi)' or 'lcb(tags,pmi,perplexity;1.0)', each part in
    #: units of its within-prompt deviation in the pool. They follow from their parts' scores:
    #: nothing is scored for them.
    sums: Names = None
    #: m: candidates a prompt, at least the largest N; 0 for no pool (tree searches alone).
    #: Default: twice the largest N.
    pool_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    #: Measures of the whole clips, as benchmark.py has them, the primary one first; 'none' for no
    #: judges. Those of sets (kad_.., spread_..) have no number for a candidate: the pool is heard
    #: by their network, and diversity.csv has what follows; fad_.. is benchmark.py's. Default: by
    #: profile; with --pool those only that are named.
    judges: Names = None
    #: Seconds of a clip's beginning that verifiers score as well: what beam search would hear after
    #: so much audio. 'none' for no prefixes. Default: the multiples of --step_size below the
    #: duration; with --pool the pool's.
    prefixes: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[SECONDS ...]")] = None
    #: Folder of an old pool: no clip is generated for it. What --verifiers and --judges name is
    #: scored where it lacks; with neither, statistics are computed from what is there, offline.
    pool: Path | None = None
    #: Ask every verifier and judge about the prompts' references as well: whether the right one is
    #: first under its prompt, whether it is preferred to degraded copies, whose reference a
    #: generated clip is near; with --pool those of the pool. Needs two prompts with references.
    validity: bool = False
    #: Searches to run for each N: sbs, lookahead, dvts, halving, smc, power, waves, soft_best_of_n,
    #: and for comparison baseline and best_of_n. Default: none, for the pool says all about
    #: best_of_n.
    method: tuple[MethodName, ...] = ()
    #: Verifiers that select in the searches, one at a time; expressions too, as in benchmark.py.
    #: Default: those of --verifiers.
    sweep_verifiers: Names = None
    #: Seconds between two prunings. Default: --step_size.
    step_sizes: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="[FLOAT ...]")] = None
    #: Seeds of the searches. Default: --seed.
    seeds: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="[INT ...]")] = None

    @property
    def candidates(self) -> int:
        """m, the size of the pool; 0: none is made."""
        return 2 * max(self.budgets) if self.pool_size is None else self.pool_size

    @property
    def replays(self) -> bool:
        """Whether an old pool is to be read and nothing else: no score, no search."""
        asked = self.verifiers or self.judges or self.method or self.validity
        return self.pool is not None and not asked

    @property
    def decodes(self) -> bool:
        """Whether the language model is used, and not the codec alone."""
        return self.pool is None or bool(self.method) or self.validity

    @property
    def scoring(self) -> tuple[str, ...]:
        """Every verifier of the experiment, sums among them."""
        chosen = (*(self.verifiers or ()), *(self.selecting if self.method else ()))
        return tuple(dict.fromkeys(chosen))

    @property
    def scoring_verifiers(self) -> tuple[str, ...]:
        """Those of --verifiers that are asked; the others' numbers come with the tokens."""
        return tuple(name for name in self.verifiers or () if name not in LIKELIHOODS)

    @property
    def selecting(self) -> tuple[str, ...]:
        """The verifiers that select in searches."""
        return self.sweep_verifiers or self.verifiers or ()

    @property
    def set_judges(self) -> tuple[str, ...]:
        """Those of --judges by whose networks the pool is heard."""
        named = self.judges or ()
        return tuple(n for n in named if n in JUDGES and issubclass(JUDGES[n], SetJudge))

    @property
    def clip_judges(self) -> tuple[str, ...]:
        """Those of --judges that have a number for each clip."""
        return tuple(name for name in self.judges or () if name not in self.set_judges)

    @property
    def prefix_seconds(self) -> tuple[float, ...]:
        """Raises UsageError for what is no number."""
        if self.prefixes == (NONE,):
            return ()
        if self.prefixes is None:
            steps = int(self.duration / self.step_size + 1e-6)
            multiples = [round(self.step_size * step, 6) for step in range(1, steps + 1)]
            return tuple(at for at in multiples if at < self.duration - 1e-6)
        try:
            return tuple(sorted(map(float, self.prefixes)))
        except ValueError:
            raise UsageError(
                f"--prefixes are seconds, or 'none', not {' '.join(self.prefixes)}"
            ) from None

    def check(self) -> None:
        super().check()
        self.check_least(budgets=1)
        for parameter in PARAMETERS:
            for value in getattr(self, parameter.plural):
                parameter.check_range(value, parameter.plural)
        if self.pool_size == 0 and (self.sums or self.pool or not self.method):
            raise UsageError(
                "--pool_size 0 makes no pool: name searches with --method, and neither --sums nor "
                "--pool"
            )
        if self.pool_size == 0 and self.validity:
            raise UsageError("--validity is that of a pool's measures: --pool_size 0 makes none")
        if self.shard and self.validity:
            raise UsageError(
                "--validity compares prompts with each other: ask for it once the shards are "
                "joined, with --pool FOLDER --validity"
            )
        if self.ray and self.validity:
            raise UsageError(
                "--validity is asked of one process: leave out --ray and add it to the finished "
                "pool (--pool FOLDER --validity)"
            )
        if self.shard and self.pool:
            raise UsageError("--shard makes a part of a new pool: leave out --pool")
        if 0 < self.candidates < max(self.budgets):
            raise UsageError(
                f"--pool_size {self.candidates} is less than the largest of --budgets, "
                f"{max(self.budgets)}: best-of-n needs a pool of n or more"
            )
        if self.pool is not None and self.method and not self.selecting:
            raise UsageError(
                "searches on the prompts of an old pool: say who selects with --sweep_verifiers"
            )
        for seconds in {*self.prefix_seconds, *(self.step_sizes or ()), self.step_size}:
            whole_frames("--prefixes, --step_sizes:", seconds, MUSICGEN_FRAME_RATE)
        whole_frames("--duration", self.duration, MUSICGEN_FRAME_RATE)
        if self.pool is None:
            self.check_prefixes()
        for cell in self.cells()[0]:
            cell.plan(self.duration, self.step_size, MUSICGEN_FRAME_RATE)
        for name in self.judges or ():
            if name in self.set_judges and JUDGES[name].statistic == "frechet":  # type: ignore[attr-defined]
                raise UsageError(
                    f"--judges {name} compares sets of clips, and of best-of-n it has no exact "
                    "expectation; benchmark.py judges by it, and kad_.. or spread_.. follow from a "
                    "pool"
                )
        for name in self.verifiers or ():
            if not parse(name).name:
                raise UsageError(
                    f"--verifiers {name!r} is no single verifier. A sum follows from its parts' "
                    "scores of the pool: name the parts here and the sum in --sums. Searches take "
                    "sums: --sweep_verifiers"
                )
        if single := [name for name in self.sums or () if len(components(name)) < 2]:
            what = "a sum has two parts or more, such as tags+pmi"
            if parse(single[0]).is_relative:
                what = "a medoid is scored by the server: name it in --verifiers"
            raise UsageError(f"--sums {single[0]}: {what}")

    def check_prefixes(self) -> None:
        """Raise UsageError for a prefix that is the whole clip or more."""
        if late := [at for at in self.prefix_seconds if at >= self.duration]:
            raise UsageError(f"--prefixes must end before the clip does: {late[0]:g} s is too long")

    def check_parts(self, verifiers: Iterable[str]) -> None:
        """Raise UsageError for a sum of what is not among the pool's verifiers."""
        there = {*verifiers}
        for name in self.sums or ():
            if lacking := [part for part in components(name) if part not in there]:
                raise UsageError(
                    f"--sums {name}: the pool has no scores of {', '.join(lacking)}; name what it "
                    f"lacks in --verifiers, or take a sum of {', '.join(sorted(there))}"
                )

    def pool_plan(self, frame_rate: float) -> Plan:
        """Of a prompt's candidates."""
        asked = (self.candidates, self.duration, self.step_size, frame_rate)
        return METHODS[BEST_OF_N].make_plan(*asked, {})

    def cells(self) -> tuple[list[SearchCell], list[SearchCell]]:
        """The searches to run, each once and by its simplest definition; and those that cannot."""
        values = {p.name: getattr(self, p.plural) for p in PARAMETERS}
        steps, seeds = self.step_sizes or (self.step_size,), self.seeds or (self.seed,)
        asked = grid(self.method, self.budgets, values, steps, seeds)
        return split(cell.simplest(self.duration, self.step_size) for cell in asked)
