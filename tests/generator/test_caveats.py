"""What a run asks of a generator that it did not learn: too long clips, letters it cannot read."""

import io
import logging
from types import SimpleNamespace

import pytest
import sentencepiece
from transformers import T5Tokenizer

from src.data.prompts import single_prompt
from src.decoding.builtin import TEXT_ENCODER
from src.experiments.settings import BenchmarkSettings
from src.generator import Generator
from src.runs import build
from src.runs.build import caveats, unread_by
from tests.generator.fake_search import FakeGenerator

NIGHT = "雨の夜のピアノ"


def unknown(tokenizer: T5Tokenizer, prompt: str) -> tuple[int, int]:
    conditioner = SimpleNamespace(t5_tokenizer=tokenizer)
    provider = SimpleNamespace(conditioners={"description": conditioner})
    lm = SimpleNamespace(condition_provider=provider)
    return Generator.unknown_tokens(SimpleNamespace(lm=lm), prompt)  # type: ignore[arg-type]


def test_a_vocabulary_without_bytes_loses_words_in_other_scripts_as_one_token_each(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """T5's is such a one."""
    model = io.BytesIO()
    texts = ["a slow piano at night", "rain on the piano, and slow drums"]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=40, hard_vocab_limit=False
    )
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(model.getvalue())
    tokenizer = T5Tokenizer(str(path), legacy=True)
    assert unknown(tokenizer, "a slow piano")[0] == 0
    assert unknown(tokenizer, NIGHT) == (1, 2)  # a space, and one unknown word
    assert unknown(tokenizer, f"a slow {NIGHT} piano 🎹")[0] == 2


def test_the_built_in_encoder_spells_letters_that_it_never_saw_in_bytes() -> None:
    tokenizer = T5Tokenizer.from_pretrained(str(TEXT_ENCODER))
    assert unknown(tokenizer, "A slow theremin, with bagpipes.")[0] == 0
    assert unknown(tokenizer, "café")[0] == 2
    assert unknown(tokenizer, NIGHT) == (21, 22)


def test_what_a_generator_did_not_learn_is_warned_of_once_and_returned_for_the_manifest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build._warn_once.cache_clear()
    settings = BenchmarkSettings(model="facebook/musicgen-small", duration=40.0)
    texts = ["a piano", NIGHT, "piano 夜", "夜", "雨", "の piano"]
    prompts = [single_prompt(text) for text in texts]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = caveats(settings, FakeGenerator(), prompts)  # type: ignore[arg-type]
    assert found == [
        "facebook/musicgen-small was trained on clips of 30 s: --duration 40 is generated in "
        "windows of 30 s, each of which goes on from the last 12 s of the one before "
        "(--extend_stride 18) and knows nothing of what was earlier.",
        f"The text encoder does not know 1 of 1 tokens of '{NIGHT}'.",
        "The text encoder does not know 1 of 2 tokens of 'piano 夜'.",
        "The text encoder does not know 1 of 1 tokens of '夜'.",
        "Nor does it know all tokens of 2 other prompts; their records count them "
        "(unknown_tokens).",
    ]
    assert [r.message for r in caplog.records] == found


def test_a_prompt_that_is_read_whole_and_a_clip_of_a_known_length_need_no_word() -> None:
    generator = FakeGenerator()
    assert caveats(BenchmarkSettings(duration=30.0), generator, [single_prompt("a piano")]) == []  # type: ignore[arg-type]
    assert unread_by(generator, single_prompt("a piano")) == {}  # type: ignore[arg-type]
    assert unread_by(generator, single_prompt("piano 夜")) == {"unknown_tokens": 1}  # type: ignore[arg-type]
