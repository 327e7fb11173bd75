"""What no script's command line may hold. Standard library only."""

import sys
from collections.abc import Sequence


def refuse_empty(args: Sequence[str], script: str) -> None:
    """Exit 2 for a flag with an empty value: it would mean a default, or the folder one is in."""
    flag = "an argument"
    for arg in args:
        if arg.startswith("--"):
            flag, equals, value = arg.partition("=")
            is_empty = bool(equals) and not value.strip()
        else:
            is_empty = not arg.strip()
        if is_empty:
            sys.stderr.write(f"{script}: {flag} is empty: give it a value, or leave it out\n")
            raise SystemExit(2)
