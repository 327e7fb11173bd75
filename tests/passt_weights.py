"""Random PaSST weights in the upstream format.

    envs/generator/.venv/bin/python -m tests.passt_weights FOLDER

Writes FOLDER/passt-s-f128-20sec-p16-s10-ap.474-swa.pt, the state dict of hear21passt's full network
for 20 s, 345 MB. FOLDER may be a CURATOR_WEIGHTS, or the hub/checkpoints of a TORCH_HOME. Seeded:
two runs write the same weights.
"""

import contextlib
import os
import sys
from pathlib import Path

CHECKPOINT = "passt-s-f128-20sec-p16-s10-ap.474-swa.pt"


def write_passt(folder: Path) -> Path:
    """The file; draws from torch's global generator."""
    import torch
    from hear21passt.models.passt import get_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        network = get_model(arch="passt_20sec", input_tdim=2000, pretrained=False)
    with torch.no_grad():
        # What a trained classifier is: surer of some tags than of others, by what it hears.
        network.head[1].weight.mul_(8 * (768 / network.embed_dim) ** 0.5)
    torch.save(network.state_dict(), folder / CHECKPOINT)
    return folder / CHECKPOINT


if __name__ == "__main__":
    write_passt(Path(sys.argv[1]))
