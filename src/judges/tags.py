"""The built-in judges: the musicnn networks that the verifier `tags` (MTT_musicnn) does not use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip, resample, to_mono
from src.data.prompts import Prompt
from src.judges.base import (
    ClipJudge,
    JudgeError,
    KernelJudge,
    Listener,
    ReferenceJudge,
    SetJudge,
    SpreadJudge,
)
from src.models.adapter import EPSILON, PromptUnusable
from src.models.tags import named_tags
from src.protocol import Checkpoint

if TYPE_CHECKING:
    from src.models.tagger import Tagger


THROUGH_CODEC = "references through the generator's codec"


class TagListener(Listener):
    """A tagger's layer before its tags, for each window of 3 s: float32 [windows, D].

    From this follow its tags, so that one pass serves judges of both.
    """

    tagger_name: ClassVar[str]

    def load(self) -> tuple[Any, Checkpoint]:
        from src.models.tagger import load_tagger

        tagger = load_tagger(self.tagger_name).to(self.device)
        return tagger, tagger.checkpoint

    @property
    def tagger(self) -> "Tagger":
        return self.loaded[0]  # type: ignore[no-any-return]

    def listen(self, clip: Clip) -> NDArray[np.float32]:
        import torch

        from src.models.tagger import SAMPLE_RATE

        samples = resample(to_mono(clip), SAMPLE_RATE).samples[0]
        return self.tagger.embeddings(torch.from_numpy(samples)).numpy()

    def posterior(self, heard: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of 50 tags, float32 [50], the mean over a clip's windows."""
        import torch

        return self.tagger.tags_of(torch.from_numpy(heard)).numpy()


class MsdMusicnn(TagListener):
    tagger_name = "tags_msd"


class MsdVgg(TagListener):
    tagger_name = "tags_msd_vgg"


class MttVggTagger(TagListener):
    tagger_name = "tags_vgg"


class TagDivergence(ReferenceJudge):
    """How far the tags heard in a clip are from those heard in its prompt's reference audio.

    Sum over the 50 tags of KL(Bernoulli(reference) || Bernoulli(clip)), in nats: the divergence of
    the tagger's posteriors taken as independent tags. 0 when the same is heard.
    """

    shares_data_with = ("tags_msd", "tags_msd_vgg")

    def compare(self, clip: Clip, prompt: Prompt, reference: Path) -> float:
        assert isinstance(self.listener, TagListener)
        heard = self.hear_start(clip, prompt, reference), self.hear(clip, prompt)
        return bernoulli_kl(*map(self.listener.posterior, heard))


class MsdKld(TagDivergence):
    name = "msd_kld"
    listener_class = MsdMusicnn


class MsdVggKld(TagDivergence):
    name = "msd_vgg_kld"
    listener_class = MsdVgg
    note = "same data as msd_kld, other architecture"


class MsdCosine(ReferenceJudge):
    """How alike a clip and its reference are to MSD_musicnn: cosine of its layer before the tags.

    Of the means over windows of 3 s, -1 to 1.
    """

    name = "msd_cosine"
    higher_is_better = True
    shares_data_with = TagDivergence.shares_data_with
    listener_class = MsdMusicnn
    note = "the network of msd_kld, before its tags"

    def compare(self, clip: Clip, prompt: Prompt, reference: Path) -> float:
        own, other = self.hear(clip, prompt), self.hear_start(clip, prompt, reference)
        return cosine(own.mean(0), other.mean(0))


class MsdCosineCodec(MsdCosine):
    """The primary judge of the built-in stack.

    Fixed by validity alone, on the 64 prompts of builtin/prompts.csv and before any gain was looked
    at: of the judges that share no data with a recommended verifier it tells best whose reference a
    generated clip belongs to (docs/judges.md).
    """

    name = "msd_cosine_codec"
    through_codec = True
    note = f"{MsdCosine.note}; {THROUGH_CODEC}"


class MsdKldCodec(MsdKld):
    name = "msd_kld_codec"
    through_codec = True
    note = THROUGH_CODEC


class MsdVggKldCodec(MsdVggKld):
    name = "msd_vgg_kld_codec"
    through_codec = True
    note = f"{MsdVggKld.note}; {THROUGH_CODEC}"


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
        heard = self.listener.posterior(self.hear(clip, prompt))
        posterior = heard.astype(np.float64).clip(EPSILON, 1 - EPSILON)
        log_odds = np.log(posterior / (1 - posterior)).tolist()
        return named.log_odds(dict(zip(self.listener.tagger.tags, log_odds, strict=True)))


class FadMsd(SetJudge):
    """On the tagger's embeddings of windows of 3 s, at the clip's own loudness.

    The tagger hears loudness: audiocraft's alone would put music as far from itself as other music.
    """

    name = embeddings = "fad_msd"
    shares_data_with = TagDivergence.shares_data_with
    listener_class = MsdMusicnn


class KadMsd(KernelJudge, FadMsd):
    name = "kad_msd"


class SpreadMsd(SpreadJudge, FadMsd):
    name = "spread_msd"


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Of two vectors [D]; NaN where one has no length."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def bernoulli_kl(reference: NDArray[np.floating], clip: NDArray[np.floating]) -> float:
    """Sum over tags of KL(Bernoulli(reference) || Bernoulli(clip)), nats; posteriors [tags]."""
    p, q = (x.astype(np.float64).clip(EPSILON, 1 - EPSILON) for x in (reference, clip))
    return float(np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
