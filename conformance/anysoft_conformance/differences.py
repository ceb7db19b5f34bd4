"""The truth of a derivative that nobody wrote down: differences of the truth of the value, which holds 106 bits.

Central differences of three steps, extrapolated: exact to about 1e-18 of the size of the function where it is smooth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle
from anysoft_conformance.oracle import FloatArray, Truth
from anysoft_conformance.truths import Problem, exact

STEP = 2.0**-9  # added to what float32 holds, it is exact
BITS = 200

Place = tuple[str | int, int]  # which array of the problem, and which of its entries
Moves = tuple[tuple[Place, float], ...]


def jacobian(truth: Callable[[Problem], tuple[Truth, ...]], problem: Problem) -> Truth:
    """The derivative of a function's first result with respect to its first array, and how sensitive that is.

    Parameters
    ----------
    truth : callable
        The truth of the value.
    problem : Problem

    Returns
    -------
    Truth
        Of the shape of the result and, after it, of the array; 0 where the value or the entry is not finite.
    """
    places = {name: array for name, array in _arguments(problem).items() if np.asarray(array).dtype.kind == "f"}
    entries: list[Place] = [
        (name, place)
        for name, array in places.items()
        for place, value in enumerate(np.ravel(array).tolist())
        if math.isfinite(value)
    ]

    @functools.cache
    def value(moves: Moves) -> np.ndarray[Any, Any]:
        return _numbers(truth(_moved(problem, moves))[0])

    def slope(place: Place, others: Moves = (), steps: int = 3) -> np.ndarray[Any, Any]:
        table = [
            (value((*others, (place, h))) - value((*others, (place, -h)))) / (2 * mpmath.mpf(h))
            for h in (STEP / 2**i for i in range(steps))
        ]
        for power in range(1, steps):  # Richardson
            table = [(4**power * b - a) / (4**power - 1) for a, b in pairwise(table)]
        found: np.ndarray[Any, Any] = table[0]
        return found

    plain = truth(problem)[0]
    shape, n = plain.high.shape, np.size(problem.x)
    with mpmath.workprec(BITS):
        first = np.full((plain.high.size, n), mpmath.mpf(0), dtype=object)
        condition = np.zeros((plain.high.size, n))
        for entry in (entry for entry in entries if entry[0] == 0):
            first[:, entry[1]] = slope(entry)
            for other in entries:
                if other == entry:
                    second = (value(((entry, STEP),)) - 2 * value(()) + value(((entry, -STEP),))) / STEP**2
                else:
                    up, down = (slope(entry, ((other, step),), steps=1) for step in (STEP, -STEP))
                    second = (up - down) / (2 * STEP)
                size = abs(float(np.ravel(places[other[0]])[other[1]]))
                condition[:, entry[1]] += size * np.abs([float(one) if mpmath.isfinite(one) else 0.0 for one in second])
        finite = [one if mpmath.isfinite(one) else mpmath.mpf(0) for one in first.ravel().tolist()]
        with oracle.precision(2 * oracle.BITS):
            numbers = [oracle.number(mpmath.nstr(one, 60)) for one in finite]
    whole = exact(numbers, condition.ravel())
    return whole.map(lambda part: part.reshape(*shape, *np.shape(problem.x)))


def _arguments(problem: Problem) -> dict[str | int, Any]:
    arrays: dict[str | int, Any] = dict(enumerate(problem.arrays))
    return arrays | {name: value for name, value in problem.options.items() if isinstance(value, np.ndarray)}


def _moved(problem: Problem, moves: Moves) -> Problem:
    arguments: dict[str | int, FloatArray] = {}
    for (name, place), by in moves:
        before = arguments.get(name, _arguments(problem)[name])
        after = np.array(before, dtype=np.float64)
        after.reshape(-1)[place] += by
        arguments[name] = after
    arrays = tuple(arguments.get(place, array) for place, array in enumerate(problem.arrays))
    options = {name: arguments.get(name, value) for name, value in problem.options.items()}
    return replace(problem, arrays=arrays, options=options)


def _numbers(truth: Truth) -> np.ndarray[Any, Any]:
    with mpmath.workprec(BITS):
        parts = zip(
            truth.high.ravel().tolist(), truth.low.ravel().tolist(), truth.exponent.ravel().tolist(), strict=True
        )
        found = [mpmath.ldexp(mpmath.mpf(high) + mpmath.mpf(low), exponent) for high, low, exponent in parts]
    whole = np.empty(len(found), dtype=object)
    whole[:] = found
    return whole
