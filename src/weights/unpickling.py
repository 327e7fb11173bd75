"""Reads torch files that somebody else wrote: tensors, containers and numpy scalars, no code.

torch's own `weights_only` does this for files of tensors alone. Training checkpoints hold numpy
scalars too, and the way to allow them (`torch.serialization.add_safe_globals`) came after the torch
of the client's environment; so here the unpickler itself is the restricted one, for any torch.
"""

import codecs
import pickle
import zipfile
from collections import Counter, OrderedDict
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
        ("collections", "Counter"): Counter,
        **{(module, "set"): set for module in ("builtins", "__builtin__")},  # Python 3's and 2's
        ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        **{("torch", name): it for name, it in vars(torch).items() if isinstance(it, torch.dtype)},
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
