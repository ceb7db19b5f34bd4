"""The corpus: logits that break somebody, each with the reason why it is here.

`max`, `tiny` and `least` stand for the largest, the smallest normal and the smallest subnormal number of the dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anysoft_conformance.oracle import FORMATS, FloatArray, round_to

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Case:
    """A row of logits."""

    name: str
    values: tuple[float | str, ...]
    why: str

    def logits(self, dtype: str) -> FloatArray:
        """The row, rounded to a dtype, as float64."""
        form = FORMATS[dtype]
        symbols = {
            "max": math.ldexp(1.0 - 2.0**-form.bits, form.largest),
            "tiny": math.ldexp(1.0, form.smallest - 1),
            "least": math.ldexp(1.0, form.smallest - form.bits),
        }
        numbers = [
            float(v) if not isinstance(v, str) else math.copysign(1, v[0] != "-") * symbols[v.strip("-")]
            for v in self.values
        ]
        row: FloatArray = round_to(np.array(numbers), dtype)
        return row


CASES = (
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
