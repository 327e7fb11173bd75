"""Preflight of verifier_experiment.py: settings that depend on an old pool or on the server."""

from collections.abc import Sequence
from dataclasses import replace

from src.data.prompts import Prompt
from src.experiments.scaling_settings import ExperimentSettings
from src.likelihood import known
from src.runs import preflight
from src.runs.pool import load_pool
from src.runs.preflight.verifiers import hosted_or_hostable
from src.runs.settings import Profile

# Named where no server can be asked, so that what is missing is listed for them.
PROFILE_VERIFIERS: dict[Profile, tuple[str, ...]] = {
    "paper": ("clap", "quality", "muq", "imagebind"),
    "builtin": ("tags",),
}


def look(settings: ExperimentSettings) -> preflight.Ready[ExperimentSettings]:
    """Look for everything that the experiment needs; for statistics of an old pool, nothing.

    Raises UsageError for settings that are not the pool's, RunFolderError for a folder that is no
    pool's.
    """
    from src.experiments.pool_generation import of_pool, prompts_of

    prompts: Sequence[Prompt] | None = None
    if settings.pool is not None:
        pool = load_pool(settings.pool)
        settings = of_pool(settings, pool)
        there = (name for name, m in pool.measures.items() if m.role == "verifier")
        settings.check_parts([*there, *(settings.verifiers or ())])
        settings = replace(settings, judges=settings.judges or ())
        if settings.replays:
            return preflight.Ready(settings, (), ())
        prompts = prompts_of(pool, settings.data_dir)
    else:
        if settings.verifiers is None:
            settings = replace(settings, verifiers=_default_verifiers(settings))
        settings.check_parts([*known(settings.guidance), *(settings.verifiers or ())])
    decodes = settings.pool is None or bool(settings.method)
    return preflight.look(settings, prompts, decodes)


def _default_verifiers(settings: ExperimentSettings) -> tuple[str, ...]:
    try:
        found = hosted_or_hostable(settings.server)
    except (OSError, ValueError):
        found = []
    return (*known(settings.guidance), *(found or PROFILE_VERIFIERS[settings.profile]))
