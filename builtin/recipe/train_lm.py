"""Step 4 of the recipe: train the language model and its text encoder on the corpus' tokens.

    envs/training/.venv/bin/python -m builtin.recipe.train_lm --work build/recipe

A small T5 encoder with its own SentencePiece vocabulary learns jointly with the language model.
Hidden matrices are trained by Muon (Jordan et al., 2024; torch.optim.Muon), everything else by
AdamW. Captions are worded anew each time a clip is drawn; the text is dropped for a tenth of the
clips, for classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

Resumes from its checkpoint; --minutes bounds the time. Curves per codebook go to lm.jsonl.
"""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import T5Config, T5EncoderModel

from builtin.recipe.arguments import recipe_parser
from builtin.recipe.captions import Attributes, caption
from builtin.recipe.language_model import LanguageModel, LMConfig
from builtin.recipe.train_codec import save, schedule

log = logging.getLogger("train_lm")
CODEBOOK_WEIGHTS = torch.tensor(
    [1.4, 1.1, 0.8, 0.7]
)  # melody and timbre live in the first codebooks


def attributes_of(row: dict) -> Attributes:
    """The attributes that a corpus row was rendered from."""
    return Attributes(**{name: row[name] for name in Attributes.__dataclass_fields__})


def train_vocabulary(
    work: Path, rows: list[dict], size: int
) -> sentencepiece.SentencePieceProcessor:
    """A case-folding unigram vocabulary with bytes for what it has not seen; T5's special ids."""
    target = work / "spiece.model"
    if not target.exists():
        rng = random.Random(0)
        texts = work / "captions.txt"
        texts.write_text(
            "\n".join(caption(attributes_of(row), rng) for row in rows for _ in range(3))
        )
        sentencepiece.SentencePieceTrainer.train(
            input=str(texts),
            model_prefix=str(work / "spiece"),
            vocab_size=size,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc_cf",
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(target))


def text_encoder(config: LMConfig, vocabulary: int) -> T5EncoderModel:
    """The T5 encoder, freshly initialised."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=config.text_dim,
            d_kv=config.text_dim // config.text_heads,
            d_ff=config.text_ff,
            num_layers=config.text_layers,
            num_heads=config.text_heads,
            dropout_rate=0.05,
            initializer_factor=1.0,
        )
    )


class Captions:
    """Rows of the corpus -> padded token ids of freshly worded captions."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict], rng: random.Random | None) -> tuple[Tensor, Tensor]:
        """ids int64 [B, L] and mask bool [B, L]; without `rng`, the captions as stored."""
        texts = [caption(attributes_of(row), rng) if rng else row["caption"] for row in rows]
        ids = [[*self.tokenizer.encode(text), 1] for text in texts]
        length = max(map(len, ids))
        padded = torch.tensor([line + [0] * (length - len(line)) for line in ids])
        return padded, torch.arange(length)[None] < torch.tensor([len(line) for line in ids])[
            :, None
        ]


@torch.no_grad()
def validate(
    model: LanguageModel,
    encoder: T5EncoderModel,
    words: Captions,
    tokens: np.ndarray,
    rows: list[dict],
    which: np.ndarray,
) -> list[float]:
    """Mean cross-entropy by codebook over held-out pieces."""
    model.eval(), encoder.eval()
    total, count = torch.zeros(4), 0
    for first in range(0, len(which), 16):
        picked = which[first : first + 16]
        ids, mask = words([rows[i] for i in picked], None)
        with torch.autocast("cpu", torch.bfloat16):
            text = encoder(ids, attention_mask=mask.long()).last_hidden_state
            losses = model.losses(
                torch.from_numpy(tokens[picked].astype(np.int64)),
                text,
                mask,
                torch.ones(len(picked), 1, 1),
            )
        total, count = total + losses * len(picked), count + len(picked)
    model.train(), encoder.train()
    return (total / count).tolist()


