"""Attention: softmax(q kᵀ) v by an online softmax over blocks of keys, so that no score matrix is ever held.

The sums of a row of scores are kept as those of logsumexp are: the key with the largest score stands apart, as
exp(z) = 1 with value v_top, beside r = Σ exp(s − top) and o = Σ exp(s − top)·v of all other keys. Two such states
merge exactly, whatever the constant `top` (Milakov and Gimelshein's correction factors), and

    out = (exp(z)·v_top + o)/(exp(z) + r),    log Σ exp(s) = top + log(exp(z) + r)

differentiate rightly: z is 0 but carries the derivative of the largest score. Where one key holds most of a row, both
are written in r·exp(−z) instead, so that neither they nor their derivatives are differences of nearly equal numbers.

What is not a finite number enters no sum at all, because 0·NaN is NaN in a product of matrices and once more in its
derivative. It is counted, key by key where the mask keeps it, and takes its place in the result at the end.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft.registry import Backend, Operation

Array = Any


def attention(
    q: Array,
    k: Array,
    v: Array,
    /,
    *,
    where: Array | None = None,
    scale: Any = None,
    block_size: int | None = None,
    return_logsumexp: bool = False,
) -> Any:
    r"""Scaled dot-product attention, softmax(scale · q kᵀ) v, in memory that does not grow with the score matrix.

    Parameters
    ----------
    q : array
        Queries, of shape (..., n_q, d). Booleans and integers become the default float.
    k, v : array
        Keys (..., n_k, d) and values (..., n_k, d_v). The batch dimensions of all arrays broadcast together: keys that
        several heads share have length one there.
    where : boolean array, optional
        Which keys a query sees; broadcast to (..., n_q, n_k). What it excludes is never looked at, NaN included.
    scale : float or array, optional
        What the scores are multiplied by, 1/√d if left out. An array is broadcast to `q`; it does not change the
        result's dtype.
    block_size : int, optional
        How many keys are taken at a time. Left out, a block of scores has some 2¹⁸ entries; where a compiler unrolls
        the loop (JAX, torch.compile), more of them, so that there are some 16 to compile.
    return_logsumexp : bool
        Return the logsumexp of each query's scores too. With it, the attention to two sets of keys can be merged into
        that to both.

    Returns
    -------
    array, or a tuple of two arrays with `return_logsumexp`
        Of shape (..., n_q, d_v) and of dtype ``result_type(q, k, v)``; the logsumexp of shape (..., n_q), natural, in
        float32 for halves and otherwise of the same dtype.

    Notes
    -----
    Special values: a query that sees no key gives zeros, and −inf as its logsumexp; its derivatives are 0, and so are
    those of what is excluded. A NaN in a value that is seen makes that entry of the result NaN, an infinity makes it
    infinite (of both signs, NaN). A query or a key that is not finite makes NaN of all that see it, because its
    scores are infinite or NaN; so does a score beyond the dtype's range. Values larger than the largest number over n_k
    may overflow in the sum.

    Accuracy: with u the unit roundoff, S_j = |scale|·Σ_c |q_c k_jc| and p the probabilities,

        |error of out| ≤ 4 ulp(out) + (2 + d) u Σ_j p_j |v_j − out| S_j + (2 + n_k) u Σ_j p_j |v_j|
        |error of logsumexp| ≤ 4 ulp + (2 + d) u Σ_j p_j S_j + (2 + n_k) u (1 − max p)

    which is the contract of softmax with the usual bounds of dot products of d and n_k terms, if the framework's
    product of matrices keeps these (TensorFloat-32 does not). Halves are computed in float32 and rounded once.

    Memory: some copies of one block of scores. What a framework records for a derivative is not bounded so,
    but that of PyTorch on the CPU: there it is the arguments, and the scores are made again.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex input, a mask that is not boolean, a block size that is no
        integer.
    ValueError
        For shapes that do not fit together, and a block size below 1.

    References
    ----------
    Milakov, Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867, 2018. Rabe, Staats,
    "Self-attention does not need O(n²) memory", arXiv:2112.05682, 2021. Dao, Fu, Ermon, Rudra, Ré, "FlashAttention",
    NeurIPS 2022.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> q, k, v = np.array([[8.0, 0.0]]), np.eye(2), np.array([[1.0], [2.0]])
    >>> anysoft.attention(q, k, v, scale=1.0).round(7)
    array([[1.0003354]])

    The attention to all keys, from that to each half of them:

    >>> parts = [anysoft.attention(q, k[i:i+1], v[i:i+1], scale=1.0, return_logsumexp=True) for i in range(2)]
    >>> weights = anysoft.softmax(np.stack([part[1] for part in parts]), axis=0)
    >>> sum(w[:, None] * part[0] for w, part in zip(weights, parts)).round(7)
    array([[1.0003354]])
    """
    if block_size is not None:
        block_size = _checked_block_size(block_size)
    return _call(False, q, k, v, where, scale, block_size, return_logsumexp)


def _checked_block_size(block_size: Any) -> int:
    try:
        size = operator.index(block_size)
    except TypeError:
        raise TypeError(f"block_size must be an int or None, not {block_size!r}") from None
    if size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size!r}")
    return size


class _Keys(NamedTuple):
    """All keys and values, finite numbers only, and what of them was not finite."""

    k: Array
    v: Array
    of_k: Array  # (..., n_k, 1): whether anything of the key
    of_v: Array  # (..., n_k, 2·d_v): whether the value was +inf or NaN, and whether it was −inf or NaN


class _State(NamedTuple):
    """The sums over some keys of a block of queries; see the top of this file."""

    peak: Array  # the largest score, or +inf or NaN where one is
    top: Array  # the same, but −inf where there is no finite score, or no use in one
    z: Array
    v_top: Array
    r: Array
    o: Array


def _attention(
    backend: Backend,
    q: Array,
    k: Array | None,
    v: Array | None,
    where: Array | None,
    scale: Any,
    block_size: int | None,
    return_logsumexp: bool,
) -> Any:
    xp = backend.namespace(q)
    if k is None or v is None:
        raise TypeError("attention is of three arrays, q, k and v")
    dtype = arguments.float_dtype(xp, {"x": q, "k": k, "v": v})
    if not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"attention is of real numbers, not {dtype}")
    compute = arguments.carrier(xp, dtype)
    if where is not None:
        where = arguments.as_mask(xp, where, q)
        where = arguments.with_rank(xp, where, max(where.ndim, 2))
    batch = _checked_shapes(q, k, v, where)
    q, k, v = (xp.astype(each, compute, copy=False) for each in (q, k, v))
    q = q * _as_scale(xp, scale, q)
    n_q, n_k = q.shape[-2], k.shape[-2]
    if n_k == 0:
        device = getattr(q, "device", None)
        out = xp.full((*batch, n_q, v.shape[-1]), 0.0, dtype=compute, device=device)
        log_sum = xp.full((*batch, n_q), -xp.inf, dtype=compute, device=device)
    else:
        keys = _keys(xp, k, v)
        rows, columns = _block_shape(backend, batch, n_q, n_k, block_size)
        outs, log_sums = [], []
        state = None
        for part in _blocks(n_q, rows):
            some, mask = q[..., part, :], _cut(where, -2, part)
            state = _over_keys(backend, some, keys, mask, columns, state)
            one, log_one = _result(xp, state, _seen(xp, some, keys, mask, columns))
            outs.append(one)
            log_sums.append(log_one)
        out = outs[0] if len(outs) == 1 else xp.concat(outs, axis=-2)
        log_sum = log_sums[0] if len(outs) == 1 else xp.concat(log_sums, axis=-2)
        log_sum = arguments.broadcast_to(xp, log_sum[..., 0], (*batch, n_q))
    out = xp.astype(out, dtype, copy=False)
    return (out, log_sum) if return_logsumexp else out


def _checked_shapes(q: Array, k: Array, v: Array, where: Array | None) -> tuple[Any, ...]:
    """The batch dimensions of all arrays together, if all shapes fit."""
    for name, each in (("q", q), ("k", k), ("v", v)):
        if each.ndim < 2:
            raise ValueError(f"{name} must have two axes or more, (..., length, width), not the shape {each.shape}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q of shape {tuple(q.shape)} and k of shape {tuple(k.shape)} must have the same width")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k of shape {tuple(k.shape)} and v of shape {tuple(v.shape)} must have the same length")
    shapes = {"q": q.shape[:-2], "k": k.shape[:-2], "v": v.shape[:-2]}
    if where is not None:
        scores = (q.shape[-2], k.shape[-2])
        if any(have != 1 and have != want for have, want in zip(where.shape[-2:], scores, strict=True)):
            raise ValueError(f"where of shape {tuple(where.shape)} does not broadcast to the scores, (..., {scores})")
        shapes["where"] = where.shape[:-2]
    return arguments.broadcast_shape(**shapes)


def _as_scale(xp: Any, scale: Any, q: Array) -> Any:
    if scale is None:
        return 1.0 / math.sqrt(max(q.shape[-1], 1))
    kind = getattr(scale, "dtype", None)
    if isinstance(scale, complex | str) or (kind is not None and not xp.isdtype(kind, ("integral", "real floating"))):
        raise TypeError(f"scale must be a real number or an array of them, not {scale!r}")
    scale = arguments.as_array(xp, scale, q.dtype, q)
    if arguments.broadcast_shape(q=q.shape, scale=scale.shape) != tuple(q.shape):
        raise ValueError(f"scale of shape {tuple(scale.shape)} does not broadcast to q, of shape {tuple(q.shape)}")
    return scale


# ---------------------------------------------------------------------------------------------------------------------
# Blocks

_ENTRIES = 1 << 18  # of a block of scores: a megabyte of float32, near what a core's cache holds
_KEYS = 512
_UNROLLED = 16  # blocks that a compiler may be given: it takes about a fifth of a second for each (XLA)


def _block_shape(
    backend: Backend, batch: tuple[Any, ...], n_q: int, n_k: int, block_size: int | None
) -> tuple[int | None, int | None]:
    """How many queries and how many keys to take at a time; None is all of them."""
    known = (*batch, n_q, n_k)
    if not all(isinstance(n, int) for n in known):  # Dask's unknown lengths cannot be cut
        return None, block_size
    others = max(math.prod(batch), 1)
    entries = _ENTRIES
    if backend.unrolls():
        entries = max(entries, -(-others * n_q * n_k // _UNROLLED))
    if block_size is None:
        if others * n_q * n_k <= entries:
            return None, None
        block_size = max(_KEYS, math.isqrt(entries // others)) if backend.unrolls() else _KEYS
    rows = max(entries // (others * min(block_size, n_k)), 1)
    return rows, block_size


def _blocks(n: int, size: int | None) -> list[slice]:
    if size is None or n <= size:
        return [slice(None)]
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _cut(x: Array | None, axis: int, part: slice) -> Array | None:
    """A block of `x` along one of its last two axes, unless it has length one there."""
    if x is None or x.shape[axis] == 1:
        return x
    return x[..., part, :] if axis == -2 else x[..., part]


# ---------------------------------------------------------------------------------------------------------------------
# The sums


def _keys(xp: Any, k: Array, v: Array) -> _Keys:
    finite_k, finite_v, nan = xp.isfinite(k), xp.isfinite(v), xp.isnan(v)
    return _Keys(
        xp.where(finite_k, k, xp.zeros_like(k)),
        xp.where(finite_v, v, xp.zeros_like(v)),
        xp.any(~finite_k, axis=-1, keepdims=True),
        xp.concat([nan | (v == xp.inf), nan | (v == -xp.inf)], axis=-1),
    )


def _over_keys(
    backend: Backend, q: Array, keys: _Keys, where: Array | None, columns: int | None, before: _State | None
) -> _State:
    """The sums of a block of queries over all keys; `before` is of the preceding block."""
    xp = backend.namespace(q)
    q = xp.where(xp.isfinite(q), q, xp.zeros_like(q))
    state = None
    for part in _blocks(keys.k.shape[-2], columns):
        before = state or before
        if before is not None and backend.unrolls():
            # nothing is added; but without it XLA makes the scores of all blocks first, and so holds all of them
            q = q + 0.0 * backend.stop_gradient(xp.max(before.r))
        block = _of_block(backend, q, keys, _cut(where, -1, part), part)
        state = block if state is None else _merged(xp, state, block)
    assert state is not None  # there is a key
    return state


def _of_block(backend: Backend, q: Array, keys: _Keys, where: Array | None, part: slice) -> _State:
    xp = backend.namespace(q)
    zero, low = (xp.full((), value, dtype=q.dtype, device=getattr(q, "device", None)) for value in (0.0, -xp.inf))
    k, v = keys.k[..., part, :], keys.v[..., part, :]
    s = xp.matmul(q, xp.matrix_transpose(k))
    if where is not None:
        s = xp.where(where, s, low)
    fixed = backend.stop_gradient(s)
    peak = xp.max(fixed, axis=-1, keepdims=True)
    proper = peak < xp.inf
    top = xp.where(proper, peak, low)
    # one of the largest: xp.argmax would be slower in most frameworks, and needs an int64, which not every device has
    places = xp.arange(k.shape[-2], dtype=xp.int32, device=getattr(q, "device", None))
    place = xp.max(xp.where(fixed == peak, places, xp.zeros_like(places)), axis=-1, keepdims=True)
    others = (places != place) & proper
    # exp is 0 at −inf, and its derivative too
    e = xp.exp(xp.where(others, s, low) - xp.where(top == -xp.inf, zero, top))
    index = place[..., 0] + (part.start or 0)
    score = xp.sum(q * _at(xp, keys.k, index), axis=-1, keepdims=True)
    score = xp.where(xp.isfinite(score), score, zero)
    return _State(
        peak,
        top,
        score - backend.stop_gradient(score),
        _at(xp, keys.v, index),
        xp.sum(e, axis=-1, keepdims=True),
        xp.matmul(e, v),
    )


class _Seen(NamedTuple):
    """What a block of queries sees: any key at all, one that is not finite, and values that are +inf, −inf or NaN."""

    any: Array
    unknown: Array
    up: Array
    down: Array


def _seen(xp: Any, q: Array, keys: _Keys, where: Array | None, columns: int | None) -> _Seen:
    bad = xp.any(~xp.isfinite(q), axis=-1, keepdims=True)
    if where is None:
        of_k, of_v = (xp.any(each, axis=-2, keepdims=True) for each in (keys.of_k, keys.of_v))
        some = arguments.as_mask(xp, True, q)
    else:
        # products with the mask, of ones and zeros; a mask that is the same for all queries is a short one
        blocks = _blocks(keys.k.shape[-2], None if where.shape[-2] == 1 else columns)
        of_k, of_v = (_times(xp, where, each, q.dtype, blocks) > 0 for each in (keys.of_k, keys.of_v))
        some = xp.any(where, axis=-1, keepdims=True)
    d_v = of_v.shape[-1] // 2
    return _Seen(some, (bad & some) | of_k, of_v[..., :d_v], of_v[..., d_v:])


def _times(xp: Any, where: Array, flags: Array, dtype: Any, blocks: list[slice]) -> Array:
    total = 0.0
    for part in blocks:
        one = xp.astype(flags[..., part, :], dtype)
        mask = xp.astype(_cut(where, -1, part), dtype)
        # a mask that is the same for all keys has length one there
        total = total + (mask * xp.sum(one, axis=-2, keepdims=True) if mask.shape[-1] == 1 else xp.matmul(mask, one))
    return total


def _at(xp: Any, x: Array, index: Array) -> Array:
    """The rows of `x`, (..., n, m), at `index`, (..., l), with batch dimensions that broadcast: (..., l, m)."""
    n, m = x.shape[-2:]
    batch = tuple(x.shape[:-2])
    if batch:
        starts = xp.arange(0, math.prod(batch) * n, n, dtype=index.dtype, device=getattr(x, "device", None))
        index = index + xp.reshape(starts, (*batch, 1))
    rows = xp.take(xp.reshape(x, (-1, m)), xp.reshape(index, (-1,)), axis=0)
    return xp.reshape(rows, (*index.shape, m))


def _merged(xp: Any, a: _State, b: _State) -> _State:
    """The sums over two sets of keys: the lower of their largest scores joins the others."""
    first = a.top >= b.top
    top = xp.where(first, a.top, b.top)
    origin = xp.where(top == -xp.inf, xp.zeros_like(top), top)
    of_a, of_b = xp.exp(a.top - origin), xp.exp(b.top - origin)
    lower = xp.where(first, of_b, of_a) * xp.exp(xp.where(first, b.z, a.z))
    return _State(
        xp.maximum(a.peak, b.peak),
        top,
        xp.where(first, a.z, b.z),
        xp.where(first, a.v_top, b.v_top),
        of_a * a.r + of_b * b.r + lower,
        of_a * a.o + of_b * b.o + lower * xp.where(first, b.v_top, a.v_top),
    )


def _result(xp: Any, state: _State, seen: _Seen) -> tuple[Array, Array]:
    """The result, and the logsumexp with an axis of length one."""
    peak, top, z, v_top, r, o = state
    most = r < 1  # one key holds more than half
    share = xp.where(most, r, xp.zeros_like(r)) * xp.exp(-z)
    u = xp.exp(z)
    out = xp.where(most, v_top + (xp.exp(-z) * o - share * v_top) / (1.0 + share), (u * v_top + o) / (u + r))
    log_sum = top + xp.where(most, z + xp.log1p(share), xp.log1p(r + (u - 1.0)))

    nan, zero, infinity = (xp.full_like(peak, value) for value in (xp.nan, 0.0, xp.inf))
    absent, endless = top == -xp.inf, ~(peak < xp.inf)
    special = xp.where(seen.up, infinity, zero) - xp.where(seen.down, infinity, zero)
    out = xp.where(special == 0, out, special)
    out = xp.where(seen.unknown | endless | absent, nan, out)
    out = xp.where(absent & ~seen.any, zero, out)
    log_sum = xp.where(absent, -infinity, log_sum)
    log_sum = xp.where(endless, peak, log_sum)
    return out, xp.where(seen.unknown, nan, log_sum)


_call = Operation(
    "attention",
    _attention,
    {"k": None, "v": None, "where": None, "scale": None, "block_size": None, "return_logsumexp": False},
    operands=("k", "v", "where", "scale"),
).call
