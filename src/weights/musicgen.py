"""What a MusicGen is made of: audiocraft's two files, the text encoder that they name, and the
codec that they may only point to. Found out without torch, before anything is loaded.

audiocraft exports a model as zips of `torch.save`: the training's configuration as YAML (`xp.cfg`)
beside the weights. In the codec's place it may write a pointer of about 1 kB, `{"pretrained":
"facebook/encodec_32khz", ..}` (`audiocraft.utils.export.export_pretrained_compression_model`, for
fine-tunes). It then takes the codec from that repository on the hub, through transformers.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.data import hub
from src.data.files import ROOT
from src.weights.files import Part, WeightFile, WeightsError, locate

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
MUSICGEN_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
DEFAULT_ENCODER = "t5-base"  # of every released MusicGen
BUILTIN_FILES = (
    *("config.json", "lm.safetensors", "codec.safetensors"),
    "text_encoder/model.safetensors",
)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Released in the same two files, and not made of one decoder that hears a text alone.
OTHERS = {
    r"facebook/musicgen-(stereo-)?melody": "it is conditioned on a melody, too",
    r"facebook/musicgen-style": "it is conditioned on the style of a piece of audio, too",
    r"facebook/(audio-)?magnet": "it is a MAGNeT, which does not decode in the order of time",
    r"facebook/jasco": "it is a JASCO, a flow model",
}
ANOTHER = "take a text-to-music model, such as --model facebook/musicgen-medium"
EXPORTED = (
    f"it takes the two files that audiocraft exports, as in: hf download facebook/musicgen-small "
    f"{LM_FILE} {CODEC_FILE}; what was trained with audiocraft, audiocraft.utils.export writes so"
)
SHA256 = {  # of the files on the hub
    ("small", LM_FILE): "830fe5771e2835cbd305f3ffdda22d3ff38718fbbe8274bd19dc203265de7244",
    **dict.fromkeys(
        [("small", CODEC_FILE), ("medium", CODEC_FILE)],
        "37d256b525d4117f8bbf790ab448a8e9f4746cd401900fe1ae72e154b1513a30",
    ),
}


def model_parts(model: str, decodes: bool = True) -> list[Part]:
    """What "builtin", a folder or a hub name is made of; its text encoder where it decodes.

    A model that is there and cannot be used is one part, which says why.
    """
    if model == "builtin":
        source, folder = "the repository itself", ROOT / "builtin"
        files = tuple(WeightFile(name, url=source, folder=folder) for name in BUILTIN_FILES)
        how = "git checkout -- builtin, or clone it again; builtin/recipe trains them anew"
        return [Part("the built-in model", files, how)]
    folder, repository, url = Path(model), "", "an audiocraft export of a MusicGen"
    how = "put both files of one model into the folder, as on the hub"
    if not folder.is_dir() and HUB_NAME.fullmatch(model):
        folder, repository, url = hub.snapshot(model, hub.model_cache()), model, ""
        how = ", or pass a folder that holds both files: --model FOLDER"
    elif not folder.is_dir():
        url = "nowhere: it is neither 'builtin', nor a hub name (owner/name), nor a folder here"
        how = "for example --model facebook/musicgen-small, or --model builtin"
    size = repository.removeprefix("facebook/musicgen-")
    files = tuple(
        WeightFile(
            *(name, repository, url, MUSICGEN_LICENCE),
            sha256=SHA256.get((size, name), ""),
            folder=folder,
        )
        for name in (LM_FILE, CODEC_FILE)
    )
    parts = [Part(f"MusicGen {model}", files, how)]
    try:
        config, codec = _configuration(folder / LM_FILE), _pointed_to(folder / CODEC_FILE)
    except WeightsError as error:
        return [replace(parts[0], how=EXPORTED, problem=str(error))]
    if problem := _unlike(repository, config):
        return [replace(parts[0], how=ANOTHER, problem=problem)]
    if codec:
        weights = _of_transformers(codec, f"see https://huggingface.co/{codec}")
        parts.append(Part(f"codec {codec}, to which {CODEC_FILE} points", weights, ""))
    encoder = OmegaConf.select(config, "conditioners.description.t5.name") or DEFAULT_ENCODER
    if decodes and not Path(encoder).is_dir():
        files = _of_transformers(encoder, "Apache 2.0", "spiece.model")
        parts.append(Part(f"text encoder {encoder}, which the model conditions on", files, ""))
    return parts


def weight_files(model: str) -> list[Path]:
    """The weights of the language model and of the codec in use, of a folder or a hub name.

    Raises WeightsError for what is not there, damaged or of no use.
    """
    own, *pointed_to = refuse_unusable(model)
    lm, codec = own.files
    return [locate(lm), locate(pointed_to[0].files[-1] if pointed_to else codec)]


def refuse_unusable(model: str) -> list[Part]:
    """The model's files, and its codec's. Raises WeightsError where they cannot be used."""
    own, *codec = model_parts(model, decodes=False)
    if own.problem:
        raise WeightsError(f"{model}: {own.problem}; {own.how}")
    return [own, *codec]


def read_export(path: Path) -> dict[str, Any]:
    """What audiocraft exported into a file, without its tensors. {} where there is no such file.

    No code of the file is run. Raises WeightsError for any other file, saying what it seems to be.
    """
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            found = _Hollow(io.BytesIO(archive.read(name))).load()
    except Exception as error:  # both raise whatever a damaged byte leads to
        raise WeightsError(
            f"{path.name} is no file of torch.save ({type(error).__name__}): damaged, or git-lfs's "
            "note of it"
        ) from error
    if not isinstance(found, dict) or not found.keys() & {"xp.cfg", "pretrained"}:
        raise WeightsError(f"{path.name} has no xp.cfg: its weights are in transformers' format")
    return found


class _Hollow(pickle.Unpickler):
    """Reads containers, texts and numbers; whatever else the file makes is an empty thing."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Nothing

    def persistent_load(self, pid: Any) -> None:  # noqa: ARG002 (a tensor's storage)
        return None


