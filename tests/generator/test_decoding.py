"""The decoder against audiocraft's own decoding, and unfinished steps against unpaused runs."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from src.decoding.decoder import Decoder, Decoding, Mark, Sampling, UnsupportedModel
from src.decoding.layers import Linear
from src.decoding.part import Part
from src.generator import load_generator
from tests.generator.random_models import attributes, condition, random_lm

PROMPTS = ("a slow harp", "fast loud drums with a guitar and more words", "choir")


@pytest.fixture(scope="module")
def lm():
    return random_lm()


@pytest.fixture(scope="module")
def narrow_heads():
    """Heads narrower than the texts are long, so that texts are not absorbed."""
    return random_lm(heads=8)


@pytest.fixture(scope="module")
def builtin():
    return load_generator("builtin").lm


def begin(
    lm, prompts=PROMPTS, candidates=4, frames=24, seed=1, max_rows=64, **sampling
) -> Decoding:
    decoder = Decoder(lm, Sampling(**sampling), max_rows=max_rows)
    return decoder.begin([condition(lm, p) for p in prompts], candidates, frames, prompts, seed)


def whole(lm, **options) -> torch.Tensor:
    decoding = begin(lm, **options)
    decoding.advance(decoding.frames)
    return decoding.tokens()


def greedy(model, prompt: str, frames: int, given=None, **sampling) -> torch.Tensor:
    decoder = Decoder(model, Sampling(**sampling))
    rows = 1 if given is None else len(given)
    decoding = decoder.begin([condition(model, prompt)], rows, frames, ["k"], 0, given)
    assert decoding.finished == (0 if given is None else given.shape[-1])
    decoding.advance(frames - decoding.finished, greedy=True)
    return decoding.tokens()


@torch.inference_mode()
def audiocrafts(model, prompt: str, frames: int, given=None, **options) -> torch.Tensor:
    """What audiocraft decodes greedily."""
    prompts = [prompt] * (1 if given is None else len(given))
    return model.generate(
        given, attributes(*prompts), max_gen_len=frames, use_sampling=False, **options
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 32), (32, 96), (512, 2048)])
def test_a_product_is_the_same_in_any_order_of_its_weight(outputs, inputs, bias):
    weight, x = torch.randn(outputs, inputs), torch.randn(6, inputs)
    linear = Linear(weight, torch.randn(outputs) if bias else None)
    expected = F.linear(x, weight, linear.bias)
    for product in (linear(x), linear.pack(6)(x), linear.pack(5)(x)):
        torch.testing.assert_close(product, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("name", ["lm", "narrow_heads", "builtin"])
def test_greedy_tokens_are_audiocrafts(name, guidance, request):
    model, prompt = request.getfixturevalue(name), "a slow harp air in a minor key"
    # audiocraft always computes both halves; at 1 they cancel out
    expected = audiocrafts(model, prompt, 40, cfg_coef=guidance)
    assert torch.equal(greedy(model, prompt, 40, guidance=guidance), expected)


@pytest.mark.parametrize("name", ["lm", "narrow_heads", "builtin"])
def test_greedy_continuation_of_given_tokens_is_audiocrafts(name, request):
    model, prompt = request.getfixturevalue(name), "a fast violin reel"
    given = torch.randint(0, model.card, (2, 4, 9), generator=torch.Generator().manual_seed(3))
    tokens = greedy(model, prompt, 30, given)
    assert torch.equal(tokens, audiocrafts(model, prompt, 30, given))
    assert torch.equal(tokens[..., :9], given)


@pytest.mark.parametrize("name", ["lm", "narrow_heads"])
@torch.inference_mode()
def test_prompts_of_different_length_side_by_side_are_what_each_is_alone(name, request):
    lm = request.getfixturevalue(name)
    together = begin(lm, candidates=2)
    together.advance(24, greedy=True)
    for row, prompt in enumerate(PROMPTS):
        alone = audiocrafts(lm, prompt, 24)
        assert torch.equal(together.tokens()[2 * row : 2 * row + 1], alone)


def second_pass(model, tokens: torch.Tensor, prompts: Sequence[str | None]) -> torch.Tensor:
    """audiocraft's own mean log-probability of finished tokens, row by row: [rows].

    Alone, because audiocraft's padding of texts would change its logits. None: without a text.
    """
    means = []
    for row, prompt in zip(tokens.split(1), prompts, strict=True):
        output = model.compute_predictions(row, attributes(prompt), keep_only_valid_steps=False)
        assert output.mask.all()
        log_probs = output.logits.log_softmax(-1).gather(-1, row[..., None])[..., 0]
        means.append(log_probs.mean())
    return torch.stack(means)


@pytest.mark.parametrize("name", ["lm", "narrow_heads", "builtin"])
@torch.inference_mode()
def test_log_probabilities_are_those_of_a_second_pass(name, request):
    model = request.getfixturevalue(name)
    a, b = "a slow harp", "a loud choir"
    decoding = begin(model, prompts=(a, b), candidates=2, frames=30)
    decoding.advance(30)
    expected = second_pass(model, decoding.tokens(), (a, a, b, b))
    torch.testing.assert_close(decoding.mean_log_prob(), expected, atol=1e-5, rtol=1e-5)
    without = decoding.mean_log_prob(conditional=False)
    expected = second_pass(model, decoding.tokens(), [None] * 4)
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(without, decoding.mean_log_prob(), atol=1e-4)


@torch.inference_mode()
def test_log_probabilities_of_given_tokens_are_those_of_a_second_pass(lm):
    given = torch.randint(0, lm.card, (4, lm.n_q, 9), generator=torch.manual_seed(3))
    conditions = [condition(lm, prompt) for prompt in PROMPTS[:2]]
    decoding = Decoder(lm).begin(conditions, 2, 20, PROMPTS[:2], 1, given)
    decoding.advance(11)
    of_row = [prompt for prompt in PROMPTS[:2] for _ in range(2)]
    for conditional, prompts in ((True, of_row), (False, [None] * 4)):
        expected = second_pass(lm, decoding.tokens(), prompts)
        found = decoding.mean_log_prob(conditional=conditional)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@torch.inference_mode()
def test_tokens_were_drawn_with_the_probability_that_is_given(lm, guidance):
    """By audiocraft's own logits: guided, at the temperature, of the k best; 0 where given."""
    given = torch.randint(0, lm.card, (3, lm.n_q, 6), generator=torch.manual_seed(3))
    sampling = Sampling(temperature=0.8, top_k=5, guidance=guidance)
    decoding = Decoder(lm, sampling).begin([condition(lm, "a harp")], 3, 20, ["k"], 1, given)
    decoding.advance(8)
    decoding.select([1, 1, 0])
    decoding.advance(6)
    tokens = decoding.tokens()
    logits = [
        torch.cat(
            [
                lm.compute_predictions(row, attributes(text), keep_only_valid_steps=False).logits
                for row in tokens.split(1)
            ]
        )
        for text in ("a harp", None)
    ]
    guided = (logits[1] + guidance * (logits[0] - logits[1])) / 0.8
    kept = guided.masked_fill(guided < guided.topk(5).values[..., -1:], -torch.inf)
    drawn = kept.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    drawn[..., :6] = 0
    assert drawn.isfinite().all()
    torch.testing.assert_close(
        decoding.mean_log_sampled(), drawn.mean((1, 2)), atol=1e-5, rtol=1e-5
    )


