"""The corpus: what the family is asked, each case with a name and the reason why it is here.

In the values, `max`, `tiny` and `least` stand for the largest, the smallest normal and the smallest subnormal number of
the dtype. Tuples are arrays; a number among the options is given as a number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anysoft_conformance import logits, long_rows
from anysoft_conformance.oracle import FORMATS, FloatArray, round_to
from anysoft_conformance.truths import Axis, Problem

INF, NAN = math.inf, math.nan
Values = Any  # nested tuples of numbers and symbols, one number, or a function from the dtype to an array

CORE = ("logsumexp", "softmax", "log_softmax")
NORMALISATIONS = ("softmax", "log_softmax")
FLOATS = ("float64", "float32")
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Typed:
    """Values of a dtype of their own, whatever the row's is."""

    dtype: str
    values: Values


@dataclass(frozen=True, eq=False)
class Case:
    """What a function is given and, in `why`, what for.

    `on` names the functions that it is for, `dtypes` those it is for if not all, and `result` the dtype of the result
    where it is not the input's. A case that `raises` wants that error, with `match` in its text. `full` cases are for
    the full sweep, `at` are the places along the axis that are judged, if not all, and `others` the arrays after `x`.
    """

    name: str
    x: Values
    why: str
    on: tuple[str, ...] = CORE
    axis: Axis = -1
    options: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    result: str = ""
    layout: str = ""
    raises: type[Exception] | None = None
    match: str = ""
    derivatives: bool = True
    full: bool = False
    at: tuple[int, ...] | None = None
    others: tuple[Values, ...] = ()

    @property
    def arrays(self) -> tuple[Values, ...]:
        """The positional arrays."""
        return (self.x, *self.others)

    def needs(self) -> set[str]:
        """The dtypes that it takes beside the row's own."""
        named = {value.dtype for value in (*self.arrays, *self.options.values()) if isinstance(value, Typed)}
        wanted = self.options.get("dtype")
        return named | ({wanted} if isinstance(wanted, str) else set()) | ({self.result} if self.result else set())

    def kind(self, dtype: str) -> str:
        """The dtype of the first array."""
        return self.x.dtype if isinstance(self.x, Typed) else dtype

    def problem(self, dtype: str, default_float: str) -> Problem:
        """What the function is given at a dtype, on the host; numbers that the dtype does not hold are rounded."""
        kind = self.kind(dtype)
        result = self.result or str(self.options.get("dtype") or "")
        if not result:
            result = dtype if kind == dtype else default_float if kind not in COMPLEX else kind
        arrays = tuple(host(values, dtype) for values in self.arrays)
        if self.layout == "broadcast":
            arrays = tuple(np.broadcast_to(array[:1], array.shape) for array in arrays)
        options = {
            # an integer is a count or an axis
            name: value if name == "dtype" or isinstance(value, int) else host(value, dtype)
            for name, value in self.options.items()
        }
        return Problem(arrays, self.axis, options, result, self.at)


COMPLEX = ("complex64", "complex128")


def host(values: Values, dtype: str) -> Any:
    """Values as an exact NumPy array, rounded to a dtype; integers and None as they are.

    A float is rounded to float32: all carriers hold it then, and there is one truth.
    """
    if isinstance(values, Typed):
        if values.dtype not in FORMATS:
            return np.asarray(values.values, dtype=values.dtype)
        dtype, values = values.dtype, values.values
    if values is None or isinstance(values, int | str):
        return values
    if isinstance(values, float):
        return float(np.float32(values))
    if callable(values):
        return values(dtype)
    array = np.array(_numbers(values, dtype))
    return array if array.dtype == bool else round_to(array.astype(np.float64), dtype)


def _numbers(values: Values, dtype: str) -> Any:
    if isinstance(values, tuple):
        return [_numbers(value, dtype) for value in values]
    if isinstance(values, str):
        form = FORMATS[dtype]
        size = {
            "max": math.ldexp(1.0 - 2.0**-form.bits, form.largest),
            "tiny": math.ldexp(1.0, form.smallest - 1),
            "least": math.ldexp(1.0, form.smallest - form.bits),
        }[values.strip("-")]
        return -size if values[0] == "-" else size
    return values


