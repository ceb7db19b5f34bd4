"""Triton's kernels without a GPU: interpreted on the CPU, and compiled for GPUs that are not here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anysoft

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (it is for Linux)"
)


@needs_triton
def test_interpreted() -> None:
    """In another process, because Triton decides when it is imported whether it compiles or interprets."""
    program = Path(__file__).with_name("triton_interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]


class Absent:
    """What Triton asks of a driver before it launches anything: a device that is not here."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> Any:
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The PTX of all kernels that a call launches on a GPU like an H100, by their names."""
    from anysoft_backends import _torch_triton as ours

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ours, "_processors", lambda device: 132)
    driver = importlib.import_module("triton.runtime").driver

    def compiled(function: str, dtype: str, shape: tuple[int, ...], architecture: int = 90) -> dict[str, str]:
        found = {}

        def compile_only(plan: Any, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
            made = kernel.warmup(*arguments, **options, grid=(programs,), num_warps=plan.warps)
            found[kernel.__name__] = made.asm["ptx"]

        monkeypatch.setattr(ours.Plan, "launch", compile_only)
        monkeypatch.setattr(driver, "_active", Absent(architecture))
        differentiable = function.startswith("differentiable")
        x = torch.empty(shape, dtype=getattr(torch, dtype), device="meta", requires_grad=differentiable)
        value = getattr(ours, function)(x, -1)
        if differentiable:
            torch.autograd.grad(value.sum(), x)
        return found

    return compiled


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "architecture"), [("float16", 80), ("bfloat16", 90), ("float32", 80), ("float32", 90), ("float64", 90)]
)
def test_the_input_is_read_once(dtype: str, architecture: int, compiled: Callable[..., dict[str, str]]) -> None:
    (ptx,) = compiled("logsumexp", dtype, (8192, 8192), architecture).values()
    reads = re.findall(r"ld\.global\.v(\d)\.b(\d+)", ptx)
    assert len(reads) == ptx.count("ld.global")  # each of several numbers
    width = sum(int(many) * int(bits) // 8 for many, bits in reads)
    assert width * 128 == 8 * (256 if dtype == "float64" else 512) * getattr(torch, dtype).itemsize  # in each step
    assert ".local" not in ptx  # no registers are spilled before ptxas


@needs_triton
def test_every_kernel_compiles(compiled: Callable[..., dict[str, str]]) -> None:
    found = compiled("softmax", "float32", (1, 10**7)) | compiled("differentiable_log_softmax", "float32", (1000, 300))
    assert set(found) == {"reduce_rows", "merge_parts", "write_rows", "normalise_rows"}
    assert all("st.global" in ptx for ptx in found.values())
    assert "write_rows" in compiled("differentiable_logsumexp", "float64", (3, 7))
    assert "reduce_rows" in compiled("logsumexp", "bfloat16", (2, 2**31 + 8))  # places that are 64-bit numbers


@needs_triton
@pytest.mark.parametrize(
    ("shape", "axis", "parts", "tile"),
    [
        ((10,), 0, 1, 1),
        ((8192, 8192), -1, 1, 1),
        ((10**6, 10), -1, 1, 256),
        ((10**6, 10), 0, 489, 16),
        ((1, 10**7), -1, 489, 1),
        ((64, 128, 256), 1, 1, 64),
    ],
)
def test_rows_are_shared_among_programs(shape: tuple[int, ...], axis: int, parts: int, tile: int) -> None:
    from anysoft_backends import _torch_triton as ours

    rows = ours.rows_of(axis, torch.empty(shape, device="meta"))
    assert rows is not None
    plan = ours.plan(rows, 4, 132)
    assert (plan.parts, plan.tile) == (parts, tile)
    assert plan.columns * plan.parts >= rows.columns > plan.columns * (plan.parts - 1)
    assert plan.tile * plan.tiles >= rows.rows > plan.tile * (plan.tiles - 1)
    assert plan.tile * plan.lanes <= 512


def test_the_table_says_why_the_kernels_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from anysoft_backends import _torch_guards as guards

    for name in ("logsumexp", "softmax", "log_softmax"):
        reasons = anysoft.explain(name, torch.zeros(3, 100, device="meta"), axis=-1).reasons
        assert reasons["Triton kernel"] == "Triton's kernels are for CUDA, and this tensor is on meta"
    guards._triton_works.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert guards._triton_works(torch.device("cuda:7")) == "triton is not installed"
    guards._triton_works.cache_clear()
    reason = guards._triton_works(torch.device("cuda:7"))
    assert isinstance(reason, str)
    assert reason.startswith("Triton") or reason == "triton is not installed"
    guards._triton_works.cache_clear()
