"""The truths of the suite: more bits change nothing, what is shipped is the oracle's, derivatives are derivatives."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from anysoft_conformance import differences, judgement, long_rows, oracle, truths
from anysoft_conformance.subject import Subject
from anysoft_conformance.subjects import SUBJECTS
from anysoft_conformance.truths import Problem

SMALL = [
    (subject, case)
    for subject in SUBJECTS.values()
    for case in subject.cases
    if case.at is None and not case.full and not case.raises and not case.layout
]


def _same(one: oracle.Truth, other: oracle.Truth) -> bool:
    """To 104 bits: 1 and what is below it by less may differ in their exponents."""
    if not np.array_equal(np.isfinite(one.high), np.isfinite(other.high)):
        return False
    finite = np.isfinite(one.high)
    special = np.array_equal(one.high[~finite], other.high[~finite], equal_nan=True)
    a, b = (truth.map(lambda part: part[finite]) for truth in (one, other))
    scale = (a.exponent - b.exponent).astype(np.int32)
    distance = np.ldexp(a.high, scale) - b.high + (np.ldexp(a.low, scale) - b.low)
    return special and bool((np.abs(distance) <= 2.0**-104).all())


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_doubling_the_bits_changes_no_truth(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[tuple[str, tuple[oracle.Truth, ...]]]:
        truths._of_row.cache_clear()
        found: list[tuple[str, tuple[oracle.Truth, ...]]] = []
        for subject, case in SMALL:
            if case.dtypes and dtype not in case.dtypes:
                continue
            problem = case.problem(dtype, "float64")
            found.append((f"{subject.name} {case.name}", subject.truth(problem)))
            if case.derivatives and subject.gradient and not np.isnan(found[-1][1][0].high).any():
                found.append((f"{subject.name} {case.name} gradient", (subject.gradient(problem),)))
        return found

    before = everything()
    monkeypatch.setattr(oracle, "BITS", 2 * oracle.BITS)
    for (name, one), (_, other) in zip(before, everything(), strict=True):
        assert all(_same(a, b) for a, b in zip(one, other, strict=True)), name
    truths._of_row.cache_clear()
    judgement._truths.cache_clear()


def test_a_shipped_truth_is_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    row = long_rows.normal(20_000)
    assert long_rows.shipped(row) is not None
    (shipped,) = truths.softmax(Problem((row,), -1, at=(0, 77)))
    truths._of_row.cache_clear()
    monkeypatch.setattr(long_rows, "truths", dict)
    (computed,) = truths.softmax(Problem((row,), -1, at=(0, 77)))
    truths._of_row.cache_clear()
    assert _same(shipped, computed)


@pytest.mark.parametrize("length", [1_000_000, 10_000_000])
def test_every_shipped_truth_is_near_a_sum_without_rounding(length: int) -> None:
    row = long_rows.normal(length)
    known = long_rows.shipped(row)
    assert known is not None
    # exp in float64 is off by an ulp at most, fsum not at all
    assert float(known) == pytest.approx(math.log(math.fsum(np.exp(row - row.max()))), rel=1e-15)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_the_truth_of_a_derivative_is_a_derivative(name: str) -> None:
    """Against numerical differentiation in high precision."""
    x = [0.5, -1.25, 2.0, 0.125]
    subject: Subject = SUBJECTS[name]
    problem = Problem((np.array(x),), -1)

    def value(row: list[Any], i: int) -> Any:
        terms = [mpmath.exp(v) for v in row]
        total = mpmath.fsum(terms)
        return {"logsumexp": mpmath.log(total), "softmax": terms[i] / total}.get(name, row[i] - mpmath.log(total))

    def derivative(i: int, *places: int) -> float:
        orders = tuple(places.count(j) for j in range(len(x)))
        return float(mpmath.diff(lambda *row: value(list(row), i), tuple(map(mpmath.mpf, x)), orders))

    n = range(len(x))
    with mpmath.workprec(300):
        assert subject.gradient is not None
        rows = n if name != "logsumexp" else range(1)
        expected = np.array([[derivative(i, j) for j in n] for i in rows])
        np.testing.assert_allclose(np.atleast_2d(subject.gradient(problem).value), expected, rtol=1e-15)
        if subject.hessian is not None:
            expected = np.array([[derivative(0, i, j) for j in n] for i in n])
            np.testing.assert_allclose(subject.hessian(problem).value, expected, rtol=1e-15)


def test_the_condition_of_a_derivative_is_its_sensitivity() -> None:
    x = np.array([0.5, -1.25, 2.0, 0.125])
    for of_row in (truths.jacobian_of_softmax, truths.jacobian_of_log_softmax):
        exact = of_row(Problem((x,), -1))
        found = np.zeros_like(exact.condition)
        for k in range(x.size):
            step = np.zeros(x.size)
            step[k] = 2.0**-20
            up, down = (of_row(Problem((x + sign * step,), -1)).value for sign in (1, -1))
            found += np.abs((up - down) / 2.0**-19) * abs(x[k])
        np.testing.assert_allclose(exact.condition, found, rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "case"),
    [("logsumexp", "masked"), ("softmax", "dominated"), ("log_sigmoid", "zero"), ("kl_divergence", "close")],
)
def test_differences_of_a_value_are_its_derivative(function: str, case: str) -> None:
    subject = SUBJECTS[function]
    (problem,) = (one.problem("float32", "float64") for one in subject.cases if one.name == case)
    assert subject.gradient is not None
    found, written = differences.jacobian(subject.truth, problem), subject.gradient(problem)
    np.testing.assert_allclose(found.value, written.value, rtol=1e-12, atol=0)
    np.testing.assert_allclose(found.condition, written.condition, rtol=1e-4, atol=1e-30)


def test_differences_of_a_gradient_are_the_second_derivative() -> None:
    subject = SUBJECTS["logsumexp"]
    (problem,) = (one.problem("float32", "float64") for one in subject.cases if one.name == "moderate")
    found = differences.jacobian(lambda problem: (truths.gradient_of_logsumexp(problem),), problem)
    written = truths.jacobian_of_softmax(problem)
    np.testing.assert_allclose(found.value, written.value, rtol=1e-12, atol=0)
    np.testing.assert_allclose(found.condition, written.condition, rtol=1e-4, atol=0)
