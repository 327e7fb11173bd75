"""LAION-CLAP from the files of this machine: the verifier, and what the judge `clap_score` shares.

`laion_clap` takes RoBERTa, BERT and BART by hub name while it is imported and built. Here it gets
what lies on this machine instead, so that no hub is asked (`from_this_machine`). Runs in the
environments of the server and of the client.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from src.models.adapter import CosineVerifier, exempt_from_autocast, undisturbed
from src.protocol import Checkpoint
from src.weights.checkpoints import CheckpointFile
from src.weights.files import WeightFile, locate

if TYPE_CHECKING:
    import torch

NAME = "clap"  # by which --fetch knows these files
SAMPLE_RATE = 48_000
WINDOW = 480_000  # samples: the 10 s that the model was trained on
TOKENS_READ = 77  # of a text, its start and end marks among them
# Saved by older versions of transformers, computed by newer ones.
POSITION_IDS = "text_branch.embeddings.position_ids"

LICENCE = "CC0-1.0 by its page (https://huggingface.co/lukewys/laion_clap)"
CHECKPOINT = WeightFile(
    "music_audioset_epoch_15_esc_90.14.pt",
    repository="lukewys/laion_clap",
    size="2.4 GB",
    sha256="fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
)
ROBERTA = tuple(
    WeightFile(name, repository="roberta-base", licence="MIT", size=size)
    for name, size in (("vocab.json", "1 MB"), ("merges.txt", "0.5 MB"), ("config.json", "1 kB"))
)
# Of RoBERTa only these: its weights are in the checkpoint. Nothing of BERT and BART.
FILES = (CHECKPOINT, *ROBERTA)


class ClapVerifier(CosineVerifier):
    """LAION-CLAP: cosine similarity of the clip's and the prompt's embeddings.

    A clip of over 10 s is cut into windows of 10 s (`CosineVerifier`). This replaces the library's
    own way with long clips, which is to hear 10 s cropped at random by numpy's global generator:
    the same clip would get another score each time. Up to 10 s the library's way is kept: it
    repeats a clip as often as it fits whole and fills the rest with zeros; and samples pass through
    16 bits, as in the library's documented calls, which clips them at full scale.

    Prompts are cut by the library at RoBERTa's 77th token, about 60 words.
    """

    summary = "cosine of clip and prompt (LAION-CLAP, music checkpoint)"
    licence = LICENCE
    sample_rate = SAMPLE_RATE
    window = WINDOW
    windows_at_once = 16  # activations take 40 MB each
    files = FILES

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        self._library, checkpoint = load_clap(device)
        self._tokenizer, _ = load_roberta()  # not the library's, which another thread may be using
        # A spectrogram's power goes up to 2.6e5 at full scale.
        audio_branch = self._library.model.audio_branch
        exempt_from_autocast(audio_branch.spectrogram_extractor, "forward", device)
        exempt_from_autocast(audio_branch.logmel_extractor, "forward", device)
        self.compute_on(device, dtype)
        return checkpoint

    def unread_tokens(self, prompt: str) -> int:
        return unread_tokens(self._tokenizer, prompt)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> "torch.Tensor":
        """[windows, 512]."""
        import torch
        from laion_clap.training.data import float32_to_int16, int16_to_float32

        waves = [torch.from_numpy(int16_to_float32(float32_to_int16(w))) for w in windows]
        return self._library.get_audio_embedding_from_data(waves, use_tensor=True)

    def embed_text(self, prompt: str) -> "torch.Tensor":
        """[512]."""
        return self._library.get_text_embedding([prompt], use_tensor=True)[0]


def load_clap(device: str) -> tuple[Any, Checkpoint]:
    """laion_clap's CLAP_Module (HTSAT-base, no fusion) with the checkpoint's weights, evaluating.

    In float32, whatever torch's default. Raises WeightsError.
    """
    file = CheckpointFile.of(NAME, CHECKPOINT)
    found = file.read()
    # Upstream's is a training checkpoint: beside the weights lies an optimizer, over half of the
    # file, which is never read. A bare dictionary of weights is read too, as upstream does.
    found = file.weights(found.get("state_dict", found) if isinstance(found, dict) else found)
    weights = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    weights.pop(POSITION_IDS, None)
    with undisturbed(), from_this_machine():
        from laion_clap import CLAP_Module

        library = CLAP_Module(enable_fusion=False, amodel="HTSAT-base", device="cpu")
    file.fill(library.model, weights, "CLAP with HTSAT-base")
    return library.requires_grad_(False).eval().to(device), file.identity()


def unread_tokens(tokenizer: Any, text: str) -> int:
    """How many tokens at the end of a text CLAP does not read."""
    return max(0, len(tokenizer(text)["input_ids"]) - TOKENS_READ)


@contextmanager
def from_this_machine() -> Iterator[None]:
    """Within, laion_clap is imported and built without the hub. Raises WeightsError.

    Importing it loads the tokenizers of BERT, RoBERTa and BART by hub name, and building it loads
    RoBERTa's tokenizer and weights. This checkpoint's texts go through RoBERTa alone, and all of
    its weights are in the checkpoint and overwritten from there. So while this lasts,
    `from_pretrained` gives RoBERTa's tokenizer from the files that `locate` finds, an untrained
    RoBERTa of the size that its configuration says, and nothing for BERT and BART, which nobody
    then has to download. Afterwards the classes are as before; `laion_clap.training.data` keeps the
    two nothings, which only its training code would use.

    The library also appends its own folder to sys.path, by which any `import training` of this
    process would find its modules, and gives the root logger a handler where it has none; both are
    taken back.
    """
    from transformers import BartTokenizer, BertTokenizer, RobertaModel, RobertaTokenizer

    tokenizer, config = load_roberta()
    stand_ins = {
        RobertaTokenizer: tokenizer,
        RobertaModel: RobertaModel(config),
        BertTokenizer: None,
        BartTokenizer: None,
    }
    with ExitStack() as undo:
        undo.enter_context(patch.object(sys, "path", [*sys.path]))
        undo.enter_context(patch.object(logging.root, "handlers", [*logging.root.handlers]))
        for kind, thing in stand_ins.items():
            undo.enter_context(patch.object(kind, "from_pretrained", return_value=thing))
        yield


def load_roberta() -> tuple[Any, Any]:
    """RoBERTa's tokenizer and configuration. Raises WeightsError."""
    from transformers import RobertaConfig, RobertaTokenizer

    file = CheckpointFile.of(NAME, ROBERTA[0])
    vocabulary, merges, configuration = (str(locate(each)) for each in ROBERTA)
    try:
        tokenizer = RobertaTokenizer(vocabulary, merges)
        config = RobertaConfig.from_json_file(configuration)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise file.unusable(f"or {merges} or {configuration} cannot be read ({error})") from error
    # Files of these names come with many models, whose other numbering would go unnoticed.
    special = [(t.pad_token_id, t.bos_token_id, t.eos_token_id) for t in (tokenizer, config)]
    if len(tokenizer) > config.vocab_size or special[0] != special[1]:
        raise file.unusable(f"is not of the same RoBERTa as {configuration}")
    return tokenizer, config
