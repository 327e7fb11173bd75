"""Whether torch can compute on a GPU: what client and server both ask, each of its own torch."""

import re


def without_kernels(index: int | None) -> str | None:
    """Why torch, imported for it, cannot compute on a GPU, and what to do; None when it can.

    index: None for the current one.

    Machine code (sm_86) runs on a GPU of the same major version and at least that minor one, PTX
    (compute_90) on any later one (CUDA C++ Programming Guide, "Compute Capability"). A torch that
    names neither, as for AMD's cards, is not judged.
    """
    import torch

    names = " ".join(torch.cuda.get_arch_list())
    built = [
        (kind, (int(major), int(minor)))
        for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)\b", names)
    ]
    own = torch.cuda.get_device_capability(index)
    if not built or any(
        version <= own and (kind == "compute" or version[0] == own[0]) for kind, version in built
    ):
        return None
    return (
        f"torch {torch.__version__} has no kernels for this {torch.cuda.get_device_name(index)} "
        f"(sm_{own[0]}{own[1]}), only for {names}: take another GPU (--device cuda:1, or "
        "CUDA_VISIBLE_DEVICES), or --device cpu"
    )
