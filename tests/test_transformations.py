"""What frameworks do to functions (compile, differentiate, batch, export) gives what a plain call gives."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import anysoft

Function = Callable[[Any], Any]

X = np.array([[1.0, 2.0, 2.0, -3.0], [0.0, -40.0, -50.0, -60.0], [700.0, 710.0, 709.0, -np.inf]])
MASK = [True, True, False, True]

CALLS: dict[str, Function] = {
    "logsumexp": lambda x: anysoft.logsumexp(x, axis=-1),
    "logsumexp-where": lambda x: anysoft.logsumexp(x, axis=-1, where=x < 2, keepdims=True),
    "logsumexp-b": lambda x: anysoft.logsumexp(x, axis=-1, b=[1.0, -3.0, 0.0, 2.0], return_sign=True)[0],
    "softmax": lambda x: anysoft.softmax(x),
    "softmax-where": lambda x: anysoft.softmax(x, where=MASK),
    "softmax-temperature": lambda x: anysoft.softmax(x, temperature=0.5),
    "log_softmax": lambda x: anysoft.log_softmax(x),
    "log_softmax-where-temperature": lambda x: anysoft.log_softmax(x, axis=-1, where=x < 2, temperature=0.5),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
WITH_OPTIONS = ["logsumexp-where", "logsumexp-b", "softmax-where", "log_softmax-where-temperature"]
every_option = pytest.mark.parametrize("call", [CALLS[name] for name in WITH_OPTIONS], ids=WITH_OPTIONS)
# one of each function, on one row: what higher derivatives are taken of
every_function = pytest.mark.parametrize(
    "call", [CALLS["logsumexp"], CALLS["softmax"], CALLS["log_softmax"]], ids=["logsumexp", "softmax", "log_softmax"]
)
ROW = np.array([1.0, 2.0, 2.0, -3.0])


def _run_alone(program: str) -> str:
    """What a program prints in a process of its own, where a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


@pytest.fixture
def torch() -> Iterator[Any]:
    module = pytest.importorskip("torch", reason="torch is not installed")
    anysoft.softmax(module.zeros(1))  # the adapter is there; a test of its own is about where it isn't
    module.compiler.reset()
    yield module
    module.compiler.reset()


def _same(torch: Any, found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=4e-15, atol=1e-30, equal_nan=True)


def _value_and_gradient(torch: Any, call: Function, x: Any) -> tuple[Any, Any]:
    x = x.clone().requires_grad_()
    value = call(x)
    finite = torch.where(value.isfinite(), value, 0.0)  # −inf at excluded entries
    (gradient,) = torch.autograd.grad(finite.square().sum(), x)
    return value.detach(), gradient


@every_option
def test_torch_compile(torch: Any, call: Function) -> None:
    x = torch.asarray(X)
    _same(torch, torch.compile(call, fullgraph=True, backend="eager")(x), call(x))


@every_option
def test_torch_compile_with_gradients(torch: Any, call: Function) -> None:
    x = torch.asarray(X)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found, expected = (_value_and_gradient(torch, each, x) for each in (compiled, call))
    assert not expected[1].isnan().any()
    _same(torch, found, expected)


FIRST = """
import sys, torch, anysoft
x = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
def first(x):
    return anysoft.logsumexp(x, -1), anysoft.softmax(x)
assert "anysoft_backends._torch" not in sys.modules
found = torch.compile(first, fullgraph=True, backend="eager")(x)
for one, other in zip(found, first(x), strict=True):
    torch.testing.assert_close(one, other)
print(found[0].item())
"""


def test_torch_compile_is_where_the_first_array_may_arrive(torch: Any) -> None:
    """The adapter is then imported while Dynamo traces."""
    assert float(_run_alone(FIRST)) == 4.248354255291589e-18


def test_torch_compile_of_a_module_with_parameters(torch: Any) -> None:
    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.asarray(X))
            self.register_buffer("kept", torch.asarray(MASK))

        def forward(self) -> Any:
            return anysoft.softmax(self.logits, where=self.kept) * anysoft.log_softmax(self.logits, -1)[:, :1]

    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    _same(torch, compiled(), layer())
    gradients = []
    for each in (compiled, layer):
        layer.zero_grad()
        each().square().sum().backward()
        gradients.append(layer.logits.grad.clone())
    _same(torch, *gradients)


