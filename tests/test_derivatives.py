"""Derivatives with respect to every argument: never NaN where the value is not, and the same by every mode.

The suite holds those with respect to the first array to the contract, at first and second order; here are the others
(weights, temperatures, targets, the second of two), and the rows at which derivatives go wrong.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anysoft_conformance.rows import Row, rows

import anysoft

Array = Any
INF, NAN = math.inf, math.nan

MASKED = 5  # the rows from here on are masked by KEPT
KEPT = [[True] * 3] * MASKED + [[True, False, True]] * 3 + [[False] * 3]


def points(row: Row) -> np.ndarray[Any, Any]:
    """Rows at which derivatives go wrong: ties, dead, huge, apart by more than the range; with a mask, of anything."""
    most = float(np.finfo(row.dtype).max)
    return np.array(
        [
            [1.0, 2.0, -0.5],
            [2.0, 2.0, 0.0],
            [1.0, -INF, 0.5],
            [-INF, -INF, -INF],
            [1e30, -1e30, most],
            [0.0, NAN, -40.0],
            [-INF, INF, -INF],
            [most, NAN, -most],
            [NAN, INF, 1.0],
        ]
    )


WEIGHTS, TEMPERATURE, TARGETS = [1.0, 0.0, 2.0], 0.7, [0.5, 0.0, 0.5]
# what is called: of the rows and the mask, and of the other arguments, which are given after
CALLS: dict[str, tuple[Callable[..., Array], tuple[Any, ...]]] = {
    "logsumexp": (lambda x, where: anysoft.logsumexp(x, -1, where=where), ()),
    "logsumexp of weights": (lambda x, where, b: anysoft.logsumexp(x, -1, where=where, b=b), (WEIGHTS,)),
    "logmeanexp": (lambda x, where: anysoft.logmeanexp(x, -1, where=where), ()),
    "softmax": (lambda x, where, t: anysoft.softmax(x, where=where, temperature=t), (TEMPERATURE,)),
    "softmax at 0": (lambda x, where, t: anysoft.softmax(x, where=where, temperature=t), (0.0,)),
    "softmax at ∞": (lambda x, where, t: anysoft.softmax(x, where=where, temperature=t), (INF,)),
    "log_softmax": (lambda x, where, t: anysoft.log_softmax(x, where=where, temperature=t), (TEMPERATURE,)),
    "entropy": (lambda x, where, t: anysoft.entropy(x, where=where, temperature=t), (TEMPERATURE,)),
    "entropy near 0": (lambda x, where, t: anysoft.entropy(x, where=where, temperature=t), (1e-18,)),
    "kl_divergence": (lambda x, where, y: anysoft.kl_divergence(x, y, where=where), ([0.5, 0.25, 0.0],)),
    "js_divergence": (lambda x, where, y: anysoft.js_divergence(x, y, where=where), ([0.5, -INF, 0.0],)),
    "log_partition": (lambda x, where, t: anysoft.log_partition(-x, t, where=where), (TEMPERATURE,)),
    "mean_energy": (
        lambda x, where, t, g: anysoft.mean_energy(-x, t, where=where, log_degeneracy=g),
        (TEMPERATURE, [0.0, 1.0, 0.5]),
    ),
    "heat_capacity": (lambda x, where, t: anysoft.heat_capacity(-x, t, where=where), (TEMPERATURE,)),
    "sparsemax": (lambda x, where: anysoft.sparsemax(x, where=where), ()),
    "entmax": (lambda x, where: anysoft.entmax(x, where=where), ()),
}


def _weighted(xp: Any, value: Array) -> Array:
    """The finite entries of each row, summed by weights: what is not a number is nothing to differentiate towards."""
    value = value if value.ndim == 2 else value[:, None]
    finite = xp.isfinite(value)
    columns = xp.asarray(np.array([1.0, -0.5, 2.0])[: value.shape[1]], dtype=value.dtype)
    return xp.where(finite, value, xp.zeros_like(value)) @ columns


def _derivatives(row: Row, function: Callable[..., Array], arguments: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """For each argument, and once more for second order: a derivative in one direction backwards and forwards, and all
    of them backwards."""
    xp = row.xp
    home: Any = importlib.import_module("jax" if row.backend == "jax" else "torch.func")

    def by(place: int, of: tuple[Array, ...]) -> list[tuple[Array, ...]]:
        argument = of[place]
        values = np.resize([1.0, -2.0, 0.5], tuple(argument.shape))
        direction = xp.asarray(values, dtype=argument.dtype)

        def total(one: Array) -> Array:
            return function(*of[:place], one, *of[place + 1 :]).sum()

        def slope(one: Array) -> Array:
            return (home.grad(total)(one) * direction).sum()

        return [
            (slope(argument), home.jvp(total, (argument,), (direction,))[1], home.grad(total)(argument)),
            (
                (home.grad(slope)(argument) * direction).sum(),
                home.jvp(slope, (argument,), (direction,))[1],
                home.grad(slope)(argument),
            ),
        ]

    def everything(of: tuple[Array, ...]) -> list[tuple[Array, ...]]:
        return [found for place in range(len(of)) for found in by(place, of)]

    # compiled at once, because JAX takes seconds for what is not
    result: list[tuple[Array, ...]] = (home.jit(everything) if row.backend == "jax" else everything)(arguments)
    return result


def _judge(row: Row, function: Callable[..., Array], others: tuple[Any, ...]) -> None:
    with row.framework.session():
        given = (row.array(points(row)), *(row.array(np.asarray(other)) for other in others))
        for found in _derivatives(row, lambda *of: _weighted(row.xp, function(*of)), given):
            backwards, forwards, whole = map(row.host, found)
            assert not np.isnan(whole).any()
            np.testing.assert_allclose(backwards, forwards, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("row", rows("torch", "jax", dtypes=("float32",)))
def test_derivatives_are_defined_and_agree(row: Row, name: str) -> None:
    call, others = CALLS[name]
    where = row.array(KEPT, "bool")
    _judge(row, lambda x, *more: call(x, where, *more), others)


@pytest.mark.parametrize("row", rows("torch", "jax", dtypes=("float32",)))
def test_derivatives_that_are_not_would_be_found(row: Row) -> None:
    """The frameworks' own are NaN on dead rows."""
    own = importlib.import_module("jax.nn" if row.backend == "jax" else "torch").logsumexp
    with pytest.raises(AssertionError):
        _judge(row, lambda x: own(row.xp.where(row.array(KEPT, "bool"), x, -INF), -1), ())


