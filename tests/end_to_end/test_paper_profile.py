"""benchmark.py in its default profile: MusicGen, MusicCaps, CLAP and PaSST, really loaded.

Everything has the upstream formats, lies where upstream's tools put it, and is random
(tests/end_to_end/paper_stack.py). No --profile, no --model and no --prompts are given.
"""

import hashlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch

from src.data.audio import read_audio
from src.generator import hash_of
from src.methods import METHODS
from src.runs.ending import Exit
from src.runs.local_server import local_server
from src.runs.records import read_manifest
from tests.end_to_end import scripts
from tests.end_to_end.paper_stack import (
    CODEC,
    MODEL,
    YTIDS,
    environment_of,
    hub_files,
    write_musiccaps,
    write_reference,
    write_stack,
)
from tests.end_to_end.scripts import folder_of, lines, winners

TINY = ("--candidates", "2", "--beam_width", "2", "--duration", "1", "--step_size", "0.5")
CLAP = "music_audioset_epoch_15_esc_90.14.pt"
PASST = "passt-s-f128-20sec-p16-s10-ap.474-swa.pt"
DASHED, LONG, MISSING, BROKEN, _ = YTIDS


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("paper")
    write_stack(folder)
    yield folder
    shutil.rmtree(folder)  # 700 MB


