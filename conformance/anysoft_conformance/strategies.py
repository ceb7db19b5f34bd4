"""Hypothesis strategies for the family's inputs: logits of every size, ties and near-ties, masks, temperatures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from anysoft_conformance.corpus import CORE, NORMALISATIONS, Case, Typed
from anysoft_conformance.oracle import FORMATS, round_to

# few lengths, because a framework may compile for each
LENGTHS = (1, 3, 8)


def finite(dtype: str, *, subnormal: bool = True) -> st.SearchStrategy[float]:
    """Finite numbers of a dtype: any of them at all, and those that logits are.

    Parameters
    ----------
    dtype : {"float64", "float32", "float16", "bfloat16"}
    subnormal : bool
        Whether numbers below the smallest normal one are among them, and rows so far apart that results are.
    """
    form = FORMATS[dtype]
    largest = math.ldexp(1.0 - 2.0**-form.bits, form.largest)
    reach = largest if subnormal else 20.0

    def rounded(value: float) -> float:
        return float(round_to(np.array(value), dtype))

    some = st.floats(-reach, reach, allow_subnormal=True).map(rounded)
    usual = st.floats(-20.0, 20.0).map(rounded)
    if subnormal:
        return st.one_of(usual, some)
    least = math.ldexp(1.0, form.smallest - 1)
    return usual.map(lambda value: value if abs(value) >= least else 0.0)


def rows(dtype: str, *, subnormal: bool = True, special: bool = True) -> st.SearchStrategy[tuple[float, ...]]:
    """Rows of logits: drawn one by one, tied, a last place apart, or normalised.

    Parameters
    ----------
    dtype : {"float64", "float32", "float16", "bfloat16"}
    subnormal : bool
        As for `finite`.
    special : bool
        Whether infinities and NaN are among them.
    """
    number = finite(dtype, subnormal=subnormal)
    kinds = st.one_of(number, st.sampled_from([-math.inf, math.inf, math.nan])) if special else number

    def several(element: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...]]:
        return st.sampled_from(LENGTHS).flatmap(lambda n: st.tuples(*[element] * n))

    def near(values: tuple[float, ...]) -> tuple[float, ...]:
        """All of them within a few last places of the first."""
        unit = math.ldexp(1.0, max(math.frexp(values[0])[1], FORMATS[dtype].smallest) - FORMATS[dtype].bits)
        steps = [round(value) % 5 - 2 if abs(value) < 1e6 else 0 for value in values]
        moved = (float(round_to(np.array(values[0] + step * unit), dtype)) for step in steps)
        return tuple(value if math.isfinite(value) else values[0] for value in moved)

    def normalised(values: tuple[float, ...]) -> tuple[float, ...]:
        x = np.array(values)
        return tuple(round_to(x - x.max() - np.log(np.exp(x - x.max()).sum()), dtype).tolist())

    usual = several(finite(dtype, subnormal=False))
    return st.one_of(several(kinds), several(number), several(number).map(near), usual.map(normalised))


@st.composite
def cases(draw: st.DrawFn, dtype: str, *, subnormal: bool = True) -> Case:
    """A case for one of the core functions: a row, maybe a mask, maybe a temperature."""
    x = draw(rows(dtype, subnormal=subnormal))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["where"] = draw(st.tuples(*[st.booleans()] * len(x)))
    on = draw(st.sampled_from(CORE))
    if on in NORMALISATIONS and draw(st.booleans()):
        # in float32, which every carrier holds; a temperature far below 1 makes of any row a row that is far apart
        least = 0.0 if subnormal else 0.5
        heat = draw(st.one_of(st.sampled_from([0.0, 1.0, math.inf]), st.floats(least, 1e3, width=32)))
        options["temperature"] = Typed("float32", (heat,))
    return Case("drawn", x, "drawn at random", (on,), options=options, derivatives=False)
