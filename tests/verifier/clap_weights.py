"""Random CLAP weights in the upstream formats, and what laion_clap itself makes of them.

    envs/verifier/.venv/bin/python -m tests.verifier.clap_weights FOLDER [--naive]

Runs in both environments. Writes FOLDER/weights, a folder for CURATOR_WEIGHTS: the checkpoint, with
the full audio model (HTSAT-base) and a text model of one layer whose tokens are bytes, and
RoBERTa's files; and FOLDER/hub home, an HF_HOME with which the library itself can be imported. With
--naive also FOLDER/naive.json: what laion_clap gives when it is called as its documentation says in
this process, which never imports the adapter. Seeded: two runs write the same weights.

The tests of one process share one such folder.
"""

import atexit
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

RATE = 48_000
WINDOW = 10 * RATE
CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"
POSITION_IDS = "text_branch.embeddings.position_ids"
PROMPTS = ("a slow piano piece", "loud electric guitar, fast drums")

ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "vocab_size": 261,
    "hidden_size": 768,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "intermediate_size": 768,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def clip(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """A chord whose notes come and go, in noise: float32 [T]."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    notes = 220 * 2 ** (generator.integers(0, 24, 4) / 12)
    beats = generator.uniform(0.1, 1, 4)
    tones = [
        np.sin(2 * np.pi * n * time) * np.sin(np.pi * b * time + n)
        for n, b in zip(notes, beats, strict=True)
    ]
    noise = generator.normal(0, 0.02, time.size)
    return (0.15 * np.sum(tones, axis=0) + noise).astype(np.float32)


def write_tokenizer(folder: Path) -> None:
    """RoBERTa's tokenizer with one token per byte."""
    from transformers.models.roberta.tokenization_roberta import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values(), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "config.json").write_text(json.dumps(ROBERTA))


def write_hub(home: Path) -> None:
    """A hub cache with all that importing and building laion_clap asks the hub for."""
    from transformers import RobertaConfig, RobertaModel

    def snapshot(name: str) -> Path:
        folder = home / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0")
        (folder / "snapshots" / "0").mkdir(parents=True)
        return folder / "snapshots" / "0"

    bert = snapshot("bert-base-uncased")
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    (bert / "config.json").write_text('{"model_type": "bert"}')
    bart = snapshot("facebook/bart-base")
    write_tokenizer(bart)
    (bart / "config.json").write_text('{"model_type": "bart"}')
    roberta = snapshot("roberta-base")
    RobertaModel(RobertaConfig(**ROBERTA)).save_pretrained(roberta)
    write_tokenizer(roberta)


def write_checkpoint(model: Any, folder: Path) -> None:
    """The checkpoint as the library's training writes it."""
    import torch

    state = model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {
            "epoch": 15,
            "name": "random",
            "state_dict": wrapped | {f"module.{POSITION_IDS}": torch.arange(514)[None]},
            "optimizer": {
                "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(8)}},
                "param_groups": [{"lr": np.float64(1e-4), "betas": (0.9, 0.99), "params": [0]}],
            },
            "scaler": {"scale": 65536.0, "_growth_tracker": np.int64(3)},
        },
        folder / CHECKPOINT,
    )


class Surprise:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def naive(library: Any, folder: Path) -> dict[str, Any]:
    """What the documented calls give, by name."""
    import torch

    def embed(*clips: np.ndarray) -> np.ndarray:
        return library.get_audio_embedding_from_data(x=list(clips), use_tensor=False)

    checkpoint = folder / "weights" / CHECKPOINT
    with torch.no_grad():
        for weights in library.parameters():
            weights.zero_()
        library.load_ckpt(str(checkpoint), verbose=False)
        texts = library.get_text_embedding(list(PROMPTS))
        ten, other, short, long = clip(10), clip(10, seed=1), clip(2), clip(17)
        audio = embed(ten, other, short, long[:WINDOW], long[-WINDOW:], 6 * short)
        windows = (audio[3] + audio[4]) / np.linalg.norm(audio[3] + audio[4])
        return {
            "ten": (audio[0] @ texts.T).tolist(),
            "other": (audio[1] @ texts.T).tolist(),
            "short": (audio[2] @ texts.T).tolist(),
            "too loud": (audio[5] @ texts.T).tolist(),
            "windows of long": (windows @ texts.T).tolist(),
        }


@cache
def folder_of_this_process(name: str) -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"curator-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def written_by(module: str, *options: str) -> Path:
    """The folder that `python -m <module>` writes in a process of its own, once."""
    folder = folder_of_this_process(module)
    command = [sys.executable, "-m", module, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def shared_folder() -> Path:
    """What `main` writes with --naive."""
    return written_by("tests.verifier.clap_weights", "--naive")


def surroundings() -> dict[str, Any]:
    """What a model's load and its scores must leave as they were."""
    import torch
    import torch.distributed.nn.jit.instantiator  # appends a folder of torch's own to sys.path
    from transformers import BartTokenizer, BertTokenizer, RobertaModel, RobertaTokenizer

    classes = (BartTokenizer, BertTokenizer, RobertaModel, RobertaTokenizer)
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().tolist(),
        "sys.path": list(sys.path),
        "root logger": list(logging.root.handlers),
        "default dtype": torch.get_default_dtype(),
        "patched": [c.__name__ for c in classes if "from_pretrained" in vars(c)],
    }


def main(
    folder: Path,
    with_naive: bool,
    building: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    home = folder / "hub home"
    os.environ |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}  # read by the imports below
    import torch

    torch.manual_seed(0)
    write_hub(home)
    import laion_clap

    with building():
        library = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-base", device="cpu")
    # What a trained model would have learnt about decibels; without it all clips sound alike.
    library.model.audio_branch.bn0.running_mean.fill_(-20.0)
    library.model.audio_branch.bn0.running_var.fill_(12.0**2)
    weights = folder / "weights"
    write_tokenizer(weights / "roberta-base")
    write_checkpoint(library.model, weights)
    if with_naive:
        # Only the weights, as today's transformers name them: without position ids.
        (folder / "bare").mkdir()
        torch.save(dict(library.model.state_dict()), folder / "bare" / CHECKPOINT)
        (folder / "naive.json").write_text(json.dumps(naive(library, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--naive" in sys.argv[2:])
