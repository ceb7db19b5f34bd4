"""`judge`, as somebody uses it who has a softmax of their own; and what it says of the frameworks' own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import Judgement, judge

import anysoft

Array = Any


def _resolved(address: str) -> Callable[..., Any]:
    module, _, name = address.rpartition(".")
    found: Callable[..., Any] = getattr(pytest.importorskip(module, reason=f"{module} is not installed"), name)
    return found


def own_softmax(x: Array, axis: Any, *, where: Array = True) -> Array:
    e = np.exp(np.where(where, x, -np.inf) - np.max(x, axis=axis, keepdims=True, where=where, initial=-np.inf))
    return e / np.sum(e, axis=axis, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------
# In three lines


def test_scipys_softmax() -> None:
    softmax = _resolved("scipy.special.softmax")
    verdict = judge("softmax", softmax, dtypes=["float64", "float16"], cases=["moderate", "huge", "long_halves"])
    assert not verdict
    first, second = str(verdict).splitlines()
    assert first == "softmax by softmax: 4 kept, 1 broken, 0 not offered"
    measured = "0.0 where 1.4285714285714285e-05 is right: 240 ulp of at most 4"
    why = "a sum in halves overflows at 65 504, or stops at 256 (last#43, executorch#20090, jax#40409)"
    assert second == f"  softmax-long_halves-numpy-cpu-float16-call: contract: {measured} ({why})"


def test_torchs_logsumexp() -> None:
    verdict = judge("logsumexp", _resolved("torch.logsumexp"), backend="torch", dtypes=["float64"], cases="dominated")
    assert not verdict.passed
    assert verdict.failures[0].id == "logsumexp-dominated-torch-cpu-float64-call"
    assert verdict.failures[0].computed == "0.0"
    assert verdict.failures[0].truth == "4.248354255291589e-18"
    assert (verdict.failures[0].ratio or 0) > 1e13


def test_jaxs_softmax() -> None:
    verdict = judge(
        "softmax", _resolved("jax.nn.softmax"), backend="jax", dtypes=["float32"], cases=["zeros", "mask_*"]
    )
    assert {one.case for one in verdict.verdicts if one.outcome == "not offered"} == {"mask_and_temperature"}
    assert {one.case for one in verdict.verdicts if one.outcome == "kept"} >= {"zeros", "mask_true"}


def test_ones_own() -> None:
    verdict = judge("softmax", own_softmax, cases=["moderate", "masked", "masked_out", "dominated_at_0.3"])
    assert {one.case for one in verdict.failures} == {"masked_out"}
    assert {one.reason for one in verdict.verdicts if one.outcome == "not offered"} == {"it takes no temperature"}


def test_it_is_shown_at_most_twenty_lines() -> None:
    lines = str(judge("softmax", lambda x, axis: x * np.nan, cases=["moderate*"], options=["temperature"])).splitlines()
    assert lines[0].startswith("softmax by <lambda>: 0 kept, ")
    assert len(lines) == 22 or (len(lines) < 22 and "more in .failures" not in lines[-1])
    assert all(line.startswith("  softmax-moderate") for line in lines[1:21])


# ---------------------------------------------------------------------------------------------------------------------
# Its arguments


def test_options_are_read_from_the_signature() -> None:
    def none(x: Array, axis: Any) -> Array:
        return anysoft.softmax(x, axis)

    def all_of_them(x: Array, axis: Any, **options: Any) -> Array:
        return anysoft.softmax(x, axis, **options)

    def offered(implementation: Callable[..., Any], **more: Any) -> set[str]:
        cases = ["moderate", "masked", "moderate_at_0.3", "narrowed"]
        verdict = judge("softmax", implementation, dtypes=["float64"], cases=cases, **more)
        assert verdict
        return {one.case for one in verdict.verdicts if one.outcome == "kept"}

    assert offered(none) == {"moderate"}
    assert offered(all_of_them) == {"moderate", "masked", "moderate_at_0.3", "narrowed"}
    assert offered(anysoft.softmax) == offered(all_of_them)
    assert offered(all_of_them, options=["where"]) == {"moderate", "masked"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"function": "softmid"}, "there is no function 'softmid'; there are logsumexp, softmax"),
        ({"backend": "nosuch"}, "there is no backend named 'nosuch'; there are numpy, torch, jax, cupy"),
        ({"device": "cuda"}, "no backend has a device 'cuda'; there are cpu"),
        ({"dtypes": ["float8"]}, "there is nothing to run on: no backend here has float8"),
        ({"cases": ["nosuch", "nor_this*"]}, "no case of softmax is named nosuch or nor_this*"),
    ],
)
def test_what_there_is_not_is_a_lookup_error_that_says_what_there_is(arguments: dict[str, Any], sentence: str) -> None:
    given = {"function": "softmax", "implementation": anysoft.softmax, "cases": "moderate", **arguments}
    with pytest.raises(LookupError) as caught:
        judge(**given)
    assert str(caught.value).startswith(sentence)


def test_the_package_is_lazy() -> None:
    program = """
