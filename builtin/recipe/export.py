"""Step 5 of the recipe: checkpoints -> the float16 weights of `builtin/`.

    envs/training/.venv/bin/python -m builtin.recipe.export --work build/recipe

May be run while training goes on: the built-in stack then has what was learnt so far.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Tokenizer

from builtin.recipe.arguments import recipe_parser
from builtin.recipe.language_model import LMConfig
from builtin.recipe.train_lm import text_encoder
from src.decoding.codec import CodecConfig


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous float16 copies."""
    return {name: tensor.half().contiguous() for name, tensor in state.items()}


def main() -> None:
    """Write codec, language model, text encoder, vocabulary, sizes and training curves."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--target", type=Path, default=Path("builtin"))
    options = parser.parse_args()
    refined = options.work / "codec_refined.pt"
    codec = torch.load(
        refined if refined.exists() else options.work / "codec.pt", weights_only=True
    )["codec"]
    save_file(half(codec), options.target / "codec.safetensors")

    trained = torch.load(options.work / "lm.pt", weights_only=True)
    model = dict(trained["model"])
    for part in ("weight", "bias"):  # audiocraft keeps the text's projection in its conditioner
        model[f"condition_provider.conditioners.description.output_proj.{part}"] = model.pop(
            f"output_proj.{part}"
        )
    save_file(half(model), options.target / "lm.safetensors")

    config = LMConfig(vocabulary=trained["encoder"]["shared.weight"].shape[0])
    encoder = text_encoder(config, config.vocabulary)
    encoder.load_state_dict(trained["encoder"])
    folder = options.target / "text_encoder"
    encoder.half().save_pretrained(folder)
    shutil.copy(options.work / "spiece.model", folder / "spiece.model")
    T5Tokenizer(str(folder / "spiece.model"), extra_ids=0, legacy=True).save_pretrained(folder)
    sizes = {
        "lm": asdict(config),
        "codec": asdict(CodecConfig()),
        "segment_duration": 10,  # seconds: SECONDS of corpus.py
        "trained_steps": trained["step"],
        "trained_minutes": round(trained["spent"] / 60, 1),
    }
    with (options.target / "training.jsonl").open("w") as curves:
        for part in ("codec", "codec_refined", "lm"):
            history = options.work / f"{part}.jsonl"
            for line in history.read_text().splitlines() if history.exists() else ():
                curves.write(json.dumps({"part": part, **json.loads(line)}) + "\n")
    (options.target / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")


if __name__ == "__main__":
    main()
