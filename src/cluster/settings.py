"""The flags of the scripts whose work can be spread over several machines."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from src.runs.settings import INDECISIVE, Settings, UsageError

Share = Annotated[
    float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: by cluster)")
]


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Settings):
    """What Ray is to do, if anything. None of it decides the results."""

    indecisive: ClassVar[frozenset[str]] = INDECISIVE | {
        *("ray", "generator_actors", "verifier_actors", "in_flight"),
        *("gpus_per_generator", "gpus_per_verifier", "cpus_per_generator", "cpus_per_verifier"),
    }

    #: Have Ray's actors do the work (first: make setup-ray): 'local' starts Ray on this machine,
    #: anything else is the address of a cluster's head, such as 10.0.0.1:6379, or 'auto' for the
    #: one that this machine is in. With --server auto the verifiers are actors too; another
    #: --server has to be reached from every node.
    ray: Annotated[str | None, tyro.conf.arg(metavar="local|ADDRESS")] = None
    #: Of --ray: how many generators there are; each takes groups of prompts.
    generator_actors: int = 1
    #: Of --ray with --server auto: how many hold the verifiers.
    verifier_actors: int = 1
    #: Of --ray: GPUs of a generator, or a part of one. Default: 1 where the cluster has GPUs.
    gpus_per_generator: Share = None
    #: Of --ray: GPUs of a verifier actor, or a part of one. Default: 1 where the cluster has more
    #: than its generators take, else 0.
    gpus_per_verifier: Share = None
    #: Of --ray: cores of a generator, whose threads they are. Default: 1 beside a GPU, else an
    #: equal share of all.
    cpus_per_generator: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    #: Of --ray: cores of a verifier actor; by default as for generators.
    cpus_per_verifier: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    #: Of --ray: groups that a generator has at once: while one's clips are scored it decodes the
    #: other. Each takes its own memory. Default: 2 where clips are scored elsewhere, else 1.
    in_flight: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None

    def check(self) -> None:
        super().check()
        self.check_least(generator_actors=1, verifier_actors=1)
        for name in ("in_flight", "cpus_per_generator", "cpus_per_verifier"):
            if getattr(self, name) is not None:
                self.check_least(**{name: 1})
        for name in ("gpus_per_generator", "gpus_per_verifier"):
            if getattr(self, name) is not None:
                self.check_least(**{name: 0})
        if self.ray is not None and self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {self.device}: with --ray each actor gets its own GPU")
