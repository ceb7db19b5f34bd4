"""Dask: reductions as trees of mergeable states, one pass over the chunks; nothing is computed before it is asked for.

Chunks are NumPy's or CuPy's, and each is handed to anysoft itself. How many states are merged at a time is Dask's own
setting, ``dask.config.set(split_every=…)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import array_api_compat.dask.array as xp
import dask.array as da
import numpy as np

from anysoft.registry import Backend, FastPath, quietly
from anysoft_backends import _dask_states as states

Array = Any


# ---------------------------------------------------------------------------------------------------------------------
# Over the chunks


def _axes(axis: Any, ndim: int) -> tuple[int, ...] | None:
    """The axes that are not negative; None for what the generic implementation is to refuse."""
    axes = tuple(range(ndim)) if axis is None else tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    if not axes or not all(isinstance(one, int) and -ndim <= one < ndim for one in axes):
        return None
    axes = tuple(one % ndim for one in axes)
    return axes if len(set(axes)) == len(axes) else None


def _blockwise(function: Callable[..., Any], *arrays: Array, meta: Any, one: tuple[int, ...] = ()) -> Array:
    """A function of chunks of arrays that broadcast, or None; along the axes `one` it leaves one entry of each."""
    ndim = max(each.ndim for each in arrays if each is not None)
    pairs: list[Any] = []
    for each in arrays:
        pairs += (each, None) if each is None else (each, tuple(range(ndim - each.ndim, ndim)))
    return da.blockwise(function, tuple(range(ndim)), *pairs, adjust_chunks=dict.fromkeys(one, 1), meta=meta)


def _tree(leaves: Array, merge: Callable[[list[Any]], Any], axes: tuple[int, ...]) -> Array:
    """The states of chunks, merged to one for each row; its blocks are states too."""
    step = functools.partial(_merged, merge)
    return da.reduction(
        leaves, _kept, step, axis=axes, keepdims=True, concatenate=False, dtype=leaves.dtype, meta=leaves._meta
    )


def _kept(state: Any, axis: Any, keepdims: bool) -> Any:
    return state


def _merged(merge: Callable[[list[Any]], Any], found: Any, axis: Any, keepdims: bool) -> Any:
    found = list(_flat(found))
    return found[0] if len(found) == 1 else merge(found)


def _flat(found: Any) -> Iterator[Any]:
    if isinstance(found, list):
        for each in found:
            yield from _flat(each)
    else:
        yield found


# ---------------------------------------------------------------------------------------------------------------------
# The rows of the table


def _guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *_: Any) -> bool | str:
    if option is not None or dtype is not None:
        return "the tree has no temperature and no dtype"
    if x.dtype.kind not in "biuf":
        return f"the tree is of real numbers, not {x.dtype}"
    if not (where is None or (isinstance(where, da.Array) and where.dtype == bool)):
        return f"where must be a boolean array of Dask, not {type(where).__name__}"
    if _axes(axis, max(x.ndim, getattr(where, "ndim", 0))) is None:
        return f"the tree needs an axis to reduce, not {axis!r} of {x.ndim}"
    return True


def _normalisation(name: str) -> Callable[..., Array]:
    finish = getattr(states, name)

    def call(x: Array, axis: Any, where: Array | None, temperature: None, dtype: None) -> Array:
        axes = _axes(axis, max(x.ndim, getattr(where, "ndim", 0)))
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype(float)
        compute = np.result_type(dtype, np.float32) if dtype.itemsize < 4 else dtype
        meta = x._meta.astype(dtype)
        leaf = functools.partial(states.sums, axes=axes, dtype=compute)
        whole = _tree(_blockwise(leaf, x, where, meta=meta, one=axes), states.merged_sums, axes)
        return _blockwise(functools.partial(finish, dtype=dtype), x, where, whole, meta=meta)

    return call


BACKEND = Backend(
    name="dask",
    arrays=("dask.array:Array",),
    namespace=lambda x: xp,
    device_of=lambda x: None,
    sums_in_halves=lambda: False,  # each half would be one more layer of tasks; Dask adds chunk by chunk, in a tree
    may_look=lambda x: False,
    run=quietly,
    fast_paths=(
        FastPath("softmax", "tree of states", _normalisation("softmax"), _guard),
        FastPath("log_softmax", "tree of states", _normalisation("log_softmax"), _guard),
    ),
)
