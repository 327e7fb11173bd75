"""A small ImageBind with random weights, as a file of upstream's format."""

from pathlib import Path

import torch
from torch import nn

from src.models.imagebind import ImageBindVerifier, import_imagebind

RATE = ImageBindVerifier.sample_rate
SIZES = {
    "out_embed_dim": 32,
    "vision_embed_dim": 16,
    "vision_num_blocks": 1,
    "vision_num_heads": 2,
    "audio_embed_dim": 32,
    "audio_num_blocks": 3,
    "audio_num_heads": 4,
    "audio_drop_path": 0.5,
    "text_embed_dim": 32,
    "text_num_blocks": 2,
    "text_num_heads": 4,
    "depth_embed_dim": 16,
    "depth_num_blocks": 1,
    "depth_num_heads": 2,
    "thermal_embed_dim": 16,
    "thermal_num_blocks": 1,
    "thermal_num_heads": 2,
    "imu_embed_dim": 16,
    "imu_num_blocks": 1,
    "imu_num_heads": 2,
}


def small_imagebind() -> nn.Module:
    """The library's own class, with everything that it lets be chosen small."""
    import_imagebind()
    from imagebind.models.imagebind_model import ImageBindModel

    return ImageBindModel(**SIZES)


def write_imagebind_weights(folder: Path, seed: int = 0) -> Path:
    """Write imagebind_huge.pth with a small model's state, as upstream's: names and tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_imagebind()
        with torch.no_grad():
            # As initialised, the class token hardly hears the rest: scores would all be alike.
            for name, parameter in model.named_parameters():
                if "trunks" in name and parameter.ndim == 2:
                    parameter.mul_(2)
    path = folder / ImageBindVerifier.files[0].name
    torch.save(model.state_dict(), path)
    return path


def load_small() -> ImageBindVerifier:
    """The adapter, loaded with what CURATOR_WEIGHTS holds."""
    verifier = ImageBindVerifier("imagebind")
    verifier.load("cpu")
    return verifier
