"""The decoding filters beyond the suite's cases: vocabularies, bits, permutations, derivatives and transformations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import logits
from anysoft_conformance.families.decoding import top_p_of_row, typical_of_row
from anysoft_conformance.rows import Row, rows

import anysoft
from anysoft import decoding

FILTERS: dict[str, Callable[[Any], Any]] = {
    "top_k": lambda x: decoding.top_k(x, 3),
    "top_p": lambda x: decoding.top_p(x, 0.7),
    "min_p": lambda x: decoding.min_p(x, 0.1),
    "typical": lambda x: decoding.typical(x, 0.6),
}
every_filter = pytest.mark.parametrize("keep", FILTERS.values(), ids=FILTERS.keys())
FRAMEWORKS = rows("torch", "jax", dtypes=("float64", "float32"))
VOCABULARY = 50_257


def _rows(n: int = 8) -> np.ndarray[Any, Any]:
    """Random logits with ties, −inf and zeros of either sign among them."""
    x = np.random.default_rng(5).normal(0, 2, (40, n)).round(1)
    x[::3, 2] = -np.inf
    x[1::3, 1] = x[1::3, 0]
    x[2, :2] = 0.0, -0.0
    return x


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.mark.parametrize("row", rows())
@every_filter
def test_what_is_kept_is_kept_bit_for_bit(keep: Callable[[Any], Any], row: Row) -> None:
    with row.framework.session():
        try:
            given = row.array(_rows())
            result = row.host(keep(given))
        except ValueError as error:  # conformance/anysoft_conformance/known_failures/array_api_strict.toml
            if "no_x64" not in str(error):
                raise
            pytest.xfail(str(error))
        given = row.host(given)
    kept = result > -np.inf
    np.testing.assert_array_equal(result[kept].view(np.int64), given[kept].view(np.int64))
    assert kept.any(-1).all()
    assert not kept[np.isinf(given)].any()


@every_filter
def test_filters_commute_with_permutations(keep: Callable[[Any], Any]) -> None:
    x, order = _rows(), np.random.default_rng(6).permutation(8)
    np.testing.assert_array_equal(keep(x[:, order]), keep(x)[:, order])


def _mass(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Probabilities in extended precision, where the platform has it."""
    e = np.exp(x.astype(np.longdouble) - x.max().astype(np.longdouble))
    return np.asarray(e / np.sum(np.sort(e)))


def _vocabularies(dtype: Any) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    drawn = [rng.normal(0, scale, VOCABULARY) for scale in (0.1, 1.0, 3.0, 3.0, 6.0)]
    return [x.astype(dtype) for x in (*drawn, *logits.shipped()[:40])]


@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", dtypes=("float64", "float32")))
def test_the_nucleus_of_a_vocabulary(row: Row) -> None:
    """The fewest largest whose mass reaches p, for a p that differs from the one given by what the contract allows."""
    unit = np.finfo(row.dtype).eps / 2
    for x in _vocabularies(row.dtype):
        mass = _mass(x)
        condition = 2 * float(np.sum(mass * np.abs(x)))
        for p in (0.05, 0.5, 0.9, 0.999):
            with row.framework.session():
                kept = row.host(decoding.top_p(row.array(x), p)) > -np.inf
            least = x[kept].min()
            np.testing.assert_array_equal(kept, x >= least)
            slack = 8 * unit * p + 2 * unit * condition
            assert np.sum(np.sort(mass[x >= least])) >= p - slack
            assert np.sum(np.sort(mass[x > least])) < p + slack


def test_sets_are_the_exact_ones() -> None:
    """On real logits and on random rows, in float64; no two sums of these are so near that a rounding could decide."""
    given = np.concatenate([logits.shipped()[:60], np.random.default_rng(8).normal(0, 2, (60, 10))])
    for p in (0.3, 0.75, 0.95):
        for keep, exact in ((decoding.top_p, top_p_of_row), (decoding.typical, typical_of_row)):
            found = keep(given, p) > -np.inf
            np.testing.assert_array_equal(found, [list(exact(x, p)) for x in given])


