"""The stability contract, in ulp against the oracle: every function, backend, device, dtype and path."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.corpus import CASES, Case
from anysoft_conformance.oracle import FUNCTIONS, FloatArray, Function, Truth
from anysoft_conformance.rows import Row, rows

PATHS = ("auto", "generic")
NORMALISATIONS: tuple[Function, ...] = ("softmax", "log_softmax")
TEMPERATURES = (0.0, 0.3, 50.0, math.inf)


@cache
def truths(case: Case, dtype: str, temperature: float = 1.0) -> dict[Function, Truth]:
    return oracle.truths(case.logits(dtype)[None], -1, temperature)


def assert_within(computed: FloatArray, exact: Truth, dtype: str, what: str) -> None:
    error, budget = oracle.ulp_error(computed, exact, dtype), oracle.budget(exact, dtype)
    bad = ~(error <= budget)
    assert not bad.any(), (
        f"{what}: {computed[bad][:4]} where {exact.value[bad][:4]} is right, "
        f"{error[bad][:4]} ulp of at most {budget[bad][:4]}"
    )


def call(function: Function, path: Any, x: Any, **options: Any) -> Any:
    with anysoft.options(path=path):
        return getattr(anysoft, function)(x, axis=-1, **options)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", rows())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_contract(function: Function, case: Case, row: Row, path: str) -> None:
    x = row.array(case.logits(row.dtype)[None])
    result = call(function, path, x)
    row.assert_kept(result, (1,) if function == "logsumexp" else (1, len(case.values)))
    assert_within(row.host(result), truths(case, row.dtype)[function], row.dtype, case.why)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("row", [*rows(dtypes=("float32",)), *rows("numpy", dtypes=("float64", "float16"))])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_temperature(case: Case, row: Row, temperature: float) -> None:
    rounded = float(oracle.round_to(np.array(temperature), "float32"))  # one temperature for all dtypes
    x = row.array(case.logits(row.dtype)[None])
    for function in NORMALISATIONS:
        exact = truths(case, row.dtype, rounded)[function]
        for given in (rounded, row.array([[rounded]], "float32")):
            result = call(function, "auto", x, temperature=given)
            row.assert_kept(result, (1, len(case.values)))
            assert_within(row.host(result), exact, row.dtype, f"{function} at T = {temperature}: {case.why}")


WEIGHTED: tuple[tuple[list[float], list[float]], ...] = (
    ([-800.0, 0.0], [1e308, 1e-300]),  # the maximum is of x + log|b|: SciPy and JAX take it of x (needs F8)
    ([700.0, -700.0], [1e-300, 1e300]),
    ([1400.0, 0.0], [1e-300, 1e307]),  # so far apart that b/s or exp(x) alone would leave the range
    ([0.0, 1380.0], [-1e307, 1e-300]),
    ([0.0, -1e-3], [1e300, -1e300]),  # cancels: log|b| in the exponent would lose 700·10³ roundings
    ([0.0, 1e-5], [1e10, -1e10]),
    ([10.0, 0.0], [1e-7, 1e-7]),
    ([0.0, -40.0], [1.0, 1.0]),
    ([1.5, 0.25], [-0.5, 2.5]),
)


def _weighted_rows(dtype: str) -> tuple[FloatArray, FloatArray]:
    """The literal rows, and random ones in which terms of either sign are of comparable size."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 30 if dtype == "float64" else 8, (300, 2))
    b = np.exp(-x + rng.normal(0, 2, x.shape)) * rng.choice([-1.0, 1.0], x.shape)
    if dtype == "float64":
        x, b = (np.concatenate([given, more]) for given, more in zip(zip(*WEIGHTED, strict=True), (x, b), strict=True))
    return oracle.round_to(x, dtype), oracle.round_to(b, dtype)


