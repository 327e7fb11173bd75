"""`perf/gpu.py`, without a GPU: its stub is audiocraft's model, and it finds what is wrong.

With CUDA's calls replaced by made-up ones, the branches for a GPU run too, on a CPU and in small.
"""

import dataclasses
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from perf import gpu
from perf.gpu_check import convolutions, models, report, right, speed, waits
from perf.gpu_check.models import Agreement, Outcome, make_decoder, sources
from perf.gpu_check.report import Check
from perf.gpu_check.scale import DRY
from perf.stub_lm import Shape, StubLM, create_sin_embedding, stand_in_for_audiocraft
from src.decoding import decoder, past
from src.decoding.sampling import NoiseKey, uniforms
from tests.generator.random_models import random_lm

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MEMORY = 8_000_000  # bytes of the made-up GPU


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """A dry run."""
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
    monkeypatch.setattr(models, "HAS_GRAPHS", False)
    check.on_gpu = True
    return check


def wrong(check: Check) -> list[str]:
    return [line["what"] for line in check.lines if line["result"] == "FAIL"]


def test_the_stubs_sines_are_audiocrafts_bit_by_bit() -> None:
    assert not stand_in_for_audiocraft()
    from audiocraft.modules import transformer

    positions = torch.arange(1500)[None, :, None]
    for dim, period in ((32, 10000), (1024, 10000), (64, 500)):
        expected = transformer.create_sin_embedding(positions, dim, max_period=period)
        assert torch.equal(create_sin_embedding(positions, dim, max_period=period), expected)


def test_a_decoder_on_the_stub_decodes_as_one_on_audiocrafts_model() -> None:
    lm = random_lm(dim=32, layers=3, heads=4, card=50)
    weights = lm.state_dict()
    stub = StubLM(Shape(layers=3, dim=32, heads=4, card=50)).eval().requires_grad_(False)
    stub.load_state_dict({k: w for k, w in weights.items() if not k.startswith("condition")})
    outcomes = []
    for model in (lm, stub):
        decoding = make_decoder(model).begin(sources(32, 9, 5), 3, 20, ["a", "b"], seed=1)
        decoding.advance(8)
        decoding.select([0, 0, 2, 4, 4, 3])
        decoding.advance(12)
        outcomes.append(Outcome.of(decoding))
    assert torch.equal(outcomes[0].tokens, outcomes[1].tokens)
    assert torch.equal(outcomes[0].log_probs, outcomes[1].log_probs)


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
    monkeypatch.setattr(models, "HAS_GRAPHS", True)

    def eager(lm, sampling, dtype=torch.float32, max_rows=64, graphs=False) -> decoder.Decoder:
        return decoder.Decoder(lm, sampling, dtype, max_rows)

    monkeypatch.setattr(right, "make_decoder", eager)
    gpu.run(on_gpu, ["right"])
    assert wrong(on_gpu) == ["float32, graphs, replayed", "bfloat16, graphs, replayed"]