def test_without_guidance_nothing_is_known_of_the_tokens_without_their_text(lm):
    decoding = begin(lm, guidance=1.0)
    decoding.advance(4)
    assert not decoding.guided
    with pytest.raises(ValueError, match="without guidance"):
        decoding.mean_log_prob(conditional=False)


@pytest.mark.parametrize("name", ["lm", "narrow_heads"])
@pytest.mark.parametrize("max_rows", [3, 64])
@torch.inference_mode()
def test_a_branch_carries_its_parents_whole_past(name, max_rows, request):
    """Keys, values, tokens in flight and log-probabilities: a second pass would tell."""
    lm = request.getfixturevalue(name)
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    decoding = begin(lm, max_rows=max_rows)
    decoding.advance(8)
    decoding.select([2, 2, 0, 2, 5, 4, 5, 7, 8, 8, 11, 11])
    decoding.advance(5)
    decoding.select([1, 3, 3, 0, 4, 4, 6, 6, 11, 10, 9, 8])
    mark = decoding.mark()
    decoding.advance(4, greedy=True)
    decoding.select([3, 2, 1, 0, 7, 7, 7, 7, 8, 9, 10, 11])  # rewinding keeps their pasts swapped
    decoding.rewind(mark)
    decoding.advance(11)
    for conditional, texts in ((True, prompts), (False, [None] * len(prompts))):
        expected = second_pass(lm, decoding.tokens(), texts)
        found = decoding.mean_log_prob(conditional=conditional)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lm", "narrow_heads"])
