"""The suite is itself tested: what is deliberately wrong is caught, by the cases that are there to catch it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from anysoft_conformance import transformations
from anysoft_conformance.judgement import Judgement, judge, judge_case
from anysoft_conformance.rows import find
from anysoft_conformance.subjects import SUBJECTS

import anysoft

Array = Any


def _shifted(x: Array, axis: Any) -> tuple[Array, Array]:
    """The maximum, and x less it: as it should be done, but for what the mistakes below do with it."""
    peak = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return peak, x - np.where(np.isfinite(peak), peak, peak.dtype.type(0))


def _normalised(e: Array, axis: Any) -> Array:
    return e / np.sum(e, axis=axis, keepdims=True)


def _float(x: Array) -> Array:
    return x if x.dtype.kind == "f" else x.astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def naive_exp(x: Array, axis: Any) -> Array:
    return np.log(np.sum(np.exp(x), axis=axis))


def log1p_lost(x: Array, axis: Any) -> Array:
    peak, shifted = _shifted(x, axis)
    return np.squeeze(peak, axis=axis) + np.log(np.sum(np.exp(shifted), axis=axis))


def unguarded_shift(x: Array, axis: Any) -> Array:
    peak = np.max(x, axis=axis, keepdims=True)
    return np.squeeze(peak, axis=axis) + np.log(np.sum(np.exp(x - peak), axis=axis))


def log_of_softmax(x: Array, axis: Any) -> Array:
    return np.log(anysoft.softmax(x, axis))


def x_less_logsumexp(x: Array, axis: Any) -> Array:
    return x - anysoft.logsumexp(x, axis, keepdims=True)


def clamped_log(x: Array, axis: Any) -> Array:
    return np.log(np.maximum(anysoft.softmax(x, axis), x.dtype.type(1e-30)))


def summed_one_by_one(x: Array, axis: Any) -> Array:
    peak, shifted = _shifted(x, axis)
    return np.squeeze(peak, axis=axis) + np.log(np.take(np.cumsum(np.exp(shifted), axis=axis), -1, axis=axis))


def float16_sum(x: Array, axis: Any) -> Array:
    peak, shifted = _shifted(x, axis)
    return np.squeeze(peak, axis=axis) + np.log(np.sum(np.exp(shifted), axis=axis, dtype=x.dtype))


def narrow_softmax(x: Array, axis: Any) -> Array:
    return _normalised(np.exp(_shifted(x, axis)[1]), axis)


def bfloat16_sum(x: Array, axis: Any) -> Array:
    peak = x.max()
    total = x.new_zeros(())
    for term in (x - peak).exp().unbind():
        total = total + term  # torch.sum adds in float32
    return peak + total.log()


# ---------------------------------------------------------------------------------------------------------------------
# Special values


def nan_to_num(x: Array, axis: Any) -> Array:
    return np.nan_to_num(anysoft.softmax(x, axis))


def nan_ignored(x: Array, axis: Any) -> Array:
    peak = np.nanmax(x, axis=axis, keepdims=True)
    return np.squeeze(peak, axis=axis) + np.log(np.nansum(np.exp(x - peak), axis=axis))


def infinity_takes_all(x: Array, axis: Any) -> Array:
    infinite = x == np.inf
    found = np.any(infinite, axis=axis, keepdims=True)
    return np.where(found, _normalised(infinite.astype(x.dtype), axis), anysoft.softmax(x, axis))


def uniform_where_dead(x: Array, axis: Any) -> Array:
    return narrow_softmax(np.maximum(x, np.finfo(x.dtype).min), axis)


def zeros_where_dead(x: Array, axis: Any) -> Array:
    dead = np.all(x == -np.inf, axis=axis, keepdims=True)
    return np.where(dead, x.dtype.type(0), anysoft.softmax(x, axis))


# ---------------------------------------------------------------------------------------------------------------------
# Temperatures, masks, weights


def divided_before_the_shift(x: Array, axis: Any, *, temperature: float = 1.0) -> Array:
    return anysoft.softmax(x / x.dtype.type(temperature), axis)


def no_limit_of_temperature(x: Array, axis: Any, *, temperature: float = 1.0) -> Array:
    return _normalised(np.exp(_shifted(x, axis)[1] / x.dtype.type(temperature)), axis)


def temperature_promotes(x: Array, axis: Any, *, temperature: Any = 1.0) -> Array:
    return _normalised(np.exp(_shifted(x, axis)[1] / temperature), axis)


def any_temperature(x: Array, axis: Any, *, temperature: float = 1.0) -> Array:
    return _normalised(np.exp(_shifted(x, axis)[1] / np.float32(temperature)), axis)


def least_number_as_mask(x: Array, axis: Any, *, where: Array = True) -> Array:
    return anysoft.softmax(np.where(where, x, np.finfo(x.dtype).min), axis)


def mask_of_numbers(x: Array, axis: Any, *, where: Array = True) -> Array:
    return anysoft.softmax(x, axis, where=np.asarray(where) != 0)


def masked_afterwards(x: Array, axis: Any, *, where: Array = True) -> Array:
    probabilities = np.where(where, anysoft.softmax(x, axis), 0)
    return probabilities / np.sum(probabilities, axis=axis, keepdims=True)


def mask_forgotten_by_the_gradient(x: Array, axis: Any, *, where: Any = None) -> Array:
    import torch

    if where is None:
        return anysoft.logsumexp(x, axis)
    peak = torch.where(where, x, -torch.inf).amax(axis, keepdim=True).detach()
    peak = torch.where(peak.isfinite(), peak, 0)
    e = torch.where(where, (x - peak).exp(), 0)
    return e.sum(axis).log() + peak.squeeze(axis)


def torchs_own(x: Array, axis: Any) -> Array:
    import torch

    return torch.logsumexp(x, axis)


def maximum_without_weights(x: Array, axis: Any, *, b: Any = 1.0, return_sign: bool = False) -> Any:
    peak, shifted = _shifted(x, axis)
    total = np.sum(b * np.exp(shifted), axis=axis)
    value = np.squeeze(peak, axis=axis) + np.log(np.abs(total))
    return (value, np.sign(total)) if return_sign else value


def weight_of_zero_counts(x: Array, axis: Any, *, b: Any = 1.0, return_sign: bool = False) -> Any:
    value, sign = anysoft.logsumexp(x, axis, b=b, return_sign=True)
    spoiled = np.any(np.isnan(b * x), axis=axis)
    value = np.where(spoiled, x.dtype.type(np.nan), value)
    return (value, np.where(spoiled, x.dtype.type(np.nan), sign)) if return_sign else value


def sign_is_never_zero(x: Array, axis: Any, *, b: Any = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    value, sign = anysoft.logsumexp(x, axis, b=b, keepdims=keepdims, return_sign=True)
    return (value, np.where(sign < 0, sign, np.ones_like(sign))) if return_sign else value


def sign_forgotten(x: Array, axis: Any, *, b: Any = None, return_sign: bool = False) -> Array:
    return anysoft.logsumexp(x, axis, b=b, return_sign=True)[0]


def negative_sum_by_its_size(x: Array, axis: Any, *, b: Any = None) -> Array:
    return anysoft.logsumexp(x, axis, b=b, return_sign=True)[0]


def other_branch(x: Array, axis: Any, *, b: Any = None) -> Array:
    return np.conj(anysoft.logsumexp(x, axis, b=b))


# ---------------------------------------------------------------------------------------------------------------------
# Shapes, dtypes, devices, arguments


def last_of_the_axes(x: Array, axis: Any) -> Array:
    return anysoft.softmax(x, axis[-1] if axis else -1)


def keepdims_ignored(x: Array, axis: Any, *, keepdims: bool = False) -> Array:
    return anysoft.logsumexp(x, axis)


def empty_raises(x: Array, axis: Any) -> Array:
    return np.exp(x - np.max(x, axis=axis, keepdims=True))


def always_float64(x: Array, axis: Any) -> Array:
    return anysoft.softmax(x.astype(np.float64), axis)


def dtype_ignored(x: Array, axis: Any, *, dtype: Any = None) -> Array:
    return anysoft.softmax(x, axis)


def widened_afterwards(x: Array, axis: Any, *, dtype: Any = None) -> Array:
    return anysoft.log_softmax(x, axis).astype(dtype or x.dtype)


def integers_wrap(x: Array, axis: Any) -> Array:
    return anysoft.softmax((x - np.max(x, axis=axis, keepdims=True)).astype(np.float64), axis)


def list_returned(x: Array, axis: Any) -> Any:
    return anysoft.softmax(x, axis).tolist()


def argument_overwritten(x: Array, axis: Any) -> Array:
    x -= np.max(x, axis=axis, keepdims=True)
    np.exp(x, out=x)
    return _normalised(x, axis)


def left_on_the_default_device(x: Array, axis: Any) -> Array:
    import array_api_strict as xp

    return anysoft.softmax(x.to_device(xp.Device("CPU_DEVICE")), axis)


def another_error(x: Array, axis: Any) -> Array:
    try:
        return anysoft.softmax(x, axis)
    except (IndexError, TypeError, ValueError) as error:
        raise RuntimeError("no softmax") from error


class Mistake(NamedTuple):
    """What is wrong, and the aspect that each case finds broken; the right answer is anysoft's own."""

    function: str
    implementation: Callable[..., Any]
    caught: Mapping[str, str]
    dtype: str = "float64"
    backend: str = "numpy"
    device: str = ""
    what: str = "value"