@cache
def weighted_truths(dtype: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """log|Σ b·exp(x)|, the sum's sign, and the contract's bound, in float64 and rounded up by less than 10⁻³⁰⁰."""
    values, signs, bounds = [], [], []
    u = oracle.FORMATS[dtype].roundoff
    with mpmath.workprec(600):
        for x, b in zip(*_weighted_rows(dtype), strict=True):
            terms = [mpmath.mpf(w) * mpmath.exp(mpmath.mpf(v)) for v, w in zip(x, b, strict=True)]
            total = mpmath.fsum(terms)
            value = float(mpmath.log(abs(total)))
            ulp = float(np.spacing(np.abs(np.array(value).astype(dtype))))
            condition = sum(abs(t) * (abs(mpmath.mpf(v)) + 1) for t, v in zip(terms, x, strict=True)) / abs(total)
            values.append(value)
            signs.append(float(mpmath.sign(total)))
            bounds.append(4 * ulp + 2 * u * float(condition))
    return np.array(values), np.array(signs), np.array(bounds)


@pytest.mark.parametrize("row", rows(dtypes=("float64", "float32")))
def test_weighted(row: Row) -> None:
    x, b = _weighted_rows(row.dtype)
    value, sign = anysoft.logsumexp(row.array(x), axis=-1, b=row.array(b), return_sign=True)
    exact, signs, bounds = weighted_truths(row.dtype)
    error = np.abs(row.host(value) - exact)
    worst = int(np.argmax(error / bounds))
    assert (error <= bounds).all(), f"{x[worst]} weighted {b[worst]}: {error[worst]} of at most {bounds[worst]}"
    np.testing.assert_array_equal(row.host(sign), signs)


LONG = 1_000_000


@cache
def long_logits() -> FloatArray:
    """Two rows of 10⁶: normal ones, and a maximum of 11 with a twentieth of the mass (the shift's worst case)."""
    rng = np.random.default_rng(20260101)
    spike = 0.3 * rng.standard_normal(LONG)
    spike[123_456] = 11.0
    # values that every dtype of 32 bits and more holds, so that one truth serves all
    return oracle.round_to(np.stack([rng.standard_normal(LONG), spike]), "float32")


@cache
def long_truths() -> dict[Function, Truth]:
    return oracle.truths(long_logits(), -1, at=PLACES)


PLACES = (*range(0, LONG, 997), 123_456)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", rows(dtypes=("float64", "float32")))
def test_long_rows(row: Row, path: Any, layout: str) -> None:
    # along axis 0 of (10⁶, 2) most frameworks add one by one
    x = row.array(long_logits() if layout == "rows" else np.ascontiguousarray(long_logits().T))
    axis = -1 if layout == "rows" else 0
    for function in FUNCTIONS:
        with anysoft.options(path=path):
            result = row.host(getattr(anysoft, function)(x, axis=axis))
        if function != "logsumexp":
            result = (result if layout == "rows" else result.T)[:, PLACES]
        assert_within(result, long_truths()[function], row.dtype, f"{function} along {layout}")


@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", "cupy", dtypes=("float16", "bfloat16")))
@pytest.mark.parametrize("path", PATHS)
def test_half_precision_sums_past_65504(row: Row, path: str) -> None:
    """google-research/last#43, executorch#20090, jax#40409: sums in halves overflow, or stop at 256."""
    n = 70_000
    x = row.array(np.zeros((1, n)))
    expected = oracle.round_to(np.array([math.log(n)]), row.dtype)
    np.testing.assert_array_equal(row.host(call("logsumexp", path, x)), expected)
    share = oracle.round_to(np.full((1, n), 1 / n), row.dtype)
    np.testing.assert_array_equal(row.host(call("softmax", path, x)), share)
    np.testing.assert_array_equal(row.host(call("log_softmax", path, x)), np.broadcast_to(-expected[:, None], (1, n)))


@pytest.mark.parametrize("row", rows(dtypes=("float64",)))
@pytest.mark.parametrize("path", PATHS)
def test_the_numbers_of_the_design(row: Row, path: Any) -> None:
    x = row.array([0.0, -40.0])
    with anysoft.options(path=path):
        assert float(row.host(anysoft.logsumexp(x))) == 4.248354255291589e-18
        assert row.host(anysoft.log_softmax(x))[0] == -4.248354255291589e-18
        weighted = anysoft.logsumexp(row.array([-800.0, 0.0]), b=row.array([1e308, 1e-308]))
        assert float(row.host(weighted)) == pytest.approx(-90.80379135783393, rel=1e-15)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "bool"])
@pytest.mark.parametrize("row", rows(dtypes=("float64",)))
def test_integers_become_the_default_float_before_any_shift(row: Row, kind: str) -> None:
    """int8 [127, −128] differs by 255, which int8 does not hold: SciPy and JAX answer [.27, .73]."""
    values = {"int8": [127, -128], "uint8": [0, 255], "int64": [2**40, 2**40 - 3], "bool": [True, False]}[kind]
    default = {"torch": "float32"}.get(row.backend, "float64")
    as_float = row.array(values, default)
    for function in FUNCTIONS:
        result = call(function, "auto", row.array(values, kind))
        row.assert_kept(result, () if function == "logsumexp" else (2,), default)
        np.testing.assert_array_equal(row.host(result), row.host(call(function, "auto", as_float)))


def _layouts(row: Row, base: FloatArray) -> dict[str, Any]:
    x = row.array(base)
    flipped = row.array(base[::-1].copy())
    found = {
        "transposed": row.array(base.T.copy()).T,
        "strided": row.array(np.repeat(base, 2, axis=1))[:, ::2],
        "broadcast": row.xp.broadcast_to(x[:1, :], base.shape),
        "view": row.array(np.concatenate([base, base]))[: len(base), :],
    }
    if row.backend != "torch":  # torch has no negative strides
        found["reversed"] = flipped[::-1, :]
    return found


@pytest.mark.parametrize("row", rows(dtypes=("float32",)))
def test_layouts(row: Row) -> None:
    base = oracle.round_to(np.random.default_rng(5).normal(0, 3, (6, 40)), "float32")
    for name, x in _layouts(row, base).items():
        values = np.broadcast_to(base[:1], base.shape) if name == "broadcast" else base
        for axis in (0, 1):
            exact = oracle.truths(values, axis)
            for function in FUNCTIONS:
                result = getattr(anysoft, function)(x, axis=axis)
                assert_within(row.host(result), exact[function], "float32", f"{function} of a {name} array")
        np.testing.assert_array_equal(row.host(x), values, err_msg="an argument was written to")


def test_the_contract_catches_the_textbook() -> None:
    """The suite can fail: log of softmax, and the plain formula, are outside the contract where they should be."""
    case = next(case for case in CASES if case.name == "dominated")
    x = case.logits("float64")[None]
    e = np.exp(x - x.max())
    exact = truths(case, "float64")
    for computed, function in ((np.log(e.sum(-1)), "logsumexp"), (np.log(e / e.sum()), "log_softmax")):
        with pytest.raises(AssertionError, match="ulp of at most"):
            assert_within(computed, exact[function], "float64", "textbook")  # type: ignore[index]


def test_there_are_rows() -> None:
    ran = {parameter.values[0].backend for parameter in rows() if not parameter.marks}
    assert "numpy" in ran
