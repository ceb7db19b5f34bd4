"""Attention beyond its values: how results merge, and its derivatives, on every row of this machine."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import mpmath
import numpy as np
import pytest

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.families.attention import MASK, K, Q, V
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import FloatArray, Truth
from anysoft_conformance.rows import Row, rows

INF, NAN = math.inf, math.nan
FRAMEWORKS = ("torch", "jax")
SCALE = 0.75
G = ((1.0, -0.5), (0.25, 2.0))  # what the result is multiplied by before it is summed
BLOCKS = pytest.mark.parametrize("block_size", [None, 3])


@pytest.mark.parametrize("row", rows())
def test_the_attention_to_two_halves_of_the_keys_merges(row: Row) -> None:
    rng = np.random.default_rng(4)
    q, k, v = (row.array(rng.normal(size=shape)) for shape in ((5, 4), (8, 4), (8, 3)))
    whole, log_sum = anysoft.attention(q, k, v, return_logsumexp=True)
    halves = [
        anysoft.attention(q, k[part, :], v[part, :], return_logsumexp=True) for part in (slice(0, 3), slice(3, 8))
    ]
    wide = "float32" if row.dtype in ("float16", "bfloat16") else row.dtype
    row.assert_kept(log_sum, (5,), wide)
    outs = [row.host(out) for out, _ in halves]
    sums = [row.host(half) for _, half in halves]
    merged = np.logaddexp(*sums)
    u = oracle.FORMATS[row.dtype].roundoff
    np.testing.assert_allclose(row.host(log_sum), merged, atol=40 * oracle.FORMATS[wide].roundoff)
    together = sum(np.exp(s - merged)[:, None] * out for s, out in zip(sums, outs, strict=True))
    np.testing.assert_allclose(row.host(whole), together, atol=40 * u)


@pytest.mark.parametrize("row", rows(dtypes=("float64", "float32")))
def test_scores_beyond_the_range_are_nan_and_not_wrong(row: Row) -> None:
    big = float(np.finfo(row.dtype).max) / 2
    q, k, v = row.array([[big, 1.0], [0.0, 1.0]]), row.array([[big, 0.0], [0.0, 1.0]]), row.array([[1.0], [2.0]])
    out, log_sum = anysoft.attention(q, k, v, return_logsumexp=True)
    assert math.isnan(row.host(out)[0, 0])
    assert math.isfinite(row.host(out)[1, 0])
    assert row.host(log_sum)[0] == INF


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of Σ g·out


def _derivatives(
    row: Row, q: Any, k: Any, v: Any, g: Any = G, *, where: Any = None, block_size: Any = None
) -> list[FloatArray]:
    q, k, v, g = (row.array(each) for each in (q, k, v, g))
    mask = None if where is None else row.array(where, "bool")
    if row.backend == "jax":
        jax = importlib.import_module("jax")
        found = jax.jit(jax.grad(_loss, argnums=(0, 1, 2)), static_argnums=5)(q, k, v, g, mask, block_size)
    else:
        for each in (q, k, v):
            each.requires_grad_()
        found = importlib.import_module("torch").autograd.grad(_loss(q, k, v, g, mask, block_size), (q, k, v))
    return [row.host(each) for each in found]


def _loss(q: Any, k: Any, v: Any, g: Any, where: Any = None, block_size: Any = None) -> Any:
    out = anysoft.attention(q, k, v, where=where, scale=SCALE, block_size=block_size)
    return (out * g).sum()


def _exact(inputs: list[Any], kept: Any) -> list[Any]:
    """The gradient with respect to every entry of q, k and v, in a row, from its closed form."""
    q, k, v = (
        [inputs[start + 2 * i : start + 2 * i + 2] for i in range(length)]
        for start, length in ((0, 2), (4, 4), (12, 4))
    )
    by_q, by_k, by_v = ([[mpmath.mpf(0)] * 2 for _ in range(n)] for n in (2, 4, 4))
    for i in range(2):
        seen = [j for j in range(4) if kept[i][j]]
        if not seen:
            continue
        scores = {j: SCALE * sum(a * b for a, b in zip(q[i], k[j], strict=True)) for j in seen}
        top = max(scores.values())
        e = {j: mpmath.exp(scores[j] - top) for j in seen}
        p = {j: e[j] / sum(e.values()) for j in seen}
        gv = {j: sum(a * b for a, b in zip(G[i], v[j], strict=True)) for j in seen}
        mean = sum(p[j] * gv[j] for j in seen)
        for j in seen:
            slope = SCALE * p[j] * (gv[j] - mean)
            for c in range(2):
                by_q[i][c] += slope * k[j][c]
                by_k[j][c] += slope * q[i][c]
                by_v[j][c] += p[j] * G[i][c]
    return [entry for part in (by_q, by_k, by_v) for line in part for entry in line]


@functools.cache
def _gradient(inputs: tuple[float, ...], kept: Any) -> Truth:
    """With the condition of each entry, by differences in high precision, and the length factor of four keys."""
    with mpmath.workprec(2000):  # v − out may be exp(−500)
        exact = [mpmath.mpf(x) for x in inputs]
        values = _exact(exact, kept)
        conditions = [mpmath.mpf(0)] * len(values)
        for place, x in enumerate(exact):
            h = mpmath.mpf(2) ** -800
            moved = [_exact([*exact[:place], x + sign * h, *exact[place + 1 :]], kept) for sign in (1, -1)]
            for entry, (up, down) in enumerate(zip(*moved, strict=True)):
                conditions[entry] += abs((up - down) / (2 * h) * x)
        return of_mpmath(values, [float((1 + 4 / 2) * each) for each in conditions])


@BLOCKS
@pytest.mark.parametrize("row", rows(*FRAMEWORKS, dtypes=("float64", "float32")))
def test_gradients_keep_the_contract(row: Row, block_size: Any) -> None:
    """Where one key holds nearly all too: p (v − out) is not made of 1 − p there."""
    rng = np.random.default_rng(8)
    problems: list[tuple[Any, Any, Any]] = [(Q, K, V), (Q, (K[0],) * 4, V)]
    for size in (1.0, 1.0, 3.0, 6.0, 12.0):
        problems += [(rng.normal(0, size, (2, 2)), rng.normal(0, size, (4, 2)), rng.normal(size=(4, 2)))]
    for kept in (((True,) * 4,) * 2, MASK, ((False,) * 4, MASK[0])):
        for arrays in problems:
            rounded = [oracle.round_to(np.asarray(each, dtype=np.float64), row.dtype) for each in arrays]
            truth = _gradient(tuple(np.concatenate([each.ravel() for each in rounded]).tolist()), kept)
            found = _derivatives(row, *rounded, where=kept, block_size=block_size)
            computed = np.concatenate([each.ravel() for each in found])
            error, allowed = oracle.ulp_error(computed, truth, row.dtype), oracle.budget(truth, row.dtype)
            # what underflows in the middle of a product, XLA takes for 0
            tiny = np.abs(truth.value) < 2.0**24 * np.finfo(row.dtype).tiny
            assert ((error <= allowed) | tiny).all(), (error / allowed, computed, truth.value)


@BLOCKS
@pytest.mark.parametrize("row", rows(*FRAMEWORKS, dtypes=("float64",)))
def test_what_is_excluded_has_derivative_zero(row: Row, block_size: Any) -> None:
    """And what is there, NaN included, reaches no derivative; nor does a query or a value that is NaN another's."""
    where = ((True, False, True, False), (False, False, False, False))
    q = (Q[0], (NAN, INF))
    k, v = (K[0], (NAN, 1.0), K[2], (INF, -INF)), (V[0], (INF, NAN), V[2], (1e308, 0.0))
    by_q, by_k, by_v = _derivatives(row, q, k, v, where=where, block_size=block_size)
    with anysoft.options(path="generic"):  # which is the path that takes NaN: the digits are the same, to the last
        clean = _derivatives(row, (Q[0], Q[1]), K, V, where=where, block_size=block_size)
        expected = _derivatives(row, Q, K, V, ((1.0, -0.5), (0.0, 0.0)), block_size=block_size)
    for found, right in zip((by_q, by_k, by_v), clean, strict=True):
        np.testing.assert_array_equal(found, right)
    assert (by_q[1] == 0).all()
    assert (by_k[[1, 3]] == 0).all()
    assert (by_v[[1, 3]] == 0).all()

    alone = _derivatives(row, (Q[0], (NAN, 1.0)), K, V, ((1.0, -0.5), (0.0, 0.0)), block_size=block_size)
    for found, right in zip(alone, expected, strict=True):
        np.testing.assert_array_equal(found, right)


