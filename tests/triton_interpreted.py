"""Triton's kernels on the CPU, statement by statement: test_torch_triton.py runs this in a Python of its own.

The interpreter takes 0.1 s for each program, so that there are few, of many rows; but they read rows in steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from anysoft_backends import _torch_kernels as formulas
from anysoft_backends import _torch_triton as ours

Array = np.ndarray[Any, Any]
inf, nan = float("inf"), float("nan")

N = 300
FUNCTIONS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "logsumexp": ours.differentiable_logsumexp,
    "softmax": ours.differentiable_softmax,
    "log_softmax": ours.differentiable_log_softmax,
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(formulas, "_in_place", lambda *arrays: False)  # as of tensors that are on no CPU
    _plan(monkeypatch, 1)
    with np.errstate(all="ignore"):
        yield


def _plan(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Tiles of 16 rows and as many lanes, which take 128 columns at a time."""

    def plan(rows: ours.Rows, itemsize: int, processors: int) -> ours.Plan:
        cut = parts if rows.columns > 128 else 1
        columns = 128 * math.ceil(rows.columns / cut / 128)
        return ours.Plan(16, 16, math.ceil(rows.rows / 16), math.ceil(rows.columns / columns), columns, 1)

    monkeypatch.setattr(ours, "plan", plan)


def _rows() -> Array:
    rng = np.random.default_rng(0)
    spread, normal = np.linspace(-400, 400, N), rng.normal(size=N)
    return np.stack(
        [
            spread,  # past both limits of what is not shifted, upwards
            spread[::-1],
            normal,
            100 * normal,
            normal - 2000,
            1e4 + normal,
            np.full(N, -np.log(N)),  # a result near 0
            np.r_[0.0, np.full(N - 1, -95.0)],  # and one that only log1p of what underflows has
            np.r_[np.full(N - 1, -17.0), 0.0],
            np.r_[10.0, np.full(N - 1, 8.3)],  # a maximum that holds almost nothing
            np.full(N, 3e4),
            np.r_[np.full(N - 1, -inf), 0.3],
        ]
    )


def _truth(x: Array) -> dict[str, tuple[Array, Array]]:
    """The functions in long double, and Σ |∂f/∂x||x| of each."""
    x = x.astype(np.longdouble)
    place = x.argmax(-1)[:, None]
    m = np.take_along_axis(x, place, -1)
    e = np.exp(x - m)
    np.put_along_axis(e, place, 0.0, -1)
    rest = e.sum(-1, keepdims=True)
    np.put_along_axis(e, place, 1.0, -1)
    p = e / (1 + rest)
    log_p = x - m - np.log1p(rest)
    size = np.where(np.isinf(x), 0, np.abs(x))
    whole = (p * size).sum(-1, keepdims=True)
    condition = size * (1 - p) + whole - p * size
    return {
        "logsumexp": (m + np.log1p(rest), whole),
        "softmax": (p, p * condition),
        "log_softmax": (log_p, condition),
    }


