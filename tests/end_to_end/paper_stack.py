"""What the paper profile needs, made up and small, laid out as where the real files are.

    envs/generator/.venv/bin/python -m tests.end_to_end.paper_stack FOLDER

Writes FOLDER/hf, a hub cache (for HF_HOME) with MusicGen, its T5, another codec in transformers'
format, and CLAP; FOLDER/cache (for
XDG_CACHE_HOME) with PaSST; and FOLDER/data (for --data_dir), MusicCaps' table with references. The
MusicGen has MusicGen-small's configuration with fewer and narrower layers, exported by audiocraft
itself; the T5 has t5-base's width and one layer. Everything is random and seeded: two runs write
the same weights.

It is a process of its own, because the hub's libraries read HF_HOME when they are imported.
"""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODEL, ENCODER, CODEC = "facebook/musicgen-small", "t5-base", "facebook/encodec_32khz"
REFERENCE_RATE = 32_000
# The configurations, and MusicCaps' table: what stands in its captions is what trips a reader of
# tables: commas, quotes, a caption longer than verifiers read, an id that looks like an option.
PAPER = ROOT / "tests" / "end_to_end" / "paper"
with (PAPER / "musiccaps.csv").open(encoding="utf-8", newline="") as file:
    YTIDS = tuple(row["ytid"] for row in csv.DictReader(file))


def write_musiccaps(folder: Path) -> None:
    """MusicCaps' table, and the references of all of its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PAPER / "musiccaps.csv", folder)
    for number, ytid in enumerate(YTIDS):
        write_reference(folder / f"{ytid}.wav", number)


def write_reference(path: Path, seed: int) -> None:
    """Ten seconds of notes with a beat, mono, 16 bits, another piece for each seed."""
    import soundfile

    generator = np.random.default_rng(seed)
    time = np.arange(10 * REFERENCE_RATE) / REFERENCE_RATE
    beat = (2 + seed / 2) * time
    melody = generator.integers(0, 12, 60)[beat.astype(int)]
    phase = 2 * np.pi * np.cumsum(220 * 2 ** (melody / 12)) / REFERENCE_RATE
    notes = (np.sin(phase) + 0.4 * np.sin(2 * phase)) * np.exp(-3 * (beat % 1))
    drum = generator.normal(size=time.size) * np.exp(-30 * (beat % 1))
    samples = 0.2 * notes + 0.05 * (1 + seed % 3) * drum
    soundfile.write(path, samples.clip(-1, 1), REFERENCE_RATE, subtype="PCM_16")


def put_in_hub(home: Path, repository: str, files: Iterable[Path]) -> None:
    """Move files into the hub cache of `home`, as huggingface_hub lays it out: one revision."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    revision = hashlib.sha1(repository.encode()).hexdigest()
    snapshot, blobs = folder / "snapshots" / revision, folder / "blobs"
    for made in (snapshot, blobs, folder / "refs"):
        made.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        shutil.move(file, blobs / digest)
        (snapshot / file.name).symlink_to(Path("../../blobs") / digest)


def hub_files(home: Path, repository: str) -> Path:
    """Where the files of a repository lie in the hub cache of `home`."""
    (snapshot,) = (
        home / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots"
    ).iterdir()
    return snapshot


def write_encoder(folder: Path) -> None:
    """The three files of t5-base that a MusicGen needs: width 768, one layer, few pieces."""
    from transformers import T5Config, T5EncoderModel

    pieces = ROOT / "builtin" / "text_encoder" / "spiece.model"
    shutil.copy(pieces, folder / pieces.name)
    shape = {"d_model": 768, "d_ff": 64, "d_kv": 64, "num_heads": 2, "num_layers": 1}
    config = T5Config(vocab_size=418, decoder_start_token_id=0, **shape)  # 318 pieces, 100 extra
    T5EncoderModel(config).save_pretrained(folder, safe_serialization=True)


