"""Preflight of verifier_experiment.py: settings that depend on an old pool or on the server."""

from collections.abc import Sequence
from dataclasses import replace

from src.data.prompts import Prompt
from src.experiments.scaling_settings import ExperimentSettings
from src.likelihood import known
from src.runs import preflight
from src.runs.pool import load_pool
from src.runs.preflight.verifiers import hosted_or_hostable
from src.runs.settings import BenchmarkSettings, Needs, Profile

# Named where no server can be asked, so that what is missing is listed for them.
PROFILE_VERIFIERS: dict[Profile, tuple[str, ...]] = {
    "paper": ("clap", "quality", "muq", "imagebind"),
    "builtin": ("tags",),
}


def needs_of(
    settings: BenchmarkSettings | ExperimentSettings,
    prompts: Sequence[Prompt] | None = None,
    decodes: bool = True,
) -> Needs:
    return Needs(
        profile=settings.profile,
        model=str(settings.model),
        decodes=decodes,
        prompts=str(settings.prompts),
        selection=settings.selection(),
        data_dir=settings.data_dir,
        known=None if prompts is None else tuple(prompts),
        verifiers=settings.selectors,
        judges=settings.judges,
        selector=settings.selector,
        server=settings.server,
        output=settings.output,
    )


def look(settings: ExperimentSettings) -> tuple[ExperimentSettings, preflight.Ready]:
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
            return settings, preflight.Ready((), (), ())
        prompts = prompts_of(pool, settings.data_dir)
    else:
        if settings.verifiers is None:
            settings = replace(settings, verifiers=_default_verifiers(settings))
        settings.check_parts([*known(settings.guidance), *(settings.verifiers or ())])
    decodes = settings.pool is None or bool(settings.method)
    ready = preflight.look(needs_of(settings, prompts, decodes))
    return replace(settings, judges=ready.judges), ready


def _default_verifiers(settings: ExperimentSettings) -> tuple[str, ...]:
    found = hosted_or_hostable(settings.server)
    return (*known(settings.guidance), *(found or PROFILE_VERIFIERS[settings.profile]))