@pytest.mark.parametrize(
    ("dtype", "parts"), [("float64", 1), ("float32", 1), ("float32", 2), ("float16", 1), ("bfloat16", 1)]
)
def test_contract(dtype: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _plan(monkeypatch, parts)
    x = torch.from_numpy(_rows()).to(getattr(torch, dtype))
    form = torch.finfo(x.dtype)
    for name, (value, condition) in _truth(x.double().numpy()).items():
        found = getattr(ours, name)(x, -1)
        assert found.dtype is x.dtype
        finite = np.isfinite(value)
        error = np.abs(np.where(finite, found.double().numpy() - value, 0))
        ulp = form.eps * 2.0 ** np.floor(np.log2(np.maximum(np.abs(np.where(finite, value, 1)), form.tiny)))
        if dtype == "bfloat16":  # the interpreter's own conversion makes other numbers of the subnormal ones
            error = np.where(np.abs(value) < form.tiny, 0, error)
        assert (error <= 4 * ulp + form.eps * condition).all(), (name, (error / ulp).max(-1))
        assert np.array_equal(found.double().numpy()[~finite], value[~finite].astype(float))


def test_results_near_zero() -> None:
    x = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
    assert ours.logsumexp(x, -1).item() == 4.248354255291589e-18
    assert ours.log_softmax(x, -1).tolist() == [[-4.248354255291589e-18, -40.0]]
    large = torch.tensor([[5.0, -35.0]], dtype=torch.float64)
    assert ours.log_softmax(large, -1).tolist() == [[-4.248354255291589e-18, -40.0]]


@pytest.mark.parametrize(("dtype", "parts"), [(torch.float64, 1), (torch.float32, 2)])
def test_special_values(dtype: torch.dtype, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _plan(monkeypatch, parts)
    heads = [[-inf, -inf], [inf, 0.0], [inf, inf], [nan, 0.0], [nan, inf], [nan, -inf], [inf, -inf], [0.0, -inf]]
    x = torch.full((len(heads), N), -inf, dtype=dtype)
    x[:, 7] = torch.tensor(heads, dtype=dtype)[:, 0]
    x[:, 288] = torch.tensor(heads, dtype=dtype)[:, 1]
    values = torch.tensor([-inf, inf, inf, nan, nan, nan, inf, 0.0], dtype=dtype)
    assert torch.equal(ours.logsumexp(x, -1)[:, 0].nan_to_num(7), values.nan_to_num(7))
    for function in (ours.softmax, ours.log_softmax):
        assert function(x, -1)[:-1].isnan().all()
    assert ours.softmax(x, -1)[-1].tolist() == [float(i == 7) for i in range(N)]
    assert ours.log_softmax(x, -1)[-1].tolist() == [0.0 if i == 7 else -inf for i in range(N)]

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ours.differentiable_logsumexp(x, -1).sum(), x)
    expected = torch.zeros_like(x)
    expected[1, 7] = expected[6, 7] = expected[7, 7] = 1.0
    expected[2, 7] = expected[2, 288] = 0.5
    expected[3:6] = nan
    assert torch.equal(gradient.nan_to_num(7), expected.nan_to_num(7))


_X = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 4, 2)))


@pytest.mark.parametrize(
    "x",
    [_X, _X.transpose(0, 2), _X[:, ::2, 1:], _X[0, :, 0], _X[0, 0, 0]],
    ids=["contiguous", "transposed", "sliced", "matrix", "row"],
)
def test_layouts(x: torch.Tensor) -> None:
    for axis in range(-1, x.ndim - 1):
        torch.testing.assert_close(ours.logsumexp(x, axis), torch.logsumexp(x, axis, keepdim=True))
        torch.testing.assert_close(ours.log_softmax(x, axis), torch.log_softmax(x, axis))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name: str) -> None:
    """Of first and second order, where torch's own are right."""
    for axis in (0, 1):
        results = []
        for function in (FUNCTIONS[name], getattr(torch, name)):
            x = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
            value = function(x, axis)
            weights = torch.arange(value.numel(), dtype=x.dtype).reshape(value.shape) + 1
            (once,) = torch.autograd.grad((value * weights).sum(), x, retain_graph=True)
            (first,) = torch.autograd.grad((value * weights).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad((first * torch.arange(6.0).reshape(2, 3)).sum(), x)
            results.append((once, first.detach(), second))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_small_components_of_derivatives() -> None:
    x = torch.tensor([[30.0, 0.0]], requires_grad=True)
    p = 9.357622968839299e-14
    (gradient,) = torch.autograd.grad(ours.differentiable_log_softmax(x, 1)[0, 0], x)
    np.testing.assert_allclose(gradient.numpy(), [[p, -p]], rtol=4e-7)
    (gradient,) = torch.autograd.grad(ours.differentiable_softmax(x, 1)[0, 0], x)
    np.testing.assert_allclose(gradient.numpy(), [[p, -p]], rtol=4e-7)
    tied = torch.tensor([2e7, 2e7], requires_grad=True)
    (gradient,) = torch.autograd.grad(ours.differentiable_logsumexp(tied, 0).sum(), tied)
    assert gradient.tolist() == [0.5, 0.5]
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours.differentiable_softmax(half, 0)[0], half)
    assert gradient.tolist() == [0.1962890625, -0.1962890625]
