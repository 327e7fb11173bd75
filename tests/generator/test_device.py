"""Devices that are not here, and memory that is not enough: a user is told what to do."""

import pytest
import torch

from src.decoding.decoder import Decoder
from src.decoding.device import OutOfMemory, memory_for, usable_device
from src.decoding.transformer import Transformer
from src.generator import GeneratorError, load_generator, load_renderer
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
    return current


def test_a_device_by_name_is_a_type_and_its_index_the_current_gpu(two_gpus) -> None:
    assert [usable_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        *("cuda", "cpu", "cuda", "cuda"),
    ]
    assert two_gpus == [torch.device("cuda:1")]
    with pytest.raises(ValueError, match=r"no cuda:2: torch finds 2 GPU\(s\)"):
        usable_device("cuda:2")


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
