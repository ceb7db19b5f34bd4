"""Attention: its memory, what frameworks do to it, and where it takes a framework's own."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

import anysoft

MEGABYTE = 10**6


def _drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _plain(q: Any, k: Any, v: Any, where: Any = True) -> Any:
    """The textbook's formula in float64."""
    q, k, v = (np.asarray(each, dtype=np.float64) for each in (q, k, v))
    scores = np.where(where, q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e @ v / e.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------
# Memory


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("masked", [False, True])
def test_memory_does_not_grow_with_the_scores(masked: bool, path: Any) -> None:
    q, k, v = (_drawn(8192, 64, seed=seed) for seed in range(3))
    where = np.tri(8192, dtype=bool) if masked else None
    tracemalloc.start()
    try:
        with anysoft.options(path=path):
            out = anysoft.attention(q, k, v, where=where)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - out.nbytes < 64 * MEGABYTE
    some = [0, 1, 4096, 8191]
    kept = True if where is None else where[some]
    np.testing.assert_allclose(out[some], _plain(q[some], k, v, kept), atol=1e-6)


RESIDENT = """
import resource, numpy as np, anysoft
rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(8192, 64)).astype(np.float32) for _ in range(3))
anysoft.attention(q[:600], k, v)  # what BLAS keeps for itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = anysoft.attention(q, k, v)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - out.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the resident memory is that of Linux")
def test_resident_memory() -> None:
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 64 * MEGABYTE


@pytest.mark.parametrize("shape", [(3, 5, 300, 8), (700, 8), (2, 1500, 4)])
def test_blocks_of_queries_and_keys_are_joined_in_order(shape: tuple[int, ...]) -> None:
    q, k, v = (_drawn(*shape, seed=seed) for seed in range(3))
    for block_size in (None, 1000, 257):
        out, log_sum = anysoft.attention(q, k, v, block_size=block_size, return_logsumexp=True)
        np.testing.assert_allclose(out, _plain(q, k, v), atol=2e-6)
        scores = np.asarray(q, np.float64) @ np.swapaxes(k, -1, -2) / np.sqrt(shape[-1])
        np.testing.assert_allclose(log_sum, anysoft.logsumexp(scores, axis=-1), rtol=1e-6)


def test_numpy_takes_its_kernel_where_nothing_is_special() -> None:
    q, k, v = (_drawn(2, n, 4, seed=n) for n in (3, 5, 5))
    where = np.array([True, True, False, True, False])
    assert anysoft.explain("attention", q, k=k, v=v, where=where, scale=2.0).path == "numpy kernel"
    refused: list[dict[str, Any]] = [
        {"return_logsumexp": True},
        {"block_size": 2},
        {"scale": np.ones((3, 1))},
        {"k": k[:1], "v": v[:1]},
        {"k": k.astype(np.float64)},
        {"k": k[:, :0], "v": v[:, :0]},
        {"where": np.ones((2, 5), dtype=bool)},
    ]
    for options in refused:
        found = anysoft.explain("attention", q, **{"k": k, "v": v, **options})
        assert found.path == "generic", options
        assert found.reasons["numpy kernel"]
    clean = anysoft.attention(q, k, v, where=where)
    for value in (np.nan, np.inf):
        for place in (k, v):
            place[:, 2] = value
            np.testing.assert_allclose(anysoft.attention(q, k, v, where=where), clean, rtol=1e-5, atol=1e-6)
            place[:, 2] = 0


def test_arguments_that_are_no_arrays() -> None:
    out = anysoft.attention([[1, 0]], [[1, 0], [1, 0]], [[1], [2]], where=[True, False])
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, [[1.0]])
    with pytest.raises(TypeError, match="scale must be a real number"):
        anysoft.attention([[1.0]], [[1.0]], [[1.0]], scale=1j)
    with pytest.raises(ValueError, match=r"scale of shape \(3,\)"):
        anysoft.attention([[1.0]], [[1.0]], [[1.0]], scale=np.ones(3))
    with pytest.raises(TypeError, match="block_size must be an int or None, not '4'"):
        anysoft.attention([[1.0]], [[1.0]], [[1.0]], block_size="4")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="three arrays"):
        anysoft.attention([[1.0]], None, [[1.0]])
    with pytest.raises(ValueError, match="does not broadcast"):
        anysoft.attention(np.ones((2, 1, 3)), np.ones((3, 1, 3)), np.ones((1, 3)))


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


MASK = np.array([[True, False, True, True, True], [False] * 5, [True, True, False, False, True]])


def _tensors(torch: Any) -> tuple[Any, ...]:
    return tuple(torch.asarray(_drawn(2, n, 4, seed=n)).double() for n in (3, 5, 5))


def test_torch_takes_its_own_where_that_keeps_the_contract(torch: Any) -> None:
    q, k, v = (each.float() for each in _tensors(torch))
    own = "torch.scaled_dot_product_attention"
    assert anysoft.explain("attention", q, k=k, v=v).path == own
    assert anysoft.explain("attention", q, k=k, v=v, where=torch.asarray(MASK), scale=2.0).path == own
    refused: list[dict[str, Any]] = [
        {"return_logsumexp": True},
        {"block_size": 2},
        {"scale": torch.ones(())},
        {"v": v[..., :2]},
        {"k": k[:1], "v": v[:1]},
        {"k": k.half()},
        {"k": k[:, :0], "v": v[:, :0]},
        {"where": torch.ones(2, 5, dtype=torch.bool)},
    ]
    for options in refused:
        found = anysoft.explain("attention", q, **{"k": k, "v": v, **options})
        assert found.path == "generic", options
        assert found.reasons[own]
    differentiated = anysoft.explain("attention", q, k=k.clone().requires_grad_(), v=v)
    assert differentiated.path == "torch, own derivative"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 40, 8), (2, 3, 520, 4), (700, 4)])
def test_the_derivative_of_torch_is_made_block_by_block(torch: Any, shape: tuple[int, ...], masked: bool) -> None:
    """Several batches in a block, one in each, and one in several; beside what autograd records of the formula."""
    given = [torch.asarray(_drawn(*shape, seed=seed)).double().requires_grad_() for seed in range(3)]
    where = torch.asarray(_drawn(shape[-2], shape[-2]) < 0.5) if masked else None
    if where is not None:
        where[3] = False
    g, of_log_sum = torch.asarray(_drawn(*shape, seed=4)).double(), torch.linspace(-1, 1, shape[-2]).double()
    found = []
    for path in ("auto", "generic"):
        with anysoft.options(path=path):
            out, log_sum = anysoft.attention(*given, where=where, return_logsumexp=True)
        loss = (out * g).sum() + (torch.where(log_sum.isfinite(), log_sum, 0.0) * of_log_sum).sum()
        found.append(torch.autograd.grad(loss, given))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


TRAINED = """
import resource, torch, anysoft
torch.set_num_threads(1)
def step(n):
    q, k, v = (torch.randn(2, n, 64, requires_grad=True) for _ in range(3))
    anysoft.attention(q, k, v).sum().backward()
step(600)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(4096)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the resident memory is that of Linux")
def test_resident_memory_of_a_derivative(torch: Any) -> None:
    """q, k, v, the result and their derivatives are 16 MB, one matrix of scores 128."""
    done = subprocess.run([sys.executable, "-c", TRAINED], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 64 * MEGABYTE


def test_torch_takes_the_generic_path_where_its_own_makes_nan_of_what_is_masked(torch: Any) -> None:
    q, k, v = (each.float() for each in _tensors(torch))
    where = torch.asarray([True, True, False, True, False])
    clean = anysoft.attention(q, k, v, where=where)
    for value in (float("nan"), float("inf")):
        for place in (k, v):
            place[:, 2] = value
            torch.testing.assert_close(anysoft.attention(q, k, v, where=where), clean)
            place[:, 2] = 0
    k[:, 0] = -float("inf")
    assert anysoft.attention(q.abs(), k, v).isnan().all()


@pytest.mark.parametrize("block_size", [None, 2])
def test_torch_transformations(torch: Any, block_size: Any) -> None:
    q, k, v = _tensors(torch)
    where = torch.asarray(MASK)

    def call(q: Any, k: Any, v: Any) -> Any:
        return anysoft.attention(q, k, v, where=where, block_size=block_size)

    expected = call(q, k, v)
    close = torch.testing.assert_close
    close(torch.func.vmap(call)(q, k, v), expected)
    close(torch.func.vmap(call, in_dims=(0, None, None))(q, k[0], v[0]), call(q, k[:1], v[:1]))

    def loss(q: Any, k: Any, v: Any) -> Any:
        return call(q, k, v).square().sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)
    close(torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(q, k, v), gradients)
    jacobians = [mode(call)(q, k, v) for mode in (torch.func.jacfwd, torch.func.jacrev)]
    close(*jacobians)
    torch.compiler.reset()
    close(torch.compile(call, fullgraph=True, backend="eager")(q, k, v), expected)
    leaves = [each.clone().requires_grad_() for each in (q, k, v)]
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves).backward()
    close(tuple(each.grad for each in leaves), gradients)
    torch.compiler.reset()