MISTAKES = (
    Mistake(
        "logsumexp",
        naive_exp,
        {"huge": "special value", "hugely_negative": "special value", "largest": "special value"},
    ),
    Mistake("logsumexp", log1p_lost, {"dominated": "contract"}),
    Mistake("logsumexp", log1p_lost, {"dominated": "contract"}, "float32"),
    Mistake(
        "logsumexp",
        unguarded_shift,
        {"dead": "special value", "infinite": "special value", "infinite_both": "special value"},
    ),
    Mistake("log_softmax", log_of_softmax, {"dominated": "contract"}),
    Mistake("log_softmax", log_of_softmax, {"spread": "special value", "dominated_float32": "contract"}, "float32"),
    Mistake("log_softmax", x_less_logsumexp, {"large_and_close": "contract", "far_and_close": "contract"}),
    Mistake(
        "log_softmax",
        x_less_logsumexp,
        {"large_and_close": "contract", "dominated_float32": "contract", "ties_past_unit_spacing": "sum"},
        "float32",
    ),
    Mistake("log_softmax", clamped_log, {"spread": "contract", "some_absent": "special value"}),
    Mistake("logsumexp", summed_one_by_one, {"long_column": "contract"}, "float32"),
    Mistake("logsumexp", float16_sum, {"long_halves": "special value"}, "float16"),
    Mistake("logsumexp", summed_one_by_one, {"long_halves": "contract", "long_halves_uneven": "contract"}, "float16"),
    Mistake("softmax", narrow_softmax, {"long_halves": "contract"}, "float16"),
    Mistake("logsumexp", bfloat16_sum, {"long_halves": "contract"}, "bfloat16", "torch"),
    Mistake("softmax", nan_to_num, {"not_a_number": "special value", "dead": "special value"}),
    Mistake("logsumexp", nan_ignored, {"not_a_number": "special value", "nan_beside_absent": "special value"}),
    Mistake("softmax", infinity_takes_all, {"infinite": "special value", "infinite_tied": "special value"}),
    Mistake("softmax", uniform_where_dead, {"dead": "special value"}),
    Mistake("softmax", zeros_where_dead, {"dead": "special value"}),
    Mistake("softmax", divided_before_the_shift, {"largest_at_0.3": "special value"}),
    Mistake("softmax", divided_before_the_shift, {"temperature_subnormal": "special value"}, "float32"),
    Mistake("softmax", no_limit_of_temperature, {"moderate_at_0": "special value", "opposite_at_inf": "special value"}),
    Mistake("softmax", temperature_promotes, {"temperature_keeps_dtype": "dtype"}, "float32"),
    Mistake(
        "softmax",
        any_temperature,
        {"refuses_temperature_-1.0": "refusal", "refuses_temperature_nan": "refusal"},
        "float32",
    ),
    Mistake("softmax", least_number_as_mask, {"masked_below_everything": "contract", "masked_out": "contract"}),
    Mistake("softmax", mask_of_numbers, {"refuses_mask_integers": "refusal"}, "float32"),
    Mistake("softmax", masked_afterwards, {"masked": "special value", "masked_huge": "special value"}),
    Mistake(
        "logsumexp",
        mask_forgotten_by_the_gradient,
        {"masked": "special value", "masked_huge": "special value"},
        backend="torch",
        what="gradient",
    ),
    Mistake(
        "logsumexp",
        torchs_own,
        {"dead": "special value", "infinite": "special value", "infinite_both": "special value"},
        "float32",
        "torch",
        what="gradient",
    ),
    Mistake(
        "logsumexp",
        torchs_own,
        {"ties_past_unit_spacing": "contract", "dominated": "contract"},
        "float32",
        "torch",
        what="hessian",
    ),
    Mistake(
        "logsumexp", maximum_without_weights, {"weights_far": "contract", "weights_zero_infinity": "special value"}
    ),
    Mistake("logsumexp", weight_of_zero_counts, {"weights_zero_nan": "special value"}),
    Mistake("logsumexp", sign_is_never_zero, {"weights_zero_sum": "contract", "empty_sign": "contract"}),
    Mistake("logsumexp", sign_forgotten, {"weights_negative_sum": "shape", "sign": "shape"}),
    Mistake("logsumexp", negative_sum_by_its_size, {"weights_no_sign": "special value"}),
    Mistake("logsumexp", other_branch, {"complex": "contract", "complex_branch": "contract"}),
    Mistake("softmax", last_of_the_axes, {"axis_pair": "contract", "axis_all": "contract", "axis_nothing": "contract"}),
    Mistake("logsumexp", keepdims_ignored, {"kept": "shape", "kept_pair": "shape", "kept_all": "shape"}),
    Mistake("softmax", empty_raises, {"empty": "raised", "empty_all": "raised"}),
    Mistake("softmax", always_float64, {"moderate": "dtype", "vocabulary": "dtype"}, "float32"),
    Mistake("softmax", dtype_ignored, {"widened": "dtype"}, "float32"),
    Mistake("log_softmax", widened_afterwards, {"widened": "contract"}, "float16"),
    Mistake("softmax", integers_wrap, {"int8": "contract", "uint8": "contract", "int16": "contract"}, "float32"),
    Mistake("softmax", list_returned, {"moderate": "namespace"}),
    Mistake("softmax", argument_overwritten, {"moderate": "argument"}),
    Mistake("softmax", argument_overwritten, {"read_only_0": "raised"}, "float32"),
    Mistake(
        "softmax", left_on_the_default_device, {"moderate": "device"}, backend="array_api_strict", device="device1"
    ),
    Mistake(
        "softmax",
        another_error,
        {"refuses_axis_2": "refusal", "refuses_axis_repeated": "refusal", "refuses_axis_float": "refusal"},
        "float32",
    ),
)


