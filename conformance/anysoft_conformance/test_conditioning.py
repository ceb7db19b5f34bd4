"""The bound bounds, and is the suite's own; the condition numbers say what happens to a moved input."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import mpmath
import numpy as np
import pytest

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.oracle import FORMATS, FUNCTIONS, FloatArray, Truth
from anysoft_conformance.rows import Row, rows

COUNT, LENGTH = 500, 8


@functools.cache
def drawn(dtype: str, temperature: float) -> tuple[FloatArray, dict[Any, Truth]]:
    """Rows of every kind that logits are: of several spreads and sizes, dominated, normalised, tied, partly absent."""
    rng = np.random.default_rng(7)
    spread = 10.0 ** rng.uniform(-3, 1.3, (COUNT, 1))
    x = rng.standard_normal((COUNT, LENGTH)) * spread + rng.standard_normal((COUNT, 1)) * rng.choice([0, 1, 10, 100])
    x[0::5] -= np.log(np.exp(x[0::5]).sum(axis=-1, keepdims=True))
    x[1::5, 0] = x[1::5].max(axis=-1) + rng.uniform(0, 20, COUNT // 5)
    x[2::5] = np.round(x[2::5])
    x[3::5] = np.where(rng.random((COUNT // 5, LENGTH)) < 0.3, -np.inf, x[3::5])
    x[3::5, 0] = 0.5
    x = oracle.round_to(np.maximum(x, np.where(x == -np.inf, -np.inf, -60.0)), dtype)
    return x, oracle.truths(x, -1, temperature)


def last_places(values: FloatArray, dtype: str) -> FloatArray:
    """The spacing of a dtype at values rounded to it."""
    form = FORMATS[dtype]
    exponent = np.frexp(oracle.round_to(values, dtype))[1]
    return np.ldexp(1.0, np.maximum(np.where(values == 0, form.smallest, exponent), form.smallest) - form.bits)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", "cupy"))
def test_the_bound_bounds_and_is_that_of_the_suite(row: Row, temperature: float) -> None:
    values, truths = drawn(row.dtype, temperature)
    x = row.array(values)
    for function in FUNCTIONS if temperature == 1 else FUNCTIONS[1:]:
        options = {} if temperature == 1 else {"temperature": temperature}
        exact = truths[function]
        computed = row.host(getattr(anysoft, function)(x, -1, **options))
        bound = row.host(anysoft.error_bound(x, function, -1, **options))
        finite = np.isfinite(exact.value)
        assert finite.sum() > 0.8 * finite.size
        np.testing.assert_array_equal(np.isnan(bound), ~finite)
        ulp = last_places(exact.value, row.dtype)
        allowed, error = bound / ulp, oracle.ulp_error(computed, exact, row.dtype)
        assert (error[finite] <= allowed[finite]).all(), function
        # the computed value may lie across a power of 2 from the exact one, where the ulp is another
        ours = last_places(np.where(finite, computed, 0.0), row.dtype)
        same = finite & (ours == ulp) & (ulp >= (0.0 if row.framework.subnormal else np.finfo(np.float32).tiny))
        assert same.sum() > 0.97 * finite.sum()
        budget = oracle.budget(exact, row.dtype)
        np.testing.assert_allclose(allowed[same], budget[same], rtol=1e-5)
        np.testing.assert_array_less(allowed[finite], 2.01 * budget[finite])


@pytest.mark.parametrize("row", rows("numpy", dtypes=("float64",)))
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", ["componentwise", "normwise"])
def test_no_move_of_the_input_does_more(function: Any, kind: str, row: Row) -> None:
    """The definition itself: of all moves by at most ε, the worst changes the result by κ·ε, to first order."""
    step = 2.0**-60
    for values in ([0.5, -1.25, 2.0], [-3.0, 1.0, 1.0], [4.0, -2.0, 0.25]):
        found = row.host(anysoft.condition_number(row.array(values), function, kind=kind))
        norm = max(map(abs, values))
        changes = []
        with mpmath.workprec(400):
            # linear in each move, so that a corner of the box is the worst
            for signs in np.ndindex(2, 2, 2):
                sizes = [abs(v) if kind == "componentwise" else norm for v in values]
                moved = [
                    mpmath.mpf(v) + (1 - 2 * s) * step * size for v, s, size in zip(values, signs, sizes, strict=True)
                ]
                before, after = _exact(function, [mpmath.mpf(v) for v in values]), _exact(function, moved)
                change = [abs(a - b) for a, b in zip(after, before, strict=True)]
                if kind == "componentwise":
                    changes.append(max(c / abs(b) for c, b in zip(change, before, strict=True)))
                else:
                    changes.append(max(change) / max(map(abs, before)))
        np.testing.assert_allclose(found, float(max(changes) / step), rtol=1e-12)


def _exact(function: str, x: list[Any]) -> list[Any]:
    total = mpmath.log(mpmath.fsum(map(mpmath.exp, x)))
    return (
        [total]
        if function == "logsumexp"
        else [mpmath.exp(v - total) if function == "softmax" else v - total for v in x]
    )


@pytest.mark.parametrize("row", rows(dtypes=("float64",)))
def test_where_the_sum_is_1_only_logsumexp_is_lost(row: Row) -> None:
    x = row.array(np.log([0.3, 0.7]))
    assert row.host(anysoft.condition_number(x)) > 1e15
    for kind in ("componentwise", "normwise"):
        assert row.host(anysoft.condition_number(x, "softmax", kind=kind)) < 2
    thirds = row.array([-np.log(3.0)] * 3)  # logsumexp of these is computed as 0
    assert row.host(anysoft.logsumexp(thirds)) == 0
    for kind in ("componentwise", "normwise"):
        assert row.host(anysoft.condition_number(thirds, kind=kind)) == np.inf


@pytest.mark.parametrize("row", rows())
def test_left_out_the_axis_is_the_function_s_own(row: Row) -> None:
    x = row.array([[0.5, 1.5], [-2.0, 0.25]])
    wide = "float64" if row.dtype == "float64" else "float32"
    row.assert_kept(anysoft.error_bound(x), (), wide)
    row.assert_kept(anysoft.error_bound(x, "softmax"), (2, 2), wide)
    row.assert_kept(anysoft.condition_number(x), (), wide)
    row.assert_kept(anysoft.condition_number(x, "softmax"), (2,), wide)
    assert anysoft.explain("error_bound", x, of="softmax").path == "generic"


@pytest.mark.parametrize("row", rows("torch", "jax", dtypes=("float64",)))
def test_derivatives_are_defined(row: Row) -> None:
    """The ulp counts as a constant, and rows without a condition as constants too."""
    tables = ([0.5, -1.25, 2.0], [0.0, -40.0, -1000.0], [1.0, 1.0, -np.inf], [0.0, -np.inf, -np.inf])
    for values in (*tables, [-np.inf] * 3, [np.inf, 1.0, np.nan]):
        x = row.array(values)
        for function in FUNCTIONS:
            for kind in ("componentwise", "normwise"):
                found = _gradient(row, lambda x, f=function, k=kind: anysoft.condition_number(x, f, kind=k), x)
                assert not np.isnan(found).any(), (values, function, kind)
            bounds = _gradient(row, lambda x, f=function: anysoft.error_bound(x, f)[...], x)
            assert not np.isnan(bounds).any(), (values, function)


def _gradient(row: Row, function: Any, x: Any) -> FloatArray:
    """Of the sum of what is defined."""

    def total(x: Any) -> Any:
        value = function(x)
        return row.xp.where(row.xp.isnan(value), row.xp.zeros_like(value), value).sum()

    if row.backend == "jax":
        return row.host(importlib.import_module("jax").grad(total)(x))
    x = x.clone().requires_grad_()
    total(x).backward()
    return row.host(x.grad)


@pytest.mark.parametrize("row", rows("torch", dtypes=("float32",)))
def test_compiled_and_mapped_by_torch(row: Row) -> None:
    torch = importlib.import_module("torch")
    x = row.array([[0.5, -1.25, 2.0], [0.0, -40.0, 1.0]])
    for function in FUNCTIONS:
        for call in (anysoft.condition_number, anysoft.error_bound):
            plain = call(x, function, -1)
            compiled = torch.compile(lambda x, c=call, f=function: c(x, f, -1), fullgraph=True, backend="eager")(x)
            mapped = torch.func.vmap(lambda x, c=call, f=function: c(x, f, -1))(x)
            np.testing.assert_allclose(row.host(compiled), row.host(plain), rtol=1e-6)
            np.testing.assert_allclose(row.host(mapped), row.host(plain), rtol=1e-6)


@pytest.mark.parametrize("row", rows("jax", dtypes=("float32",)))
def test_compiled_and_mapped_by_jax(row: Row) -> None:
    jax = importlib.import_module("jax")
    x = row.array([[0.5, -1.25, 2.0], [0.0, -40.0, 1.0]])
    heat = row.array([[0.5], [2.0]])
    for call in (anysoft.condition_number, anysoft.error_bound):

        def mapped(x: Any, t: Any, call: Any = call) -> Any:
            return call(x, "log_softmax", -1, temperature=t)

        plain = row.host(mapped(x, heat))
        np.testing.assert_allclose(row.host(jax.jit(mapped)(x, heat)), plain, rtol=1e-6)
        np.testing.assert_allclose(row.host(jax.jit(jax.vmap(mapped))(x, heat)), plain, rtol=1e-6)
