"""Which files each model is made of, from where, under which licence; and which are missing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.data.files import ROOT

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
MODEL_FILES = ((LM_FILE,), (CODEC_FILE,))
MUSICGEN_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
# A text encoder is its configuration, its tokenizer and its weights in one of two formats.
ENCODER_FILES = (("config.json",), ("spiece.model",), ("model.safetensors", "pytorch_model.bin"))
BUILTIN_FILES = (
    *("config.json", "lm.safetensors", "codec.safetensors"),
    "text_encoder/model.safetensors",
)
# The built-in verifiers, by the network that each one is.
TAGGERS = {
    "tags": "MTT_musicnn",
    "tags_vgg": "MTT_vgg",
    "tags_msd": "MSD_musicnn",
    "tags_msd_vgg": "MSD_vgg",
}
TAGGERS_DIR = ROOT / "builtin" / "taggers"


@dataclass(frozen=True)
class Missing:
    """One thing that is not there: which file, from where, under which licence, how to get it."""

    what: str
    source: str
    how: str
    licence: str = ""


def missing_model(name: str) -> list[Missing]:
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
            alternative=", or pass a folder that holds both files: --model FOLDER",
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
    absent = [name for name in BUILTIN_FILES if not (ROOT / "builtin" / name).is_file()]
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


def missing_encoder(model: str) -> list[Missing]:
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
            f"{command}, then copy its cache and set HF_HOME{alternative}",
            licence,
        )
    ]
