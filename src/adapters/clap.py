"""LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

`laion_clap` takes RoBERTa, BERT and BART by hub name while it is imported and built. Here it gets
what lies on this machine instead, so that no hub is asked (`from_this_machine`).
"""

import codecs
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src import verifier_weights
from src.adapters.base import (
    Adapter,
    computing,
    finite_score,
    must_be_audible,
    random_states_kept,
    window_starts,
)
from src.verifier_weights import WeightFile, WeightsError, locate
from src.wire import Checkpoint, Score

if TYPE_CHECKING:
    import torch

WINDOW = 480_000  # samples: the 10 s that the model was trained on
# A window's activations take 40 MB: a request of many long clips must not go in one call.
WINDOWS_AT_ONCE = 16
# Saved by older versions of transformers, computed by newer ones.
POSITION_IDS = "text_branch.embeddings.position_ids"

CHECKPOINT = WeightFile(
    "music_audioset_epoch_15_esc_90.14.pt", repository="lukewys/laion_clap", size="2.4 GB"
)
VOCABULARY, MERGES, CONFIGURATION = (
    WeightFile(name, repository="roberta-base", licence="MIT", size=size)
    for name, size in (("vocab.json", "1 MB"), ("merges.txt", "0.5 MB"), ("config.json", "1 kB"))
)


class ClapVerifier(Adapter):
    """LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

    A clip of over 10 s is cut into fixed windows of 10 s that cover it, the last one ending with
    it; the windows' unit embeddings are averaged and the mean is normalised. This replaces the
    library's own way with long clips, which is to hear 10 s cropped at random by numpy's global
    generator: the same clip would get another score each time. Up to 10 s the library's way is
    kept: it repeats a clip as often as it fits whole and fills the rest with zeros; and samples
    pass through 16 bits, as in the library's documented calls, which clips them at full scale.

    Prompts are cut by the library at RoBERTa's 77th token, about 60 words.
    """

    summary = "cosine of clip and prompt (LAION-CLAP, music checkpoint)"
    licence = "see https://huggingface.co/lukewys/laion_clap"
    sample_rate = 48_000
    needs_text = True
    # Of RoBERTa only these: its weights are in the checkpoint. Nothing of BERT and BART.
    files = (CHECKPOINT, VOCABULARY, MERGES, CONFIGURATION)

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        path = locate(CHECKPOINT)
        state = read_checkpoint(path)
        with random_states_kept(), from_this_machine():
            from laion_clap import CLAP_Module

            library = CLAP_Module(enable_fusion=False, amodel="HTSAT-base", device="cpu")
        _fill(library.model, state, path)
        self._library = library.requires_grad_(False).eval().to(device)
        _keep_in_float32(library.model.audio_branch, device)
        self.device, self.dtype = device, dtype
        self._text_embedding: Callable[[str], torch.Tensor] = lru_cache(maxsize=1024)(
            self._embed_text
        )
        return Checkpoint(name=CHECKPOINT.name, sha256=verifier_weights.sha256(path))

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        for clip in clips:
            must_be_audible(clip)  # the library takes NaN for silence
        scores = []
        with computing(self.device, self.dtype):
            for embedding, prompt in zip(self._embed_clips(clips), prompts, strict=True):
                # a sum of products, because autocast would round a matrix product
                cosine = (embedding * self._text_embedding(prompt)).sum()
                scores.append(finite_score(cosine.item(), {}))
        return scores

    def _embed_clips(self, clips: Sequence[np.ndarray]) -> "list[torch.Tensor]":
        """Unit embeddings, float32 [512] each."""
        import torch
        from laion_clap.training.data import float32_to_int16, int16_to_float32

        windows, counts = [], []
        for clip in clips:
            starts = window_starts(len(clip), WINDOW)
            windows += [clip[start : start + WINDOW] for start in starts]
            counts.append(len(starts))
        embeddings = []
        for at in range(0, len(windows), WINDOWS_AT_ONCE):
            waves = [
                torch.from_numpy(int16_to_float32(float32_to_int16(window)))
                for window in windows[at : at + WINDOWS_AT_ONCE]
            ]
            embeddings.append(self._library.get_audio_embedding_from_data(waves, use_tensor=True))
        return [
            _unit(_unit(of_clip).mean(0)) for of_clip in torch.cat(embeddings).float().split(counts)
        ]

    def _embed_text(self, prompt: str) -> "torch.Tensor":
        """Unit embedding, float32 [512]."""
        return _unit(self._library.get_text_embedding([prompt], use_tensor=True)[0].float())


def read_checkpoint(path: Path) -> "dict[str, torch.Tensor]":
    """The weights in a CLAP checkpoint, by their names in the model.

    Upstream's file is a training checkpoint: the weights of a wrapped model (`module.` before each
    name) under "state_dict", beside an optimizer and numpy scalars. A bare dictionary of weights is
    read too, as upstream does. Nothing but tensors, containers and numpy scalars is unpickled.
    Raises WeightsError.
    """
    import torch

    try:
        with _numpy_scalars_allowed():
            # mmap: the optimizer, over half of the file, is never read
            loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise _unusable(path, f"it cannot be read ({_first_sentence(error)})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state or not all(map(torch.is_tensor, state.values())):
        raise _unusable(path, "it holds no weights")
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    state.pop(POSITION_IDS, None)
    return state


def _fill(model: "torch.nn.Module", state: "Mapping[str, torch.Tensor]", path: Path) -> None:
    """Copy the weights into the model, each of them. Raises WeightsError."""
    wanted = model.state_dict()
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    shapes = {n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape}
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    problems = [f"{len(n)} weights {kind} ({min(n)}, ..)" for kind, n in kinds.items() if n]
    if problems:
        raise _unusable(path, f"it does not fit CLAP with HTSAT-base: {', '.join(problems)}")
    model.load_state_dict(state)


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path} is not the checkpoint {CHECKPOINT.name}: {reason}; "
        f"delete it and get it again from {CHECKPOINT.source}"
    )


