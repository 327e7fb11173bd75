"""Reading the weights of a verifier or judge: no code in a file is run, and nothing fits in part.

    file = CheckpointFile.of("clap", CHECKPOINT)
    file.fill(network, file.weights(file.read()), "CLAP with HTSAT-base")
    file.identity()                              # a Checkpoint: name and hash

Whatever is wrong with a file is a WeightsError that says which file, why, and how to get it again.

torch's own `weights_only` reads files of tensors alone. Training checkpoints hold numpy scalars
too, and the way to allow them (`torch.serialization.add_safe_globals`) came after the torch of the
client's environment; so here the unpickler itself is the restricted one, for any torch.
"""

import codecs
import json
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from src.protocol import Checkpoint
from src.weights import files
from src.weights.files import WeightFile, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class CheckpointFile:
    """A file of weights on this machine. fetched_as: the verifier or judge, for --fetch."""

    fetched_as: str
    path: Path

    @classmethod
    def of(cls, fetched_as: str, file: WeightFile) -> Self:
        """Where the file lies. Raises WeightsError when it is missing or has another hash."""
        return cls(fetched_as, files.locate(file))

    def identity(self, name: str = "") -> Checkpoint:
        """Which weights these are; called by the file's name unless another is given."""
        return Checkpoint(name=name or self.path.name, sha256=files.sha256(self.path))

    def read(self) -> Any:
        """What the file holds, on the CPU: JSON, safetensors' or torch's. Raises WeightsError.

        Tensors are views of the file where its format allows it.
        """
        try:
            if self.path.suffix == ".json":
                return json.loads(self.path.read_text())
            if self.path.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(self.path)
            return read_tensors(self.path)
        except Exception as error:  # both libraries raise whatever a damaged byte leads to
            raise self.unusable(f"cannot be read ({in_one_line(error)})") from error

    def weights(self, found: object) -> "dict[str, Tensor]":
        """`found`, if it is tensors by name. Raises WeightsError."""
        import torch

        tensors = found if isinstance(found, dict) else {}
        if not tensors or not all(map(torch.is_tensor, tensors.values())):
            raise self.unusable("holds no weights by name")
        return {str(name): tensor for name, tensor in tensors.items()}

    def fill(
        self,
        network: "nn.Module",
        weights: "Mapping[str, Tensor]",
        model: str,
        assign: bool = False,
    ) -> None:
        """Give the network these weights, each of them. Raises WeightsError where they do not fit.

        assign: take the tensors themselves, not copies.
        """
        try:
            network.load_state_dict(weights, assign=assign)
        except RuntimeError as error:
            raise self.unusable(f"does not fit {model} ({in_one_line(error)})") from error

    def unusable(self, what: str) -> WeightsError:
        """The error for a file that is not what it should be."""
        again = f"delete it and get it again with: {files.fetch_command(self.fetched_as)}"
        return WeightsError(f"{self.path} {what}; {again}")


def in_one_line(error: Exception) -> str:
    """Type and text of an error that another's code raised, at most 200 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


class _Restricted:
    """What `torch.load` needs of a pickle module."""

    class Unpickler(pickle.Unpickler):
        """Finds no function and no class but those that make tensors, containers and numbers."""

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in _allowed():
                raise pickle.UnpicklingError(f"the file asks for the global {module}.{name}")
            return _allowed()[module, name]

    @classmethod
    def load(cls, file: Any, **options: Any) -> object:
        return cls.Unpickler(file, **options).load()


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
