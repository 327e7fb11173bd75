"""What the taggers remember, and musicnn's front end on a CPU against its own convolutions."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from src.models.front_end import FrontEnd, temporal_peaks, timbral_peaks
from src.models.memory import DIGEST_BYTES, KEY_BYTES, RowMemory, digest
from src.models.tagger import Tagger, load_tagger

DATA = Path(__file__).parent / "data" / "tagger"
RATE = 16_000


def clip(name: str) -> Tensor:
    return torch.from_numpy(soundfile.read(DATA / f"{name}.flac", dtype="float32")[0])


@pytest.fixture
def tagger() -> Tagger:
    """One that remembers nothing yet."""
    return load_tagger("tags")


@pytest.mark.parametrize("network", ["tags", "tags_msd"])
def test_the_front_end_gives_what_the_convolutions_give(network: str) -> None:
    musicnn = load_tagger(network).network
    windows = load_tagger(network).windows(clip("piano"))
    x = windows * musicnn.input_scale + musicnn.input_shift
    expected = torch.cat(
        [block(x[:, None]) for block in (*musicnn.timbral, *musicnn.temporal)], dim=1
    )
    assert expected.shape == (4, 561, 187)
    assert expected.abs().amax((0, 2)).gt(0).all()  # every filter answers somewhere
    torch.testing.assert_close(musicnn.front_end(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bands", "height"), [(12, 5), (12, 6), (12, 11), (12, 12), (8, 1), (96, 67)]
)
def test_peaks_over_bands_are_the_convolutions_for_odd_and_even_heights(
    bands: int, height: int
) -> None:
    torch.manual_seed(bands * height)
    conv = torch.nn.Conv2d(1, 3, (height, 7)).double().requires_grad_(False)
    patches = torch.randn(20, bands, 7, dtype=torch.float64)
    expected = conv(patches[:, None])[..., 0].amax(2)
    torch.testing.assert_close(timbral_peaks(patches, conv), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "frames"), [(2, 5), (8, 16), (32, 187), (128, 187), (64, 20)])
def test_peaks_of_long_filters_are_the_padded_convolutions(length: int, frames: int) -> None:
    torch.manual_seed(length)
    conv = torch.nn.Conv2d(1, 3, (1, length)).requires_grad_(False)
    x = torch.randn(2, 6, frames)
    padded = torch.nn.functional.pad(x, (length // 2 - 1, length // 2))
    expected = conv(padded[:, None]).amax(2)
    torch.testing.assert_close(temporal_peaks(x, conv), expected, rtol=0, atol=1e-5)


def test_a_clip_heard_again_has_the_same_posterior_to_the_last_bit(tagger: Tagger) -> None:
    clips = [clip("synth"), clip("violin"), clip("guitar")]
    first = tagger.posteriors(clips)
    assert torch.equal(tagger.posteriors(clips), first)
    assert torch.equal(tagger.posteriors(clips[1:])[1], first[2])


@pytest.mark.parametrize("name", ["tags", "tags_vgg"])
def test_what_was_heard_before_does_not_move_a_posterior(name: str) -> None:
    experienced, fresh = load_tagger(name), load_tagger(name)
    whole = clip("piano")
    for seconds in (2, 4, 7):
        experienced.posteriors([whole[: RATE * seconds], clip("choir")])
    after, alone = (tagger.posteriors([whole]) for tagger in (experienced, fresh))
    assert torch.equal(after, alone)


@pytest.mark.parametrize("threads", [1, 2, 7, 16])
def test_a_patch_is_heard_the_same_among_any_others_to_the_last_bit(
    tagger: Tagger, threads: int
) -> None:
    front, before = tagger.network.front_end, torch.get_num_threads()
    patches = torch.randn(512, 96, 7, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(threads)
    try:
        together = front._timbral_of_patches(patches)
        for count in (1, 17, 63, 65, 130, 300, 511):
            assert torch.equal(front._timbral_of_patches(patches[-count:]), together[-count:])
    finally:
        torch.set_num_threads(before)


def test_equal_windows_pass_through_the_network_once(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    embed = tagger.network.embed
    monkeypatch.setattr(tagger.network, "embed", lambda x: passed.append(len(x)) or embed(x))
    beginning = clip("piano")[: RATE * 6]
    siblings = [torch.cat([beginning, clip(n)[: RATE * 2]]) for n in ("choir", "flute", "guitar")]
    tagger.posteriors([beginning])
    assert sum(passed) == 3
    tagger.posteriors(siblings)
    assert sum(passed) == 3 + 3  # each its last one; the first two are those of their beginning
    tagger.posteriors(siblings)
    assert sum(passed) == 6


def test_a_frame_passes_through_the_timbral_filters_once_but_for_the_ends_of_windows(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    of_patches = FrontEnd._timbral_of_patches

    def counting(self: FrontEnd, patches: Tensor) -> Tensor:
        computed.append(len(patches))
        return of_patches(self, patches)

    monkeypatch.setattr(FrontEnd, "_timbral_of_patches", counting)
    whole = clip("piano")[: RATE * 10]
    tagger.posteriors([whole[: RATE * 8]])
    earlier = sum(computed)
    assert 501 - 6 <= earlier <= 501 + 3 * 6  # three windows, two of which overlap
    tagger.posteriors([whole])
    assert sum(computed) - earlier <= 125 + 4 * 6


def test_rows_are_those_of_their_keys_whatever_is_asked_in_what_order() -> None:
    """Against computing each row, with a memory of 20 rows and up to 60 keys a call."""
    rng = np.random.default_rng(0)
    memory = RowMemory(3, 20 * (3 * 4 + KEY_BYTES))
    asked: list[int] = []
    for _ in range(200):
        numbers = rng.integers(0, 40, rng.integers(1, 60)).tolist()
        keys = [str(number).encode() for number in numbers]

        def compute(indices: list[int], numbers: list[int] = numbers) -> Tensor:
            assert len({numbers[i] for i in indices}) == len(indices)  # none twice
            asked.extend(indices)
            return torch.tensor([[numbers[i], -numbers[i], 0.5] for i in indices])

        expected = torch.tensor([[number, -number, 0.5] for number in numbers])
        assert torch.equal(memory.rows(keys, compute), expected)
    assert len(asked) < 200 * 30  # it does remember


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    memory = RowMemory(1, 3 * (4 + KEY_BYTES))
    computed: list[bytes] = []

    def ask(*keys: bytes) -> None:
        def compute(indices: list[int]) -> Tensor:
            computed.extend(keys[i] for i in indices)
            return torch.ones(len(indices), 1)

        memory.rows(keys, compute)

    ask(b"a", b"b", b"c")
    ask(b"a")
    ask(b"d")  # takes the place of b
    computed.clear()
    ask(b"a", b"c", b"d")
    assert computed == []
    ask(b"b")
    assert computed == [b"b"]


def test_a_computation_that_fails_leaves_nothing_wrong_behind() -> None:
    memory = RowMemory(1, 3 * (4 + KEY_BYTES))

    def fails(indices: list[int]) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        memory.rows([b"a"], fails)
    assert memory.rows([b"a"], lambda indices: torch.tensor([[2.0]])).item() == 2.0


def test_keys_are_of_bytes() -> None:
    zeros = np.zeros(3, np.float32)
    assert digest(zeros) == digest(zeros.copy())
    assert digest(zeros) != digest(-zeros)
    assert len(digest(zeros)) == DIGEST_BYTES
