"""Music taggers: the four networks of musicnn (Pons and Serra, arXiv 1909.06654; ISC licence) in torch.

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

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

TAGGERS = {
    "tags": "MTT_musicnn",
    "tags_vgg": "MTT_vgg",
    "tags_msd": "MSD_musicnn",
    "tags_msd_vgg": "MSD_vgg",
}
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "builtin" / "taggers"

SAMPLE_RATE = 16000
FFT_SIZE = 512
HOP = 256
MEL_BANDS = 96
WINDOW_FRAMES = 187
# 187 frames are centred on samples 0, 256, ... 186 * 256: the shortest clip that fills a window.
WINDOW_SAMPLES = (WINDOW_FRAMES - 1) * HOP
# The networks cost some 1.3 GMAC a window; 16 keep the activations (60 MiB a window) in bounds.
WINDOWS_PER_BATCH = 16
# Probabilities are kept this far from 0 and 1 before they become log-odds (so within +-13.8).
EPSILON = 1e-6

logger = logging.getLogger(__name__)


class TaggerError(ValueError):
    """A clip or a tagger's name that cannot be used; the message says which and why."""


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
        """samples: float32 [T] at 16 kHz -> float32 [1 + T // 256, 96]."""
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
        mel = (self.filters @ power).T
        return torch.log10(10000 * mel.half().float() + 1)


class Affine(nn.Module):
    """Batch norm in evaluation: one scale and one shift per channel (dimension 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


class Musicnn(nn.Module):
    """Musically motivated filters: timbral (wide in frequency) and temporal (long in time) ones.

    Then three convolutions over time with residual connections, all features pooled over time by
    maximum and mean, and two dense layers. After musicnn/models.py, `build_musicnn`.
    """

    def __init__(self, tags: int = 50) -> None:
        super().__init__()
        self.input = Affine(1)
        self.timbral = nn.ModuleList(nn.Conv2d(1, 204, (7, width)) for width in (38, 67))
        self.timbral_norm = nn.ModuleList(Affine(204) for _ in range(2))
        self.temporal = nn.ModuleList(nn.Conv2d(1, 51, (length, 1)) for length in (128, 64, 32))
        self.temporal_norm = nn.ModuleList(Affine(51) for _ in range(3))
        self.middle = nn.ModuleList(nn.Conv1d(width, 64, 7, padding=3) for width in (561, 64, 64))
        self.middle_norm = nn.ModuleList(Affine(64) for _ in range(3))
        self.penultimate = nn.Linear(2 * (561 + 3 * 64), 200)
        self.output = nn.Linear(200, tags)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: float32 [W, 187, 96] -> logits float32 [W, 50]."""
        x = self.input(mel[:, None])
        features = []
        for conv, norm in zip(self.timbral, self.timbral_norm):
            features.append(norm(F.relu(conv(F.pad(x, (0, 0, 3, 3))))).amax(3))
        for conv, norm in zip(self.temporal, self.temporal_norm):
            before = (conv.kernel_size[0] - 1) // 2  # TensorFlow's "same": the odd one goes last
            after = conv.kernel_size[0] // 2
            features.append(norm(F.relu(conv(F.pad(x, (0, 0, before, after))))).amax(3))
        front = torch.cat(features, 1)
        layers = [front]
        for index, (conv, norm) in enumerate(zip(self.middle, self.middle_norm)):
            y = norm(F.relu(conv(layers[-1])))
            layers.append(y if index == 0 else y + layers[-1])
        features_of_all = torch.cat(layers, 1)
        pooled = torch.stack([features_of_all.amax(2), features_of_all.mean(2)], 2).flatten(1)
        return self.output(F.relu(self.penultimate(pooled)))


