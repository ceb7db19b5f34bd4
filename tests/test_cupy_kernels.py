"""CuPy's kernels without a GPU: compiled by CUDA's own compiler for its devices, and run on the CPU, thread by thread.

What runs is the file that CuPy is given, laid out and launched by the adapter on NumPy's arrays; exp and log1p of a
float are as far from the truth as CUDA's documentation allows (tests/cuda_on_cpu.cpp).
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from anysoft_conformance.judgement import judge

import anysoft

pytest.importorskip("cupy", reason="cupy is not installed")
kernels: Any = importlib.import_module("anysoft_backends._cupy_kernels")

Array = Any
Call = Callable[..., Array]
SOURCE = Path(kernels.__file__).with_suffix(".cu")
DEVICES = ("sm_75", "sm_80", "sm_90")


class _Here:
    """A device that an array can be on."""

    id = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class _OnCpu(np.ndarray[Any, Any]):
    device: Any = _Here()


class _Kernel:
    """What CuPy makes of the source, launched as CuPy launches it."""

    def __init__(self, libraries: dict[str, Any], name: str, function: int, dtype: str, *team: int) -> None:
        self.launch = libraries[dtype].launch
        self.name = name
        self.shape = (function, *team)

    def __call__(self, grid: tuple[int, int], block: tuple[int], arguments: tuple[Any, ...], shared_mem: int) -> None:
        assert block == (kernels.BLOCK,)
        assert shared_mem <= 1 << 15
        values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
        held = [ctypes.c_longlong(value) for value in values]
        pointers = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        shape = (ctypes.c_int * 6)(*self.shape, *grid)
        assert self.launch(self.name.encode(), shape, pointers, len(held)) == 0


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The kernels as a host compiler builds them, by dtype."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++, which runs the kernels on the CPU, is not installed")
    built = {}
    for dtype, stored in kernels.STORED.items():
        target = tmp_path_factory.mktemp("kernels") / f"{stored}.so"
        given = [f"-DSTORED={stored}", f'-DKERNELS="{SOURCE}"', str(Path(__file__).with_name("cuda_on_cpu.cpp"))]
        options = ["-std=c++14", "-O2", "-fPIC", "-shared"]
        subprocess.run([compiler, *options, *given, "-o", str(target)], check=True)
        built[dtype] = ctypes.CDLL(str(target))
    return built


@pytest.fixture
def on_cpu(libraries: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(shape: Any, dtype: Any) -> Array:
        return np.full(shape, 255, np.uint8) if dtype == "uint8" else np.full(shape, np.nan, dtype)

    monkeypatch.setattr(kernels, "cupy", SimpleNamespace(empty=empty))
    monkeypatch.setattr(kernels, "_processors", lambda device: 16)
    monkeypatch.setattr(kernels, "_kernel", lambda *kind: _Kernel(libraries, *kind))


def _call(function: str) -> Call:
    """The kernel, where its guard lets a call to it."""

    def call(x: Array, axis: Any = None, *, keepdims: bool = False, dtype: Any = None) -> Array:
        x = np.asarray(x).view(_OnCpu)
        reduction = function == "logsumexp"
        guard = kernels.why_no_logsumexp if reduction else kernels.why_no_normalisation
        arguments = (x, axis, None, None, dtype, *((keepdims, False) if reduction else ()))
        if (reason := guard(*arguments)) is not True:
            raise LookupError(reason)
        return getattr(kernels, function)(*arguments)

    return call


@pytest.mark.parametrize("function", kernels.FUNCTIONS)
@pytest.mark.usefixtures("on_cpu")
def test_the_kernels_keep_the_contract(function: str) -> None:
    # softmax and log_softmax of float64 come from the same state, and the layouts below have them
    dtypes = ("float32", "float16") if function != "logsumexp" else ("float64", "float32", "float16")
    judgement = judge(function, _call(function), dtypes=dtypes)
    assert judgement, str(judgement)
    kept = {(verdict.case, verdict.dtype) for verdict in judgement.verdicts if verdict.outcome == "kept"}
    assert {(case, dtype) for case in ("moderate", "infinite") for dtype in dtypes} <= kept


@pytest.mark.usefixtures("on_cpu")
def test_a_maximum_with_almost_no_mass() -> None:
    """Subtracted from logits near 0 it would cost more roundings than the contract allows."""
    x = np.random.default_rng(2).uniform(0.25, 0.5, 1 << 18).astype(np.float32)
    x[-1] = 10
    wide = x.astype(np.float64)
    p = np.exp(wide) / np.exp(wide).sum()
    condition = p * (np.abs(wide) * (1 - 2 * p) + p @ np.abs(wide))
    allowed = 4 * np.spacing(p.astype(np.float32)) + np.finfo(np.float32).eps * condition
    assert (np.abs(_call("softmax")(x) - p) <= allowed).all()


@pytest.mark.usefixtures("on_cpu")
def test_many_small_terms_beside_two_large_ones() -> None:
    """One large term is kept apart; to the other, in one word, none of the small ones could be added."""
    x = np.broadcast_to(np.linspace(-20, -17, 64, dtype=np.float32), (20_000, 64)).copy()
    x[:2] = 0
    truth = np.log(2 + (len(x) - 2) * np.exp(x[2].astype(np.float64)))
    assert np.abs(_call("logsumexp")(x, 0) - truth).max() <= 4 * np.spacing(np.float32(0.7))


@pytest.mark.parametrize("n", [3, 300, 70_000])
@pytest.mark.usefixtures("on_cpu")
def test_special_values_wherever_they_are(n: int) -> None:
    x = np.random.default_rng(4).normal(size=(7, n)).astype(np.float32)
    x[0] = -np.inf
    x[1, ::2] = np.inf
    x[2, -1] = np.nan
    x[3, [0, -1]], x[3, n // 2] = np.inf, np.nan
    x[4, :-1], x[4, -1] = -np.inf, np.nan
    x[5, :-1] = -np.inf
    x[6] = largest = np.finfo(np.float32).max
    expected = [-np.inf, np.inf, np.nan, np.nan, np.nan, x[5, -1], largest]
    np.testing.assert_array_equal(_call("logsumexp")(x, -1), expected)
    np.testing.assert_array_equal(_call("logsumexp")(x.T.copy(), 0), expected)
    p, logs = _call("softmax")(x, -1), _call("log_softmax")(x, -1)
    assert np.isnan([p[:5], logs[:5]]).all()
    np.testing.assert_array_equal(p[5], x[5] > -np.inf)
    np.testing.assert_array_equal(logs[5], np.where(x[5] > -np.inf, 0, -np.inf))
    np.testing.assert_allclose(p[6], 1 / n, rtol=1e-6)


def _layouts() -> dict[str, Array]:
    x = np.random.default_rng(2).normal(size=(3, 40, 5, 7))
    return {
        "C": x,
        "F": np.asfortranarray(x),
        "permuted": x.transpose(2, 0, 3, 1),
        "reversed": x[:, ::-1, :, ::-1],
        "sliced": x[:2, ::3, :4, 1:],
        "one": x[:, :1, :, :1],
        "broadcast": np.broadcast_to(x[:, :, None, 0], (3, 40, 2, 7)),
    }


@pytest.mark.parametrize("layout", _layouts())
@pytest.mark.usefixtures("on_cpu")
def test_any_axis_of_any_layout(layout: str) -> None:
    x = _layouts()[layout]
    for function, axis in itertools.product(kernels.FUNCTIONS, (0, 1, -2, -1, (2, 3))):
        try:
            found = _call(function)(x, axis)
        except LookupError:
            assert layout != "C"  # not all are rows; but the usual are
            continue
        np.testing.assert_allclose(found, getattr(anysoft, function)(x, axis), rtol=1e-13, atol=1e-15)


@pytest.mark.usefixtures("on_cpu")
def test_bfloat16_is_rounded_to_the_nearest() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed").bfloat16
    x = np.random.default_rng(5).normal(size=(20, 300)).astype(bfloat16)
    for function in kernels.FUNCTIONS:
        found = _call(function)(x, -1)
        assert found.dtype == bfloat16
        truth = getattr(anysoft, function)(x.astype(np.float64), -1)
        np.testing.assert_allclose(found.astype(np.float64), truth, rtol=1.001 * 2.0**-8)


@pytest.mark.parametrize("dtype", kernels.STORED)
def test_states_merge_in_any_order(libraries: dict[str, Any], dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    rng = np.random.default_rng(3)
    work = np.float64 if dtype == "float64" else np.float32
    for spread, n in itertools.product((0.1, 5.0, 100.0), (1, 2, 50)):
        x = (spread * rng.normal(size=n)).astype(dtype)
        left, pairs = list(range(n)), []
        while len(left) > 1:
            pair = rng.choice(len(left), 2, replace=False)
            pairs.append([left[i] for i in pair])
            left.remove(pairs[-1][1])
        order, found = np.array(pairs, np.int32), np.zeros(2, work)
        entries, pairs_at, found_at = (ctypes.c_void_p(a.ctypes.data) for a in (x, order, found))
        libraries[dtype].merge_in_order(entries, n, pairs_at, found_at)
        wide = x.astype(np.float64)
        weights = np.exp(wide - wide.max())
        truth = wide.max() + math.log1p(math.fsum(np.sort(weights)[:-1]))
        assert found[0] == wide.max()
        condition = np.abs(wide) @ weights / weights.sum()
        allowed = 4 * np.spacing(work(abs(truth))) + np.finfo(work).eps * condition
        assert abs(float(found[0]) + math.log1p(found[1]) - truth) <= allowed


@pytest.mark.parametrize("dtype", kernels.STORED)
@pytest.mark.parametrize("device", DEVICES)
def test_cuda_compiles_the_kernels(device: str, dtype: str) -> None:
    nvrtc: Any = importlib.import_module("cupy.cuda").nvrtc
    try:
        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC, CUDA's compiler, is not installed: {error}")
    function = DEVICES.index(device)
    team = ((256, 1, 1), (8, 32, 0), (1, 1, 1))[function]
    kernel = kernels._kernel.__wrapped__("whole_rows", function, dtype, *team)
    program = nvrtc.createProgram(kernel.code, "kernels.cu", (), ())
    nvrtc.compileProgram(program, (*kernel.options, "-ftz=true", "--std=c++14", f"--gpu-architecture={device}"))
    code = nvrtc.getCUBIN(program)
    nvrtc.destroyProgram(program)
    assert all(name in code for name in (b"whole_rows", b"stretches_of_rows", b"rows_of_stretches"))


def test_the_guards_say_what_the_kernels_have_not() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    plain = (None, None, None, False)
    assert kernels.why_no_logsumexp(x, -1, *plain, False) is True
    assert kernels.why_no_logsumexp(x, None, *plain, False) is True
    assert kernels.why_no_normalisation(x.transpose(1, 2, 0), 0, None, None, None) is True
    refused = {
        "where": kernels.why_no_normalisation(x, -1, x > 0, None, None),
        "temperature": kernels.why_no_normalisation(x, -1, None, 2.0, None),
        "return_sign": kernels.why_no_logsumexp(x, -1, *plain, True),
        " b ": kernels.why_no_logsumexp(x, -1, None, x, None, False, False),
        "dtype": kernels.why_no_normalisation(x, -1, None, None, "float64"),
        "complex64": kernels.why_no_logsumexp(x.astype(np.complex64), -1, *plain, False),
        "int64": kernels.why_no_logsumexp(x.astype(np.int64), -1, *plain, False),
        "one axis": kernels.why_no_logsumexp(x[0, 0, 0], None, *plain, False),
        "one element": kernels.why_no_logsumexp(x[:0], -1, *plain, False),
        "one in memory": kernels.why_no_normalisation(x, (0, 2), None, None, None),
    }
    for word, reason in refused.items():
        assert isinstance(reason, str)
        assert word in reason
    for axis in (3, (0, 0), (), "all"):
        assert kernels.why_no_normalisation(x, axis, None, None, None) is not True
