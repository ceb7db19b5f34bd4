"""Rows of CuPy arrays in one pass: how they lie in memory, which threads share one, and the launch of the kernels.

The kernels are in _cupy_kernels.cu, compiled at the first call of each kind and kept by CuPy on disk. CuPy compiles
them as it does its own, with subnormal float32 flushed to 0. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cupy

Array = Any

STORED = {"float64": "double", "float32": "float", "float16": "Half", "bfloat16": "Bfloat16"}
FUNCTIONS = ("logsumexp", "softmax", "log_softmax")  # by their number there
BLOCK, CHUNK = 256, 8  # as there
# how many threads share a row of at most so many entries: few enough that each has a chunk or two
_LANES = ((16, 1), (32, 4), (128, 16), (256, 32), (1024, 128))
_KEPT = 1 << 15  # bytes of rows in shared memory: a block has 48 KiB on any device, and the kernels use up to 8
_BLOCKS = 4  # for each multiprocessor, if rows are long enough to be cut
_HIP = cupy.cuda.runtime.is_hip


class Extent(NamedTuple):
    """Entries at equal distances, in the array and in the result."""

    length: int
    stride: int
    out_stride: int


class Layout(NamedTuple):
    """An array as rows: up to three axes of rows, and one along which they go; the result's axes in memory order."""

    outer: Extent
    middle: Extent
    inner: Extent
    along: Extent
    order: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.outer.length * self.middle.length * self.inner.length


class Plan(NamedTuple):
    """Which threads share a row: `lanes` of them along it, `columns` rows side by side; rows cut into stretches."""

    lanes: int
    columns: int
    unit: int
    stretches: int
    length: int  # of a stretch
    kept: int  # bytes of rows in shared memory


# ---------------------------------------------------------------------------------------------------------------------
# How an array lies in memory


def why_no_logsumexp(
    x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool
) -> bool | str:
    if where is not None or b is not None or return_sign:
        return "the kernel has no where, b or return_sign"
    return _why_not(x, axis, dtype, False)


