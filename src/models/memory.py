"""Rows of numbers that a network has computed, for when it is asked for the same ones again.

memory = RowMemory(width=200, max_bytes=8 * 2**20)
rows = memory.rows([digest(window) for window in windows], compute)
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DIGEST_BYTES = 16
KEY_BYTES = 400  # of a key and its entries, about


def digest(data: NDArray[np.float32]) -> bytes:
    """A key for numbers, by their bytes; the array must be contiguous."""
    return blake2b(data.data, digest_size=DIGEST_BYTES).digest()


class RowMemory:
    """Rows of float32 by key; those that were not asked for longest make way for new ones.

    width: numbers in a row. max_bytes: of all rows and keys together. For one thread.
    """

    def __init__(self, width: int, max_bytes: int) -> None:
        self._capacity = max_bytes // (4 * width + KEY_BYTES)
        self._rows = np.empty((self._capacity, width), np.float32)  # memory once it is written to
        self._places: OrderedDict[bytes, int] = OrderedDict()

    def rows(self, keys: Sequence[bytes], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """float32 [keys, width] on the CPU.

        compute: gives the rows of the keys at these indices, [indices, width]. It is asked for the
        first of each key that is not remembered.
        """
        portions = range(0, len(keys), self._capacity)  # one, but for very long clips
        found = [self._portion(keys, start, compute) for start in portions]
        return torch.from_numpy(np.concatenate(found))

    def _portion(
        self, keys: Sequence[bytes], start: int, compute: Callable[[list[int]], Tensor]
    ) -> NDArray[np.float32]:
        asked = keys[start : start + self._capacity]
        unknown: dict[bytes, int] = {}
        for index, key in enumerate(asked, start):
            if key in self._places:
                self._places.move_to_end(key)
            else:
                unknown.setdefault(key, index)
        computed = compute(list(unknown.values())).cpu().numpy() if unknown else ()
        for key, row in zip(unknown, computed, strict=True):
            place = len(self._places)
            if place == self._capacity:
                _, place = self._places.popitem(last=False)
            self._rows[place] = row
            self._places[key] = place
        return self._rows[[self._places[key] for key in asked]]