@pytest.mark.parametrize("max_rows", [2, 64])
@torch.inference_mode()
def test_what_relatives_share_is_kept_once_and_is_the_past_of_each(name, max_rows, request):
    """Two prompts of four; families of two, whose grandparents are two, then one."""
    lm = request.getfixturevalue(name)
    decoding = begin(lm, prompts=PROMPTS[:2], frames=40, max_rows=max_rows)
    families = [[0, 0, 1, 1, 7, 7, 5, 5], [3, 2, 3, 2, 4, 7, 7, 4], [1, 1, 3, 3, 5, 6, 6, 5]]
    for rows in families:
        decoding.advance(8)
        mark = decoding.mark()
        decoding.advance(3, greedy=True)
        decoding.rewind(mark)
        decoding.select(rows)
    decoding.mark()  # else the past is let go of when all is decoded
    decoding.advance(16)
    if max_rows == 64:
        (part,) = decoding._parts
        trunk, of_families = part.past.shared
        assert (trunk.groups, trunk.first, trunk.end) == (1, 0, 16 + 3)
        assert (of_families.groups, of_families.end) == (2, 24 + 3)
    texts = [prompt for prompt in PROMPTS[:2] for _ in range(4)]
    for conditional, prompts in ((True, texts), (False, [None] * len(texts))):
        expected = second_pass(lm, decoding.tokens(), prompts)
        found = decoding.mean_log_prob(conditional=conditional)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_search_tree_holds_less_than_a_pool_of_as_many(lm):
    sizes = []
    for steps in ([48], [12, 12, 12, 12]):
        decoding = begin(lm, prompts=PROMPTS[:1], candidates=16, frames=48)
        for frames in steps[:-1]:
            decoding.advance(frames)
            decoding.select([slot for slot in range(0, 16, 4) for _ in range(4)])
        decoding.mark()
        decoding.advance(steps[-1])
        sizes.append(decoding.nbytes)
    positions = [16 * (48 + 3), 4 * (36 + 3) + 16 * (12 + 3)]  # the first step's caches stay
    assert sizes[1] / sizes[0] == positions[1] / positions[0]


def test_parts_of_a_pool_let_go_of_their_pasts_one_after_the_other(lm, monkeypatch):
    """So that max_rows bounds memory below N too, where nothing branches."""
    held = []

    def finish(part):
        held.append(many.nbytes)
        part.past.free()

    decoder = Decoder(lm, max_rows=4)
    sources = [condition(lm, PROMPTS[0])]
    one = decoder.begin(sources, 4, 24, ["k"], 1)
    one.mark()
    one.advance(24)
    many = decoder.begin(sources, 16, 24, ["k"], 1)
    monkeypatch.setattr(Part, "finish", finish)
    many.advance(24)
    assert held == [one.nbytes] * 4
    assert many.nbytes == 0
    many.select([3, *range(1, 16)])
    assert torch.equal(many.tokens()[0], many.tokens()[3])
    with pytest.raises(ValueError, match="mark before"):
        many.rewind(Mark(3, 0))


