"""The settings that every script shares, and command lines made from settings.

Each flag is a field of a frozen dataclass, written once: name, type, default and help. `Settings`
has what every script shares, a script's own dataclass adds to it (src/experiments), and
`with_parameters` adds the parameters of the registered methods. `parse` makes the command line.

A run's folder carries a hash of the settings that decide its results (`decisive`).
"""

import inspect
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

import tyro

from src.budget import PlanError, whole_frames
from src.data.prompts import Pick, Prompt, Selection, Subset
from src.methods import BEAM_WIDTH, LOOKAHEAD_K, METHODS, PARAMETERS, TILT, parameters_of
from src.protocol import checked_token
from src.runs.arguments import given
from src.scoring import PMI, ExpressionError, canonical, components
from src.scoring import parse as parse_expression

Profile = Literal["paper", "builtin"]
Dtype = Literal["float32", "bfloat16", "float16"]
MaxRows = int | Literal["auto"]
SaveAudio = Literal["winners", "all", "none"]
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]

PROFILE_MODEL: dict[Profile, str] = {"paper": "facebook/musicgen-small", "builtin": "builtin"}
PROFILE_PROMPTS: dict[Profile, str] = {"paper": "musiccaps", "builtin": "builtin"}
# The first is the primary judge, or its contrast where there are wrong references to compare with;
# fixed before any result was seen.
PROFILE_JUDGES: dict[Profile, tuple[str, ...]] = {
    "paper": ("kld_pq", "clap_score"),
    "builtin": ("msd_cosine_codec", "msd_kld_codec", "msd_kld", "msd_vgg_kld_codec", "mtt_vgg"),
}
NONE = "none"
MUSICGEN_FRAME_RATE = 50.0  # of every MusicGen and of the built-in model; checked again once loaded

ByProfile = Annotated[
    str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: by profile)")
]
Names = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[NAME ...]")]

# `ids` and `value` name files: what they hold decides, the prompts and a critic's checkpoint.
# `extend_stride` decides where a clip has several windows, and then comes with the generator; what
# is continued comes with the prompts.
INDECISIVE = frozenset(
    {"server", "data_dir", "output", "log_level", "max_rows", "graphs", "ids", "dry_run", "value"}
    | {"extend_stride", "continue_from"}
)
# Runs of the first versions have these in their identity, whichever methods they ran.
ALWAYS_DECISIVE = (BEAM_WIDTH, LOOKAHEAD_K)

ACROSS = frozenset({"smc", "waves"})  # they compare scores of different steps, or waves
EXIT_CODES = """
Exit codes: 0 done; 1 some prompts failed (run again to retry them); 2 wrong usage; 3 something is
missing, listed; 4 the verifier server was lost; 5 the run's folder is in use, is damaged or
cannot be written; 130 interrupted. After 1, 4 and 130, and after 5 once there is room, the same
command resumes.
"""


