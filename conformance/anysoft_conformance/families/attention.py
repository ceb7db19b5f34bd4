"""Attention: its truth, and its cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance.corpus import FLOATS, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import Truth
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem

INF, NAN = math.inf, math.nan
BITS = 600

Numbers = list[Any]


def attention(problem: Problem) -> tuple[Truth, ...]:
    """softmax(scale·q kᵀ) v, and log Σ exp of the scores with `return_logsumexp`.

    The condition has the length factors of two dot products: for each score 1 + d/2, so that 2u times it is 2u and the
    d·u of d terms, and for the product with the values 1 + n/2; in the logsumexp the sum of all exponentials but the
    largest is such a product too.
    """
    q, k, v = (np.asarray(array, dtype=np.float64) for array in problem.arrays)
    where, scale = problem.options.get("where"), problem.options.get("scale")
    (n_q, d), (n_k, d_v) = q.shape[-2:], v.shape[-2:]
    kept = np.asarray(True if where is None else where)
    kept = kept.reshape((1,) * (2 - kept.ndim) + kept.shape)
    batch = np.broadcast_shapes(*(a.shape[:-2] for a in (q, k, v, kept)))
    kept = np.broadcast_to(kept, (*batch, n_q, n_k))
    scales = None if scale is None else np.broadcast_to(scale, (*batch, n_q, d))
    q, k, v = (np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in (q, k, v))

    outs, sums = [], []
    with mpmath.workprec(BITS):
        for place in np.ndindex(*batch, n_q):
            of = place[:-1]
            factors = [1 / mpmath.sqrt(d)] * d if scales is None else [mpmath.mpf(c) for c in scales[place].tolist()]
            out, log_sum = _of_query(q[place], k[of], v[of], kept[place], factors)
            outs += out
            sums.append(log_sum)
        truths = [_shaped(outs, (*batch, n_q, d_v))]
        if problem.options.get("return_logsumexp"):
            truths.append(_shaped(sums, (*batch, n_q)))
    return tuple(truths)


def _shaped(found: list[tuple[Any, float]], shape: tuple[int, ...]) -> Truth:
    truth = of_mpmath([value for value, _ in found], [condition for _, condition in found])
    return truth.map(lambda part: part.reshape(shape))


def _of_query(q: Any, k: Any, v: Any, kept: Any, factors: Numbers) -> tuple[list[tuple[Any, float]], tuple[Any, float]]:
    """Value and condition of each entry of the result, and of the logsumexp."""
    n, d = k.shape
    k, v = k[kept], v[kept]
    if not len(k):
        return [(mpmath.mpf(0), 0.0)] * v.shape[1], (mpmath.mpf(-INF), 0.0)
    if not (np.isfinite(q).all() and np.isfinite(k).all()):
        return [(mpmath.nan, 0.0)] * v.shape[1], (mpmath.nan, 0.0)
    products = [
        [mpmath.mpf(a) * mpmath.mpf(b) * c for a, b, c in zip(q.tolist(), key, factors, strict=True)]
        for key in k.tolist()
    ]
    scores, sizes = [sum(row) for row in products], [sum(map(abs, row)) for row in products]
    top = max(scores)
    e = [mpmath.exp(score - top) for score in scores]
    e.remove(1)  # of exp(0), one
    rest = sum(e)
    p = [mpmath.exp(score - top) / (1 + rest) for score in scores]
    by_score, by_value = 1 + d / 2, 1 + n / 2
    spread = sum(share * size for share, size in zip(p, sizes, strict=True))
    log_sum = top + mpmath.log1p(rest), float(by_score * spread + by_value * rest / (1 + rest))
    return [_entry(p, sizes, column, by_score, by_value) for column in v.T.tolist()], log_sum


def _entry(p: Numbers, sizes: Numbers, column: list[float], by_score: float, by_value: float) -> tuple[Any, float]:
    special = [value for value in column if not math.isfinite(value)]
    if special:
        return mpmath.mpf(math.fsum(special) if len(set(special)) == 1 else NAN), 0.0
    values = [mpmath.mpf(value) for value in column]
    out = sum(share * value for share, value in zip(p, values, strict=True))
    condition = sum(
        share * (by_score * size * abs(value - out) + by_value * abs(value))
        for share, size, value in zip(p, sizes, values, strict=True)
    )
    return out, float(condition)


# ---------------------------------------------------------------------------------------------------------------------
# Two queries and four keys, nearly everywhere, so that a framework that compiles for each shape compiles once

Q = ((0.5, -1.25), (2.0, 0.125))
K = ((1.0, 0.5), (-0.75, 2.0), (0.25, -1.5), (3.0, 1.0))
V = ((1.0, -2.0), (0.5, 4.0), (-3.0, 0.25), (2.0, 1.0))
MASK = ((True, False, True, True), (False, True, True, False))


def _case(name: str, why: str, q: Any = Q, k: Any = K, v: Any = V, **more: Any) -> Case:
    options: dict[str, Any] = {
        option: more.pop(option) for option in ("where", "scale", "return_logsumexp") if option in more
    }
    if "block_size" in more:
        options["block_size"] = _integer(more.pop("block_size"))
    return Case(name, q, why, ("attention",), others=(k, v), options=options, derivatives=False, **more)


def _integer(n: int) -> Callable[[str], int]:
    """An integer as such: a number among the options is made a float."""
    return lambda dtype: n


def _nothing(*shape: int) -> Callable[[str], Any]:
    return lambda dtype: np.empty(shape)


def _blocks(name: str, why: str, **more: Any) -> tuple[Case, ...]:
    """The same in one block, and in two."""
    return (_case(name, why, **more), _case(f"{name}_blocks", f"{why}; over two blocks", block_size=2, **more))


_RISING = ((1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0))
_STEPS = ((8.0, 0.25), (-8.0, 1.0))  # scores that rise for one query and fall for the other

CASES = (
    *_blocks("moderate", "nothing special"),
    *_blocks("largest_last", "a new largest score in the second block, and none", q=_STEPS, k=_RISING),
    *_blocks("tied", "the largest score is there three times, in both blocks", k=(K[0], K[1], K[0], K[0])),
    *_blocks("one_hot", "one key has nearly all: 1 − p is lost", q=((40.0, 1.0), (-1.0, 40.0))),
    *_blocks("scores_of_10_000", "exp overflows", q=((100.0, -100.0), (75.0, 50.0)), k=((100.0, 1.0), (99.0, 2.0),
             (-100.0, -100.0), (100.0, 1.5))),
    _case("cancels", "values that cancel in the sum", v=((1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (-1.0, -1.0)),
             k=(K[0], K[0], K[1], K[1])),
    _case("far_from_zero", "values that differ little", v=((1000.0, 1.0), (1001.0, 1.5), (1002.0, 1.0),
             (1000.5, 1.0))),
    *_blocks("masked", "some keys for each query", where=MASK),
    *_blocks("masked_row", "a query that sees nothing gives zeros (pytorch#41508, pytorch#103963)",
             where=((False,) * 4, MASK[1])),
    *_blocks("masked_block", "nothing is seen of the first block", where=((False, False, True, True),) * 2),
    *_blocks("masked_nan", "what nobody sees is never looked at", where=((True, False, True, False),) * 2,
             k=(K[0], (NAN, INF), K[2], (-INF, 0.0)), v=(V[0], (NAN, -INF), V[2], (INF, NAN))),
    *_blocks("masked_nan_for_one", "one query sees a NaN that the other does not", where=MASK,
             k=(K[0], (NAN, 1.0), K[2], K[3]), v=(V[0], V[1], V[2], (NAN, 1.0))),
    *_blocks("infinite_values", "an infinity is one where it is seen, and both are NaN", where=MASK,
             v=((INF, 1.0), (-INF, 1.0), V[2], (-INF, INF))),
    _case("infinite_values_everywhere", "an infinity beside what underflows", q=((100.0, 100.0), (-100.0, 1.0)),
          v=((INF, 1.0), (-1.0, INF), V[2], (1.0, -INF))),
    _case("nan_query", "makes NaN of its own row alone", q=(Q[0], (NAN, 1.0))),
    _case("nan_query_masked", "a query that sees nothing is not looked at", q=(Q[0], (NAN, INF)),
          where=(MASK[0], (False,) * 4)),
    _case("nan_key", "makes NaN of every row", k=(K[0], (NAN, 1.0), K[2], K[3])),
    _case("nan_value", "makes NaN of its column alone", v=(V[0], V[1], (1.0, NAN), V[3])),
    _case("mask_of_keys", "one mask for all queries", where=(True, False, True, True)),
    _case("mask_of_queries", "all keys or none", where=((True,), (False,))),
    _case("mask_of_all", "a mask of one", where=((False,),)),
    _case("scale", "any number", scale=-1.5),
    _case("scale_of_queries", "one for each query", scale=((0.5,), (2.0,))),
    _case("no_keys", "nothing to look at: zeros", k=_nothing(0, 2), v=_nothing(0, 2)),
    _case("no_queries", "nothing to do", q=_nothing(0, 2)),
    _case("heads_share_keys", "batch dimensions broadcast", q=((Q, Q[::-1]), (Q, Q)), k=((K,), (K[::-1],)), v=(V,)),
    _case("batched_mask", "the mask has a batch of its own", where=(MASK, MASK[::-1])),
    _case("layout", "arrays that are not contiguous", layout="transposed"),
    _case("integers", "become the default float first", Typed("int8", ((1, -1), (2, 0))), Typed("int8", ((127, 1),
          (-128, 1))), Typed("int8", ((1,), (2,))), dtypes=("float32",)),
    _case("dtypes", "the wider one is the result's", k=Typed("float16", K), v=Typed("float64", V), dtypes=("float32",),
          result="float64"),
    *(
        _case(f"logsumexp_{name}", why, return_logsumexp=True, dtypes=FLOATS, **more)
        for name, why, more in (
            ("moderate", "natural, one for each query", {}),
            ("blocks", "the same, merged", {"block_size": 2}),
            ("near_zero", "scores of 0 and −40: log(1 + exp(−40)) is not 0", {"q": ((40.0, 0.0), (0.0, 0.0)),
             "k": ((0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0), (-2.0, 0.0)), "scale": 1.0, "block_size": 2}),
            ("masked_row", "−inf where there is nothing to see", {"where": ((False,) * 4, MASK[1])}),
            ("nan", "of a query that is NaN, but not of its values", {"q": (Q[0], (1.0, NAN)), "v": (V[0], (NAN, INF),
             V[2], V[3])}),
            ("no_keys", "−inf", {"k": _nothing(0, 2), "v": _nothing(0, 2)}),
        )
    ),
    _case("refuses_complex", "no order among scores", Typed("complex64", ((1j, 2),)), dtypes=("float32",),
          raises=TypeError, match="complex64"),
    _case("refuses_width", "q and k differ", q=((1.0, 2.0, 3.0),), dtypes=("float32",), raises=ValueError,
          match="same width"),
    _case("refuses_length", "k and v differ", v=(V[0],), dtypes=("float32",), raises=ValueError, match="same length"),
    _case("refuses_row", "a query of one axis", q=(1.0, 2.0), dtypes=("float32",), raises=ValueError, match="two axes"),
    _case("refuses_mask", "of a shape that does not fit", where=((True, False, True),), dtypes=("float32",),
          raises=ValueError, match="(1, 3)"),
    _case("refuses_mask_of_numbers", "a bias is no mask", where=Typed("int8", ((0, 1, 0, 1),)), dtypes=("float32",),
          raises=TypeError, match="boolean"),
    _case("refuses_block_size", "blocks of nothing", block_size=0, dtypes=("float32",), raises=ValueError, match="0"),
)  # fmt: skip

SUBJECTS = (Subject("attention", attention, CASES, along=False),)
