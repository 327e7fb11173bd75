"""What an environment's torch and GPUs are, as JSON: `python -m src.runs.probe`.

A process of its own: a torch that cannot be imported, or that ends its process, is then a finding
about one environment. Nothing else is imported.
"""

import json
import sys
from typing import Any

from src.runs.provenance import versions

PACKAGES = ("torch", "audiocraft", "transformers", "fastapi", "numpy", "ray")


def probe() -> dict[str, Any]:
    import torch

    found = {name: version for name, version in versions(PACKAGES).items() if version}
    found["CUDA"] = torch.version.cuda or "none"
    return {"versions": found, "gpus": [gpu(n) for n in range(torch.cuda.device_count())]}


def gpu(number: int) -> dict[str, Any]:
    """memory, free: bytes. problem: why a small product does not compute on it; None when it
    does."""
    import torch

    about = torch.cuda.get_device_properties(number)
    free, problem = 0, None
    try:
        ones = torch.ones(8, 8, dtype=torch.float16, device=f"cuda:{number}")
        if (ones @ ones).sum().item() != 8**3:
            problem = "a product of matrices is wrong"
        free, _ = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    return {
        "name": about.name,
        "sm": f"sm_{about.major}{about.minor}",
        "kernels": " ".join(torch.cuda.get_arch_list()),
        "memory": about.total_memory,
        "free": free,
        "problem": problem,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()))
