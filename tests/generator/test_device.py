"""Devices that are not here, and memory that is not enough: a user is told what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from src.data.prompts import Prompt
from src.decoding.decoder import MAX_ROWS, Decoder
from src.decoding.device import OutOfMemory, memory_for, usable_device
from src.decoding.transformer import Transformer
from src.experiments.searching import in_groups
from src.generator import Generator, GeneratorError, load_generator, load_renderer
from src.methods import METHODS
from src.runs.run import Finished
from src.runs.work import here
from tests.generator.fake_search import FakeGenerator
from tests.generator.random_models import condition, random_lm

SAID = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 3.2 GiB"),
]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two GPUs, as far as names of devices go: those that became the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    having(monkeypatch, (9, 0))
    return current


def having(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    kernels: str = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90",
) -> None:
    """GPUs of that compute capability, and a torch that was built for those kernels."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", kernels.split)


def test_a_device_by_name_is_a_type_and_its_index_the_current_gpu(two_gpus) -> None:
    assert [usable_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        *("cuda", "cpu", "cuda", "cuda"),
    ]
    assert two_gpus == [torch.device("cuda:1")]
    with pytest.raises(ValueError, match=r"no cuda:2: torch finds 2 GPU\(s\)"):
        usable_device("cuda:2")


@pytest.mark.parametrize("capability", [(10, 0), (12, 0), (3, 7)])
def test_a_gpu_without_kernels_in_this_torch_is_refused_before_anything_is_loaded(
    two_gpus, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    having(monkeypatch, capability)
    name = "sm_{}{}".format(*capability)
    for device, card in (("auto", "card None"), ("cuda:1", "card 1")):
        said = (
            rf"has no kernels for this {card} \({name}\), only for sm_50 .* sm_90: .*--device cpu"
        )
        with pytest.raises(ValueError, match=said):
            usable_device(device)
    assert usable_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [((8, 9), "sm_80 sm_86"), ((10, 0), "sm_90 compute_90"), ((9, 0), "gfx90a"), ((6, 1), "")],
)
def test_kernels_of_an_earlier_minor_version_ptx_and_unknown_names_will_do(
    two_gpus, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernels: str
) -> None:
    having(monkeypatch, capability, kernels)
    assert usable_device("cuda") == "cuda"


def test_judges_convolve_exactly_once_a_device_is_chosen() -> None:
    torch.backends.cudnn.allow_tf32 = True
    usable_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["gpu", "tpu", "mps", "cuda:x", ""])
def test_a_device_of_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="choose auto, cpu, cuda"):
        usable_device(name)


