"""Which files a MusicGen is made of, from where, under which licence; and which are missing."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from src.data import hub
from src.data.files import ROOT
from src.weights.files import Missing, WeightFile, absent, missing

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
class Part:
    """Files of one place that a generator is made of. how: what to do about one that is not there.

    What has a repository is downloaded when it is loaded.
    """

    title: str
    files: tuple[WeightFile, ...]
    how: str

    def missing(self) -> list[Missing]:
        """What is neither on this machine nor to be had from the hub now."""
        repository, how = self.files[0].repository, self.how
        if repository and absent(self.files):
            problem = "HF_HUB_OFFLINE is set" if hub.is_offline() else hub.hub_problem(repository)
            if problem is None:
                return []
            names = " ".join(file.name for file in self.files)
            how = (
                f"{problem}, and {self.files[0].folder} lacks them. With a network this command "
                f"fetches them by itself; on another machine: hf download {repository} {names}, "
                f"then copy its cache and set HF_HOME{self.how}"
            )
        return missing(self.title, self.files, how)


def model_parts(model: str, decodes: bool = True) -> list[Part]:
    """What "builtin", a folder or a hub name is made of; its text encoder where it decodes."""
    if model == "builtin":
        source, folder = "the repository itself", ROOT / "builtin"
        files = tuple(WeightFile(name, url=source, folder=folder) for name in BUILTIN_FILES)
        how = "git checkout -- builtin, or clone it again; builtin/recipe trains them anew"
        return [Part("the built-in model", files, how)]
    folder, repository, url = Path(model), "", "an audiocraft export of a MusicGen"
    how = "put both files of one model into the folder, as on the hub"
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        folder, repository, url = hub.snapshot(model, hub.model_cache()), model, ""
        how = ", or pass a folder that holds both files: --model FOLDER"
    elif not folder.is_dir():
        url = "nowhere: it is neither 'builtin', nor a hub name (owner/name), nor a folder here"
        how = "for example --model facebook/musicgen-small, or --model builtin"
    files = tuple(
        WeightFile(name, repository, url, MUSICGEN_LICENCE, folder=folder)
        for name in (LM_FILE, CODEC_FILE)
    )
    parts = [Part(f"MusicGen {model}", files, how)]
    encoder = _text_encoder(folder / LM_FILE)
    if decodes and not Path(encoder).is_dir():
        cache = hub.snapshot(encoder, hub.hub_cache())
        names = {"config.json": "", "spiece.model": "", "model.safetensors": "pytorch_model.bin"}
        files = tuple(
            WeightFile(name, encoder, licence="Apache 2.0", instead=instead, folder=cache)
            for name, instead in names.items()
        )
        parts.append(Part(f"text encoder {encoder}, which the model conditions on", files, ""))
    return parts


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
