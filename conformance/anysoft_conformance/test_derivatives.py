"""Derivatives: never NaN where the value is not, and within the contract of the function that the derivative is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.corpus import LENGTHS, PLACES
from anysoft_conformance.oracle import FloatArray
from anysoft_conformance.rows import Row, rows
from anysoft_conformance.subjects import SUBJECTS

INF, NAN = math.inf, math.nan
PATHS = ("auto", "generic")
FRAMEWORKS = ("torch", "jax")
F64 = rows(*FRAMEWORKS, dtypes=("float64",))


def gradient(row: Row, function: Callable[[Any], Any], x: Any) -> FloatArray:
    """Reverse mode: the gradient of a function to a scalar."""
    if row.backend == "jax":
        return row.host(importlib.import_module("jax").grad(function)(x))
    x = x.clone().requires_grad_()
    function(x).backward()
    return row.host(x.grad)


def tangent(row: Row, function: Callable[[Any], Any], x: Any, direction: Any) -> FloatArray:
    """Forward mode: the derivative in a direction."""
    if row.backend == "jax":
        return row.host(importlib.import_module("jax").jvp(function, (x,), (direction,))[1])
    return row.host(importlib.import_module("torch").func.jvp(function, (x,), (direction,))[1])


def hessian(row: Row, function: Callable[[Any], Any], x: Any) -> FloatArray:
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    return row.host(module.hessian(function)(x))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", rows(*FRAMEWORKS, dtypes=("float32",)))
def test_gradient_of_a_long_row(row: Row, path: Any) -> None:
    for case in (case for case in LENGTHS if case.name in ("long", "long_spike")):
        problem = case.problem(row.dtype, row.framework.default_float)
        with anysoft.options(path=path):
            computed = gradient(row, lambda x: anysoft.logsumexp(x), row.array(problem.x))
        (exact,) = SUBJECTS["softmax"].truth(problem)
        error = oracle.ulp_error(computed[list(PLACES)], exact, row.dtype)
        assert (error <= oracle.budget(exact, row.dtype)).all(), case.name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", rows(*FRAMEWORKS, dtypes=("float64", "float32")))
def test_small_components_survive(row: Row, path: Any) -> None:
    """1 − p loses them (jax#40384): each is a sum of the other probabilities, in log_softmax and in softmax."""
    for values in ([0.0, -30.0], [20.0, 0.0, 1.0], [-3.0, -50.0, -49.0]):
        with mpmath.workprec(300):
            e = [mpmath.exp(v) for v in values]
            q = float(sum(e[1:]) / sum(e))
            slope = float(e[0] * sum(e[1:]) / sum(e) ** 2)
        x = row.array(values)
        one = row.array([1.0] + [0.0] * (len(values) - 1))
        # the contract for q: 4 ulp and 2u·Σ p_j |x_j|
        tolerance = (8 + 2 * sum(map(abs, values))) * np.finfo(row.dtype).eps / 2
        with anysoft.options(path=path):
            for function, exact in ((anysoft.log_softmax, q), (anysoft.softmax, slope)):
                reverse = gradient(row, lambda x, f=function: f(x)[0], x)[0]  # type: ignore[misc]
                forward = tangent(row, lambda x, f=function: f(x)[0], x, one)  # type: ignore[misc]
                np.testing.assert_allclose(np.array([reverse, forward]), exact, rtol=float(tolerance))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", F64)
def test_what_is_excluded_has_derivative_zero(row: Row, path: Any) -> None:
    # x, where
    table: list[tuple[list[float], list[bool]]] = [
        ([1.0, NAN, 2.0], [True, False, True]),
        ([1.0, INF, -INF], [True, False, True]),
        ([NAN, INF, 0.0], [False, False, False]),
        ([0.0, 1e308, -1e308], [True, False, True]),
    ]
    with anysoft.options(path=path):
        for values, kept in table:
            x, where = row.array(values), row.array(kept, "bool")

            # exp of the log-probabilities too, because −inf itself is no number to differentiate towards
            def entries(x: Any, function: Any, where: Any = where) -> Any:
                return (row.xp.exp(function(x, where=where)) * row.array([1.0, 2.0, 3.0])).sum()

            for function in (anysoft.softmax, anysoft.log_softmax):
                found = gradient(row, partial(entries, function=function), x)
                assert np.isfinite(found).all(), (function, values)
                np.testing.assert_array_equal(found[~np.array(kept)], 0.0)
            found = gradient(row, lambda x, where=where: anysoft.logsumexp(x, where=where), x)  # type: ignore[misc]
            assert np.isfinite(found).all(), values
            np.testing.assert_array_equal(found[~np.array(kept)], 0.0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", F64)
def test_second_order_at_ties_and_on_dead_rows(row: Row, path: Any) -> None:
    with anysoft.options(path=path):
        for values in ([2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [5.0, -1.0, 0.5]):
            p = np.exp(values) / np.exp(values).sum()
            computed = hessian(row, anysoft.logsumexp, row.array(values))
            np.testing.assert_allclose(computed, np.diag(p) - np.outer(p, p), rtol=1e-13, atol=1e-16)
        for values in ([-INF, -INF, -INF], [INF, 1.0, INF]):
            np.testing.assert_array_equal(hessian(row, anysoft.logsumexp, row.array(values)), np.zeros((3, 3)))
        dead = hessian(row, lambda x: anysoft.logsumexp(x, where=row.array([False] * 3, "bool")), row.array([1.0] * 3))
        np.testing.assert_array_equal(dead, np.zeros((3, 3)))


@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
@pytest.mark.parametrize("function", [anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax])
def test_reverse_mode_of_torch_to_second_order(function: Any, row: Row) -> None:
    """Autograd without torch.func takes the written derivatives; numerical differentiation agrees with both orders."""
    torch = importlib.import_module("torch")
    long = row.array(np.random.default_rng(2).normal(0, 2, (600, 2))).requires_grad_()
    for axis in (0, 1):
        x = long.detach()[:4].clone().requires_grad_()
        assert torch.autograd.gradcheck(partial(function, axis=axis), (x,))
        assert torch.autograd.gradgradcheck(partial(function, axis=axis), (x,))
        g = torch.linspace(-1, 2, 1200 if function is not anysoft.logsumexp else long.shape[1 - axis])
        g = g.double().reshape(function(long, axis=axis).shape)
        found = []
        for path in ("auto", "generic"):
            with anysoft.options(path=path):
                found.append(row.host(torch.autograd.grad(function(long, axis=axis), long, g)[0]))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
def test_second_order_of_torch_where_the_first_is_tiny_or_special(row: Row) -> None:
    functional = importlib.import_module("torch").autograd.functional
    tiny = 4.248354255291589e-18
    table: list[tuple[list[float], Any]] = [
        ([0.0, -40.0], [[tiny, -tiny], [-tiny, tiny]]),
        ([2.0, 2.0], [[0.25, -0.25], [-0.25, 0.25]]),
        ([-INF, -INF], np.zeros((2, 2))),
        ([INF, 1.0], np.zeros((2, 2))),
    ]
    for values, expected in table:
        computed = row.host(functional.hessian(anysoft.logsumexp, row.array(values)))
        np.testing.assert_allclose(computed, expected, rtol=1e-15)


@pytest.mark.parametrize("row", F64)
def test_weights(row: Row) -> None:
    """d/db is exp(x)/Σ, at b = 0 too (jax#22398)."""
    x = row.array([0.0, 0.0, 1.0])
    by_b = gradient(row, lambda b: anysoft.logsumexp(x, b=b), row.array([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(by_b, np.array([1, 1, math.e]) / (1 + 2 * math.e), rtol=1e-15)
    b = row.array([1.0, -0.5, 0.0])
    by_x = gradient(row, lambda x: anysoft.logsumexp(x, b=b), row.array([0.0, -0.5, NAN]))
    terms = np.array([1.0, -0.5 * math.exp(-0.5), 0.0])
    np.testing.assert_allclose(by_x, terms / terms.sum(), rtol=1e-15)
    cancelled = gradient(row, lambda x: anysoft.logsumexp(x, b=row.array([1.0, -1.0])), row.array([3.0, 3.0]))
    np.testing.assert_array_equal(cancelled, 0.0)


@pytest.mark.parametrize("row", F64)
def test_temperature(row: Row) -> None:
    x = row.array([1.0, 2.0, -INF])
    for function in (anysoft.softmax, anysoft.log_softmax):
        by_t = gradient(row, lambda t, f=function: f(x, temperature=t)[0], row.array(2.0))  # type: ignore[misc]
        p = 1 / (1 + math.exp(0.5))
        slope = (1 - p) * 0.25  # d/dT of (1 − 2)/T, weighted
        np.testing.assert_allclose(by_t, slope * (p if function is anysoft.softmax else 1), rtol=1e-14)
        for limit in (0.0, INF):
            at_limit = gradient(
                row,
                lambda t, f=function: (
                    row.xp.exp(f(x, temperature=t))[1] if f is anysoft.log_softmax else f(x, temperature=t)[1]
                ),  # type: ignore[misc]
                row.array(limit),
            )
            np.testing.assert_array_equal(at_limit, 0.0)
    by_x = gradient(row, lambda x: anysoft.softmax(x, temperature=0)[0], row.array([1.0, 2.0]))
    np.testing.assert_array_equal(by_x, 0.0)


@pytest.mark.parametrize("row", F64)
def test_mixed_derivative_of_two_that_hold_next_to_nothing(row: Row) -> None:
    """∂²KL/∂x_i∂y_j is p_i·p_j, also where y has its largest entry at j."""
    y = row.array([0.1, -0.7, 1.5])

    def slope(x: Any) -> Any:
        by_y = importlib.import_module("jax" if row.backend == "jax" else "torch.func").grad
        return by_y(lambda y: anysoft.kl_divergence(x, y))(y)[2]

    found = gradient(row, slope, row.array([0.0, -40.0, -42.0]))
    small, least = math.exp(-40.0), math.exp(-42.0)
    np.testing.assert_allclose(found, [least, small * least, -least], rtol=1e-13)


@pytest.mark.parametrize("row", F64)
def test_an_infinite_loss_that_does_not_count_has_derivatives(row: Row) -> None:
    x, weights = row.array([-INF, 0.5]), row.array([0.0, 1.0])

    def loss(targets: Any) -> Any:
        return anysoft.binary_cross_entropy(x, targets, weights=weights, reduction="sum")

    np.testing.assert_allclose(gradient(row, loss, row.array([0.3, 0.3])), [0.0, -0.5], rtol=1e-15)
