"""A Ray cluster of two nodes on this machine, for all tests of this folder.

    def test_x(cluster: Cluster) -> None:
        node = cluster.add_node(**NODE)                  # a third
        cluster.remove_node(node, allow_graceful=False)  # its processes are killed

The driver that is connected to it is pytest's process; one in another process takes
`cluster.address`. CPUs are Ray's count of places, whatever the machine has. Without Ray every test
is skipped.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# One thread each, here and in actors: sums are then rounded alike.
os.environ["OMP_NUM_THREADS"] = "1"

NODE: dict[str, Any] = {"num_cpus": 4, "object_store_memory": 80 * 2**20}
CONFIG = {
    # No process is started before there is work for it, and a node that is gone is soon missed.
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


class WithoutRay(pytest.Module):
    """In place of a file of tests."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("Ray is not installed: make setup-ray", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    return None if find_spec("ray") else WithoutRay.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Cluster]":
    from src.cluster import require_ray

    require_ray()
    import ray
    from ray.cluster_utils import Cluster

    head = {**NODE, "include_dashboard": False, "_system_config": CONFIG}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(**NODE)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="WARNING")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
