"""The verifiers that a server can host: the registry of their adapters.

An adapter (src/models/adapter.py) says what it is, loads lazily and scores clips against prompts.
To add a verifier, write one class in src/models and add one line to VERIFIERS. Heavy libraries are
imported in `load`, so that a server that hosts one model needs only that model's library.
"""

from collections.abc import Callable, Sequence

from src.models.adapter import Adapter
from src.models.clap import ClapVerifier
from src.models.imagebind import ImageBindVerifier
from src.models.muq import MuqVerifier
from src.models.quality import QualityVerifier
from src.models.tags import TaggerVerifier


class NotHosted(ValueError):
    """A verifier that this server cannot host; the message says why and what there is."""


VERIFIERS: dict[str, Callable[[str], Adapter]] = {
    "clap": ClapVerifier,
    "quality": QualityVerifier,
    "muq": MuqVerifier,
    "imagebind": ImageBindVerifier,
    "tags": TaggerVerifier,
    "tags_vgg": TaggerVerifier,
    "tags_msd": TaggerVerifier,
    "tags_msd_vgg": TaggerVerifier,
}


def shares_data_with(name: str) -> tuple[str, ...]:
    """Verifiers that `name` is not independent of; none for a name that is not known here."""
    return VERIFIERS[name](name).shares_data_with if name in VERIFIERS else ()


def axes_of(name: str) -> tuple[str, ...]:
    """Components of a verifier's scores that have a column each where it judges."""
    return VERIFIERS[name](name).axes if name in VERIFIERS else ()


def choose(names: Sequence[str]) -> tuple[list[Adapter], dict[str, str]]:
    """The adapters of `names`, or of everything whose weights are there when `names` is empty.

    Returns (adapters, what was left out and why). Raises NotHosted for a name that is unknown or
    whose weights were asked for by name and are missing.
    """
    for name in names:
        if name not in VERIFIERS:
            raise NotHosted(f"{name}: no such verifier; there are {', '.join(VERIFIERS)}")
    adapters, left_out = [], {}
    for name in dict.fromkeys(names or VERIFIERS):
        adapter = VERIFIERS[name](name)
        if problem := adapter.missing():
            left_out[name] = problem
        else:
            adapters.append(adapter)
    if left_out and names:
        raise NotHosted("; ".join(f"{name}: {problem}" for name, problem in left_out.items()))
    if not adapters:
        raise NotHosted(f"no verifier has its weights: {'; '.join(left_out.values())}")
    return adapters, left_out
