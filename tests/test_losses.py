"""The losses beside PyTorch's own, under transformations, and where a loss has no number."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from anysoft_conformance.rows import Row, rows

import anysoft

INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(20261125)
F64 = rows("torch", "jax", dtypes=("float64",))
EVERY = rows("numpy", "torch", "jax", "array_api_strict", dtypes=("float64",))


def gradient(row: Row, function: Callable[[Any], Any], x: Any) -> Any:
    if row.backend == "jax":
        return row.host(importlib.import_module("jax").grad(function)(x))
    x = x.clone().requires_grad_()
    function(x).backward()
    return row.host(x.grad)


# ---------------------------------------------------------------------------------------------------------------------
# Beside torch.nn.functional

SHAPES = (((6, 5), -1), ((5, 6), 0), ((3, 5, 2), 1), ((5,), -1))
OPTIONS = tuple(itertools.product((False, True), (0.0, 0.1, 1.0), (False, True), ("mean", "sum", "none")))


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_cross_entropy_is_that_of_torch(shape: tuple[int, ...], axis: int, soft: bool, path: Any) -> None:
    """Values and gradients for all its options, where neither infinities nor small losses are about."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    place = axis % len(shape)
    batch = shape[:place] + shape[place + 1 :]
    x = torch.asarray(RNG.normal(0, 3, shape))
    labels = torch.asarray(RNG.integers(0, 5, batch))
    probabilities = torch.asarray(np.moveaxis(RNG.dirichlet(np.ones(5), batch), -1, place))
    some = torch.where(torch.asarray(RNG.random(batch) < 0.4), -100, labels) if batch else labels
    where_torch_wants_it = min(1, len(shape) - 1)
    for weighted, smoothing, ignoring, reduction in OPTIONS:
        if soft and ignoring:
            continue
        targets = probabilities if soft else (some if ignoring else labels)
        weights = torch.asarray(RNG.random(5)) if weighted else None
        given = [a.movedim(place, where_torch_wants_it) if a.ndim == x.ndim else a for a in (x.clone(), targets)]
        given[0].requires_grad_()
        options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
        expected = torch.nn.functional.cross_entropy(*given, weight=weights, **options)
        mine = x.clone().requires_grad_()
        if ignoring:
            options["ignore_index"] = -100
        with anysoft.options(path=path):
            found = anysoft.cross_entropy(mine, targets, axis, weights=weights, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        (slope,) = torch.autograd.grad(expected.sum(), given[0])
        (found_slope,) = torch.autograd.grad(found.sum(), mine)
        slope = slope.movedim(where_torch_wants_it, place)
        torch.testing.assert_close(found_slope, slope, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_of_torch_is_the_formula(dtype: str, axis: int) -> None:
    """In several blocks: rows in range and beyond, sure ones that are right or wrong, and what is no distribution."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.random.default_rng(3).normal(0, 3, (600, 500))
    labels = np.random.default_rng(4).integers(0, 500, 600)
    sure = x.copy()
    sure[np.arange(300), labels[:300]] += 30
    sure[np.arange(300, 600), 7] += 25
    special = sure.copy()
    special[0, 0], special[1, 1], special[2], special[3, labels[3]] = NAN, INF, -INF, -INF
    scales = np.resize([60.0, 1.0], (600, 1))
    close = partial(torch.testing.assert_close, rtol=2e-6 if dtype == "float32" else 1e-13, equal_nan=True)
    targets = torch.asarray(labels)
    for values in (x, sure, special, x * scales, x - 50):
        for options in ({}, {"ignore_index": int(labels[0])}, {"label_smoothing": 0.25}, {"z_loss": 0.5}):
            logits = torch.asarray(values if axis else values.T, dtype=getattr(torch, dtype)).requires_grad_()
            found = []
            for path in ("auto", "generic"):
                with anysoft.options(path=path):
                    loss = anysoft.cross_entropy(logits, targets, axis, reduction="none", **options)
                finite = loss.isfinite() | loss.isinf()
                found.append((loss, *torch.autograd.grad(torch.where(finite, loss, 0.0).sum(), logits)))
                with torch.no_grad(), anysoft.options(path=path):
                    close(anysoft.cross_entropy(logits, targets, axis, reduction="none", **options), loss, atol=0)
            close(found[0][0], found[1][0], atol=0)
            # p − ε/K, or what a z-loss takes away, is a difference
            least = 0.004 * float(np.finfo(dtype).eps) if {"label_smoothing", "z_loss"} & set(options) else 0
            close(found[0][1], found[1][1], atol=least)


def test_binary_cross_entropy_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y, w, b = (torch.asarray(a) for a in (RNG.normal(0, 3, (4, 3)), *RNG.random((2, 4, 3)), RNG.random(3)))
    for weights, pos_weight, reduction in itertools.product((None, w), (None, b), ("mean", "sum", "none")):
        found = anysoft.binary_cross_entropy(x, y, weights=weights, pos_weight=pos_weight, reduction=reduction)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            x, y, weight=weights, pos_weight=pos_weight, reduction=reduction
        )
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_categorical_log_prob_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, labels = torch.asarray(RNG.normal(0, 3, (4, 3))), torch.asarray(RNG.integers(0, 3, (5, 4)))
    expected = torch.distributions.Categorical(logits=x).log_prob(labels)
    torch.testing.assert_close(anysoft.categorical_log_prob(x, labels), expected, rtol=1e-13, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("row", rows("torch", "jax", dtypes=("float32", "float64")))
def test_gradients_are_small_where_the_loss_is(row: Row, path: Any) -> None:
    """p − y, of which 1 − p would have no digit left."""
    x, tiny = row.array([40.0, 0.0, 10.0]), [math.exp(-40), math.exp(-30)]
    expected = np.array([-sum(tiny), *tiny]) / (1 + sum(tiny))
    for targets in (row.array(0, "int64"), row.array([1.0, 0.0, 0.0])):
        with anysoft.options(path=path):
            found = gradient(row, lambda x, y=targets: anysoft.cross_entropy(x, y), x)  # type: ignore[misc]
        np.testing.assert_allclose(found, expected, rtol=1e-14 if row.dtype == "float64" else 2e-5)


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("row", rows("torch", dtypes=("float32",)))
def test_the_gradient_of_a_flat_vocabulary(row: Row, path: Any) -> None:
    """Probabilities of 2e-5, not the exponentials of rounded logarithms of −10.8; and smoothing, a sum of as many."""
    x = (RNG.normal(0, 1e-3, (2, 50_257))).astype(np.float32)
    p = np.exp(x.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    for smoothing in (0.0, 0.25):
        with anysoft.options(path=path):
            loss = partial(anysoft.cross_entropy, reduction="sum", label_smoothing=smoothing)
            found = gradient(row, lambda x, f=loss: f(x, row.array([0, 1], "int64")), row.array(x))[:, 2:]  # type: ignore[misc]
        # the contract, by the two terms that cancel
        allowed = 4 * np.spacing(p[:, 2:].astype(np.float32)) + 2.0**-23 * smoothing / x.shape[1]
        assert (np.abs(found - (p[:, 2:] - smoothing / x.shape[1])) <= allowed).all()


@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
def test_numerical_differentiation_agrees(row: Row) -> None:
    torch = importlib.import_module("torch")
    x = row.array(RNG.normal(0, 2, (3, 4))).requires_grad_()
    y = row.array(RNG.dirichlet(np.ones(4), 3)).requires_grad_()
    w = row.array(RNG.random(4)).requires_grad_()
    labels = row.array([3, 1, 0], "int64")
    check, second = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    for path in ("auto", "generic"):
        for function, given in (
            (lambda x, w: anysoft.cross_entropy(x, labels, weights=w, label_smoothing=0.2, ignore_index=1), (x, w)),
            (lambda x, w: anysoft.cross_entropy(x, labels, weights=w, z_loss=0.1, reduction="none"), (x, w)),
            (lambda x, y, w: anysoft.cross_entropy(x, y, weights=w, label_smoothing=0.2), (x, y, w)),
            (lambda x: anysoft.cross_entropy(x, labels, return_logsumexp=True), (x,)),
            (lambda x: anysoft.categorical_log_prob(x, labels, temperature=0.7), (x,)),
            (lambda x, y, w: anysoft.binary_cross_entropy(x, y, weights=w, pos_weight=w * w), (x, y, w)),
        ):
            with anysoft.options(path=path):
                assert check(function, given)
                assert second(function, given)


@pytest.mark.parametrize("row", F64)
def test_the_derivative_by_targets_is_minus_log_p(row: Row) -> None:
    x, logits = [20.0, 0.0, -1.0], [40.0, -40.0, 0.0]
    for target in ([1.0, 0.0, 0.0], [0.25, 0.5, 0.25]):
        found = gradient(row, lambda y: anysoft.cross_entropy(row.array(x), y), row.array(target))
        np.testing.assert_allclose(found, -np.asarray(anysoft.log_softmax(x)), rtol=1e-14)
    absent = gradient(row, lambda y: anysoft.cross_entropy(row.array([0.0, -INF]), y), row.array([1.0, 0.0]))
    np.testing.assert_array_equal(absent, 0.0)
    for target in ([1.0, 0.0, 0.0], [0.25, 0.5, 0.25]):
        binary = partial(anysoft.binary_cross_entropy, row.array(logits), reduction="sum")
        found = gradient(row, binary, row.array(target))
        np.testing.assert_allclose(found, -np.array(logits), rtol=1e-15)


@pytest.mark.parametrize("row", F64)
def test_the_derivative_of_the_logsumexp(row: Row) -> None:
    """Also where there is no loss: that of logsumexp itself."""
    labels = row.array([0, 0, 0], "int64")
    x = row.array([[1.0, 2.0, 2.0], [INF, 1.0, INF], [-INF, -INF, -INF]])

    def lse(x: Any) -> Any:
        value = anysoft.cross_entropy(x, labels, return_logsumexp=True)[1]
        return row.xp.where(value > -INF, value, 0.0).sum()

    e = math.exp(1)
    expected: Any = [[1 / (1 + 2 * e), e / (1 + 2 * e), e / (1 + 2 * e)], [0.5, 0, 0.5], [0, 0, 0]]
    np.testing.assert_allclose(gradient(row, lse, x), expected, rtol=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Where there is nothing to lose


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("row", F64)
def test_a_mean_over_nothing_is_0_with_gradient_0(row: Row, path: Any) -> None:
    ignored = row.array([7, 7], "int64")
    nothing = row.array(np.zeros(0), "int64")
    for x, labels, options in (
        ([[NAN, INF], [0.0, -INF]], ignored, {"ignore_index": 7, "z_loss": 0.5, "label_smoothing": 0.1}),
        ([[1.0, 2.0], [0.0, 3.0]], ignored, {"ignore_index": 7, "reduction": "sum"}),
        ([[1.0, -INF], [0.0, 3.0]], row.array([1, 1], "int64"), {"weights": row.array([1.0, 0.0])}),
        (np.zeros((0, 2)), nothing, {"z_loss": 0.5}),
        (np.zeros((0, 2)), row.array(np.zeros((0, 2))), {}),
    ):
        with anysoft.options(path=path):
            logits = row.array(x)
            loss = partial(anysoft.cross_entropy, **options)
            assert float(loss(logits, labels)) == 0
            np.testing.assert_array_equal(gradient(row, lambda x, f=loss, y=labels: f(x, y), logits), 0.0)  # type: ignore[misc]


@pytest.mark.parametrize("row", EVERY)
def test_a_class_of_logit_minus_infinity_is_not_there(row: Row) -> None:
    """The smoothed loss is that of the row without it, weights and all."""
    with_it, without = row.array([[2.0, -INF, 0.5]]), row.array([[2.0, 0.5]])
    for labels, others in (
        (row.array([2], "int64"), row.array([1], "int64")),
        (row.array([[0.25, 0.0, 0.75]]), row.array([[0.25, 0.75]])),
    ):
        found = anysoft.cross_entropy(with_it, labels, weights=row.array([1.0, 5.0, 0.5]), label_smoothing=0.25)
        wanted = anysoft.cross_entropy(without, others, weights=row.array([1.0, 0.5]), label_smoothing=0.25)
        assert math.isfinite(float(found))
        np.testing.assert_allclose(float(found), float(wanted), rtol=1e-15)


@pytest.mark.parametrize("row", rows("numpy", "torch", "jax", dtypes=("float32",)))
def test_a_million_samples(row: Row) -> None:
    """Means of as many small losses, and one sum that a running one would lose: each 1.5e-8 beside 10⁶ of them."""
    n = 10**6
    x = np.zeros((n, 2), dtype=np.float32)
    x[:, 0] = 18.0
    labels = row.array(np.zeros(n), "int64" if row.backend != "jax" else "int32")
    each = math.log1p(math.exp(-18.0))
    for reduction, expected in (("mean", each), ("sum", n * each)):
        found = float(anysoft.cross_entropy(row.array(x), labels, reduction=reduction))
        assert found == pytest.approx(expected, rel=6e-7)
    found = float(anysoft.binary_cross_entropy(row.array(x[:, 0]), row.array(np.ones(n)), reduction="mean"))
    assert found == pytest.approx(each, rel=6e-7)


# ---------------------------------------------------------------------------------------------------------------------
# Labels out of range


@pytest.mark.parametrize("label", [3, -1, 300])
@pytest.mark.parametrize("row", EVERY)
def test_labels_out_of_range(row: Row, label: int) -> None:
    x, labels = row.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), row.array([0, label], "int64")
    for function in (partial(anysoft.cross_entropy, reduction="none"), anysoft.categorical_log_prob):
        if row.backend == "jax":  # every call is a trace
            each = row.host(function(x, labels))
            assert math.isfinite(each[0])
            assert math.isnan(each[1])
        else:
            with pytest.raises(ValueError, match=f"label {label} is out of range: there are 3 classes"):
                function(x, labels)
    assert float(anysoft.cross_entropy(x, labels, ignore_index=label)) == pytest.approx(1.4076059644443804)


# ---------------------------------------------------------------------------------------------------------------------
# Transformations

X = RNG.normal(0, 2, (4, 3))
LABELS, SOFT = np.array([2, 0, 1, 1]), RNG.dirichlet(np.ones(3), 4)
CALLS: dict[str, Callable[..., Any]] = {
    "labels": lambda x, y, q: anysoft.cross_entropy(x, y, reduction="none"),
    "everything": lambda x, y, q: anysoft.cross_entropy(
        x, y, weights=q[0], label_smoothing=0.1, ignore_index=1, z_loss=1e-2, reduction="sum", return_logsumexp=True
    )[0],
    "probabilities": lambda x, y, q: anysoft.cross_entropy(x, q, label_smoothing=0.1),
    "log_prob": lambda x, y, q: anysoft.categorical_log_prob(x, y, where=q > 0.05, temperature=0.5),
    "binary": lambda x, y, q: anysoft.binary_cross_entropy(x, q, pos_weight=q[0]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@pytest.mark.parametrize("call", [call for name, call in CALLS.items() if name != "labels"])  # everything has them
def test_torch_compile(call: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    given = tuple(map(torch.asarray, (X, LABELS, SOFT)))
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 3):
        x, y, q = (a[:n] for a in given)
        torch.testing.assert_close(compiled(x, y, q), call(x, y, q), rtol=1e-14, atol=0)
    slopes = []
    for function in (compiled, call):
        x = given[0].clone().requires_grad_()
        value = function(x, *given[1:])
        slopes.append(torch.autograd.grad(torch.where(value.isfinite(), value, 0.0).sum(), x)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-13, atol=1e-16)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["labels", "everything", "log_prob"])
@pytest.mark.parametrize("row", F64)
def test_batching(row: Row, name: str) -> None:
    """By vmap over samples, and of gradients; a label that vmap hides from view is not looked at."""
    module = importlib.import_module("jax" if row.backend == "jax" else "torch.func")
    x, y, q = row.array(X), row.array(LABELS, "int64"), row.array(SOFT)

    def one(x: Any, y: Any) -> Any:
        return CALLS[name](x, y, q[:1] if name == "everything" else q[0])

    found = row.host(module.vmap(one)(x, y))
    each = [row.host(one(x[i], y[i])) for i in range(4)]
    np.testing.assert_allclose(found, each, rtol=1e-14)
    if name != "log_prob":
        slopes = row.host(module.vmap(module.grad(one))(x, y))
        expected = [row.host(module.grad(one)(x[i], y[i])) for i in range(4)]
        np.testing.assert_allclose(slopes, expected, rtol=1e-13, atol=1e-16)
    wrong = row.array([0, 1, 2, 3], "int64")
    assert np.isnan(row.host(module.vmap(one)(x, wrong))).tolist() == [False, False, False, True]


@every_call
def test_jax_jit(call: Callable[..., Any]) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    for row in (parameter.values[0] for parameter in rows("jax", dtypes=("float64",))):
        with row.framework.session():
            given = (row.array(X), row.array(LABELS, "int64"), row.array(SOFT))
            np.testing.assert_allclose(row.host(jax.jit(call)(*given)), row.host(call(*given)), rtol=1e-14)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def test_arguments() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert anysoft.cross_entropy([20, 0], 0) == pytest.approx(2.061153620314381e-09, rel=1e-14)
        single = np.array([[20.0, 0.0], [1.0, 2.0]], dtype=np.float32)
        assert anysoft.cross_entropy(single[:1], [0]) == np.float32(2.0611537e-09)
        assert anysoft.cross_entropy(single, np.array([0, 1], dtype=np.uint8)).dtype == np.float32
        assert anysoft.cross_entropy(single, [0, 1], weights=np.ones(2)).dtype == np.float64
        assert anysoft.cross_entropy(single, np.full((2, 2), 0.5, dtype=np.float16)).dtype == np.float32
        assert anysoft.cross_entropy(3.0, 0) == 0
        assert anysoft.cross_entropy(3.0, 1.0) == 0
        assert anysoft.categorical_log_prob(single, 1, axis=0).shape == (2,)
        assert anysoft.categorical_log_prob(single, [0, 1], dtype=np.float64).dtype == np.float64
        assert anysoft.categorical_log_prob([0.0, 0.0], [0, 1, 1]).tolist() == [-math.log(2)] * 3
        assert anysoft.binary_cross_entropy(single, True).shape == ()
        assert str(anysoft.explain("cross_entropy", single, targets=[0, 1])) == "cross_entropy on numpy: generic"


@pytest.mark.parametrize(
    ("function", "given", "options", "error", "match"),
    [
        ("cross_entropy", (X, LABELS), {"label_smoothing": -0.5}, ValueError, "-0.5"),
        ("cross_entropy", (X, LABELS), {"label_smoothing": NAN}, ValueError, "nan"),
        ("cross_entropy", (X, LABELS), {"label_smoothing": "much"}, TypeError, "'much'"),
        ("cross_entropy", (X, LABELS), {"z_loss": -1}, ValueError, "-1"),
        ("cross_entropy", (X, LABELS), {"z_loss": INF}, ValueError, "inf"),
        ("cross_entropy", (X, LABELS), {"ignore_index": 0.5}, TypeError, "0.5"),
        ("cross_entropy", (X, SOFT), {"ignore_index": 2}, ValueError, "ignore_index 2"),
        ("cross_entropy", (X, LABELS), {"axis": (0, 1)}, TypeError, r"\(0, 1\)"),
        ("cross_entropy", (X, LABELS), {"axis": 0}, ValueError, r"\(4,\) where \(3,\)"),
        ("cross_entropy", (X, LABELS.astype(float)), {}, ValueError, r"\(4,\) where \(4, 3\)"),
        ("cross_entropy", (X, LABELS * 1j), {}, TypeError, "complex128"),
        ("cross_entropy", (X * 1j, LABELS), {}, TypeError, "complex128"),
        ("cross_entropy", (np.zeros((4, 0)), LABELS), {}, ValueError, "at least one class"),
        ("cross_entropy", (X, None), {}, TypeError, "targets"),
        ("categorical_log_prob", (X, [True, False, True, True]), {}, TypeError, "bool"),
        ("categorical_log_prob", (X, [0, 1, 2]), {}, ValueError, r"\(3,\) does not broadcast"),
        ("categorical_log_prob", (X, LABELS), {"axis": None}, TypeError, "None"),
        ("categorical_log_prob", (X, LABELS), {"temperature": -1}, ValueError, "-1"),
        ("binary_cross_entropy", (X, X), {"reduction": "batchmean"}, ValueError, "'batchmean'"),
        ("binary_cross_entropy", (X, None), {}, TypeError, "targets"),
        ("binary_cross_entropy", (X, LABELS * 1j), {}, TypeError, "complex128"),
    ],
)
def test_errors(
    function: str, given: tuple[Any, ...], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        getattr(anysoft, function)(*given, **options)