# ---------------------------------------------------------------------------------------------------------------------
# Rows of logits

LOGITS = (
    Case("moderate", (0.5, -1.25, 2.0, 0.125), "nothing special"),
    Case("zeros", (0, 0, 0, 0), "all tied: log 4 and quarters"),
    Case("one", (3.25,), "a row of one: the value itself, probability 1"),
    Case("dominated", (0, -40), "log(1 + 4e-18) is not 0 (scipy#18295, scipy#19521, pytorch#113708)"),
    Case("dominated_float32", (20, 0), "the loss of a confident prediction, 2.06e-9 (tensorflow#62400)"),
    Case("dominated_negative", (-7, -25), "the same below zero"),
    Case("dominated_by_two", (5, 5, -30), "the same under a tie"),
    Case("dominated_many", (1, -9, -9.5, -10, -10.5, -11, -11.5, -12), "one large, many small"),
    Case("normalised", (math.log(0.25), math.log(0.75)), "log-probabilities: the sum is 1, its logarithm almost 0"),
    Case("normalised_many", (-math.log(8),) * 8, "the same, tied"),
    Case(
        "normalised_beside",
        tuple(-0.6931472830894565 - gap for gap in (20.0, 20.0, 0.0, 17.0, 16.0, 0.0, 17.0, 19.0)),
        "the same: two leaders, and small ones beside them",
    ),
    Case("normalised_three", (-0.44825270771980286, -1.0226813554763794, -6.4207658767700195), "the same, uneven"),
    Case("runner_up", (0, -0.01, *([-22.0] * 98)), "beside two large terms, each small one loses a rounding"),
    Case("huge", (1000, 1000), "the naive formula overflows"),
    Case("hugely_negative", (-1000, -1001), "the naive formula underflows to log 0"),
    Case("large_and_close", (6e4, 6e4 - 32), "x − logsumexp(x) has no digits left (mlx#4169)"),
    Case("far_and_close", (1e8, 1e8 - 8), "the same in float32 and float64; halves overflow"),
    Case("ties_past_unit_spacing", (2e7, 2e7), "the spacing of float32 is 2 here; x − logsumexp(x) is 0"),
    Case("largest", ("max", "max"), "no room above: the sum must not overflow"),
    Case("opposite", ("max", "-max"), "the difference overflows"),
    Case("spread", (0, -5, -50, -80, -100, -300, -700, -740), "every scale of exp, down to underflow"),
    Case("spread_up", (80, 40, 10, 1, 0, -1, -10, -40), "positive maxima, with and without a shift"),
    Case("in_range", (9.5, 0.1, -0.3, 0.7), "a maximum that needs no shift, and gets none"),
    Case("past_the_range", (60, 59.5, 20, 0.25), "in float32 a maximum that needs the shift"),
    Case("near_tie", (1.0, 1.0009765625), "differ in the last place of float16"),
    Case("tiny", ("tiny", "-tiny", 0, "tiny"), "smallest normal numbers"),
    Case("subnormal", ("least", "-least", 0, "least"), "smallest numbers of all"),
    Case("some_absent", (0.5, -INF, 1.5, -INF), "−inf has probability exactly 0"),
    Case("absent_but_one", (-INF, -3.5, -INF, -INF), "and all of it is left for one"),
    Case("dead", (-INF, -INF), "nothing: −inf, and NaN for a distribution (pytorch#25110, jax#6811)"),
    Case("infinite", (INF, 1.0), "+inf is the sum; there is no distribution"),
    Case("infinite_tied", (INF, INF, 0), "and with a tie"),
    Case("infinite_both", (INF, -INF), "inf − inf must not be computed"),
    Case("not_a_number", (NAN, 1.0), "NaN is never swallowed (torch-xpu-ops#5022)"),
    Case("nan_beside_infinity", (NAN, INF, -INF), "not by an infinity either (hmmlearn)"),
    Case("nan_beside_absent", (NAN, -INF), "and not by a dead rest"),
)

# ---------------------------------------------------------------------------------------------------------------------
# Temperatures

_HEATED = (
    *("moderate", "zeros", "dominated", "huge", "far_and_close", "largest", "opposite", "spread", "spread_up"),
    *("near_tie", "subnormal", "some_absent", "dead", "infinite_both", "not_a_number", "nan_beside_absent"),
)


