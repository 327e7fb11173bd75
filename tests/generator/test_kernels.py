"""The decoder's kernels compile, to the last step, with the Triton of this environment.

That is 2.1, which has no interpreter; what they compute is tested in tests/verifier.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

if " " in __file__:
    pytest.skip("Triton 2.1 splits its assembler's path at spaces", allow_module_level=True)

from triton.compiler import compiler

from src.decoding import triton_kernels

BITS = {"fp32": 32, "bf16": 16, "fp16": 16}
POINTERS = ("x", "y", "weight", "bias", "result", "queries", "keys", "values", "log_sums", "parts")


@pytest.fixture
def assembly(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[..., dict[str, Any]]:
    """PTX and machine code for a GPU of capability 9.0, which need not be there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "make_stub", lambda *of: "")
    monkeypatch.setattr(compiler, "CompiledKernel", lambda fn, stub, metadata, asm: asm)

    def compiled(kernel, types: dict[str, str], **constants: int) -> dict[str, Any]:
        names = list(inspect.signature(kernel.fn).parameters)
        default = {name: "*fp32" if name in POINTERS else "i32" for name in names}
        types = default | {"eps": "fp32", "scale": "fp32"} | types
        signature = {i: types[name] for i, name in enumerate(names) if name not in constants}
        by_index = {names.index(name): value for name, value in constants.items()}
        stages = 3 if "TILE" in constants else 2
        return compiler.compile(
            kernel, signature=signature, constants=by_index, cc=90, num_stages=stages
        )

    return compiled


@pytest.mark.parametrize("dtype", BITS)
def test_kernels_compile_and_products_are_as_exact_as_their_dtype(assembly, dtype: str) -> None:
    pointer = f"*{dtype}"
    found = assembly(triton_kernels.add_norm, {"y": pointer, "result": pointer}, BLOCK=1024)
    assert found["cubin"]
    given = dict.fromkeys(("queries", "keys", "values", "bias"), pointer)
    for tile in (1, 16):
        constants = {"DIM": 64, "TILE": tile, "BLOCK": 1024 // BITS[dtype], "BIASED": tile > 1}
        found = assembly(triton_kernels.attend, given, **constants, WHOLE=False)
        assert found["cubin"]
        assert "tf32" not in found["ptx"]
        assert ("mma" in found["ptx"]) == (tile > 1 and dtype != "fp32")
    assert assembly(triton_kernels.join, {"result": pointer}, DIM=64, PARTS=8)["cubin"]