import sys, anysoft_conformance
assert not {"numpy", "anysoft", "pytest", "mpmath"} & set(sys.modules)
from anysoft_conformance import judge
assert {"numpy", "anysoft"} <= set(sys.modules) and "pytest" not in sys.modules and "torch" not in sys.modules
import anysoft_conformance.judgement
assert judge is anysoft_conformance.judgement.judge
"""
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        importlib.import_module("anysoft_conformance").nosuch  # noqa: B018


# ---------------------------------------------------------------------------------------------------------------------
# What is known of the frameworks' own: implementation, dtype, case, what is broken of it

NATIVE = {
    "digits near zero": ("torch.logsumexp", "float64", "dominated", "value", "contract", "0.0"),
    "digits near zero, jax": ("jax.nn.logsumexp", "float64", "dominated", "value", "contract", "0.0"),
    "a small loss": ("scipy.special.log_softmax", "float32", "dominated_float32", "value", "contract", "0.0"),
    "a small loss, torch": ("torch.log_softmax", "float32", "dominated_float32", "value", "contract", "0.0"),
    "a small loss, jax": ("jax.nn.log_softmax", "float32", "dominated_float32", "value", "contract", "0.0"),
    "70 000 halves": ("scipy.special.logsumexp", "float16", "long_halves", "value", "special value", "inf"),
    "70 000 halves, torch": ("torch.logsumexp", "float16", "long_halves", "value", "special value", "inf"),
    "70 000 halves, jax": ("jax.nn.logsumexp", "float16", "long_halves", "value", "special value", "inf"),
    "their logarithms": ("torch.log_softmax", "float16", "long_halves", "value", "special value", "-inf"),
    "their probabilities": ("scipy.special.softmax", "float16", "long_halves", "value", "contract", "0.0"),
    "their probabilities, jax": ("jax.nn.softmax", "float16", "long_halves", "value", "contract", "0.0"),
    "the gradient of a dead row": ("torch.logsumexp", "float64", "dead", "gradient", "special value", "nan"),
    "the gradient of a dead row, jax": ("jax.nn.logsumexp", "float64", "dead", "gradient", "special value", "nan"),
    "the gradient at infinity": ("torch.logsumexp", "float64", "infinite", "gradient", "special value", "nan"),
    "the maximum without its weight": (
        *("scipy.special.logsumexp", "float64", "weights_far", "value", "contract", "-690.7755278982137"),
    ),
    "infinity": ("scipy.special.log_softmax", "float64", "infinite", "value", "special value", "-inf"),
    "nothing": ("scipy.special.softmax", "float64", "empty", "value", "raised", ""),
    "integers": ("scipy.special.softmax", "float32", "int8", "value", "dtype", ""),
    "integers, torch": ("torch.softmax", "float32", "int8", "value", "raised", ""),
    "integers, jax": ("jax.nn.softmax", "float32", "int8", "value", "dtype", ""),
}


def _judged(function: str, implementation: Callable[..., Any], backend: str, dtype: str, case: str) -> Judgement:
    return judge(function, implementation, backend=backend, dtypes=[dtype], cases=case)


@pytest.mark.parametrize(("address", "dtype", "case", "what", "aspect", "computed"), NATIVE.values(), ids=NATIVE.keys())
def test_what_is_known_of_natives_is_seen(
    address: str, dtype: str, case: str, what: str, aspect: str, computed: str
) -> None:
    implementation = _resolved(address)
    function = address.rpartition(".")[2]
    backend = {"scipy": "numpy"}.get(address.partition(".")[0], address.partition(".")[0])
    found = {str(one.what): one for one in _judged(function, implementation, backend, dtype, case).failures}
    assert (found[what].aspect, found[what].computed) == (aspect, computed)
    ours = _judged(function, getattr(anysoft, function), backend, dtype, case)
    assert {str(one.what): one.outcome for one in ours.verdicts}[what] == "kept", str(ours)
