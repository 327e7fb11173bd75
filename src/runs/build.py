"""A run's parts, built from its settings; and its identity, after which its folder is named."""

import logging
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from src.client import ServerClient
from src.data.prompts import Prompt, digest_of
from src.decoding import kernels
from src.decoding.decoder import MAX_ROWS
from src.decoding.renderer import Renderer
from src.decoding.sampling import Sampling
from src.decoding.transformer import UnsupportedModel
from src.generator import Generator, load_generator, load_renderer
from src.judges.base import Judge
from src.judges.registry import build_judges, served
from src.protocol import Checkpoint
from src.runs.critic import CriticVerifier
from src.runs.local_server import local_server
from src.runs.settings import Settings, UsageError, server_token
from src.runs.work import Workers, here
from src.scoring import Verifier, components, remote_parts
from src.verifier import build_verifier, load_calibration

log = logging.getLogger(__name__)

P = TypeVar("P")

NAMED_PROMPTS = 3  # of those that are not read whole; the others are counted


@dataclass(frozen=True)
class Parts:
    """client: of the server, where something is remote. value: prunes in the verifier's place."""

    generator: Generator
    verifier: Verifier
    judges: Sequence[Judge]
    client: ServerClient | None = None
    value: CriticVerifier | None = None


@dataclass(frozen=True)
class Models:
    """What is loaded once in a run; parts are built around it.

    generator: None where only the codec is needed. client: where the server is. device: where
    judges compute. here: what this start adds to the manifest. in_order: whether pieces of work are
    finished in the order in which they are given. A cluster's (src/cluster/driver.py) have the same
    fields and methods.
    """

    in_order: ClassVar[bool] = True

    generator: Generator | None
    renderer: Renderer
    client: ServerClient | None

    @property
    def device(self) -> str:
        return self.renderer.device

    @property
    def here(self) -> dict[str, Any]:
        return {"max_rows": self.generator.max_rows} if self.generator else {}

    def workers(self, make: Callable[["Models"], P], parts: P) -> Workers:  # noqa: ARG002
        """Who does pieces of work: this process, with `parts`. A cluster's have `make` make theirs
        around their own models."""
        return here(parts, *([self.generator.halve_rows] if self.generator else []))


def load_models(
    settings: Settings, decodes: bool, client: ServerClient | None, at_once: int = 1
) -> Models:
    """All that a run needs. decodes: whether the language model is used. client: of the verifiers.
    at_once: groups of prompts whose candidates are held at once."""
    if decodes:
        generator = load(settings, at_once)
        return Models(generator, generator, client)
    log.info("loading the codec of %s", settings.model)
    return Models(None, load_renderer(str(settings.model), settings.device), client)


def build(settings: Settings, verifier: str, judges: Sequence[str], stack: ExitStack) -> Parts:
    """All that a search needs; with --server auto, `stack` stops the server that this starts."""
    client = connect(settings, [*remote_parts(components(verifier)), *served(judges)], stack)
    return assemble(settings, verifier, judges, load_models(settings, True, client))


def assemble(settings: Settings, verifier: str, judges: Sequence[str], models: Models) -> Parts:
    """The parts of a search around models that are there already."""
    generator, client = models.generator, models.client
    assert generator is not None
    constants = load_calibration(generator.checkpoint, settings.output / "calibration")
    selecting = build_verifier(verifier, generator.checkpoint, client, constants)
    # Judges have a client of their own: what they send is no cost of a search.
    own = client.another() if client and served(judges) else None
    return Parts(generator, selecting, build_judges(judges, models.device, own, generator), client)


def load(settings: Settings, at_once: int = 1) -> Generator:
    """The generator. at_once: as `load_models`. Raises GeneratorError, UnsupportedModel and
    UsageError."""
    log.info("loading %s", settings.model)
    sampling = Sampling(settings.temperature, settings.top_k, settings.guidance)
    rows = MAX_ROWS if settings.max_rows == "auto" else settings.max_rows
    kernels.enabled = settings.graphs
    asked = (str(settings.model), settings.device, settings.dtype, sampling, rows, settings.graphs)
    try:
        generator = load_generator(*asked, settings.extend_stride)
    except UnsupportedModel:
        raise
    except ValueError as error:  # a device or a dtype that this machine has not, or the stride
        raise UsageError(str(error)) from error
    if settings.max_rows == "auto":
        generator.fit_rows(round(settings.duration * generator.frame_rate), at_once)
    return generator


