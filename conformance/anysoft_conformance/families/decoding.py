"""The decoding filters: what they keep, decided in high precision, and their cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, HALVES, Case, Typed
from anysoft_conformance.oracle import FloatArray, Truth, number
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem, exact, joined

INF, NAN = math.inf, math.nan
Kept = Callable[[FloatArray, float], Sequence[bool]]


# ---------------------------------------------------------------------------------------------------------------------
# What is kept of a row without NaN


def _top_k(x: FloatArray, k: float) -> Sequence[bool]:
    least = sorted(x.tolist(), reverse=True)[min(int(k), x.size) - 1]
    return [value >= least for value in x.tolist()]


def _nearest(x: FloatArray, distances: list[Any], p: float) -> Sequence[bool]:
    """The fewest entries at the least distances whose probabilities reach p, those at one distance together."""
    _, probabilities, _ = oracle.row(np.where(x == INF, 0.0, np.where(x.max() == INF, -INF, x)))
    if p == 1:
        return [True] * x.size
    kept, mass = [False] * x.size, number(0.0)
    for distance in sorted(set(distances)):
        group = [i for i, each in enumerate(distances) if each == distance]
        for i in group:
            kept[i] = True
        mass += sum(probabilities[i] for i in group)
        if mass >= number(p):
            break
    return kept


def top_p_of_row(x: FloatArray, p: float) -> Sequence[bool]:
    """The nucleus of a row, exactly."""
    return _nearest(x, [-value for value in x.tolist()], p)


def _min_p(x: FloatArray, p: float) -> Sequence[bool]:
    least = number(float(x.max())) + (oracle.library.log(number(p)) if p else number(-INF))
    return [number(value) >= least for value in x.tolist()]


def typical_of_row(x: FloatArray, p: float) -> Sequence[bool]:
    """The most typical entries of a row, exactly."""
    if x.max() == INF:
        return [value == INF for value in x.tolist()]
    _, probabilities, _ = oracle.row(x)
    mean = sum((q * number(v) for q, v in zip(probabilities, x.tolist(), strict=True) if v > -INF), number(0.0))
    return _nearest(x, [abs(number(value) - mean) for value in x.tolist()], p)


def _filter(option: str, kept: Kept, least: float, most: float) -> Callable[[Problem], tuple[Truth, ...]]:
    """The truth of a filter: what it keeps as it is, −inf for the rest; NaN for rows and options that are none."""

    def truth(problem: Problem) -> tuple[Truth, ...]:
        rows = truths.Rows(problem, "where", option)
        found = []
        with oracle.precision(4 * oracle.BITS):
            for line in rows.lines:
                inside = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)
                x = np.where(inside, line["x"], -INF)
                value = float(np.reshape(line[option], -1)[0]) if x.size else 1.0
                if np.isnan(x).any() or not least <= value <= most:
                    result = np.where(inside, NAN, -INF)
                elif x.size and x.max() > -INF:
                    result = np.where(kept(x, value), x, -INF)
                else:
                    result = x
                found.append(exact([number(float(each)) for each in result], np.zeros(x.size)))
        return (rows.spread(joined(found)),)

    return truth


def temperature(problem: Problem) -> tuple[Truth, ...]:
    """(x − max)/T, with |max| and |x| and, unless it is 1, T among the arguments."""
    rows = truths.Rows(problem, "where", "temperature")
    found = []
    for line in rows.lines:
        kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)
        x = np.where(kept, line["x"], -INF)
        t = float(np.reshape(line["temperature"], -1)[0]) if x.size else 1.0
        top = float(x.max()) if x.size else 0.0
        values, conditions = [], []
        for value in x.tolist():
            absent = value == -INF and not (math.isnan(top) or top == INF or math.isnan(t) or t < 0)
            if math.isnan(top) or top == INF or not t >= 0:
                values.append(number(NAN))
            elif absent:
                values.append(number(-INF))
            elif t == 0 or t == INF:
                values.append(number(0.0 if t == INF or value == top else -INF))
            else:
                with oracle.precision(2 * oracle.BITS):
                    values.append((number(value) - number(top)) / number(t))
            size = float(values[-1])
            finite = math.isfinite(size) and 0 < t < INF
            conditions.append((abs(value) + abs(top)) / t + abs(size) * (t != 1) if finite else 0.0)
        result = exact(values, conditions)
        whole = exact([number(-INF)] * x.size, np.zeros(x.size))
        for name in ("high", "low", "exponent", "condition"):
            getattr(whole, name)[kept] = getattr(result, name)[kept]
        found.append(whole)
    return (rows.spread(joined(found)),)


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def _case(name: str, x: Any, why: str, option: str, value: Any, **more: Any) -> Case:
    options = {option: value, **more.pop("options", {})}
    axis = more.pop("axis", -1)
    if axis != -1:
        options["axis"] = axis
    return Case(name, x, why, axis=axis, options=options, derivatives=False, **more)


# of probabilities near 0.61, 0.22, 0.13, 0.03: no share that is asked for is near a sum of theirs
_ROW = (0.5, 2.0, -1.0, 1.0)
_TIED = (1.0, 3.0, 1.0, 1.0, -2.0, 3.0, 1.0, 0.0)
_SPECIAL = {
    "absent": ((0.5, -INF, 1.5, -INF), "−inf stays −inf, and is no entry to keep"),
    "dead": ((-INF,) * 4, "nothing to choose from stays so (vllm#1623: NaN)"),
    "infinite": ((INF, 1.0, INF, -INF), "beside +inf nothing has a probability"),
    "nan": ((NAN, 1.0, INF, -INF), "NaN is never swallowed"),
    "zeros": ((-0.0, 0.0, -5.0, -800.0), "kept bit for bit; what underflows is an entry still"),
    "opposite": (("max", "-max", 0.0, "max"), "differences that overflow"),
    "tiny": (("least", "-least", 0.0, "tiny"), "differences that are subnormal"),
}


def _everywhere(option: str, value: Any, other: Any) -> tuple[Case, ...]:
    """Cases of every filter: special rows, masks, axes, options for each row, and what is refused."""

    def case(name: str, x: Any, why: str, **more: Any) -> Case:
        return _case(name, x, why, option, more.pop("value", value), **more)

    def refused(name: str, why: str, raises: type[Exception], match: str, **more: Any) -> Case:
        x = more.pop("x", _ROW)
        return case(f"refuses_{name}", x, why, raises=raises, match=match, dtypes=("float32",), **more)

    matrix = ((0.0, 1.0, -3.0), (-INF, -INF, 2.0))
    return (
        case("plain", _ROW, "nothing special"),
        case("ties", _TIED, "equal logits are kept or dropped together", dtypes=FLOATS),
        *(case(name, x, why) for name, (x, why) in _SPECIAL.items()),
        case("masked", (NAN, 1.0, INF, 0.5), "what is excluded is never looked at, and is no entry to keep",
             options={"where": (False, True, False, True)}),
        case("masked_out", (NAN, INF, 0.0, -INF), "nothing left", options={"where": (False,) * 4}),
        case("columns", matrix, "along the other axis", axis=0, dtypes=FLOATS),
        case("per_row", (_ROW, _ROW), "an option for each row", value=((value,), (other,)), dtypes=FLOATS)
        if not isinstance(value, int)
        else case("per_row", (_ROW, _ROW), "an option for each row", value=Typed("int64", ((value,), (other,))),
                  dtypes=FLOATS),
        case("point", 3.5, "a 0-d array is a row of one"),
        case("empty", ((), ()), "rows of nothing"),
        case("integers", Typed("int8", (127, -128, 126, 127)), "become the default float", dtypes=("float32",)),
        refused("complex", "no order among them", TypeError, "complex64", x=Typed("complex64", (1j, 2))),
        refused("axis", "an axis out of range", IndexError, "3", axis=3),
        refused("axis_none", "a choice is along one axis", TypeError, "axis", options={"axis": None}),
        refused("varying", "an option that differs within a row", ValueError, "varies along axis",
                value=(value,) * 4 if not isinstance(value, int) else Typed("int64", (value,) * 4)),
    )  # fmt: skip


def _refused(option: str, raises: type[Exception], match: str, *values: Any) -> tuple[Case, ...]:
    return tuple(
        _case(f"refuses_{option}_{value}", _ROW, "no such number", option, value, dtypes=("float32",), raises=raises,
              match=match)
        for value in values
    )  # fmt: skip


_SHARES = (
    *_everywhere("p", 0.5, 1.0),
    *_refused("p", ValueError, "p must be in (0, 1]", 0.0, 1.5, -0.5, NAN),
    *_refused("p", TypeError, "p must be a real number", None, "much"),
    _case("all", (0.0, -40.0, -90.0, -800.0), "p = 1 keeps what the sums do not see", "p", 1.0),
    _case("limits", (_ROW,) * 5, "0 is the limit; above 1, negative and NaN are NaN", "p",
          ((0.0,), (1.0,), (1.5,), (-0.5,), (NAN,)), dtypes=FLOATS),
    _case("small", (0.0, 0.001, -0.001, 0.0005), "the first one is enough", "p", 1e-6),
    _case("close_to_one", (0.0, -9.0, -13.5, -14.5), "the tail is 1.9e-6: 1 − p has few digits in float32", "p",
          0.9999985, dtypes=FLOATS),
)  # fmt: skip
_MANY = _case("equal", (1.0,) * 8, "all at once or none", "p", 0.3, dtypes=FLOATS)

SUBJECTS = (
    Subject(
        "decoding.temperature",
        temperature,
        (
            *_everywhere("temperature", 0.5, INF),
            *_refused("temperature", ValueError, "temperature must not be negative or NaN", -1.0, NAN),
            *_refused("temperature", TypeError, "temperature must be a real number", None, "hot"),
            _case("unchanged", _ROW, "the shift is made at 1 too", "temperature", 1.0),
            _case("argmax", _TIED, "T = 0 leaves the argmax, ties share", "temperature", 0.0),
            _case("flat", (*_ROW, -INF), "T = ∞ makes all finite entries equal", "temperature", INF),
            _case("cold", (3.0, 1.0, 2.999, -40.0), "x/T overflows (pytorch#163932)", "temperature", 2e-38,
                  dtypes=FLOATS),
            _case("limits", (_ROW,) * 4, "negative and NaN are NaN", "temperature", ((0.0,), (INF,), (-1.0,), (NAN,)),
                  dtypes=FLOATS),
        ),
        along=False,
    ),
    Subject(
        "decoding.top_k",
        _filter("k", _top_k, 1, INF),
        (
            *_everywhere("k", 2, 3),
            *_refused("k", ValueError, "k must be at least 1", 0, -3),
            *_refused("k", TypeError, "k must be an integer", None, 1.5, True),
            _case("one_kept", _ROW, "greedy", "k", 1),
            _case("more", _ROW, "more than there are keep all", "k", 9),
            _case("huge", _ROW, "however many more", "k", 2**40),
            _case("limits", (_ROW,) * 3, "in an array, below 1 is NaN", "k", Typed("int32", ((1,), (0,), (-3,))),
                  dtypes=FLOATS),
        ),
        along=False,
    ),
    Subject("decoding.top_p", _filter("p", top_p_of_row, 0, 1), (*_SHARES, _MANY), along=False),
    Subject("decoding.min_p", _filter("p", _min_p, 0, 1), (*_SHARES, _MANY), along=False),
    Subject(
        "decoding.typical",
        _filter("p", typical_of_row, 0, 1),
        (
            # of subnormal numbers all distances from the mean are equal but for its rounding error
            *(case for case in _SHARES if case.name != "tiny"),
            _MANY,
            _case("without_the_largest", (2.0, 1.0, 1.0, 1.0, -9.0, -INF, -INF, -INF),
                  "the largest logit is further from the mean than the others", "p", 0.5, dtypes=FLOATS),
            _case("halves", (4.0, 3.0, 2.5, -1.0), "probabilities of halves are those of float32", "p", 0.75,
                  dtypes=HALVES),
        ),
        along=False,
    ),
)  # fmt: skip
