"""A run's parts, built from its settings; and its identity, after which its folder is named."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from src.client import ServerClient
from src.data.prompts import Prompt, digest_of
from src.decoding.decoder import MAX_ROWS
from src.decoding.sampling import Sampling
from src.decoding.transformer import UnsupportedModel
from src.generator import Generator, load_generator
from src.judges.base import Judge
from src.judges.registry import build_judges, served
from src.protocol import Checkpoint
from src.runs.local_server import local_server
from src.runs.settings import Settings, UsageError, server_token
from src.scoring import Verifier, components, remote_parts
from src.verifier import build_verifier, load_calibration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """client: of the server, where something is remote."""

    generator: Generator
    verifier: Verifier
    judges: Sequence[Judge]
    client: ServerClient | None = None


def build(settings: Settings, verifier: str, judges: Sequence[str], stack: ExitStack) -> Parts:
    """All that a search needs; with --server auto, `stack` stops the server that this starts."""
    client = connect(settings, [*remote_parts(components(verifier)), *served(judges)], stack)
    return assemble(settings, verifier, judges, load(settings), client)


def assemble(
    settings: Settings,
    verifier: str,
    judges: Sequence[str],
    generator: Generator,
    client: ServerClient | None,
) -> Parts:
    """The same around a generator and a client that are there already."""
    constants = load_calibration(generator.checkpoint, settings.output / "calibration")
    selecting = build_verifier(verifier, generator.checkpoint, client, constants)
    # Judges have a client of their own: what they send is no cost of a search.
    own = ServerClient(client.url, server_token()) if client and served(judges) else None
    return Parts(generator, selecting, build_judges(judges, generator.device, own), client)


def load(settings: Settings) -> Generator:
    """The generator. Raises GeneratorError, UnsupportedModel and UsageError."""
    log.info("loading %s", settings.model)
    sampling = Sampling(settings.temperature, settings.top_k, settings.guidance)
    rows = MAX_ROWS if settings.max_rows == "auto" else settings.max_rows
    asked = (str(settings.model), settings.device, settings.dtype, sampling, rows, settings.graphs)
    try:
        generator = load_generator(*asked)
    except UnsupportedModel:
        raise
    except ValueError as error:  # a device or a dtype that this machine has not
        raise UsageError(str(error)) from error
    if settings.max_rows == "auto":
        generator.fit_rows(round(settings.duration * generator.frame_rate))
    return generator


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


def where(generator: Generator) -> dict[str, str]:
    """What of a generator decides its tokens, besides its weights."""
    return {"device": generator.device, "dtype": generator.dtype}


def checkpoints_of(parts: Parts) -> dict[str, Checkpoint]:
    """The weights of a search's parts, by name."""
    found = {"generator": parts.generator.checkpoint, **parts.verifier.checkpoints}
    return found | {judge.name: judge.checkpoint for judge in parts.judges}
