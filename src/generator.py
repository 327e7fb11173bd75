"""The generator: a frozen MusicGen, from prompts to tokens to audio.

    generator = load_generator("builtin")
    candidates = generator.begin(["a slow harp waltz"], ["key"], candidates=8, frames=500, seed=42)
    candidates.advance(500)
    clips = generator.render(candidates.tokens())

Loads the built-in model, and any text-to-music MusicGen by hub name or from a folder that holds
audiocraft's `state_dict.bin` and `compression_state_dict.bin`. It knows nothing of verifiers.
`load_renderer` loads the codec alone, for tokens that were generated before.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from src.budget import Span
from src.decoding.decoder import MAX_ROWS, Decoder, Decoding, Sampling
from src.decoding.device import OutOfMemory, free_memory, memory_for, usable_device
from src.decoding.renderer import RENDERED_AT_ONCE, RENDERED_BYTES, Renderer
from src.decoding.windows import Windows
from src.protocol import Checkpoint
from src.weights.files import WeightsError, sha256
from src.weights.musicgen import CODEC_FILE, LM_FILE, read_export, refuse_unusable, weight_files

if TYPE_CHECKING:
    from audiocraft.models.encodec import CompressionModel
    from audiocraft.models.lm import LMModel

log = logging.getLogger(__name__)

TEXTS_KEPT = 1024
EXTEND_STRIDE = 18.0  # seconds, as audiocraft has it for windows of 30; of shorter ones a share
EXTEND_SHARE = 0.6
SMALLER = "take a smaller --model, or half precision (--dtype)"
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of a SentencePiece vocabulary
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class GeneratorError(RuntimeError):
    """A model that cannot be loaded; the message says what to do."""


class Generator(Renderer):
    """A language model with its text conditioner, and its codec.

    dtype: as the manifest has it. segment: seconds of the clips that the model was trained on, its
    window; None where that is not known. extend_stride: seconds by which the windows of a longer
    clip follow each other, unless it is left to the segment. Raises ValueError where they would
    not overlap.
    """

    def __init__(
        self,
        lm: LMModel,
        codec: CompressionModel,
        checkpoint: Checkpoint,
        dtype: torch.dtype = torch.float32,
        sampling: Sampling | None = None,
        max_rows: int = MAX_ROWS,
        graphs: bool = True,
        segment: float | None = None,
        extend_stride: float | None = None,
    ) -> None:
        super().__init__(codec, checkpoint)
        self.lm = lm.eval()
        self.span = None if segment is None else span_of(segment, extend_stride, self.frame_rate)
        self.decoder = Decoder(lm, sampling, dtype, max_rows, None if graphs else False)
        if dtype != next(lm.transformer.parameters()).dtype:
            lm.transformer.to("meta")  # the decoder has its own, converted
        self._may_halve = False
        self.dtype = str(dtype).removeprefix("torch.")
        self.condition = lru_cache(maxsize=TEXTS_KEPT)(self._condition)

    @property
    def max_rows(self) -> int:
        """Candidates decoded side by side."""
        return self.decoder.max_rows

    def fit_rows(self, frames: int, at_once: int = 1) -> None:
        """Decode as many candidates of so many frames side by side as the GPU's memory is for.

        at_once: groups of prompts whose candidates are held at once. A CPU gains nothing from more
        than MAX_ROWS.
        """
        self._may_halve = True
        if self.device != "cuda":
            return
        span = self.windows(frames)
        free, size = free_memory(), self.decoder.row_bytes(span.length if span else frames)
        self.decoder.max_rows = rows_that_fit(free / at_once, size)
        log.info(
            "--max_rows %d: %.1f GB are free, a candidate may take %.2f GB",
            *(self.max_rows, free / 1e9, size / 1e9),
        )

    def halve_rows(self) -> bool:
        """When memory was not enough: whether it is to be tried once more, with half the rows.

        Once, and where their number was chosen here.
        """
        if not self._may_halve or self.max_rows < 2:
            return False
        self._may_halve = False
        self.decoder.max_rows //= 2
        return True

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        first: int = 0,
        given: Sequence[NDArray[np.integer[Any]]] | None = None,
    ) -> Decoding | Windows:
        """Candidates of each prompt, prompt-major rows, none of their `frames` finished yet.

        keys: each prompt's noise key; what a candidate samples depends on seed, key, slot and
        position alone. first: the first of their slots. given: tokens [codebooks, frames given] of
        each prompt, with which all its candidates begin.
        """
        conditions = [self.condition(prompt) for prompt in prompts]
        begun = None
        if given is not None:
            tokens = torch.from_numpy(np.stack(given).astype(np.int64))
            begun = tokens.repeat_interleave(candidates, 0)
        asked = (conditions, candidates, frames, keys, seed)
        if (span := self.windows(frames)) is not None:
            return Windows(self.decoder, *asked, span, begun, first)
        return self.decoder.begin(*asked, begun, first)

    def windows(self, frames: int) -> Span | None:
        """Those in which a clip of so many frames is decoded; None where one is enough."""
        return self.span if self.span is not None and frames > self.span.length else None

    @torch.inference_mode()
    def _condition(self, prompt: str) -> Tensor:
        """The cross-attention source of one prompt, [text tokens, dim], in the CPU's memory.

        Each prompt is encoded alone: cross-attention has no text mask, so that padding to the
        length of others would change what is generated.
        """
        from audiocraft.modules.conditioners import ConditioningAttributes

        attributes = ConditioningAttributes(text={"description": prompt})
        provider = self.lm.condition_provider
        embedding, _mask = provider(provider.tokenize([attributes]))["description"]
        return embedding[0].cpu()

    def unknown_tokens(self, prompt: str) -> tuple[int, int]:
        """How many tokens of a prompt mean nothing to the text encoder, and how many there are.

        Those that it reads as unknown, and the bytes by which some vocabularies spell letters that
        they lack. SentencePiece makes one unknown token of a whole word in another script.
        """
        tokenizer = self.lm.condition_provider.conditioners["description"].t5_tokenizer
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        tokens = tokenizer.convert_ids_to_tokens(ids)
        lost = sum(token == tokenizer.unk_token or bool(BYTE.fullmatch(token)) for token in tokens)
        return lost, len(tokens)

    @property
    def weight_bytes(self) -> int:
        """Of the language model with its text encoder, of the codec, and of what stands beside
        them packed (`Transformer.pack`)."""
        packed = self.lm.transformer.parameters() if self.decoder.transformer.packable else ()
        return sum(p.nbytes for p in (*self.lm.parameters(), *self.codec.parameters(), *packed))

    def forget_conditions(self) -> None:
        """Encode texts anew from here on, as a first run does."""
        self.condition.cache_clear()

    def synchronize(self) -> None:
        """Wait for the device, so that a stage's seconds are its own."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def span_of(segment: float, stride: float | None, frame_rate: float) -> Span:
    """The windows of a model, from seconds. Raises ValueError where they would not overlap."""
    if stride is None:
        stride = EXTEND_STRIDE if segment > EXTEND_STRIDE else EXTEND_SHARE * segment
    if not stride < segment:
        raise ValueError(
            f"--extend_stride must be less than {segment:g} s, the model's window, not {stride:g}: "
            "a window is given the rest of the one before"
        )
    return Span(round(segment * frame_rate), max(1, round(stride * frame_rate)))


