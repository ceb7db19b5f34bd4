"""What is drawn, by statistics: frequencies, tails, order without replacement, seeds; and derivatives of what is hard.

Every seed is given, so that a test that passes once passes always; the bounds are those of five standard deviations.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import anysoft
from anysoft_conformance.oracle import round_to
from anysoft_conformance.rows import Row, rows

INF = math.inf
Counts = np.ndarray[Any, Any]
OWN = ("numpy", "torch", "jax", "cupy")  # with a generator of their own
SEED = 20


@pytest.fixture(autouse=True)
def session(request: pytest.FixtureRequest) -> Iterator[None]:
    """JAX has float64 only if asked for it."""
    with request.getfixturevalue("row").framework.session():
        yield


def _assert_frequencies(counts: Counts, probabilities: Counts) -> None:
    """χ² within five standard deviations of its mean; what has probability 0 is never drawn."""
    assert counts[probabilities == 0].sum() == 0
    expected = counts.sum() * probabilities[probabilities > 0] / probabilities.sum()
    assert expected.min() > 5
    statistic = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    freedom = expected.size - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 5, f"{counts} where {expected} were expected"


def _probabilities(x: Counts) -> Counts:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


# four that are frequent, 24 of probability 1e-5, and four that must never be drawn
FREQUENT = [0.0, -1.0, -2.0, 0.5]
RARE = [-10.5] * 24


@pytest.mark.parametrize("row", rows())
def test_frequencies(row: Row) -> None:
    x = round_to(np.array([*FREQUENT, *RARE, *[-INF] * 4]), row.dtype)
    n, temperature = 60_000, 0.5
    if row.device == "no_x64":
        pytest.skip("array_api_strict: the device refuses the indices of its own argmax")
    drawn = anysoft.categorical(row.array(x * temperature), shape=(n,), temperature=temperature, rng=SEED)
    row.assert_kept(drawn, (n,), row.framework.default_integer)
    counts = np.bincount(row.host(drawn).astype(int), minlength=x.size)
    p = _probabilities(x)
    assert 0.8e-5 < p[4] < 1.1e-5
    assert counts[4:28].max() < 8
    grouped = [np.array([*a[:4], a[4:28].sum(), a[28:].sum()]) for a in (counts, p)]
    _assert_frequencies(*grouped)


@pytest.mark.parametrize("row", rows(*OWN, dtypes=("float32",)))
def test_tails_of_ten_million(row: Row) -> None:
    """None is infinite, and as many are large or small as should be: P(G > t) = 1 − exp(−exp(−t))."""
    n, chunks = 1_000_000, 10
    above, below = (8.0, 10.0, 12.0, 14.0, 16.0), (-2.0, -2.5)
    counts = dict.fromkeys((*above, *below), 0)
    for seed in range(chunks):
        g = row.host(anysoft.gumbel(n, rng=seed, like=row.array([0.0])))
        assert np.isfinite(g).all()
        for t in above:
            counts[t] += int((g > t).sum())
        for t in below:
            counts[t] += int((g < t).sum())
    for t, count in counts.items():
        p = -math.expm1(-math.exp(-t)) if t > 0 else math.exp(-math.exp(-t))
        mean = n * chunks * p
        assert abs(count - mean) < 5 * math.sqrt(mean) + 2, f"{count} beyond {t} where {mean:.1f} were expected"


@pytest.mark.parametrize("row", rows(*OWN, dtypes=("float64",)))
def test_float64_refines_float32(row: Row) -> None:
    """The same seed draws the same noise in both, in float64 with a longer tail."""
    fine = anysoft.gumbel((1000,), rng=SEED, like=row.array([0.0]))
    coarse = anysoft.gumbel((1000,), rng=SEED, like=row.array([0.0], "float32"))
    row.assert_kept(fine, (1000,))
    row.assert_kept(coarse, (1000,), "float32")
    np.testing.assert_allclose(row.host(coarse), row.host(fine), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("row", rows(dtypes=("float64", "float32")))
def test_order_without_replacement(row: Row) -> None:
    """Each ordered pair as often as Plackett and Luce have it: p_i p_j / (1 − p_i)."""
    if row.device == "no_x64":
        pytest.skip("array_api_strict: the device refuses the indices of its own argsort")
    x = np.array([0.0, 1.0, -1.5, 0.5, -INF])
    n = 20_000
    logits = row.array(np.broadcast_to(x, (n, x.size)).copy())
    indices, keys = anysoft.gumbel_top_k(logits, 2, rng=SEED)
    row.assert_kept(indices, (n, 2), row.framework.default_integer)
    row.assert_kept(keys, (n, 2), "float64" if row.dtype == "float64" else "float32")
    first, second = row.host(indices).astype(int).T
    assert (first != second).all()
    assert (np.diff(row.host(keys), axis=-1) <= 0).all()
    p = _probabilities(x)
    pairs = list(itertools.permutations(range(4), 2))
    counts = np.array([((first == i) & (second == j)).sum() for i, j in pairs])
    assert counts.sum() == n
    _assert_frequencies(counts, np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs]))


@pytest.mark.parametrize("row", rows(*OWN, dtypes=("float32", "float16", "bfloat16")))
def test_who_is_among_many_in_halves(row: Row) -> None:
    """4096 alike: keys rounded to halves would tie by the hundred, and the first of them would be drawn too often."""
    n = 500
    indices, _ = anysoft.gumbel_top_k(row.array(np.full((n, 4096), 1.5)), 4, rng=SEED)
    counts = np.bincount(row.host(indices).astype(int).reshape(-1) // 512, minlength=8)
    _assert_frequencies(counts, np.full(8, 1 / 8))


@pytest.mark.parametrize("row", rows(dtypes=("float32", "bfloat16")))
def test_relaxed_draws(row: Row) -> None:
    """The largest of a relaxed draw is where the hard one is one, and as often as softmax says."""
    if row.device == "no_x64":
        pytest.skip("array_api_strict: the device refuses the indices of its own argmax")
    x = np.array([0.0, 1.0, -1.5, -INF])
    n = 20_000
    logits = row.array(np.broadcast_to(x, (n, x.size)).copy())
    soft = row.host(anysoft.gumbel_softmax(logits, temperature=0.75, rng=SEED))
    hard = anysoft.gumbel_softmax(logits, temperature=0.75, rng=SEED, hard=True)
    row.assert_kept(hard, (n, 4))
    one_hot = row.host(hard)
    assert set(np.unique(one_hot)) == {0.0, 1.0}
    assert (one_hot.sum(axis=-1) == 1).all()
    assert ((one_hot * soft).sum(axis=-1) == soft.max(axis=-1)).all()
    _assert_frequencies(one_hot.sum(axis=0), _probabilities(x))


@pytest.mark.parametrize("row", rows("torch", "jax", dtypes=("float64", "float32")))
def test_hard_draws_have_the_derivative_of_soft_ones(row: Row) -> None:
    x = row.array([[0.5, -1.25, 2.0, -INF], [3.0, 1.0, 0.0, 2.0]])
    noise = row.array([[0.25, 3.5, -0.75, 1.0], [-2.0, 0.5, 2.0, -0.25]])
    weights = row.array([1.0, -2.0, 0.5, 3.0])
    absent = row.array([[False, False, False, True], [False, False, True, False]], "bool")
    if row.backend == "jax":
        jax: Any = importlib.import_module("jax")
        grad = [jax.grad, jax.jit]  # because eager, each of its steps is compiled
    else:
        grad = [importlib.import_module("torch.func").grad]

    def hard(x: Any) -> Any:
        drawn = anysoft.gumbel_softmax(x, temperature=0.5, noise=noise, hard=True, where=~absent)
        return (drawn * weights).sum()

    def soft(x: Any) -> Any:
        return (anysoft.softmax(x + noise, temperature=0.5, where=~absent) * weights).sum()

    value = anysoft.gumbel_softmax(x, temperature=0.5, noise=noise, hard=True, where=~absent)
    np.testing.assert_array_equal(row.host(value), [[0, 1, 0, 0], [0, 0, 0, 1]])
    found, expected = (row.host(functools.reduce(lambda f, g: g(f), grad, each)(x)) for each in (hard, soft))
    assert np.isfinite(found).all()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_array_equal(found[row.host(absent) > 0], 0)
    np.testing.assert_allclose(found, expected, rtol=2e-6 if row.dtype == "float32" else 1e-14, atol=1e-7)


@pytest.mark.parametrize("row", rows(*OWN, dtypes=("float32",)))
def test_seeds(row: Row) -> None:
    x = row.array(np.zeros(1000))
    one, again, other = (row.host(anysoft.gumbel(1000, rng=seed, like=x)) for seed in (1, np.int64(1), 2))
    np.testing.assert_array_equal(one, again)
    assert not np.intersect1d(one, other).size > 2
    for draw in (anysoft.categorical, anysoft.gumbel_softmax):
        np.testing.assert_array_equal(row.host(draw(x, rng=1)), row.host(draw(x, noise=row.array(one))))
    if row.backend == "jax":
        with pytest.raises(TypeError, match="key"):
            anysoft.categorical(x)
    else:
        assert (row.host(anysoft.gumbel(1000, like=x)) != row.host(anysoft.gumbel(1000, like=x))).any()


@pytest.mark.parametrize("row", rows(dtypes=("float32",)))
def test_where_noise_lies(row: Row) -> None:
    """In the framework, on the device and of the dtype of `like`; drawn in float32 for halves."""
    row.assert_kept(anysoft.gumbel((2, 3), rng=0 if row.backend == "jax" else None, like=row.array([1.0])), (2, 3))
    row.assert_kept(anysoft.gumbel((), rng=0, like=row.array([1.0])), ())
    row.assert_kept(anysoft.gumbel(0, rng=0, like=row.array([1, 2], "int32")), (0,), row.framework.default_float)
    for half in ("float16", "bfloat16"):
        if half in row.framework.dtypes:
            like = row.array([1.0], half)
            row.assert_kept(anysoft.gumbel(4, rng=0, like=like), (4,), "float32")
            rounded = anysoft.gumbel(4, rng=0, like=like, dtype=like.dtype)
            row.assert_kept(rounded, (4,), half)
            np.testing.assert_allclose(row.host(rounded), row.host(anysoft.gumbel(4, rng=0, like=like)), rtol=0.01)
