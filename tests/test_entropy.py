"""What the suite does not ask of entropy and the divergences: derivatives by the second array and the temperature."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from anysoft_conformance import oracle
from anysoft_conformance.families import entropy as family
from anysoft_conformance.rows import Row, rows
from anysoft_conformance.truths import Problem

import anysoft

INF, NAN = math.inf, math.nan
F64 = rows("torch", "jax", dtypes=("float64",))
PAIRS: tuple[tuple[list[float], list[float]], ...] = (
    ([0.5, -1.25, 2.0], [1.0, 0.5, -0.75]),
    ([0.0, -40.0, -45.0], [0.0, -45.0, -41.0]),
    ([0.0, -40.0, 1.0], [40.0, 0.0, 1.0]),
    ([1e-12, -1e-12, 0.0], [0.0, 2e-12, 1e-12]),
    ([0.0, 1.0, -INF], [0.5, -1.0, -INF]),
    ([0.0, -INF, 1.0], [0.5, -1.0, 2.0]),
)


def transforms(row: Row) -> tuple[Any, Any]:
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    return module.jacrev, module.jacfwd


def assert_within(computed: Any, function: family.Derivative, arrays: tuple[list[float], ...], order: int) -> None:
    truth = family.derivative(function, order)(Problem(tuple(map(np.array, arrays)), -1))
    ratio = oracle.ulp_error(computed, truth, "float64") / oracle.budget(truth, "float64")
    assert (ratio <= 1).all(), f"{function.__name__} at {arrays}: {computed}, and {truth.value} is right"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["entropy", "kl_divergence"])
def test_the_kernel_of_torch_is_the_formula(name: str, axis: int) -> None:
    """Of float32, in several blocks, and in its derivatives of both orders; rows in which one entry holds all too."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(5)
    x = rng.normal(0, 3, (300, 400)).astype(np.float32)
    x[:100, 7] += 60
    y = x + rng.normal(0, 0.1, x.shape).astype(np.float32)
    given = [torch.asarray(a if axis else a.T.copy()) for a in (x, y)]
    given = given[: 1 if name == "entropy" else 2]
    function = getattr(anysoft, name)
    assert anysoft.explain(name, *given, axis=axis).path == "torch kernel"
    found = []
    for dtype in (torch.float32, torch.float64):
        arrays = [a.to(dtype).requires_grad_() for a in given]
        value = function(*arrays, axis=axis)
        slopes = torch.autograd.grad(value.sum(), arrays, retain_graph=True)
        again = torch.autograd.grad(value.sum(), arrays, create_graph=True)
        curves = torch.autograd.grad(sum((a * a.detach()).sum() for a in again), arrays)
        found.append((value, *slopes, *curves))
    for one, other in zip(*found, strict=True):
        # what cancels in a derivative may cost it more than the digits of float32
        slack = 0.0 if one.ndim == 1 else 1e-6 * float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-6 if one.ndim == 1 else 1e-4, atol=slack)


@pytest.mark.parametrize("row", F64)
def test_derivatives_by_the_second_array(row: Row) -> None:
    jacrev, jacfwd = transforms(row)
    jit = importlib.import_module("jax").jit if row.backend == "jax" else lambda function: function
    by_y = [jit(way(anysoft.kl_divergence, 1)) for way in (jacrev, jacfwd)]
    by_yy = [jit(way(jacrev(anysoft.kl_divergence, 1), 1)) for way in (jacrev, jacfwd)]
    js_by_y = jit(jacrev(anysoft.js_divergence, 1))
    for x, y in PAIRS:
        given = row.array(x), row.array(y)
        for first, second in zip(by_y, by_yy, strict=True):
            assert_within(row.host(first(*given)), family._kl_by_y, (x, y), 1)
            assert_within(row.host(second(*given)), family._kl_by_yy, (x, y), 2)
        assert_within(row.host(js_by_y(*given)), family._js_by_x, (y, x), 1)


@pytest.mark.parametrize("row", F64)
def test_mixed_second_derivatives(row: Row) -> None:
    """∂²KL/∂x∂y = p_i p_j − δ_ij p_i, in which 1 − p is the sum of the others."""
    jacrev, _ = transforms(row)
    for x, y in (([0.5, -1.25, 2.0], [1.0, 0.5, -0.75]), ([0.0, -40.0, -45.0], [0.0, -45.0, -41.0])):
        mixed = jacrev(jacrev(anysoft.kl_divergence, 1), 0)(row.array(x), row.array(y))
        p = np.exp(x) / np.exp(x).sum()
        expected = np.outer(p, p) - np.diag(p)
        np.fill_diagonal(expected, [-p[i] * np.delete(p, i).sum() for i in range(3)])
        np.testing.assert_allclose(row.host(mixed), expected, rtol=1e-13)


