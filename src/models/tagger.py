"""Music taggers: musicnn's four networks (Pons and Serra, arXiv 1909.06654; ISC licence) in torch.

A tagger hears a clip in windows of 187 frames (3 s) and gives 50 tags a probability each.
`load_tagger("tags")` is the built-in verifier's network, the other three are its judges':

    tagger = load_tagger("tags")
    tagger.tags                              # the 50 tags, in the order of the columns
    tagger.posteriors([samples_16khz_mono])  # float32 [1, 50]

The mel spectrogram, its rounding to float16 and the windows are those of musicnn's extractor, so
that the weights see what they were trained on. Two things differ, so that nothing of a clip goes
unheard: musicnn drops what is left after the last whole window, and fails on clips under 3 s;
here one more window covers the tail, and a short clip is repeated until it fills a window.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from src.models.adapter import EPSILON, ScoreError, random_states_kept, window_starts
from src.models.front_end import Block, FrontEnd
from src.models.memory import RowMemory, digest
from src.protocol import Checkpoint
from src.weights.files import TAGGERS, TAGGERS_DIR, sha256

SAMPLE_RATE = 16000
FFT_SIZE = 512
HOP = 256
MEL_BANDS = 96
WINDOW_FRAMES = 187
# 187 frames are centred on samples 0, 256, ... 186 * 256: the shortest clip that fills a window.
WINDOW_SAMPLES = (WINDOW_FRAMES - 1) * HOP
WINDOWS_AT_ONCE = 64
WINDOW_BYTES = 8 * 2**20  # that remembered windows take: some 7,000


def mel_filterbank() -> Tensor:
    """Slaney's mel filters, float32 [96, 257]: triangles of unit area, equal to librosa's defaults.

    Source: librosa.filters.mel(htk=False, norm="slaney"), after M. Slaney's Auditory Toolbox:
    linear below 1 kHz (200/3 Hz a mel), logarithmic above (a factor 6.4 in 27 mels).
    """

    def to_hz(mel: Tensor) -> Tensor:
        linear = mel * 200 / 3
        logarithmic = 1000 * torch.exp((mel - 15) * math.log(6.4) / 27)
        return torch.where(mel < 15, linear, logarithmic)

    top = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    edges = to_hz(torch.linspace(0, top, MEL_BANDS + 2, dtype=torch.float64))[:, None]
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1, dtype=torch.float64)
    widths = edges.diff(dim=0)
    rising = (bins - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - bins) / widths[1:]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (edges[2:] - edges[:-2])).float()


class LogMel(nn.Module):
    """musicnn's input: log10(10000 * mel + 1) of a power mel spectrogram rounded to float16."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)
        self.register_buffer("filters", mel_filterbank(), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """samples: float32 [T] at 16 kHz -> float32 [96, 1 + T // 256]."""
        spectrum = torch.stft(
            samples,
            FFT_SIZE,
            HOP,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log10(10000 * (self.filters @ power).half().float() + 1)


over_bands = partial(torch.amax, dim=2)  # [W, C, bands, T] -> [W, C, T]


class Network(nn.Module):
    """What the architectures share: the input's scale, and tags from the layer before the last.

    at_once_on_cpu: how many windows `features` takes at once there.
    """

    at_once_on_cpu: ClassVar[int]

    def __init__(self, width: int, tags: int) -> None:
        super().__init__()
        self.width = width
        self.input_scale = nn.Parameter(torch.ones(1))
        self.input_shift = nn.Parameter(torch.zeros(1))
        self.output = nn.Linear(width, tags)

    def features(self, x: Tensor) -> Tensor:
        """Scaled input [W, 1, 96, 187] -> [W, width]."""
        raise NotImplementedError

    def embed(self, mel: Tensor) -> Tensor:
        """The layer before the last: float32 [W, 96, 187] -> float32 [W, width]."""
        return self.features(mel[:, None] * self.input_scale + self.input_shift)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: float32 [W, 96, 187] -> logits float32 [W, tags]."""
        return self.output(self.embed(mel))


class Musicnn(Network):
    """Musically motivated filters: timbral (wide in frequency) and temporal (long in time) ones.

    Then three convolutions over time with residual connections, all features pooled over time by
    maximum and mean, and two dense layers. After musicnn/models.py, `build_musicnn`.
    """

    at_once_on_cpu = 8

    def __init__(self, tags: int) -> None:
        super().__init__(200, tags)
        timbral = [
            Block(nn.Conv2d(1, 204, (bands, 7), padding=(0, 3)), 204, over_bands)
            for bands in (38, 67)
        ]
        temporal = [
            Block(nn.Conv2d(1, 51, (1, length)), 51, over_bands) for length in (128, 64, 32)
        ]
        self.timbral = nn.ModuleList(timbral)
        # TensorFlow's "same" puts the odd one of an even filter's padding last.
        self.temporal = nn.ModuleList(
            nn.Sequential(nn.ZeroPad2d((length // 2 - 1, length // 2, 0, 0)), block)
            for length, block in zip((128, 64, 32), temporal, strict=True)
        )
        self.front_end = FrontEnd(timbral, temporal)
        self.middle = nn.ModuleList(
            Block(nn.Conv1d(width, 64, 7, padding=3), 64, nn.Identity()) for width in (561, 64, 64)
        )
        self.penultimate = nn.Linear(2 * (561 + 3 * 64), 200)

    def features(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            blocks = (*self.timbral, *self.temporal)
            return self._back_end(torch.cat([block(x) for block in blocks], 1))
        # One by one, so that rounding does not depend on the other windows.
        return torch.cat([self._back_end(front) for front in self.front_end(x[:, 0]).split(1)])

    def _back_end(self, front: Tensor) -> Tensor:
        """float32 [W, 561, 187] -> [W, 200]."""
        first = self.middle[0](front)
        second = self.middle[1](first) + first
        third = self.middle[2](second) + second
        features = torch.cat([front, first, second, third], 1)
        pooled = torch.cat([features.amax(2), features.mean(2)], 1)
        return F.relu(self.penultimate(pooled))


class Vgg(Network):
    """Five 3x3 convolutions with max pools and one dense layer. After musicnn/models.py, `vgg`."""

    at_once_on_cpu = 1  # activations of 13 MB; and rounding does not depend on other windows

    def __init__(self, tags: int) -> None:
        super().__init__(256, tags)
        pools = (nn.MaxPool2d((1, 4), 2), *(nn.MaxPool2d(2) for _ in range(3)), nn.MaxPool2d(4))
        self.blocks = nn.Sequential(
            *(
                Block(nn.Conv2d(128 if i else 1, 128, 3, padding=1), 128, pool)
                for i, pool in enumerate(pools)
            )
        )
        # Twice as fast on a CPU, for the pools. (Typed wrongly in torch 2.1's stubs.)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(x).flatten(1)


class Tagger(nn.Module):
    """A network with its input, its tags and its weights' checkpoint. For one thread.

    It remembers the windows that it has heard, and computes those that come again once.
    """

    def __init__(self, checkpoint: Checkpoint, tags: Sequence[str]) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.tags = tuple(tags)
        self.mel = LogMel()
        self.network = (Vgg if checkpoint.name.endswith("vgg") else Musicnn)(len(self.tags))
        self.memory = RowMemory(self.network.width, WINDOW_BYTES)

    def windows(self, samples: Tensor) -> Tensor:
        """The windows that cover a clip: float32 [T] at 16 kHz -> float32 [W, 96, 187].

        Raises ScoreError for a clip that is empty, not mono, not finite or out of all range.
        """
        if samples.dim() != 1 or len(samples) == 0:
            raise ScoreError(f"a clip must be mono samples [T], T > 0, not {[*samples.shape]}")
        samples = samples.to(self.mel.window)
        if len(samples) < WINDOW_SAMPLES:
            samples = samples.repeat(math.ceil(WINDOW_SAMPLES / len(samples)))[:WINDOW_SAMPLES]
        mel = self.mel(samples)
        if not torch.isfinite(mel).all():
            raise ScoreError(
                "a clip has samples that are not finite or far over full scale "
                f"(greatest magnitude {samples.abs().max().item():g}); write audio within -1..1"
            )
        starts = window_starts(mel.shape[1], WINDOW_FRAMES)
        return torch.stack([mel[:, start : start + WINDOW_FRAMES] for start in starts])

    @torch.inference_mode()
    def window_posteriors(self, windows: Tensor) -> Tensor:
        """The network's sigmoid outputs: float32 [W, 96, 187] -> float32 [W, 50] on the CPU."""
        return self._sigmoids(self._embed(windows))

    @torch.inference_mode()
    def embeddings(self, clip: Tensor) -> Tensor:
        """What the network makes of each window before it names tags.

        clip: float32 [T], 16 kHz mono -> float32 [W, 200] (Vgg: [W, 256]) on the CPU. Raises
        ScoreError, as `windows`.
        """
        return self._embed(self.windows(clip))

    @torch.inference_mode()
    def embeddings_of(self, clips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`embeddings` of several clips, of any lengths, computed together."""
        windows = [self.windows(clip) for clip in clips]
        return self._embed(torch.cat(windows)).split([len(part) for part in windows])

    def posteriors(self, clips: Sequence[Tensor]) -> Tensor:
        """Tag probabilities, the mean over a clip's windows.

        clips: B of float32 [T], 16 kHz mono, of any lengths -> float32 [B, 50] on the CPU.
        """
        return torch.stack([self.tags_of(part) for part in self.embeddings_of(clips)])

    @torch.inference_mode()
    def tags_of(self, embedded: Tensor) -> Tensor:
        """Tag probabilities of a clip, from its `embeddings`: float32 [50] on the CPU."""
        return self._sigmoids(embedded).mean(0)

    def _sigmoids(self, embedded: Tensor) -> Tensor:
        return self.network.output(embedded.to(self.mel.window.device)).sigmoid().cpu()

    def _embed(self, windows: Tensor) -> Tensor:
        """The network's `embed`, of equal windows and of those that are remembered once."""
        at_once = WINDOWS_AT_ONCE if windows.is_cuda else self.network.at_once_on_cpu

        def compute(indices: list[int]) -> Tensor:
            parts = windows[indices].split(at_once)
            return torch.cat([self.network.embed(part).float() for part in parts])

        keys = [digest(window) for window in windows.cpu().contiguous().numpy()]
        return self.memory.rows(keys, compute)

    def logits(self, clips: Sequence[Tensor]) -> Tensor:
        """Tag log-odds, ln p/(1-p) of `posteriors` with p kept within EPSILON of 0 and 1."""
        return torch.logit(self.posteriors(clips), eps=EPSILON)


def load_tagger(name: str) -> Tagger:
    """Load a tagger by its verifier's name ("tags") or its network's ("MTT_musicnn").

    Raises FileNotFoundError when there are no such weights.
    """
    path = TAGGERS_DIR / f"{TAGGERS.get(name, name)}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it belongs to the repository, and "
            "builtin/recipe/convert_musicnn.py makes it anew"
        )
    with safe_open(path, framework="pt") as file:
        tags = json.loads(file.metadata()["tags"])
    with random_states_kept():
        tagger = Tagger(Checkpoint(name=path.stem, sha256=sha256(path)), tags)
    tagger.network.load_state_dict(load_file(path))
    return tagger.eval().requires_grad_(False)
