"""What a script puts together before it loops: generator, verifier (with its server) and judges."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from src.budget import timed
from src.calibration import CalibrationError, load_calibration
from src.generator import Generator, GeneratorError, load_generator
from src.local_server import local_server
from src.metrics import JUDGES, ClipJudge, JudgeError
from src.preflight import Exit
from src.prompts import Prompt, digest_of
from src.records import RunFolderError
from src.sampling import Sampling
from src.settings import BenchmarkSettings, Settings, UsageError, server_token
from src.transformer import UnsupportedModel
from src.tree import SearchResult
from src.verifier import (
    PERPLEXITY,
    ServerClient,
    Verifier,
    VerifierError,
    build_verifier,
    components,
)

log = logging.getLogger(__name__)

# What ends a run with a message and not with a traceback.
ENDS: dict[type[BaseException], Exit] = {
    UsageError: Exit.USAGE,
    UnsupportedModel: Exit.USAGE,
    FloatingPointError: Exit.USAGE,  # the model overflowed in this --dtype
    torch.cuda.OutOfMemoryError: Exit.USAGE,
    GeneratorError: Exit.MISSING,
    CalibrationError: Exit.MISSING,
    VerifierError: Exit.SERVER,
    RunFolderError: Exit.FOLDER,
    KeyboardInterrupt: Exit.INTERRUPTED,
}


@dataclass(frozen=True)
class Parts:
    generator: Generator
    verifier: Verifier
    judges: Sequence[ClipJudge]


def build(settings: BenchmarkSettings, stack: ExitStack) -> Parts:
    """All that a run needs; with --server auto, `stack` stops the server that this starts.

    What it raises is in ENDS.
    """
    remote = [name for name in components(settings.verifier) if name != PERPLEXITY]
    generator, client = load(settings, remote, stack)
    constants = load_calibration(generator.checkpoint, settings.output / "calibration")
    verifier = build_verifier(settings.verifier, generator.checkpoint, client, constants)
    judges = [JUDGES[name](generator.device) for name in settings.judges or ()]
    return Parts(generator, verifier, judges)


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
    if not remote:
        return generator, None
    url = settings.server
    if url == "auto":
        log.info("starting a verifier server for %s", ", ".join(remote))
        url = stack.enter_context(local_server(remote))
    return generator, ServerClient(url, server_token())


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


def measures(parts: Parts) -> list[dict[str, Any]]:
    """What each clip is measured by: the selector, then judges.

    The first judge is the primary one, unless it was trained on what the selector was trained on.
    """
    listed: list[dict[str, Any]] = [
        {"name": parts.verifier.name, "role": "selector", "higher_is_better": True, "note": ""}
    ]
    for judge in parts.judges:
        shared = sorted(set(judge.shares_data_with) & set(parts.verifier.checkpoints))
        notes = [f"not independent of {', '.join(shared)}: same training data"] if shared else []
        notes += [judge.note] if judge.note else []
        listed.append(
            {
                "name": judge.name,
                "role": "primary judge" if judge is parts.judges[0] and not shared else "judge",
                "higher_is_better": judge.higher_is_better,
                "note": "; ".join(notes),
            }
        )
    return listed


def judged(result: SearchResult, judges: Sequence[ClipJudge]) -> dict[str, Any]:
    """A search's record with what the judges say of its winner.

    A judge that has no number for this clip leaves it unjudged, with its reason.
    """
    values, unjudged = {}, {}
    with timed({0: result.ledger}, "judge"):
        for judge in judges:
            try:
                (values[judge.name],) = judge.judge([result.winner.clip], [result.prompt])
            except JudgeError as error:
                unjudged[judge.name] = str(error)
    return result.as_record() | {"judges": values, "unjudged": unjudged}