# ---------------------------------------------------------------------------------------------------------------------
# JAX


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="jax is not installed")


def test_jax_transformations(jax: Any) -> None:
    q, k, v = (jax.numpy.asarray(_drawn(2, n, 4, seed=n)) for n in (3, 5, 5))
    where = jax.numpy.asarray(MASK)

    def call(q: Any, k: Any, v: Any, scale: Any) -> Any:
        return anysoft.attention(q, k, v, where=where, scale=scale)

    expected = call(q, k, v, 0.5)
    np.testing.assert_allclose(jax.jit(call)(q, k, v, 0.5), expected, rtol=1e-5, atol=1e-6)
    each = jax.jit(jax.vmap(call, in_axes=(0, None, None, 0)))(q, k[0], v[0], jax.numpy.asarray([0.5, 2.0]))
    np.testing.assert_allclose(each[1], call(q[1], k[0], v[0], 2.0), rtol=1e-5, atol=1e-6)


def test_jax_has_few_blocks_to_compile_and_holds_few_at_a_time(jax: Any) -> None:
    x = jax.ShapeDtypeStruct((8192, 64), "float32")
    compiled = jax.jit(anysoft.attention).lower(x, x, x)
    assert compiled.as_text().count("dot_general") <= 2 * 25
    analysis = compiled.compile().memory_analysis()
    if analysis is not None:  # not every platform has one
        assert analysis.temp_size_in_bytes < 64 * MEGABYTE