def caveats(settings: Settings, generator: Generator, prompts: Sequence[Prompt]) -> list[str]:
    """What these settings ask of the generator that it did not learn, in sentences for the
    manifest and its reports. Each is a warning in the log, once in a process."""
    found = []
    if windows := windows_of(generator, settings.duration):
        length, stride = windows.values()
        found.append(
            f"{settings.model} was trained on clips of {length:g} s: --duration "
            f"{settings.duration:g} is generated in windows of {length:g} s, each of which goes on "
            f"from the last {length - stride:g} s of the one before (--extend_stride {stride:g}) "
            "and knows nothing of what was earlier."
        )
    lost = {p.text: counts for p in prompts if (counts := generator.unknown_tokens(p.text))[0]}
    for text, (unknown, tokens) in list(lost.items())[:NAMED_PROMPTS]:
        short = textwrap.shorten(text, 60, placeholder=" ..")
        found.append(f"The text encoder does not know {unknown} of {tokens} tokens of {short!r}.")
    if len(lost) > NAMED_PROMPTS:
        found.append(
            f"Nor does it know all tokens of {len(lost) - NAMED_PROMPTS} other prompts; their "
            "records count them (unknown_tokens)."
        )
    for sentence in found:
        _warn_once(sentence)
    return found


@cache
def _warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def unread_by(generator: Generator, prompt: Prompt) -> dict[str, int]:
    """For a prompt's record: how many of its tokens the generator does not know; {} for none."""
    lost, _ = generator.unknown_tokens(prompt.text)
    return {"unknown_tokens": lost} if lost else {}


def connect(settings: Settings, names: Iterable[str], stack: ExitStack) -> ServerClient | None:
    """A client of a server that hosts `names`; None where there are none."""
    remote = list(dict.fromkeys(names))
    if not remote:
        return None
    url = settings.server
    if url == "auto":
        log.info("starting a verifier server for %s", ", ".join(remote))
        url = stack.enter_context(local_server(remote, settings.device))
    return ServerClient(url, server_token())


def identity(
    script: str,
    decides: Mapping[str, Any],
    prompts: Sequence[Prompt],
    checkpoints: Mapping[str, Checkpoint],
) -> dict[str, Any]:
    """All that decides a run's results: other weights or an edited prompt make another run.

    decides: settings, as JSON values.
    """
    return {
        "script": script,
        **decides,
        "prompts": {"count": len(prompts), "sha256": digest_of(prompts)},
        "checkpoints": {name: checkpoint.model_dump() for name, checkpoint in checkpoints.items()},
    }


def where(generator: Generator, duration: float) -> dict[str, str | float]:
    """What of a generator decides the tokens of clips of so many seconds, besides its weights."""
    own = {"device": generator.device, "dtype": generator.dtype}
    return own | windows_of(generator, duration)


def windows_of(generator: Generator, duration: float) -> dict[str, float]:
    """Seconds of the windows of a clip of that duration; {} where one is enough."""
    rate = generator.frame_rate
    if (span := generator.windows(round(duration * rate))) is None:
        return {}
    return {"window": span.length / rate, "extend_stride": span.stride / rate}


def checkpoints_of(parts: Parts) -> dict[str, Checkpoint]:
    """The weights of a search's parts, by name, that of a judge with its definition."""
    found = {"generator": parts.generator.checkpoint, **parts.verifier.checkpoints}
    found |= {"value": parts.value.checkpoint} if parts.value else {}
    for judge in parts.judges:
        own = f", {judge.definition}" if judge.definition else ""
        found[judge.name + own] = judge.checkpoint
    return found
