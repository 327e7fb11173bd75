"""--shard: whole groups, each in one part, whatever is added; and what does not go with it."""

import json
from pathlib import Path

import pytest

import benchmark
from src.data.prompts import Prompt, Selection, load_prompts
from src.experiments.pool_generating import generate
from src.experiments.scaling import open_pool
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.searching import in_groups, own_prompts
from src.experiments.settings import BenchmarkSettings, LatencySettings
from src.experiments.sharding import refuse_uneven_groups
from src.methods import METHODS
from src.runs.ending import Exit
from src.runs.records import CANDIDATES, read_manifest, scores_key
from src.runs.run import Run
from src.runs.settings import Settings, UsageError, parse
from src.runs.shards import Shard
from tests.generator.fake_pool import PROMPTS, settings_for
from tests.generator.fake_search import FakeGenerator

MANY = [Prompt(id=f"p{n:02d}", text=f"text {n}", key=f"key {n}") for n in range(47)]


def shards(of: int) -> list[Shard]:
    return [Shard(index, of) for index in range(1, of + 1)]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "2/", "/2", "a/b", "1/0", "-1/2", "1.0/2", ""])
def test_what_names_no_part_is_refused_with_how_to_name_one(text: str) -> None:
    with pytest.raises(ValueError, match="counted from 1, such as 1/8"):
        Shard.parse(text)


def test_a_part_is_read_and_written_the_same() -> None:
    assert Shard.parse("2/5") == Shard(2, 5)
    assert str(Shard.parse("2/5")) == "2/5"
    assert Shard(2, 5).folder(Path("run")) == Path("run/shards/2-of-5")


@pytest.mark.parametrize("size", [1, 4, 64])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_each_group_of_the_whole_run_is_whole_in_one_part(of: int, size: int) -> None:
    whole = [MANY[at : at + size] for at in range(0, len(MANY), size)]
    parts = [list(shard.of_groups(MANY, size)) for shard in shards(of)]
    assert sorted(p.id for part in parts for p in part) == [p.id for p in MANY]
    for group in whole:
        assert sum(group[0] in part for part in parts) == 1
        assert all(group[0] not in part or set(group) <= set(part) for part in parts)


def test_all_parts_have_something_to_do_and_new_prompts_move_none() -> None:
    before = [list(shard.of_groups(MANY[:40], 4)) for shard in shards(2)]
    after = [list(shard.of_groups(MANY, 4)) for shard in shards(2)]
    assert all(before)
    for old, new in zip(before, after, strict=True):
        assert new[: len(old)] == old


def test_groups_are_those_of_the_whole_run_also_in_a_part(tmp_path: Path) -> None:
    generator = FakeGenerator()
    generator.max_rows, plan = 8, METHODS["best_of_n"].make_plan(2, 1, 1, 50, {})
    whole = list(in_groups(MANY, plan, generator, {p.id for p in MANY}))  # type: ignore[arg-type]
    found = []
    for shard in shards(5):
        with Run(tmp_path, "run", {}, {}, shard=shard, prompts=MANY) as run:
            own = own_prompts(run, MANY, plan, generator)  # type: ignore[arg-type]
        found += list(in_groups(MANY, plan, generator, {p.id for p in own}))  # type: ignore[arg-type]
    assert sorted(found, key=lambda group: group[0].id) == whole


def test_a_part_is_a_run_of_the_whole_runs_hash_that_knows_what_the_whole_is(
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path, verifiers=("pmi", "tags"), judges=("msd_kld",))
    with open_pool(settings, PROMPTS, FakeGenerator()) as whole:  # type: ignore[arg-type]
        pass
    done = []
    for index in (1, 2):
        part = settings_for(
            tmp_path, verifiers=("pmi", "tags"), judges=("msd_kld",), shard=f"{index}/2"
        )
        generator = FakeGenerator()
        generator.max_rows = 4  # a prompt at a time
        with open_pool(part, PROMPTS, generator) as run:  # type: ignore[arg-type]
            generate(run, PROMPTS, generator, part)  # type: ignore[arg-type]
        assert run.folder == whole.folder / "shards" / f"{index}-of-2"
        own, of_whole = read_manifest(run.folder), read_manifest(whole.folder)
        assert own["hash"] == of_whole["hash"]
        assert own["title"] == of_whole["title"]
        assert own["shard"] == {"index": index, "of": 2, "prompts": [p.id for p in PROMPTS]}
        assert own["starts"][0]["asked"] == [CANDIDATES, scores_key("tags"), scores_key("msd_kld")]
        done += [record["prompt_id"] for record in run.records.values()]
    assert sorted(done) == sorted(p.id for p in PROMPTS)


@pytest.mark.parametrize(
    ("kind", "flags", "said"),
    [
        (BenchmarkSettings, "--shard 3/2", "--shard 3/2: name a part as I/N"),
        (ExperimentSettings, "--shard 0/2", "--shard 0/2: name a part as I/N"),
        (ExperimentSettings, "--shard 1/2 --validity", "--pool FOLDER --validity"),
        (ExperimentSettings, "--shard 1/2 --pool results/old", "leave out --pool"),
        (LatencySettings, "--shard 1/2", "--shard"),
    ],
)
def test_what_a_part_cannot_do_is_refused(
    kind: type[Settings], flags: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(kind, ["--profile", "builtin", *flags.split()], prog="it")
    assert ended.value.code == Exit.USAGE
    assert said in capsys.readouterr().err


def test_on_a_gpu_the_number_of_rows_has_to_be_said() -> None:
    part = parse(BenchmarkSettings, ["--profile", "builtin", "--shard", "1/2"], prog="it")
    refuse_uneven_groups(part, "cpu")
    with pytest.raises(UsageError, match="give all of them one number"):
        refuse_uneven_groups(part, "cuda")
    said = parse(
        BenchmarkSettings, ["--profile", "builtin", "--shard", "1/2", "--max_rows", "64"], prog="it"
    )
    refuse_uneven_groups(said, "cuda")
    refuse_uneven_groups(parse(BenchmarkSettings, ["--profile", "builtin"], prog="it"), "cuda")


def test_a_part_does_not_decide_the_results() -> None:
    part = parse(BenchmarkSettings, ["--profile", "builtin", "--shard", "1/2"], prog="it")
    assert "shard" not in part.decisive()


def test_what_a_part_costs_is_estimated_of_its_own_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = "--profile builtin --num_samples 6 --duration 0.4 --max_rows 2 --candidates 2 --dry_run"
    args += f" --method best_of_n --judges none --shard 1/2 --output {tmp_path}"
    assert benchmark.main(args.split()) == Exit.DONE
    (row,) = [li for li in capsys.readouterr().out.splitlines() if li.startswith("best_of_n")]
    own = Shard(1, 2).of_groups(load_prompts("builtin", Selection(limit=6), tmp_path), 1)
    assert int(row.split()[1]) == len(list(own)) == 3
    assert not list(tmp_path.iterdir())


def test_a_part_ends_with_how_to_join_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = "--profile builtin --num_samples 2 --duration 0.4 --judges none --max_rows 1"
    assert benchmark.main([*args.split(), "--output", str(tmp_path), "--shard", "1/1"]) == Exit.DONE
    (run,) = tmp_path.iterdir()
    assert capsys.readouterr().out == (
        f"2 of 2 records are finished in {run}/shards/1-of-1\n"
        f"To join what is there: python -m src.runs.merge {run}\n"
    )
    assert [path.name for path in run.iterdir()] == ["shards"]
    assert json.loads((run / "shards/1-of-1/manifest.json").read_text())["shard"]["of"] == 1