def write_musicgen(folder: Path) -> None:
    """Both files of a MusicGen as audiocraft exports them. Its T5 must be in the hub cache."""
    import torch
    from omegaconf import OmegaConf

    from src.generator import audiocraft_without_clap

    with audiocraft_without_clap():
        from audiocraft.models import builders
        from audiocraft.utils.export import export_encodec, export_lm

    musicgen, encodec = (OmegaConf.load(PAPER / f"{x}.yaml") for x in ("musicgen", "encodec"))
    on_cpu = {"device": "cpu", "dtype": "float32"}
    lm = builders.get_lm_model(OmegaConf.merge(musicgen, on_cpu))
    codec = builders.get_compression_model(OmegaConf.merge(encodec, on_cpu))
    speak_up(codec)
    half = {name: tensor.half() for name, tensor in lm.state_dict().items()}  # as it is released
    with tempfile.TemporaryDirectory() as scratch:
        trained = Path(scratch) / "checkpoint.th"
        for export, config, weights, name in (
            (export_lm, musicgen, half, "state_dict.bin"),
            (export_encodec, encodec, codec.state_dict(), "compression_state_dict.bin"),
        ):
            best = {"best_state": {"model": weights}, "fsdp_best_state": {}, "xp.cfg": config}
            torch.save(best, trained)
            export(trained, folder / name)


def write_transformers_codec(folder: Path) -> None:
    """A codec like `write_musicgen`'s, random anew, in the two files of facebook/encodec_32khz."""
    import torch
    from transformers import EncodecConfig, EncodecModel

    shape = {"num_filters": 2, "num_lstm_layers": 1, "upsampling_ratios": [8, 5, 4, 4]}
    rates = {"sampling_rate": 32_000, "target_bandwidths": [2.2], "codebook_size": 2048}
    torch.manual_seed(1)
    codec = EncodecModel(EncodecConfig(**shape, **rates, use_causal_conv=False))
    codec.save_pretrained(folder)


def speak_up(codec: Any) -> None:
    """Make a random codec's audio depend on its tokens, as music does: mean square about 0.02.

    As it is initialised, it renders its biases, so that all clips sound alike.
    """
    for name, buffer in codec.named_buffers():
        if name.endswith("inited"):
            buffer.fill_(1)
        elif name.endswith(("embed", "embed_avg")):
            buffer.normal_()
    for name, weights in codec.decoder.named_parameters():
        weights.data *= {"bias": 0.0, "weight_g": 1.5}.get(name.rpartition(".")[2], 1.0)


def write_stack(folder: Path) -> None:
    """All of it, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.paper_stack", str(folder)],
        cwd=ROOT,
        env=environment_of(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def environment_of(folder: Path) -> dict[str, str]:
    """The variables with which the files in a folder are found, and no others."""
    places = {"HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "cache")}
    others = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "AUDIOCRAFT_CACHE_DIR", "TORCH_HOME")
    unset = {*others, "CURATOR_WEIGHTS", "CURATOR_TOKEN"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | places | {"HF_HUB_OFFLINE": "1"}


def main(folder: Path) -> None:
    from tests.passt_weights import write_passt
    from tests.verifier import clap_weights

    made = folder / "made"
    made.mkdir(parents=True)
    clap_weights.main(made, with_naive=False)  # takes made/hub home for HF_HOME
    home = made / "hub home"
    for needless in home.glob("hub/models--*"):  # what the library asks for, and this program not
        shutil.rmtree(needless)
    put_in_hub(home, "lukewys/laion_clap", made.glob("weights/*.pt"))
    put_in_hub(home, "roberta-base", made.glob("weights/roberta-base/*"))
    write_encoder(made)
    put_in_hub(
        home,
        ENCODER,
        [*made.glob("*.json"), *made.glob("spiece.model"), *made.glob("*.safetensors")],
    )
    write_musicgen(made)
    put_in_hub(home, MODEL, made.glob("*.bin"))
    write_transformers_codec(made)
    put_in_hub(home, CODEC, [*made.glob("*.json"), *made.glob("*.safetensors")])
    write_passt(folder / "cache" / "curator" / "weights")
    write_musiccaps(folder / "data")
    home.rename(folder / "hf")
    shutil.rmtree(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
