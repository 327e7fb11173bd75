"""--continue: a run that goes on from an earlier one's winner, from its own tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark
from src.data.prompts import digest_of
from src.protocol import Checkpoint
from src.runs.compact import compact
from src.runs.continuing import refuse_other_model, winner_of
from src.runs.ending import Exit
from src.runs.pool import load_tokens, token_file
from src.runs.records import RECORDS, RunFolderError, read_manifest
from src.runs.settings import UsageError

TINY = "--profile builtin --candidates 2 --judges none --log_level warning --step_size 0.2"


def run(output: Path, args: str) -> Path:
    """The folder of a run that is new there."""
    before = set(output.glob("*"))
    assert benchmark.main(f"{TINY} {args} --output {output}".split()) == Exit.DONE
    (folder,) = set(output.glob("*")) - before
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = "--method best_of_n sbs --beam_width 1 --duration 0.4 --num_samples 2"
    return run(tmp_path_factory.mktemp("begun"), asked)


def test_a_winner_goes_on_from_its_tokens_and_costs_what_is_new(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{begun}/sbs/builtin-01"
    asked = f"--method best_of_n halving --duration 0.8 --continue {name}"
    assert benchmark.main(f"{TINY} {asked} --dry_run --output {tmp_path}".split()) == Exit.DONE
    assert "best_of_n     1      40      2" in capsys.readouterr().out
    folder = run(tmp_path, asked)
    before = load_tokens(begun, "sbs/builtin-01")
    for record in records(folder):
        assert record["ledger"]["frames"] <= 40
        assert (record["prompt_id"], record["winner"]["seconds"]) == ("builtin-01", 0.8)
        tokens = load_tokens(folder, f"{record['method']}/builtin-01")
        assert (tokens.shape, tokens.dtype) == ((4, 40), np.int16)
        assert np.array_equal(tokens[:, :20], before)
    manifest = read_manifest(folder)
    assert "continue_from" not in manifest["identity"]["settings"]
    assert manifest["identity"]["prompts"]["sha256"] == digest_of([winner_of(name)])
    # the same clip from a run that was moved and compacted is the same run
    moved = Path(shutil.copytree(begun, begun.parent / "moved"))
    compact(moved)
    again = f"{TINY} {asked.replace(str(begun), str(moved))} --output {tmp_path}"
    assert benchmark.main(again.split()) == Exit.DONE
    assert len(list(tmp_path.iterdir())) == 1


def test_another_prompt_may_go_on_from_it(begun: Path, tmp_path: Path) -> None:
    asked = f"--duration 0.6 --continue {begun}/sbs/builtin-01 --prompts drums"
    (record,) = records(run(tmp_path, asked))
    assert record["prompt"] == "drums"
    tokens = load_tokens(next(tmp_path.iterdir()), f"baseline/{record['prompt_id']}")
    assert np.array_equal(tokens[:, :20], load_tokens(begun, "sbs/builtin-01"))


def test_what_is_not_there_is_said(begun: Path) -> None:
    with pytest.raises(
        UsageError, match=r"name it .*/METHOD/builtin-00, where METHOD is one of best_"
    ):
        winner_of(f"{begun}/builtin-00")
    with pytest.raises(UsageError, match=r"no winner of that name; it has best_of_n/builtin-00, "):
        winner_of(f"{begun}/builtin-07")
    with pytest.raises(
        UsageError, match="that is a run, not a winner; write RUN/PROMPT_ID or RUN/"
    ):
        winner_of(str(begun))
    with pytest.raises(UsageError, match="no run is there; write RUN/PROMPT_ID"):
        winner_of("nowhere/builtin-00")
    with pytest.raises(UsageError, match=r"its tokens are of builtin .* not of --model other"):
        refuse_other_model(f"{begun}/sbs/builtin-00", Checkpoint(name="other", sha256="0" * 64))
    (committed,) = Path("results/builtin").glob("benchmark-*")
    with pytest.raises(UsageError, match="keeps no tokens of best_of_n/builtin-00"):
        winner_of(f"{committed}/best_of_n/builtin-00")


def test_it_must_be_longer_than_what_is_there(begun: Path, tmp_path: Path) -> None:
    asked = f"{TINY} --duration 0.4 --continue {begun}/sbs/builtin-00 --output {tmp_path}"
    with pytest.raises(SystemExit) as ended:
        benchmark.main(asked.split())
    assert ended.value.code == Exit.USAGE
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_not_the_records_are_refused(begun: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(begun, tmp_path / "damaged"))
    np.save(token_file(damaged, "sbs/builtin-00"), load_tokens(begun, "sbs/builtin-01"))
    with pytest.raises(RunFolderError, match="damaged"):
        winner_of(f"{damaged}/sbs/builtin-00")
