"""What the check runs on."""

from __future__ import annotations

import platform

import torch

from perf.gpu_check.models import half_dtypes, short
from perf.gpu_check.report import Check


def environment(check: Check) -> None:
    """Versions, the device, and the switches that decide how exact products are."""
    check.say(
        "software",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        stub_for_audiocraft=check.stub,
    )
    if check.on_gpu:
        properties = torch.cuda.get_device_properties(check.device)
        free, total = torch.cuda.mem_get_info()
        check.say(
            properties.name,
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            gb=total / 1e9,
            gb_free=free / 1e9,
            half=", ".join(map(short, half_dtypes(check.device))),
        )
    else:
        check.say("CPU", threads=torch.get_num_threads())
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    check.say(
        "no TF32, as src.decoding.device sets it",
        passed=not (products.allow_tf32 or convolutions.allow_tf32),
        products=products.allow_tf32,
        convolutions=convolutions.allow_tf32,
    )