class _Counter:
    """A compiler that counts how often it is asked."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_torch_tracers_bake_in_no_certificate(torch: Any, name: str) -> None:
    """Traced on logits whose certificate holds, and then run on others where it does not."""
    from torch.fx.experimental.proxy_tensor import make_fx

    call, other = CALLS[name], torch.tensor([0.0, -40.0], dtype=torch.float64)
    traced_on = torch.tensor([3.0, 4.0], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that lengths are taken for constants
        tracers = (make_fx(call)(traced_on), torch.jit.trace(call, (traced_on,)))
    for traced in tracers:
        _same(torch, traced(other), call(other))


@every_call
def test_torch_compile_with_dynamic_shapes_compiles_once(torch: Any, call: Function) -> None:
    counter = _Counter()
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    for rows in (2, 3, 5):
        x = torch.asarray(np.resize(X, (rows, 4)))
        _same(torch, compiled(x), call(x))
    assert counter.graphs == 1


def test_torch_compile_with_a_dynamic_reduced_axis(torch: Any) -> None:
    compiled = torch.compile(CALLS["logsumexp"], fullgraph=True, backend="eager", dynamic=True)
    for n in (3, 40, 1000):
        x = torch.linspace(-5, 5, 2 * n, dtype=torch.float64).reshape(2, n)
        torch.testing.assert_close(compiled(x), CALLS["logsumexp"](x), rtol=1e-14, atol=0)


def test_torch_compile_sees_the_options(torch: Any) -> None:
    counter = _Counter()
    compiled = torch.compile(CALLS["logsumexp"], fullgraph=True, backend=counter)
    x = torch.tensor([0.0, -40.0], dtype=torch.float64)
    tiny = 4.248354255291589e-18
    for graphs in (3, 3):  # the second time, nothing is left to compile
        assert compiled(x).item() == tiny
        with anysoft.options(path="native"):
            assert compiled(x).item() == 0  # torch's own loses it
            with anysoft.options(path="generic"):
                assert compiled(x).item() == tiny
            assert compiled(x).item() == 0
        assert compiled(x).item() == tiny
        assert counter.graphs == graphs


def test_torch_compile_does_not_mind_how_many_options_are_in_use(torch: Any) -> None:
    """As in a server with many threads; Dynamo gives up on a function compiled more than eight times."""
    from contextlib import ExitStack

    counter = _Counter()
    compiled = torch.compile(CALLS["logsumexp"], fullgraph=True, backend=counter)
    x = torch.zeros(3)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(anysoft.options(path="generic"))
            assert compiled(x).item() == pytest.approx(np.log(3))
    assert counter.graphs == 1


@pytest.mark.xfail(
    reason="Dynamo cannot see a ContextVar (no guard on ContextVar.get), so that compiled functions know the options "
    "of their thread but not of their asyncio task",
    strict=True,
)
def test_torch_compile_sees_the_options_of_its_task(torch: Any) -> None:
    compiled = torch.compile(CALLS["logsumexp"], fullgraph=True, backend="eager")
    x = torch.tensor([0.0, -40.0], dtype=torch.float64)

    async def run() -> tuple[float, float]:
        inside, seen = asyncio.Event(), asyncio.Event()

        async def native() -> float:
            with anysoft.options(path="native"):
                inside.set()
                await seen.wait()
                return float(compiled(x))

        async def auto() -> float:
            await inside.wait()
            value = float(compiled(x))
            seen.set()
            return value

        first, second = await asyncio.gather(native(), auto())
        return first, second

    assert asyncio.run(run()) == (0.0, 4.248354255291589e-18)


@every_call
def test_torch_vmap(torch: Any, call: Function) -> None:
    x = torch.asarray(X)
    _same(torch, torch.func.vmap(call)(x), call(x))
    if call is CALLS["logsumexp"]:  # and over a last axis, and twice
        _same(torch, torch.func.vmap(call, in_dims=1)(x.T.contiguous()), call(x))
        stack = torch.stack([x, 2 * x])
        _same(torch, torch.func.vmap(torch.func.vmap(call))(stack), call(stack))


def _derivatives(torch: Any, call: Function, x: Any) -> tuple[Any, Any]:
    """Jacobian and second derivatives, by plain autograd."""
    jacobian = torch.autograd.functional.jacobian
    first = jacobian(call, x)
    second = jacobian(lambda x: jacobian(call, x, create_graph=True), x)
    assert not first.isnan().any()
    assert not second.isnan().any()
    return first, second


@every_function
def test_torch_func_derivatives(torch: Any, call: Function) -> None:
    func, x = torch.func, torch.asarray(ROW)
    first, second = _derivatives(torch, call, x)
    v = torch.linspace(-1, 2, 4, dtype=torch.float64)

    def close(found: Any, expected: Any) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)

    close(func.grad(lambda x: call(x).square().sum())(x), 2 * call(x).reshape(-1) @ first.reshape(-1, 4))
    close(func.jacrev(call)(x), first)
    close(func.jacfwd(call)(x), first)
    value, tangent = func.jvp(call, (x,), (v,))
    close(value, call(x))
    close(tangent, first @ v)
    value, pullback = func.vjp(call, x)
    close(value, call(x))
    close(pullback(torch.ones_like(value))[0], first.reshape(-1, 4).sum(0))
    close(func.hessian(call)(x), second)
    close(func.jacrev(func.jacrev(call))(x), second)
    close(func.functionalize(call)(x), call(x))


@every_function
def test_torch_func_nested(torch: Any, call: Function) -> None:
    func, x = torch.func, torch.asarray(X[:2])
    gradient = func.grad(lambda row: call(row).square().sum())
    expected = torch.stack([gradient(row) for row in x])
    _same(torch, func.vmap(gradient)(x), expected)
    compiled = torch.compile(func.vmap(gradient), fullgraph=True, backend="aot_eager")
    _same(torch, compiled(x), expected)
    hessians = torch.stack([func.hessian(call)(row) for row in x])
    torch.testing.assert_close(func.vmap(func.hessian(call))(x), hessians, rtol=1e-13, atol=1e-15)


def test_torch_derivatives_are_softmax_and_its_covariance(torch: Any) -> None:
    """What all of the above agree on is right."""
    x = torch.asarray(ROW)
    p = np.exp(ROW) / np.exp(ROW).sum()
    covariance = torch.asarray(np.diag(p) - np.outer(p, p))
    for found, expected in (
        (torch.func.grad(CALLS["logsumexp"])(x), torch.asarray(p)),
        (torch.func.hessian(CALLS["logsumexp"])(x), covariance),
        (torch.func.jacrev(CALLS["softmax"])(x), covariance),
        (torch.func.jacrev(CALLS["log_softmax"])(x), torch.eye(4, dtype=torch.float64) - torch.asarray(p)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-16)


@every_option
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_torch_export(torch: Any, call: Function, strict: bool) -> None:
    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return call(x)

    x = torch.asarray(X)
    rows = {"x": {0: torch.export.Dim("rows", min=2, max=64)}}
    program = torch.export.export(Module(), (x,), strict=strict, dynamic_shapes=rows).module()
    _same(torch, program(x), call(x))
    other = torch.asarray(np.resize(X[::-1], (7, 4)))
    _same(torch, program(other), call(other))


@every_call
@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_torch_without_data(torch: Any, call: Function, kind: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    expected = call(torch.asarray(X).half())
    if kind == "fake":
        with FakeTensorMode() as mode:
            x = mode.from_tensor(torch.asarray(X).half())
            result = call(x)
        assert result.device == expected.device
    else:
        result = call(torch.empty(X.shape, dtype=torch.float16, device="meta"))
        assert result.device.type == "meta"
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# JAX


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="jax is not installed")


def _close(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


JAX_X = np.where(np.isinf(X), X, np.clip(X, -60, 60)).astype(np.float32)


@every_call
def test_jax_jit_vmap_and_their_nests(jax: Any, call: Function) -> None:
    x = jax.numpy.asarray(JAX_X)
    expected = call(x)
    for name, found in {
        "jit": jax.jit(call)(x),
        "jit(vmap(jit))": jax.jit(jax.vmap(jax.jit(call)))(x),
    }.items():
        assert isinstance(found, jax.Array), name
        _close(found, expected)
    shape = jax.eval_shape(call, x)
    assert (shape.shape, shape.dtype) == (expected.shape, expected.dtype)


@every_option
def test_jax_gradients(jax: Any, call: Function) -> None:
    def loss(x: Any) -> Any:
        value = call(x)
        return (jax.numpy.where(jax.numpy.isfinite(value), value, 0.0) ** 2).sum()

    x = jax.numpy.asarray(JAX_X)
    expected = jax.grad(loss)(x)
    assert not np.isnan(expected).any()
    _close(jax.jit(jax.vmap(jax.grad(jax.jit(loss))))(x), expected)


@every_function
def test_jax_derivatives_of_every_order_and_mode(jax: Any, call: Function) -> None:
    x = jax.numpy.asarray(ROW, dtype="float32")
    v = jax.numpy.linspace(-1, 2, 4, dtype="float32")
    first = jax.jacrev(call)(x)
    second = jax.jacrev(jax.jacrev(call))(x)
    assert not np.isnan(second).any()
    _close(jax.jacfwd(call)(x), first)
    value, tangent = jax.jvp(call, (x,), (v,))
    _close(value, call(x))
    _close(tangent, first @ v)
    value, pullback = jax.vjp(call, x)
    _close(value, call(x))
    _close(pullback(jax.numpy.ones_like(value))[0], first.reshape(-1, 4).sum(0))
    rows = jax.numpy.stack([x, x])
    _close(jax.jit(jax.vmap(jax.hessian(jax.jit(call))))(rows)[1], second)


def test_jax_derivatives_are_softmax_and_its_covariance(jax: Any) -> None:
    x = jax.numpy.asarray(ROW, dtype="float32")
    p = (np.exp(ROW) / np.exp(ROW).sum()).astype(np.float32)
    covariance = np.diag(p) - np.outer(p, p)
    _close(jax.grad(CALLS["logsumexp"])(x), p)
    _close(jax.hessian(CALLS["logsumexp"])(x), covariance)
    _close(jax.jacfwd(CALLS["softmax"])(x), covariance)
    _close(jax.jacrev(CALLS["log_softmax"])(x), np.eye(4, dtype=np.float32) - p)


def test_jax_traces_a_temperature_and_a_mask(jax: Any) -> None:
    x = jax.numpy.asarray(JAX_X)

    def call(x: Any, temperature: Any, where: Any) -> Any:
        return anysoft.softmax(x, temperature=temperature, where=where)

    compiled = jax.jit(call)
    where = jax.numpy.asarray(MASK)
    for temperature in (0.0, 0.5, np.inf):
        _close(compiled(x, temperature, where), call(x, temperature, where))
    assert np.isnan(compiled(x, -1.0, where)[0, 0])  # a traced value cannot be refused
    temperatures = jax.numpy.asarray([[0.5], [1.0], [2.0]], dtype="float32")
    each = jax.vmap(call, in_axes=(0, 0, None))(x, temperatures, where)
    _close(each, call(x, temperatures, where))


def test_jax_differentiates_a_temperature(jax: Any) -> None:
    """d/dT of p·v is the covariance of v with −x/T²."""
    x, v = ROW.astype(np.float32), np.array([3.0, 1.0, -1.0, 0.5], dtype=np.float32)
    slope = jax.grad(lambda t: (anysoft.softmax(jax.numpy.asarray(x), temperature=t) * v).sum())(2.0)
    p = np.exp(x / 2) / np.exp(x / 2).sum()
    assert float(slope) == pytest.approx(-((p * v * x).sum() - (p * v).sum() * (p * x).sum()) / 4, rel=1e-5)


def test_jax_options_are_those_at_the_trace(jax: Any) -> None:
    """And no function that was traced under one option is taken under another, whichever of jax's caches it is in."""
    x = jax.numpy.asarray([0.0, -40.0])
    tiny = pytest.approx(4.248354e-18, rel=1e-6)
    compiled = jax.jit(lambda x: anysoft.logsumexp(x, -1))

    def scanned(x: Any) -> Any:
        return jax.lax.scan(lambda carry, row: (carry, compiled(row)), 0, x[None])[1][0]

    def batched(x: Any) -> Any:
        return jax.vmap(compiled)(x[None])[0]

    for call in (compiled, scanned, batched, jax.jit(jax.checkpoint(compiled))):
        for _ in range(2):
            with anysoft.options(path="native"):
                assert call(x) == 0
                with anysoft.options(path="auto"):
                    assert float(call(x)) == tiny
                assert call(x) == 0
            assert float(call(x)) == tiny
            with anysoft.options(path="generic"):
                assert float(call(x)) == tiny
    assert compiled._cache_size() <= 4  # one for each path and each nest of them, not for each time that it is set


