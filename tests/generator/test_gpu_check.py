"""`perf/gpu.py` on a CPU: its dry run, and on a made-up GPU.

With CUDA's calls replaced by made-up ones the branches for a GPU run too, in small.
"""

import dataclasses
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from perf import gpu
from perf.gpu_check import convolutions, report, right, waits
from perf.gpu_check.report import Check
from perf.gpu_check.scale import DRY
from perf.stub_lm import stand_in_for_audiocraft
from src.decoding import decoder, past

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MEMORY = 8_000_000  # bytes of the made-up GPU


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """A dry run."""
    assert not stand_in_for_audiocraft()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return Check(CPU, 300.0, DRY, stub=False)


@pytest.fixture
def on_gpu(check: Check, monkeypatch: pytest.MonkeyPatch) -> Check:
    """A dry run on a made-up GPU, whose memory ends."""
    made_up = {
        "mem_get_info": lambda: (MEMORY // 2, MEMORY),
        "get_device_properties": lambda device: SimpleNamespace(
            name="made up", major=9, minor=0, multi_processor_count=1
        ),
        **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), lambda: 0),
        **dict.fromkeys(("empty_cache", "reset_peak_memory_stats", "synchronize"), lambda: None),
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, call in made_up.items():
        monkeypatch.setattr(torch.cuda, name, call)
    empty = past.empty

    def limited(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if torch.Size(shape).numel() * dtype.itemsize > MEMORY // 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return empty(shape, dtype, device)

    monkeypatch.setattr(past, "empty", limited)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: None)
    monkeypatch.setattr("src.decoding.graphs.capture", counted)
    check.on_gpu = True
    return check


def counted(step: Callable[[], None], at: Tensor, pool: object) -> Callable[[], None]:
    """In place of a captured step the step itself, which counts as a graph's replay."""

    def replay() -> None:
        torch.cuda.CUDAGraph.replay(None)
        step()

    return replay


def wrong(check: Check) -> list[str]:
    return [line["what"] for line in check.lines if line["result"] == "FAIL"]


