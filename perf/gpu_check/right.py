"""Whether what is decoded is right: here and on a CPU, undisturbed and not, eager and by graphs."""

from __future__ import annotations

from unittest.mock import patch

import torch

from perf.gpu_check.models import (
    SEED,
    Agreement,
    Outcome,
    half_dtypes,
    make_decoder,
    no_graphs,
    random_lm,
    short,
    sources,
)
from perf.gpu_check.report import Check
from src.decoding.decoder import Decoder, Sampling
from src.decoding.sampling import NoiseKey, sample, uniforms

# How far two orders of the same sums may be apart: a log-probability in nats, and flips a token.
# They were apart by 2e-6 in float32, where no token flipped; by 0.002 in float16 and by 0.012 in
# bfloat16, where one in a hundred did: a shift of the cumulative distribution counts once at every
# border of two tokens. Wrong noise flips nearly every token, a wrong past moves log-probabilities
# by whole nats.
LOG_PROB_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
FLIP_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}


def right(check: Check) -> None:
    """Noise, sampler, float32 here against a CPU; then every dtype here against itself."""
    noise_and_sampler(check)
    scenario = Scenario(check)
    for dtype in (torch.float32, *half_dtypes(check.device)):
        if check.late(short(dtype)):
            continue
        scenario.of_dtype(dtype)
        graphs = f"{short(dtype)}, graphs"
        if why := no_graphs(check.on_gpu):
            check.skip(graphs, why)
        elif not check.late(graphs):
            scenario.by_graphs(graphs, dtype)


def noise_and_sampler(check: Check) -> None:
    """The same bits of noise; and of the same logits and noise the same tokens."""
    keys = [NoiseKey(SEED, prompt, slot) for prompt in "ab" for slot in range(8)]
    noise = uniforms(keys, 600, 4)
    there = uniforms(keys, 600, 4, check.device).cpu()
    check.say("noise as on a CPU, bit by bit", passed=torch.equal(noise, there))
    seeded = torch.Generator().manual_seed(3)
    logits = torch.randn(1024, 4, 2048, generator=seeded) * 4
    uniform = torch.rand(1024, 4, generator=seeded, dtype=torch.float64)
    for top_k in (0, 250):
        sampling = Sampling(top_k=top_k)
        expected = sample(logits, uniform, sampling)
        tokens = sample(logits.to(check.device), uniform.to(check.device), sampling).cpu()
        least = logits.topk(top_k or 2048, dim=-1).values.amin(-1)
        allowed = logits.gather(-1, tokens[..., None])[..., 0] >= least
        flips = int((tokens != expected).sum())
        check.say(
            f"sampler as on a CPU, top_k {top_k}",
            passed=flips <= FLIP_TOLERANCE[torch.float32] * tokens.numel() and bool(allowed.all()),
            tokens=tokens.numel(),
            near_ties_flipped=flips,
            outside_top_k=int((~allowed).sum()),
        )


