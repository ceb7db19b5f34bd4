"""Boltzmann statistics: their truths, from sums over levels in thousands of bits, and their cases."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, HALVES, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import FloatArray, Truth, round_to
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Line, Problem, joined

INF, NAN = math.inf, math.nan
STEP = mpmath.ldexp(1, -100)  # of a central difference, whose error is its square
Number = Any
Values = list[Number]

# judged in the second derivative too; what is said of the others, tests/test_boltzmann.py asks of PyTorch and JAX
SECOND = ("log_partition", "gibbs_entropy")
# of a row without any state
NOTHING = {
    "boltzmann": 0.0,
    "log_partition": -INF,
    "free_energy": INF,
    "mean_energy": 0.0,
    "gibbs_entropy": 0.0,
    "heat_capacity": 0.0,
}
# of a row where all that there is has probability 0, and of one where Z is infinite
DEAD = {"log_partition": -INF, "free_energy": INF}
INFINITE = {"log_partition": INF, "free_energy": -INF}


# ---------------------------------------------------------------------------------------------------------------------
# The levels of one row, all of finite energy and log g. All functions are made at once, as they share their sums:
# the probabilities, and then the others in the order of NOTHING.

OTHERS = tuple(NOTHING)[1:]


def statistics(energies: Values, temperature: Number, log_g: Values) -> Values:
    """All functions at 0 < T < ∞, from their definitions."""
    weights = [mpmath.exp(g - e / temperature) for e, g in zip(energies, log_g, strict=True)]
    z = mpmath.fsum(weights)
    p = [weight / z for weight in weights]
    log_z = mpmath.log(z)
    mean = mpmath.fsum(q * e for q, e in zip(p, energies, strict=True))
    variance = mpmath.fsum(q * (e - mean) ** 2 for q, e in zip(p, energies, strict=True))
    return [*p, log_z, -temperature * log_z, mean, log_z + mean / temperature, variance / temperature**2]


def limits(energies: Values, temperature: float, log_g: Values) -> Values:
    """The same at T = 0 and at T = ∞."""
    cold = temperature == 0
    ground = min(energies)
    log_g = [g if e == ground or not cold else -mpmath.inf for e, g in zip(energies, log_g, strict=True)]
    weights = [mpmath.exp(g) for g in log_g]
    z = mpmath.fsum(weights)
    p = [weight / z for weight in weights]
    mean = ground if cold else mpmath.fsum(q * e for q, e in zip(p, energies, strict=True))
    log_z = mpmath.log(z)
    free = mean if cold or z == 1 else -mpmath.sign(log_z) * mpmath.inf
    return [*p, -mpmath.sign(ground) * mpmath.inf if cold and ground else log_z, free, mean, log_z, mpmath.mpf(0)]


Function = Callable[[Values], Values]


def differences(of: Function, at: Values, scales: Values) -> list[Values]:
    """The derivatives with respect to each argument, as central differences."""
    result = []
    for place, scale in enumerate(scales):
        step = STEP * scale
        up, down = (of([*at[:place], at[place] + sign * step, *at[place + 1 :]]) for sign in (1, -1))
        result.append([(one - other) / (2 * step) for one, other in zip(up, down, strict=True)])
    return result


@dataclass(frozen=True)
class Row:
    """A row as all functions see it: its finite levels, where they are, and what the answer is if that is no sum."""

    energies: tuple[float, ...]
    log_g: tuple[float, ...]
    temperature: float
    given: bool  # whether the temperature is an argument, which 1 is not
    degenerate: bool
    at: tuple[int, ...]  # of how many
    length: int
    kept: tuple[bool, ...]
    kind: str  # "sum", "nothing", "dead", "infinite" or "undefined"


def _row(line: Line, temperature: float, *, given: bool) -> Row:
    energies = np.asarray(line["x"], dtype=np.float64)
    kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), energies.shape)
    log_g = np.broadcast_to(np.asarray(line.get("log_degeneracy", 0.0), dtype=np.float64), energies.shape)
    there = kept & (log_g != -INF)
    endless = bool((log_g[there & (energies == INF)] == INF).any())
    if not kept.any():
        kind = "nothing"
    elif np.isnan(energies[there]).any() or np.isnan(log_g[kept]).any() or endless or not temperature >= 0:
        kind = "undefined"
    elif (energies[there] == -INF).any() or (log_g[there] == INF).any():
        kind = "infinite"
    else:
        there &= energies < INF
        kind = "sum" if there.any() else "dead"
    return Row(
        tuple(energies[there].tolist()), tuple(log_g[there].tolist()), temperature, given, "log_degeneracy" in line,
        tuple(np.flatnonzero(there).tolist()), energies.size, tuple(kept.tolist()), kind,
    )  # fmt: skip


def _bits(row: Row) -> int:
    """So many that three nested differences of what is exp(−800) beside 1 keep 250."""
    with np.errstate(all="ignore"):
        spread = np.ptp(row.energies) / row.temperature + np.ptp(row.log_g)
    return 700 + 3 * int(min(spread, 800.0) if spread >= 0 else 800.0)


def _arguments(row: Row) -> tuple[Values, Values]:
    """Energies, the temperature, log g; and the scales on which they matter."""
    t = mpmath.mpf(row.temperature)
    n = len(row.energies)
    at = [*map(mpmath.mpf, row.energies), t, *map(mpmath.mpf, row.log_g)]
    return at, [t] * (n + 1) + [mpmath.mpf(1)] * n


def _function(row: Row, order: int) -> Function:
    """All functions of all arguments of a row, or their derivatives with respect to the energies, in one list."""
    n = len(row.energies)
    scales = _arguments(row)[1][:n]

    def value(at: Values) -> Values:
        return statistics(at[:n], at[n], at[n + 1 :])

    def derived(inner: Function) -> Function:
        def outer(at: Values) -> Values:
            columns = differences(inner, at, scales)
            return [column[i] for i in range(len(columns[0])) for column in columns]

        return outer

    of: Function = value
    for _ in range(order):
        of = derived(of)
    return of


@functools.lru_cache(maxsize=2048)
def _all(row: Row, order: int) -> tuple[Values, list[float]]:
    """The values of all functions, or their derivatives, and the condition of each."""
    n = len(row.energies)
    if 0 < row.temperature < INF:
        of = _function(row, order)
        at, scales = _arguments(row)
        values, slopes = of(at), differences(of, at, scales)
        counted = [*range(n), *([n] if row.given else ()), *(range(n + 1, 2 * n + 1) if row.degenerate else ())]
        return values, [float(mpmath.fsum(abs(slopes[j][i] * at[j]) for j in counted)) for i in range(len(values))]
    energies, log_g = (list(map(mpmath.mpf, part)) for part in (row.energies, row.log_g))
    values = limits(energies, row.temperature, log_g)
    p, mean = values[:n], values[-3]
    # a limit moves with log g, as a sum of weights does, and with the energies only as their mean does
    by_g = mpmath.fsum(q * abs(g) for q, g in zip(p, log_g, strict=True))
    shares = [float(q * (by_g + abs(g))) for q, g in zip(p, log_g, strict=True)]
    if order:
        zero = [mpmath.mpf(0)] * n**order
        of_mean = p if order == 1 else zero
        return (
            [*zero * (n + 1), *(of_mean if mpmath.isfinite(values[-4]) else zero), *of_mean, *zero * 2],
            [0.0] * (n + 1) * n**order + (shares if order == 1 else [0.0] * n**order) * 2 + [0.0] * 2 * n**order,
        )
    moved = mpmath.fsum(q * (abs(e) + abs((e - mean) * g)) for q, e, g in zip(p, energies, log_g, strict=True))
    return values, [*shares, float(by_g), 0.0, float(moved), float(by_g), 0.0]


def _found(name: str, row: Row, order: int) -> Truth:
    """The values, or the derivatives, over the finite levels of a row."""
    n = len(row.energies)
    place = slice(0, n) if name == "boltzmann" else slice(n + OTHERS.index(name), n + OTHERS.index(name) + 1)
    place = slice(place.start * n**order, place.stop * n**order)
    with mpmath.workprec(_bits(row)):
        values, conditions = _all(row, order)
        return of_mpmath(values[place], conditions[place])


def _special(name: str, row: Row) -> float:
    table = {"nothing": NOTHING, "dead": DEAD, "infinite": INFINITE, "undefined": {}}[row.kind]
    return table.get(name, NAN)


def _of_row(name: str, row: Row) -> Truth:
    size = row.length if name == "boltzmann" else 1
    whole = _constant(np.full(size, 0.0 if row.kind == "sum" else _special(name, row)))
    if name == "boltzmann":
        whole.high[~np.array(row.kept, dtype=bool)] = 0.0
    if row.kind == "sum":
        _put(whole, (row.at,) if name == "boltzmann" else (0,), _found(name, row, 0))
    return whole


def _constant(values: FloatArray) -> Truth:
    high, low, exponent = oracle.parts([oracle.number(float(v)) for v in values.ravel()], values.shape)
    return Truth(high, low, exponent, np.zeros(values.shape))


def _put(whole: Truth, place: Any, part: Truth) -> None:
    shape = whole.high[place].shape
    for field in ("high", "low", "exponent", "condition"):
        getattr(whole, field)[place] = getattr(part, field).reshape(shape)


# ---------------------------------------------------------------------------------------------------------------------
# Problems


def _lines(problem: Problem) -> tuple[truths.Rows, list[Row]]:
    """The rows of a problem, whose temperature is its second array, an option, or 1."""
    given = problem.arrays[1] if len(problem.arrays) > 1 else problem.options.get("temperature", 1.0)
    options = {**problem.options, "temperature": np.asarray(given, dtype=np.float64)}
    whole = Problem(problem.arrays[:1], problem.axis, options, problem.dtype)
    rows = truths.Rows(whole, "where", "temperature", "log_degeneracy")
    found = []
    for line in rows.lines:
        t = float(np.reshape(line["temperature"], -1)[0]) if np.size(line["temperature"]) else 1.0
        found.append(_row(line, t, given=t != 1.0))
    return rows, found


def _truth(name: str) -> Callable[[Problem], tuple[Truth, ...]]:
    def truth(problem: Problem) -> tuple[Truth, ...]:
        rows, found = _lines(problem)
        flat = joined([_of_row(name, row) for row in found])
        if name == "boltzmann":
            return (rows.spread(flat),)
        return (rows.reduced(flat, keepdims=bool(problem.options.get("keepdims"))),)

    return truth


def _derivative(name: str, order: int, problem: Problem) -> Truth:
    """With respect to the energies of one row."""
    (row,) = _lines(problem)[1]
    shape = (row.length,) * (order + (name == "boltzmann"))
    whole = _constant(np.zeros(shape))
    if row.kind == "sum":
        _put(whole, np.ix_(*[row.at] * len(shape)), _found(name, row, order))
    return whole


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def _case(name: str, energies: Any, temperature: Any, why: str, **more: Any) -> Case:
    """Levels at a temperature, which is an array in the second place; None leaves it out."""
    others = () if temperature is None else (temperature,)
    return Case(name, energies, why, **{"on": tuple(NOTHING), "others": others, "derivatives": False, **more})


def _table(name: str, rows: Any, temperatures: tuple[float, ...], why: str, **more: Any) -> Case:
    """Each row at each temperature."""
    energies = tuple(row for row in rows for _ in temperatures)
    return _case(name, energies, tuple((t,) for _ in rows for t in temperatures), why, **more)


def _random(index: int, *, degenerate: bool) -> Callable[[str], FloatArray]:
    """Energies (0) at temperatures (1) of every scale, and log g (2)."""

    def values(dtype: str) -> FloatArray:
        rng = np.random.default_rng(20261125 + degenerate)
        scale = 1.0 if dtype == "float16" else 10.0 ** rng.uniform(-2, 2, (42, 1))
        temperature = scale * 10.0 ** rng.uniform(-1.1, 1.5, (42, 1))
        energies = scale * (rng.normal(0, 1, (42, 4)) + rng.choice([0.0, 10.0, -10.0], (42, 1)))
        return round_to((energies, temperature, np.log(rng.integers(1, 30, (42, 4))))[index], dtype)

    return values


# Tables, all of 42 rows of four levels, because JAX compiles each shape anew; of numbers that every dtype holds.
_T = (0.0, 2.0**-10, 0.0625, 0.4375, 1.0, 40.0, INF)
_ROWS = (
    (0.0, 1.0, 1.5, 4.0),
    (0.0, 0.0, 1.0, 1.0),
    (-3.0, -3.0, -2.5, INF),
    (1000.0, 1008.0, 1016.0, 1024.0),
    (-0.25, 0.5, 0.125, -0.375),
    (2.0, 2.0, 2.0, 2.0),
)
_SPECIAL = (
    (INF, INF, INF, INF),
    (-INF, 0.0, 1.0, INF),
    (NAN, 0.0, 1.0, 2.0),
    (NAN, -INF, INF, 0.0),
    (0.0, INF, INF, INF),
    (-4.0, 1.0, "max", "max"),
)
_LOG_G = (math.log(3), math.log(5), 0.0, math.log(7))
_G = tuple(tuple(row[i:] + row[:i]) for row in (_LOG_G, (0.0, -INF, 2.0, 0.0)) for i in (0, 1, 3)) * 7
_REMOVED = (
    ((-INF, 0.0, 0.0, 0.0),) * 28 + ((-INF,) * 4,) * 7 + ((0.0, 0.0, NAN, 0.0),) * 3 + ((0.0, INF, 0.0, 0.0),) * 4
)
_MASK = ((False, True, True, True),) * 14 + ((True, False, True, True),) * 14 + ((False,) * 4,) * 14
_TABLES = (
    _table("levels", _ROWS, _T, "ground states alone and shared, at every temperature, with the limits exact",
           dtypes=FLOATS),
    _table("levels_in_halves", _ROWS, _T, "computed in float32, rounded once", dtypes=HALVES,
           on=("boltzmann", "free_energy", "heat_capacity")),
    _table("levels_with_degeneracy", _ROWS, _T, "levels of several states, and removed ones",
           options={"log_degeneracy": _G}, dtypes=FLOATS),
    _table("special", _SPECIAL, _T, "infinities, NaN, and nothing of finite energy", dtypes=("float32",)),
    _table("special_with_degeneracy", _SPECIAL, _T, "a removed level is not looked at; infinite and NaN degeneracies",
           options={"log_degeneracy": _REMOVED}, dtypes=("float32",)),
    _table("masked", _SPECIAL, _T, "what is excluded is not looked at; and nothing left", options={"where": _MASK},
           dtypes=("float32",)),
    _table("no_temperature", _ROWS[:1] * 6, (-1.0, NAN, -INF, -1e-30, 0.0, INF, 2.0), "NaN for what is none",
           dtypes=("float32",)),
    _case("random", _random(0, degenerate=False), _random(1, degenerate=False), "42 rows of every scale",
          dtypes=FLOATS),
    _case("random_with_degeneracy", _random(0, degenerate=True), _random(1, degenerate=True), "and with degeneracies",
          options={"log_degeneracy": _random(2, degenerate=True)}, dtypes=FLOATS),
)  # fmt: skip

# Single rows, whose derivatives are judged too.
_ONE = (
    _case("moderate", (0.5, -1.25, 2.0, 0.125), (0.75,), "nothing special",
          derivatives=True, dtypes=FLOATS),
    _case("dominated", (0.0, 1.0, 1.5, 4.0), (0.03125,), "next to nothing is excited: exp(−32), and no 1 − p",
          derivatives=True, dtypes=FLOATS),
    _case("dominated_far", (-100.0, -98.0, -99.0, -98.5), (0.0625,), "the same, far below zero",
          derivatives=True, dtypes=FLOATS),
    _case("hot", (0.5, -1.25, 2.0, 0.125), (1e4,), "the entropy's change is of second order in E/T",
          derivatives=True, dtypes=FLOATS),
    _case("ties", (-3.0, -3.0, 2.0, INF), (0.5,), "two ground states, and one that is absent",
          derivatives=True, dtypes=FLOATS),
    _case("cold", (0.25, 0.25, 0.75, INF), (0.0,), "T = 0",
          derivatives=True, dtypes=FLOATS),
    _case("endless", (0.25, 0.5, 0.75, INF), (INF,), "T = ∞",
          derivatives=True, dtypes=FLOATS),
    _case("narrow", (1e-30, 3e-30, 2e-30, 0.0), (1e-30,), "1/T² is not in range", derivatives=True,
          dtypes=FLOATS, on=("boltzmann", "log_partition", "free_energy", "mean_energy", "gibbs_entropy")),
    _case("wide", (1e30, 3e30, 2e30, 0.0), (1e30,), "nor is T²", dtypes=FLOATS),
    _case("far_out", (0.0, 93e3, 95e3, 2e5), (1e3,), "digits of what a probability below the smallest normal number "
          "weighs", dtypes=FLOATS, on=("mean_energy", "heat_capacity")),
    _case("opposite", ("max", "-max", "max", "max"), (INF,), "a difference that overflows, and a sum that rounds up",
          dtypes=FLOATS),
    _case("deep", (0.0, 1e6, -4.0, 0.0), (1.0,), "a ground state that its degeneracy leaves no weight",
          options={"log_degeneracy": (0.0, 1e6, -1e6, 1.5)}, dtypes=("float64",)),
    _case("degenerate", (0.0, 1.0, 1.5, 4.0), (0.5,), "levels of 1, 3, 5 and 7 states", derivatives=True,
          options={"log_degeneracy": (0.0, math.log(3), math.log(5), math.log(7))}, dtypes=("float64",),
          on=("free_energy", "gibbs_entropy")),
    _case("at_one", (0.5, -1.25, 2.0, 0.125), None, "the temperature left out", dtypes=("float32",)),
    _case("at_a_number", (0.5, -1.25, 2.0, 0.125), None, "a temperature by name", options={"temperature": 0.3},
          dtypes=("float32",), on=("boltzmann", "log_partition")),
    _case("in_range", tuple(10.0 * i for i in range(-8, 0)), None, "exponents that need no shift",
          dtypes=("float32",), on=("boltzmann", "log_partition")),
)  # fmt: skip
_FEW = ("boltzmann", "free_energy")  # the others take their arguments as these do
_CALLS = (
    _case("point", 1.5, None, "a 0-d array is one state", dtypes=("float32",), on=_FEW),
    _case("empty", ((), ()), None, "no state at all", dtypes=("float32",)),
    _case("columns", ((0.0, 1.0), (0.5, 3.0), (2.0, INF)), ((0.5, 2.0),), "along axis 0", axis=0,
          dtypes=("float32",), on=_FEW),
    _case("kept", ((0.0, 1.0), (0.5, 3.0)), None, "reduced axes of length one", axis=(0, 1),
          options={"keepdims": True}, dtypes=("float32",), on=("heat_capacity",)),
    _case("axis_nothing", (0.5, 3.0), None, "each entry is alone", axis=(), dtypes=("float32",), on=_FEW),
    _case("integers", Typed("int8", (-128, 127, -127)), None, "become the default float first",
          dtypes=("float32",), on=_FEW),
    _case("temperature_keeps_dtype", (0.5, -1.25, 2.0, 0.125), None, "a temperature never changes the dtype",
          options={"temperature": Typed("float64", (0.5,))}, dtypes=("float32",), on=_FEW),
    _case("degeneracy_widens", (0.5, -1.25, 2.0, 0.125), None, "log g does", dtypes=("float32",), on=_FEW,
          options={"log_degeneracy": Typed("float64", (0.5, 1.0, 0.0, 0.1))}, result="float64"),
    _case("refuses_complex", Typed("complex64", (1j, 2)), None, "no order among them", dtypes=("float32",),
          raises=TypeError, match="complex64"),
    _case("refuses_negative", (1.0, 2.0), None, "no temperature", options={"temperature": -1.0}, dtypes=("float32",),
          raises=ValueError, match="temperature must not be negative"),
    _case("refuses_varying", (1.0, 2.0), (1.0, 2.0), "two temperatures in one system", dtypes=("float32",),
          raises=ValueError, match="varies along axis"),
    _case("refuses_axis", (1.0, 2.0), None, "an axis out of range", axis=3, dtypes=("float32",), raises=IndexError,
          match="3"),
    _case("refuses_degeneracy", (1.0, 2.0), None, "log g that does not broadcast", dtypes=("float32",),
          options={"log_degeneracy": (1.0, 2.0, 3.0)}, raises=ValueError, match="log_degeneracy of shape (3,)"),
)  # fmt: skip
_CASES = (*_TABLES, *_ONE, *_CALLS)

SUBJECTS = tuple(
    Subject(
        name,
        _truth(name),
        tuple(case for case in _CASES if name in case.on),
        functools.partial(_derivative, name, 1),
        functools.partial(_derivative, name, 2) if name in SECOND else None,
        derived=("where", "log_degeneracy", "temperature"),
        along="named",
        sums="value" if name == "boltzmann" else "",
    )
    for name in NOTHING
)
