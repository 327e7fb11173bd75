"""What the search methods cost: seconds by stage, frames, clips scored, bytes and memory.

    python latency_experiment.py --profile builtin --num_samples 5 --verifier perplexity

Parse, look for what is missing, measure. `--help` has the flags, more examples and the exit codes.
Torch is imported after the preflight only.
"""

import os
import sys
from collections.abc import Sequence

from src.runs.ending import Exit, check_environment, ending, say

WITHOUT_DOWNLOAD = "latency_experiment.py --profile builtin --verifier perplexity"


def main(args: Sequence[str] | None = None) -> int:
    with ending("latency_experiment.py") as end:
        check_environment()
        load = os.getloadavg()  # before this run does anything
        from src.experiments.settings import LatencySettings
        from src.runs.settings import parse, start_logging

        settings = parse(LatencySettings, args, prog="latency_experiment.py")
        start_logging(settings.log_level)
        from src.runs import preflight

        ready = preflight.look(settings, (settings.verifier,), selector=settings.verifier)
        if ready.missing:
            sys.stderr.write(preflight.message(ready.missing, WITHOUT_DOWNLOAD) + "\n")
            return Exit.MISSING
        from src.experiments import latency

        text, code = latency.run(settings, ready.prompts, end, load)
        say(text)

    return code


if __name__ == "__main__":
    sys.exit(main())
