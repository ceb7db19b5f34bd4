"""Dask: reductions as trees of mergeable states, one pass over the chunks; nothing is computed before it is asked for.

Chunks are NumPy's or CuPy's, and each is handed to anysoft itself. How many states are merged at a time is Dask's own
setting, ``dask.config.set(split_every=…)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import array_api_compat.dask.array
import dask.array
import numpy as np

from anysoft.registry import Backend, FastPath, Operation, quietly
from anysoft_backends import _dask_states as states

Array = Any

# half of both has no types
da: Any = dask.array
compat: Any = array_api_compat.dask.array

# ---------------------------------------------------------------------------------------------------------------------
# The namespace of the generic implementation, which is lazy as it stands


def _sum(x: Array, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """As anysoft sums: NumPy adds one by one along all axes of a chunk but the last."""
    if dtype is not None or x.dtype.kind not in "fc":
        return compat.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)
    return da.reduction(x, states.chunk_sum, states.chunk_sum, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _max(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Dask's own loses the shape of chunks with nothing in them."""
    if x.dtype.kind != "f":
        return compat.max(x, axis=axis, keepdims=keepdims)
    return da.reduction(x, states.chunk_max, states.chunk_max, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _take_along_axis(x: Array, index: Array, axis: int) -> Array:
    axis %= x.ndim
    indices = tuple(range(x.ndim))
    x = x.rechunk({axis: -1})
    index = index.rechunk((*x.chunks[:axis], index.shape[axis], *x.chunks[axis + 1 :]))
    return da.blockwise(
        np.take_along_axis, indices, x, indices, index, indices, axis=axis, dtype=x.dtype, meta=x._meta,
        adjust_chunks={axis: index.shape[axis]}, align_arrays=False,
    )  # fmt: skip


def _broadcast_to(x: Array, shape: tuple[Any, ...]) -> Array:
    if len(shape) == x.ndim and all(n == to or _is_unknown(n, to) for n, to in zip(x.shape, shape, strict=True)):
        return x
    if any(map(_is_unknown, shape)):
        raise NotImplementedError(
            f"in Dask an array of shape {x.shape} does not broadcast to the unknown lengths of {shape}: call "
            "compute_chunk_sizes() first"
        )
    return compat.broadcast_to(x, shape)


def _run(operation: Operation, backend: Backend, arguments: tuple[Any, ...]) -> Any:
    """The generic implementation, which here and there has to know a length."""
    try:
        return quietly(operation, backend, arguments)
    except (IndexError, TypeError, ValueError) as error:
        if any(_is_unknown(n) for each in arguments if isinstance(each, da.Array) for n in each.shape):
            raise NotImplementedError(
                f"{operation.name} is not for arrays of Dask whose chunks have unknown lengths: call "
                "compute_chunk_sizes() first"
            ) from error
        raise


def _is_unknown(*lengths: Any) -> bool:
    return all(isinstance(n, float) for n in lengths)


xp = SimpleNamespace(**vars(compat))
xp.sum, xp.max, xp.take_along_axis, xp.broadcast_to = _sum, _max, _take_along_axis, _broadcast_to
xp.clip = da.clip  # array_api_compat's asks for lengths

# ---------------------------------------------------------------------------------------------------------------------
# Over the chunks


def _by_chunks(function: Callable[..., Any], *arrays: Any, dtype: Any, one: tuple[int, ...] = ()) -> Array:
    """A function of chunks of arrays that broadcast; along the axes `one` it leaves one entry of each chunk."""
    given = [each for each in arrays if isinstance(each, da.Array)]
    ndim = max(each.ndim for each in given)
    pairs: list[Any] = []
    for each in arrays:
        pairs += (each, tuple(range(ndim - each.ndim, ndim)) if isinstance(each, da.Array) else None)
    meta = da.utils.meta_from_array(given[0]._meta, ndim=ndim, dtype=dtype)
    return da.blockwise(function, tuple(range(ndim)), *pairs, adjust_chunks=dict.fromkeys(one, 1), meta=meta)


def _tree(leaves: Array, merge: Callable[[list[Any]], Any], axes: tuple[int, ...]) -> Array:
    """The states of chunks, merged to one for each row, with keepdims; the result's chunks are states, not arrays."""
    step = functools.partial(_merged, merge)
    return da.reduction(
        leaves, _kept, step, axis=axes, keepdims=True, concatenate=False, dtype=leaves.dtype, meta=leaves._meta
    )


def _kept(state: Any, axis: Any, keepdims: bool) -> Any:
    return state


def _merged(merge: Callable[[list[Any]], Any], found: Any, axis: Any, keepdims: bool) -> Any:
    return merge(list(_flat(found)))


def _flat(found: Any) -> Iterator[Any]:
    if isinstance(found, list):
        for each in found:
            yield from _flat(each)
    else:
        yield found


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes, none negative; nothing where nothing is reduced, and for what the generic implementation refuses."""
    axes = tuple(range(ndim)) if axis is None else tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    if not all(isinstance(one, int) and -ndim <= one < ndim for one in axes):
        return ()
    axes = tuple(one % ndim for one in axes)
    return axes if len(set(axes)) == len(axes) else ()


def _float(*arrays: Any) -> Any:
    """The floating dtype of them together; None where the generic implementation is to decide."""
    dtypes = {each.dtype for each in arrays if each is not None}
    if len(dtypes) > 1:
        return None
    (dtype,) = dtypes
    return dtype if dtype.kind == "f" else np.dtype(float) if dtype.kind in "biu" else None


def _why_not(x: Array, axis: Any, where: Any, b: Any, dtype: Any) -> bool | str:
    arrays = [each for each in (x, where, b) if each is not None]
    if dtype is not None:
        return "the tree has no dtype"
    if not all(isinstance(each, da.Array) for each in arrays):
        return "where and b must be arrays of Dask"
    if _float(x, b) is None or (where is not None and where.dtype != bool):
        return f"the tree is of real numbers of one dtype, not {', '.join(str(each.dtype) for each in arrays)}"
    if not _axes(axis, max(each.ndim for each in arrays)):
        return f"axis {axis!r} leaves nothing to reduce"
    for lengths in zip(*(each.shape[::-1] for each in arrays), strict=False):
        if len({n for n in lengths if n != 1 and not _is_unknown(n)}) > 1:
            return f"the shapes do not broadcast: {', '.join(str(each.shape) for each in arrays)}"
    return True


# ---------------------------------------------------------------------------------------------------------------------
# The rows of the table


def _guard_logsumexp(
    x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool
) -> bool | str:
    return _why_not(x, axis, where, b, dtype)


def _guard_softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    return "the tree has no temperature" if temperature is not None else _why_not(x, axis, where, None, dtype)


def _logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: None, keepdims: bool, return_sign: bool) -> Any:
    natural, axes = _float(x, b), _axes(axis, max(each.ndim for each in (x, where, b) if each is not None))
    leaf = functools.partial(states.log_sum, axes=axes)
    state = _tree(_by_chunks(leaf, x, where, b, dtype=natural, one=axes), states.merged_log_sums, axes)

    def result(place: int | None) -> Array:
        value = _by_chunks(functools.partial(states.value, place=place), state, dtype=natural)
        return value if keepdims else value[tuple(0 if one in axes else slice(None) for one in range(value.ndim))]

    return (result(0), result(1)) if return_sign else result(None)


def _normalisation(finish: Callable[..., Array]) -> Callable[..., Array]:
    def call(x: Array, axis: Any, where: Any, temperature: None, dtype: None) -> Array:
        natural, axes = _float(x), _axes(axis, max(x.ndim, getattr(where, "ndim", 0)))
        leaf = functools.partial(states.sums, axes=axes, dtype=np.promote_types(natural, np.float32))
        state = _tree(_by_chunks(leaf, x, where, dtype=natural, one=axes), states.merged_sums, axes)
        return _by_chunks(functools.partial(finish, dtype=natural), x, where, state, dtype=natural)

    return call


_ELEMENTWISE = (
    "log1mexp",
    "log1pexp",
    "logexpm1",
    "log_sigmoid",
    "sigmoid",
    "logit",
    "logaddexp",
    "logsubexp",
)


def _guard_elementwise(*arrays: Any) -> bool | str:
    if any(isinstance(each, da.Array) and each.dtype.kind == "f" for each in arrays) and _float(*arrays):
        return True
    return "chunk by chunk it is for arrays of Dask of one floating dtype"


def _elementwise(name: str) -> Callable[..., Array]:
    def call(*arrays: Array) -> Array:
        return _by_chunks(functools.partial(states.elementwise, name), *arrays, dtype=_float(*arrays))

    return call


def _random_bits(rng: Any, shape: tuple[Any, ...], device: None) -> Array:
    if not (rng is None or isinstance(rng, int | da.random.Generator)):
        raise TypeError(f"rng must be a dask.array.random.Generator or an integer seed here, not {rng!r}")
    if any(map(_is_unknown, shape)):
        raise NotImplementedError(f"random numbers of the unknown lengths {shape}: call compute_chunk_sizes() first")
    return da.random.default_rng(rng).integers(0, 2**32, size=shape, dtype=np.uint32)


BACKEND = Backend(
    name="dask",
    arrays=("dask.array:Array",),
    namespace=lambda x: xp,
    device_of=lambda x: None,
    sums_in_halves=lambda: False,  # each half would be a layer of tasks
    random_bits=_random_bits,
    may_look=lambda x: False,
    run=_run,
    fast_paths=(
        FastPath("logsumexp", "tree of states", _logsumexp, _guard_logsumexp),
        FastPath("softmax", "tree of states", _normalisation(states.softmax), _guard_softmax),
        FastPath("log_softmax", "tree of states", _normalisation(states.log_softmax), _guard_softmax),
        *(FastPath(name, "chunk by chunk", _elementwise(name), _guard_elementwise) for name in _ELEMENTWISE),
    ),
)