@pytest.mark.parametrize("row", F64)
def test_second_derivatives_of_js(row: Row) -> None:
    """They are sums of terms of both signs, of p and q that are rounded: that costs up to twice the contract."""
    jacrev, jacfwd = transforms(row)
    jit = importlib.import_module("jax").jit if row.backend == "jax" else lambda function: function
    second = jit(jacfwd(jacrev(anysoft.js_divergence)))
    for x, y in PAIRS:
        truth = family.derivative(family._js_by_xx, 2)(Problem((np.array(x), np.array(y)), -1))
        error = oracle.ulp_error(row.host(second(row.array(x), row.array(y))), truth, "float64")
        assert (error <= 2 * oracle.budget(truth, "float64")).all(), (x, y)


@pytest.mark.parametrize("row", rows("numpy", "torch", dtypes=("float32",)))
def test_long_rows(row: Row) -> None:
    x, y = (values(row.dtype) for values in family.LONG)
    for function, truth, arrays in (
        (anysoft.entropy, family.entropy, (x,)),
        (anysoft.kl_divergence, family.kl_divergence, (x, y)),
        (anysoft.js_divergence, family.js_divergence, (x, y)),
    ):
        computed = row.host(function(*map(row.array, arrays)))
        (exact,) = truth(Problem(arrays, -1))
        assert oracle.ulp_error(computed, exact, row.dtype) <= oracle.budget(exact, row.dtype), function.__name__


@pytest.mark.parametrize("row", F64)
def test_derivatives_where_the_value_is_infinite_or_nothing_is_left(row: Row) -> None:
    jacrev, _ = transforms(row)
    x, y, nothing = row.array([0.0, 1.0]), row.array([0.0, -INF]), row.array([False, False], "bool")
    for place in (0, 1):
        np.testing.assert_array_equal(row.host(jacrev(anysoft.kl_divergence, place)(x, y)), 0.0)
        second = jacrev(jacrev(anysoft.kl_divergence, place), 1 - place)(x, y)
        np.testing.assert_array_equal(row.host(second), 0.0)
        for function in (anysoft.kl_divergence, anysoft.js_divergence):
            dead = jacrev(lambda *both, f=function: f(*both, where=nothing), place)(row.array([NAN, INF]), y)
            np.testing.assert_array_equal(row.host(dead), 0.0)
    np.testing.assert_array_equal(row.host(jacrev(lambda x: anysoft.entropy(x, where=nothing))(y)), 0.0)


@pytest.mark.parametrize("row", F64)
def test_temperature(row: Row) -> None:
    """∂H/∂T = Var(x)/T³; at both ends, where the entropy is constant, 0."""
    jacrev, jacfwd = transforms(row)
    x = [1.0, 2.0, -INF, 2.5]
    for heat in (0.5, 2.0):
        kept = np.array([1.0, 2.0, 2.5])
        p = np.exp(kept / heat) / np.exp(kept / heat).sum()
        variance = p @ (kept - p @ kept) ** 2
        for way in (jacrev, jacfwd):
            slope = way(lambda t: anysoft.entropy(row.array(x), temperature=t))(row.array(heat))
            np.testing.assert_allclose(row.host(slope), variance / heat**3, rtol=1e-14)
    for limit in (0.0, INF):
        slope = jacrev(lambda t: anysoft.entropy(row.array(x), temperature=t))(row.array(limit))
        np.testing.assert_array_equal(row.host(slope), 0.0)
        by_x = jacrev(lambda x, t=limit: anysoft.entropy(x, temperature=t))(row.array(x))
        np.testing.assert_array_equal(row.host(by_x), 0.0)


@pytest.mark.parametrize(
    ("value", "arrays", "first", "second"),
    [
        (family.entropy, 1, family._entropy_by_x, family._entropy_by_xx),
        (family.kl_divergence, 2, family._kl_by_x, family._kl_by_xx),
        (family.js_divergence, 2, family._js_by_x, family._js_by_xx),
    ],
)
def test_truths_of_derivatives(value: Any, arrays: int, first: Any, second: Any) -> None:
    """The closed forms against differences of the definitions, at points of few bits."""
    points = [np.array([0.5, -1.25, 2.0]), np.array([1.0, 0.5, -0.75])][:arrays]

    def defined(*rows: Any) -> Any:
        with mpmath.workprec(400):
            p, q = ([e / mpmath.fsum(map(mpmath.exp, row)) for e in map(mpmath.exp, row)] for row in (rows * 2)[:2])
            if value is family.entropy:
                return -mpmath.fsum(a * mpmath.log(a) for a in p)
            if value is family.kl_divergence:
                return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))
            pairs = [(a, b, (a + b) / 2) for a, b in zip(p, q, strict=True)]
            return mpmath.fsum(a * mpmath.log(a / m) + b * mpmath.log(b / m) for a, b, m in pairs) / 2

    def moved(*steps: int) -> Any:
        row = [mpmath.mpf(v) for v in points[0]]
        for place in steps:
            row[place] += mpmath.mpf(2) ** -60
        return defined(row, *[[mpmath.mpf(v) for v in other] for other in points[1:]])

    with mpmath.workprec(400):
        scale, n = mpmath.mpf(2) ** 60, range(3)
        np.testing.assert_allclose(value(Problem(tuple(points), -1))[0].value, float(moved()), rtol=1e-15)
        slopes = [float((moved(i) - moved()) * scale) for i in n]
        np.testing.assert_allclose(family.derivative(first, 1)(Problem(tuple(points), -1)).value, slopes, rtol=1e-14)
        curves = [[float((moved(i, j) - moved(i) - moved(j) + moved()) * scale**2) for j in n] for i in n]
        np.testing.assert_allclose(family.derivative(second, 2)(Problem(tuple(points), -1)).value, curves, rtol=1e-14)