SMOOTH = [name for name in CALLS if not name.endswith(("0", "∞"))]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
def test_numerical_differentiation_agrees(row: Row, name: str) -> None:
    """To second order, by torch's own check: reverse, forward, and forward over reverse."""
    torch: Any = importlib.import_module("torch")
    call, others = CALLS[name]
    others = tuple([0.5, 0.25, 0.0] if name == "js_divergence" else other for other in others)  # and no −inf
    given = (row.array([[0.9, 1.6, -0.5], [0.3, -1.0, 0.0]]), *(row.array(np.asarray(other)) for other in others))
    given = tuple(array.requires_grad_() for array in given)
    where = row.array([[True, True, True], [True, False, True]], "bool")

    def function(*of: Array) -> Array:
        value = call(of[0], where, *of[1:])
        return torch.where(value.isfinite(), value, 0.0)  # log-probabilities of what is excluded

    assert torch.autograd.gradcheck(function, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, given, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ["logsumexp of weights"])
@pytest.mark.parametrize("row", rows("jax", dtypes=("float64",)))
def test_numerical_differentiation_of_jax_agrees(row: Row, name: str) -> None:
    check = importlib.import_module("jax.test_util").check_grads
    call, others = CALLS[name]
    with row.framework.session():
        where = row.array([True, True, True], "bool")
        given = (row.array([[1.0, 2.0, -0.5]]), *(row.array(np.asarray(other)) for other in others))
        check(importlib.import_module("jax").jit(lambda x, *more: call(x, where, *more)), given, order=2)