def _first_sentence(error: Exception) -> str:
    """Of the lines in torch's long texts, the one that says what was met."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "global" in line.lower()), lines[0])[:200]


@contextmanager
def from_this_machine() -> "Iterator[None]":
    """Within, laion_clap is imported and built without the hub. Raises WeightsError.

    Importing it loads the tokenizers of BERT, RoBERTa and BART by hub name, and building it loads
    RoBERTa's tokenizer and weights. This checkpoint's texts go through RoBERTa alone, and all of
    its weights are in the checkpoint and overwritten from there. So while this lasts,
    `from_pretrained` gives, for these four names only, RoBERTa's tokenizer from the files that
    `locate` finds, an untrained RoBERTa of the size that its configuration says, and nothing for
    BERT and BART, which nobody then has to download. Afterwards the classes are as before;
    `laion_clap.training.data` keeps the two nothings, which only its training code would use.

    The library also appends its own folder to sys.path, by which any `import training` of this
    process would find its modules, and gives the root logger a handler where it has none; both are
    taken back.
    """
    from transformers import BartTokenizer, BertTokenizer, RobertaModel, RobertaTokenizer

    tokenizer, model = _roberta()
    stand_ins: list[tuple[Any, str, object]] = [
        (RobertaTokenizer, "roberta-base", tokenizer),
        (RobertaModel, "roberta-base", model),
        (BertTokenizer, "bert-base-uncased", None),
        (BartTokenizer, "facebook/bart-base", None),
    ]
    spec = find_spec("laion_clap")
    folder = str(Path(spec.origin).parent) if spec and spec.origin else ""
    with ExitStack() as undo:
        undo.callback(setattr, logging.root, "handlers", list(logging.root.handlers))
        if folder not in sys.path:
            undo.callback(_forget, folder)
        for loader, name, thing in stand_ins:
            loader.from_pretrained = _known(name, thing, loader.from_pretrained)
            undo.callback(delattr, loader, "from_pretrained")  # uncovers the inherited one
        yield


def _forget(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)


def _known(name: str, thing: object, otherwise: Callable[..., object]) -> "staticmethod[..., Any]":
    def from_pretrained(wanted: str, *args: object, **options: object) -> object:
        return thing if wanted == name else otherwise(wanted, *args, **options)

    return staticmethod(from_pretrained)


def _roberta() -> tuple[object, object]:
    """RoBERTa's tokenizer, and an untrained model of its size. Raises WeightsError."""
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    vocabulary, merges, configuration = map(locate, (VOCABULARY, MERGES, CONFIGURATION))
    try:
        tokenizer = RobertaTokenizer(str(vocabulary), str(merges))
        config = RobertaConfig.from_json_file(configuration)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise WeightsError(
            f"RoBERTa's tokenizer cannot be read from {vocabulary}, {merges} and {configuration} "
            f"({error}); get them again from {VOCABULARY.source}"
        ) from error
    # Files of these names come with many models, whose other numbering would go unnoticed.
    special = [(t.pad_token_id, t.bos_token_id, t.eos_token_id) for t in (tokenizer, config)]
    if len(tokenizer) > config.vocab_size or special[0] != special[1]:
        raise WeightsError(
            f"{vocabulary} and {configuration} are not of one RoBERTa; "
            f"get them again from {VOCABULARY.source}"
        )
    return tokenizer, RobertaModel(config)


def _keep_in_float32(audio_branch: Any, device: str) -> None:
    """Take the spectrogram out of autocast.

    It is a convolution, and its power goes up to 2.6e5 at full scale: infinite in float16, and too
    coarse for quiet bands in bfloat16.
    """
    import torch

    exact = torch.autocast(torch.device(device).type, enabled=False)
    for extractor in (audio_branch.spectrogram_extractor, audio_branch.logmel_extractor):
        extractor.forward = exact(extractor.forward)


@contextmanager
def _numpy_scalars_allowed() -> "Iterator[None]":
    """Let `weights_only` unpickle numpy scalars: numbers and their types, no code."""
    import torch

    allowed: Any = torch.serialization  # Any: the torch of the type checker's environment is older
    before = list(allowed.get_safe_globals())
    make_scalar = np.float64().__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")}
    allowed.add_safe_globals([make_scalar, np.dtype, codecs.encode, *kinds])
    try:
        yield
    finally:
        allowed.clear_safe_globals()
        allowed.add_safe_globals(before)


def _unit(vectors: "torch.Tensor") -> "torch.Tensor":
    return vectors / vectors.norm(dim=-1, keepdim=True)