CALLS: dict[str, Callable[[Any], Any]] = {
    "entropy": anysoft.entropy,
    "entropy-options": lambda x: anysoft.entropy(x, where=x < 2, temperature=0.5, keepdims=True),
    "kl_divergence": lambda x: anysoft.kl_divergence(x, x[:1]),
    "js_divergence-options": lambda x: anysoft.js_divergence(x, x[:1], where=x < 2),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
X = np.array([[1.0, 2.0, 2.0, -3.0], [0.0, -40.0, -50.0, 1.0], [0.5, 0.25, 0.125, 7.0]])


@every_call
def test_torch_compile(call: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.compiler.reset()

    def both(function: Any) -> tuple[Any, Any]:
        x = torch.asarray(X).requires_grad_()
        value = function(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(both(compiled), both(call), rtol=4e-15, atol=1e-30)
    torch.compiler.reset()


@every_call
@pytest.mark.parametrize("row", F64)
def test_transformations(row: Row, call: Callable[[Any], Any]) -> None:
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    x = row.array(np.stack([X, 1.5 * X]))
    expected = np.stack([row.host(call(each)) for each in x])
    np.testing.assert_allclose(row.host(module.vmap(call)(x)), expected, rtol=4e-15, atol=1e-30)
    reverse = row.host(module.grad(lambda v: call(v).sum())(x[0]))
    tangent = module.jvp(lambda v: call(v).sum(), (x[0],), (row.array(np.ones_like(X)),))[1]
    assert np.isfinite(reverse).all()
    np.testing.assert_allclose(row.host(tangent), reverse.sum(), atol=1e-14)
    if row.backend == "jax":
        jit = importlib.import_module("jax").jit
        np.testing.assert_allclose(row.host(jit(call)(x[0])), expected[0], rtol=4e-15, atol=1e-30)


@pytest.mark.parametrize("row", rows("numpy", "torch", "array_api_strict", dtypes=("float64", "float32")))
def test_bounds_and_symmetry(row: Row) -> None:
    rng = np.random.default_rng(4)
    scale = 10.0 ** rng.uniform(-9, 3, (500, 1))
    x, y = (row.array(scale * rng.normal(0, 1, (500, 8))) for _ in range(2))
    forth, back = row.host(anysoft.js_divergence(x, y)), row.host(anysoft.js_divergence(y, x))
    assert (forth >= 0).all()
    assert (forth <= float(np.asarray(math.log(2), dtype=row.dtype))).all()
    # neither is more than 4 ulp and what its logits carry from the truth
    np.testing.assert_allclose(forth, back, rtol=float(40 * np.finfo(row.dtype).eps))
    assert (row.host(anysoft.kl_divergence(x, y)) >= 0).all()
    entropies = row.host(anysoft.entropy(x))
    assert (entropies >= 0).all()
    assert (entropies <= math.log(8) * (1 + 4 * np.finfo(row.dtype).eps)).all()
    moved = row.host(anysoft.kl_divergence(x, x))
    np.testing.assert_array_equal(moved, 0.0)


def test_arguments() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    single = np.zeros(3, dtype=np.float32)
    assert anysoft.kl_divergence(single, [0.0, 1.0, 2.0]).dtype == np.float64
    assert anysoft.kl_divergence([0.0, 1.0, 2.0], torch.zeros(3)).dtype == torch.float32
    assert anysoft.js_divergence(single, single, dtype="float64").dtype == np.float64
    assert str(anysoft.explain("js_divergence", single, y=single)) == "js_divergence on numpy: generic"
    for function in (anysoft.kl_divergence, anysoft.js_divergence):
        with pytest.raises(TypeError, match="two frameworks"):
            function(torch.zeros(2), np.zeros(2))
        with pytest.raises(TypeError, match="two arrays"):
            function(single, None)
        with pytest.raises(ValueError, match="y of shape"):
            function(single, np.zeros(2))
    with pytest.raises(ValueError, match="temperature"):
        anysoft.entropy(single, temperature=-1.0)
