"""What the command lines of all steps have in common."""

import argparse
from pathlib import Path


def recipe_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --work. description: a module's text."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/recipe"), help="folder of the recipe's files"
    )
    return parser