class Vgg(nn.Module):
    """Five 3x3 convolutions with pooling and one dense layer. After musicnn/models.py, `vgg`."""

    POOLS = (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4)))

    def __init__(self, tags: int = 50) -> None:
        super().__init__()
        self.input = Affine(1)
        self.convs = nn.ModuleList(
            nn.Conv2d(1 if i == 0 else 128, 128, 3, padding=1) for i in range(5)
        )
        self.norms = nn.ModuleList(Affine(128) for _ in range(5))
        self.output = nn.Linear(256, tags)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: float32 [W, 187, 96] -> logits float32 [W, 50]."""
        x = self.input(mel[:, None])
        for conv, norm, (size, stride) in zip(self.convs, self.norms, self.POOLS):
            x = F.max_pool2d(norm(F.relu(conv(x))), size, stride)
        return self.output(x.permute(0, 2, 3, 1).flatten(1))


class Tagger(nn.Module):
    """A network with its input and its tags.

    tags: the names of the 50 outputs; checkpoint: the network's name and its file's sha256.
    """

    def __init__(self, name: str, tags: Sequence[str], sha256: str = "") -> None:
        super().__init__()
        self.name = name
        self.tags = tuple(tags)
        self.sha256 = sha256
        self.mel = LogMel()
        self.network = Vgg(len(self.tags)) if name.endswith("vgg") else Musicnn(len(self.tags))

    def windows(self, samples: Tensor) -> Tensor:
        """samples: float32 [T] at 16 kHz -> float32 [W, 187, 96], the windows that cover the clip."""
        if samples.dim() != 1 or len(samples) == 0:
            raise TaggerError(f"a clip must be mono samples [T], T > 0, not {tuple(samples.shape)}")
        if len(samples) < WINDOW_SAMPLES:
            samples = samples.repeat(math.ceil(WINDOW_SAMPLES / len(samples)))[:WINDOW_SAMPLES]
        mel = self.mel(samples.float())
        starts = list(range(0, len(mel) - WINDOW_FRAMES + 1, WINDOW_FRAMES))
        if starts[-1] + WINDOW_FRAMES < len(mel):
            starts.append(len(mel) - WINDOW_FRAMES)
        return torch.stack([mel[start : start + WINDOW_FRAMES] for start in starts])

    @torch.inference_mode()
    def window_posteriors(self, windows: Tensor) -> Tensor:
        """windows: float32 [W, 187, 96] -> float32 [W, 50] sigmoid outputs."""
        parts = windows.split(WINDOWS_PER_BATCH)
        return torch.cat([torch.sigmoid(self.network(part)) for part in parts])

    @torch.inference_mode()
    def posteriors(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips: float32 [T] each, 16 kHz mono -> float32 [B, 50], the mean over a clip's windows.

        Raises TaggerError for an empty clip and for one that gives no finite posterior.
        """
        windows = [self.windows(clip) for clip in clips]
        outputs = self.window_posteriors(torch.cat(windows)).split([len(w) for w in windows])
        result = torch.stack([output.mean(0) for output in outputs])
        for index, row in enumerate(result):
            if not torch.isfinite(row).all():
                raise TaggerError(f"clip {index} has samples that are not finite or far too loud")
        return result

    def logits(self, clips: Sequence[Tensor]) -> Tensor:
        """As `posteriors`, in log-odds: ln p/(1-p) with p kept within EPSILON of 0 and 1."""
        return torch.logit(self.posteriors(clips), eps=EPSILON)


def load_tagger(name: str, directory: Path = WEIGHTS_DIR) -> Tagger:
    """Load a tagger by its verifier's name ("tags") or its network's ("MTT_musicnn").

    Raises TaggerError for an unknown name and FileNotFoundError when the weights are missing.
    """
    network = TAGGERS.get(name, name)
    if network not in TAGGERS.values():
        raise TaggerError(f"no tagger {name!r}; there are {', '.join(TAGGERS)}")
    path = directory / f"{network}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it belongs to the repository, and "
            "builtin/recipe/convert_musicnn.py makes it anew"
        )
    with safe_open(path, framework="pt") as file:
        tags = json.loads(file.metadata()["tags"])
        weights = {key: file.get_tensor(key).float() for key in file.keys()}
    tagger = Tagger(network, tags, hashlib.sha256(path.read_bytes()).hexdigest())
    tagger.network.load_state_dict(weights)
    return tagger.eval().requires_grad_(False)
