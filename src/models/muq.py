"""MuQ-MuLan: cosine similarity of the clip's and the prompt's embeddings."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_type_hints
from unittest.mock import patch

import numpy as np

from src.models.adapter import (
    CosineVerifier,
    exempt_from_autocast,
    known_fields,
    random_states_kept,
)
from src.protocol import Checkpoint
from src.weights.checkpoints import CheckpointFile, in_one_line
from src.weights.files import WeightFile, WeightsError

if TYPE_CHECKING:
    import torch

_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
_MULAN, _MUQ, _ROBERTA = "OpenMuQ/MuQ-MuLan-large", "OpenMuQ/MuQ-large-msd-iter", "xlm-roberta-base"
_CONFIG = WeightFile("config.json", repository=_MULAN)
# The repository had a model.safetensors for a while in August 2025, with weights that did not match
# (https://github.com/tencent-ailab/MuQ/issues/13); caches may still hold it.
_WEIGHTS = WeightFile("pytorch_model.bin", repository=_MULAN, licence=_LICENCE, size="2.8 GB")
_AUDIO_CONFIG = WeightFile("config.json", repository=_MUQ, licence=_LICENCE)
_TEXT_CONFIG = WeightFile("config.json", repository=_ROBERTA, licence="MIT")
_TOKENIZER = WeightFile("tokenizer.json", repository=_ROBERTA, licence="MIT", size="9 MB")


class MuqVerifier(CosineVerifier):
    """Cosine of the clip's and the prompt's MuQ-MuLan embeddings (Zhu et al., 2025).

    Windows are of 10 s; upstream does not scale their mean to unit length, and its last window ends
    with a splice to the clip's start, a jump that nobody composed. A clip shorter than 10 s goes in
    as upstream has it: followed by its own start, once.

    A prompt is embedded alone, because upstream does not mask the padding of a batch. One that is
    longer than the text model's 512 tokens is cut there; upstream raises.

    MuLan's own weight file holds its two backbones too. Of those, only the configurations and the
    tokenizer are read, where upstream's constructor would load 2.4 GB to overwrite them.
    """

    summary = "cosine of clip and prompt (MuQ-MuLan)"
    licence = _LICENCE
    sample_rate = 24_000
    windows_at_once = 8
    shortest = 2_400  # 0.1 s; the spectrogram's first frame needs 0.04 s
    files = (_CONFIG, _WEIGHTS, _AUDIO_CONFIG, _TEXT_CONFIG, _TOKENIZER)

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        file = _file(_WEIGHTS)
        with random_states_kept():
            model = _build()
        weights = file.weights(file.read())
        # Buffers that the model makes itself, and that older versions of transformers saved.
        for name in {name for name, _ in model.named_buffers()} - model.state_dict().keys():
            weights.pop(name, None)
        file.fill(model, weights, "MuQ-MuLan")
        if model.sr != self.sample_rate:
            raise _file(_CONFIG).unusable(f"is for {model.sr} Hz, not {self.sample_rate}")
        self._tokenizer: _Tokenizer = model.mulan.text.tokenizer
        self.window = int(model.sr * model.clip_secs)
        # Loading leaves the model in training mode, where dropout makes every score another.
        self._model = model.eval().requires_grad_(False).to(device)
        exempt_from_autocast(self._model.mulan.audio.model.model, "preprocessing", device)
        self.compute_on(device, dtype)
        return file.identity(_MULAN)

    def unread_tokens(self, prompt: str) -> int:
        return self._tokenizer.unread(prompt)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> "torch.Tensor":
        """[windows, D]."""
        import torch

        # A piece shorter than a window is followed by as much of its own start as there is.
        waves = [np.concatenate([w, w[: self.window - len(w)]]) for w in windows]
        lengths = np.array([len(wave) for wave in waves])
        embeddings: dict[int, torch.Tensor] = {}
        for length in set(lengths):  # no padding: only windows of one length share a forward
            indices = np.flatnonzero(lengths == length).tolist()
            stacked = torch.tensor(np.stack([waves[index] for index in indices])).to(self.device)
            latents = self._model.mulan.get_audio_latents(stacked)
            embeddings.update(zip(indices, latents, strict=True))
        return torch.stack([embeddings[index] for index in range(len(waves))])

    def embed_text(self, prompt: str) -> "torch.Tensor":
        """[D]."""
        return self._model(texts=[prompt])[0]


def _build() -> Any:
    """MuQMuLan with random weights, of the sizes that the configuration files say.

    Upstream's two towers load their backbones, and the tokenizer, from the hub or a folder by the
    names in the configuration, run code that comes with them, and load them non-strictly. These
    towers make them from the files that `load` located.
    """
    from muq import MuQ, MuQConfig, MuQMuLan, MuQMuLanConfig
    from muq.muq_mulan import muq_mulan
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config, audio, text = (_file(f).read() for f in (_CONFIG, _AUDIO_CONFIG, _TEXT_CONFIG))

    class AudioTower(muq_mulan.AudioSpectrogramTransformerPretrained):
        def _init_pretrained_model(self, name: str) -> None:  # noqa: ARG002
            # A path in it would be unpickled if a file happened to lie there.
            self.model = MuQ(MuQConfig(**known_fields(MuQConfig, audio) | {"rvq_ckpt_path": None}))

    class TextTower(muq_mulan.TextTransformerPretrained):
        def _init_pretrained_model(self) -> XLMRobertaModel:
            return XLMRobertaModel(XLMRobertaConfig(**text))

        def _init_tokenizer(self) -> _Tokenizer:
            return _Tokenizer(text)

    try:
        # Threads that load other models do not use this module.
        with patch.multiple(
            muq_mulan,
            AudioSpectrogramTransformerPretrained=AudioTower,
            TextTransformerPretrained=TextTower,
        ):
            parts = get_type_hints(MuQMuLanConfig).items()
            return MuQMuLan({name: known_fields(kind, config[name]) for name, kind in parts})
    except WeightsError:
        raise
    except Exception as error:  # of what the files hold, anything may be missing or misshapen
        raise _file(_CONFIG).unusable(
            f"does not fit {_MUQ} and {_ROBERTA}, or one of the three is wrong "
            f"({in_one_line(error)})"
        ) from error


class _Tokenizer:
    """XLM-RoBERTa's tokenizer, which cuts what is longer than the model's positions.

    For any thread: the library keeps in the tokenizer where to cut, and sets that in each call.
    """

    def __init__(self, text: dict[str, Any]) -> None:
        """text: the model's configuration. Raises WeightsError."""
        from transformers import XLMRobertaTokenizerFast

        file = _file(_TOKENIZER)
        try:
            self._tokenizer = XLMRobertaTokenizerFast(tokenizer_file=str(file.path))
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise file.unusable("is no tokenizer of the tokenizers library") from error
        self._turn = threading.Lock()
        # Positions are numbered from the one after the padding's.
        self.max_tokens = text["max_position_embeddings"] - text.get("pad_token_id", 1) - 1

    def __call__(self, texts: list[str], **options: Any) -> Any:
        with self._turn:
            return self._tokenizer(
                texts, **options, truncation=True, max_length=self.max_tokens, verbose=False
            )

    def unread(self, text: str) -> int:
        """How many tokens are cut off."""
        rest = self([text]).encodings[0].overflowing  # as often as needed, marked like the whole
        return sum(encoding.special_tokens_mask.count(0) for encoding in rest)


def _file(described: WeightFile) -> CheckpointFile:
    return CheckpointFile.of("muq", described)
