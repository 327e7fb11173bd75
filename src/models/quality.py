"""Audiobox Aesthetics: production quality and content enjoyment, without the prompt."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from src.models.adapter import (
    Adapter,
    finite_score,
    known_fields,
    must_be_audible,
    random_states_kept,
)
from src.protocol import Checkpoint, Score
from src.weights.checkpoints import CheckpointFile, in_one_line
from src.weights.files import WeightFile, absent, find

_REPOSITORY, _LICENCE = "facebook/audiobox-aesthetics", "CC-BY 4.0"
_CONFIG = WeightFile("config.json", repository=_REPOSITORY)
_WEIGHTS = WeightFile(
    "model.safetensors",
    repository=_REPOSITORY,
    licence=_LICENCE,
    size="415 MB",
    sha256="a5a3c2412649cc2384ec525ffd5180ce6c4778f43bed6108e0a1303de04d014e",
)
# The same in the format of the library's first versions, whole in one file.
_CHECKPOINT = WeightFile(
    "checkpoint.pt",
    repository=_REPOSITORY,
    licence=_LICENCE,
    size="416 MB",
    sha256="a4931a7a01c3e6733352e9d85371835f03bf9135f8b31e1583c23538811d4a32",
)


class QualityVerifier(Adapter):
    """Audiobox Aesthetics (Tjandra et al., 2025): (PQ + CE) / 20, whatever the prompt.

    Components, each about 1 to 10: CE content enjoyment, CU content usefulness, PC production
    complexity, PQ production quality.

    The scores are those of upstream's AesPredictor: windows of 10 s, the last one zero-padded and
    masked, an axis being the windows' mean weighted by their real length. It is not used itself,
    because it turns to the hub when the file is not there, unpickles whatever it holds, takes a GPU
    unasked, ignores the precision it is given and passes all windows of a call through the model at
    once.
    """

    summary = "production quality and enjoyment (Audiobox Aesthetics)"
    licence = _LICENCE
    sample_rate = 16_000
    needs_text = False
    windows_at_once = 8
    axes = ("CE", "CU", "PC", "PQ")
    files: tuple[WeightFile, ...] = (_WEIGHTS, _CONFIG)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if absent(self.files) and find(_CHECKPOINT):
            self.files = (_CHECKPOINT,)

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        import torch

        file, *config = (CheckpointFile.of("quality", each) for each in self.files)
        with random_states_kept():
            self._model = _read_model(file, *config).to(device)
        # Upstream compares a torch.dtype with strings, which switches autocast off for good.
        self._model.precision = getattr(torch, dtype)
        self._model.enable_autocast = dtype != "float32"
        self.device = device
        return file.identity(_REPOSITORY)

    def score(
        self,
        clips: Sequence[np.ndarray],
        prompts: Sequence[str],  # noqa: ARG002 (it has no influence)
    ) -> list[Score]:
        import torch
        from audiobox_aesthetics.infer import make_inference_batch

        for clip in clips:
            must_be_audible(clip)
        windows, masks, lengths, owners = make_inference_batch(
            [torch.tensor(c)[None] for c in clips]
        )
        portions = zip(
            *(torch.stack(part).split(self.windows_at_once) for part in (windows, masks)),
            strict=True,
        )
        with random_states_kept(), torch.inference_mode():
            outputs = [
                self._model({"wav": wav.to(self.device), "mask": mask.to(self.device)})
                for wav, mask in portions
            ]
        of_windows = {}
        for axis, of in self._model.target_transform.items():
            normalised = torch.cat([output[axis].float() for output in outputs]).cpu()
            of_windows[axis] = normalised * of["std"] + of["mean"]
        scores = []
        for index in range(len(clips)):
            mine = torch.tensor(owners) == index
            weights = torch.tensor(lengths)[mine]
            axes = {
                axis: ((values[mine] * weights).sum() / weights.sum()).item()
                for axis, values in of_windows.items()
            }
            scores.append(finite_score((axes["PQ"] + axes["CE"]) / 20, axes))
        return scores


def _read_model(file: CheckpointFile, config: CheckpointFile | None = None) -> Any:
    """AesMultiOutput with every weight, setting and statistic from the files. Raises WeightsError.

    config: JSON with the model's settings and `target_transform` (mean and std of each axis), for a
    file of weights alone. A file without it holds `state_dict` (names begin with "model."),
    `model_cfg` (the settings, each of them) and `target_transform`.
    """
    from audiobox_aesthetics.model.aes import AXES_NAME, AesMultiOutput

    found, configuration = file.read(), config.read() if config else None
    try:
        if configuration:
            settings = known_fields(AesMultiOutput, configuration)
            state, transform = found, settings.pop("target_transform")
        else:
            ours = {"target_transform", "freeze_encoder"}
            names = [field.name for field in fields(AesMultiOutput) if field.name not in ours]
            settings = {name: found["model_cfg"][name] for name in names}
            state, transform = found["state_dict"], found["target_transform"]
        statistics = {
            axis: {name: float(transform[axis][name]) for name in ("mean", "std")}
            for axis in AXES_NAME
        }
        model = AesMultiOutput(**settings, target_transform=statistics)
    except Exception as error:  # of what the files hold, anything may be missing or misshapen
        reason = in_one_line(error)
        raise (config or file).unusable(
            f"is no checkpoint of Audiobox Aesthetics ({reason})"
        ) from error
    weights = {name.removeprefix("model."): x for name, x in file.weights(state).items()}
    file.fill(model, weights, "Audiobox Aesthetics")
    return model.eval()
