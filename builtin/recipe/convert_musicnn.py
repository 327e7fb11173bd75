"""Convert musicnn's TensorFlow 1 checkpoints to builtin/taggers/*.safetensors.

Needs tensorflow and the musicnn wheel, in an environment of its own (envs/training/convert.in):

    uv venv --python 3.11 /tmp/convert
    uv pip install --python /tmp/convert -r envs/training/convert.in
    uv pip install --python /tmp/convert --no-deps musicnn==0.1.0
    /tmp/convert/bin/python builtin/recipe/convert_musicnn.py

Adam's slots are dropped. Batch norm in evaluation is one scale and one shift per channel; those
before a dense layer are folded into it, which is exact. Convolutions and dense layers are stored
as float16 where `--dtype` says so, scales, shifts and biases always as float32.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

NETWORKS = ("MTT_musicnn", "MTT_vgg", "MSD_musicnn", "MSD_vgg")
BATCH_NORM_EPSILON = 1e-3  # the default of tf.compat.v1.layers.batch_normalization
OUTPUT = Path(__file__).resolve().parent.parent / "taggers"

logger = logging.getLogger("convert_musicnn")


def musicnn_folder() -> Path:
    """Where the musicnn package lies, found without importing it (it would import librosa)."""
    spec = find_spec("musicnn")
    if spec is None or spec.origin is None:
        raise SystemExit("musicnn is not installed here; see this script's docstring")
    return Path(spec.origin).parent


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Every variable of a TF1 checkpoint but the optimiser's, by name.

    The files have no prefix (".index"), which the reader does not take: it reads a copy.
    """
    with tempfile.TemporaryDirectory() as copy:
        for suffix in (".index", ".data-00000-of-00001"):
            shutil.copy(folder / suffix, Path(copy) / f"model{suffix}")
        reader = tf.train.load_checkpoint(str(Path(copy) / "model"))
        names = reader.get_variable_to_shape_map()
        return {
            name: reader.get_tensor(name).astype(np.float64)
            for name in names
            if "Adam" not in name and not name.startswith(("beta1", "beta2"))
        }


def affine(variables: dict[str, np.ndarray], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of batch norm number `index` in evaluation."""
    name = "batch_normalization" + (f"_{index}" if index else "")
    variance = variables[f"{name}/moving_variance"]
    scale = variables[f"{name}/gamma"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    return scale, variables[f"{name}/beta"] - scale * variables[f"{name}/moving_mean"]


def put_affine(out: dict[str, np.ndarray], name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    out[f"{name}.scale"], out[f"{name}.shift"] = pair


def convert_musicnn(v: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of src.tagger.Musicnn, float64."""
    out: dict[str, np.ndarray] = {}
    put_affine(out, "input", affine(v, 0))
    # The order of creation in musicnn/models.py: two timbral blocks, three temporal, three middle.
    places = [("timbral", 2), ("temporal", 3), ("middle", 3)]
    blocks = [(place, i) for place, count in places for i in range(count)]
    for number, (place, i) in enumerate(blocks):
        name = "conv2d" + (f"_{number}" if number else "")
        kernel = v[f"{name}/kernel"]  # height (time), width, inputs, outputs
        if place == "middle":
            out[f"{place}.{i}.weight"] = kernel[:, :, 0, :].transpose(2, 1, 0)
        else:
            out[f"{place}.{i}.weight"] = kernel.transpose(3, 2, 0, 1)
        out[f"{place}.{i}.bias"] = v[f"{name}/bias"]
        put_affine(out, f"{place}_norm.{i}", affine(v, number + 1))
    for name, dense, norm in (("penultimate", "dense", 9), ("output", "dense_1", 10)):
        scale, shift = affine(v, norm)
        kernel = v[f"{dense}/kernel"]
        out[f"{name}.weight"] = (scale[:, None] * kernel).T
        out[f"{name}.bias"] = v[f"{dense}/bias"] + shift @ kernel
    return out


def convert_vgg(v: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of src.tagger.Vgg, float64."""
    out: dict[str, np.ndarray] = {}
    put_affine(out, "input", affine(v, 0))
    for i in range(5):
        out[f"convs.{i}.weight"] = v[f"{i + 1}CNN/kernel"].transpose(3, 2, 0, 1)
        out[f"convs.{i}.bias"] = v[f"{i + 1}CNN/bias"]
        put_affine(out, f"norms.{i}", affine(v, i + 1))
    out["output.weight"] = v["dense/kernel"].T
    out["output.bias"] = v["dense/bias"]
    return out


def convert(network: str, source: Path, weight_dtype: str, output: Path) -> None:
    variables = read_checkpoint(source / network)
    state = convert_vgg(variables) if network.endswith("vgg") else convert_musicnn(variables)
    tensors = {
        name: np.ascontiguousarray(
            value.astype(weight_dtype if name.endswith("weight") else np.float32)
        )
        for name, value in state.items()
    }
    labels: dict[str, list[str]] = {}
    exec((source / "configuration.py").read_text(), {}, labels)
    metadata = {
        "source": "musicnn 0.1.0 (https://github.com/jordipons/musicnn), PyPI wheel",
        "licence": "ISC, Copyright (c) 2019 Jordi Pons",
        "network": network,
        "tags": json.dumps(labels[f"{network[:3]}_LABELS"]),
        "sha256": json.dumps(
            {
                f"{network}/{suffix}": hashlib.sha256(
                    (source / network / suffix).read_bytes()
                ).hexdigest()
                for suffix in (".index", ".data-00000-of-00001")
            }
        ),
    }
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{network}.safetensors"
    save_file(tensors, path, metadata)
    logger.info("%s: %d parameters", path, sum(t.size for t in tensors.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float32")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = musicnn_folder()
    for network in NETWORKS:
        convert(network, source, arguments.dtype, arguments.output)


if __name__ == "__main__":
    main()
