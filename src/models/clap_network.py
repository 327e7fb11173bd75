"""LAION-CLAP from the files of this machine, for the verifier `clap` and the judge `clap_score`.

`laion_clap` takes RoBERTa, BERT and BART by hub name while it is imported and built. Here it gets
what lies on this machine instead, so that no hub is asked (`from_this_machine`). Runs in the
environments of the server and of the client.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.models.checkpoints import CheckpointFile
from src.models.isolation import replaced, undisturbed
from src.protocol import Checkpoint
from src.weights.files import WeightFile, WeightsError, fetch_command, locate

if TYPE_CHECKING:
    import torch

NAME = "clap"  # by which --fetch knows these files
SAMPLE_RATE = 48_000
WINDOW = 480_000  # samples: the 10 s that the model was trained on
TOKENS_READ = 77  # of a text, its start and end marks among them
# Saved by older versions of transformers, computed by newer ones.
POSITION_IDS = "text_branch.embeddings.position_ids"

LICENCE = "see https://huggingface.co/lukewys/laion_clap"
CHECKPOINT = WeightFile(
    "music_audioset_epoch_15_esc_90.14.pt", repository="lukewys/laion_clap", size="2.4 GB"
)
VOCABULARY, MERGES, CONFIGURATION = (
    WeightFile(name, repository="roberta-base", licence="MIT", size=size)
    for name, size in (("vocab.json", "1 MB"), ("merges.txt", "0.5 MB"), ("config.json", "1 kB"))
)
# Of RoBERTa only these: its weights are in the checkpoint. Nothing of BERT and BART.
FILES = (CHECKPOINT, VOCABULARY, MERGES, CONFIGURATION)


def load_clap(device: str) -> tuple[Any, Checkpoint]:
    """laion_clap's CLAP_Module (HTSAT-base, no fusion) with the checkpoint's weights, evaluating.

    In float32, whatever torch's default. Raises WeightsError.
    """
    file = CheckpointFile.of(NAME, CHECKPOINT)
    weights = read_weights(file)
    with undisturbed(), from_this_machine():
        from laion_clap import CLAP_Module

        library = CLAP_Module(enable_fusion=False, amodel="HTSAT-base", device="cpu")
    file.fill(library.model, weights, "CLAP with HTSAT-base")
    return library.requires_grad_(False).eval().to(device), file.identity()


def read_weights(file: CheckpointFile) -> "dict[str, torch.Tensor]":
    """The weights in a CLAP checkpoint, by their names in the model.

    Upstream's file is a training checkpoint: the weights of a wrapped model (`module.` before each
    name) under "state_dict", beside an optimizer, over half of the file, which is never read. A
    bare dictionary of weights is read too, as upstream does. Raises WeightsError.
    """
    found = file.read()
    weights = file.weights(found.get("state_dict", found) if isinstance(found, dict) else found)
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    weights.pop(POSITION_IDS, None)
    return weights


def load_tokenizer() -> Any:
    """RoBERTa's tokenizer. Raises WeightsError."""
    from transformers import RobertaTokenizer

    vocabulary, merges = locate(VOCABULARY), locate(MERGES)
    with _readable():
        return RobertaTokenizer(str(vocabulary), str(merges))


def unread_tokens(tokenizer: Any, text: str) -> int:
    """How many tokens at the end of a text CLAP does not read."""
    return max(0, len(tokenizer(text)["input_ids"]) - TOKENS_READ)


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
            known = _known(name, thing, loader.from_pretrained)
            undo.enter_context(replaced(loader, from_pretrained=known))
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
    from transformers import RobertaConfig, RobertaModel

    tokenizer, configuration = load_tokenizer(), locate(CONFIGURATION)
    with _readable():
        config = RobertaConfig.from_json_file(configuration)
    # Files of these names come with many models, whose other numbering would go unnoticed.
    special = [(t.pad_token_id, t.bos_token_id, t.eos_token_id) for t in (tokenizer, config)]
    if len(tokenizer) > config.vocab_size or special[0] != special[1]:
        raise CheckpointFile.of(NAME, VOCABULARY).unusable(
            f"is not of the same RoBERTa as {configuration}"
        )
    return tokenizer, RobertaModel(config)


@contextmanager
def _readable() -> Iterator[None]:
    """Raise WeightsError where RoBERTa's files hold something else than they should."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError) as error:
        files = ", ".join(str(locate(file)) for file in (VOCABULARY, MERGES, CONFIGURATION))
        raise WeightsError(
            f"RoBERTa's tokenizer cannot be read from {files} ({error}); delete them and get them "
            f"again with: {fetch_command(NAME)}"
        ) from error
