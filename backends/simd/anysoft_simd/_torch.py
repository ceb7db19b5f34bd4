"""The kernels for contiguous PyTorch tensors on the CPU, with first derivatives; those of second order are formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from anysoft_backends import _torch as adapter
from anysoft_backends import _torch_kernels as formulas
from anysoft_backends._torch_guards import fits_kernel, may_look, usual, why_no_kernel, why_not
from torch.autograd import Function

from anysoft import FastPath
from anysoft_simd import _kernels as kernels

Array = Any

_SERIAL = 1 << 17  # entries, in less than whose time no thread is made


def _fits(x: Array, axis: Any, where: Any, option: Any, dtype: Any) -> bool:
    plain = where is None and option is None and dtype is None
    return plain and fits_kernel(x, axis) and bool(x.is_contiguous())


def guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    along = 0 if axis is None and reduction else axis
    return_sign = bool(reduction and reduction[1])
    if not return_sign and _fits(x, along, where, option, dtype):
        return True
    if (
        where is not None
        or option is not None
        or dtype is not None
        or return_sign
        or not (usual(x, along) and may_look())
    ):
        return why_not(x, along, where, option, dtype, return_sign)
    return _why_no_kernel(x, along)


def guard_derivative(x: Array, axis: Any, *more: Any) -> bool | str:
    allowed = adapter._guard_derivative(x, axis, *more)
    return allowed if allowed is not True else _why_no_kernel(x, 0 if axis is None else axis)


def _why_no_kernel(x: Array, axis: int) -> bool | str:
    reason = why_no_kernel(x, axis)
    if reason is not True:
        return reason
    return True if x.is_contiguous() else "the compiled kernel is for contiguous tensors"


def _run(kernel: Callable[..., None], x: Array, g: Array | None, out: Array, rows: Array | None, axis: Any) -> Array:
    kernel(
        x.itemsize,
        x.data_ptr(),
        0 if g is None else g.data_ptr(),
        out.data_ptr(),
        0 if rows is None else rows.data_ptr(),
        x.shape,
        axis,
        1 if x.numel() < _SERIAL else torch.get_num_threads(),
    )
    return out


def _in_wide(x: Array) -> Array:
    return x if x.dtype in formulas.WIDE else x.float()


def _in_dtype_of(x: Array, result: Array) -> Array:
    return result if result.dtype is x.dtype else result.to(x.dtype)


def _rows(x: Array, axis: int) -> Array:
    """Room for what the kernels know of each row: its maximum, and the sum of all exponentials but the largest."""
    return torch.empty((x.numel() // x.shape[axis], 2), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Values


def logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Array:
    if return_sign or not _fits(x, 0 if axis is None else axis, where, b, dtype):
        return NotImplemented
    wide = _in_wide(x)
    shape = x.shape
    if axis is None:
        reduced: tuple[int, ...] = (1,) * x.ndim if keepdims else ()
    else:
        after = shape[axis + 1 :] if axis != -1 else ()
        reduced = (*shape[:axis], 1, *after) if keepdims else (*shape[:axis], *after)
    return _in_dtype_of(x, _run(kernels.logsumexp, wide, None, wide.new_empty(reduced), None, axis))


def _normalisation(kernel: Callable[..., None]) -> Callable[..., Array]:
    def call(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
        if not _fits(x, axis, where, temperature, dtype):
            return NotImplemented
        wide = _in_wide(x)
        return _in_dtype_of(x, _run(kernel, wide, None, torch.empty_like(wide), None, axis))

    return call


# ---------------------------------------------------------------------------------------------------------------------
# With derivatives


def differentiable_logsumexp(
    x: Array, axis: Any, where: None, b: None, dtype: None, keepdims: bool, return_sign: bool
) -> Array:
    if axis is None:
        value = formulas.apply(LogSumExp, x.reshape(-1), 0)
        return value.reshape((1,) * x.ndim if keepdims else ())
    value = formulas.apply(LogSumExp, x, axis)
    return value if keepdims else value.squeeze(axis)


def differentiable_softmax(x: Array, axis: int, *_: Any) -> Array:
    return formulas.apply(Softmax, x, axis)


def differentiable_log_softmax(x: Array, axis: int, *_: Any) -> Array:
    return formulas.apply(LogSoftmax, x, axis)


class Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        p = _run(kernels.softmax, x, None, torch.empty_like(x), None, axis)
        ctx.axis = axis
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (p,), axis = ctx.saved_tensors, ctx.axis
        if not formulas._in_place(p, g):
            return formulas._softmax_derivative(p, g, axis), None
        return _run(kernels.softmax_derivative, p, g.contiguous(), torch.empty_like(p), None, axis), None


class LogSoftmax(Function):
    """It saves the logits, which are there anyway, and two numbers a row."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        result, rows = torch.empty_like(x), _rows(x, axis)
        _run(kernels.log_softmax, x, None, result, rows, axis)
        ctx.axis = axis
        ctx.save_for_backward(x, rows)
        return result

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, rows), axis = ctx.saved_tensors, ctx.axis
        if not formulas._in_place(x, g):
            return formulas._log_softmax_derivative(_signed_probabilities(x, axis), g, axis), None
        return _run(kernels.log_softmax_derivative, x, g.contiguous(), torch.empty_like(x), rows, axis), None


def _signed_probabilities(x: Array, axis: int) -> Array:
    """p, and p − 1 at a dominant entry: −q, where q is the sum of the others, and has their digits."""
    p = formulas.apply(Softmax, x, axis)
    dominant = p > 0.5
    others = torch.where(dominant, 0.0, p)
    q = formulas._sum(others.movedim(axis, -1)).movedim(-1, axis).to(p.dtype)
    return torch.where(dominant, -q, p)


class LogSumExp(Function):
    """With keepdims. It saves the logits and two numbers a row."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        value, rows = formulas._for_each_row(x, axis), _rows(x, axis)
        _run(kernels.logsumexp, x, None, value, rows, axis)
        ctx.axis = axis
        ctx.save_for_backward(x, rows)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, rows), axis = ctx.saved_tensors, ctx.axis
        if not formulas._in_place(x, g):
            special = rows[:, 0].isinf().reshape(g.shape)
            return formulas.derivative_of_logsumexp(x, special, g, axis, Softmax), None
        return _run(kernels.logsumexp_derivative, x, g.contiguous(), torch.empty_like(x), rows, axis), None


PATHS = (
    FastPath("logsumexp", "anysoft-simd", logsumexp, guard, asks_itself=True),
    FastPath("softmax", "anysoft-simd", _normalisation(kernels.softmax), guard, asks_itself=True),
    FastPath("log_softmax", "anysoft-simd", _normalisation(kernels.log_softmax), guard, asks_itself=True),
    FastPath("logsumexp", "anysoft-simd, own derivative", differentiable_logsumexp, guard_derivative),
    FastPath("softmax", "anysoft-simd, own derivative", differentiable_softmax, guard_derivative),
    FastPath("log_softmax", "anysoft-simd, own derivative", differentiable_log_softmax, guard_derivative),
)
