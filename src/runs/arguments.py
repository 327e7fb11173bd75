"""What no command line may hold. Standard library only."""

import sys
from collections.abc import Sequence


def given(args: Sequence[str] | None, script: str) -> Sequence[str]:
    """`args`, or those of this process; exits 2 for an empty value.

    It would mean a flag's default, or the folder that one is in.
    """
    args = sys.argv[1:] if args is None else args
    flag = "an argument"
    for arg in args:
        is_flag, value = arg.startswith("--"), arg
        if is_flag:
            flag, equals, value = arg.partition("=")
            value = value if equals else flag
        if not value.strip():
            sys.stderr.write(f"{script}: {flag} is empty: give it a value, or leave it out\n")
            raise SystemExit(2)
    return args