@torch.inference_mode()
def test_log_probability_of_a_prefix_covers_its_finished_frames_only(lm):
    decoding = begin(lm, frames=24)
    decoding.advance(10)
    prefix = decoding.mean_log_prob()
    tokens = decoding.tokens()
    assert tokens.shape[-1] == 10
    for row in range(2):
        prediction = lm.compute_predictions(
            tokens[row : row + 1], attributes(PROMPTS[0]), keep_only_valid_steps=False
        )
        # in flight tokens of later frames are conditions of the prefix' last steps: compare where
        # they play no part, the first codebook's frames and every other up to the delay
        log_probs = prediction.logits.log_softmax(-1).gather(-1, tokens[row : row + 1, ..., None])
        ours = decoding._by_frame(decoding._parts[0].log_probs[0])[row]
        torch.testing.assert_close(ours[:, :7], log_probs[0, :, :7, 0], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(prefix).all()


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("pauses", [(1, 1, 22), (8, 8, 8), (23, 1)])
def test_a_pause_changes_nothing(lm, greedy, pauses):
    unpaused, paused = begin(lm), begin(lm)
    unpaused.advance(24, greedy=greedy)
    for frames in pauses:
        paused.advance(frames, greedy=greedy)
        assert paused.tokens().shape[-1] == paused.finished
    assert torch.equal(paused.tokens(), unpaused.tokens())
    assert torch.equal(paused.mean_log_prob(), unpaused.mean_log_prob())


@pytest.mark.parametrize("rollout", [1, 7, 16])
def test_a_rollout_that_is_rewound_leaves_no_trace(lm, rollout):
    unpaused, looked = begin(lm), begin(lm)
    unpaused.advance(24)
    looked.advance(8)
    before = looked.mean_log_prob()
    mark = looked.mark()
    looked.advance(rollout, greedy=True)
    looked.rewind(mark)
    assert looked.finished == 8
    assert torch.equal(looked.mean_log_prob(), before)
    looked.advance(16)
    assert torch.equal(looked.tokens(), unpaused.tokens())
    assert torch.equal(looked.mean_log_prob(), unpaused.mean_log_prob())


def test_a_branch_is_an_unpaused_run_of_its_parent_with_its_own_noise(lm):
    """Slot i after select(rows) = rows[i]'s past, then slot i's noise."""
    branched, straight = begin(lm), begin(lm)
    rows = [2, 2, 0, 2, 5, 4, 5, 7, 8, 8, 11, 11]
    branched.advance(8)
    parents = branched.tokens()
    branched.select(rows)
    assert torch.equal(branched.tokens(), parents[rows])
    branched.advance(16)
    straight.advance(24)
    for row, parent in enumerate(rows):
        if row == parent:  # its own first child is the very candidate that never branched
            assert torch.equal(branched.tokens()[row], straight.tokens()[row])
    siblings = branched.tokens()[[0, 1, 3]]
    assert not torch.equal(siblings[0, :, 8:], siblings[1, :, 8:])
    assert not torch.equal(siblings[1, :, 8:], siblings[2, :, 8:])


@pytest.mark.parametrize("max_rows", [1, 3, 4, 5, 8, 64])
def test_parts_give_the_same_candidates(lm, max_rows):
    rows = [3, 3, 0, 1, 4, 4, 4, 4, 11, 10, 9, 8]
    results = []
    for limit in (64, max_rows):
        decoding = begin(lm, max_rows=limit)
        decoding.advance(8)
        decoding.select(rows)
        mark = decoding.mark()
        decoding.advance(4, greedy=True)
        decoding.rewind(mark)
        decoding.advance(16)
        results.append(decoding.tokens())
    assert torch.equal(*results)


def test_a_candidate_is_the_same_wherever_its_prompt_stands(lm):
    order = (2, 0, 1)
    straight = whole(lm).view(3, 4, 4, 24)
    permuted = whole(lm, prompts=[PROMPTS[i] for i in order]).view(3, 4, 4, 24)
    assert torch.equal(permuted, straight[list(order)])


def test_the_first_n_of_a_pool_of_m_are_the_pool_of_n(lm):
    large = whole(lm, candidates=6).view(3, 6, 4, 24)
    small = whole(lm, candidates=2).view(3, 2, 4, 24)
    assert torch.equal(large[:, :2], small)


def test_seeds_prompts_and_slots_sample_differently(lm):
    tokens = whole(lm, prompts=["same", "same words"])
    assert len({tuple(row.flatten().tolist()) for row in tokens}) == len(tokens)
    assert not torch.equal(whole(lm, seed=2), whole(lm, seed=1))


@pytest.mark.parametrize(
    "options",
    [
        {"codebooks": 8, "delays": [0, 0, 1, 1, 2, 2, 3, 3]},  # stereo: delayed in pairs
        {"heads": 2, "bias_ff": True, "bias_attn": True},
        {"heads": 16, "bias_ff": True, "bias_attn": True},
    ],
)
def test_stereo_delays_and_biases_are_heeded(options):
    model = random_lm(**options)
    assert torch.equal(greedy(model, "x y z", 20), audiocrafts(model, "x y z", 20))


def test_other_patterns_and_wrong_calls_are_refused(lm):
    from audiocraft.modules.codebooks_patterns import UnrolledPatternProvider

    other = random_lm()
    other.pattern_provider = UnrolledPatternProvider(4)
    with pytest.raises(UnsupportedModel, match="only delayed ones"):
        Decoder(other)
    decoding = begin(lm)
    with pytest.raises(ValueError, match="24 frames"):
        decoding.advance(25)
    with pytest.raises(ValueError, match="another prompt"):
        decoding.select([4, *range(1, 12)])
    with pytest.raises(ValueError, match="no log-probabilities"):
        decoding.mean_log_prob()


@torch.inference_mode()
def test_the_flash_kernel_attends_as_the_products_do(lm):
    """To what rows share and to their own; where a CPU multiplies bfloat16 fast it is taken."""
    found = []
    for flash in (False, True):
        decoder = Decoder(lm, dtype=torch.bfloat16)
        decoding = decoder.begin([condition(lm, p) for p in PROMPTS[:2]], 4, 30, PROMPTS[:2], 1)
        (part,) = decoding._parts
        part.past.flash = flash
        given = torch.randint(0, lm.card, part.sequence.shape, generator=torch.manual_seed(3))
        part.sequence.copy_(given)
        part.open[:] = False  # the same tokens in both
        for rows in ([1, 1, 1, 1, 4, 4, 4, 4], [0, 0, 2, 2, 5, 5, 7, 7]):
            decoding.advance(10)
            decoding.select(rows)
        assert len(part.past.shared) == 2
        decoding.advance(10)
        found.append(part.log_probs[:, :, 1:-3].clone())
    torch.testing.assert_close(*found, atol=0.03, rtol=0)
    assert not torch.equal(*found)


def test_bfloat16_decodes_finite_numbers(lm):
    decoder = Decoder(lm, dtype=torch.bfloat16)
    decoding = decoder.begin([condition(lm, "x")], 2, 12, ["k"], 1)
    decoding.advance(12)
    assert torch.isfinite(decoding.mean_log_prob()).all()
    with pytest.raises(ValueError, match="float16 needs a GPU"):
        Decoder(lm, dtype=torch.float16)
