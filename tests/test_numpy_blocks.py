"""NumPy's kernels in each of the forms that a block can have; the suite's rows are too small to fill one."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from anysoft_backends import _numpy_blocks, _numpy_workers

import anysoft

# (outer, n, inner), reduced along n, more than a block of each
FORMS: dict[str, tuple[int, int, int]] = {
    "short rows": (30_000, 6, 1),
    "short rows, a few side by side": (9_000, 5, 4),
    "rows": (2_000, 100, 1),
    "rows, a few side by side": (400, 100, 5),
    "columns": (30, 50, 200),
    "wide columns": (1, 70, 9_000),
}
LONG: dict[str, tuple[int, int, int]] = {
    "longer rows": (300, 1_500, 1),
    "longer columns": (60, 600, 40),
    "a long row": (2, 300_001, 1),
    "long columns": (1, 40_003, 10),
    "long wide columns": (1, 501, 2_100),
}
FUNCTIONS = (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax)


def logits(shape: tuple[int, ...], dtype: Any = np.float64, kind: str = "any") -> Any:
    """Rows of either sign, some dominated by one entry, and rows of infinities and NaN between them.

    Or else "plain" ones, which need no shift, and between them a few that do.
    """
    rng = np.random.default_rng(20261125)
    x = rng.standard_normal(shape) * (5 if kind == "any" else 1)
    if kind == "plain":
        x[::31, :, ::31] -= 60
        x[::47, 0, ::47] += 30
        return np.ascontiguousarray(x, dtype=dtype)
    x += rng.choice([-300.0, -3.0, 0.0, 20.0], size=(shape[0], 1, shape[2]))
    x[:, 0] += rng.choice([0.0, 30.0], size=(shape[0], shape[2]))
    if shape[0] * shape[2] > 20:
        rows = np.moveaxis(x, 1, 2).reshape(-1, shape[1])  # a copy: x is filled from it below
        rows[5::97, 1] = np.nan
        rows[6::97, 2] = np.inf
        rows[7::97] = -np.inf
        x = np.moveaxis(rows.reshape(shape[0], shape[2], shape[1]), 2, 1)
    return np.ascontiguousarray(x, dtype=dtype)


@pytest.mark.parametrize("kind", ["any", "plain"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_in_blocks_are_as_rows_alone(form: str, kind: str) -> None:
    """A row of up to 128 entries alone is summed exactly, in Python's floats."""
    x = logits(FORMS[form], kind=kind)
    outer, _, inner = x.shape
    some = [(i, j) for i in range(0, outer, max(1, outer // 150)) for j in range(0, inner, max(1, inner // 150))]
    some = some[:: max(1, len(some) // 400)] + [(k // inner, k % inner) for k in (5, 6, 7)]
    for f in FUNCTIONS:
        got = f(x, axis=1)
        alone = [f(x[i, :, j].copy()) for i, j in some]
        of_block = [got[i, j] if f is anysoft.logsumexp else got[i, :, j] for i, j in some]
        np.testing.assert_allclose(of_block, alone, rtol=3e-15, atol=2e-14 if f is not anysoft.softmax else 0)


@pytest.mark.parametrize("kind", ["any", "plain"])
@pytest.mark.parametrize("form", [*FORMS, *LONG])
def test_float32_is_float64_rounded(form: str, kind: str) -> None:
    x = logits({**FORMS, **LONG}[form], np.float32, kind)
    wide = x.astype(np.float64)
    got, truth = anysoft.logsumexp(x, axis=1), anysoft.logsumexp(wide, axis=1)
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    weights = np.nan_to_num(anysoft.softmax(wide, axis=1))
    condition = np.sum(weights * np.abs(np.where(np.isfinite(wide), wide, 0)), axis=1)
    allowed = 4 * np.spacing(np.abs(truth[finite]).astype(np.float32)) + np.finfo(np.float32).eps * condition[finite]
    assert np.max(np.abs(got[finite] - truth[finite]) / allowed) <= 1
    np.testing.assert_allclose(anysoft.softmax(x, axis=1), anysoft.softmax(wide, axis=1), rtol=2e-5, atol=1e-44)
    np.testing.assert_allclose(anysoft.log_softmax(x, axis=1), anysoft.log_softmax(wide, axis=1), rtol=1e-6, atol=3e-5)


@pytest.mark.parametrize("shape", [(30_000, 10), (300, 600), (4_000, 64), (64, 4_000)])
def test_of_two_that_count_beside_many_that_do_not_no_digit_is_lost(shape: tuple[int, int]) -> None:
    """Near 0, where the sum of the many must not round once more with each of them."""
    rng = np.random.default_rng(7)
    x = np.full(shape, -30.0)
    x[:, 0], x[:, -1] = rng.uniform(-1, 0.5, (2, shape[0]))
    some = rng.integers(shape[0], size=150)
    for layout in (x, np.asfortranarray(x)):
        got = [(anysoft.logsumexp(layout, axis=1)[some], anysoft.log_softmax(layout, axis=1)[some, 0])]
        got += [([anysoft.logsumexp(x[i]) for i in some], [anysoft.log_softmax(x[i])[0] for i in some])]
        for row, value, first in (each for both in got for each in zip(x[some], *both, strict=True)):
            m = max(row)
            exact = m + math.log1p(math.fsum([*map(math.exp, row - m), -1.0]))
            weights = np.exp(row - exact)
            allowed = 4 * np.spacing(abs(exact)) + 2.3e-16 * float(np.sum(weights * np.abs(row)))
            assert abs(value - exact) <= allowed
            np.testing.assert_allclose(first, row[0] - exact, rtol=1e-15, atol=allowed)


@pytest.mark.parametrize("n", [31, 70, 40_000])
def test_an_entry_that_dominates_a_column_costs_the_others_nothing(n: int) -> None:
    x = np.full((n, 40), -37.0)  # each adds less than half an ulp of 1
    x[n // 2] = 0
    rest = (n - 1) * np.exp(-37.0)
    np.testing.assert_allclose(anysoft.logsumexp(x, axis=0), np.log1p(rest), rtol=1e-15)
    np.testing.assert_allclose(anysoft.log_softmax(x, axis=0)[n // 2], -np.log1p(rest), rtol=1e-15)
    np.testing.assert_allclose(anysoft.softmax(x, axis=0)[n // 2], 1 / (1 + rest), rtol=1.2e-16)


@pytest.mark.parametrize("layout", ["turned", "reversed", "every other", "broadcast", "read-only"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_layout(layout: str, axis: int) -> None:
    x = np.random.default_rng(1).standard_normal((40, 60, 80))
    x = {
        "turned": lambda: x.T,
        "reversed": lambda: x[::-1, ::-1, ::-1],
        "every other": lambda: x[::2, ::2, ::2],
        "broadcast": lambda: np.broadcast_to(x[:, :1], x.shape),
        "read-only": lambda: np.broadcast_to(x, x.shape),
    }[layout]()
    for f in FUNCTIONS:
        np.testing.assert_allclose(f(x, axis=axis), f(x.copy(order="C"), axis=axis), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(50_000_000,), (5_000_000, 10), (50_000, 1_000)])
def test_logsumexp_of_much_needs_little_memory(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    axis = None if len(shape) == 1 else 0
    tracemalloc.start()
    try:
        value = anysoft.logsumexp(x, axis=axis)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(value, np.log(shape[0]), rtol=1e-7)
    assert peak < 16e6  # 200 MB of input


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_comes_from_another_process_takes_the_kernel(dtype: Any) -> None:
    """An unpickled array has a dtype that equals NumPy's own and is not it."""
    x = logits((50, 20, 1), dtype)
    other = pickle.loads(pickle.dumps(x))
    assert other.dtype is not x.dtype
    assert anysoft.explain("softmax", other, 1).path == "numpy kernel"
    for f in FUNCTIONS:
        np.testing.assert_array_equal(f(other, axis=1), f(x, axis=1))


@pytest.mark.parametrize("form", [*FORMS, *LONG])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_workers_change_no_digit(form: str, dtype: Any) -> None:
    x = logits({**FORMS, **LONG}[form], dtype)
    alone = [f(x, axis=1) for f in FUNCTIONS]
    with anysoft.options(workers=3):
        shared = [f(x, axis=1) for f in FUNCTIONS]
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, other)


def test_workers_are_threads_without_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    share = _numpy_workers.share

    def watched(work: Any, items: Any, rooms: Any) -> Any:
        ready = threading.Barrier(len(rooms), timeout=20)

        def noted(item: Any, room: Any) -> Any:
            if threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                ready.wait()
            return work(item, room)

        return share(noted, items, rooms)

    monkeypatch.setattr(_numpy_blocks, "share", watched)
    x = np.full((8, 1 << 17), -800.0)  # underflows, of which NumPy would warn
    with anysoft.options(workers=2), np.errstate(all="raise"):
        np.testing.assert_allclose(anysoft.logsumexp(x, axis=1), np.log(x.shape[1]) - 800)
    assert len(seen) == 2


_FORK = """
import os, numpy, anysoft
x = numpy.zeros((8, 1 << 17))
with anysoft.options(workers=2):
    anysoft.logsumexp(x, axis=1)
    child = os.fork()
    anysoft.logsumexp(x, axis=1)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_starts_workers_of_its_own() -> None:
    """In a process that has no other threads: those of JAX do not survive it."""
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK], check=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )
