"""The settings of benchmark.py."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from src.budget import Plan, PlanError
from src.methods import METHODS
from src.runs.settings import (
    MUSICGEN_FRAME_RATE,
    MethodName,
    SaveAudio,
    Settings,
    UsageError,
    check_different,
    with_parameters,
)


@with_parameters
@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
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
    """

    #: One or several: baseline (one sample), best_of_n, sbs (beam search), lookahead (beam search
    #: that scores each candidate at the end of a greedy rollout).
    method: tuple[MethodName, ...] = ("baseline",)
    #: perplexity, pmi (local); tags, clap, quality, muq, imagebind (on the server); or a weighted
    #: sum such as tags+pmi or 0.7*tags+0.3*perplexity.
    verifier: str = "perplexity"
    #: N: candidates held at each step. The baseline has one.
    candidates: int = 16
    #: Measures of the final clips that no search saw, the primary one first; 'none' for no judges.
    #: kld_pq, kld_qp, kld_both (PaSST), clap_score, fad_clap, fad_msd, msd_kld, mtt_vgg,
    #: msd_vgg_kld, and every verifier of the server by its name. paper profile: kld_pq clap_score;
    #: builtin profile: msd_kld mtt_vgg msd_vgg_kld.
    judges: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: by profile)"),
    ] = None
    #: winners: the chosen clips. all: every candidate of the last step too. none: no audio, which
    #: then cannot be judged again when a missing reference has come.
    save_audio: SaveAudio = "winners"

    def check(self) -> None:
        super().check()
        if not self.method:
            raise UsageError("--method needs at least one method")
        check_different(self, "method", "judges")
        try:
            self.plans(MUSICGEN_FRAME_RATE)
        except PlanError as error:
            raise UsageError(str(error)) from error
        self.check_guidance([self.verifier])

    def plans(self, frame_rate: float) -> list[Plan]:
        """Of each method. frame_rate: frames a second. Raises PlanError."""
        given = (self.candidates, self.duration, self.step_size, frame_rate, self.parameters)
        return [METHODS[name].make_plan(*given) for name in self.method]
