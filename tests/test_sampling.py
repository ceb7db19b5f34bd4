"""Sampling: noise bit by bit, generators and seeds, what is refused, and what frameworks do to functions that draw."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

import anysoft
from anysoft import sampling

INF, NAN = math.inf, math.nan
X = np.array([[0.5, -1.25, 2.0, -INF], [3.0, 1.0, 0.0, 2.0]])


# ---------------------------------------------------------------------------------------------------------------------
# Noise

BITS = (0, 1, 2, 1000, 2**16, 2**24 + 1, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2**20, 2**32 - 1)


def _exact(v: Any) -> float:
    return float(-mpmath.log(-mpmath.log1p(-v)))


def _noise(bits: Any, dtype: str) -> Any:
    return sampling._GUMBEL.call(True, np.array(bits, dtype=np.uint32), np.dtype(dtype))


def test_noise_of_known_bits_in_float32() -> None:
    with mpmath.workprec(200):
        exact = [_exact(min((mpmath.mpf(k) + 0.5) / 2**32, 1 - mpmath.mpf(2) ** -24)) for k in BITS]
    found = _noise(BITS, "float32")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=3e-7, atol=3e-7)
    assert found[0] == pytest.approx(33 * math.log(2), rel=1e-6)
    assert found[-1] == pytest.approx(-2.811, abs=1e-3)


def test_noise_of_known_bits_in_float64() -> None:
    low = tuple(reversed(BITS))
    with mpmath.workprec(200):
        words = [(mpmath.mpf(k) + (mpmath.mpf(j) + 0.5) / 2**32) / 2**32 for k, j in zip(BITS, low, strict=True)]
        exact = [_exact(min(v, 1 - mpmath.mpf(2) ** -53)) for v in words]
        least = _exact(mpmath.mpf(2) ** -65)
    # next to its end, v has a spacing of 2⁻⁵³ only
    np.testing.assert_allclose(_noise([BITS, low], "float64"), exact, rtol=1e-15, atol=1e-11)
    assert _noise([[0], [0]], "float64")[0] == pytest.approx(least, rel=1e-15)
    highest = _noise([[2**32 - 1], [2**32 - 1]], "float64")
    assert np.isfinite(highest).all()
    assert highest[0] == pytest.approx(-math.log(53 * math.log(2)), rel=1e-12)


def test_half_noise_is_finite() -> None:
    found = _noise(BITS, "float16")
    assert found.dtype == np.float16
    assert np.isfinite(found).all()


def test_a_framework_without_a_generator_takes_numpys() -> None:
    strict = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    x = strict.asarray(X)
    for rng in (5, np.random.default_rng(5)):
        drawn = anysoft.categorical(x, shape=(3, 2), rng=rng)
        np.testing.assert_array_equal(np.asarray(drawn), anysoft.categorical(X, shape=(3, 2), rng=5))
    assert anysoft.gumbel(3, like=x).dtype == strict.float64


def test_numpys_generators() -> None:
    one, two = np.random.default_rng(1), np.random.default_rng(1)
    np.testing.assert_array_equal(anysoft.gumbel(5, rng=one), anysoft.gumbel(5, rng=two))
    assert (anysoft.gumbel(5, rng=one) == anysoft.gumbel(5, rng=two)).all()
    assert (anysoft.gumbel(5, rng=one) != anysoft.gumbel(5, rng=1)).all()  # a generator goes on, a seed begins again
    old = [anysoft.gumbel(5, rng=np.random.RandomState(3), dtype="float32") for _ in range(2)]
    np.testing.assert_array_equal(*old)
    assert old[0].dtype == np.float32
    assert (anysoft.gumbel(5) != anysoft.gumbel(5)).all()


def test_torchs_generators() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    found = anysoft.gumbel((2, 3), rng=torch.Generator().manual_seed(3))
    assert found.dtype == torch.float32
    again = anysoft.gumbel((2, 3), rng=3, like=torch.zeros(1))
    assert (found == again).all()
    torch.manual_seed(3)  # without rng, torch's own state
    assert (anysoft.gumbel((2, 3), like=torch.zeros(1)) == found).all()


def test_keys_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(X)
    new, old = jax.random.key(7), jax.random.PRNGKey(7)
    expected = anysoft.categorical(x, rng=7)
    for rng in (new, old, jax.numpy.asarray(7)):
        assert (anysoft.categorical(x, rng=rng) == expected).all()
    assert isinstance(anysoft.gumbel(3, rng=new), jax.Array)
    assert isinstance(anysoft.gumbel(3, rng=old), jax.Array)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def test_shapes() -> None:
    x = np.zeros((2, 3, 4))
    assert anysoft.categorical(x, rng=0).shape == (2, 3)
    assert anysoft.categorical(x, 1, rng=0).shape == (2, 4)
    assert anysoft.categorical(x, 0, shape=(5, 3, 4), rng=0).shape == (5, 3, 4)
    assert anysoft.categorical(x[:1], shape=[6, 7, 3], rng=0).shape == (6, 7, 3)
    assert anysoft.categorical(3.0, shape=(5,), rng=0).shape == (5,)
    assert anysoft.categorical(x[0, 0], shape=5, rng=0).shape == (5,)
    assert anysoft.categorical(x[0, 0], temperature=np.ones((6, 1)), rng=0).shape == (6,)
    assert anysoft.gumbel_top_k(x, 2, 0, rng=0)[0].shape == (2, 3, 4)
    assert anysoft.gumbel_top_k(x, 2, where=np.ones((5, 1, 1, 4), bool), rng=0)[1].shape == (5, 2, 3, 2)
    assert anysoft.gumbel_softmax(x, noise=np.zeros((6, 2, 3, 4))).shape == (6, 2, 3, 4)
    assert anysoft.gumbel_softmax(np.zeros((0, 3)), rng=0, hard=True).shape == (0, 3)
    assert anysoft.categorical(np.zeros((3, 0)), rng=0).tolist() == [-1, -1, -1]


def test_each_row_of_a_mask_or_of_temperatures_is_a_draw_of_its_own() -> None:
    drawn = anysoft.categorical(np.zeros(1000), temperature=np.ones((8, 1)), rng=0)
    assert len(set(drawn.tolist())) > 4


def test_wider_noise_is_added_in_its_own_dtype() -> None:
    x, noise = np.array([3.0, 3.0], np.float32), np.array([1.0, 1.0 + 1e-12])
    assert anysoft.categorical(x, noise=noise) == 1
    assert anysoft.gumbel_softmax(x, noise=noise).dtype == np.float32
    indices, keys = anysoft.gumbel_top_k(x, 2, noise=noise)
    assert indices.tolist() == [1, 0]
    assert keys.dtype == np.float64


def test_keys_are_perturbed_log_probabilities() -> None:
    noise = anysoft.gumbel(X.shape, rng=1)
    indices, keys = anysoft.gumbel_top_k(X, 3, temperature=0.5, noise=noise)
    expected = np.take_along_axis(anysoft.log_softmax(X, temperature=0.5) + noise, indices, -1)
    np.testing.assert_allclose(keys, expected, rtol=1e-14)
    np.testing.assert_array_equal(indices[:, 0], anysoft.categorical(X, temperature=0.5, noise=noise))


def test_generic_and_native_selection_agree() -> None:
    noise = anysoft.gumbel((20, 50), rng=2)
    found = anysoft.gumbel_top_k(np.zeros(50), 7, noise=noise)
    with anysoft.options(path="generic"):
        for one, other in zip(found, anysoft.gumbel_top_k(np.zeros(50), 7, noise=noise), strict=True):
            np.testing.assert_array_equal(one, other)


A_FLOAT: Any = 2.5
AXES: Any = (0, 1)
NO_AXIS: Any = None
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "seed_negative": (lambda: anysoft.gumbel(3, rng=-1), ValueError, "-1"),
    "seed_large": (lambda: anysoft.gumbel(3, rng=2**63), ValueError, str(2**63)),
    "seed_float": (lambda: anysoft.categorical(X, rng=1.5), TypeError, "1.5"),
    "seed_text": (lambda: anysoft.gumbel(3, rng="seed"), TypeError, "'seed'"),
    "length": (lambda: anysoft.gumbel((3, -1), rng=1), ValueError, "-1"),
    "length_float": (lambda: anysoft.gumbel(A_FLOAT, rng=1), TypeError, "float"),
    "like": (lambda: anysoft.gumbel(3, rng=1, like=[1.0]), TypeError, "like must be an array"),
    "dtype": (lambda: anysoft.gumbel(3, rng=1, dtype="int32"), TypeError, "int32"),
    "two_draws": (lambda: anysoft.categorical(X, rng=1, noise=X), TypeError, "rng"),
    "two_shapes": (lambda: anysoft.categorical(X, shape=(4, 2), noise=X), TypeError, "shape"),
    "two_draws_relaxed": (lambda: anysoft.gumbel_softmax(X, rng=1, noise=X), TypeError, "rng"),
    "two_draws_of_k": (lambda: anysoft.gumbel_top_k(X, 1, rng=1, noise=X), TypeError, "rng"),
    "shape": (lambda: anysoft.categorical(X, shape=(4, 3), rng=1), ValueError, r"\(4, 3\)"),
    "shape_short": (lambda: anysoft.categorical(X, shape=(), rng=1), ValueError, r"\(2,\)"),
    "axes_of_k": (lambda: anysoft.gumbel_top_k(X, 1, AXES, rng=1), TypeError, "axis must be an int"),
    "axis_of_shape": (lambda: anysoft.categorical(X, NO_AXIS, shape=(4, 2), rng=1), TypeError, "axis must be an int"),
    "temperature": (lambda: anysoft.categorical(X, temperature=np.ones(4), rng=1), ValueError, "temperature"),
    "complex": (lambda: anysoft.categorical(X + 1j, rng=1), TypeError, "complex128"),
    "noise": (lambda: anysoft.categorical(X, noise=np.zeros((3, 4))), ValueError, r"\(3, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        call()


def test_generators_of_others_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match=r"torch.Generator"):
        anysoft.categorical(torch.zeros(3), rng=np.random.default_rng(1))
    with pytest.raises(TypeError, match=r"numpy.random.Generator"):
        anysoft.categorical(np.zeros(3), rng=torch.Generator())
    with pytest.raises(TypeError, match="on meta"):
        anysoft.categorical(torch.zeros(3, device="meta"), rng=torch.Generator())
    with pytest.raises(TypeError, match="two frameworks"):
        anysoft.categorical(torch.zeros(3), noise=np.zeros(3))


def test_explain() -> None:
    text = str(anysoft.explain("gumbel_softmax", X, hard=True, temperature=0.5, rng=3))
    assert text == "gumbel_softmax on numpy: generic"


# ---------------------------------------------------------------------------------------------------------------------
# What frameworks do to functions


def _everything(x: Any, rng: Any) -> Any:
    return (
        anysoft.categorical(x, shape=(5, 2), temperature=0.5, rng=rng),
        anysoft.gumbel_softmax(x, hard=True, rng=rng),
        anysoft.gumbel_top_k(x, 2, axis=0, rng=rng),
    )


def test_jax_jit_with_a_traced_key_or_seed() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(X)
    compiled = jax.jit(_everything)
    expected = _everything(x, 1)
    for key in (jax.random.key(1), 1):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), compiled(x, key), expected)
        assert all(jax.tree.leaves(same)), same
    with pytest.raises(TypeError, match="key"):
        jax.jit(lambda x: anysoft.categorical(x))(x)


def test_jax_vmap_over_keys() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(np.zeros((6, 50)))
    draw = jax.jit(jax.vmap(lambda x, key: anysoft.categorical(x, rng=key)))
    for key in (jax.random.key(1), jax.random.PRNGKey(1)):
        keys = jax.random.split(key, 6)
        found = draw(x, keys)
        assert found.tolist() == [int(anysoft.categorical(x[0], rng=one)) for one in keys]
        assert len(set(found.tolist())) > 2


def test_jax_grad_through_a_draw() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x, key = jax.numpy.asarray(X), jax.random.key(1)
    gradient = jax.jit(jax.grad(lambda x, key: (anysoft.gumbel_softmax(x, rng=key, hard=True)[:, 0]).sum()))(x, key)
    noise = anysoft.gumbel(x.shape, rng=key, like=x)
    soft = anysoft.softmax(x + noise)
    np.testing.assert_allclose(gradient[:, 0], soft[:, 0] * (1 - soft[:, 0]), rtol=1e-4)
    assert not np.isnan(gradient).any()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile(backend: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.compiler.reset()

    def draws(x: Any, noise: Any) -> Any:
        return (
            anysoft.categorical(x, noise=noise),
            anysoft.gumbel_softmax(x, hard=True, noise=noise),
            anysoft.gumbel_top_k(x, 2, temperature=0.5, noise=noise)[0],
        )

    x, noise = torch.asarray(X), anysoft.gumbel(X.shape, rng=1, like=torch.asarray(X))
    for one, other in zip(
        torch.compile(draws, fullgraph=True, backend=backend)(x, noise), draws(x, noise), strict=True
    ):
        assert (one == other).all()
    drawn = torch.compile(lambda x: anysoft.categorical(x, shape=(1000,)), fullgraph=True, backend=backend)(x[1])
    assert len(set(drawn.tolist())) == 4
    torch.compiler.reset()


def test_torch_vmap() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.zeros(8, 100)
    apart = torch.func.vmap(anysoft.categorical, randomness="different")(x)
    assert len(set(apart.tolist())) > 2
    together = torch.func.vmap(anysoft.categorical, randomness="same")(x)
    assert len(set(together.tolist())) == 1
    indices, _ = torch.func.vmap(lambda x: anysoft.gumbel_top_k(x, 2, axis=0), randomness="different")(x[..., None])
    assert indices.shape == (8, 2, 1)


def test_reverse_mode_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.asarray(X).requires_grad_()
    noise = anysoft.gumbel(X.shape, rng=3, like=x)
    gradients = []
    for hard in (False, True):
        drawn = anysoft.gumbel_softmax(x, temperature=0.3, noise=noise, hard=hard)
        gradients.append(torch.autograd.grad((drawn * torch.arange(4.0)).sum(), x)[0])
    assert (gradients[0] == gradients[1]).all()
    assert gradients[0][0, :3].abs().min() > 0
    _, keys = anysoft.gumbel_top_k(x, 2, noise=noise)
    assert torch.autograd.grad(keys.sum(), x)[0].isfinite().all()