def rows_that_fit(free: float, row: int) -> int:
    """How many rows of so many bytes fit into a GPU's free bytes, beside what rendering takes."""
    rendering = min(RENDERED_AT_ONCE * RENDERED_BYTES, free / 4)
    return max(1, int((0.9 * free - rendering) // row))


def load_generator(
    model: str,
    device: str = "auto",
    dtype: str | None = None,
    sampling: Sampling | None = None,
    max_rows: int = MAX_ROWS,
    graphs: bool = True,
    extend_stride: float | None = None,
) -> Generator:
    """Load `model`: "builtin", a hub name such as facebook/musicgen-small, or a folder.

    device: "auto" is the GPU where there is one. dtype: float32 on a CPU and float16 on a GPU
    unless given. graphs: whether a GPU's decoding steps are captured once and replayed.
    extend_stride: as Generator. Raises GeneratorError, UnsupportedModel for checkpoints that cannot
    be decoded here, OutOfMemory, ValueError for a device that is not here, a dtype that it has not
    or a stride that is too long.
    """
    device = usable_device(device)
    chosen = DTYPES[dtype or ("float16" if device == "cuda" else "float32")]
    with _loading(model):
        if model == "builtin":
            from src.decoding.builtin import (
                as_compression_model,
                load_codec,
                load_config,
                load_lm,
            )

            segment = load_config()["segment_duration"]
            lm, codec = load_lm(device), as_compression_model(load_codec(device))
        else:  # audiocraft's own loading: the stereo checkpoints' interleaved codec comes wrapped
            from audiocraft.models import MusicGen

            refuse_unusable(model)
            musicgen = MusicGen.get_pretrained(model, device=device)
            lm, codec = musicgen.lm, musicgen.compression_model
            segment = musicgen.max_duration
    with memory_for(f"loading {model}", SMALLER):
        known = (lm, codec, checkpoint_of(model))
        return Generator(*known, chosen, sampling, max_rows, graphs, segment, extend_stride)


def load_renderer(model: str, device: str = "auto") -> Renderer:
    """The codec of `model`, for which no language model is loaded. Raises as load_generator."""
    device = usable_device(device)
    with _loading(f"the codec of {model}"):
        if model == "builtin":
            from src.decoding.builtin import as_compression_model, load_codec

            codec = as_compression_model(load_codec(device))
        else:
            from audiocraft.models.builders import get_wrapped_compression_model
            from audiocraft.models.loaders import load_compression_model

            refuse_unusable(model)
            codec = load_compression_model(model, device=device)
            # Stereo models interleave two codecs' codebooks, which the language model's file says.
            config = read_export(weight_files(model)[0])["xp.cfg"]
            codec = get_wrapped_compression_model(codec, OmegaConf.create(config))
    return Renderer(codec, checkpoint_of(model))


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Inside, audiocraft loads models. Raises GeneratorError for whatever goes wrong there."""
    try:
        with audiocraft_without_clap():
            import audiocraft.models  # noqa: F401
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.nn.utils.weight_norm is deprecated")
            with memory_for(
                f"loading {what}", "take a smaller --model, or --dtype float16 on a GPU"
            ):
                yield
    except OutOfMemory:
        raise
    except WeightsError as error:
        raise GeneratorError(str(error)) from error
    except Exception as error:  # the hub, torch and omegaconf raise many types
        raise GeneratorError(
            f"{what} cannot be loaded ({type(error).__name__}: {error}). It should be a MusicGen "
            f"on the hub, or a folder with {LM_FILE} and {CODEC_FILE}"
        ) from error


def checkpoint_of(model: str) -> Checkpoint:
    """Name and hash of a model that is loaded, or whose files lie where they are looked for."""
    if model == "builtin":
        from src.decoding.builtin import WEIGHT_FILES

        return Checkpoint(name=model, sha256=hash_of(WEIGHT_FILES))
    return Checkpoint(name=model, sha256=hash_of(weight_files(model)))


def hash_of(files: Sequence[Path]) -> str:
    """One sha256 over the files' own, in order."""
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


class _NoClap(MetaPathFinder):
    """Makes `import laion_clap` fail as if it were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if fullname.partition(".")[0] == "laion_clap":
            raise ModuleNotFoundError(f"{fullname} is kept away from audiocraft", name=fullname)


@contextmanager
def audiocraft_without_clap() -> Iterator[None]:
    """Inside, audiocraft may be imported: it finds no laion_clap, which it can do without.

    Importing audiocraft's models imports its metrics, which import laion_clap, which loads
    tokenizers from the hub at once; with nothing cached and no network that ends MusicGen's own
    import. Afterwards laion_clap imports as ever.
    """
    finder = _NoClap()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