class _Nothing(dict[Any, Any]):
    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Have none."""


def _configuration(lm: Path) -> DictConfig:
    """With which a language model was trained; nothing where it is not there.

    Raises WeightsError.
    """
    text = read_export(lm).get("xp.cfg", "{}")
    try:
        config = OmegaConf.create(text)
    except Exception as error:  # of yaml, and omegaconf's own
        raise WeightsError(f"{lm.name} has an xp.cfg that cannot be read") from error
    return config if isinstance(config, DictConfig) else OmegaConf.create({})


def _pointed_to(codec: Path) -> str:
    """The repository that a codec's file points to; "" for the codec itself, or none."""
    name = read_export(codec).get("pretrained", "")
    # audiocraft would take a path before a repository, and the name of a DAC before both.
    if name and (not HUB_NAME.fullmatch(str(name)) or Path(name).exists()):
        raise WeightsError(
            f"{codec.name} points to {name}, which is "
            + ("a path here" if Path(name).exists() else "no repository on the hub")
        )
    return str(name)


def _unlike(repository: str, config: DictConfig) -> str:
    """Why a model is not one that decodes a text to music, by its name or its configuration."""
    for name, problem in OTHERS.items():
        if re.match(rf"{name}\b", repository):
            return problem
    if (kind := config.get("lm_model", "transformer_lm")) != "transformer_lm":
        return f"its language model is a {kind}"
    others = set(config.get("conditioners") or ()) - {"args", "description"}
    return f"it is conditioned on {', '.join(sorted(others))}, too" if others else ""


def _of_transformers(repository: str, licence: str, *more: str) -> tuple[WeightFile, ...]:
    """What transformers loads of a repository, its weights last."""
    cache = hub.snapshot(repository, hub.transformers_cache())
    weights = {"model.safetensors": "pytorch_model.bin"}
    return tuple(
        WeightFile(
            *(name, repository), licence=licence, instead=weights.get(name, ""), folder=cache
        )
        for name in ("config.json", *more, *weights)
    )
