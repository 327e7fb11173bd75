"""Which files a MusicGen is made of, from where, under which licence; and which are missing."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.data.files import ROOT
from src.weights.files import Missing, WeightFile

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
MUSICGEN_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
DEFAULT_ENCODER = "t5-base"  # of every released MusicGen
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
class HubPart:
    """What audiocraft takes of one hub repository.

    cache: the one hub cache that is looked into. alternative: another way to have the files.
    """

    title: str
    files: tuple[WeightFile, ...]
    cache: Path
    alternative: str = ""

    def absent(self) -> list[WeightFile]:
        """What is not in the cache, so that loading downloads it."""
        folder = hub.snapshot(self.files[0].repository, self.cache)
        return [f for f in self.files if not any((folder / name).is_file() for name in f.names)]

    def missing(self) -> list[Missing]:
        """What is neither in the cache nor to be had from the hub now."""
        files = self.absent()
        if not files:
            return []
        repository, licence = files[0].repository, files[0].licence
        problem = "HF_HUB_OFFLINE is set" if hub.is_offline() else hub.hub_problem(repository)
        if problem is None:
            return []
        names = ", ".join(" or ".join(file.names) for file in files)
        command = f"hf download {repository} {' '.join(file.name for file in files)}"
        how = (
            f"{problem}. With a network this command fetches them by itself; on another machine: "
            f"{command}, then copy its cache and set HF_HOME{self.alternative}"
        )
        return [
            Missing(f"{self.title}: {names} (not in {self.cache})", files[0].source, how, licence)
        ]


def hub_parts(model: str, decodes: bool = True) -> list[HubPart]:
    """What `model` takes from the hub: its own files, and its text encoder where it decodes."""
    if model == "builtin":
        return []
    parts, folder = [], Path(model)
    if _is_hub_name(model) and not folder.is_dir():
        cache = hub.model_cache()
        folder = hub.snapshot(model, cache)
        files = tuple(WeightFile(n, model, licence=MUSICGEN_LICENCE) for n in (LM_FILE, CODEC_FILE))
        alternative = ", or pass a folder that holds both files: --model FOLDER"
        parts.append(HubPart(f"MusicGen {model}", files, cache, alternative))
    encoder = _text_encoder(folder / LM_FILE)
    if decodes and not Path(encoder).is_dir():
        title = f"text encoder {encoder}, which the model conditions on"
        parts.append(HubPart(title, _encoder_files(encoder), hub.hub_cache()))
    return parts


def missing_here(model: str) -> list[Missing]:
    """What is missing of a model that does not come from the hub: "builtin" or a folder."""
    if model == "builtin":
        absent = [name for name in BUILTIN_FILES if not (ROOT / "builtin" / name).is_file()]
        what = f"the built-in model: {', '.join(f'builtin/{name}' for name in absent)}"
        how = "git checkout -- builtin, or clone it again; builtin/recipe trains them anew"
        return [Missing(what, "the repository itself", how)] if absent else []
    if Path(model).is_dir():
        absent = [name for name in (LM_FILE, CODEC_FILE) if not (Path(model) / name).is_file()]
        what, source = f"{', '.join(absent)} in {model}", "an audiocraft export of a MusicGen"
        how = "put both files of one model into the folder, as on the hub"
        return [Missing(what, source, how, MUSICGEN_LICENCE)] if absent else []
    if _is_hub_name(model):
        return []
    source = "nowhere: it is neither 'builtin', nor a hub name (owner/name), nor a folder here"
    how = "for example --model facebook/musicgen-small, or --model builtin"
    return [Missing(f"model {model!r}", source, how)]


def _is_hub_name(model: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None


def _encoder_files(encoder: str) -> tuple[WeightFile, ...]:
    """A text encoder is its configuration, its tokenizer and its weights in one of two formats."""
    names = {"config.json": "", "spiece.model": "", "model.safetensors": "pytorch_model.bin"}
    return tuple(
        WeightFile(name, encoder, licence="Apache 2.0", instead=instead)
        for name, instead in names.items()
    )


def _text_encoder(checkpoint: Path) -> str:
    """The T5 that a checkpoint names in its configuration, read without torch; else the default.

    A checkpoint is a zip whose `data.pkl` holds the configuration as YAML text beside pointers to
    the weights, so that searching its bytes is enough; nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            text = archive.read(pickles[0])
    except (OSError, IndexError, zipfile.BadZipFile):
        return DEFAULT_ENCODER
    found = re.search(rb"\n\s+t5:\s*\n(?:\s+\w+:[^\n]*\n)*?\s+name: ([^\n]+)\n", text)
    return found[1].decode().strip("'\" ") if found else DEFAULT_ENCODER
