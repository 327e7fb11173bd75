"""Step 3 of the recipe: train the codec, then write the corpus as tokens.

    envs/training/.venv/bin/python -m builtin.recipe.train_codec --work build/recipe

Two stages. The first trains everything with a multi-resolution mel loss and an exponential-moving-
average residual quantizer (k-means start, dead codes revived, quantizer dropout). Then tokens of
the corpus are final and `tokens.npy` is written (uint16 [clips, 4, 500]).
The second stage (`--refine`) trains the decoder alone on the final tokens, all codebooks in use.
(A spectrogram discriminator was tried there: 450 steps of it made mel distance and tags worse.)

Resumes from its checkpoint; --minutes bounds the time, the learning rate follows a cosine over it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from builtin.recipe.arguments import recipe_parser
from src.decoding.codec import Codec, CodecConfig

log = logging.getLogger("train_codec")
MEL_WINDOWS = ((64, 8), (128, 16), (256, 32), (512, 64), (1024, 80), (2048, 96))


def mel_filterbank(bins: int, mels: int, rate: int) -> Tensor:
    """Triangular HTK-mel filters [bins, mels] from 0 Hz to the Nyquist frequency."""
    edges = 700 * (
        10 ** (torch.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), mels + 2) / 2595) - 1
    )
    frequencies = torch.linspace(0, rate / 2, bins)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class MelLoss(nn.Module):
    """Mean absolute log-mel difference over several windows (hop = window / 4)."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        for window, mels in MEL_WINDOWS:
            self.register_buffer(f"hann{window}", torch.hann_window(window))
            self.register_buffer(f"mel{window}", mel_filterbank(window // 2 + 1, mels, rate))

    def features(self, audio: Tensor, window: int) -> Tensor:
        """[B, T] -> [B, frames, mels] linear mel magnitudes."""
        spectrum = torch.stft(
            audio, window, window // 4, window=getattr(self, f"hann{window}"), return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return magnitude.transpose(1, 2) @ getattr(self, f"mel{window}")

    def forward(self, generated: Tensor, reference: Tensor) -> Tensor:
        """Two [B, T] signals -> scalar."""
        total = generated.new_zeros(())
        for window, _ in MEL_WINDOWS:
            a, b = self.features(generated, window), self.features(reference, window)
            floor = 1e-3 * window**0.5
            total = total + F.l1_loss(torch.log10(a + floor), torch.log10(b + floor))
            total = total + 0.02 * F.l1_loss(a, b) / floor**0.5
        return total / len(MEL_WINDOWS)


class EmaQuantizer:
    """Learns the codebooks of a `Quantizer` by exponential moving averages (van den Oord et al.,
    arXiv 1711.00937, appendix A.1), from a k-means start; entries that die are revived."""

    def __init__(self, codec: Codec, decay: float = 0.99) -> None:
        self.books = codec.quantizer.codebooks
        self.nearest = codec.quantizer.nearest
        self.decay = decay
        self.counts = torch.ones(self.books.shape[:2])
        self.sums = self.books.clone()
        self.started = False

    def state_dict(self) -> dict:
        return {"counts": self.counts, "sums": self.sums, "started": self.started}

    def load_state_dict(self, state: dict) -> None:
        self.counts, self.sums, self.started = state["counts"], state["sums"], state["started"]

    def start(self, latent: Tensor, rounds: int = 12) -> None:
        """k-means on one large batch of latents, book after book."""
        residual = latent
        for book in range(len(self.books)):
            self.books[book] = residual[torch.randperm(len(residual))[: self.books.shape[1]]]
            for _ in range(rounds):
                chosen = self.nearest(residual, book)
                counts = torch.bincount(chosen, minlength=self.books.shape[1]).float()
                sums = torch.zeros_like(self.books[book]).index_add_(0, chosen, residual)
                alive = counts > 0
                self.books[book][alive] = sums[alive] / counts[alive, None]
                dead = ~alive
                self.books[book][dead] = residual[torch.randint(len(residual), (int(dead.sum()),))]
            residual = residual - self.books[book][self.nearest(residual, book)]
        self.sums = self.books.clone() * 4
        self.counts = torch.full_like(self.counts, 4.0)
        self.started = True

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> tuple[list[Tensor], int]:
        """[N, latent] -> the partial sums after 1, 2, ... codebooks; number of revived entries."""
        if not self.started:
            self.start(latent)
        residual, total, partial, revived = latent, torch.zeros_like(latent), [], 0
        for book in range(len(self.books)):
            chosen = self.nearest(residual, book)
            counts = torch.bincount(chosen, minlength=self.books.shape[1]).float()
            sums = torch.zeros_like(self.books[book]).index_add_(0, chosen, residual)
            entries = self.books[book][chosen]
            self.counts[book].lerp_(counts, 1 - self.decay)
            self.sums[book].lerp_(sums, 1 - self.decay)
            dead = self.counts[book] < 0.05
            if dead.any():
                fresh = residual[torch.randint(len(residual), (int(dead.sum()),))]
                self.sums[book][dead], self.counts[book][dead] = fresh, 1.0
                revived += int(dead.sum())
            self.books[book] = self.sums[book] / self.counts[book][:, None]
            total = total + entries
            residual = residual - entries
            partial.append(total)
        return partial, revived


def batches(audio: np.ndarray, rows: np.ndarray, size: int, seconds: float, seed: int):
    """Endless random segments, float32 [size, samples], cut on the frame grid."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * 50)
    while True:
        starts = rng.integers(0, 500 - frames + 1, size) * 320
        picked = rng.choice(rows, size)
        yield torch.from_numpy(
            np.stack(
                [audio[r, s : s + frames * 320] for r, s in zip(picked, starts, strict=True)]
            ).astype(np.float32)
            / 32768
        )


def schedule(progress: float, peak: float) -> float:
    """Short warm-up, then a cosine to a twentieth of the peak."""
    return (
        peak
        * min(1.0, progress / 0.02)
        * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    )


def train(options: argparse.Namespace, audio: np.ndarray, rows: np.ndarray) -> None:
    """Stage one: everything, with the mel loss."""
    torch.manual_seed(options.seed)
    codec = Codec(CodecConfig())
    quantizer = EmaQuantizer(codec)
    loss_of = MelLoss(codec.config.sample_rate)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-3, betas=(0.8, 0.99), weight_decay=1e-2)
    path, step, spent = options.work / "codec.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        codec.load_state_dict(state["codec"])
        quantizer.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        log.info("resumed at step %d, %.1f minutes", step, spent / 60)
    bar = tqdm(unit="step", initial=step, mininterval=5)
    history = (options.work / "codec.jsonl").open("a")
    for segment in batches(audio, rows, options.batch, 2.0, options.seed + step):
        began = time.time()
        progress = spent / (60 * options.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule(progress, 1e-3)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            latent = codec.encoder(segment).float()
        if not quantizer.started:
            with torch.no_grad():
                more = next(batches(audio, rows, 12 * options.batch, 2.0, options.seed + 1))
                quantizer.start(codec.encoder(more).reshape(-1, latent.shape[-1]))
        flat = latent.reshape(-1, latent.shape[-1])
        partial, revived = quantizer(flat.detach())
        kept = torch.tensor([1, 2, 3, 4, 4, 4])[torch.randint(6, (len(segment),))] - 1
        chosen = torch.stack(partial).view(4, *latent.shape)[kept, torch.arange(len(segment))]
        commit = F.mse_loss(latent, chosen)
        quantized = latent + (chosen - latent).detach()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            output = codec.decoder(quantized)
        mel = loss_of(output, segment)
        loss = mel + 0.1 * commit
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        step, spent = step + 1, spent + min(5.0, time.time() - began)
        bar.update()
        if step % 25 == 0:
            used = [int((quantizer.counts[k] > 0.3).sum()) for k in range(4)]
            row = {
                "step": step,
                "minutes": spent / 60,
                "mel": mel.item(),
                "commit": commit.item(),
                "norm": norm.item(),
                "revived": revived,
                "used": used,
            }
            history.write(json.dumps(row) + "\n")
            history.flush()
            bar.set_postfix(mel=f"{mel.item():.3f}", commit=f"{commit.item():.3f}", used=used[0])
        if step % 250 == 0:
            save(
                path,
                {
                    "codec": codec.state_dict(),
                    "ema": quantizer.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": spent,
                },
            )
    save(
        path,
        {
            "codec": codec.state_dict(),
            "ema": quantizer.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "spent": spent,
        },
    )


def refine(options: argparse.Namespace, audio: np.ndarray, rows: np.ndarray) -> None:
    """Stage two: the decoder alone, on the tokens as they will be."""
    torch.manual_seed(options.seed)
    codec = Codec(CodecConfig())
    codec.load_state_dict(torch.load(options.work / "codec.pt", weights_only=True)["codec"])
    loss_of = MelLoss(codec.config.sample_rate)
    optimizer = torch.optim.AdamW(codec.decoder.parameters(), lr=5e-4, betas=(0.8, 0.99))
    path, step, spent = options.work / "codec_refined.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        codec.load_state_dict(state["codec"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]

    def checkpoint() -> None:
        weights = {"codec": codec.state_dict(), "optimizer": optimizer.state_dict()}
        save(path, weights | {"step": step, "spent": spent})

    bar = tqdm(unit="step", initial=step, mininterval=5)
    history = (options.work / "codec_refined.jsonl").open("a")
    for segment in batches(audio, rows, options.batch, 2.0, options.seed + 7 + step):
        began = time.time()
        progress = spent / (60 * options.refine_minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule(progress, 5e-4)
        with torch.no_grad():
            quantized = codec.quantizer.decode(codec.encode(segment))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            output = codec.decoder(quantized)
        inner = slice(1600, -1600)  # the ends lack the context that a whole clip gives
        loss = loss_of(output[:, inner], segment[:, inner])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.decoder.parameters(), 1.0)
        optimizer.step()
        step, spent = step + 1, spent + min(5.0, time.time() - began)
        bar.update()
        if step % 25 == 0:
            row = {"step": step, "minutes": spent / 60, "mel": loss.item()}
            history.write(json.dumps(row) + "\n")
            history.flush()
            bar.set_postfix(mel=f"{loss.item():.3f}")
        if step % 250 == 0:
            checkpoint()
    checkpoint()


def save(path: Path, state: dict) -> None:
    """Write a checkpoint whole."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


@torch.no_grad()
def write_tokens(options: argparse.Namespace, audio: np.ndarray) -> None:
    """The whole corpus as tokens, uint16 [clips, 4, 500]."""
    codec = Codec(CodecConfig())
    codec.load_state_dict(torch.load(options.work / "codec.pt", weights_only=True)["codec"])
    codec.eval()
    tokens = np.zeros((len(audio), 4, 500), np.uint16)
    for first in tqdm(range(0, len(audio), 16), unit="batch", desc="tokens"):
        clips = torch.from_numpy(audio[first : first + 16].astype(np.float32) / 32768)
        tokens[first : first + len(clips)] = codec.encode(clips).numpy()
    np.save(options.work / "tokens.part.npy", tokens)
    (options.work / "tokens.part.npy").replace(options.work / "tokens.npy")


def main() -> None:
    """Train or refine, then write the tokens."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=25, help="training time of stage one")
    parser.add_argument("--refine", action="store_true", help="stage two: the decoder alone")
    parser.add_argument("--refine_minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=12, help="segments of 2 s a step")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    audio = np.load(options.work / "audio.npy", mmap_mode="r")
    splits = [json.loads(line)["split"] for line in (options.work / "clips.jsonl").open()]
    rows = np.array([i for i, split in enumerate(splits) if split == "train"])
    if options.refine:
        refine(options, audio, rows)
        return
    train(options, audio, rows)
    write_tokens(options, audio)


if __name__ == "__main__":
    main()