def _judged(mistake: Mistake, implementation: Callable[..., Any]) -> Judgement:
    if mistake.backend != "numpy":
        pytest.importorskip(mistake.backend, reason=f"{mistake.backend} is not installed")
    return judge(
        mistake.function,
        implementation,
        backend=mistake.backend,
        device=mistake.device,
        dtypes=[mistake.dtype],
        cases=list(mistake.caught),
    )


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=lambda one: f"{one.function}-{one.implementation.__name__}-{one.dtype}"
)
def test_a_mistake_is_caught_by_the_cases_for_it(mistake: Mistake) -> None:
    judgement = _judged(mistake, mistake.implementation)
    found = {verdict.case: verdict.aspect for verdict in judgement.failures if verdict.what == mistake.what}
    assert found == dict(mistake.caught), str(judgement)


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=lambda one: f"{one.function}-{one.implementation.__name__}-{one.dtype}"
)
def test_the_same_cases_pass_what_is_right(mistake: Mistake) -> None:
    judgement = _judged(mistake, getattr(anysoft, mistake.function))
    assert judgement, str(judgement)
    kept = {
        verdict.case for verdict in judgement.verdicts if verdict.outcome == "kept" and verdict.what == mistake.what
    }
    assert kept == set(mistake.caught)


def test_there_are_many_mistakes() -> None:
    assert len({mistake.implementation for mistake in MISTAKES}) >= 18
    assert {aspect for mistake in MISTAKES for aspect in mistake.caught.values()} == {
        *("argument", "contract", "device", "dtype", "namespace", "raised", "refusal", "shape", "special value", "sum")
    }


