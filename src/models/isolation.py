"""Contexts in which a library's code runs without a trace, and without a trace of its surroundings.

A library that builds a network seeds generators of random numbers, follows torch's default dtype,
warns of its own code, and takes some of its parts from a hub. No torch is imported until one of
these contexts is entered.
"""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def computing(device: str, dtype: str) -> Iterator[None]:
    """No gradients, and matrix products in `dtype` where that is not float32."""
    import torch

    precision = getattr(torch, dtype)
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, precision, precision != torch.float32):
        yield


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The global random states afterwards as before.

    Building a model draws its initial weights from them, and some draw in every layer of every
    forward for a layer drop that only training does.
    """
    import torch

    python, legacy_numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, a library builds or computes in float32, whatever torch's default dtype is outside.

    The global random states are afterwards as before, and warnings are not shown.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with random_states_kept(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def replaced(owner: object, **replacements: object) -> Iterator[None]:
    """Within, `owner` (a module or a class) has these attributes instead of its own or inherited.

    For libraries that name what they build in a module's global: the way to give them a part that
    does not come from a hub. Threads that use `owner` at the same time see the replacements too.
    """
    own = {name: value for name, value in vars(owner).items() if name in replacements}
    for name, value in replacements.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in replacements:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)  # uncovers the inherited one


def exempt_from_autocast(owner: object, method: str, device: str) -> None:
    """Let a method of a module compute in the dtype of its input inside `computing`.

    For spectrograms, whose powers are infinite in float16 and too coarse in bfloat16.
    """
    import torch

    exact = torch.autocast(torch.device(device).type, enabled=False)
    setattr(owner, method, exact(getattr(owner, method)))