@BLOCKS
@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
def test_both_orders_of_torch(row: Row, block_size: Any) -> None:
    torch = importlib.import_module("torch")
    masks = (None, row.array(MASK, "bool"), row.array(((False,) * 4, MASK[0]), "bool"))
    for where in masks:
        arrays = [row.array(each).requires_grad_() for each in (Q, K, V)]
        scale = row.array(SCALE).requires_grad_()

        def of_all(q: Any, k: Any, v: Any, scale: Any, where: Any = where) -> Any:
            out, log_sum = anysoft.attention(
                q, k, v, where=where, scale=scale, block_size=block_size, return_logsumexp=True
            )
            return out, torch.where(log_sum.isfinite(), log_sum, 0.0)

        assert torch.autograd.gradcheck(of_all, (*arrays, scale), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(of_all, (*arrays, scale))


@pytest.mark.parametrize("row", rows("jax", dtypes=("float64",)))
def test_both_orders_of_jax(row: Row) -> None:
    """Against those of the plain formula, which are right where nothing is special."""
    jax = importlib.import_module("jax")
    q, k, v = (row.array(each) for each in (Q, K, V))
    where = row.array(MASK, "bool")

    def plain(q: Any, k: Any, v: Any) -> Any:
        scores = jax.numpy.where(where, q @ k.T * SCALE, -INF)
        log_sum = jax.nn.logsumexp(scores, axis=-1)
        return (jax.numpy.exp(scores - log_sum[:, None]) @ v).sum() + (log_sum**2).sum()

    def ours(q: Any, k: Any, v: Any) -> Any:
        out, log_sum = anysoft.attention(q, k, v, where=where, scale=SCALE, block_size=3, return_logsumexp=True)
        return out.sum() + (log_sum**2).sum()

    for order in (jax.grad, jax.hessian):
        found, expected = (jax.jit(order(each, argnums=(0, 1, 2)))(q, k, v) for each in (ours, plain))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(row.host(one), row.host(other), rtol=1e-12, atol=1e-14)
    dead = jax.jit(jax.hessian(lambda k: anysoft.attention(q, k, v, where=False).sum()))(row.array(((NAN, 1.0),) * 4))
    np.testing.assert_array_equal(row.host(dead), 0.0)