@pytest.fixture(scope="module")
def server(stack: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of(stack).items():
            patch.setenv(name, value)
        patch.delenv("CURATOR_WEIGHTS", raising=False)
        with local_server(["clap"]) as url:
            yield url


def run(stack: Path, output: Path, *args: str, data: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    command = (*args, "--data_dir", str(data or stack / "data"))
    return scripts.run("benchmark.py", output, *command, environment=environment_of(stack))


@pytest.fixture(scope="module")
def whole(stack: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of all four methods that nothing disturbed: its folder, and what it said."""
    output = tmp_path_factory.mktemp("whole")
    code, out, err = run(
        *(stack, output, *TINY, "--num_samples", "2", "--method", *METHODS),
        *("--verifier", "clap", "--server", server),
    )
    assert code == Exit.DONE, err
    return folder_of(output), out + err


@pytest.mark.slow
def test_all_methods_run_on_musiccaps_with_musicgen_clap_and_passt(
    whole: tuple[Path, str],
) -> None:
    folder, said = whole
    records = lines(folder)
    searched = Counter((record["method"], record["prompt_id"]) for record in records)
    assert searched == Counter(product(METHODS, (DASHED, LONG)))
    for record in records:
        assert record["status"] == "ok"
        assert set(record["judges"]) == {"kld_pq", "kld_pq_wrong", "kld_pq_contrast"}
        assert math.isfinite(record["judges"]["kld_pq"])
        assert record["judges"]["kld_pq"] > 0
        clip = read_audio(folder / record["audio"])
        assert (clip.rate, clip.samples.shape) == (32_000, (1, 32_000))
        nodes = [node for node in record["tree"] if node["step"] == record["tree"][-1]["step"]]
        best = max(node["score"]["value"] for node in nodes)
        assert -1 <= record["winner"]["score"]["value"] == best <= 1
    assert len(set(winners(folder).values())) > 2  # a search finds what one sample is not
    assert "judges left out: clap_score (its number is that of clap, which selects)" in said


@pytest.mark.slow
def test_the_manifest_names_every_checkpoint_and_what_was_not_read(
    stack: Path, whole: tuple[Path, str]
) -> None:
    manifest = read_manifest(whole[0])
    settings = manifest["identity"]["settings"]
    assert (settings["profile"], settings["model"], settings["prompts"]) == (
        *("paper", MODEL),
        "musiccaps",
    )
    checkpoints = manifest["identity"]["checkpoints"]
    assert {name: c["name"] for name, c in checkpoints.items()} == {
        **{"generator": MODEL, "clap": CLAP},
        **dict.fromkeys(("kld_pq_contrast", "kld_pq", "kld_pq_wrong"), PASST),
    }
    loaded = hub_files(stack / "hf", "lukewys/laion_clap") / CLAP
    assert checkpoints["clap"]["sha256"] == hashlib.sha256(loaded.read_bytes()).hexdigest()
    roles = [m["role"] for m in manifest["measures"]]
    assert roles == ["selector", "primary judge", "judge", "judge"]
    assert manifest["unread"]["clap"]["captions"] >= 1
    for name in (CLAP, PASST):
        assert name in whole[1]


@pytest.mark.slow
def test_judges_by_name_a_fine_tunes_pointer_to_its_codec_and_references_that_come_later(
    stack: Path, server: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stack / "data", data)
    (data / f"{MISSING}.wav").unlink()
    (data / f"{BROKEN}.wav").write_bytes((data / f"{DASHED}.wav").read_bytes()[:30])
    model = tmp_path / "my musicgen"
    shutil.copytree(hub_files(stack / "hf", MODEL), model)  # the files, not the links
    pointer = {"pretrained": CODEC, "exported": True, "version": "1.3.0"}
    torch.save(pointer, model / "compression_state_dict.bin")
    judges = ("kld_pq", "kld_qp", "kld_both", "clap_score", "clap", "fad_clap")
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join((DASHED, MISSING, BROKEN)))
    command = (*TINY, "--ids", str(ids), "--method", "best_of_n")
    command = (*command, "--judges", *judges, "--server", server, "--model", str(model))
    command = (*command, "--save_audio", "all")
    output = tmp_path / "out"
    code, out, err = run(stack, output, *command, data=data)
    assert code == Exit.DONE, err
    assert "1 of 3 prompts have no reference audio for kld_pq" in err
    folder = folder_of(output)
    files = (model / "state_dict.bin", hub_files(stack / "hf", CODEC) / "model.safetensors")
    own = read_manifest(folder)["identity"]["checkpoints"]["generator"]
    assert own == {"name": str(model), "sha256": hash_of(files)}
    said = {DASHED: None, MISSING: "no reference audio", BROKEN: f"{BROKEN}.wav"}
    by_own = {f"{name}{end}" for name in judges[:3] for end in ("", "_contrast")} | {"fad_clap"}
    by_wrong = {f"{name}_wrong" for name in judges[:3]}  # those of others are there for BROKEN too
    lacking = {DASHED: set(), MISSING: by_own | by_wrong, BROKEN: by_own}
    for record in lines(folder):
        values, unjudged = record["judges"], record["unjudged"]
        assert all(math.isfinite(value) for value in values.values())
        assert {"clap_score", "clap"} <= set(values)
        reason = said[record["prompt_id"]]
        if reason is None:
            assert values["kld_both"] == pytest.approx(values["kld_pq"] + values["kld_qp"])
        assert set(unjudged) == lacking[record["prompt_id"]]
        assert all(reason in unjudged[name] for name in by_own & set(unjudged))
        assert len(list((folder / record["candidates"]).iterdir())) == 2
    assert "fad_clap ↓" in out

    write_reference(data / f"{MISSING}.wav", 2)
    before = lines(folder)
    code, out, err = run(stack, output, *command, data=data)
    assert code == Exit.DONE, err
    assert "judged again: 1 clip\n" in err
    assert "weight_norm" not in err
    again = lines(folder)
    assert again[: len(before)] == before
    (mended,) = again[len(before) :]
    assert (mended["prompt_id"], mended["unjudged"]) == (MISSING, {})
    assert set(mended["judges"]) == {*judges, *by_own, *by_wrong} - {"fad_clap"}


@pytest.mark.parametrize("referenced", [True, False])
def test_without_weights_all_is_said_at_once_within_seconds(
    referenced: bool, tmp_path: Path
) -> None:
    """Also: what needs references is left out by default, and its weights are not asked for."""
    write_musiccaps(tmp_path / "data")
    for reference in [] if referenced else (tmp_path / "data").glob("*.wav"):
        reference.unlink()
    begin = time.monotonic()
    code, _, err = run(tmp_path, tmp_path / "out", "--method", "best_of_n")
    assert time.monotonic() - begin < 10
    assert code == Exit.MISSING
    files = ("state_dict.bin", "compression_state_dict.bin", "t5-base", CLAP, "vocab.json")
    for part in (MODEL, *files, "--fetch"):
        assert part in err
    assert (PASST in err) == referenced
    left_out = "judges left out: kld_pq (no prompt has reference audio)"
    assert (left_out in err) == (not referenced)
    assert not (tmp_path / "out").exists()
