"""Audiobox Aesthetics: production quality and content enjoyment, without the prompt."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from src.models.adapter import Adapter, finite_score, must_be_audible, random_states_kept
from src.models.checkpoints import CheckpointFile, in_one_line
from src.protocol import Checkpoint, Score
from src.weights.files import WeightFile

if TYPE_CHECKING:
    import torch

_REPOSITORY = "facebook/audiobox-aesthetics"
_STATISTICS = ("mean", "std")


class QualityVerifier(Adapter):
    """Audiobox Aesthetics (Tjandra et al., 2025): (PQ + CE) / 20, whatever the prompt.

    Components, each about 1 to 10: CE content enjoyment, CU content usefulness, PC production
    complexity, PQ production quality.

    The scores are those of upstream's AesPredictor: windows of 10 s, the last one zero-padded and
    masked, an axis being the windows' mean weighted by their real length. Only how the model comes
    into the predictor is ours, because upstream turns to the hub when the file is not there,
    unpickles whatever it holds, takes a GPU unasked, ignores the precision it is given and passes
    all windows of a call through the model at once.
    """

    summary = "production quality and enjoyment (Audiobox Aesthetics)"
    licence = "CC-BY 4.0"
    sample_rate = 16_000
    needs_text = False
    windows_at_once = 8
    files = (
        WeightFile("checkpoint.pt", repository=_REPOSITORY, licence="CC-BY 4.0", size="415 MB"),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        file = CheckpointFile.of("quality", self.files[0])
        with random_states_kept():
            model = _read_model(file)
        self._predictor = _predictor(model, device, dtype)
        return file.identity(_REPOSITORY)

    def score(
        self,
        clips: Sequence[np.ndarray],
        prompts: Sequence[str],  # noqa: ARG002 (it has no influence)
    ) -> list[Score]:
        import torch

        for clip in clips:
            must_be_audible(clip)
        batch = [{"path": torch.tensor(c)[None], "sample_rate": self.sample_rate} for c in clips]
        with random_states_kept():
            rows: list[dict[str, float]] = self._predictor.forward(batch)
        return [finite_score((row["PQ"] + row["CE"]) / 20, row) for row in rows]


def _read_model(file: CheckpointFile) -> Any:
    """AesMultiOutput with every weight, setting and statistic from the file. Raises WeightsError.

    The file holds `state_dict` (names begin with "model."), `model_cfg` (the model's settings) and
    `target_transform` (mean and std of each axis).
    """
    from audiobox_aesthetics.model.aes import AXES_NAME, AesMultiOutput

    found = file.read()
    ours = {"target_transform", "freeze_encoder"}
    names = [field.name for field in fields(AesMultiOutput) if field.name not in ours]
    try:
        statistics = {
            axis: {name: float(found["target_transform"][axis][name]) for name in _STATISTICS}
            for axis in AXES_NAME
        }
        settings = {name: found["model_cfg"][name] for name in names}
        model = AesMultiOutput(**settings, target_transform=statistics)
        state = found["state_dict"]
    except Exception as error:  # of what the file holds, anything may be missing or misshapen
        reason = in_one_line(error)
        raise file.unusable(f"is no checkpoint of Audiobox Aesthetics ({reason})") from error
    if not all(math.isfinite(x) for axis in statistics.values() for x in axis.values()):
        raise file.unusable("has a mean or std that is not finite")
    weights = {name.removeprefix("model."): x for name, x in file.weights(state).items()}
    file.fill(model, weights, "Audiobox Aesthetics")
    return model.eval()


def _predictor(model: Any, device: str, dtype: str) -> Any:
    """Upstream's AesPredictor around a model that is loaded already."""
    import torch
    from audiobox_aesthetics.infer import AesPredictor, Normalize

    class Predictor(AesPredictor):
        def setup_model(self) -> None:
            # Upstream compares a torch.dtype with strings, which switches autocast off for good.
            model.precision, model.enable_autocast = getattr(torch, dtype), dtype != "float32"
            self.device = torch.device(device)
            self.model = _in_portions(model.to(self.device))
            transforms = model.target_transform.items()
            self.target_transform = {axis: Normalize(**values) for axis, values in transforms}

    return Predictor(checkpoint_pth="")


_Tensors = dict[str, "torch.Tensor"]


def _in_portions(model: Callable[[_Tensors], _Tensors]) -> Callable[[_Tensors], _Tensors]:
    """`model` with at most `windows_at_once` windows at a time; float32 [windows] per axis."""
    import torch

    def forward(batch: _Tensors) -> _Tensors:
        portions = zip(
            *(batch[key].split(QualityVerifier.windows_at_once) for key in batch), strict=True
        )
        outputs = [model(dict(zip(batch, portion, strict=True))) for portion in portions]
        return {axis: torch.cat([o[axis].float() for o in outputs]) for axis in outputs[0]}

    return forward
