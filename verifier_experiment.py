"""How scores grow with N, for every verifier and judge, from one pool of candidates a prompt.

    python verifier_experiment.py --profile builtin --server auto --samples 10 --duration 10
    python verifier_experiment.py --pool results/pool-builtin-m16-0123abcd

Parse, look for what is missing, make the pool, sweep the searches, report. `--help` has the flags,
more examples and the exit codes. Torch is imported after the preflight only, and not at all when an
old pool's statistics are all that is asked for.
"""

import sys
from collections.abc import Sequence

from src.runs.ending import Exit, check_environment, ending, say

NOTHING = "Dry run: an old pool's statistics alone: nothing is generated or scored."
WITHOUT_DOWNLOAD = "verifier_experiment.py --profile builtin --server auto"


def main(args: Sequence[str] | None = None) -> int:
    with ending("verifier_experiment.py") as end:
        check_environment()
        from src.experiments.scaling_settings import ExperimentSettings
        from src.runs.settings import parse, start_logging

        settings = parse(ExperimentSettings, args, prog="verifier_experiment.py")
        start_logging(settings.log_level)
        from src.experiments.scaling_offline import look, report
        from src.runs import preflight

        settings, ready = look(settings)
        if ready.missing:
            sys.stderr.write(preflight.message(ready.missing, WITHOUT_DOWNLOAD) + "\n")
            return Exit.MISSING
        if settings.replays:
            say(NOTHING if settings.dry_run else report(settings, settings.pool, ()))
            return Exit.DONE
        from src.experiments import scaling, scaling_dry_run

        if settings.dry_run:
            say(scaling_dry_run.estimate(settings, ready.prompts))
            return Exit.DONE
        text, code = scaling.run(settings, ready.prompts, end)
        say(text)

    return code


if __name__ == "__main__":
    sys.exit(main())