def _heated() -> tuple[Case, ...]:
    """Rows of logits at each temperature, given as a number and as an array; the full sweep takes all of them."""
    return tuple(
        dataclasses.replace(
            case,
            name=f"{case.name}_at_{name}" + ("_array" if kind == "array" else ""),
            why=f"{case.why}; at T = {name}: (x − max)/T, never x/T (pytorch#163932)",
            on=NORMALISATIONS,
            options={"temperature": temperature if kind == "number" else Typed("float32", (temperature,))},
            dtypes=("float32",) if kind == "array" or case.name not in _HEATED[:9] else (),
            full=case.name not in _HEATED or (kind == "array" and temperature == 50.0),
            derivatives=False,
        )
        for case in LOGITS
        for temperature, name in ((0.0, "0"), (0.3, "0.3"), (50.0, "50"), (INF, "inf"))
        for kind in ("number", "array")
    )


_ROWS = ((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (1.0, 1.0), (1.0, 2.0), (1.0, 2.0))
TEMPERATURES = (
    *_heated(),
    Case(
        "temperature_per_row",
        _ROWS,
        "a row each: 1, the argmax, uniform, a tie, and NaN for the two that are no temperatures",
        NORMALISATIONS,
        options={"temperature": ((1.0,), (0.0,), (INF,), (0.0,), (-1.0,), (NAN,))},
    ),
    Case(
        "temperature_keeps_dtype",
        (0.5, -1.25, 2.0, 0.125),
        "a temperature never changes the dtype of the result",
        NORMALISATIONS,
        options={"temperature": Typed("float64", (0.5,))},
        dtypes=("float32", *HALVES),
        result="",
    ),
    Case(
        "temperature_tiny",
        (3.0, 1.0, 2.999, -40.0),
        "next to the argmax, where x/T overflows",
        NORMALISATIONS,
        options={"temperature": 2e-38},
    ),
    Case(
        "temperature_subnormal",
        (3.0, 1.0, 2.999, -40.0),
        "nearer still: 1/T alone is infinite in float32",
        NORMALISATIONS,
        options={"temperature": 1e-39},
    ),
    Case(
        "temperature_huge",
        (3.0, -INF, 2.0, -40.0),
        "next to uniform",
        NORMALISATIONS,
        options={"temperature": 1e30},
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Masks

MASKS = (
    Case("masked", (NAN, 1.0, INF), "what is excluded is never looked at", options={"where": (False, True, False)}),
    Case("masked_huge", (0.0, 0.0, "max"), "not for the maximum either", options={"where": (True, True, False)}),
    Case(
        "masked_out",
        (NAN, INF, 0.0),
        "nothing left: −inf, and zeros (pytorch#131060, mlx#2395, allennlp#890)",
        options={"where": (False, False, False)},
    ),
    Case(
        "masked_dead",
        (-INF, -INF, 0.0),
        "a row of −inf is left: NaN where it was kept",
        options={"where": (True, True, False)},
    ),
    Case(
        "masked_nan_kept",
        (NAN, 0.0, 0.0),
        "a NaN that counts is never swallowed (torch-xpu-ops#5022)",
        options={"where": (True, True, False)},
    ),
    Case("masked_infinite", (INF, 0.0, 0.0), "an infinity that counts", options={"where": (True, True, False)}),
    Case(
        "masked_dominated",
        (0.0, -40.0, 500.0),
        "and the digits near zero stay under a mask",
        options={"where": (True, True, False)},
    ),
    Case(
        "masked_below_everything",
        ("-max", "-max", 3.0),
        "a finite fill value such as finfo.min is no mask (transformers#17306, keras#21149)",
        options={"where": (True, True, False)},
    ),
    Case(
        "mask_broadcast_up",
        (0.0, 1.0, 2.0),
        "a mask of more rows than the logits",
        axis=1,
        options={"where": ((True, True, False), (False, True, True))},
        derivatives=False,
    ),
    Case(
        "mask_broadcast_down",
        ((0.0, 0.5), (1.0, NAN)),
        "a mask of one column",
        options={"where": ((True,), (False,))},
        derivatives=False,
    ),
    Case(
        "mask_false", (0.0, 1.0), "a mask may be False, which is not none", options={"where": False}, derivatives=False
    ),
    Case("mask_true", (0.0, 1.0, 2.0), "a mask may be a Python bool", options={"where": True}, derivatives=False),
    Case(
        "mask_and_temperature",
        (0.0, NAN, 2.0),
        "and both together",
        NORMALISATIONS,
        options={"where": (True, False, True), "temperature": 0.5},
        derivatives=False,
    ),
    *(
        Case(
            f"masked_{name}_at_{label}",
            x,
            "at every temperature",
            NORMALISATIONS,
            options={"where": kept, "temperature": temperature},
            dtypes=FLOATS,
            derivatives=False,
        )
        for temperature, label in ((0.0, "0"), (INF, "inf"))
        for name, x, kept in (
            ("out", (NAN, INF, 0.0), (False, False, False)),
            ("dead", (-INF, -INF, 0.0), (True, True, False)),
            ("nan_kept", (NAN, 0.0, 0.0), (True, True, False)),
            ("mixed", (NAN, 1.0, 1.0), (False, True, True)),
        )
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Weights


def _weighted(
    name: str, x: Values, b: Values, why: str, dtypes: tuple[str, ...] = FLOATS, *, sign: bool = True
) -> Case:
    options = {"b": b, "return_sign": True} if sign else {"b": b}
    return Case(name, x, why, ("logsumexp",), options=options, dtypes=dtypes, derivatives=False)


def _random_weights(index: int) -> Callable[[str], FloatArray]:
    """Logits (0) or weights (1) in which terms of either sign are of comparable size."""

    def values(dtype: str) -> FloatArray:
        rng = np.random.default_rng(7)
        x = rng.normal(0, 30 if dtype == "float64" else 8, (300, 2))
        b = np.exp(-x + rng.normal(0, 2, x.shape)) * rng.choice([-1.0, 1.0], x.shape)
        return round_to((x, b)[index], dtype)

    return values


_WIDE = ("float64",)
WEIGHTS = (
    _weighted(
        "weights_far", (-800.0, 0.0), (1e308, 1e-300), "the maximum is of x + log|b|, not of x (SciPy, JAX)", _WIDE
    ),
    _weighted("weights_far_apart", (700.0, -700.0), (1e-300, 1e300), "the same, with logits that overflow", _WIDE),
    _weighted("weights_wide", (1400.0, 0.0), (1e-300, 1e307), "b/s or exp(x) alone would leave the range", _WIDE),
    _weighted("weights_wide_negative", (0.0, 1380.0), (-1e307, 1e-300), "the same with a negative weight", _WIDE),
    _weighted("weights_huge_cancel", (0.0, -1e-3), (1e300, -1e300), "log|b| in the exponent loses 700 ulp", _WIDE),
    _weighted("weights_float32", (0.0, -120.0), (1e-37, 1e38), "the range of float32 (JAX: −85.2 for −32.5)"),
    _weighted("weights_cancel", (0.0, 1e-5), (1e10, -1e10), "terms that nearly cancel"),
    _weighted("weights_small", (10.0, 0.0), (1e-7, 1e-7), "a sum below 1 of a logit above it"),
    _weighted("weights_one", (0.0, -40.0), (1.0, 1.0), "weights of one keep the digits near zero"),
    _weighted("weights_mixed", (1.5, 0.25), (-0.5, 2.5), "of either sign (scipy#22903)"),
    _weighted("weights_subnormal", (0.0, 1.0), ("least", "least"), "weights below the smallest normal number"),
    _weighted("weights_zero_sum", (0.0, 0.0), (1.0, -1.0), "cancel exactly: −inf, sign 0"),
    _weighted("weights_negative_sum", (0.0, 0.0), (1.0, -3.0), "sign −1"),
    _weighted("weights_no_sign", (0.0, 0.0), (1.0, -3.0), "and NaN where the sign is not asked for", sign=False),
    _weighted("weights_zero_nan", (NAN, 0.0), (0.0, 2.0), "a zero weight removes its term, whatever x is"),
    _weighted("weights_zero_infinity", (INF, 0.0), (0.0, 2.0), "the same"),
    _weighted("weights_zero_huge", ("max", 0.0), (0.0, 2.0), "the same"),
    _weighted("weights_zero", (0.0, 0.0), (0.0, 0.0), "nothing left: −inf, sign 0"),
    _weighted("weights_absent", (-INF, 0.0), (3.0, 1.0), "b · exp(−inf) is nothing"),
    _weighted("weights_infinite", (0.0, 1.0), (INF, 1.0), "inf · exp(x)"),
    _weighted("weights_minus_infinite", (0.0, 1.0), (-INF, 1.0), "and below"),
    _weighted("weights_infinite_absent", (-INF, 1.0), (INF, 1.0), "inf · 0 is NaN, as IEEE has it"),
    _weighted("weights_infinities", (0.0, 1.0), (INF, -INF), "inf − inf is NaN"),
    _weighted("weights_infinite_logit", (INF, 1.0), (-2.0, 1.0), "−2 · inf (scipy#23548)"),
    _weighted("weights_infinite_logits", (INF, INF), (1.0, -1.0), "inf − inf again"),
    _weighted("weights_nan", (0.0, 1.0), (NAN, 1.0), "a NaN weight is never swallowed"),
    _weighted("weights_nan_logit", (NAN, 1.0), (1.0, 1.0), "nor a NaN logit"),
    _weighted("weights_halves", (0.5, 1.25), (2.0, -0.5), "of half precision too", HALVES),
    _weighted("weights_random", _random_weights(0), _random_weights(1), "300 rows in which signs cancel or do not"),
    Case("sign", (0.5, -1.25, 2.0, 0.125), "the sign of a positive sum", ("logsumexp",), options={"return_sign": True}),
    Case("sign_dead", (-INF, -INF), "and of none", ("logsumexp",), options={"return_sign": True}, derivatives=False),
    Case(
        "sign_masked_out",
        (1.0, NAN),
        "and of none left",
        ("logsumexp",),
        options={"return_sign": True, "where": (False, False)},
        derivatives=False,
    ),
    Case(
        "weights_masked",
        (0.0, NAN, 1.0),
        "weights under a mask: NaN in either is not looked at",
        ("logsumexp",),
        options={"b": (2.0, NAN, -1.0), "where": (True, False, True), "return_sign": True},
        dtypes=FLOATS,
        derivatives=False,
    ),
    Case(
        "weights_broadcast",
        ((0.0, 1.0), (2.0, 3.0)),
        "a weight for each row",
        ("logsumexp",),
        axis=0,
        options={"b": ((1.0,), (0.5,))},
        derivatives=False,
    ),
    Case(
        "weight_number_zero",
        (0.0, 1.0),
        "a weight of 0 is not none",
        ("logsumexp",),
        options={"b": 0.0},
        derivatives=False,
    ),
    Case("weight_number", (0.0, 1.0), "one weight for all", ("logsumexp",), options={"b": 2.0}, derivatives=False),
)

# ---------------------------------------------------------------------------------------------------------------------
# Axes, shapes and layouts


def _normal(*shape: int, scale: float = 3.0, seed: int = 5) -> Callable[[str], FloatArray]:
    """Normal logits, rounded to float16, so that every dtype is given the same."""
    return lambda dtype: round_to(np.random.default_rng(seed).normal(0, scale, shape), "float16")


def _axis(name: str, axis: Axis, why: str, **more: Any) -> Case:
    return Case(f"axis_{name}", _normal(2, 3, 4), why, axis=axis, derivatives=False, dtypes=FLOATS, **more)


AXES = (
    _axis("none", None, "all of them"),
    _axis("first", 0, "not the contiguous one"),
    _axis("middle", 1, "nor here"),
    _axis("last", -1, "counted from the end"),
    _axis("pair", (0, 2), "a tuple of two, as the standard has it (torch.softmax has none)"),
    _axis("pair_negative", (-1, 1), "in any order, from either end"),
    _axis("all", (0, 1, 2), "all by name"),
    _axis("nothing", (), "reduces nothing: the identity (pytorch: all)"),
    Case("row_nothing", (0.5, -1.25, 2.0), "of a single row too", axis=(), derivatives=False),
    Case("kept", _normal(2, 3, 4), "reduced axes of length one", ("logsumexp",), 1, {"keepdims": True}, FLOATS),
    Case("kept_pair", _normal(2, 3, 4), "two of them", ("logsumexp",), (0, -1), {"keepdims": True}, FLOATS),
    Case("kept_all", _normal(2, 3, 4), "and all", ("logsumexp",), None, {"keepdims": True}, FLOATS),
    Case("point", 3.5, "a 0-d array counts as one element", axis=-1, derivatives=False),
    Case("point_none", 3.5, "for None", axis=None, derivatives=False),
    Case("point_0", 3.5, "and 0", axis=0, derivatives=False),
    Case("point_nothing", 3.5, "and nothing", axis=(), derivatives=False),
    Case("point_kept", 3.5, "with no axis to keep", ("logsumexp",), None, {"keepdims": True}, derivatives=False),
    Case("empty", ((), ()), "empty rows: −inf, and nothing to normalise (scipy#20399)", axis=1, derivatives=False),
    Case("empty_all", ((), ()), "and all of them", axis=None, derivatives=False),
    Case("empty_batch", ((), ()), "no row at all", axis=0, derivatives=False),
    Case("empty_heated", ((), ()), "at a temperature", NORMALISATIONS, 0, {"temperature": 2.0}, derivatives=False),
    Case(
        "empty_sign",
        ((), ()),
        "an empty sum has sign 0",
        ("logsumexp",),
        1,
        {"keepdims": True, "return_sign": True},
        derivatives=False,
    ),
)

_LAYOUTS = {
    "transposed": "in Fortran's order",
    "strided": "every other element",
    "broadcast": "with strides of 0",
    "view": "a part of something larger, without a copy",
    "reversed": "with negative strides",
    "read_only": "that may not be written to",
}
LAYOUTS = tuple(
    Case(
        f"{layout}_{axis}",
        _normal(6, 40),
        why,
        axis=axis,
        layout=layout,
        dtypes=("float32",),
        derivatives=False,
    )
    for layout, why in _LAYOUTS.items()
    for axis in (0, 1)
)

# ---------------------------------------------------------------------------------------------------------------------
# Dtypes

_INTEGERS = {
    "int8": (127, -128),
    "uint8": (0, 255),
    "int16": (32767, -32768),
    "int32": (2**31 - 1, 2**31 - 4),
    "int64": (2**40, 2**40 - 3),
    "uint16": (0, 65535),
    "bool": (True, False),
}
DTYPES = (
    *(
        Case(
            kind,
            Typed(kind, values),
            "promoted before any shift: in the integer's own dtype the difference wraps (SciPy, JAX: [.27, .73])",
            dtypes=("float32",),
            derivatives=False,
        )
        for kind, values in _INTEGERS.items()
    ),
    Case("widened", (0.0, -40.0), "a result wider than the input is computed wide", options={"dtype": "float64"},
         dtypes=("float32", *HALVES), derivatives=False),
    Case("narrowed", (0.0, -12.0), "and a narrower one rounded once", options={"dtype": "float32"},
         dtypes=("float64",), derivatives=False),
    Case(
        "weights_wider",
        (1.0, 2.0),
        "weights of a wider dtype widen the result",
        ("logsumexp",),
        options={"b": Typed("float64", (1.0, 2.0))},
        dtypes=("float32",),
        result="float64",
        derivatives=False,
    ),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Complex numbers


def _complex(name: str, z: tuple[complex, ...], why: str, b: Values = None) -> Case:
    options = {} if b is None else {"b": b}
    return Case(name, Typed("complex128", z), why, ("logsumexp",), options=options, dtypes=_WIDE, derivatives=False)


COMPLEX_NUMBERS = (
    _complex("complex", (1 + 2j, 3 - 1j), "log of a sum of complex exponentials"),
    _complex("complex_dominated", (0j, -40 + 0j), "exact near zero too"),
    _complex("complex_huge", (1000 + 1j, 1000 + 1j), "and in range"),
    _complex("complex_near_cancelling", (0j, math.pi * 1j), "1 + exp(iπ) of the rounded π"),
    _complex("complex_branch", (0j,), "the imaginary part is in (−π, π]: log(−1) is +iπ", (-1.0,)),
    _complex("complex_weights", (1 + 2j, 3 - 1j), "weights of either sign", (2.0, -3.0)),
    _complex("complex_dead", (complex(-INF, 0), complex(-INF, 0)), "nothing (scipy#22601, scipy#17586)"),
    _complex("complex_infinite", (complex(INF, 1), 5 + 0j), "an infinity keeps its phase"),
)

# ---------------------------------------------------------------------------------------------------------------------
# Long rows

LONG = 1_000_000
PLACES = (*range(0, LONG, 997), 123_456)


@functools.cache
def _long(length: int, spike: float, scale: float) -> FloatArray:
    # rounded to float16: every dtype holds it, and the truth of ten million has few distinct exponentials
    row = round_to(np.random.default_rng(20260101).normal(0, scale, length), "float16")
    row[123_456 % length] = spike
    return row


def _column(row: FloatArray) -> FloatArray:
    return np.stack([row, row[::-1]], axis=1)


LENGTHS = (
    Case("long", lambda dtype: _long(LONG, 2.0, 1.0), "10⁶ terms: a sum must not lose with its length", at=PLACES,
         dtypes=FLOATS, derivatives=False),
    Case("long_spike", lambda dtype: _long(LONG, 11.0, 0.3), "a maximum with a twentieth of the mass: the shift's "
         "own rounding is past the contract", at=PLACES, dtypes=FLOATS, derivatives=False),
    Case("long_column", lambda dtype: _column(_long(LONG, 2.0, 1.0)), "along axis 0 most frameworks add one by one",
         axis=0, at=PLACES, dtypes=FLOATS, derivatives=False),
    Case("long_exact", lambda dtype: long_rows.normal(LONG), "10⁶ terms that are all different; the truth is shipped",
         at=PLACES, dtypes=FLOATS, derivatives=False),
    Case("long_halves", lambda dtype: np.zeros(70_000), "a sum in halves overflows at 65 504, or stops at 256 "
         "(last#43, executorch#20090, jax#40409)", dtypes=HALVES, at=(0, 1, 69_999), derivatives=False),
    Case("long_halves_uneven", lambda dtype: _long(70_000, 2.0, 1.0), "the same with terms that differ",
         dtypes=HALVES, at=(*range(0, 70_000, 97),), derivatives=False),
    Case("vocabulary", lambda dtype: _long(50_257, 14.0, 2.5), "one row of a language model's logits",
         at=(*range(0, 50_257, 101), 22_942), derivatives=False),
    Case("very_long", lambda dtype: _long(10_000_000, 2.0, 1.0), "10⁷ terms", at=PLACES, dtypes=FLOATS,
         derivatives=False, full=True),
    Case("very_long_exact", lambda dtype: long_rows.normal(10_000_000), "10⁷ of them", at=PLACES, dtypes=FLOATS,
         derivatives=False, full=True),
    Case("very_long_column", lambda dtype: _column(_long(10_000_000, 2.0, 1.0)), "and along axis 0", axis=0,
         at=PLACES, dtypes=FLOATS, derivatives=False, full=True),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Random rows, seeded


def _random(draw: Callable[[np.random.Generator, str], FloatArray]) -> Callable[[str], FloatArray]:
    return lambda dtype: round_to(draw(np.random.default_rng(20261123), dtype), dtype)


def _log_normalised(x: FloatArray) -> FloatArray:
    peak = x.max(-1, keepdims=True)
    shifted: FloatArray = x - peak - np.log(np.exp(x - peak).sum(-1, keepdims=True))
    return shifted


def _from_bits(rng: np.random.Generator, dtype: str) -> FloatArray:
    """Every finite number of the dtype as likely as any other: subnormals and differences that overflow included."""
    form = FORMATS[dtype]
    exponent = rng.integers(form.smallest - form.bits, form.largest, (200, 10), endpoint=True)
    return rng.choice([-1.0, 1.0], (200, 10)) * np.ldexp(rng.uniform(0.5, 1.0, (200, 10)), exponent)


_DRAWS: dict[str, tuple[Callable[[np.random.Generator, str], FloatArray], str]] = {
    "normal": (lambda rng, dtype: rng.normal(0, 4, (200, 10)), "200 rows of normal logits"),
    "wide": (
        lambda rng, dtype: rng.normal(0, 1, (200, 10)) * 10.0 ** rng.uniform(-8, 1.2, (200, 1)),
        "of every scale from 1e-8 to 16",
    ),
    "normalised": (
        lambda rng, dtype: _log_normalised(rng.normal(0, 6, (200, 10))),
        "log-probabilities, whose logsumexp is a rounding error",
    ),
    "two_leaders": (
        lambda rng, dtype: np.where(np.arange(10) < 2, rng.normal(0, 0.01, (200, 10)), rng.uniform(-40, -8, (200, 10))),
        "two near-tied leaders, and small ones beside them",
    ),
    "bits": (_from_bits, "uniform over the bits: every exponent of the dtype"),
}


def _confident(dtype: str) -> FloatArray:
    x = round_to(logits.shipped(), dtype)
    rest = np.sum(np.exp(x - x.max(axis=-1, keepdims=True)), axis=-1) - 1.0
    return x[np.argsort(np.abs(np.log(rest / 0.002)))[:200]]


DIGITS = Case(
    "digits",
    _confident,
    "a real classifier, confident: torch.softmax has AVX-512 lose probabilities near 1",
    derivatives=False,
)
RANDOM = tuple(Case(f"random_{name}", _random(draw), why, derivatives=False) for name, (draw, why) in _DRAWS.items())

# ---------------------------------------------------------------------------------------------------------------------
# What must be refused, by which error, naming what


def _refused(name: str, why: str, raises: type[Exception], match: str, **more: Any) -> Case:
    defaults: dict[str, Any] = {"x": ((1.0, 2.0), (3.0, 4.0)), "dtypes": ("float32",), "derivatives": False}
    return Case(name=f"refuses_{name}", why=why, raises=raises, match=match, **{**defaults, **more})


REFUSALS = (
    _refused("axis_2", "an axis out of range", IndexError, "2", axis=2),
    _refused("axis_-3", "an axis out of range from the end", IndexError, "-3", axis=-3),
    _refused("axis_of_a_row", "an axis that a single row has not", IndexError, "1", x=(1.0, 2.0), axis=1),
    _refused("axis_pair", "one of two out of range", IndexError, "5", axis=(0, 5)),
    _refused("axis_repeated", "an axis twice", ValueError, "repeated axis", axis=(1, -1)),
    _refused("axis_fraction", "no axis at all", TypeError, "1.5", axis=1.5),
    _refused("axis_float", "no axis either, though it equals one", TypeError, "1.0", axis=1.0),
    _refused("mask_shape", "a mask that does not broadcast", ValueError, "where of shape (3,)",
             options={"where": (True, False, True)}),
    _refused("mask_integers", "a mask that is none", TypeError, "where must be boolean",
             options={"where": Typed("int32", (1, 0))}),
    _refused("dtype_integer", "a result that is no float", TypeError, "dtype must be a floating dtype",
             options={"dtype": "int32"}),
    _refused("weights_shape", "weights that do not broadcast", ValueError, "b of shape (3,)", on=("logsumexp",),
             options={"b": (1.0, 2.0, 3.0)}),
    _refused("complex", "complex numbers have no probabilities", TypeError, "complex64", on=NORMALISATIONS,
             x=Typed("complex64", (1j, 2))),
    _refused("temperature_varies", "a temperature that differs within a row", ValueError, "varies along axis",
             on=NORMALISATIONS, options={"temperature": (1.0, 2.0)}),
    *(
        _refused(f"temperature_{value}", "no temperature", ValueError, "temperature must not be negative or NaN",
                 on=NORMALISATIONS, options={"temperature": value})
        for value in (-1.0, -INF, NAN)
    ),
    *(
        _refused(f"temperature_{value}", "nor this", TypeError, "temperature must be a real number",
                 on=NORMALISATIONS, options={"temperature": value})
        for value in (None, "hot")
    ),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *LOGITS, *TEMPERATURES, *MASKS, *WEIGHTS, *AXES, *LAYOUTS, *DTYPES, *COMPLEX_NUMBERS, *LENGTHS, *RANDOM, DIGITS,
    *REFUSALS,
)  # fmt: skip
