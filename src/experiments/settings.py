"""The settings of benchmark.py and of latency_experiment.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from src.budget import Plan
from src.cells import SearchCell, grid, split
from src.cluster.settings import ClusterSettings
from src.methods import METHODS, parameters_of
from src.runs.critic import load_critic
from src.runs.settings import (
    MUSICGEN_FRAME_RATE,
    MethodName,
    SaveAudio,
    Settings,
    UsageError,
    with_parameters,
)
from src.scoring import canonical, components, remote_parts


@with_parameters
@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(ClusterSettings):
    """Search methods side by side, under one verifier.

    Each method writes one clip per prompt; the verifier that selected it and judges that did not
    are reported apart, as differences to the baseline with 95% paired intervals. Everything goes
    to results/<run>/; the same command again goes on where a run stopped.

    Examples:
      # without weights or a GPU
      python benchmark.py --profile builtin --server auto --verifier tags \\
          --method baseline best_of_n
      # one prompt of your own, eight candidates of 5 s
      python benchmark.py --profile builtin --method best_of_n --candidates 8 --duration 5 \\
          --prompts "a slow violin melody with strings"
      # beam search and lookahead, a prune each second
      python benchmark.py --profile builtin --server auto --verifier tags \\
          --method baseline sbs lookahead --candidates 8 --lookahead_k 2 --step_size 1
      # MusicGen on 100 random MusicCaps prompts that have their reference, a server in another
      # terminal; two more verifiers as judges
      python benchmark.py --method baseline best_of_n sbs lookahead --verifier clap \\
          --pick random --num_samples 100 --referenced --judges kld_pq quality muq
      # five more seconds of a winner
      python benchmark.py --profile builtin --method best_of_n --duration 15 \\
          --continue results/benchmark-builtin-tags-n16-0123abcd/best_of_n/builtin-00
    """

    #: One or several: baseline (one sample), best_of_n, sbs (beam search), lookahead (beam search
    #: that scores each candidate at the end of a greedy rollout), dvts (beam search in subtrees
    #: that never compete), halving (many candidates, of which the better part goes on), smc and
    #: power (particles, resampled by their scores or by the generator's own likelihood), waves
    #: (best-of-N that stops when one more is not worth its price), soft_best_of_n (drawn by score).
    method: tuple[MethodName, ...] = ("baseline",)
    #: perplexity, pmi (local); tags, clap, quality, muq, imagebind (on the server); or an
    #: expression of these: a weighted sum such as tags+pmi or 0.7*tags+0.3*perplexity,
    #: 'min(tags,pmi)', 'mean(tags,pmi)', 'lcb(tags,pmi,perplexity;1.0)' (mean less 1.0 deviations);
    #: or 'medoid(tags)', how near a candidate is to the others in a server verifier's embedding.
    verifier: str = "perplexity"
    #: A critic (critic.json of src.experiments.critic): before the last step candidates are kept by
    #: what it predicts of their final score, and not by the verifier's score so far.
    value: Path | None = None
    #: N: candidates held at each step. The baseline has one.
    candidates: int = 16
    #: Measures of the final clips that no search saw, the primary one first; 'none' for no judges.
    #: kld_pq, kld_qp, kld_both (PaSST), clap_score, msd_cosine, msd_kld, msd_vgg_kld, each of these
    #: three with _codec (references through the generator's codec), mtt_vgg; of sets fad_clap,
    #: kad_clap, spread_clap, fad_msd, kad_msd, spread_msd; and every verifier of the server by its
    #: name, quality with its axes. What compares with references comes with the mean over wrong
    #: references, <judge>_wrong, and own minus wrong, <judge>_contrast. paper profile: kld_pq
    #: clap_score; builtin profile: msd_cosine_codec msd_kld_codec msd_kld msd_vgg_kld_codec
    #: mtt_vgg.
    judges: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: by profile)"),
    ] = None
    #: winners: the chosen clips. all: every candidate of the last step too. none: no audio, which
    #: then cannot be judged again when a missing reference has come.
    save_audio: SaveAudio = "winners"
    #: Go on from a winner of an earlier run, RUN/PROMPT_ID or RUN/METHOD/PROMPT_ID, until
    #: --duration: all candidates begin with its tokens, which cost nothing. Its prompt is that of
    #: its run, unless --prompts names others.
    continue_from: Annotated[
        str | None, tyro.conf.arg(aliases=["--continue"], metavar="WINNER")
    ] = None

    def resolved(self) -> Self:
        filled = super().resolved()
        return filled if self.continue_from is None else replace(filled, prompts=self.prompts)

    def check(self) -> None:
        super().check()
        plans = self.plans(MUSICGEN_FRAME_RATE)
        if self.value and self.continue_from:
            raise UsageError("--value: a critic knows how clips begin, not how --continue goes on")
        if self.value:
            load_critic(self.value).check(canonical(self.verifier), plans, self.guidance != 1)

    def plans(self, frame_rate: float, given: int = 0) -> list[Plan]:
        """Of each method. frame_rate: frames a second; given: frames that are there. Raises
        PlanError."""
        asked = (self.candidates, self.duration, self.step_size, frame_rate, self.parameters)
        return [METHODS[name].make_plan(*asked, given) for name in self.method]


@with_parameters
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
    """

    refused: ClassVar[Mapping[str, str]] = {
        "--ray": "seconds are measured in one process, on a quiet machine: what actors share "
        "(cores, a server's queue) would be measured too, and belongs to no method",
        "--shard": "seconds of parts that ran on several machines are no measurement of any",
    }

    #: One or several, as benchmark.py has them. What costs are compared with needs best_of_n.
    method: tuple[MethodName, ...] = ("baseline", "best_of_n", "sbs", "lookahead")
    #: Every N to measure; the baseline has one candidate whatever N is.
    budgets: tuple[int, ...] = (4, 8, 16, 32)
    #: perplexity, pmi (local); tags, clap, quality, muq, imagebind (on the server); or an
    #: expression of these such as tags+perplexity or 'min(tags,perplexity)', as in benchmark.py.
    verifier: str = "perplexity"
    #: How often every cell is measured. Intervals need two, and are to be relied on from five.
    repetitions: int = 5
    #: Prompts searched side by side. 1 measures latency; more, throughput: a prompt's seconds are
    #: then its share of its group's.
    batch: int = 1
    #: Candidates decoded side by side. A number, since seconds depend on it.
    max_rows: int = 64
    #: Prompts to run, of those that the next five flags leave.
    num_samples: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 5

    def check(self) -> None:
        super().check()
        self.check_least(budgets=1, repetitions=1, batch=1)
        for parameter in parameters_of(self.method):
            parameter.check_range(self.parameters[parameter.name])
        cells, skipped = self.cells()
        for cell in cells:
            cell.plan(self.duration, self.step_size, MUSICGEN_FRAME_RATE)
        if not cells:
            raise UsageError(
                f"nothing to measure: {', '.join(cell.name for cell in skipped)} cannot run, since "
                "M must divide N"
            )

    def cells(self) -> tuple[list[SearchCell], list[SearchCell]]:
        """What is measured, by method and N; and what cannot run, since M does not divide N."""
        values = {name: [value] for name, value in self.parameters.items()}
        return split(grid(self.method, self.budgets, values))

    def decisive(self) -> dict[str, Any]:
        """Seconds depend on how many rows run at once and on whose server scores, too."""
        server = "auto" if self.server == "auto" else "one that ran already"
        if not remote_parts(components(self.verifier)):
            server = "none"
        # What a run of benchmark.py has as well: the first versions took it from there.
        shared = {"candidates": 16, "judges": [], "save_audio": "winners"}
        found = shared | super().decisive() | {"max_rows": self.max_rows, "server": server}
        return found if self.graphs else found | {"graphs": False}