@pytest.mark.skipif(not models.HAS_GRAPHS, reason="a decoder without CUDA graphs")
def test_every_section_gets_through_its_branches_for_graphs(
    on_gpu: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces, replayed, stand in for graphs."""

    def capture(step: Callable[[], None], at: Tensor, pool: object) -> Callable[[], None]:
        traced = make_fx(lambda _: step())(at)
        at.sub_(1)

        def replay() -> None:
            torch.cuda.CUDAGraph.replay(None)  # to be counted
            traced(at)

        return replay

    monkeypatch.setattr("src.decoding.graphs.capture", capture)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: None)
    monkeypatch.setattr(models, "HAS_GRAPHS", True)
    monkeypatch.setattr(right, "half_dtypes", lambda device: [])  # traces take their time
    gpu.run(on_gpu, ["right", "waits", "speed", "memory"])
    assert wrong(on_gpu) == []
    found = {line["what"]: line["result"] for line in on_gpu.lines}
    assert found["float32, graphs, replayed"] == found["graphs: out of memory"] == "pass"
    assert {"graphs: advance, after a prune", "tiny, 8 candidates at 20, graphs"} <= found.keys()


def by_place(keys: Sequence[NoiseKey], steps: int, codebooks: int, device: torch.device) -> Tensor:
    """Noise that belongs to a place in the batch."""
    keys = [NoiseKey(0, "", place) for place in range(len(keys))]
    return uniforms(keys, steps, codebooks, device)


rewind = past.Past.rewind


def too_far(self: past.Past, position: int) -> None:
    """A rewind that forgets one position more."""
    rewind(self, position - 1)


@pytest.mark.parametrize(
    ("where", "name", "mistake", "found"),
    [
        (past.Past, "rewind", too_far, "rolled out and rewound"),
        (decoder, "_reorder", lambda tensors, rows: None, "branched: parents' frames"),
        (decoder, "uniforms", by_place, "prompts in another order"),
        (decoder, "uniforms", by_place, "in parts of other sizes"),
    ],
)
def test_mistakes_of_a_decoder_are_found(
    check: Check, monkeypatch: pytest.MonkeyPatch, where, name: str, mistake, found: str
) -> None:
    monkeypatch.setattr(where, name, mistake)
    right.Scenario(check).of_dtype(torch.float32)
    assert f"float32, {found}" in wrong(check)


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


def test_a_convolution_with_ten_bits_is_found(check: Check) -> None:
    calls = []

    def run(dtype: torch.dtype, device: torch.device) -> Tensor:
        calls.append(dtype)
        x = torch.linspace(1, 2, 1001)
        if len(calls) == 3:  # after float64 and float32 on the CPU: here
            x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)  # 10 bits, as TF32 has
        return (x.to(dtype) * 0.97).cumsum(0)

    convolutions.compare(check, "rounded", run)
    assert wrong(check) == ["rounded"]


def test_a_flip_is_rounding_only_while_its_row_was_the_same_before() -> None:
    seeded = torch.Generator().manual_seed(0)
    one = Outcome(torch.randint(50, (4, 4, 30), generator=seeded), torch.zeros(4, 4, 30))
    flipped = one.tokens.clone()
    flipped[1, 2, 10:] += 1
    flipped[1, :, 13:] += 1
    after = one.log_probs.clone()
    after[1, :, 13:] = 9.0  # another history
    found = Agreement.of(one, Outcome(flipped, after))
    assert (found.rows_flipped, found.first_frame, found.log_prob_error) == (1, 10, 0)
    assert found.flip_rate < 0.01
    moved = one.log_probs.clone()
    moved[3, 0, 2] = 0.5
    assert Agreement.of(one, Outcome(flipped, moved)).log_prob_error == 0.5
    assert Agreement.of(one, Outcome(one.tokens + 1, after)).flip_rate > 1
    assert Agreement.of(one, Outcome(one.tokens, after * torch.nan)).log_prob_error != 0


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


def test_the_floor_reads_every_weight_that_a_step_needs_once() -> None:
    shape = Shape(layers=3, dim=64, heads=2, card=100)
    needed = {
        name: weight.numel()
        for name, weight in StubLM(shape).named_parameters()
        if weight.dim() > 1 and not name.startswith("emb")
    }
    # the text's keys and values are made before, of two thirds of its projection
    for layer in range(3):
        needed[f"transformer.layers.{layer}.cross_attention.in_proj_weight"] -= 2 * 64 * 64
    output = sum(size for name, size in needed.items() if name.startswith("linears"))
    layers = sum(needed.values()) - output
    kept = make_decoder(StubLM(shape).eval().requires_grad_(False)).begin(
        sources(64, 5), 4, 20, ["a"], seed=1
    )
    kept.mark()
    kept.advance(17)  # and three that are in flight
    expected = 2 * layers + 4 * output + kept.nbytes // 2
    roof = speed.Roofline(bandwidth=1, rate=float("inf"))
    assert roof.floor(shape, itemsize=2, candidates=4, past=20, pasts=4) == expected


def test_the_floor_counts_the_products_that_a_step_makes() -> None:
    shape, candidates, past_length, text_length = Shape(3, 64, 2, 100), 4, 20, 40
    eager = make_decoder(StubLM(shape).eval().requires_grad_(False))
    eager.transformer.packable = False  # torch does not count MKL's own products
    begun = eager.begin(sources(64, text_length), candidates, past_length + 1, ["a"], seed=1)
    begun.advance(past_length - 3)  # the next step takes position 20, and attends to 21
    with FlopCounterMode(display=False) as counter:
        begun.advance(1)
    of_text = candidates * 2 * 64 * shape.layers * text_length
    roof = speed.Roofline(bandwidth=float("inf"), rate=1)
    floor = roof.floor(shape, itemsize=4, candidates=candidates, past=21, pasts=candidates)
    assert floor + 2 * of_text == counter.get_total_flops()