@pytest.mark.parametrize("load", [load_generator, load_renderer])
def test_without_a_driver_a_gpu_is_refused_before_anything_is_loaded(load, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device("auto") == "cpu"
    with pytest.raises(ValueError, match=r"finds no GPU.*--device cpu"):
        load("a model that is not looked for", "cuda")


@pytest.mark.parametrize("error", SAID, ids=lambda error: str(error)[:20])
def test_memory_that_is_not_enough_is_told_from_other_errors(error: Exception) -> None:
    said = r"decoding takes more memory.*lower --max_rows"
    with pytest.raises(OutOfMemory, match=said), memory_for("decoding", "lower --max_rows"):
        raise error
    with pytest.raises(RuntimeError, match="another"), memory_for("decoding", "wait"):
        raise RuntimeError("another")


@pytest.mark.parametrize("error", SAID[:2], ids=["torch", "cublas"])
def test_decoding_that_runs_out_of_memory_says_what_to_lower_and_goes_on_with_less(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = random_lm()
    decoding = Decoder(lm).begin([condition(lm, "x")], 4, 12, ["k"], 1)
    with monkeypatch.context() as patch:

        def full(*args: object) -> None:
            raise error

        patch.setattr(Transformer, "hidden", full)
        with pytest.raises(OutOfMemory, match=r"4 candidates of 12 frames.*lower --max_rows"):
            decoding.advance(12)
    fewer = Decoder(lm).begin([condition(lm, "x")], 2, 12, ["k"], 1)
    fewer.advance(12)
    assert fewer.tokens().shape == (2, 4, 12)


def test_a_model_that_does_not_fit_is_not_taken_for_a_broken_one(monkeypatch) -> None:
    from src.decoding import builtin

    def full(device: str) -> None:
        raise SAID[0]

    monkeypatch.setattr(builtin, "load_lm", full)
    with pytest.raises(OutOfMemory, match=r"loading builtin.*smaller --model"):
        load_generator("builtin", "cpu")
    assert not issubclass(OutOfMemory, GeneratorError)


def test_texts_are_kept_on_the_cpu_and_not_for_ever() -> None:
    generator = load_generator("builtin", "cpu")
    assert generator.condition("a slow harp").device.type == "cpu"
    assert generator.condition.cache_info().maxsize == 1024
    generator.forget_conditions()
    assert generator.condition.cache_info().currsize == 0


def test_long_clips_are_rendered_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, sizes = load_generator("builtin", "cpu"), []
    decode = generator.codec.decode
    monkeypatch.setattr(
        generator.codec,
        "decode",
        lambda codes, scale: sizes.append(len(codes)) or decode(codes, scale),
    )
    for seconds, expected in ((1, [7]), (40, [4, 3])):
        sizes.clear()
        clips = generator.render(torch.zeros(7, 4, 50 * seconds, dtype=torch.int64))
        assert (len(clips), sizes) == (7, expected)


def test_half_precision_is_not_held_beside_the_weights_it_was_made_from() -> None:
    generator = load_generator("builtin", "cpu", "bfloat16")
    assert {weight.device.type for weight in generator.lm.transformer.parameters()} == {"meta"}
    decoding = generator.begin(["a slow harp"], ["k"], 2, 5, seed=1)
    decoding.advance(5)
    assert torch.isfinite(decoding.mean_log_prob()).all()


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """The built-in model as if on a GPU with 12 GB left."""
    generator = load_generator("builtin", "cpu")
    monkeypatch.setattr(generator, "device", "cuda")
    monkeypatch.setattr("src.generator.free_memory", lambda: 12_000_000_000)
    return generator


def test_rows_are_as_many_as_the_gpus_free_memory_is_for(on_a_gpu) -> None:
    size = on_a_gpu.decoder.row_bytes(500)
    # keys and values of 504 positions of 5 guided layers and one that both halves share
    assert size == 504 * (2 * 5 + 1) * 2 * 320 * 4 + 10 * 4 * 2 * 4 * 1024
    on_a_gpu.fit_rows(500)
    assert on_a_gpu.max_rows == (0.9 * 12e9 - 3e9) // size
    assert on_a_gpu.halve_rows()
    assert not on_a_gpu.halve_rows()
    assert on_a_gpu.max_rows == (0.9 * 12e9 - 3e9) // size // 2


def test_a_number_of_rows_that_was_asked_for_is_not_halved() -> None:
    generator = load_generator("builtin", "cpu")
    assert not generator.halve_rows()
    generator.fit_rows(500)  # a CPU gains nothing from more
    assert generator.max_rows == MAX_ROWS


class Small(FakeGenerator):
    """Memory for four rows."""

    def __init__(self, may_halve: bool) -> None:
        super().__init__()
        self.max_rows, self.may_halve = 8, may_halve

    def begin(self, prompts, keys, candidates, frames, seed, first=0):
        if len(keys) * candidates > 4:
            raise OutOfMemory("no more")
        return super().begin(prompts, keys, candidates, frames, seed)

    def halve_rows(self) -> bool:
        allowed, self.may_halve = self.may_halve, False
        self.max_rows //= 2
        return allowed


def test_a_group_that_does_not_fit_is_done_again_in_halves_and_so_are_those_that_follow() -> None:
    ids = ["a", "b", "c"]
    prompts = [Prompt(id=name, text=name, key=name) for name in ids]

    @dataclass(frozen=True)
    class Beginning:
        prompts: Sequence[Prompt]
        candidates: int

        def do(self, generator: Small) -> Iterator[Finished]:
            generator.begin([], [p.key for p in self.prompts], self.candidates, 9, 1)
            yield Finished({"group": [prompt.id for prompt in self.prompts]})

    def work(generator: Any, candidates: int) -> list[list[str]]:
        plan = METHODS["best_of_n"].make_plan(candidates, 1, 1, 50, {})
        groups = in_groups(prompts, plan, generator, ids)
        pieces: Any = (Beginning(group, candidates) for group in groups)
        done = here(generator, generator.halve_rows)(pieces)
        return [finished.record["group"] for finished in done if finished.record]

    assert work(Small(may_halve=True), 4) == [["a"], ["b"], ["c"]]
    assert work(Small(may_halve=True), 2) == [["a", "b"], ["c"]]
    with pytest.raises(OutOfMemory):
        work(Small(may_halve=False), 4)
    with pytest.raises(OutOfMemory):  # one prompt alone is too much
        work(Small(may_halve=True), 8)
