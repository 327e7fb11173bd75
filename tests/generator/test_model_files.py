"""Which files a MusicGen needs: what they say of themselves, and where libraries look for them."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from src.data import hub
from src.data.files import ROOT
from src.runs import preflight
from src.weights.musicgen import read_export
from tests.generator.test_preflight import (  # noqa: F401
    MUSICGEN,
    WHOLE_ENCODER,
    WHOLE_MODEL,
    _nothing_cached_and_nothing_set,
    cache,
    export,
    look,
    missing,
    online,
)
from tests.hub_server import HubServer


def of_config(folder: Path, config: str) -> str:
    """What is missing, in all, of a model in a folder that was trained with this configuration."""
    cache_of_encoder = hub.snapshot("t5-base", hub.transformers_cache())
    if not cache_of_encoder.exists():
        cache("t5-base", WHOLE_ENCODER)
    export(folder / WHOLE_MODEL[0], **{"best_state": {}, "xp.cfg": config})
    export(folder / WHOLE_MODEL[1])
    return preflight.message(look(model=str(folder)).missing)


def test_the_text_encoder_is_the_one_that_the_checkpoint_names(tmp_path: Path) -> None:
    text = of_config(
        tmp_path,
        "conditioners: {description: {model: t5, t5: {name: google/flan-t5-small}}}\n"
        "other: {t5: {name: wrong}}",
    )
    assert "one thing is missing" in text
    assert "text encoder google/flan-t5-small" in text


POINTER = {"pretrained": "facebook/encodec_32khz", "exported": True, "version": "1.3.0"}
CODEC_FILES = ("config.json", "model.safetensors")


@pytest.mark.parametrize("decodes", [True, False])
def test_the_codec_that_a_pointer_names_is_looked_for_before_libraries_are_kept_off_the_network(
    decodes: bool, online: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache(MUSICGEN, WHOLE_MODEL)
    cache("t5-base", WHOLE_ENCODER)
    export(folder / WHOLE_MODEL[1], **POINTER)
    online.files = {"facebook/encodec_32khz/config.json": b""}
    assert missing(model=MUSICGEN, decodes=decodes) == []
    assert os.environ["HF_HUB_OFFLINE"] == "0"  # audiocraft still has to fetch it
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    (text,) = missing(model=MUSICGEN, decodes=decodes)
    assert "codec facebook/encodec_32khz, to which compression_state_dict.bin points" in text
    assert "TRANSFORMERS_OFFLINE is set" in text
    assert "hf download facebook/encodec_32khz config.json model.safetensors" in text
    assert f"copy models--facebook--encodec_32khz from its cache into {hub.hub_cache()}" in text
    cache("facebook/encodec_32khz", CODEC_FILES)
    assert missing(model=MUSICGEN, decodes=decodes) == []
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dac_44khz", "points to dac_44khz, which is no repository on the hub"),
        ("/data/codec.th", "points to /data/codec.th, which is no repository on the hub"),
        ("a/b", "points to a/b, which is a path here"),
    ],
)
def test_a_pointer_to_anything_but_a_repository_is_refused(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    cache("t5-base", WHOLE_ENCODER)
    export(tmp_path / WHOLE_MODEL[0])
    export(tmp_path / WHOLE_MODEL[1], **POINTER | {"pretrained": name})
    (text,) = missing(model=str(tmp_path))
    assert said in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("conditioners: {args: {}, self_wav: {model: chroma_stem}}", "conditioned on self_wav"),
        ("conditioners: {self_wav: {model: style}, description: {}}", "conditioned on self_wav"),
        ("lm_model: transformer_lm_magnet", "its language model is a transformer_lm_magnet"),
    ],
)
def test_a_model_that_does_not_decode_a_text_alone_is_refused_by_its_configuration(
    config: str, said: str, tmp_path: Path
) -> None:
    text = of_config(tmp_path, config)
    assert "one thing is missing" in text
    assert said in text
    assert "take a text-to-music model" in text


def test_released_models_of_other_kinds_are_refused_by_name_before_anything_comes(
    online: HubServer,
) -> None:
    for name in (
        *("musicgen-melody", "musicgen-melody-large", "musicgen-stereo-melody-large"),
        *("musicgen-style", "magnet-small-10secs", "audio-magnet-medium", "jasco-chords-drums-1B"),
    ):
        (text,) = missing(model=f"facebook/{name}")
        assert "take a text-to-music model, such as --model facebook/musicgen-medium" in text
    assert online.requests == []
    online.files = {f"{name}/x": b"" for name in ("me/my-melody", "facebook/musicgen-stereo-small")}
    online.files["t5-base/config.json"] = b""
    assert missing(model="me/my-melody") == missing(model="facebook/musicgen-stereo-small") == []


@pytest.mark.parametrize("file", WHOLE_MODEL)
def test_files_of_other_formats_under_audiocrafts_names_are_told_apart(
    file: str, tmp_path: Path
) -> None:
    for each in WHOLE_MODEL:
        export(tmp_path / each)
    export(tmp_path / file, **{"decoder.model.decoder.layers.0.fc1.weight": 0})
    (text,) = missing(model=str(tmp_path))
    assert f"{file} has no xp.cfg: its weights are in transformers' format" in text
    assert "hf download facebook/musicgen-small state_dict.bin compression_state_dict.bin" in text
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:83\n")
    (text,) = missing(model=str(tmp_path))
    assert f"{file} is no file of torch.save (BadZipFile): damaged, or git-lfs's note" in text


def test_what_a_file_asks_to_be_run_is_not_run_to_see_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / WHOLE_MODEL[0], "w") as archive:
        code = b"\x80\x02}X\x06\x00\x00\x00xp.cfgcposix\nmkdir\nX\x06\x00\x00\x00sprung\x85Rs."
        archive.writestr("archive/data.pkl", code)
    assert read_export(tmp_path / WHOLE_MODEL[0]).keys() == {"xp.cfg"}
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("variable", hub.TRANSFORMERS_CACHES)
def test_what_transformers_loads_is_looked_for_in_its_own_cache(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache("t5-base", WHOLE_ENCODER)
    monkeypatch.setenv(variable, str(tmp_path / "shared"))
    monkeypatch.setenv("AUDIOCRAFT_CACHE_DIR", str(tmp_path / "audio"))
    export(cache(MUSICGEN, WHOLE_MODEL, tmp_path / "audio") / WHOLE_MODEL[1], **POINTER)
    codec, encoder = missing(model=MUSICGEN)
    for text in (codec, encoder):
        assert f"from its cache into {tmp_path / 'shared'}\n" in text
    cache("facebook/encodec_32khz", CODEC_FILES, tmp_path / "shared")
    cache("t5-base", WHOLE_ENCODER, tmp_path / "shared")
    assert missing(model=MUSICGEN) == []


FOLDERS = (
    *({}, {"HF_HOME": "~/x"}, {"HF_HOME": "$HOME/x"}, {"HF_HOME": ""}, {"XDG_CACHE_HOME": "~/x"}),
    *({"HF_HUB_CACHE": "~/hf"}, {"HF_HUB_CACHE": ""}, {"HUGGINGFACE_HUB_CACHE": "~/hf"}),
    *({"TRANSFORMERS_CACHE": "~/t", "HF_HOME": "/h"}, {"PYTORCH_TRANSFORMERS_CACHE": "/p"}),
    {"PYTORCH_PRETRAINED_BERT_CACHE": "/b", "PYTORCH_TRANSFORMERS_CACHE": "/p"},
)
THEIRS = """
import importlib, json, os, sys
from huggingface_hub import constants
from transformers.utils import hub
for folders in json.loads(sys.argv[1]):
    os.environ |= folders
    for module in (constants, hub):
        importlib.reload(module)
    print(json.dumps([constants.HF_HUB_CACHE, hub.TRANSFORMERS_CACHE]))
    for name in folders:
        del os.environ[name]
"""


@pytest.mark.parametrize("environment", ["generator", "verifier"])
def test_caches_are_where_the_libraries_say(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    done = subprocess.run(
        [ROOT / f"envs/{environment}/.venv/bin/python", "-c", THEIRS, json.dumps(FOLDERS)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [tuple(map(Path, json.loads(line))) for line in done.stdout.splitlines()]
    for folders, expected in zip(FOLDERS, theirs, strict=True):
        with monkeypatch.context() as patch:
            for name, value in folders.items():
                patch.setenv(name, value)
            assert (hub.hub_cache(), hub.transformers_cache()) == expected, folders
