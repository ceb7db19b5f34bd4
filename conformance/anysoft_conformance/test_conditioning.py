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
from anysoft_conformance.corpus import FLOATS
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
    rounded = oracle.round_to(values, dtype)
    exponent = np.maximum(np.where(rounded == 0, form.smallest, np.frexp(rounded)[1]), form.smallest)
    spacing: FloatArray = np.ldexp(1.0, exponent - form.bits)
    return spacing


@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", "cupy"))
def test_the_bound_bounds_and_is_that_of_the_suite(row: Row) -> None:
    _assert_it_bounds(row, 1.0, FUNCTIONS)


@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", dtypes=("float32",)))
def test_the_bound_bounds_at_a_temperature(row: Row) -> None:
    _assert_it_bounds(row, 0.5, ("softmax", "log_softmax"))


def _assert_it_bounds(row: Row, temperature: float, functions: tuple[Any, ...]) -> None:
    values, truths = drawn(row.dtype, temperature)
    x = row.array(values)
    options: dict[str, Any] = {} if temperature == 1 else {"temperature": temperature}
    for function in functions:
        exact = truths[function]
        computed = row.host(getattr(anysoft, function)(x, -1, **options))
        bound = row.host(anysoft.error_bound(x, function, -1, **options))
        finite = np.isfinite(exact.value)
        assert finite.sum() > 0.8 * finite.size
        np.testing.assert_array_equal(np.isnan(bound), ~finite)
        if not row.framework.subnormal:  # such values and bounds are flushed to 0
            finite &= np.abs(exact.value) > 2.0**-100
        ulp = last_places(exact.value, row.dtype)[finite]
        allowed, budget = bound[finite] / ulp, oracle.budget(exact, row.dtype)[finite]
        error = oracle.ulp_error(computed, exact, row.dtype)[finite]
        assert (error <= allowed).all(), function
        # the ulp is that of the computed value, and a subnormal bound is a whole number of last places
        other = 4 * np.abs(last_places(computed[finite], row.dtype) / ulp - 1)
        coarse = np.where(bound[finite] < np.finfo(np.float32).tiny, 1.0, 0.0)
        assert (np.abs(allowed - budget) <= 1e-5 * budget + other + coarse).all(), function


@pytest.mark.parametrize("row", rows("torch", dtypes=FLOATS))
def test_the_bound_bounds_where_one_leads_many(row: Row) -> None:
    """A leader and nine others of 2⁻²⁴ or 2⁻⁵³ of it: one by one, each addition loses half an ulp (torch.softmax)."""
    depth = {"float32": 24, "float64": 53}[row.dtype] * np.log(2.0)
    x = np.concatenate([np.zeros((200, 1)), np.linspace(0.5, -0.5, 200)[:, None] - depth * np.ones(9)], axis=-1)
    x = oracle.round_to(x, row.dtype)
    exact = oracle.truth("softmax", x)
    error = oracle.ulp_error(row.host(anysoft.softmax(row.array(x), -1)), exact, row.dtype)
    assert (error * last_places(exact.value, row.dtype) <= row.host(anysoft.error_bound(row.array(x), "softmax"))).all()


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
    if function == "logsumexp":
        return [total]
    return [mpmath.exp(v - total) if function == "softmax" else v - total for v in x]


@pytest.mark.parametrize("row", rows(dtypes=("float64",)))
def test_where_the_sum_is_1_only_logsumexp_is_lost(row: Row) -> None:
    x = row.array(np.log([0.3, 0.7]))
    assert row.host(anysoft.condition_number(x)) > 1e15
    for kind in ("componentwise", "normwise"):
        assert row.host(anysoft.condition_number(x, "softmax", kind=kind)) < 2
    for n in (2, 3, 4):  # computed as 0, or as a last place or two
        for kind in ("componentwise", "normwise"):
            assert row.host(anysoft.condition_number(row.array([-np.log(n)] * n), kind=kind)) > 1e15


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
    """The ulp counts as a constant, and so do rows without a condition."""
    values = [[0.5, -1.25, 2.0], [0.0, -40.0, -1000.0], [1.0, 1.0, -np.inf], [0.0, -np.inf, -np.inf], [-np.inf] * 3]
    x = row.array([*values, [np.inf, 1.0, np.nan]])
    # JAX compiles for each: there, the longest formula alone
    for function in FUNCTIONS if row.backend == "torch" else ("log_softmax",):
        for kind in ("componentwise", "normwise"):
            found = _gradient(row, lambda x, f=function, k=kind: anysoft.condition_number(x, f, -1, kind=k), x)
            assert not np.isnan(found).any(), (found, function, kind)
        found = _gradient(row, lambda x, f=function: anysoft.error_bound(x, f, -1), x)
        assert not np.isnan(found).any(), (found, function)


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
    for call in (anysoft.condition_number, anysoft.error_bound):

        def mapped(x: Any, call: Any = call) -> Any:
            return call(x, "log_softmax", -1)

        plain = row.host(mapped(x))
        compiled = torch.compile(mapped, fullgraph=True, backend="eager")(x)
        np.testing.assert_allclose(row.host(compiled), plain, rtol=1e-6)
        np.testing.assert_allclose(row.host(torch.func.vmap(mapped)(x)), plain, rtol=1e-6)


@pytest.mark.parametrize("row", rows("jax", dtypes=("float32",)))
def test_mapped_by_jax(row: Row) -> None:
    jax = importlib.import_module("jax")
    x, heat = row.array([[0.5, -1.25, 2.0], [0.0, -40.0, 1.0]]), row.array([[0.5], [2.0]])
    for call in (anysoft.condition_number, anysoft.error_bound):

        def mapped(x: Any, t: Any, call: Any = call) -> Any:
            return call(x, "log_softmax", -1, temperature=t)

        np.testing.assert_allclose(row.host(jax.vmap(mapped)(x, heat)), row.host(mapped(x, heat)), rtol=1e-6)
