"""The oracle: constants known from elsewhere, both libraries, special values, and what an error in ulp is."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
from anysoft_conformance import oracle

TINY = 4.248354255291589e-18  # log1p(exp(-40))


def test_known_constants() -> None:
    assert float(oracle.logsumexp([0.0, -40.0])) == TINY
    assert float(oracle.log_softmax([0.0, -40.0])[0]) == -TINY
    assert float(oracle.logsumexp([0.0, 0.0])) == math.log(2)
    assert float(oracle.softmax([0.0, 0.0, 0.0])[0]) == 1 / 3
    # exp(-1000) lies below every float64, and the truth still holds it
    exact = oracle.truth("logsumexp", np.array([0.0, -1000.0]))
    assert float(exact.value) == 0.0
    assert math.log2(float(exact.high)) + int(exact.exponent) == pytest.approx(-1000 / math.log(2), rel=1e-14)


def test_cancellation_is_resolved() -> None:
    half = -math.log(2.0)  # rounded, so that the sum of two exponentials is not quite 1
    assert float(oracle.logsumexp([half, half])) == 2.3190468138462996e-17


@pytest.mark.parametrize("x", [[0.0, -40.0], [-math.log(2.0)] * 2, [1e5, 1e5 - 3, -2e5], [5e-324, -690.0, -1e-300]])
def test_doubling_the_precision_changes_nothing(x: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    before = oracle.truths(np.array(x))
    monkeypatch.setattr(oracle, "BITS", 2 * oracle.BITS)
    for function, exact in oracle.truths(np.array(x)).items():
        assert np.array_equal(exact.high, before[function].high), function
        assert np.array_equal(exact.exponent, before[function].exponent), function
        assert np.allclose(exact.low, before[function].low, rtol=0, atol=2.0**-104), function


@pytest.mark.skipif(importlib.util.find_spec("gmpy2") is None, reason="gmpy2 is not installed: mpmath runs anyway")
def test_mpmath_says_the_same() -> None:
    program = (
        "import sys; sys.modules['gmpy2'] = None; import numpy as np; from anysoft_conformance import oracle;"
        "x = np.random.default_rng(0).normal(size=(5, 7)) * 20;"
        "print([(o.high.tolist(), o.low.tolist(), o.exponent.tolist()) for o in oracle.truths(x).values()])"
    )
    x = np.random.default_rng(0).normal(size=(5, 7)) * 20
    here = [(o.high.tolist(), o.low.tolist(), o.exponent.tolist()) for o in oracle.truths(x).values()]
    paths = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r};"
    done = subprocess.run([sys.executable, "-c", paths + program], capture_output=True, text=True, check=True)
    there = eval(done.stdout, {"__builtins__": {}})
    for (high, low, exponent), (other_high, other_low, other_exponent) in zip(here, there, strict=True):
        assert (high, exponent) == (other_high, other_exponent)
        assert np.allclose(low, other_low, rtol=0, atol=2.0**-104)


@pytest.mark.parametrize(
    ("x", "total", "share"),
    [
        ([], -math.inf, []),
        ([-math.inf, -math.inf], -math.inf, [math.nan] * 2),
        ([math.inf, 0.0], math.inf, [math.nan] * 2),
        ([math.nan, math.inf], math.nan, [math.nan] * 2),
        ([-math.inf, 3.0], 3.0, [0.0, 1.0]),
    ],
)
def test_special_values(x: list[float], total: float, share: list[float]) -> None:
    np.testing.assert_equal(float(oracle.logsumexp(x)), total)
    np.testing.assert_equal([float(p) for p in oracle.softmax(x)], share)


def test_temperature_at_its_ends() -> None:
    assert [float(p) for p in oracle.softmax([1.0, 2.0, 2.0], 0.0)] == [0.0, 0.5, 0.5]
    assert [float(p) for p in oracle.log_softmax([1.0, 2.0], 0.0)] == [-math.inf, 0.0]
    assert [float(p) for p in oracle.softmax([1.0, 9.0, -math.inf], math.inf)] == [0.5, 0.5, 0.0]
    assert math.isnan(float(oracle.softmax([math.inf, 0.0], 0.0)[0]))
    with pytest.raises(ValueError, match=r"temperature must be at least 0, not -1\.0"):
        oracle.softmax([1.0], -1.0)


@pytest.mark.parametrize("dtype", oracle.FORMATS)
def test_the_correctly_rounded_truth_is_within_half_an_ulp(dtype: str) -> None:
    x = np.random.default_rng(1).normal(size=(40, 9)) * 12
    for function, exact in oracle.truths(x).items():
        error = oracle.ulp_error(oracle.round_to(exact.value, dtype), exact, dtype)
        assert error.max() <= 0.5 + 2.0**-28, function  # float64 first, then the dtype: two roundings


def test_ulp_error() -> None:
    half = oracle.truth("softmax", np.zeros(2))
    assert oracle.ulp_error(np.array([0.5, 0.5 + 2.0**-52]), half, "float64").tolist() == [0.0, 2.0]
    assert oracle.ulp_error(np.array([0.5, math.nan]), half, "float16").tolist()[0] == 0.0
    assert np.isnan(oracle.ulp_error(np.array([math.inf, math.nan]), half, "float16")).all()
    nan = oracle.truth("softmax", np.array([math.inf, 0.0]))
    assert np.array_equal(oracle.ulp_error(np.array([math.nan, 0.0]), nan, "float32"), [0.0, math.nan], equal_nan=True)
    # beyond the range of float16 the infinity is right, and the largest number is some ulp off
    large = oracle.truth("logsumexp", np.array([[7e4], [7e4]]))
    assert oracle.ulp_error(np.array([math.inf, 65504.0]), large, "float16").tolist() == [0.0, (7e4 - 65504) / 32]
    # below the smallest normal number the unit is the subnormal spacing
    tiny = oracle.truth("softmax", np.array([0.0, -16.0]))
    assert oracle.ulp_error(np.array([1.0, 0.0]), tiny, "float16")[1] == pytest.approx(
        math.exp(-16) / 2.0**-24, rel=1e-6
    )


@pytest.mark.parametrize(("dtype", "numpy"), [("float32", np.float32), ("float16", np.float16)])
def test_rounding_is_numpys(dtype: str, numpy: type) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=2000) * 10.0 ** rng.integers(-50, 45, size=2000)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(numpy).astype(np.float64)
    assert np.array_equal(oracle.round_to(x, dtype), expected)


def test_bfloat16_has_eight_bits() -> None:
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38, -math.inf, 2.0**-134, 1.5 * 2.0**-134])
    assert oracle.round_to(x, "bfloat16").tolist() == [1.0, 1 + 2.0**-6, math.inf, -math.inf, 0.0, 2.0**-133]


def test_the_budget_is_the_contract() -> None:
    # logsumexp of equal entries: Σ p_j |x_j| is |x_j|, and 2u|x|/ulp(f) lies between 1 and 2 binades of x
    exact = oracle.truth("logsumexp", np.array([100.0, 100.0]))
    assert float(exact.condition) == pytest.approx(100.0)
    assert float(oracle.budget(exact, "float64")) == pytest.approx(4 + 2 * 2.0**-53 * 100 / np.spacing(100.7))
    # near p = 1 the condition of log_softmax keeps its digits: (1 − p)·|x_0| + p_1·|x_1|
    near = oracle.truth("log_softmax", np.array([100.0, 60.0]))
    assert float(near.condition[0]) == pytest.approx(TINY * 160, rel=1e-12)
    some = oracle.truths(np.array([100.0, 60.0, -3.0]), at=[0, 2])
    assert some["softmax"].high.shape == (2,)
    every = oracle.truth("softmax", np.array([100.0, 60.0, -3.0]))
    assert np.array_equal(some["softmax"].condition, every.condition[[0, 2]])
