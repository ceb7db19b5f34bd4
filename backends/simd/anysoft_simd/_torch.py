"""The kernels for contiguous PyTorch tensors on the CPU, with first derivatives; those of second order are formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from anysoft_backends import _torch as adapter
from anysoft_backends import _torch_guards
from anysoft_backends import _torch_kernels as formulas
from torch.autograd import Function

from anysoft import FastPath
from anysoft_simd import _kernels as kernels

Array = Any

_SERIAL = 1 << 17  # entries, in less than whose time no thread is made


def guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    along = 0 if axis is None and reduction else axis
    return_sign = bool(reduction and reduction[1])
    if where is not None or option is not None or dtype is not None or return_sign:
        return _torch_guards.why_not(x, along, where, option, dtype, return_sign)
    if not (_torch_guards.usual(x, along) and _torch_guards.may_look()):
        return _torch_guards.why_not(x, along, where, option, dtype, return_sign)
    return _why_no_kernel(x, along)


def guard_derivative(x: Array, axis: Any, *more: Any) -> bool | str:
    allowed = adapter._guard_derivative(x, axis, *more)
    return allowed if allowed is not True else _why_no_kernel(x, 0 if axis is None else axis)


def _why_no_kernel(x: Array, axis: int) -> bool | str:
    if not x.is_cpu or x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return _torch_guards.why_no_kernel(x, axis)
    return True if x.is_contiguous() else "the compiled kernel is for contiguous tensors"


def _run(kernel: Callable[..., None], x: Array, g: Array | None, out: Array, rows: Array | None, axis: int) -> None:
    shape, axis = x.shape, axis % x.ndim
    kernel(
        x.itemsize,
        x.data_ptr(),
        0 if g is None else g.data_ptr(),
        out.data_ptr(),
        0 if rows is None else rows.data_ptr(),
        math.prod(shape[:axis]),
        shape[axis],
        math.prod(shape[axis + 1 :]),
        1 if x.numel() < _SERIAL else torch.get_num_threads(),
    )


def _in_wide(x: Array) -> Array:
    return x if x.dtype in formulas.WIDE else x.float()


def _for_each_row(x: Array, axis: int) -> Array:
    shape = list(x.shape)
    shape[axis] = 1
    return x.new_empty(shape)


def _rows(x: Array, axis: int) -> Array:
    """Room for what the kernels know of each row: its maximum, and the sum of all exponentials but the largest."""
    return torch.empty((x.numel() // x.shape[axis], 2), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Values


def logsumexp(x: Array, axis: Any, where: None, b: None, dtype: None, keepdims: bool, return_sign: bool) -> Array:
    if axis is None:
        value = logsumexp(x.reshape(-1), 0, None, None, None, False, False)
        return value.reshape((1,) * x.ndim) if keepdims else value
    wide = _in_wide(x)
    value = _for_each_row(wide, axis)
    _run(kernels.logsumexp, wide, None, value, None, axis)
    value = value.to(x.dtype)
    return value if keepdims else value.squeeze(axis)


def softmax(x: Array, axis: int, *_: Any) -> Array:
    wide = _in_wide(x)
    result = torch.empty_like(wide)
    _run(kernels.softmax, wide, None, result, None, axis)
    return result.to(x.dtype)


def log_softmax(x: Array, axis: int, *_: Any) -> Array:
    wide = _in_wide(x)
    result = torch.empty_like(wide)
    _run(kernels.log_softmax, wide, None, result, None, axis)
    return result.to(x.dtype)


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
        p = torch.empty_like(x)
        _run(kernels.softmax, x, None, p, None, axis)
        ctx.axis = axis
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (p,), axis = ctx.saved_tensors, ctx.axis
        if not formulas._in_place(p, g):
            return formulas._softmax_derivative(p, g, axis), None
        v = torch.empty_like(p)
        _run(kernels.softmax_derivative, p, g.contiguous(), v, None, axis)
        return v, None


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
        v = torch.empty_like(x)
        _run(kernels.log_softmax_derivative, x, g.contiguous(), v, rows, axis)
        return v, None


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
        value, rows = _for_each_row(x, axis), _rows(x, axis)
        _run(kernels.logsumexp, x, None, value, rows, axis)
        ctx.axis = axis
        ctx.save_for_backward(x, rows)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, rows), axis = ctx.saved_tensors, ctx.axis
        if not formulas._in_place(x, g):
            return formulas._logsumexp_derivative(x, g, rows[:, 0].isinf().reshape(g.shape), axis), None
        v = torch.empty_like(x)
        _run(kernels.logsumexp_derivative, x, g.contiguous(), v, rows, axis)
        return v, None


PATHS = (
    FastPath("logsumexp", "anysoft-simd", logsumexp, guard),
    FastPath("softmax", "anysoft-simd", softmax, guard),
    FastPath("log_softmax", "anysoft-simd", log_softmax, guard),
    FastPath("logsumexp", "anysoft-simd, own derivative", differentiable_logsumexp, guard_derivative),
    FastPath("softmax", "anysoft-simd, own derivative", differentiable_softmax, guard_derivative),
    FastPath("log_softmax", "anysoft-simd, own derivative", differentiable_log_softmax, guard_derivative),
)
