"""Boltzmann statistics: their truths, from sums over levels in thousands of bits, and their cases."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import FloatArray, Truth, round_to
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Line, Problem, joined

INF, NAN = math.inf, math.nan
STEP = mpmath.ldexp(1, -100)  # of a central difference, whose error is its square
Number = Any
Values = list[Number]

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
# The levels of one row, all of finite energy and log g


def statistics(function: str, energies: Values, temperature: Number, log_g: Values) -> Values:
    """A function of finite levels at 0 < T < ∞, from its definition."""
    weights = [mpmath.exp(g - e / temperature) for e, g in zip(energies, log_g, strict=True)]
    z = mpmath.fsum(weights)
    p = [weight / z for weight in weights]
    if function == "boltzmann":
        return p
    if function == "log_partition":
        return [mpmath.log(z)]
    if function == "free_energy":
        return [-temperature * mpmath.log(z)]
    mean = mpmath.fsum(q * e for q, e in zip(p, energies, strict=True))
    if function == "mean_energy":
        return [mean]
    if function == "gibbs_entropy":
        return [mpmath.log(z) + mean / temperature]
    return [mpmath.fsum(q * (e - mean) ** 2 for q, e in zip(p, energies, strict=True)) / temperature**2]


def limit(function: str, energies: Values, temperature: float, log_g: Values) -> Values:
    """The same at T = 0 and at T = ∞."""
    ground = min(energies)
    if temperature == 0:
        log_g = [g if e == ground else -mpmath.inf for e, g in zip(energies, log_g, strict=True)]
    weights = [mpmath.exp(g) for g in log_g]
    z = mpmath.fsum(weights)
    p = [weight / z for weight in weights]
    mean = mpmath.fsum(q * e for q, e in zip(p, energies, strict=True)) if temperature else ground
    if function == "boltzmann":
        return p
    if function == "heat_capacity":
        return [mpmath.mpf(0)]
    if function == "mean_energy":
        return [mean]
    if function == "free_energy":
        return [ground if temperature == 0 else mean if z == 1 else -mpmath.sign(z - 1) * mpmath.inf]
    if function == "log_partition" and temperature == 0 and ground != 0:
        return [-mpmath.sign(ground) * mpmath.inf]
    return [mpmath.log(z)]


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


def _function(name: str, row: Row, order: int) -> tuple[Function, int]:
    """A function of all arguments of a row, or its derivatives with respect to the energies, in one list."""
    n = len(row.energies)

    def of(at: Values) -> Values:
        return statistics(name, at[:n], at[n], at[n + 1 :])

    def derived(inner: Function) -> Function:
        scales = _arguments(row)[1][:n]

        def outer(at: Values) -> Values:
            columns = differences(inner, at, scales)
            return [column[i] for i in range(len(columns[0])) for column in columns]

        return outer

    for _ in range(order):
        of = derived(of)
    return of, n


def _condition(row: Row, slopes: list[Values], i: int) -> float:
    at, _ = _arguments(row)
    n = len(row.energies)
    counted = [*range(n), *([n] if row.given else ()), *(range(n + 1, 2 * n + 1) if row.degenerate else ())]
    return float(mpmath.fsum(abs(slopes[j][i] * at[j]) for j in counted))


@functools.lru_cache(maxsize=8192)
def _found(name: str, row: Row, order: int) -> Truth:
    """The values, or the derivatives, over the finite levels of a row."""
    with mpmath.workprec(_bits(row)):
        n = len(row.energies)
        proper = 0 < row.temperature < INF
        if proper:
            of, _ = _function(name, row, order)
            at, scales = _arguments(row)
            values, slopes = of(at), differences(of, at, scales)
            return of_mpmath(values, [_condition(row, slopes, i) for i in range(len(values))])
        energies, log_g = (list(map(mpmath.mpf, part)) for part in (row.energies, row.log_g))
        p = limit("boltzmann", energies, row.temperature, log_g)
        values = limit(name, energies, row.temperature, log_g)
        if order:
            of_levels = name == "mean_energy" or (name == "free_energy" and row.temperature == 0)
            count = len(values) * n**order
            values = p if of_levels and order == 1 else [mpmath.mpf(0)] * count
        # a limit moves with the energies only as their mean does, and with log g as a sum of weights does
        by_g = [mpmath.fsum(q * abs(g) for q, g in zip(p, log_g, strict=True))] * len(values)
        if name == "mean_energy" and not order:
            by_g = [
                mpmath.fsum(q * (abs(e) + abs((e - values[0]) * g)) for q, e, g in zip(p, energies, log_g, strict=True))
            ]
        elif name == "free_energy" and not order:
            by_g = [mpmath.mpf(0)]
        elif name == "boltzmann" or order:
            by_g = [abs(v) * (by_g[0] + (abs(log_g[i]) if i < n else 0)) for i, v in enumerate(values)]
        return of_mpmath(values, [float(one) if mpmath.isfinite(v) else 0.0 for one, v in zip(by_g, values, strict=True)])


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


def _derivative(name: str, order: int) -> Callable[[Problem], Truth]:
    def derivative(problem: Problem) -> Truth:
        ((row,),) = (_lines(problem)[1],)
        shape = (row.length,) * (order + (name == "boltzmann"))
        whole = _constant(np.zeros(shape))
        if row.kind == "sum":
            _put(whole, np.ix_(*[row.at] * len(shape)), _found(name, row, order))
        return whole

    return derivative
