"""Reads torch files that somebody else wrote: tensors, containers and numpy scalars, no code.

torch's own `weights_only` does this for files of tensors alone. Training checkpoints hold numpy
scalars too, and the way to allow them (`torch.serialization.add_safe_globals`) came after the torch
of the client's environment; so here the unpickler itself is the restricted one, for any torch.
"""

import codecs
import pickle
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


class _Unpickler(pickle.Unpickler):
    """Finds no function and no class but those that make tensors, containers and numbers."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _allowed()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"the file asks for the global {module}.{name}")
        return allowed[module, name]


class _Restricted:
    """What `torch.load` needs of a pickle module."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> object:
        return _Unpickler(file, **options).load()


@cache
def _allowed() -> dict[tuple[str, str], Any]:
    import torch

    scalar = np.float64().__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")}
    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # the bytes of a numpy scalar
        **{(f"numpy.{core}.multiarray", "scalar"): scalar for core in ("core", "_core")},
        **{(kind.__module__, kind.__name__): kind for kind in dtypes},
    }


def read_tensors(path: Path) -> object:
    """What a file that `torch.save` wrote holds, on the CPU; tensors are mapped, not read.

    Raises whatever a damaged file leads torch to, and UnpicklingError for one that asks for more
    than tensors, containers and numpy scalars.
    """
    import torch

    mapped = zipfile.is_zipfile(path)
    if mapped:
        with zipfile.ZipFile(path) as archive:
            # torch.load would hand such a file to torch.jit, which does not ask the unpickler
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise pickle.UnpicklingError("it is a TorchScript program")
    return torch.load(
        str(path),
        map_location="cpu",
        pickle_module=_Restricted,
        weights_only=False,  # torch refuses its own check beside another unpickler
        mmap=mapped,
    )


def first_sentence(error: Exception) -> str:
    """Of the lines in torch's long texts, the one that says what was met."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "global" in line.lower()), lines[0])[:200]


def misfits(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """How the weights of a file differ from a model's, by name and shape; empty when they fit."""
    missing, unknown = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    shapes = {n for n in wanted.keys() & found.keys() if wanted[n].shape != found[n].shape}
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    return ", ".join(f"{len(n)} weights {kind} ({min(n)}, ..)" for kind, n in kinds.items() if n)
