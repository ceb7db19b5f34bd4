"""Infinities, NaN, masks, weights, empties: the literal table of what each call answers, on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import anysoft
from anysoft_conformance.rows import Row, rows

INF, NAN = math.inf, math.nan
LOG2 = math.log(2)
F64 = rows(dtypes=("float64",))
PATHS = ("auto", "generic")


def check(row: Row, result: Any, expected: Any) -> None:
    np.testing.assert_allclose(row.host(result), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", F64)
def test_where_is_never_looked_at(row: Row, path: str) -> None:
    # x, where, logsumexp, softmax
    table: list[tuple[list[float], list[bool], float, list[float]]] = [
        ([NAN, 1.0, INF], [False, True, False], 1.0, [0, 1, 0]),
        ([0.0, 0.0, 1e300], [True, True, False], LOG2, [0.5, 0.5, 0]),
        ([NAN, INF, 0.0], [False, False, False], -INF, [0, 0, 0]),  # nothing left: zeros
        ([-INF, -INF, 0.0], [True, True, False], -INF, [NAN, NAN, 0]),  # a row of −inf is left: NaN where kept
        ([NAN, 0.0, 0.0], [True, True, False], NAN, [NAN, NAN, 0]),  # a NaN that counts is kept
        ([INF, 0.0, 0.0], [True, True, False], INF, [NAN, NAN, 0]),
    ]
    with anysoft.options(path=path):  # type: ignore[arg-type]
        for values, kept, total, shares in table:
            x, where = row.array(values), row.array(kept, "bool")
            check(row, anysoft.logsumexp(x, where=where), total)
            check(row, anysoft.softmax(x, where=where), shares)
            logs = [
                -INF if not k else (NAN if math.isnan(p) else -INF if p == 0 else math.log(p))
                for k, p in zip(kept, shares, strict=True)
            ]
            check(row, anysoft.log_softmax(x, where=where), logs)
            for temperature in (0.0, 0.5, INF):
                at = row.host(anysoft.softmax(x, where=where, temperature=temperature))
                np.testing.assert_array_equal(np.isnan(at), np.isnan(shares), f"NaN at T = {temperature}")
                np.testing.assert_array_equal(at[~np.array(kept)], 0.0)


@pytest.mark.parametrize("row", F64)
def test_masks_broadcast(row: Row) -> None:
    x = row.array([0.0, 1.0, 2.0])
    where = row.array([[True, True, False], [False, True, True]], "bool")
    check(row, anysoft.logsumexp(x, axis=1, where=where), [np.logaddexp(0, 1), np.logaddexp(1, 2)])
    check(
        row,
        anysoft.softmax(row.array(np.zeros((2, 2))), where=row.array([[True], [False]], "bool")),
        [[0.5, 0.5], [0, 0]],
    )
    check(row, anysoft.logsumexp(x, where=True), anysoft.logsumexp(np.arange(3.0)))


@pytest.mark.parametrize("row", F64)
def test_weights(row: Row) -> None:
    # x, b, log|sum|, sign
    table: list[tuple[list[float], list[float], float, float]] = [
        ([0.0, 0.0], [1.0, -1.0], -INF, 0),  # cancels
        ([0.0, 0.0], [1.0, -3.0], LOG2, -1),
        ([NAN, 0.0], [0.0, 2.0], LOG2, 1),  # a zero weight removes its term, whatever x is
        ([INF, 0.0], [0.0, 2.0], LOG2, 1),
        ([1e300, 0.0], [0.0, 2.0], LOG2, 1),
        ([0.0, 0.0], [0.0, 0.0], -INF, 0),
        ([-INF, 0.0], [3.0, 1.0], 0.0, 1),
        ([0.0, 1.0], [INF, 1.0], INF, 1),  # inf · exp(x)
        ([0.0, 1.0], [-INF, 1.0], INF, -1),
        ([-INF, 1.0], [INF, 1.0], NAN, NAN),  # inf · 0
        ([0.0, 1.0], [INF, -INF], NAN, NAN),
        ([INF, 1.0], [-2.0, 1.0], INF, -1),
        ([INF, INF], [1.0, -1.0], NAN, NAN),
        ([0.0, 1.0], [NAN, 1.0], NAN, NAN),
        ([NAN, 1.0], [1.0, 1.0], NAN, NAN),
    ]
    for values, weights, total, sign in table:
        x, b = row.array(values), row.array(weights)
        value, phase = anysoft.logsumexp(x, b=b, return_sign=True)
        np.testing.assert_allclose(row.host(value), total, rtol=1e-15, err_msg=f"{values} weighted {weights}")
        check(row, phase, sign)
        plain = anysoft.logsumexp(x, b=b)
        np.testing.assert_allclose(row.host(plain), NAN if sign < 0 else total, rtol=1e-15)


@pytest.mark.parametrize("row", F64)
def test_empties_and_scalars(row: Row) -> None:
    empty = row.array(np.zeros((2, 0)))
    check(row, anysoft.logsumexp(empty, axis=1), [-INF, -INF])
    check(row, anysoft.logsumexp(empty), -INF)
    value, sign = anysoft.logsumexp(empty, axis=1, keepdims=True, return_sign=True)
    row.assert_kept(value, (2, 1))
    check(row, sign, [[0], [0]])
    assert tuple(anysoft.logsumexp(empty, axis=0).shape) == (0,)
    for function in (anysoft.softmax, anysoft.log_softmax):
        row.assert_kept(function(empty), (2, 0))
        row.assert_kept(function(empty, axis=0, temperature=2.0), (2, 0))
    point = row.array(3.5)
    for axis in (None, 0, -1, ()):
        check(row, anysoft.logsumexp(point, axis=axis), 3.5)
        check(row, anysoft.softmax(point, axis=axis), 1.0)
        check(row, anysoft.log_softmax(point, axis=axis), 0.0)
    row.assert_kept(anysoft.logsumexp(point, keepdims=True), ())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", F64)
def test_axes(row: Row, path: str) -> None:
    base = np.random.default_rng(1).normal(size=(2, 3, 4))
    x = row.array(base)
    with anysoft.options(path=path):  # type: ignore[arg-type]
        for axis in (None, 0, 1, -1, (0, 2), (-1, 1), (0, 1, 2)):
            axes = tuple(range(3)) if axis is None else axis
            expected = np.log(np.exp(base).sum(axis=axes, keepdims=True))
            kept = anysoft.logsumexp(x, axis=axis, keepdims=True)
            row.assert_kept(kept, expected.shape)
            np.testing.assert_allclose(row.host(kept), expected, rtol=1e-14)
            dropped = anysoft.logsumexp(x, axis=axis)
            row.assert_kept(dropped, np.squeeze(expected, axes).shape)
            np.testing.assert_allclose(row.host(anysoft.softmax(x, axis=axis)), np.exp(base - expected), rtol=1e-14)
            np.testing.assert_allclose(row.host(anysoft.log_softmax(x, axis=axis)), base - expected, rtol=1e-14)
        check(row, anysoft.logsumexp(x, axis=()), base)  # reduces nothing: the identity


@pytest.mark.parametrize("row", F64)
def test_temperatures_per_row(row: Row) -> None:
    x = row.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    temperature = row.array([[1.0], [0.0], [INF], [0.0], [-1.0], [NAN]])
    p = 1 / (1 + math.e)
    expected = [[p, 1 - p], [0, 1], [0.5, 0.5], [0.5, 0.5], [NAN, NAN], [NAN, NAN]]
    check(row, anysoft.softmax(x, temperature=temperature), expected)
    with np.errstate(divide="ignore"):
        logs = row.host(anysoft.log_softmax(x, temperature=temperature))
        np.testing.assert_allclose(logs, np.log(np.array(expected)), rtol=1e-15)


@pytest.mark.parametrize("row", rows(dtypes=("float32",)))
def test_dtypes(row: Row) -> None:
    x = row.array([1.0, 2.0])
    wide, narrow = row.array([0.0], "float64").dtype, x.dtype
    for function in (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax):
        shape = () if function is anysoft.logsumexp else (2,)
        row.assert_kept(function(x, dtype=wide), shape, "float64")
        row.assert_kept(function(row.array([1.0, 2.0], "float64"), dtype=narrow), shape, "float32")
    # a temperature never changes the dtype; weights of a wider dtype do
    row.assert_kept(anysoft.softmax(x, temperature=row.array([0.5], "float64")), (2,))
    row.assert_kept(anysoft.logsumexp(x, b=row.array([1.0, 2.0], "float64")), (), "float64")
    row.assert_kept(anysoft.logsumexp(x, b=2.0), ())
    row.assert_kept(
        anysoft.logsumexp(x, b=[1, 2]) if row.backend != "numpy" else anysoft.logsumexp(x, b=2),
        (),
        None if row.backend != "jax" else "float32",
    )
    # a result wider than the input is computed wide
    check(row, anysoft.logsumexp(row.array([0.0, -40.0]), dtype=wide), 4.248354255291589e-18)


@pytest.mark.parametrize("row", F64)
def test_complex(row: Row) -> None:
    # z, b, value
    table: list[tuple[list[complex], list[float] | None, complex]] = [
        ([0j, -40 + 0j], None, 4.248354255291589e-18 + 0j),
        ([1 + 2j, 3 - 1j], None, np.log(np.exp(1 + 2j) + np.exp(3 - 1j))),
        ([1000 + 1j, 1000 + 1j], None, 1000 + LOG2 + 1j),
        (
            [0j, math.pi * 1j],
            None,
            complex(math.log(abs(1 + np.exp(math.pi * 1j))), np.angle(1 + np.exp(math.pi * 1j))),
        ),
        ([0j], [-1.0], math.pi * 1j),  # the branch is (−π, π]
        ([-INF + 0j, -INF + 0j], None, complex(-INF, 0)),
        ([complex(INF, 1), 5 + 0j], None, complex(INF, 1)),
    ]
    for values, weights, expected in table:
        z = row.array(np.array(values), "complex128")
        b = None if weights is None else row.array(weights)
        result = anysoft.logsumexp(z, b=b)
        row.assert_kept(result, (), "complex128")
        np.testing.assert_allclose(row.host(result), expected, rtol=1e-15)
    size, phase = anysoft.logsumexp(row.array(np.array([2 + 1j, 2 + 1j]), "complex128"), return_sign=True)
    check(row, size, 2 + LOG2)
    np.testing.assert_allclose(row.host(phase), np.exp(1j), rtol=1e-15)
    with pytest.raises(TypeError, match="complex128"):
        anysoft.softmax(row.array(np.array([1j]), "complex128"))


@pytest.mark.parametrize("row", F64)
def test_bad_arguments(row: Row) -> None:
    x = row.array([[1.0, 2.0], [3.0, 4.0]])
    for function in (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax):
        for axis in (2, -3, (0, 5)):
            with pytest.raises(IndexError):
                function(x, axis=axis)
        with pytest.raises(ValueError, match="repeated axis"):
            function(x, axis=(1, -1))
        function(x, axis=1)
        for wrong in (1.5, 1.0):
            with pytest.raises(TypeError, match=str(wrong)):
                function(x, axis=wrong)
        with pytest.raises(ValueError, match=r"where of shape \(3,\)"):
            function(x, where=row.array([True, False, True], "bool"))
        with pytest.raises(TypeError, match="where must be boolean"):
            function(x, where=row.array([1, 0], "int64"))
        with pytest.raises(TypeError, match="dtype must be a floating dtype"):
            function(x, dtype=row.array([1], "int64").dtype)
    for function in (anysoft.softmax, anysoft.log_softmax):
        for temperature in (-1.0, -INF, NAN, np.float64(-2)):
            with pytest.raises(ValueError, match="temperature must not be negative or NaN"):
                function(x, temperature=temperature)
        for nonsense in (None, "hot", 1j):
            with pytest.raises(TypeError, match="temperature must be a real number"):
                function(x, temperature=nonsense)
        with pytest.raises(ValueError, match="varies along axis"):
            function(x, temperature=row.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"b of shape \(3,\)"):
        anysoft.logsumexp(x, b=row.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("row", rows(dtypes=("float64", "float32")))
def test_no_argument_is_written_to(row: Row) -> None:
    values, weights, kept = [[0.0, -40.0, INF], [NAN, 1.0, -INF]], [1.0, -2.0, 0.0], [True, False, True]
    x, b, where = row.array(values), row.array(weights), row.array(kept, "bool")
    temperature = row.array([[0.5], [0.0]])
    for axis in (0, 1, None):
        anysoft.logsumexp(x, axis=axis)
        anysoft.logsumexp(x, axis=axis, b=b, where=where)
        anysoft.softmax(x, axis=axis)
        anysoft.log_softmax(x, axis=axis)
    anysoft.softmax(x, axis=1, where=where, temperature=temperature)
    anysoft.log_softmax(x, axis=1, where=where, temperature=temperature)
    for array, before in ((x, values), (b, weights), (where, kept), (temperature, [[0.5], [0.0]])):
        np.testing.assert_array_equal(row.host(array), before)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", rows("numpy", "array_api_strict", dtypes=("float64", "float32")))
def test_special_values_are_nothing_to_warn_about(row: Row, path: Any) -> None:
    largest = float(np.finfo(row.dtype).max)
    table = [[largest, -largest], [INF, 1.0], [INF, -INF], [-INF, -INF], [NAN, 1.0], [0.0, -1e4]]
    with np.errstate(divide="raise", over="raise", invalid="raise"), anysoft.options(path=path):
        for values in table:
            for x in (row.array(values), row.array([values, values]), row.array([values, values]).T):
                for function in (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax):
                    for axis in (0, -1):
                        function(x, axis=axis)
