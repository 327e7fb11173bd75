"""The built-in judges: the musicnn networks that the verifier `tags` (MTT_musicnn) does not use."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip, resample, to_mono
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, KernelJudge, Listener, SetJudge, SpreadJudge
from src.models.adapter import EPSILON, PromptUnusable
from src.models.tags import named_tags
from src.protocol import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from src.models.tagger import Tagger


class TagListener(Listener):
    """Hears the posteriors of 50 tags, float32 [50], the mean over the clip's windows."""

    tagger_name: ClassVar[str]

    def load(self) -> tuple[Any, Checkpoint]:
        from src.models.tagger import load_tagger

        tagger = load_tagger(self.tagger_name).to(self.device)
        return tagger, tagger.checkpoint

    @property
    def tagger(self) -> "Tagger":
        return self.loaded[0]  # type: ignore[no-any-return]

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        return self.tagger.posteriors([tagger_samples(clip)])[0].numpy()


class MsdMusicnn(TagListener):
    tagger_name = "tags_msd"


class MsdVgg(TagListener):
    tagger_name = "tags_msd_vgg"


class MttVggTagger(TagListener):
    tagger_name = "tags_vgg"


class MsdEmbedding(MsdMusicnn):
    """MSD_musicnn's layer before its tags, for each window of 3 s: float32 [windows, 200]."""

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        return self.tagger.embeddings(tagger_samples(clip)).numpy()


class TagDivergence(ClipJudge):
    """How far the tags heard in a clip are from those heard in its prompt's reference audio.

    Sum over the 50 tags of KL(Bernoulli(reference) || Bernoulli(clip)), in nats: the divergence of
    the tagger's posteriors taken as independent tags. 0 when the same is heard.
    """

    higher_is_better = False
    needs_reference = True
    shares_data_with = ("tags_msd", "tags_msd_vgg")

    def number(self, clip: Clip, prompt: Prompt) -> float:
        return bernoulli_kl(self.hear_reference(prompt), self.hear(clip, prompt))


class MsdKld(TagDivergence):
    name = "msd_kld"
    listener_class = MsdMusicnn


class MsdVggKld(TagDivergence):
    name = "msd_vgg_kld"
    listener_class = MsdVgg
    note = "same data as msd_kld, other architecture"


class MttVgg(ClipJudge):
    """The score of the verifier `tags`, by the network of another architecture.

    Mean log-odds of the tags that the prompt names, less the mean of those that it negates.
    """

    name = "mtt_vgg"
    higher_is_better = True
    needs_reference = False
    is_verifier = ("tags_vgg",)
    shares_data_with = ("tags",)
    listener_class = MttVggTagger

    def number(self, clip: Clip, prompt: Prompt) -> float:
        assert isinstance(self.listener, TagListener)
        try:
            named = named_tags(prompt.text, self.listener.tagger_name)
        except PromptUnusable as error:
            raise JudgeError(str(error)) from error
        posterior = self.hear(clip, prompt).astype(np.float64).clip(EPSILON, 1 - EPSILON)
        log_odds = np.log(posterior / (1 - posterior)).tolist()
        return named.log_odds(dict(zip(self.listener.tagger.tags, log_odds, strict=True)))


class FadMsd(SetJudge):
    """On the tagger's embeddings of windows of 3 s, at the clip's own loudness.

    The tagger hears loudness: audiocraft's alone would put music as far from itself as other music.
    """

    name = embeddings = "fad_msd"
    shares_data_with = TagDivergence.shares_data_with
    listener_class = MsdEmbedding


class KadMsd(KernelJudge, FadMsd):
    name = "kad_msd"


class SpreadMsd(SpreadJudge, FadMsd):
    name = "spread_msd"


def bernoulli_kl(reference: NDArray[np.floating], clip: NDArray[np.floating]) -> float:
    """Sum over tags of KL(Bernoulli(reference) || Bernoulli(clip)), nats; posteriors [tags]."""
    p, q = (x.astype(np.float64).clip(EPSILON, 1 - EPSILON) for x in (reference, clip))
    return float(np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))


def tagger_samples(clip: Clip) -> "Tensor":
    """The clip as the taggers take it: float32 [T], mono, 16 kHz."""
    import torch

    from src.models.tagger import SAMPLE_RATE

    return torch.from_numpy(resample(to_mono(clip), SAMPLE_RATE).samples[0])
