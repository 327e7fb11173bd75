"""Where decoding runs: which device a name is, and what to do when its memory is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from src.data.gpus import without_kernels

# How drivers and libraries say it, where they do not raise torch.cuda.OutOfMemoryError.
FULL = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",
)


class OutOfMemory(RuntimeError):
    """The device's memory is not enough; the message says for what, and what to lower."""


def usable_device(name: str) -> str:
    """The type, "cpu" or "cuda", of a device that is here; "auto" is the GPU where there is one.

    "cuda:1" becomes the current GPU: audiocraft's text encoder and the judges know no index. From
    here on convolutions are exact on a GPU (no TF32), as judges need them. Raises ValueError,
    saying what there is.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"there is no device {name}: choose auto, cpu, cuda, or cuda:0, cuda:1, .."
        )
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"torch {torch.__version__} finds no GPU for --device {name}: look at nvidia-smi "
                "and CUDA_VISIBLE_DEVICES, or take --device cpu"
            )
        count = torch.cuda.device_count()
        if device.index is not None:
            if device.index >= count:
                raise ValueError(f"there is no {name}: torch finds {count} GPU(s), from cuda:0 on")
            torch.cuda.set_device(device)
        if problem := without_kernels(device.index):
            raise ValueError(problem)
    return device.type


def free_memory() -> int:
    """Bytes of the current GPU that can still be had."""
    free, _ = torch.cuda.mem_get_info()
    return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says, in whatever words, that memory is not enough."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Inside, an error that says that memory is not enough becomes OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or ["no more memory"])[0][:300]
        raise OutOfMemory(f"{what} takes more memory than there is: {advice} ({said})") from error
