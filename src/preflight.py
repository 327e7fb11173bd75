"""What a run needs and does not have, all of it at once, before torch is imported.

    prompts, missing = preflight.find_missing(settings)

Looks for the model and its text encoder (local folder, hub cache, or the hub itself), the prompts,
the judges' references, the verifier server and a place to write. Whatever needs a network is asked
side by side and gets hub.PROBE_SECONDS.

Only the standard library is imported at the top: this module also has to say that it runs in the
wrong environment.
"""

import importlib.util
import json
import re
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src import hub

if TYPE_CHECKING:
    from src.prompts import Prompt
    from src.settings import BenchmarkSettings

ROOT = Path(__file__).resolve().parent.parent
LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
MODEL_FILES = ((LM_FILE,), (CODEC_FILE,))
MUSICGEN_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
# A text encoder is its configuration, its tokenizer and its weights in one of two formats.
ENCODER_FILES = (("config.json",), ("spiece.model",), ("model.safetensors", "pytorch_model.bin"))
PLANNED_WEIGHTS = {
    "clap": (
        "music_audioset_epoch_15_esc_90.14.pt",
        "https://huggingface.co/lukewys/laion_clap",
        "CC0 1.0",
    ),
    "quality": (
        "checkpoint.pt (Audiobox Aesthetics)",
        "https://huggingface.co/facebook/audiobox-aesthetics",
        "CC-BY 4.0",
    ),
    "muq": (
        "MuQ-MuLan-large with MuQ-large and xlm-roberta-base",
        "https://huggingface.co/OpenMuQ/MuQ-MuLan-large",
        "CC-BY-NC 4.0 (no commercial use)",
    ),
    "imagebind": (
        "imagebind_huge.pth (4.8 GB)",
        "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        "CC-BY-NC-SA 4.0 (no commercial use)",
    ),
}
GENERATOR_PACKAGES = ("torch", "audiocraft", "tyro", "soundfile", "requests", "matplotlib")


@dataclass(frozen=True)
class Missing:
    """One thing that is not there: which file, from where, under which licence, how to get it."""

    what: str
    source: str
    how: str
    licence: str = ""


def check_environment() -> None:
    """Exit 3, saying what to activate, when this Python is not the generator environment's."""
    absent = [
        package for package in GENERATOR_PACKAGES if importlib.util.find_spec(package) is None
    ]
    if not absent:
        return
    python, script = "envs/generator/.venv/bin/python", Path(sys.argv[0]).name
    build = "" if (ROOT / python).exists() else "It is not built yet: make setup\n"
    sys.stderr.write(
        f"{script} runs in the generator environment. {sys.executable} lacks {', '.join(absent)}.\n"
        f"{build}Run it as   {python} {script} ..\n"
        "or first    source envs/generator/.venv/bin/activate\n"
    )
    raise SystemExit(3)


