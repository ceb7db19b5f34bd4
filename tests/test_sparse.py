"""sparsemax and entmax beyond the suite's cases: any alpha, long rows, derivatives and transformations."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from anysoft_conformance.rows import Row, rows

import anysoft

F64 = rows("torch", "jax", dtypes=("float64",))
ALPHAS = (1.0001, 1.05, 1.125, 1.3, 1.5, 1.75, 2.0, 2.5, 4.0, 8.0)


def _rows(name: str, n: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(11)
    if name == "steps":  # Newton's method drops one entry after the other
        return -np.logspace(-12, 0.5, n)[None]
    if name == "leader":
        return np.where(np.arange(n) == 0, 0.9, rng.uniform(0, 1e-4, (4, n)))
    return rng.normal(0, {"narrow": 1e-3, "normal": 1.0, "wide": 30.0}[name], (4, n))


@pytest.mark.parametrize("name", ["narrow", "normal", "wide", "steps", "leader"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_solves_the_equation(alpha: float, name: str) -> None:
    """p^(α − 1) is (α − 1)(x − τ) with one τ for the whole support, nothing outside is above it, and Σ p = 1."""
    for n in (2, 50, 1000):
        x = _rows(name, n)
        p = anysoft.entmax(x, alpha)
        np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-15)
        for row, found in zip(x, p, strict=True):
            # (p/p_max)^(α − 1) = 1 − (α − 1)(max − x)/Λ, with Λ = p_max^(α − 1)
            base = 1.0 - (alpha - 1) * (row.max() - row) / found.max() ** (alpha - 1)
            ratio = np.where(found > 0, (found / found.max()) ** (alpha - 1), 0.0)
            np.testing.assert_allclose(ratio, np.maximum(base, 0.0), rtol=0, atol=2e-15)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_long_rows(alpha: float) -> None:
    """A sum that loses with its length would lose the sum of the probabilities."""
    for scale in (1e-6, 1e-3, 1.0):
        x = np.random.default_rng(2).normal(0, scale, 300_000).astype(np.float32)
        for array in (x, np.broadcast_to(x[:, None], (x.size, 2))):
            p = anysoft.entmax(array, alpha, 0)
            np.testing.assert_allclose(p.astype(np.float64).sum(0), 1.0, rtol=1e-7)
    # all in the support, which rational numbers say exactly
    line = np.linspace(0, 1e-6, 20_001)
    if alpha == 2:
        threshold = (sum(map(Fraction, line.tolist())) - 1) / line.size
        exact = [float(Fraction(line[i].item()) - threshold) for i in (0, 5_000, 20_000)]
        np.testing.assert_allclose(anysoft.sparsemax(line)[[0, 5_000, 20_000]], exact, rtol=4e-16)


def test_an_alpha_that_leaves_the_range_is_refused() -> None:
    np.testing.assert_allclose(anysoft.entmax(np.zeros((2, 8), np.float32), 20), 0.125, rtol=1e-6)
    with pytest.raises(ValueError, match=r"alpha of 20\.0 is too large for rows of 1000 in float32"):
        anysoft.entmax(np.zeros(1000, np.float32), 20)


def test_it_is_softmax_and_sparsemax_at_the_ends() -> None:
    x = np.random.default_rng(3).normal(0, 2, (5, 9))
    np.testing.assert_array_equal(anysoft.entmax(x, 1), anysoft.softmax(x))
    np.testing.assert_array_equal(anysoft.entmax(x, 2), anysoft.sparsemax(x))
    np.testing.assert_allclose(anysoft.entmax(x, 1 + 1e-12), anysoft.softmax(x), rtol=1e-10)
    np.testing.assert_allclose(anysoft.entmax(x, 1.5), anysoft.entmax(x, 1.5 + 1e-12), rtol=1e-8, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
@pytest.mark.parametrize("alpha", [1.125, 1.5, 2.0, 3.0])
def test_derivatives_are_those_of_the_values(alpha: float, row: Row) -> None:
    torch = importlib.import_module("torch")
    x = row.array([[0.5, 0.25, 0.375, -3.0], [0.1, 0.0, -0.1, 0.3]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: anysoft.entmax(x, alpha), (x,))
    assert torch.autograd.gradgradcheck(lambda x: anysoft.entmax(x, alpha), (x,))
    mask = torch.asarray([True, True, False, True])
    assert torch.autograd.gradcheck(lambda x: anysoft.entmax(x, alpha, where=mask), (x,))


@pytest.mark.parametrize("row", F64)
@pytest.mark.parametrize("alpha", [1.125, 1.5])
def test_forward_and_reverse_mode_agree(alpha: float, row: Row) -> None:
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    x = row.array([0.5, 0.25, -math.inf, 0.375])
    with row.framework.session():
        reverse, forward = (
            row.host(each(lambda x: anysoft.entmax(x, alpha))(x)) for each in (module.jacrev, module.jacfwd)
        )
        second = row.host(module.jacfwd(module.jacrev(lambda x: anysoft.entmax(x, alpha)))(x))
    np.testing.assert_allclose(reverse, forward, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(reverse, reverse.T, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(reverse.sum(0), 0.0, atol=1e-15)
    np.testing.assert_array_equal(reverse[2], 0.0)
    np.testing.assert_allclose(second, second.transpose(2, 1, 0), rtol=1e-12, atol=1e-14)
    assert np.isfinite(second).all()


@pytest.mark.parametrize("row", F64)
def test_small_derivatives_survive(row: Row) -> None:
    """1 − w/Σw would lose them: one entry has nearly all, and the other two a millionth of it."""
    x = row.array([1.996, 0.0, 0.0])
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    with row.framework.session():
        found = row.host(module.jacrev(lambda x: anysoft.entmax(x))(x))
        p = row.host(anysoft.entmax(x))
    w = np.sqrt(p)
    np.testing.assert_allclose(found[0, 0], w[0] * (w[1] + w[2]) / w.sum(), rtol=1e-14)
    np.testing.assert_allclose(found[0, 1], -w[0] * w[1] / w.sum(), rtol=1e-14)


@pytest.mark.parametrize("row", F64)
def test_derivatives_where_there_is_nothing_to_choose(row: Row) -> None:
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    with row.framework.session():
        where = row.array([False, False, True], "bool")
        for alpha in (1.5, 2.0):

            def function(x: Any, alpha: float = alpha) -> Any:
                return anysoft.entmax(x, alpha, where=where)

            for values in ([math.nan, 1.0, 0.5], [math.inf, -math.inf, 2.0]):
                np.testing.assert_array_equal(row.host(module.jacrev(function)(row.array(values))), np.zeros((3, 3)))


# ---------------------------------------------------------------------------------------------------------------------
# Transformations

X = np.array([[1.0, 2.0, 2.0, -3.0], [0.0, -40.0, -0.5, -np.inf], [700.0, 710.0, 709.5, 709.0]])
CALLS: dict[str, Callable[[Any], Any]] = {
    "sparsemax": anysoft.sparsemax,
    "entmax": anysoft.entmax,
    "entmax-1.1": lambda x: anysoft.entmax(x, 1.1),
    "sparsemax-where": lambda x: anysoft.sparsemax(x, where=x < 2),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@every_call
def test_torch(call: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.asarray(X)
    expected = call(x)
    np.testing.assert_allclose(expected.numpy(), call(X), rtol=1e-14, atol=1e-17)
    torch.compiler.reset()
    for found in (
        torch.compile(call, fullgraph=True, backend="aot_eager")(x),
        torch.func.vmap(call)(x),
        call(x.T.contiguous().T),
    ):
        torch.testing.assert_close(found, expected, rtol=4e-15, atol=1e-17)


@every_call
def test_jax(call: Callable[[Any], Any]) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(X, dtype="float32")
    for found in (jax.jit(call)(x), jax.vmap(call)(x)):
        np.testing.assert_allclose(np.asarray(found), call(X.astype(np.float32)), rtol=1e-6, atol=1e-8)