def main() -> None:
    """Train until the minutes are spent."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=8, help="clips of 10 s a step")
    parser.add_argument("--muon_lr", type=float, default=3e-3)
    parser.add_argument("--adam_lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokens = np.load(options.work / "tokens.npy", mmap_mode="r")
    rows = [json.loads(line) for line in (options.work / "clips.jsonl").open()]
    train_rows = np.array([i for i, row in enumerate(rows) if row["split"] == "train"])
    valid_rows = np.array([i for i, row in enumerate(rows) if row["split"] == "valid"])
    tokenizer = train_vocabulary(options.work, [rows[i] for i in train_rows], LMConfig().vocabulary)
    config = LMConfig(vocabulary=tokenizer.vocab_size())
    words = Captions(tokenizer)
    model, encoder = LanguageModel(config), text_encoder(config, config.vocabulary)
    hidden = [p for p in model.transformer.parameters() if p.ndim == 2]
    others = [
        p for p in (*model.parameters(), *encoder.parameters()) if not any(p is h for h in hidden)
    ]
    muon = torch.optim.Muon(
        hidden, lr=options.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=options.adam_lr, betas=(0.9, 0.95), weight_decay=0.01)
    log.info(
        "%.1f M parameters, text encoder %.1f M",
        sum(p.numel() for p in model.parameters()) / 1e6,
        sum(p.numel() for p in encoder.parameters()) / 1e6,
    )
    path, step, spent = options.work / "lm.pt", 0, 0.0

    def state() -> dict:
        return {
            "model": model.state_dict(),
            "encoder": encoder.state_dict(),
            "muon": muon.state_dict(),
            "adam": adam.state_dict(),
            "step": step,
            "spent": spent,
        }

    if path.exists():
        old = torch.load(path, weights_only=True)
        model.load_state_dict(old["model"]), encoder.load_state_dict(old["encoder"])
        muon.load_state_dict(old["muon"]), adam.load_state_dict(old["adam"])
        step, spent = old["step"], old["spent"]
        log.info("resumed at step %d, %.1f minutes", step, spent / 60)
    history = (options.work / "lm.jsonl").open("a")
    bar = tqdm(unit="step", initial=step, mininterval=5)
    running = None
    while (progress := spent / (60 * options.minutes)) < 1:
        began = time.time()
        rng = random.Random(f"{options.seed}/{step}")
        picked = np.array(rng.sample(list(train_rows), options.batch))
        for optimizer, peak in ((muon, options.muon_lr), (adam, options.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = schedule(progress, peak)
        ids, mask = words([rows[i] for i in picked], rng)
        keep = torch.tensor([float(rng.random() >= 0.1) for _ in picked])[:, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            text = encoder(ids, attention_mask=mask.long()).last_hidden_state
            losses = model.losses(
                torch.from_numpy(tokens[picked].astype(np.int64)), text, mask, keep
            )
        loss = (losses * CODEBOOK_WEIGHTS).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*hidden, *others], 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        running = losses.detach() if running is None else running.lerp(losses.detach(), 0.03)
        step, spent = step + 1, spent + min(5.0, time.time() - began)  # a pause is no training
        bar.update()
        if step % 50 == 0:
            row = {
                "step": step,
                "minutes": round(spent / 60, 2),
                "train": [round(v, 4) for v in running.tolist()],
            }
            if step % 500 == 0:
                row["valid"] = [
                    round(v, 4)
                    for v in validate(model, encoder, words, tokens, rows, valid_rows[:96])
                ]
                save(path, state())
            history.write(json.dumps(row) + "\n")
            history.flush()
            bar.set_postfix_str(" ".join(f"{v:.2f}" for v in row.get("valid", row["train"])))
    row = {
        "step": step,
        "minutes": round(spent / 60, 2),
        "final": validate(model, encoder, words, tokens, rows, valid_rows),
    }
    history.write(json.dumps(row) + "\n")
    save(path, state())
    log.info("validation cross-entropy by codebook, nats: %s", row["final"])


if __name__ == "__main__":
    main()
