"""Search methods side by side, under one verifier.

    python benchmark.py --profile builtin --server auto --verifier tags --method baseline best_of_n

Parse, look for what is missing, run. `--help` has the flags, more examples and the exit codes.
Torch is imported after the preflight only.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from src.runs.ending import Exit, check_environment, ending, say


def main(args: Sequence[str] | None = None) -> int:
    with ending("benchmark.py") as end:
        check_environment()
        from src.experiments.settings import BenchmarkSettings
        from src.runs.settings import parse, start_logging

        settings = parse(BenchmarkSettings, args, prog="benchmark.py")
        start_logging(settings.log_level)
        from src.runs import preflight
        from src.runs.continuing import winner_of

        verifier, begun = settings.verifier, None
        if settings.continue_from is not None:
            begun = winner_of(settings.continue_from)
        ready = preflight.look(
            settings,
            (verifier,),
            settings.judges,
            selector=verifier,
            prompts=[begun] if begun is not None and settings.prompts is None else None,
        )
        if ready.missing:
            sys.stderr.write(preflight.message(ready.missing) + "\n")
            return Exit.MISSING
        prompts = ready.prompts
        if begun is not None:
            prompts = [replace(prompt, given=begun.given) for prompt in prompts]
        from src.experiments import benchmark

        text, code = benchmark.run(replace(settings, judges=ready.judges), prompts, end)
        say(text)

    return code


if __name__ == "__main__":
    sys.exit(main())
