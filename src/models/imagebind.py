"""ImageBind: cosine similarity of the clip's and the prompt's embeddings.

The library's documented call is `load_and_transform_audio_data`, the model's forward pass and the
product of its two outputs. What is done otherwise here, and why:

- Upstream hears three pieces of 2 s that start at (duration - 2)/3 * i: six seconds of a clip, and
  of 10 s never the last 2.7 s. Here windows of 2 s cover the whole clip.
- Upstream hears the first channel of a file only. Here the mean of the channels is heard.
- `waveform2melspec` subtracts a piece's mean in the memory that it was given, so that pieces which
  overlap change each other, and the caller's clip with them. Here each piece is a copy.
- The outputs carry temperatures: the audio branch's unit vectors are multiplied by 20, the text
  branch's by a learned factor of at most 100, and upstream's examples put their product through a
  softmax. Here both are unit vectors again and their product is the cosine, -1 to 1.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from src.models.adapter import CosineVerifier, undisturbed
from src.protocol import Checkpoint
from src.weights.checkpoints import CheckpointFile
from src.weights.files import WeightFile

if TYPE_CHECKING:
    import torch
    from torch import nn

# As in imagebind.data.load_and_transform_audio_data.
MEL_BANDS, MEL_FRAMES = 128, 204
MEL_MEAN, MEL_STD = -4.268, 9.138


def imagebind_huge() -> "nn.Module":
    """The one architecture that upstream publishes weights of."""
    from imagebind.models import imagebind_model

    return imagebind_model.imagebind_huge(pretrained=False)


class ImageBindVerifier(CosineVerifier):
    """Cosine of the clip's and the prompt's ImageBind embeddings (Girdhar et al., CVPR 2023).

    Windows are of 2 s. Of a clip shorter than that, the library pads the spectrogram at its end.
    The model's own patches leave out the last 25 ms of each window.

    Prompts are cut to 77 tokens, of which the first and the last mark the start and the end of the
    text: words after the 75th token have no influence.
    """

    summary = "cosine of clip and prompt (ImageBind)"
    licence = "CC-BY-NC-SA 4.0 (no commercial use)"
    sample_rate = 16_000
    window = 32_000
    windows_at_once = 32
    shortest = 400  # the mel spectrogram's own window, 25 ms
    files = (
        WeightFile(
            "imagebind_huge.pth",
            url="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
            licence="CC-BY-NC-SA 4.0 (no commercial use)",
            size="4.8 GB",
            sha256="d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157",
        ),
    )

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        """Load the audio and the text branch: 440 M of the 1,201 M parameters in the file.

        The file must be the whole model, tensor by tensor; what only images, depth, heat and
        motion need is left in it. Raises WeightsError.
        """
        file = CheckpointFile.of("imagebind", self.files[0])
        import_imagebind()
        from imagebind.data import return_bpe_path
        from imagebind.models.multimodal_preprocessors import SimpleTokenizer

        model = _without_memory()
        file.fill(model, file.weights(file.read()), "ImageBind", assign=True)
        _drop_other_branches(model)
        # Copies, since what was read may be views of the file.
        kept = {name: tensor.to(device, copy=True) for name, tensor in model.state_dict().items()}
        model.load_state_dict(kept, assign=True)
        self._model = model.float().requires_grad_(False).eval()
        self._tokenizer = SimpleTokenizer(bpe_path=return_bpe_path())
        self.compute_on(device, dtype)
        return file.identity(file.path.stem)

    def unread_tokens(self, prompt: str) -> int:
        marks = 2  # of the start and the end
        read = self._tokenizer.context_length - marks
        return max(0, len(self._tokenizer.encode(prompt)) - read)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> "torch.Tensor":
        """[windows, D]."""
        import torch

        # On a CPU, autocast would take the spectrograms' products in the dtype of the network.
        with torch.autocast("cpu", enabled=False):
            mels = torch.stack([_mel(window) for window in windows])
        return self._model({"audio": mels.to(self.device)})["audio"]

    def embed_text(self, prompt: str) -> "torch.Tensor":
        """[D]. A prompt's tokens fill 77 places."""
        tokens = self._tokenizer(prompt)  # int64 [77]: start, at most 75 tokens, end, zeros
        return self._model({"text": tokens[None].to(self.device)})["text"][0]


def _mel(window: np.ndarray) -> "torch.Tensor":
    """float32 [T <= 32,000] at 16 kHz -> float32 [1, 128, 204], normalised log-mel energies."""
    import torch
    from imagebind.data import waveform2melspec

    copy = torch.tensor(window)[None]
    mel = waveform2melspec(copy, ImageBindVerifier.sample_rate, MEL_BANDS, MEL_FRAMES)
    return (mel - MEL_MEAN) / MEL_STD


def import_imagebind() -> None:
    """Import the library, which the torchvision of today would otherwise not let import.

    imagebind.data imports pytorchvideo, whose augmentations (none of which is used here) import
    torchvision's tensor functions under the name that they had until torchvision 0.17. The module
    is otherwise the same, so it is made known by that name as well.
    """
    from torchvision.transforms import _functional_tensor

    sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)
    with undisturbed():  # it warns of its pkg_resources
        import imagebind.data  # noqa: F401


def _without_memory() -> "nn.Module":
    """The whole model on the meta device: names and shapes, no memory, no random numbers."""
    import torch

    # The trunks read their drop-path rates off a linspace; a meta tensor has no numbers.
    real_linspace = partial(torch.linspace, device="cpu")
    with torch.device("meta"), patch.object(torch, "linspace", real_linspace):
        return imagebind_huge()


def _drop_other_branches(model: Any) -> None:
    for parts in (
        model.modality_preprocessors,
        model.modality_trunks,
        model.modality_heads,
        model.modality_postprocessors,
    ):
        for branch in set(parts) - {"audio", "text"}:
            del parts[branch]
