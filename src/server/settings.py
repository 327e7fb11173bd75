"""The verifier server's settings, what can be wrong with them, and the device they come to.

The comments of the fields are the texts of `python verifier_server.py --help`.
"""

import ipaddress
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from src.data.gpus import without_kernels
from src.protocol import Limits, checked_token
from src.weights.files import WEIGHTS_VARIABLE, weights_dir

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")  # by which a server on loopback is asked for


class SettingsError(ValueError):
    """Settings that cannot work; the message says which, and what can."""


@dataclass(frozen=True)
class BatchSettings:
    #: Clips in one model call at most; 1 for no batching.
    max_clips: int = 32
    #: Milliseconds that a clip may wait for others to share its call.
    max_wait_ms: float = 5.0
    #: Clips that may wait for one model; requests beyond it are answered with 503.
    max_queue: int = 1024


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Host verifiers over HTTP."""

    #: Verifiers to host: clap, quality, muq, imagebind, tags, tags_vgg, tags_msd, tags_msd_vgg.
    #: With none named, all whose weights are on this machine; the log says which are left out, and
    #: why. One that is named and lacks its weights ends the start with exit code 2.
    models: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: all that are there)"),
    ] = ()
    #: Download everything that these verifiers and judges need, and end. What is there is left
    #: alone; a download that was cut goes on where it stopped; hashes are checked. Files go into
    #: the folder of --weights_dir, else into the caches of the hub (HF_HOME) and of the user.
    #: HF_ENDPOINT, HF_TOKEN and HTTPS_PROXY are honoured. Example: --fetch clap quality kld_pq
    fetch: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: host, do not download)"),
    ] = None
    #: Folder of weights: a hub cache, or a folder owner--name for each hub repository, or the bare
    #: files. Looked into before the hub's own cache. CURATOR_WEIGHTS in the environment says the
    #: same.
    weights_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    #: Address to listen on: 0.0.0.0 for all interfaces, 127.0.0.1 for this machine only.
    host: str = "0.0.0.0"
    #: Port; 0 takes a free one, which the line "Uvicorn running on" names.
    port: int = 8000
    #: Where models run: auto (a GPU when there is one), cpu, cuda, cuda:1, ...
    device: str = "auto"
    #: What models compute in. float32 is what published scores are made with; bfloat16 is faster
    #: on GPUs, works on a CPU too, and changes scores a little; float16 is for GPUs only.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    #: CPU threads of a model; 0 leaves one core to the event loop, -1 takes them all.
    threads: int = 0
    #: Clients must send it as "Authorization: Bearer <token>". Better given as CURATOR_TOKEN in
    #: the environment, where other users of the machine cannot read it.
    token: str | None = None
    #: Connections at once; beyond them the one that has waited longest for its client is closed.
    max_connections: int = 2048
    #: Seconds that a client may take to send the headers of a request and begin with its body.
    head_seconds: float = 20.0
    #: Requests that may be in progress at once; more are answered with 503.
    max_requests: int = 32
    #: Bytes of uploads and of decoded audio that may be held at once; more are answered with 503.
    max_held_bytes: int = 4 * 2**30
    #: Seconds that a client may take to send a request.
    upload_seconds: float = 120.0
    #: Seconds that a stop (SIGTERM, Ctrl-C) waits for requests in progress.
    stop_seconds: float = 30.0
    #: Stop when standard input closes, so that a server ends with the program that started it.
    stop_with_stdin: bool = False
    #: How much to tell on stderr.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: How clips are gathered into model calls.
    batch: BatchSettings = field(default_factory=BatchSettings)
    #: What one request may hold.
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Raise SettingsError for what can be seen to be wrong without torch."""
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"--port {self.port}: there are 0 (any free one) to 65535")
        try:
            checked_token(self.token)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        self._check_host()
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise SettingsError(f"--device {self.device}: there are auto, cpu, cuda, cuda:0, ...")
        if self.batch.max_queue < self.limits.max_files:
            raise SettingsError("--batch.max_queue must be at least --limits.max_files")
        if self.max_connections <= self.max_requests:
            raise SettingsError("--max_connections must be more than --max_requests")

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host in LOCAL_HOSTS

    def _check_host(self) -> None:
        """Raise SettingsError for a host that is not this machine's."""
        try:
            found = socket.getaddrinfo(self.host, 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        for family, kind, _, _, address in found:
            with suppress(OSError), socket.socket(family, kind) as any_port:
                any_port.bind(address)
                return
        raise SettingsError(
            f"--host {self.host}: not an address of this machine; 0.0.0.0 listens on all that it "
            "has, 127.0.0.1 for this machine only"
        )

    def use_weights_dir(self) -> None:
        """Make `--weights_dir` the process's folder of weights. Raises SettingsError."""
        if self.weights_dir is not None:
            os.environ[WEIGHTS_VARIABLE] = str(self.weights_dir.expanduser().absolute())
        folder = weights_dir()
        if folder is not None and not folder.is_dir() and self.fetch is None:
            how = "--weights_dir" if self.weights_dir else WEIGHTS_VARIABLE
            raise SettingsError(f"{how}: {folder} is not a folder; --fetch would make it")


def configure_torch(settings: ServerSettings, models: int) -> str:
    """Share the cores among the models, and say which device 'auto' is.

    Raises SettingsError for a device that this machine lacks or that cannot compute in the dtype.
    """
    import torch

    # Convolutions take TF32 on CUDA unless told not to, which moves spectrograms by up to 20 dB
    # where they are quiet. Once for the process: the models' threads share the switch.
    torch.backends.cudnn.allow_tf32 = False
    cores = torch.get_num_threads()  # those that this process may use, or OMP_NUM_THREADS
    free = cores if settings.threads < 0 else cores - 1
    torch.set_num_threads(settings.threads if settings.threads > 0 else max(1, free // models))
    device = settings.device
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    elif device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        there = f"{gpus} of them: cuda:0 to cuda:{gpus - 1}" if gpus else "none: use --device cpu"
        raise SettingsError(f"--device {device}: torch sees no such GPU; it sees {there}")
    if device != "cpu" and (problem := without_kernels(torch.device(device).index)):
        raise SettingsError(problem)
    if device == "cpu" and settings.dtype == "float16":
        raise SettingsError("--dtype float16 needs a GPU; a CPU computes in float32 or bfloat16")
    return device