def test_halves_are_filtered_as_float32_would() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.tensor(np.random.default_rng(9).normal(0, 2, (4, 3000)))
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        for keep in FILTERS.values():
            found = keep(half)
            assert found.dtype is dtype
            assert torch.equal(found.float(), keep(half.float()))


def test_filters_compose() -> None:
    """Each counts among what the one before has left; at a temperature, the softmax is that of softmax."""
    x = _rows()
    for t in (0.0, 0.3, 2.0, np.inf):
        np.testing.assert_allclose(
            anysoft.softmax(decoding.temperature(x, t)), anysoft.softmax(x, temperature=t), rtol=1e-14
        )
    three = decoding.top_k(np.arange(8.0), 3)
    np.testing.assert_array_equal(decoding.top_p(three, 0.9), [-np.inf] * 6 + [6.0, 7.0])
    np.testing.assert_array_equal(decoding.top_p(three, 0.91), three)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives and transformations


def _gradient(row: Row, function: Callable[[Any], Any], x: Any) -> np.ndarray[Any, Any]:
    xp = row.xp

    def total(x: Any) -> Any:
        y = function(x)
        return xp.sum(xp.where(xp.isfinite(y), y, xp.zeros_like(y)))

    if row.backend == "jax":
        return row.host(pytest.importorskip("jax", reason="jax is not installed").grad(total)(x))
    x = x.clone().requires_grad_()
    total(x).backward()
    return row.host(x.grad)


@pytest.mark.parametrize("row", FRAMEWORKS)
@every_filter
def test_the_derivative_is_1_for_what_is_kept(keep: Callable[[Any], Any], row: Row) -> None:
    with row.framework.session():
        x = row.array(_rows())
        np.testing.assert_array_equal(_gradient(row, keep, x), row.host(keep(x)) > -np.inf)


@pytest.mark.parametrize("row", FRAMEWORKS)
def test_the_derivative_of_what_is_excluded_is_0(row: Row) -> None:
    with row.framework.session():
        x, where = row.array([1.0, np.nan, 3.0]), row.array([True, False, True], "bool")
        for keep in (decoding.top_k, decoding.temperature):
            found = _gradient(row, lambda x, keep=keep: keep(x, 2, where=where), x)  # type: ignore[misc]
            np.testing.assert_array_equal(found, [1.0, 0.0, 1.0] if keep is decoding.top_k else [0.5, 0.0, 0.5])


@pytest.mark.parametrize("row", FRAMEWORKS)
def test_the_derivative_at_a_temperature(row: Row) -> None:
    with row.framework.session():
        x = row.array([1.0, -np.inf, 3.0])
        found = _gradient(row, lambda x: decoding.temperature(x, 0.5), x)
        np.testing.assert_array_equal(found, [2.0, 0.0, 2.0])
        np.testing.assert_array_equal(_gradient(row, lambda x: decoding.temperature(x, 0), x), 0.0)


COOLED = {"temperature": lambda x: decoding.temperature(x, 0.7), **FILTERS}


@pytest.mark.parametrize("call", COOLED.values(), ids=COOLED.keys())
def test_torch(call: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.asarray(_rows())
    expected = call(x)
    torch.compiler.reset()
    for found in (torch.compile(call, fullgraph=True, backend="aot_eager")(x), torch.func.vmap(call)(x)):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("call", COOLED.values(), ids=COOLED.keys())
def test_jax(call: Callable[[Any], Any]) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(_rows(), dtype="float32")
    for found in (jax.jit(call)(x), jax.vmap(call)(x)):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(call(x)))


def test_jax_takes_numbers_and_arrays_that_are_traced() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(_rows(), dtype="float32")
    for k in (1, 3):
        np.testing.assert_array_equal(jax.jit(decoding.top_k)(x, k), decoding.top_k(x, k))
    rows_of_p = jax.numpy.linspace(0.1, 1.0, 40)[:, None]
    found = jax.jit(decoding.top_p)(x, rows_of_p)
    for i in (0, 17, 39):
        np.testing.assert_array_equal(found[i], decoding.top_p(x[i], float(rows_of_p[i, 0])))
