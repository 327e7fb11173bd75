"""The built-in stack: its weights load as audiocraft's classes and do what the recipe trained."""

import csv
import hashlib
import json

import numpy as np
import pytest
import soundfile
import torch

from builtin.recipe.captions import STYLE_WORDS, Attributes, caption
from builtin.recipe.language_model import LanguageModel, LMConfig, delayed
from src.data.audio import read_audio
from src.data.prompts import Selection, load_prompts
from src.decoding.builtin import BUILTIN_DIR, as_compression_model, load_codec, load_config
from src.decoding.codec import Codec, CodecConfig
from src.generator import load_generator
from src.models.tags import named_tags

LM_FIELDS = LMConfig.__dataclass_fields__


@pytest.fixture(scope="module")
def generator():
    return load_generator("builtin")


def test_the_recipe_trains_the_function_that_audiocraft_computes(generator):
    """Same weights, same tokens, same text: the recipe's logits are LMModel's."""
    lm = generator.lm
    config = LMConfig(**{k: v for k, v in load_config()["lm"].items() if k in LM_FIELDS})
    ours = LanguageModel(config).eval()
    state = {k: v for k, v in lm.state_dict().items() if not k.startswith("condition")}
    conditioner = lm.condition_provider.conditioners["description"]
    state |= {f"output_proj.{k}": v for k, v in conditioner.output_proj.state_dict().items()}
    ours.load_state_dict(state)
    seeded = torch.Generator().manual_seed(0)
    codes = torch.randint(0, config.card, (2, config.codebooks, 40), generator=seeded)
    inputs = conditioner.tokenize(["A slow violin air.", "A slow violin air."])
    with torch.inference_mode():
        text = conditioner.t5(**inputs).last_hidden_state
        theirs = lm(
            delayed(codes, config.card)[..., :-1],
            [],
            {"description": conditioner(inputs)},
        )
        hidden = ours.hidden(
            delayed(codes, config.card)[..., :-1],
            text,
            inputs["attention_mask"].bool(),
            torch.ones(2, 1, 1),
        )
        for book, head in enumerate(ours.linears):
            torch.testing.assert_close(head(hidden), theirs[:, book], atol=2e-4, rtol=1e-4)


def test_the_text_encoder_was_trained_with_the_model_not_left_at_random(generator):
    """Two descriptions that differ in one word give clearly different conditions."""
    conditioner = generator.lm.condition_provider.conditioners["description"]
    with torch.inference_mode():
        conditions = [
            conditioner(conditioner.tokenize([text]))[0].mean(1) for text in ("a flute", "a choir")
        ]
    assert torch.cosine_similarity(*conditions).item() < 0.9


def test_codec_length_and_interface():
    model = as_compression_model(load_codec())
    assert (model.channels, model.sample_rate, model.frame_rate) == (1, 16_000, 50.0)
    assert (model.cardinality, model.num_codebooks, model.total_codebooks) == (1024, 4, 4)
    audio = torch.randn(2, 1, 16_000) * 0.1
    with torch.inference_mode():
        codes, scale = model.encode(audio)
        assert codes.shape == (2, 4, 50)
        assert codes.dtype == torch.int64
        assert scale is None
        assert model.decode(codes).shape == (2, 1, 16_000)
        assert model(audio[..., :15_999]).x.shape == (2, 1, 15_999)
        assert model.decode_latent(codes).shape == (2, 64, 50)
        model.set_num_codebooks(2)
        assert torch.equal(model.encode(audio)[0], codes[:, :2])
    with pytest.raises(ValueError, match="1 to 4"):
        model.set_num_codebooks(5)


def test_synthesis_inverts_the_analysis_of_its_own_window():
    """The overlap-add is an inverse STFT: a signal's own spectrum gives the signal back."""
    decoder = Codec(CodecConfig()).decoder
    config = decoder.config
    audio = torch.randn(1, 20 * config.hop)
    margin = (config.synthesis_window - config.hop) // 2
    spectrum = torch.stft(
        torch.nn.functional.pad(audio, (margin, margin)),
        config.synthesis_window,
        config.hop,
        window=decoder.window,
        center=False,
        return_complex=True,
    )
    inner = slice(2 * config.hop, -2 * config.hop)
    again = decoder.synthesise(spectrum)
    torch.testing.assert_close(again[:, inner], audio[:, inner], atol=1e-4, rtol=1e-4)


def test_codec_keeps_what_a_reference_sounds_like():
    """Band by band over time, coded references are far more like their originals than others."""
    codec = load_codec()
    names = [f"builtin-{number:02d}" for number in range(8)]

    def bands(audio: torch.Tensor) -> np.ndarray:
        window = torch.hann_window(512)
        spectrum = torch.stft(audio, 512, 160, window=window, return_complex=True).abs()[0]
        return torch.log(spectrum[:128].reshape(32, 4, -1).mean(1) + 1e-2).flatten().numpy()

    clips = [read_audio(BUILTIN_DIR / "references" / f"{n}.ogg").samples.mean(0) for n in names]
    originals = [torch.from_numpy(clip[: 5 * 16_000])[None] for clip in clips]
    with torch.inference_mode():
        coded = [codec.decode(codec.encode(audio)) for audio in originals]
    likeness = np.corrcoef([bands(x) for x in coded], [bands(x) for x in originals])[:8, 8:]
    own, others = np.diag(likeness), likeness[~np.eye(8, dtype=bool)]
    assert own.min() > 0.7
    assert own.mean() > others.mean() + 0.3


def test_prompts_are_held_out_and_have_references():
    prompts = load_prompts("builtin", Selection(64), BUILTIN_DIR)
    attributes = json.loads((BUILTIN_DIR / "prompts.json").read_text())
    assert len({p.id for p in prompts}) == len(prompts) == 64
    assert all(p.reference and p.reference.exists() for p in prompts)
    assert {row["split"] for row in attributes.values()} == {"test"}
    assert sum(row["held_out_combination"] for row in attributes.values()) == 16


def test_the_confirmations_prompts_are_new_held_out_and_have_references_of_5_s():
    table = BUILTIN_DIR / "confirmation" / "prompts.csv"
    prompts = load_prompts(str(table), Selection(1000), BUILTIN_DIR)
    earlier = json.loads((BUILTIN_DIR / "prompts.json").read_text()).values()
    pieces = [row["piece"] for row in csv.DictReader(table.open(newline=""))]
    assert [p.id for p in prompts] == [f"conf-{number:03d}" for number in range(256)]
    assert len({p.text for p in prompts} | {row["caption"] for row in earlier}) == 256 + 64
    assert len({*pieces} | {row["piece"] for row in earlier}) == 256 + 64
    buckets = [int(hashlib.sha256(piece.encode()).hexdigest(), 16) % 100 for piece in pieces]
    assert max(buckets) < 10  # those from 10 on were trained on (corpus.split_of)
    for prompt in prompts:
        assert named_tags(prompt.text, "tags").wanted
        assert prompt.seconds == soundfile.info(prompt.reference).duration == 5


def test_captions_name_the_lead_in_every_wording():
    import random

    attributes = Attributes("harp", None, "line", "slow", "minor", "air", False)
    texts = {caption(attributes, random.Random(i)) for i in range(200)}
    assert len(texts) > 100
    assert all("harp" in text.lower() for text in texts)
    assert all("  " not in text and " ," not in text and ",," not in text for text in texts)
    assert set(STYLE_WORDS) >= {"air", "chorale"}
