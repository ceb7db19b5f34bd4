"""The softmax family of CUDA tensors by Triton's kernels, and its derivatives; imported with the first of such tensors.

Nothing here looks at a value, so that the device is never waited for.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton

from anysoft_backends import _torch_kernels as formulas
from anysoft_backends import _torch_triton_kernels as kernels

Array = Any

_FORMS = {torch.float64: kernels.DOUBLE, torch.float32: kernels.SINGLE}  # of all others: HALF
_STEPS = kernels.STEPS.value
_LANES = 512  # of a program: four numbers for each of 128 threads
_MOST_PARTS = 1024


class Rows(NamedTuple):
    """An array as (batches, rows, columns), and where these are of each array of that shape."""

    batches: int
    rows: int
    columns: int
    strides: tuple[tuple[int, int, int], ...]


def rows_of(axis: int, *arrays: Array) -> Rows | None:
    """The axes before and after `axis`, each as one; None where there are more steps than that."""
    first, axis = arrays[0], axis % arrays[0].ndim
    steps: list[tuple[int, tuple[int, ...]]] = []
    for i, size in enumerate(first.shape):
        if i == axis or size == 1:
            continue
        strides = tuple(a.stride(i) for a in arrays)
        if steps and steps[-1][1] == tuple(size * stride for stride in strides):
            size *= steps.pop()[0]
        steps.append((size, strides))
    if len(steps) > 2:
        return None
    nothing = (1, (0,) * len(arrays))
    (batches, by_batch), (rows, by_row) = [nothing, nothing, *steps][-2:]
    columns = tuple(a.stride(axis) for a in arrays)
    return Rows(batches, rows, first.shape[axis], tuple(zip(by_batch, by_row, columns, strict=True)))


class Plan(NamedTuple):
    """How rows are shared among programs: a tile of rows and lanes for each, and parts of so many columns."""

    tile: int
    lanes: int
    tiles: int
    parts: int
    columns: int
    warps: int

    def launch(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        """Run a kernel on the device of its first argument."""
        device_of: Any = torch.cuda.device_of  # which has no types
        with device_of(arguments[0]):
            kernel[(programs,)](*arguments, **options, num_warps=self.warps)


@functools.lru_cache(maxsize=256)
def plan(rows: Rows, itemsize: int, processors: int) -> Plan:
    """Rows that lie side by side are read side by side; long rows of which there are few are cut."""
    all_lanes = _LANES if itemsize < 8 else _LANES // 2
    most = triton.next_power_of_2(triton.cdiv(rows.columns, _STEPS))
    _, row, column = rows.strides[0]
    tile = min(64, triton.next_power_of_2(rows.rows)) if row < column else 1
    lanes = min(all_lanes // tile, most)
    tile = min(all_lanes // lanes, triton.next_power_of_2(rows.rows))
    tiles = triton.cdiv(rows.rows, tile)
    programs, chunk = rows.batches * tiles, _STEPS * lanes
    parts = 1
    if 2 * programs < processors:
        parts = min(triton.cdiv(4 * processors, programs), triton.cdiv(rows.columns, 2 * chunk), _MOST_PARTS)
    columns = chunk * triton.cdiv(rows.columns, chunk * parts)
    warps = max(1, min(4, tile * lanes // 32))
    return Plan(tile, lanes, tiles, triton.cdiv(rows.columns, columns), columns, warps)


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _prepared(x: Array, axis: int, outputs: int = 0) -> tuple[Array, list[Array], Rows, Plan, Any]:
    """The array and so many outputs of its shape, and how they are gone through."""
    made = [torch.empty_like(x) for _ in range(outputs)]
    rows = rows_of(axis, x, *made)
    if rows is None:
        x = x.contiguous()
        made = [torch.empty_like(x) for _ in range(outputs)]
        rows = rows_of(axis, x, *made)
        assert rows is not None  # of what is contiguous
    return x, made, rows, plan(rows, x.itemsize, _processors(x.device)), _FORMS.get(x.dtype, kernels.HALF)


def _reduced_shape(x: Array, axis: int) -> list[int]:
    shape = list(x.shape)
    shape[axis] = 1
    return shape


def _reduce(x: Array, rows: Rows, how: Plan, form: Any, value: Array | None, kept: Array | None) -> None:
    """Write the logsumexp of rows to `value`, and what else is to be known of them to `kept`."""
    count = rows.batches * rows.rows
    m, sums = kept, None
    if how.parts > 1:
        m = x.new_empty((count, how.parts), dtype=_computed(x.dtype))
        sums = x.new_empty((count, how.parts), dtype=torch.float64)
    how.launch(
        kernels.reduce_rows,
        rows.batches * how.tiles * how.parts,
        *(x, value, m, sums, how.tiles, how.parts, rows.rows, rows.columns, how.columns, *rows.strides[0], count),
        FORM=form,
        KEEP=kept is not None,
        ROWS=how.tile,
        LANES=how.lanes,
    )
    if how.parts > 1:
        lanes = triton.next_power_of_2(how.parts)
        how.launch(
            kernels.merge_parts,
            count,
            *(m, sums, value, kept, how.parts, count),
            FORM=form,
            KEEP=kept is not None,
            LANES=lanes,
        )


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _new_kept(x: Array, rows: Rows) -> Array:
    return x.new_empty((kernels.KEPT.value, rows.batches * rows.rows), dtype=_computed(x.dtype))


def _write(x: Array, made: list[Array], rows: Rows, how: Plan, form: Any, mode: Any, kept: Array, g: Any) -> None:
    how.launch(
        kernels.write_rows,
        rows.batches * how.tiles * how.parts,
        *(x, kept, g, *_two(made), how.tiles, how.parts, rows.rows, rows.columns, how.columns, kept.shape[1]),
        *(*rows.strides[0], *rows.strides[1]),
        FORM=form,
        MODE=mode,
        ROWS=how.tile,
        LANES=how.lanes,
    )


def _two(made: list[Array]) -> tuple[Array, Array | None]:
    return made[0], made[1] if len(made) > 1 else None


# ---------------------------------------------------------------------------------------------------------------------
# Values


def logsumexp(x: Array, axis: int) -> Array:
    """With keepdims, in the dtype of `x`."""
    x, _, rows, how, form = _prepared(x, axis)
    value = x.new_empty(_reduced_shape(x, axis))
    _reduce(x, rows, how, form, value, None)
    return value


def _normalised(x: Array, axis: int, mode: Any, outputs: int = 1) -> list[Array]:
    x, made, rows, how, form = _prepared(x, axis, outputs)
    if how.parts > 1:
        kept = _new_kept(x, rows)
        _reduce(x, rows, how, form, None, kept)
        _write(x, made, rows, how, form, mode, kept, None)
    else:
        how.launch(
            kernels.normalise_rows,
            rows.batches * how.tiles,
            *(x, *_two(made), how.tiles, rows.rows, rows.columns, *rows.strides[0], *rows.strides[1]),
            FORM=form,
            MODE=mode,
            ROWS=how.tile,
            LANES=how.lanes,
        )
    return made


def softmax(x: Array, axis: int) -> Array:
    return _normalised(x, axis, kernels.SOFTMAX)[0]


def log_softmax(x: Array, axis: int) -> Array:
    return _normalised(x, axis, kernels.LOG_SOFTMAX)[0]


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives: the formulas of _torch_kernels.py, of what is made here


class Softmax(formulas.Softmax):
    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        p = softmax(x, axis)
        ctx.axis = axis
        ctx.save_for_backward(p)
        return p


class LogSoftmax(formulas.LogSoftmax):
    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> tuple[Array, Array]:
        result, p = _normalised(x, axis, kernels.LOG_SOFTMAX_AND_SOFTMAX, 2)
        ctx.axis = axis
        ctx.save_for_backward(p)
        ctx.set_materialize_grads(False)
        return result, p


class LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        ctx.axis = axis
        value = x.new_empty(_reduced_shape(x, axis))
        laid_out, _, rows, how, form = _prepared(x, axis)
        kept = _new_kept(x, rows)
        _reduce(laid_out, rows, how, form, value, kept)
        ctx.save_for_backward(x, kept)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, kept), axis = ctx.saved_tensors, ctx.axis
        if formulas.differentiates_no_more(x, g):
            x, made, rows, how, form = _prepared(x, axis, 1)
            _write(x, made, rows, how, form, kernels.GRADIENT, kept, g.contiguous())
            return made[0], None
        special = kept[0].isinf().reshape(_reduced_shape(x, axis))
        return formulas.derivative_of_logsumexp(x, special, g, axis, Softmax), None


def _differentiable(function: Any, x: Array, axis: int) -> Array:
    """Of halves in float32, because the derivative is made from the result."""
    result = formulas.apply(function, x if x.dtype in formulas.WIDE else x.float(), axis)
    return (result[0] if function is LogSoftmax else result).to(x.dtype)


def differentiable_logsumexp(x: Array, axis: int) -> Array:
    return _differentiable(LogSumExp, x, axis)


def differentiable_softmax(x: Array, axis: int) -> Array:
    return _differentiable(Softmax, x, axis)


def differentiable_log_softmax(x: Array, axis: int) -> Array:
    return _differentiable(LogSoftmax, x, axis)
