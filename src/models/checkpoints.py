"""Reading the weights of a verifier or judge: no code in a file is run, and nothing fits in part.

    file = CheckpointFile.of("clap", CHECKPOINT)
    file.fill(network, file.weights(file.read()), "CLAP with HTSAT-base")
    file.identity()                              # a Checkpoint: name and hash

Whatever is wrong with a file is a WeightsError that says which file, why, and how to get it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from src.protocol import Checkpoint
from src.weights import files
from src.weights.files import WeightFile, WeightsError
from src.weights.unpickling import read_tensors

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

        if (
            not isinstance(found, dict)
            or not found
            or not all(map(torch.is_tensor, found.values()))
        ):
            raise self.unusable("holds no weights by name")
        return {str(name): tensor for name, tensor in found.items()}

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
        return files.unusable(self.fetched_as, self.path, what)


def in_one_line(error: Exception) -> str:
    """Type and text of an error that another's code raised, at most 200 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