TORCH_ALONE = """
    import runpy, sys

    torch_needs = {"torch", "torchgen", "functorch", "numpy", "typing_extensions", "sympy",
                   "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec"}
    known = torch_needs | set(sys.stdlib_module_names) | {"src", "perf"}

    class NothingElse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] not in known:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, NothingElse())
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_dry_run_needs_nothing_but_torch_and_finds_nothing_wrong(tmp_path: Path) -> None:
    command = ["perf/gpu.py", "--device", "cpu", "--seconds", "100", "--output", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TORCH_ALONE), *command],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in ended.stdout.splitlines()[: len(lines)]] == lines
    assert list(dict.fromkeys(line["section"] for line in lines)) == list(gpu.SECTIONS)
    assert lines[0]["stub_for_audiocraft"]
    assert {"pass", "skipped", ""} == {line["result"] for line in lines}
    skipped = {line["what"]: line["why"] for line in lines if line["result"] == "skipped"}
    assert skipped["eager: out of memory"] == "needs a GPU"
    assert skipped["the built-in model"] == skipped["built-in codec"] == "needs safetensors"
    assert skipped["tagger tags"].startswith("needs ")
    tables = (tmp_path / "gpu.md").read_text()
    assert "| float32, rolled out and rewound | pass | 1.0 | 0 of 8 |  |" in tables
    assert tables.strip() in ended.stdout


def test_without_a_gpu_the_check_says_how_to_run_it_all_the_same() -> None:
    command = [sys.executable, "perf/gpu.py", "--device", "cuda:9"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "or take --device cpu" in ended.stderr


def test_what_has_all_its_packages_is_right_on_a_cpu(check: Check) -> None:
    gpu.run(check, ["convolutions", "precision"])
    assert {line["result"] for line in check.lines} == {"pass"}
    assert len(check.lines) == len(convolutions.MEASURING) + 2


def test_every_section_gets_through_its_branches_for_a_gpu(on_gpu: Check) -> None:
    gpu.run(on_gpu, [name for name in gpu.SECTIONS if name != "precision"])
    assert wrong(on_gpu) == []
    by_name = {line["what"]: line for line in on_gpu.lines}
    assert "lower --max_rows" in by_name["eager: out of memory"]["message"]
    assert by_name["eager: decodes afterwards"]["result"] == "pass"
    assert by_name["tiny, 8 candidates at 10, eager, 4 families"]["times_floor"] > 1


def test_models_and_cells_that_do_not_fit_are_skipped_with_what_they_need(on_gpu: Check) -> None:
    cells = ((1, 10), (64, 1500))
    large = dataclasses.replace(DRY.models["tiny"], dim=1024)
    on_gpu.scale = dataclasses.replace(DRY, cells=cells, models={**DRY.models, "large": large})
    gpu.run(on_gpu, ["speed"])
    skipped = [line for line in on_gpu.lines if "need" in line.get("why", "")]
    assert [line["what"] for line in skipped] == ["tiny, 64 candidates at 1500", "large"]
    assert wrong(on_gpu) == []


def test_a_decoder_that_captures_graphs_and_replays_none_is_found(
    on_gpu: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eager(lm, sampling, dtype=torch.float32, max_rows=64, graphs=False) -> decoder.Decoder:
        return decoder.Decoder(lm, sampling, dtype, max_rows)

    monkeypatch.setattr(right, "make_decoder", eager)
    gpu.run(on_gpu, ["right"])
    assert wrong(on_gpu) == ["float32, graphs, replayed", "bfloat16, graphs, replayed"]


def test_every_section_gets_through_its_branches_for_graphs(
    on_gpu: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces, replayed, stand in for graphs."""

    def capture(step: Callable[[], None], at: Tensor, pool: object) -> Callable[[], None]:
        traced = make_fx(lambda _: step())(at)
        at.sub_(1)
        return counted(lambda: traced(at), at, pool)

    monkeypatch.setattr("src.decoding.graphs.capture", capture)
    monkeypatch.setattr(right, "half_dtypes", lambda device: [])  # traces take their time
    gpu.run(on_gpu, ["right", "waits", "speed", "memory"])
    assert wrong(on_gpu) == []
    found = {line["what"]: line["result"] for line in on_gpu.lines}
    assert found["float32, graphs, replayed"] == found["graphs: out of memory"] == "pass"
    assert {"graphs: advance, after a prune", "tiny, 8 candidates at 20, graphs"} <= found.keys()


def test_a_call_that_waits_is_found(on_gpu: Check) -> None:
    with waits.counted(on_gpu, "advance", must_not=True):
        raise RuntimeError("called a synchronizing CUDA operation")
    with waits.counted(on_gpu, "tokens", must_not=True):
        pass
    assert wrong(on_gpu) == ["advance"]
    with (
        pytest.raises(RuntimeError, match="another"),
        waits.counted(on_gpu, "rewind", must_not=True),
    ):
        raise RuntimeError("another error")


def test_an_error_or_a_hang_in_one_section_does_not_stop_the_next(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(check: Check) -> None:
        raise RuntimeError("a broken section")

    monkeypatch.setitem(gpu.SECTIONS, "right", gpu.Section(breaks, 0))
    monkeypatch.setitem(gpu.SECTIONS, "waits", gpu.Section(lambda check: time.sleep(60), 0))
    monkeypatch.setattr(report, "GRACE", 0.1)
    check.ends = time.monotonic()
    gpu.run(check, ["environment", "right", "waits", "speed"])
    assert check.failed == 2
    errors = [line["error"] for line in check.lines if line["what"] == "section"]
    assert errors[0] == "RuntimeError: a broken section"
    assert errors[1].startswith("TimeoutError: stopped")
    late = [line for line in check.lines if line["section"] == "speed"][-1]
    assert (late["what"], late["result"]) == ("tiny", "skipped")
    assert "0 s left" in late["why"]