def why_no_normalisation(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None:
        return "the kernel has no where or temperature"
    return _why_not(x, axis, dtype, True)


def _why_not(x: Array, axis: Any, dtype: Any, whole: bool) -> bool | str:
    if _HIP:
        return "the kernel is written for CUDA, not for ROCm"
    if dtype is not None:
        return "the kernel's result has the dtype of its argument"
    if x.dtype.name not in STORED:
        return f"the kernel is for real floats, not {x.dtype}"
    axes = _axes(axis, x.ndim)
    if axes is None or x.size == 0:
        return "the kernel needs at least one axis and one element"
    if layout_of(x.shape, x.strides, x.itemsize, axes, whole) is None:
        return "the kernel reduces axes that are one in memory, with three axes of rows at most"
    return True


def _axes(axis: Any, ndim: int) -> tuple[int, ...] | None:
    """None where there are none, or not such; the generic formula knows what to say."""
    if axis is None:
        return tuple(range(ndim)) or None
    try:
        axes = tuple(map(operator.index, axis)) if isinstance(axis, tuple | list) else (operator.index(axis),)
    except TypeError:
        return None
    axes = tuple(one + ndim if one < 0 else one for one in axes)
    proper = axes and len(set(axes)) == len(axes) and all(0 <= one < ndim for one in axes)
    return axes if proper else None


@functools.lru_cache(maxsize=1024)
def layout_of(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, axes: tuple[int, ...], whole: bool
) -> Layout | None:
    """The layout, if there is one; the result is dense and has its axes in the array's order, all if `whole`."""
    if any(stride % itemsize for stride in strides):
        return None
    order = tuple(sorted(range(len(shape)), key=lambda i: -abs(strides[i])))
    extents: dict[int, Extent] = {}
    dense = 1
    for i in reversed(order):
        there = whole or i not in axes
        extents[i] = Extent(shape[i], strides[i] // itemsize, dense if there else 0)
        dense *= shape[i] if there else 1
    kept = _merged(extents[i] for i in order if i not in axes)
    along = _merged(extents[i] for i in order if i in axes) or [Extent(1, 1, 1)]
    if len(kept) > 3 or len(along) > 1:
        return None
    outer, middle, inner = [Extent(1, 0, 0)] * (3 - len(kept)) + kept
    return Layout(outer, middle, inner, along[0], order)


def _merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same with as few as there can be."""
    merged: list[Extent] = []
    for one in extents:
        if one.length == 1:
            continue
        last = merged[-1] if merged else None
        if last and last.stride == one.length * one.stride and last.out_stride == one.length * one.out_stride:
            merged[-1] = Extent(last.length * one.length, one.stride, one.out_stride)
        else:
            merged.append(one)
    return merged


# ---------------------------------------------------------------------------------------------------------------------
# Which threads share a row


@functools.lru_cache(maxsize=1024)
def plan_of(layout: Layout, itemsize: int, whole: bool, processors: int) -> Plan:
    n, along, out_along = layout.along
    side_by_side = layout.rows > 1 and abs(layout.inner.stride) < abs(along)
    columns = min(32, 1 << (layout.inner.length - 1).bit_length()) if side_by_side else 1
    lanes = min(next((lanes for most, lanes in _LANES if n <= most), BLOCK), BLOCK // columns)
    blocks = _ceil(layout.rows * lanes, BLOCK)
    stretches = max(1, min(_BLOCKS * processors // blocks, n // (2 * CHUNK * lanes)))
    length = _ceil(_ceil(n, stretches), CHUNK * lanes) * CHUNK * lanes
    stretches = _ceil(n, length)
    kept = _ceil(n, CHUNK * lanes) * CHUNK * BLOCK * itemsize
    return Plan(
        lanes,
        columns,
        unit=int(along == 1 and out_along in (0, 1)),
        stretches=stretches,
        length=length,
        kept=kept if whole and stretches == 1 and kept <= _KEPT else 0,
    )


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---------------------------------------------------------------------------------------------------------------------
# Calls


@functools.cache
def _processors(device: int) -> int:
    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


@functools.cache
def _kernel(name: str, function: int, dtype: str, lanes: int, columns: int, unit: int) -> Any:
    source = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    return cupy.RawKernel(source, name, options(function, dtype, lanes, columns, unit))


def options(function: int, dtype: str, lanes: int, columns: int, unit: int) -> tuple[str, ...]:
    """For the compiler."""
    values = {"STORED": STORED[dtype], "FUNCTION": function, "LANES": lanes, "COLUMNS": columns, "UNIT": unit}
    return tuple(f"-D{name}={value}" for name, value in values.items())


def _run(function: str, x: Array, axis: Any, keepdims: bool) -> Array:
    axes = _axes(axis, x.ndim) or ()
    whole = function != "logsumexp"
    layout = layout_of(x.shape, x.strides, x.itemsize, axes, whole)
    assert layout is not None  # the guard has seen that there is one
    device = x.device
    with device:
        plan = plan_of(layout, x.itemsize, whole, _processors(device.id))
        out = _empty(layout.order, [n if whole or i not in axes else 1 for i, n in enumerate(x.shape)], x.dtype)
        _launch(FUNCTIONS.index(function), x, out, layout, plan)
    return out if whole or keepdims else out.squeeze(axes)


def _empty(order: tuple[int, ...], shape: list[int], dtype: Any) -> Array:
    """With its axes in memory in that order."""
    out = cupy.empty([shape[i] for i in order], dtype)
    return out if order == tuple(range(len(order))) else out.transpose([order.index(i) for i in range(len(order))])


def _launch(function: int, x: Array, out: Array, layout: Layout, plan: Plan) -> None:
    accumulated = max(x.itemsize, 4)
    states = cupy.empty(2 * accumulated * layout.rows * plan.stretches if plan.stretches > 1 else 0, "uint8")
    outer, middle, inner, along, _ = layout
    arguments = (
        *(x, out, states, layout.rows, along.length, plan.stretches, plan.length, int(plan.kept > 0)),
        *(middle.length, inner.length),
        *(outer.stride, middle.stride, inner.stride, along.stride),
        *(outer.out_stride, middle.out_stride, inner.out_stride, along.out_stride),
    )
    blocks = _ceil(layout.rows * plan.lanes, BLOCK)

    def launch(name: str, stretches: int) -> None:
        kernel = _kernel(name, function, x.dtype.name, plan.lanes, plan.columns, plan.unit)
        kernel((blocks, stretches), (BLOCK,), arguments, shared_mem=plan.kept)

    if plan.stretches == 1:
        launch("whole_rows", 1)
    else:
        launch("stretches_of_rows", plan.stretches)
        launch("rows_of_stretches", plan.stretches if function else 1)


def logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Array:
    return _run("logsumexp", x, axis, keepdims)


def softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
    return _run("softmax", x, axis, True)


def log_softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
    return _run("log_softmax", x, axis, True)
