"""The flags of the scripts whose work can be spread over several machines.

latency_experiment.py is none of them: what it measures is seconds.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from src.runs.settings import INDECISIVE, Settings, UsageError
from src.runs.shards import Shard

Share = Annotated[
    float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: by cluster)")
]


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Settings):
    """Who does which part of the work. None of it decides the results."""

    indecisive: ClassVar[frozenset[str]] = INDECISIVE | {
        *("shard", "ray", "generator_actors", "verifier_actors", "in_flight"),
        *("gpus_per_generator", "gpus_per_verifier", "cpus_per_generator", "cpus_per_verifier"),
    }

    #: I/N: do only the I-th of N parts of the run, in a folder of its own inside the run's, on as
    #: many machines as there are; python -m src.runs.merge joins them. On a GPU it needs a number
    #: for --max_rows.
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    #: Have Ray's actors do the work (first: make setup-ray): 'local' starts Ray on this machine,
    #: anything else is the address of a cluster's head, such as 10.0.0.1:6379, or 'auto' for the
    #: one that this machine is in. With --server auto the verifiers are actors too; other
    #: servers have to be reached from every node.
    ray: Annotated[str | None, tyro.conf.arg(metavar="local|ADDRESS")] = None
    #: Of --ray: how many generators there are; each takes groups of prompts. Default: as many as
    #: the cluster has GPUs for, beside one for each verifier actor where there are two or more; 1
    #: without GPUs.
    generator_actors: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: by cluster)")
    ] = None
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

    @property
    def part(self) -> Shard | None:
        """Raises UsageError for what is none."""
        try:
            return None if self.shard is None else Shard.parse(self.shard)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def check(self) -> None:
        super().check()
        if self.part and self.ray:
            raise UsageError("--shard is for machines without --ray, which shares out a whole run")
        self.check_least(verifier_actors=1)
        for name in ("generator_actors", "in_flight", "cpus_per_generator", "cpus_per_verifier"):
            if getattr(self, name) is not None:
                self.check_least(**{name: 1})
        for name in ("gpus_per_generator", "gpus_per_verifier"):
            if getattr(self, name) is not None:
                self.check_least(**{name: 0})
        if self.ray is not None and self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {self.device}: with --ray each actor gets its own GPU")