class Scenario:
    """Two prompts of several candidates, decoded in many ways.

    Those whose arithmetic is the same must give the same tokens (`exact`), the others the same but
    for near ties (`Agreement`).
    """

    def __init__(self, check: Check) -> None:
        self.check = check
        shape = check.scale.scenario
        self.frames, self.candidates = check.scale.frames, check.scale.candidates
        self.sampling = Sampling(top_k=shape.card // 5, temperature=0.9)
        self.on_cpu = random_lm(shape)
        self.here = random_lm(shape).to(check.device)
        self.prompts = dict(zip("ab", sources(shape.dim, 20, 27), strict=True))
        self.pauses = [self.frames * part // 120 for part in (17, 50, 95)]
        self.prunes = [self.frames * part // 120 for part in (40, 80)]
        half = self.candidates // 2
        self.parents = [slot // half * half for slot in range(self.candidates)]

    def run(
        self,
        decoder: Decoder,
        order: str = "ab",
        pauses: bool = False,
        prunes: bool = False,
        step: int | None = None,
    ) -> Outcome:
        """Decode both prompts, a's rows first in the outcome, whatever the order.

        step: frames that are decoded at once. pauses: roll out, greedily and not, and rewind on the
        way. prunes: twice the children of two candidates of each prompt go on.
        """
        decoding = decoder.begin(
            [self.prompts[key] for key in order], self.candidates, self.frames, list(order), SEED
        )
        prunes_at = self.prunes if prunes else []
        for frame in sorted([*prunes_at, *(self.pauses if pauses else [])]):
            decoding.advance(frame - decoding.finished)
            if pauses:
                for greedy in (True, False):
                    mark = decoding.mark()
                    decoding.advance(self.frames // 12, greedy=greedy)
                    decoding.rewind(mark)
            if frame in prunes_at:
                decoding.select(self._everywhere(self.parents))
        while left := self.frames - decoding.finished:
            decoding.advance(min(left, step or left))
        outcome = Outcome.of(decoding)
        at = [order.index(key) * self.candidates for key in "ab"]
        return outcome.rows([first + slot for first in at for slot in range(self.candidates)])

    def _everywhere(self, slots: list[int]) -> list[int]:
        """The rows of those slots of both prompts."""
        return [prompt * self.candidates + slot for prompt in (0, 1) for slot in slots]

    def of_dtype(self, dtype: torch.dtype) -> None:
        """Eager: against a CPU in float32, then against the undisturbed run here."""
        decoder = make_decoder(self.here, self.sampling, dtype)
        alone, branched = self.run(decoder), self.run(decoder, prunes=True)
        self.eager = {dtype: (alone, branched)}
        if dtype == torch.float32:
            reference = make_decoder(self.on_cpu, self.sampling)
            self.near("float32, as on a CPU", dtype, self.run(reference), alone)
            expected = self.run(reference, prunes=True)
            self.near("float32, branched, as on a CPU", dtype, expected, branched)
        self.undisturbed(short(dtype), dtype, decoder, alone, branched)
        parts = make_decoder(self.here, self.sampling, dtype, max_rows=self.candidates - 3)
        self.near(f"{short(dtype)}, in parts of other sizes", dtype, alone, self.run(parts))

    def by_graphs(self, name: str, dtype: torch.dtype) -> None:
        """CUDA graphs: against eager, then against the undisturbed run by graphs."""
        decoder = make_decoder(self.here, self.sampling, dtype, graphs=True)
        # first, in a lane whose memory moves as the past grows: all its graphs go then
        grown = self.run(decoder, step=self.frames // 3)
        decoder = make_decoder(self.here, self.sampling, dtype, graphs=True)
        replays = 0
        replay = torch.cuda.CUDAGraph.replay

        def counted(graph: torch.cuda.CUDAGraph) -> None:
            nonlocal replays
            replays += 1
            replay(graph)

        with patch.object(torch.cuda.CUDAGraph, "replay", counted):
            alone = self.run(decoder)
        steps = self.frames + max(decoder.delays)
        self.check.say(f"{name}, replayed", passed=replays >= steps, replays=replays, steps=steps)
        self.exact(f"{name}, grown in pieces", dtype, alone, grown)
        eager, eager_branched = self.eager[dtype]
        self.near(f"{name}, as eager", dtype, eager, alone)
        branched = self.run(decoder, prunes=True)
        self.near(f"{name}, branched, as eager", dtype, eager_branched, branched)
        self.undisturbed(name, dtype, decoder, alone, branched)
        parts = make_decoder(
            self.here, self.sampling, dtype, max_rows=self.candidates - 3, graphs=True
        )
        self.near(f"{name}, in parts of other sizes", dtype, alone, self.run(parts))

    def undisturbed(
        self, name: str, dtype: torch.dtype, decoder: Decoder, alone: Outcome, branched: Outcome
    ) -> None:
        """Runs of one decoder against its undisturbed one, and its branched one."""
        self.exact(f"{name}, the same run again", dtype, alone, self.run(decoder))
        paused = self.run(decoder, pauses=True)
        self.exact(f"{name}, rolled out and rewound", dtype, alone, paused)
        until, rows = self.prunes[0], self._everywhere(self.parents)
        shared = branched.first(until), alone.rows(rows).first(until)
        self.exact(f"{name}, branched: parents' frames", dtype, *shared)
        own = self._everywhere(sorted(set(self.parents)))
        self.near(
            f"{name}, branched: their own children", dtype, alone.rows(own), branched.rows(own)
        )
        paused = self.run(decoder, prunes=True, pauses=True)
        self.exact(f"{name}, branched, rolled out and rewound", dtype, branched, paused)
        swapped = self.run(decoder, order="ba")
        self.near(f"{name}, prompts in another order", dtype, alone, swapped)

    def near(self, what: str, dtype: torch.dtype, one: Outcome, other: Outcome) -> None:
        """The same but for rounding."""
        found = Agreement.of(one, other)
        self._say(what, dtype, found, found.flip_rate <= FLIP_TOLERANCE[dtype])

    def exact(self, what: str, dtype: torch.dtype, one: Outcome, other: Outcome) -> None:
        """Every token the same."""
        found = Agreement.of(one, other)
        self._say(what, dtype, found, found.equal == 1)

    def _say(self, what: str, dtype: torch.dtype, found: Agreement, passed: bool) -> None:
        self.check.say(
            what,
            passed=passed and found.log_prob_error <= LOG_PROB_TOLERANCE[dtype],
            equal=found.equal,
            rows_flipped=f"{found.rows_flipped} of {found.rows}",
            first_frame=found.first_frame,
            log_prob_error=found.log_prob_error,
        )
