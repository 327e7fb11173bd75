"""Frechet audio distance of a method's clips to their prompts' references, on two embeddings.

Neither is the published FAD of MusicGen, which takes VGGish embeddings and the references of a
whole data set. A run keeps the embeddings, from which its report makes the
distances (src/stats/frechet.py).
"""

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip
from src.judges.base import Listener, SetJudge
from src.judges.clap_score import ClapListener
from src.judges.tags import MsdMusicnn, tagger_samples
from src.models import clap
from src.protocol import Checkpoint

TO_KNOW = (
    "biased upwards for few clips: compare equal numbers of them only, and not with the published "
    "VGGish FAD"
)


class MsdEmbedding(Listener):
    """MSD_musicnn's layer before its tags, for each window of 3 s: float32 [windows, 200]."""

    @property
    def checkpoint(self) -> Checkpoint:
        return MsdMusicnn.shared(self.device).checkpoint

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        tagger = MsdMusicnn.shared(self.device).tagger
        return tagger.embeddings(tagger_samples(clip)).numpy()


class FadClap(SetJudge):
    """On CLAP's unit embeddings of windows of 10 s, with the checkpoint of `clap_score`.

    Clips are brought to audiocraft's loudness first, references are heard as they are, as for the
    published measures (src/judges/published.py).
    """

    name = "fad_clap"
    shares_data_with = ("clap",)
    note = TO_KNOW
    licence = clap.LICENCE
    listener_class = ClapListener


class FadMsd(SetJudge):
    """On the built-in tagger's embeddings of windows of 3 s, at the clip's own loudness.

    The tagger hears loudness: audiocraft's alone would put music as far from itself as other music.
    """

    name = "fad_msd"
    shares_data_with = ("tags_msd", "tags_msd_vgg")
    note = TO_KNOW
    listener_class = MsdEmbedding
