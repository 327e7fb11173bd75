"""Convert musicnn's TensorFlow 1 checkpoints to builtin/taggers/*.safetensors.

    envs/training/.venv/bin/python builtin/recipe/convert_musicnn.py --golden

Adam's slots are dropped. Batch norm in evaluation is one scale and one shift per channel; before a
dense layer it is folded into it, which is exact. Weights stay float32: as float16 they move the
outputs by up to 0.003, thirty times what the port is allowed. `--golden` has the original network,
run by TensorFlow from musicnn's own code, hear the clips of golden_clips.py, for the tests.
"""

import argparse
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from safetensors.numpy import save

NETWORKS = ("MTT_musicnn", "MTT_vgg", "MSD_musicnn", "MSD_vgg")
BATCH_NORM_EPSILON = 1e-3  # the default of tf.compat.v1.layers.batch_normalization
REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = REPOSITORY / "builtin" / "taggers"
GOLDEN = REPOSITORY / "tests" / "generator" / "data" / "tagger"

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


def batch_norm(variables: dict[str, np.ndarray], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of batch norm number `index` in evaluation."""
    name = numbered("batch_normalization", index)
    variance = variables[f"{name}/moving_variance"]
    scale = variables[f"{name}/gamma"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    return scale, variables[f"{name}/beta"] - scale * variables[f"{name}/moving_mean"]


def numbered(name: str, index: int) -> str:
    """TensorFlow's name of the index-th layer of a kind, in order of creation."""
    return f"{name}_{index}" if index else name


def block(variables: dict[str, np.ndarray], conv: str, norm: int) -> dict[str, np.ndarray]:
    """A src.models.tagger.Block; kernels [time, bands, in, out] become [out, in, bands, time]."""
    scale, shift = batch_norm(variables, norm)
    sign = np.where(scale < 0, -1.0, 1.0)
    return {
        "conv.weight": (sign * variables[f"{conv}/kernel"]).transpose(3, 2, 1, 0),
        "conv.bias": sign * variables[f"{conv}/bias"],
        "scale": scale,
        "shift": shift,
    }


def convert_musicnn(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of src.models.tagger.Musicnn, float64."""
    names = [f"timbral.{i}" for i in range(2)]
    names += [f"temporal.{i}.1" for i in range(3)]
    names += [f"middle.{i}" for i in range(3)]
    state: dict[str, np.ndarray] = {}
    state["input_scale"], state["input_shift"] = batch_norm(variables, 0)
    for i, name in enumerate(names):
        part = block(variables, numbered("conv2d", i), i + 1)
        if name.startswith("middle"):  # [out, 1, in, time]: the features are its width
            part["conv.weight"] = part["conv.weight"][:, 0]
        state |= {f"{name}.{key}": value for key, value in part.items()}
    for name, dense, norm in (("penultimate", "dense", 9), ("output", "dense_1", 10)):
        scale, shift = batch_norm(variables, norm)
        kernel = variables[f"{dense}/kernel"]
        weight = scale[:, None] * kernel
        if name == "penultimate":  # maximum and mean of each feature in turn -> all maxima first
            weight = weight.reshape(-1, 2, weight.shape[1]).transpose(1, 0, 2).reshape(weight.shape)
        state[f"{name}.weight"] = weight.T
        state[f"{name}.bias"] = variables[f"{dense}/bias"] + shift @ kernel
    return state


def convert_vgg(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of src.models.tagger.Vgg, float64."""
    state: dict[str, np.ndarray] = {}
    state["input_scale"], state["input_shift"] = batch_norm(variables, 0)
    for i in range(5):
        part = block(variables, f"{i + 1}CNN", i + 1)
        state |= {f"blocks.{i}.{key}": value for key, value in part.items()}
    kernel = variables["dense/kernel"]  # two time steps of 128 channels -> channels first
    state["output.weight"] = kernel.reshape(2, 128, -1).transpose(1, 0, 2).reshape(kernel.shape).T
    state["output.bias"] = variables["dense/bias"]
    return state


def convert(network: str, source: Path) -> None:
    """Write one network's weights, with where they come from."""
    variables = read_checkpoint(source / network)
    state = convert_vgg(variables) if network.endswith("vgg") else convert_musicnn(variables)
    tensors = {name: np.ascontiguousarray(v, dtype=np.float32) for name, v in state.items()}
    labels: dict[str, list[str]] = {}
    exec((source / "configuration.py").read_text(), {}, labels)
    files = (f"{network}/.index", f"{network}/.data-00000-of-00001")
    hashes = {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in files}
    metadata = {
        "network": network,
        "tags": json.dumps(labels[f"{network[:3]}_LABELS"]),
        "source": "PyPI wheel musicnn 0.1.0, https://github.com/jordipons/musicnn",
        "source_sha256": json.dumps(hashes),
        "licence": "ISC, Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019",
    }
    path = OUTPUT / f"{network}.safetensors"
    path.write_bytes(save(tensors, metadata))
    logger.info("%s: %d parameters", path, sum(t.size for t in tensors.values()))


def write_golden() -> None:
    """Outputs of the original, per window, for every clip that fills one of its windows.

    The librosa of musicnn's time mirrored a clip's edges before the Fourier transform; newer ones
    pad with zeros unless told otherwise, which the networks were not trained on.
    """
    warnings.simplefilter("ignore")  # a screen of deprecations for every network
    import librosa
    from musicnn import extractor

    librosa.feature.melspectrogram = functools.partial(
        librosa.feature.melspectrogram, pad_mode="reflect"
    )
    golden: dict[str, np.ndarray] = {}
    for clip in sorted(GOLDEN.glob("*.flac")):
        try:
            batch, _ = extractor.batch_data(str(clip), 187, 187)
        except UnboundLocalError:
            continue  # under 3 s: the original has no window for it
        if len(batch) == 1:
            golden[f"{clip.stem}/mel"] = batch
        for network in NETWORKS:
            golden[f"{clip.stem}/{network}"], _ = extractor.extractor(
                str(clip), model=network, extract_features=False
            )
    np.savez_compressed(GOLDEN / "original.npz", **golden)
    logger.info("%s: %s", GOLDEN / "original.npz", ", ".join(golden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="the tests' reference outputs too")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = musicnn_folder()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        convert(network, source)
    if arguments.golden:
        write_golden()


if __name__ == "__main__":
    main()