# ---------------------------------------------------------------------------------------------------------------------
# Under transformations, where a plain call would be right


def looks_at_a_value(x: Array, axis: Any) -> Array:
    return anysoft.softmax(x, axis) if x.max() < 700 else anysoft.softmax(x - x.max(), axis)


def through_numpy(x: Array, axis: Any) -> Array:
    return importlib.import_module("torch").asarray(anysoft.softmax(x.numpy(), axis))


def values_baked_in(x: Array, axis: Any) -> Array:
    return anysoft.softmax(x * 0 + x.new_tensor(x.tolist()), axis)


def detached(x: Array, axis: Any) -> Array:
    return anysoft.softmax(x.detach(), axis)


def second_order_lost(x: Array, axis: Any) -> Array:
    p = anysoft.softmax(x, axis).detach()
    change = p * (x - (p * x).sum(axis, keepdim=True))
    return p + change - change.detach()


@pytest.mark.parametrize(
    ("implementation", "transformation", "aspect"),
    [
        (looks_at_a_value, "compile", "raised"),
        (looks_at_a_value, "vmap-first", "raised"),
        (through_numpy, "make_fx", "contract"),
        (through_numpy, "fake", "raised"),
        (values_baked_in, "jit.trace", "contract"),
        (detached, "jacrev", "contract"),
        (second_order_lost, "hessian", "contract"),
    ],
)
def test_a_mistake_that_only_a_transformation_shows(implementation: Any, transformation: str, aspect: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    (row,) = find(("torch",), ("cpu",), ("float32",))[0]
    subject = SUBJECTS["softmax"]
    (case,) = (case for case in subject.cases if case.name == "moderate")
    (one,) = (one for one in transformations.of("torch") if one.name == transformation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's tracers warn of some of these
        assert judge_case(subject, case, row, implementation).outcome == "kept"
        verdict = judge_case(subject, case, row, implementation, what=one.what, transformation=one)
        assert (verdict.outcome, verdict.aspect) == ("broken", aspect), verdict
        right = judge_case(subject, case, row, anysoft.softmax, what=one.what, transformation=one)
        assert right.outcome == "kept", right
    assert verdict.id.endswith(f"@{transformation}")
