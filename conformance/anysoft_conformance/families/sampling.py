"""Drawing from logits with given noise, which leaves nothing to chance: truths and cases.

What is drawn from a generator is judged by statistics, in test_sampling.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, HALVES, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import FloatArray, Number, Truth, number
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Line, Problem, exact, joined

INF, NAN = math.inf, math.nan
BITS = 2400
OPERANDS = ("where", "temperature", "noise")


def _temperature(line: Line) -> float:
    return float(np.reshape(line.get("temperature", 1.0), -1)[0])


def _kept(line: Line) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)


def _keys(line: Line, problem: Problem) -> dict[int, tuple[Number, float]] | None:
    """log p + g and its condition for each entry that can be drawn; None for a row that is undefined."""
    form = oracle.FORMATS["float64" if problem.dtype == "float64" else "float32"]
    largest = math.ldexp(1.0 - 2.0**-form.bits, form.largest)
    x, noise, temperature = np.array(line["x"]), np.broadcast_to(line["noise"], line["x"].shape), _temperature(line)
    x[~_kept(line)] = -INF
    if np.isnan(x).any() or not temperature >= 0:
        return None
    if (x == INF).any():
        x = np.where(x == INF, 0.0, -INF)
    places = np.flatnonzero(x > -INF)
    if not places.size:
        return {}
    logs = oracle.row(x[places], temperature)[2]
    conditions = oracle.truths(x[places][None], -1, temperature)["log_softmax"].condition.reshape(-1)
    found = {}
    with oracle.precision(2 * oracle.BITS):
        for place, log, condition in zip(places.tolist(), logs, conditions.tolist(), strict=True):
            if log > -largest:
                found[place] = (log + number(float(noise[place])), condition + abs(float(noise[place])))
    return found


def _falling(keys: dict[int, tuple[Number, float]]) -> list[int]:
    return sorted(keys, key=lambda place: keys[place][0], reverse=True)


def categorical(problem: Problem) -> tuple[Truth, ...]:
    """The place of the largest log p + g; −1 where there is none."""
    rows = truths.Rows(problem, *OPERANDS)
    found = [next(iter(_falling(_keys(line, problem) or {})), -1) for line in rows.lines]
    return (rows.reduced(exact([number(float(place)) for place in found], [0.0] * len(found)), keepdims=False),)


def gumbel_top_k(problem: Problem) -> tuple[Truth, ...]:
    """The places of the k largest log p + g and these, falling; −1 and −inf where there are no more."""
    rows = truths.Rows(problem, *OPERANDS)
    k = int(problem.options["k"])
    places, keys = [], []
    for line in rows.lines:
        found = _keys(line, problem)
        order = _falling(found or {})[:k]
        padding = k - len(order)
        places.append(exact([number(float(place)) for place in order] + [number(-1.0)] * padding, [0.0] * k))
        rest = NAN if found is None else -INF
        drawn = [] if found is None else [found[place] for place in order]
        values = [value for value, _ in drawn] + [number(rest)] * padding
        with oracle.precision(2 * oracle.BITS):
            keys.append(exact(values, [condition for _, condition in drawn] + [0.0] * padding))
    return rows.spread(joined(places), k), rows.spread(joined(keys), k)


def gumbel_softmax(problem: Problem) -> tuple[Truth, ...]:
    """softmax((x + g)/T); one-hot at the largest x + g with `hard`."""
    rows = truths.Rows(problem, *OPERANDS)
    return (rows.spread(joined([_relaxed(line) for line in rows.lines])),)


def _relaxed(line: Line) -> Truth:
    x, noise, temperature, kept = line["x"], line["noise"], _temperature(line), _kept(line)
    with np.errstate(all="ignore"):
        z = np.where(x == -INF, -INF, x + noise)
        shifted = x - np.max(x, initial=-INF, where=kept) + noise
    (plain,) = truths.softmax(Problem((z,), -1, {"where": kept, "temperature": temperature}))
    if line.get("hard"):
        # of x − max x, because beside a large common part x + g has lost the noise
        place = int(np.argmax(np.where(kept & (x > -INF), shifted, -INF)))
        one_hot = [NAN if np.isnan(p) else float(i == place and kept[i]) for i, p in enumerate(plain.high)]
        return exact([number(one) for one in one_hot], [0.0] * x.size)
    present = np.flatnonzero(kept & (x > -INF))
    if not present.size or not np.isfinite(z[present]).all() or not 0 < temperature < INF:
        return plain
    return _in_high_precision(x, noise, temperature, present)


def _in_high_precision(x: FloatArray, noise: FloatArray, temperature: float, present: Any) -> Truth:
    values, conditions = [mpmath.mpf(0)] * x.size, [0.0] * x.size
    with mpmath.workprec(BITS):
        z = {i: mpmath.mpf(float(x[i])) + mpmath.mpf(float(noise[i])) for i in present.tolist()}
        top = max(z.values())
        terms = {i: mpmath.exp((v - top) / temperature) for i, v in z.items()}
        total = mpmath.fsum(terms.values())
        for i, term in terms.items():
            p = values[i] = term / total
            slopes = {j: p * ((i == j) - terms[j] / total) / temperature for j in terms}
            size = mpmath.fsum(abs(s) * (abs(float(x[j])) + abs(float(noise[j]))) for j, s in slopes.items())
            heat = 0 if temperature == 1 else abs(mpmath.fsum(s * z[j] for j, s in slopes.items()))
            conditions[i] = float(size + heat)
        return of_mpmath(values, conditions)


# ---------------------------------------------------------------------------------------------------------------------
# Cases

# name, logits, noise, why, further options, axis
_TABLE: tuple[tuple[Any, ...], ...] = (
    ("moderate", (0.5, -1.25, 2.0, 0.125), (0.25, 3.5, -0.75, 1.0), "nothing special", {}),
    ("point", 3.25, 0.5, "a 0-d array is a row of one", {}),
    ("tied", (7.0, 7.0, 7.0, 7.0), (0.5, -2.0, 1.5, 0.25), "only the noise decides", {}),
    ("far_tail", (0.0, -20.0, -40.0), (-2.5, 22.5, 1.0), "the rare event: noise from the far tail", {}),
    ("some_absent", (0.5, -INF, 1.5, -INF), (0.25, 22.0, -1.0, 22.0), "−inf is never drawn (pytorch#48841)", {}),
    ("dead", (-INF, -INF), (1.0, 2.0), "nothing can be drawn: −1, not 0", {}),
    ("infinite", (INF, 1.0, INF, 0.0), (0.5, 9.0, 1.5, 9.0), "one of the +inf", {}),
    ("not_a_number", (NAN, 1.0, INF), (0.5, 1.0, 1.5), "NaN is never swallowed", {}),
    ("masked", (NAN, 1.0, INF, 0.5), (9.0, 0.5, 9.0, 2.0), "what is excluded is never looked at",
     {"where": (False, True, False, True)}),
    ("masked_noise", (0.0, 1.0, -INF, 0.5), (NAN, 0.5, INF, 2.0), "nor is its noise",
     {"where": (False, True, True, True)}),
    ("masked_out", (NAN, INF, 0.0), (1.0, 2.0, 3.0), "nothing is left", {"where": (False, False, False)}),
    ("cold", (3.0, 1.0, 3.0, 2.5), (0.25, 9.0, 1.0, 9.0), "at T = 0", {"temperature": 0.0}),
    ("cool", (3.0, 1.0, 2.0, 2.5), (0.25, 0.5, 1.0, -1.0), "at T = ½", {"temperature": 0.5}),
    ("warm", (3.0, 1.0, 2.0, 2.5), (0.25, 0.5, 1.0, -1.0), "at T = 50", {"temperature": 50.0}),
    ("flat", (3.0, -INF, 2.0, 2.5), (0.25, 9.0, 1.0, -1.0), "at T = ∞", {"temperature": INF}),
    ("temperatures", ((1.0, 2.0),) * 6, ((2.5, 0.5),) * 6, "a row each, and NaN for the two that are none",
     {"temperature": Typed("float32", ((1.0,), (0.0,), (INF,), (0.25,), (-1.0,), (NAN,)))}),
    ("several_draws", (0.0, 1.0), ((0.5, 0.25), (3.0, 1.0), (-1.0, 0.125)), "one row, three times", {}),
    ("shared_noise", ((0.0, 1.0), (1.0, -2.0)), (0.5, 0.25), "two rows, the same noise", {}),
    ("integers", Typed("int8", (127, -128, 126)), Typed("float32", (0.5, 1.0, 2.25)),
     "become the default float first", {}),
    ("common_part", (1e8, 1e8, 1e8 - 8), (0.25, 0.5, 1.0), "noise is lost beside logits of this size", {}),
    ("opposite", ("max", "-max"), (0.5, 1.5), "the difference overflows", {}),
    ("opposite_flat", ("max", "-max"), (0.5, 1.5), "and yet is finite at T = ∞", {"temperature": INF}),
    ("columns", ((0.5, 1.0), (0.0, 2.0), (1.0, -4.0)), ((1.5, 0.25), (0.5, 0.0), (3.0, 5.0)), "the first axis", {}, 0),
    ("finer_noise", (3.0, 3.0, 3.0), Typed("float32", (1.0009765625, 1.001953125, 1.0)),
     "noise that the logits' dtype would round to ties", {}),
)  # fmt: skip
_FINE = ("finer_noise",)
_REFUSED: tuple[tuple[str, Any, str, Mapping[str, Any], Any, type[Exception], str], ...] = (
    ("complex", Typed("complex64", (1j, 2, 3)), "no order among them", {}, -1, TypeError, "complex64"),
    ("axis_2", (1.0, 2.0, 3.0), "an axis out of range", {}, 2, IndexError, "2"),
    ("axes", (1.0, 2.0, 3.0), "one entry is drawn along one axis", {}, (0,), TypeError, "axis must be an int"),
    ("temperature", (1.0, 2.0, 3.0), "no such temperature", {"temperature": -1.0}, -1, ValueError, "-1.0"),
    ("short_noise", (1.0, 2.0, 3.0), "an entry without noise", {"noise": (1.0, 2.0)}, -1, ValueError, "noise"),
    ("one_noise", (1.0, 2.0, 3.0), "one number for all is no noise", {"noise": 1.0}, -1, ValueError, "noise"),
    ("mask", (1.0, 2.0, 3.0), "a mask that is no mask", {"where": (1.0, 0.0, 1.0)}, -1, TypeError, "boolean"),
)


# in every dtype; all others in those that are computed in as they are, or in float32 alone
_EVERYWHERE = ("moderate", "far_tail", "masked")
_BOTH = ("tied", "some_absent", "cold", "cool", "warm", "flat", "common_part", "opposite", "opposite_flat")
_HARD = ("moderate", "some_absent", "dead", "not_a_number", "masked", "masked_out", "cold", "common_part", "columns",
         "finer_noise", "point")  # fmt: skip


def _case(name: str, label: str, x: Any, noise: Any, why: str, options: Mapping[str, Any], axis: Any = -1) -> Case:
    options = {"noise": noise, **options}
    if name == "gumbel_top_k":
        options = {**options, "k": 1 if label == "point" else 2}
    dtypes = () if label in _EVERYWHERE else FLOATS if label in _BOTH else HALVES if label in _FINE else FLOATS[1:]
    return Case(label, x, why, (name,), axis, options, dtypes, derivatives=False)


def _cases(name: str, *more: Case) -> tuple[Case, ...]:
    """The cases that all three have, and those of its own."""
    drawn = tuple(_case(name, *line) for line in _TABLE)
    refused = tuple(
        replace(_case(name, f"refuses_{label}", x, (0.5, 1.0, 2.0), why, options, axis), raises=error, match=match)
        for label, x, why, options, axis, error, match in _REFUSED
    )
    return (*drawn, *refused, *(replace(case, on=(name,), derivatives=False) for case in more))


_NOTHING = Case("empty", ((), ()), "rows of nothing", axis=1, options={"noise": ((), ())}, dtypes=FLOATS[1:])
_SOFT = _cases(
    "gumbel_softmax",
    _NOTHING,
    Case("wider", (0.5, -1.25, 2.0), "a dtype of the result", options={"noise": (0.25, 3.5, -0.75), "dtype": "float64"},
         dtypes=("float32",)),
)  # fmt: skip
_STRAIGHT = (
    replace(case, name=f"{case.name}_hard", options={**case.options, "hard": True})
    for case in _SOFT
    if case.name in _HARD
)
_COUNTS = (
    Case(f"refuses_k_{label}", (1.0, 2.0), "more than there are, fewer than one, and no number of things",
         options={"noise": (0.5, 1.0), "k": k}, dtypes=FLOATS[1:], raises=error, match="k must be")
    for label, k, error in (("0", 0, ValueError), ("3", 3, ValueError), ("1_5", 1.5, TypeError))
)  # fmt: skip
SUBJECTS = (
    Subject("categorical", categorical, _cases("categorical", _NOTHING), results=("integer",)),
    Subject("gumbel_softmax", gumbel_softmax, (*_SOFT, *_STRAIGHT), sums="value"),
    Subject(
        "gumbel_top_k", gumbel_top_k, _cases("gumbel_top_k", *_COUNTS), results=("integer", "carrier"), along="named"
    ),
)
