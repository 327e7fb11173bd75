"""The listening page: a run's index.html, made from its records alone.

`python -m src.reports RUN_DIR` makes it for any run of benchmark.py: finished, still running or
interrupted. The page is one file with its styles and scripts inside; it names audio relatively and
asks for nothing from outside, so it works from the disk and from a file server. What is in it is
contents.py's; how it looks and behaves is in page.html, page.css and the *.js files beside it.

Captions are anybody's text. The template escapes them, the scripts write them as text and never as
markup, and the page's own policy lets no script run but the page's.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.data.files import write_whole
from src.reports.benchmark_study import Study
from src.reports.page.contents import contents

NAME = "index.html"
HERE = Path(__file__).parent
# One module, in this order: each part uses what stands before it.
SCRIPTS = ("markup.js", "player.js", "tree.js", "clips.js", "choose.js")


def write_page(folder: Path, study: Study, findings: Sequence[str]) -> Path:
    """Write a run's page and return its path. findings: the report's sentences."""
    code = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (HERE / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson escapes what could end a script element; keys keep their order.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    page = environment.get_template("page.html").render(
        contents(folder, study, findings),
        style=style,
        script=code,
        policy=_policy(style, code),
    )
    path = folder / NAME
    write_whole(path, page)
    return path


def _policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: its own style and script, audio beside it, no more."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; "
        f"script-src 'sha256-{digest(script)}'; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