class UsageError(ValueError):
    """Settings that do not go together; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every script shares. Command line: `--name value`. indecisive: flags that do not decide
    the results. refused: flags of other scripts that this one cannot have, and why."""

    indecisive: ClassVar[frozenset[str]] = INDECISIVE
    refused: ClassVar[Mapping[str, str]] = {}

    #: paper: MusicGen and MusicCaps (weights to be fetched). builtin: the small stack that comes
    #: with the repository; runs offline on a CPU. Sets the defaults of --model, --prompts and
    #: --judges.
    profile: Profile = "paper"
    #: Generator: 'builtin', a hub name such as facebook/musicgen-medium, or a local directory with
    #: audiocraft's state_dict.bin and compression_state_dict.bin.
    model: ByProfile = None
    #: 'builtin', 'musiccaps', a CSV file with a `caption` column, or a text in quotes.
    prompts: ByProfile = None
    #: Prompts to run, of those that the next five flags leave.
    num_samples: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 10
    #: Part of MusicCaps, or of a table with its columns: balanced (is_balanced_subset, 1,000 of its
    #: 5,521 clips) or eval (is_audioset_eval).
    subset: Subset = "all"
    #: first: from the top of the set. random: drawn by --pick_seed; a smaller draw is the beginning
    #: of a larger one.
    pick: Pick = "first"
    #: Which random prompts; --seed changes what is generated for them.
    pick_seed: int = 0
    #: Only the prompts whose ids this text file lists, one a line; --num_samples of them.
    ids: Path | None = None
    #: Only prompts whose reference audio is there.
    referenced: bool = False
    #: Seconds of each clip.
    duration: float = 10.0
    #: Of a clip that is longer than the model's window (MusicGen 30 s, the built-in model 10 s):
    #: seconds by which the next window begins later; it goes on from the rest of the one before.
    extend_stride: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="FLOAT", help_behavior_hint="(default: 18; 0.6 of a window that is shorter)"
        ),
    ] = None
    #: Seconds of audio between two prunings of a tree search; the last step may be shorter.
    step_size: float = 2.0
    #: Each candidate's randomness follows from seed, prompt, candidate and position alone.
    seed: int = 42
    #: Sampling temperature.
    temperature: float = 1.0
    #: Sample among the k likeliest tokens; 0 for all of them.
    top_k: int = 250
    #: Classifier-free guidance coefficient; 1 switches guidance off.
    guidance: float = 3.0
    #: Address of the verifier server (start it with: python verifier_server.py), or 'auto' to
    #: start one on a free port for this run only. A server that wants a token gets that of
    #: CURATOR_TOKEN.
    server: str = "http://127.0.0.1:8000"
    #: Folder of reference audio, <ytid>.wav each.
    data_dir: Path = Path("music_data")
    #: Folder in which the run makes its own, named after its settings. The same command resumes it.
    output: Path = Path("results")
    #: auto (a GPU when there is one), cpu, cuda, cuda:1, ..
    device: str = "auto"
    #: Precision of decoding: float32 on a CPU, half precision on a GPU unless set.
    dtype: Annotated[
        Dtype | None,
        tyro.conf.arg(
            metavar="{float32,bfloat16,float16}", help_behavior_hint="(default: by device)"
        ),
    ] = None
    #: Candidates decoded side by side, over all prompts of a group: a number, or auto (64 on a CPU;
    #: on a GPU what fits into its free memory, and half of that should it not be enough).
    max_rows: MaxRows = "auto"
    #: On a GPU, launch decoding steps as CUDA graphs, captured once; --no_graphs to compare.
    graphs: bool = True
    #: Say what the run will cost and do nothing: frames, clips, memory, disk, and time, for which
    #: decoding, rendering, scoring and judging are timed for some seconds.
    dry_run: bool = False
    #: How much is said on stderr.
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def resolved(self) -> Self:
        """The same settings with the profile's defaults filled in."""
        filled = replace(
            self,
            model=self.model or PROFILE_MODEL[self.profile],
            prompts=self.prompts or PROFILE_PROMPTS[self.profile],
        )
        changes: dict[str, Any] = {}
        for name, names in self._selecting():
            named = tuple(map(canonical, names))
            changes[name] = named[0] if name == "verifier" else named
        if getattr(self, "judges", None) == (NONE,):
            changes["judges"] = ()
        return replace(filled, **changes)

    def check(self) -> None:
        """Raise UsageError or PlanError for what cannot work, before anything is loaded."""
        for flag in fields(self):
            values = getattr(self, flag.name)
            if values == () and flag.default:
                raise UsageError(f"--{flag.name} needs at least one value")
            if isinstance(values, tuple) and len(set(values)) < len(values):
                given = " ".join(map(str, values))
                raise UsageError(f"--{flag.name} names something twice: {given}")
        self.check_least(num_samples=1, max_rows=1, top_k=0, guidance=0)
        if self.extend_stride is not None:
            whole_frames("--extend_stride", self.extend_stride, MUSICGEN_FRAME_RATE)
        if not self.temperature > 0:
            raise UsageError(f"--temperature must be more than 0, not {self.temperature:g}")
        if self.server != "auto" and not self.server.startswith(("http://", "https://")):
            raise UsageError(f"--server must be 'auto' or begin with http://, not {self.server!r}")
        server_token()
        try:
            selecting = [name for _, names in self._selecting() for name in names]
            asked = {part for name in selecting for part in components(name)}
        except ExpressionError as error:
            raise UsageError(str(error)) from error
        tilts = (getattr(self, TILT.name, 0), *getattr(self, TILT.plural, ()))
        if TILT in parameters_of(getattr(self, "method", ())) and any(tilts):
            asked.add(f"--{TILT.name}")
        needing = [name for name in (PMI, f"--{TILT.name}") if name in asked]
        if needing and self.guidance == 1:
            raise UsageError(
                f"{needing[0]}: how likely a clip is without its text is known under guidance "
                "only; take a --guidance other than 1"
            )
        relative = [name for name in selecting if parse_expression(name).is_relative]
        if relative and (across := ACROSS & {*getattr(self, "method", ())}):
            raise UsageError(
                f"--method {min(across)} compares scores of candidates that are not scored "
                f"together, and {relative[0]} is relative to those that are: take other methods"
            )

    def _selecting(self) -> list[tuple[str, tuple[str, ...]]]:
        """The flags that name verifiers or expressions of them, with what they name."""
        flags = ("verifier", "verifiers", "sums", "sweep_verifiers")
        asked = {flag: getattr(self, flag, None) for flag in flags}
        return [(f, (x,) if isinstance(x, str) else x) for f, x in asked.items() if x]

    def check_least(self, **least: float) -> None:
        """Raise UsageError where one of these flags has a value that is too small."""
        for name, bound in least.items():
            value = getattr(self, name)
            if value == "auto":
                continue
            if not min(value if isinstance(value, tuple) else (value,)) >= bound:
                given = " ".join(map(str, value)) if isinstance(value, tuple) else value
                raise UsageError(f"--{name} must be {bound:g} or more, not {given}")

    def selection(self) -> Selection:
        """Which prompts of the set."""
        return Selection(
            limit=self.num_samples,
            subset=self.subset,
            pick=self.pick,
            pick_seed=self.pick_seed,
            ids=self.ids,
            referenced=self.referenced,
        )

    @property
    def parameters(self) -> dict[str, float]:
        """Every method's parameters, by name."""
        return {p.name: getattr(self, p.name) for p in PARAMETERS if hasattr(self, p.name)}

    def parameters_in_words(self) -> str:
        """Those of the run's methods, such as ", M = 4, k = 1"."""
        used = parameters_of(getattr(self, "method", ()))
        words = [word for p in used for word in p.in_words(self.parameters[p.name], " = ")]
        return "".join(f", {word}" for word in words)

    def title(self, prompts: Sequence[Prompt], rest: str) -> str:
        """Of a run's report and figures."""
        count = f"{len(prompts)} prompt{'s' * (len(prompts) != 1)}"
        return f"{self.model}, {count}, {self.duration:g} s; {rest}"

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values. Paths are as they were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.loads(json.dumps(values, default=Path.as_posix))  # type: ignore[no-any-return]

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the results, as JSON values: a run's folder is named after them.

        Not where the server is, where files go, how much is logged, how many rows run at once.
        """
        # Parameters of methods that the run does not have came later than its settings.
        used = {*parameters_of(getattr(self, "method", ())), *ALWAYS_DECISIVE}
        left_out = self.indecisive | {p.name for p in PARAMETERS if p not in used}
        return {name: value for name, value in self.as_record().items() if name not in left_out}


S = TypeVar("S", bound=Settings)


def with_parameters(kind: type[S], grids: bool = False) -> type[S]:
    """The settings with a field for each method's parameter: the flags --beam_width, ..

    grids: several values each instead: the flags --beam_widths, ..
    """
    added = []
    for p in PARAMETERS:
        one: Any = type(p.default)
        own = (p.name, one, p.default, p.help)
        several = (p.plural, tuple[one, ...], p.values, f"{p.help} Several values: a grid.")
        added.append(several if grids else own)
    return make_dataclass(  # type: ignore[return-value]
        kind.__name__,
        [
            (name, Annotated[of, tyro.conf.arg(help=text)], field(default=default))
            for name, of, default, text in added
        ],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__, "__module__": kind.__module__},
        frozen=True,
        kw_only=True,
    )


def parse(kind: type[S], args: Sequence[str] | None = None, prog: str | None = None) -> S:
    """Settings from a command line, with the profile's defaults filled in; exits 2 on wrong
    usage."""
    description = f"{inspect.getdoc(kind)}\n{EXIT_CODES}"
    args = given(args, prog or Path(sys.argv[0]).name)
    for flag in [arg.partition("=")[0] for arg in args]:
        if flag in kind.refused:
            sys.stderr.write(f"{prog}: {flag}: {kind.refused[flag]}\n")
            raise SystemExit(2)
    settings = tyro.cli(kind, prog=prog, description=description, args=args, use_underscores=True)
    try:
        settings.check()
    except (UsageError, PlanError) as error:
        sys.stderr.write(f"{prog or Path(sys.argv[0]).name}: {error}\n")
        raise SystemExit(2) from error
    return settings.resolved()


def start_logging(level: str) -> None:
    """Log to stderr at the level asked for; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("src").setLevel(level.upper())


def server_token() -> str | None:
    """The verifier server's token, kept off command lines and out of manifests.

    Raises UsageError for one that no header can carry.
    """
    try:
        return checked_token(os.environ.get("CURATOR_TOKEN"))
    except ValueError as error:
        raise UsageError(str(error)) from error
