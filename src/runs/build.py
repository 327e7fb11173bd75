"""What a script puts together before it loops: generator, verifier (with its server) and judges."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from src.client.local_server import local_server
from src.data.prompts import Prompt, digest_of
from src.data.scales import CalibrationError, load_calibration
from src.decoding.sampling import Sampling
from src.decoding.transformer import UnsupportedModel
from src.generator import Generator, GeneratorError, load_generator
from src.judges.registry import Judge
from src.runs.ending import Exit
from src.runs.evaluation import build_judges, served
from src.runs.records import RunFolderError
from src.runs.settings import BenchmarkSettings, Settings, UsageError, server_token
from src.verifier import (
    ServerClient,
    Verifier,
    VerifierError,
    build_verifier,
    components,
    remote_parts,
)
from src.weights.files import WeightsError

log = logging.getLogger(__name__)

# What ends a run with a message and not with a traceback.
ENDS: dict[type[BaseException], Exit] = {
    UsageError: Exit.USAGE,
    UnsupportedModel: Exit.USAGE,
    FloatingPointError: Exit.USAGE,  # the model overflowed in this --dtype
    torch.cuda.OutOfMemoryError: Exit.USAGE,
    GeneratorError: Exit.MISSING,
    CalibrationError: Exit.MISSING,
    WeightsError: Exit.MISSING,
    VerifierError: Exit.SERVER,
    RunFolderError: Exit.FOLDER,
    KeyboardInterrupt: Exit.INTERRUPTED,
}


@dataclass(frozen=True)
class Parts:
    """client: of the server, where something is remote."""

    generator: Generator
    verifier: Verifier
    judges: Sequence[Judge]
    client: ServerClient | None = None


def build(settings: BenchmarkSettings, stack: ExitStack) -> Parts:
    """All that a run needs; with --server auto, `stack` stops the server that this starts.

    What it raises is in ENDS.
    """
    scoring = remote_parts(components(settings.verifier))
    judging = served(settings.judges or ())
    generator, client = load(settings, list(dict.fromkeys([*scoring, *judging])), stack)
    constants = load_calibration(generator.checkpoint, settings.output / "calibration")
    verifier = build_verifier(settings.verifier, generator.checkpoint, client, constants)
    own_client = ServerClient(client.url, server_token()) if client and judging else None
    judges = build_judges(settings.judges or (), generator.device, own_client)
    return Parts(generator, verifier, judges, client)


def load(
    settings: Settings, remote: Sequence[str], stack: ExitStack
) -> tuple[Generator, ServerClient | None]:
    """The generator, and a client of a server that hosts `remote` (None when nothing is remote)."""
    log.info("loading %s", settings.model)
    sampling = Sampling(settings.temperature, settings.top_k, settings.guidance)
    try:
        generator = load_generator(
            str(settings.model), settings.device, settings.dtype, sampling, settings.max_rows
        )
    except UnsupportedModel:
        raise
    except ValueError as error:  # a device or a dtype that this machine has not
        raise UsageError(str(error)) from error
    return generator, connect(settings, remote, stack)


def connect(settings: Settings, remote: Sequence[str], stack: ExitStack) -> ServerClient | None:
    """A client of a server that hosts `remote`; None when nothing is remote."""
    if not remote:
        return None
    url = settings.server
    if url == "auto":
        log.info("starting a verifier server for %s", ", ".join(remote))
        url = stack.enter_context(local_server(remote))
    return ServerClient(url, server_token())


def identity(
    script: str, settings: BenchmarkSettings, prompts: Sequence[Prompt], parts: Parts
) -> dict[str, Any]:
    """All that decides a run's results: other weights or an edited prompt make another run."""
    checkpoints = {"generator": parts.generator.checkpoint, **parts.verifier.checkpoints}
    checkpoints |= {judge.name: judge.checkpoint for judge in parts.judges}
    where = {"device": parts.generator.device, "dtype": parts.generator.dtype}
    return {
        "script": script,
        "settings": settings.decisive() | where,
        "prompts": {"count": len(prompts), "sha256": digest_of(prompts)},
        "checkpoints": {name: checkpoint.model_dump() for name, checkpoint in checkpoints.items()},
    }


def machine() -> dict[str, Any]:
    """What of this machine the numbers may depend on, as torch sees it."""
    gpus = range(torch.cuda.device_count())
    return {
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }
