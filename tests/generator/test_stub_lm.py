"""The stub of audiocraft's language model, against audiocraft."""

import torch

from perf.gpu_check.models import Outcome, make_decoder, sources
from perf.stub_lm import Shape, StubLM, create_sin_embedding, stand_in_for_audiocraft
from tests.generator.random_models import random_lm


def test_the_stubs_sines_are_audiocrafts_bit_by_bit() -> None:
    assert not stand_in_for_audiocraft()
    from audiocraft.modules import transformer

    positions = torch.arange(1500)[None, :, None]
    for dim, period in ((32, 10000), (1024, 10000), (64, 500)):
        expected = transformer.create_sin_embedding(positions, dim, max_period=period)
        assert torch.equal(create_sin_embedding(positions, dim, max_period=period), expected)


def test_a_decoder_on_the_stub_decodes_as_one_on_audiocrafts_model() -> None:
    lm = random_lm(dim=32, layers=3, heads=4, card=50)
    weights = lm.state_dict()
    stub = StubLM(Shape(layers=3, dim=32, heads=4, card=50)).eval().requires_grad_(False)
    stub.load_state_dict({k: w for k, w in weights.items() if not k.startswith("condition")})
    outcomes = []
    for model in (lm, stub):
        decoding = make_decoder(model).begin(sources(32, 9, 5), 3, 20, ["a", "b"], seed=1)
        decoding.advance(8)
        decoding.select([0, 0, 2, 4, 4, 3])
        decoding.advance(12)
        outcomes.append(Outcome.of(decoding))
    assert torch.equal(outcomes[0].tokens, outcomes[1].tokens)
    assert torch.equal(outcomes[0].log_probs, outcomes[1].log_probs)
