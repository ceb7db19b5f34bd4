"""A drop-in for ``scipy.special.logsumexp``: its arguments, its results, on everything that it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import anysoft

special = pytest.importorskip("scipy.special", reason="scipy is not installed")
INF, NAN = math.inf, math.nan

ARGUMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "list": ([1, 2, 3], {}),
    "nested_list": ([[1.0, 2.0], [3.0, 4.0]], {"axis": 1}),
    "number": (3.0, {}),
    "numpy_scalar": (np.float32(3), {}),
    "integers": (np.arange(6).reshape(2, 3), {"axis": 0}),
    "booleans": (np.array([True, False]), {}),
    "float32": (np.arange(5, dtype="float32"), {}),
    "axis_none": (np.ones((2, 3)), {"axis": None}),
    "axis_tuple": (np.arange(24.0).reshape(2, 3, 4), {"axis": (0, 2)}),
    "keepdims": (np.arange(6.0).reshape(2, 3), {"axis": 1, "keepdims": True}),
    "weights": ([1.0, 2.0], {"b": [0.5, 2.0]}),
    "zero_weight": ([1.0, 2.0], {"b": [0, 2]}),
    "scalar_weight": ([[1.0, 2.0], [3.0, 4.0]], {"b": 2.0, "axis": 1}),
    "broadcast_weights": (np.arange(6.0).reshape(2, 3), {"b": np.array([[1.0], [2.0]]), "axis": 0}),
    "integer_weights_beside_float32": (np.arange(3, dtype="float32"), {"b": np.array([1, 2, 3])}),
    "negative_sum": ([1.0, 2.0], {"b": [1, -1], "return_sign": True}),
    "negative_sum_without_sign": ([1.0, 2.0], {"b": [1, -1]}),
    "zero_sum": ([1.0, 1.0], {"b": [1, -1], "return_sign": True}),
    "sign_of_rows": (np.zeros((3, 2)), {"b": np.array([[1, 1], [1, -1], [-1, -1.0]]), "axis": 1, "return_sign": True}),
    "minus_infinities": (np.full(3, -INF), {}),
    "infinity": ([INF, 1.0], {}),
    "both_infinities": ([INF, -INF], {}),
    "nan": ([NAN, 1.0], {}),
    "infinite_rows": ([[INF, INF], [-INF, -INF], [INF, -INF], [0.0, -INF]], {"axis": 1}),
    "huge": ([1000.0, 1000.0], {}),
    "complex": (np.array([1 + 2j, 3 - 1j]), {}),
    "complex_and_weights": (np.array([1 + 2j, 3 - 1j]), {"b": [2.0, -3.0]}),
    "complex_sign": (np.array([1 + 2j, 3 - 1j]), {"return_sign": True}),
    "real_and_complex_weights": (np.array([1.0, 2.0]), {"b": np.array([1j, 2 + 1j])}),
    "empty": (np.zeros((2, 0)), {"axis": 1}),
    "empty_all": ([], {}),
    "tiny_imaginary": (np.array([1.0 + 1e-30j, 0.5]), {}),  # statsmodels' complex step, scipy#21709
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_same_result_as_scipy(name: str) -> None:
    x, options = ARGUMENTS[name]
    with np.errstate(all="ignore"):
        expected = special.logsumexp(x, **options)
    computed = anysoft.logsumexp(x, **options)
    pairs = zip(computed, expected, strict=True) if options.get("return_sign") else [(computed, expected)]
    for ours, theirs in pairs:
        assert np.shape(ours) == np.shape(theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-15 if np.asarray(ours).dtype != np.float32 else 2e-7)
    if name == "tiny_imaginary":
        assert computed.imag == pytest.approx(expected.imag, rel=1e-14)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_normalisations_agree_with_scipy(function: str) -> None:
    x = np.random.default_rng(3).normal(size=(3, 4, 5))
    for axis in (0, -1, (0, 2), None):
        ours, theirs = getattr(anysoft, function)(x, axis=axis), getattr(special, function)(x, axis=axis)
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