def find_missing(settings: "BenchmarkSettings") -> tuple[list["Prompt"], list[Missing]]:
    """The run's prompts, and everything that it lacks (empty: it can start).

    When nothing is left to be downloaded, hub libraries are kept off the network from here on.
    """
    prompts, missing = _prompts(settings)
    model = str(settings.model)
    checks: list[Callable[[], list[Missing]]] = [
        lambda: _model(model),
        lambda: _encoder(model),
        lambda: _verifier(settings),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(lambda check: check(), checks):
            missing += found
    missing += _references(settings, prompts)
    missing += _writable(settings.output)
    if not missing and not hub_needed(model):
        hub.go_offline()
    return prompts, missing


def message(missing: Sequence[Missing]) -> str:
    """One text that lists everything missing."""
    lines = [f"Nothing was started: {len(missing)} thing(s) missing.", ""]
    for number, item in enumerate(missing, start=1):
        source = f"{item.source}; licence {item.licence}" if item.licence else item.source
        lines += [f"{number}. {item.what}", f"   from: {source}", f"   do:   {item.how}", ""]
    lines.append(
        "Without any download: python benchmark.py --profile builtin --server auto --verifier tags"
    )
    return "\n".join(lines)


# --- the model ---------------------------------------------------------------------------------


def _model(name: str) -> list[Missing]:
    if name == "builtin":
        return _builtin_model()
    if Path(name).is_dir():
        return _local_model(Path(name))
    if is_hub_name(name):
        return _hub_files(
            name,
            MODEL_FILES,
            title=f"MusicGen {name}",
            licence=MUSICGEN_LICENCE,
            cache=hub.model_cache(),
            alternative="or pass a folder that holds both files: --model FOLDER",
        )
    return [
        Missing(
            f"model {name!r}",
            "nowhere: it is neither 'builtin', nor a hub name (owner/name), nor a folder here",
            "for example --model facebook/musicgen-small, or --model builtin",
        )
    ]


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _builtin_model() -> list[Missing]:
    files = ("lm.safetensors", "codec.safetensors")
    absent = [name for name in files if not (ROOT / "builtin" / name).is_file()]
    if not absent:
        return []
    return [
        Missing(
            f"the built-in model: {', '.join(f'builtin/{name}' for name in absent)}",
            "the repository itself",
            "git checkout -- builtin, or clone it again; builtin/recipe trains them anew",
        )
    ]


def _local_model(folder: Path) -> list[Missing]:
    absent = [name for name in (LM_FILE, CODEC_FILE) if not (folder / name).is_file()]
    if not absent:
        return []
    return [
        Missing(
            f"{', '.join(absent)} in {folder}",
            "an audiocraft export of a MusicGen",
            "put both files of one model into the folder, as on the hub",
            MUSICGEN_LICENCE,
        )
    ]


def _encoder(model: str) -> list[Missing]:
    name = _encoder_name(model)
    if name is None:
        return []
    return _hub_files(
        name,
        ENCODER_FILES,
        title=f"text encoder {name}, which the model conditions on",
        licence="Apache 2.0",
        cache=hub.hub_cache(),
    )


def _encoder_name(model: str) -> str | None:
    """The hub name of a model's text encoder; None when it needs none from the hub."""
    if model == "builtin":
        return None
    folder = Path(model) if Path(model).is_dir() else hub.snapshot(model, hub.model_cache())
    name = hub.text_encoder(folder / LM_FILE)
    return None if Path(name).is_dir() else name


def hub_needed(model: str) -> bool:
    """Whether loading `model` has to download something."""
    encoder = _encoder_name(model)
    absent: list[Sequence[str]] = []
    if is_hub_name(model) and not Path(model).is_dir():
        absent += hub.absent_from_cache(model, MODEL_FILES, hub.model_cache())
    if encoder is not None:
        absent += hub.absent_from_cache(encoder, ENCODER_FILES, hub.hub_cache())
    return bool(absent)


def _hub_files(
    repository: str,
    files: Sequence[Sequence[str]],
    *,
    title: str,
    licence: str,
    cache: Path,
    alternative: str = "",
) -> list[Missing]:
    """Files that are neither cached nor to be had from the hub now."""
    absent = hub.absent_from_cache(repository, files, cache)
    if not absent:
        return []
    problem = "HF_HUB_OFFLINE is set" if hub.is_offline() else hub.hub_problem(repository)
    if problem is None:
        return []
    command = f"hf download {repository} {' '.join(names[0] for names in absent)}"
    return [
        Missing(
            f"{title}: {', '.join(' or '.join(names) for names in absent)} (not in {cache})",
            f"https://huggingface.co/{repository}",
            f"{problem}. With a network this command fetches them by itself; on another machine: "
            f"{command}, then copy its cache and set HF_HOME {alternative}".strip(),
            licence,
        )
    ]


# --- the verifier ------------------------------------------------------------------------------


def _verifier(settings: "BenchmarkSettings") -> list[Missing]:
    from src.verifier import components
    from src.verifier_core import PLANNED, VERIFIERS

    try:
        names = [name for name in components(settings.verifier) if name != "perplexity"]
    except ValueError as error:
        return [Missing(f"verifier {settings.verifier!r}", "nowhere", str(error))]
    if not names:
        return []
    python = "envs/verifier/.venv/bin/python"
    found, hosted = [], dict.fromkeys(VERIFIERS, "ready")
    if settings.server == "auto":
        if not (ROOT / python).exists():
            found.append(
                Missing("the verifier environment", f"{python} is not there", "make setup")
            )
    else:
        try:
            hosted = hosted_verifiers(settings.server)
        except (OSError, ValueError) as error:
            start = f"{python} verifier_server.py --models {' '.join(names)}"
            found.append(
                Missing(
                    f"a verifier server at {settings.server} ({error})",
                    "this repository",
                    f"in another terminal: {start}; or let this run start its own: --server auto",
                )
            )
    for name in names:
        if hosted.get(name) in ("ready", "loading"):
            continue
        if name in PLANNED:
            file, source, licence = PLANNED_WEIGHTS[name]
            how = f"no adapter hosts it in this version; there are {', '.join(VERIFIERS)}"
            found.append(Missing(f"verifier {name}: {file}", source, how, licence))
        else:
            problem = hosted.get(name, f"it hosts {', '.join(hosted) or 'nothing'}")
            found.append(
                Missing(
                    f"verifier {name} on the server",
                    settings.server,
                    f"{problem}. Start it with --models {name}, or choose another --verifier",
                )
            )
    return found


def hosted_verifiers(server: str) -> dict[str, str]:
    """Verifiers of a running server and their state, or problem. Raises OSError or ValueError."""
    from src.settings import server_token
    from src.wire import VERIFIERS_PATH

    token = server_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = json.loads(
            hub.fetch(server.rstrip("/") + VERIFIERS_PATH, headers=headers, proxies={})
        )
        return {v["name"]: v.get("problem") or v["state"] for v in answer["verifiers"]}
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise OSError("it wants a token: set CURATOR_TOKEN") from error
        raise OSError(f"it answered {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError("nothing answers") from error
    except (KeyError, TypeError) as error:
        raise ValueError("what answers is no verifier server") from error


# --- everything else ---------------------------------------------------------------------------


def _prompts(settings: "BenchmarkSettings") -> tuple[list["Prompt"], list[Missing]]:
    from src.prompts import PromptError, load_prompts

    if settings.prompts == "musiccaps":
        return [], [
            Missing(
                "MusicCaps by name (its table, and music_data/<ytid>.wav as references)",
                "https://huggingface.co/datasets/google/MusicCaps",
                "this version has no download_data.py yet. Save the table (musiccaps-public.csv) "
                "and pass it: --prompts musiccaps-public.csv. Or --prompts builtin",
                "CC-BY-SA 4.0 (captions)",
            )
        ]
    try:
        return load_prompts(str(settings.prompts), settings.num_samples, settings.data_dir), []
    except PromptError as error:
        return [], [Missing("prompts", str(settings.prompts), str(error))]


def _references(settings: "BenchmarkSettings", prompts: Sequence["Prompt"]) -> list[Missing]:
    from src.metrics import JUDGES

    found = []
    names = settings.judges or ()
    if unknown := [name for name in names if name not in JUDGES]:
        found.append(
            Missing(
                f"judge(s) {', '.join(unknown)}",
                f"this version has {', '.join(JUDGES)}",
                "name those with --judges, or --judges none",
            )
        )
    needing = [name for name in names if name in JUDGES and JUDGES[name].needs_reference]
    absent = [
        str(p.reference or p.id) for p in prompts if not (p.reference and p.reference.is_file())
    ]
    if needing and absent:
        found.append(
            Missing(
                f"reference audio for {', '.join(needing)}: {len(absent)} of {len(prompts)} "
                f"prompts have none ({', '.join(absent[:3])}{', ..' if len(absent) > 3 else ''})",
                f"the table's `path` column, or {settings.data_dir}/<ytid>.wav",
                "add the files, or leave these judges out: --judges none, or others by name",
            )
        )
    return found


def _writable(output: Path) -> list[Missing]:
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            return []
    except OSError as error:
        return [Missing(f"a folder to write to: {output}", str(error), "choose another: --output")]