FIRST_UNDER_OPTIONS = """
import jax, anysoft
x = jax.numpy.asarray([0.0, -40.0])
compiled = jax.jit(lambda x: anysoft.logsumexp(x))
with anysoft.options(path="native"):
    assert compiled(x) == 0
assert compiled(x) > 0
"""


def test_jax_options_hold_for_the_first_call_of_all(jax: Any) -> None:
    """The adapter is imported while JAX traces, under an option."""
    _run_alone(FIRST_UNDER_OPTIONS)


def test_jax_options_are_those_of_the_thread(jax: Any) -> None:
    x = jax.numpy.asarray([0.0, -40.0])
    compiled = jax.jit(lambda x: anysoft.logsumexp(x, -1))
    with anysoft.options(path="native"), ThreadPoolExecutor(1) as pool:
        assert compiled(x) == 0
        assert float(pool.submit(compiled, x).result()) == pytest.approx(4.248354e-18, rel=1e-6)
        assert compiled(x) == 0


def test_jax_shard_map(jax: Any) -> None:
    mesh = jax.make_mesh((1,), ("rows",))
    rows = jax.sharding.PartitionSpec("rows")
    x = jax.device_put(JAX_X, jax.sharding.NamedSharding(mesh, rows))
    for name in ("logsumexp", "softmax", "log_softmax-where-temperature"):
        mapped = jax.shard_map(CALLS[name], mesh=mesh, in_specs=rows, out_specs=rows)
        _close(jax.jit(mapped)(x), CALLS[name](x))
