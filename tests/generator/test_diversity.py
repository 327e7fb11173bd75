"""What a pool's embeddings say of the diversity of winners."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from src.data.audio import Clip
from src.data.files import write_whole
from src.data.prompts import Prompt
from src.reports.diversity import diversity
from src.reports.pool import report
from src.reports.pool_study import study_pool
from src.runs.embeddings import npz, pool_embedding_file
from src.runs.pool import load_pool
from src.runs.run import Run
from src.stats.sets import kernel_to, spread
from tests.generator.fake_pool import PROMPTS, FakeClient, hears, judge, made_pool, verifier
from tests.generator.fake_search import FakeGenerator, FakeSetJudge

M = 4


class Listening(FakeSetJudge):
    heard = 0

    def hear(self, clip: Clip, prompt: Prompt) -> np.ndarray:
        Listening.heard += 1
        return super().hear(clip, prompt)


NETWORK = {"fake_set": Listening()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with made_pool(tmp_path) as run:
        hears(run, [verifier("tags")], FakeClient())
        yield run


def test_a_pool_is_heard_once_and_again_only_where_a_file_is_lacking(run: Run) -> None:
    Listening.heard = 0
    for _ in range(2):
        hears(run, [], networks=NETWORK)
        assert Listening.heard == M * len(PROMPTS)
    pool_embedding_file(run.folder, "fake_set", PROMPTS[0].id).unlink()
    hears(run, [], networks=NETWORK)
    assert Listening.heard == M * (len(PROMPTS) + 1)


def test_judges_and_networks_hear_clips_that_are_rendered_once(run: Run) -> None:
    generator = FakeGenerator()
    hears(run, [judge("far")], None, generator, NETWORK)
    assert generator.lengths == [20] * len(PROMPTS)


def test_winners_measures_are_those_of_the_clips_that_win(run: Run) -> None:
    random = np.random.default_rng(1)
    clips = {p.id: random.normal(size=(M, 3)) for p in PROMPTS}
    clips[PROMPTS[1].id][2] = np.nan  # cannot be heard: it never wins
    theirs = {p.id: random.normal(size=(1, 3)) for p in PROMPTS}
    for prompt, candidates in clips.items():
        heard = {"candidates": candidates, "reference": theirs[prompt], "checkpoint": np.array("w")}
        write_whole(pool_embedding_file(run.folder, "fad_x", prompt), npz(heard))
    pool = load_pool(run.folder)
    rows = diversity(study_pool(pool, (1, 3)))
    key = {"selector": "tags", "embeddings": "fad_x", "checkpoint": "w", "prompts": len(PROMPTS)}
    first, last = (
        next(r for r in rows if key.items() <= r.items() and (r["statistic"], r["n"]) == cell)
        for cell in (("spread", 1), ("kernel", 1))
    )
    assert first["change"] == last["change"] == 0
    # of random candidates, the mean over all choices of one per prompt
    choices = [
        [x[None] for x in chosen]
        for chosen in np.stack(
            np.meshgrid(*[np.arange(M)] * len(PROMPTS), indexing="ij"), axis=-1
        ).reshape(-1, len(PROMPTS))
        for chosen in [[clips[p.id][i] for p, i in zip(PROMPTS, chosen, strict=True)]]
        if np.isfinite(chosen).all()
    ]
    assert first["value"] == pytest.approx(np.mean([spread(c) for c in choices]))
    to = kernel_to([theirs[p.id] for p in PROMPTS])
    assert last["value"] == pytest.approx(np.mean([to(c) for c in choices]))


def test_a_table_is_written_where_embeddings_are_and_kept_where_they_are_not(run: Run) -> None:
    pool = load_pool(run.folder)
    assert "diversity" not in report(pool, (), (1, 2))
    assert not (run.folder / "diversity.csv").exists()
    hears(run, [], networks=NETWORK)
    text = report(pool, (), (1, 2)).replace("\n    ", " ")
    assert "diversity, fake_set: " in text
    assert "change at N = 2: perplexity " in text
    written = (run.folder / "diversity.csv").read_text()
    for prompt in PROMPTS:
        pool_embedding_file(run.folder, "fake_set", prompt.id).unlink()
    report(pool, (), (1, 2))
    assert (run.folder / "diversity.csv").read_text() == written
