"""No hidden cost: no wait for a device, no copy to the host, no second compilation for equal shapes, no graph break."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anysoft

X = np.array([[1.0, 2.0, 2.0, -3.0], [0.0, -40.0, -50.0, -60.0]], dtype=np.float32)
Y = X[:, ::-1].copy()
LABELS = np.array([1, 3])

ONE = (
    *("logsumexp", "logmeanexp", "logcumsumexp", "softmax", "softmin", "log_softmax", "log1mexp", "log1pexp"),
    *("logexpm1", "log_sigmoid", "sigmoid", "logit", "entropy", "boltzmann", "log_partition", "free_energy"),
    *("mean_energy", "heat_capacity", "gibbs_entropy", "softplus", "sparsemax", "entmax"),
)
TWO = ("logaddexp", "logsubexp", "kl_divergence", "js_divergence", "binary_cross_entropy")
WITH_LABELS = ("categorical_log_prob", "cross_entropy")


def _call(name: str) -> Callable[[Any, Any, Any], Any]:
    """Of logits, other logits, and labels."""
    function = getattr(anysoft, name)
    if name == "attention":
        return lambda x, y, labels: function(x, y, y)
    if name in WITH_LABELS:
        return lambda x, y, labels: function(x, labels)
    return (lambda x, y, labels: function(x, y)) if name in TWO else (lambda x, y, labels: function(x))


CALLS = {name: _call(name) for name in (*ONE, *TWO, *WITH_LABELS, "attention")}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def looks(x: Any, y: Any, labels: Any) -> Any:
    """What each of these tests has to catch: a branch on a value."""
    return x * 2.0 if bool((x > 0).any()) else x


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


def _on_another_device(torch: Any, call: Callable[..., Any]) -> Any:
    """Called with arrays that have no values: to wait for one, or to copy it to the host, is an error.

    The paths that they take are those of a GPU.
    """
    x, y = (torch.empty(X.shape, device="meta") for _ in range(2))
    return call(x, y, torch.empty(2, dtype=torch.int64, device="meta"))


@every_call
def test_torch_does_not_wait_for_a_device(torch: Any, call: Callable[..., Any]) -> None:
    assert _on_another_device(torch, call).device.type == "meta"


@pytest.mark.parametrize("call", [looks, lambda x, y, labels: x.cpu()], ids=["a look", "a copy"])
def test_torch_would_be_caught_waiting(torch: Any, call: Callable[..., Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _on_another_device(torch, call)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_torch_saves_no_more_for_a_derivative_than_its_own(torch: Any, name: str) -> None:
    """In bytes of storage, each counted once."""
    x = torch.linspace(-3, 3, 20_000).reshape(100, 200).requires_grad_()

    def saved(function: Callable[..., Any]) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function(x, -1)
        result.sum().backward()
        return sum(sizes.values())

    assert 0 < saved(getattr(anysoft, name)) <= saved(getattr(torch, name))


def _graphs(torch: Any, call: Callable[..., Any]) -> int:
    """How many graphs two calls with equal shapes and other values are compiled to."""
    graphs: list[Any] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    # the first array of all finds its backend: compiled then, a function is compiled once more
    anysoft.softmax(torch.zeros(1))
    torch.compiler.reset()
    compiled = torch.compile(call, backend=compiler)
    labels = torch.asarray(LABELS)
    compiled(torch.asarray(X), torch.asarray(Y), labels)
    compiled(torch.asarray(Y), torch.asarray(X - 1), labels.flip(0))
    torch.compiler.reset()
    return len(graphs)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax", "cross_entropy", "entropy", "logaddexp"])
def test_torch_compiles_one_graph_once(torch: Any, name: str) -> None:
    assert _graphs(torch, CALLS[name]) == 1


def test_torch_would_be_caught_breaking_a_graph(torch: Any) -> None:
    assert _graphs(torch, looks) > 1


# ---------------------------------------------------------------------------------------------------------------------
# JAX


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="jax is not installed")


def _compilations_of_a_second_call(jax: Any, call: Callable[..., Any]) -> int:
    """With other values of equal shapes, and nothing copied between host and device."""
    one, other = ([jax.device_put(a) for a in given] for given in ((X, Y, LABELS), (Y, X, LABELS[::-1])))
    call(*one)
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.transfer_guard("disallow"):
            call(*other)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(compiled)


@every_call
def test_jax_compiles_once_and_copies_nothing(jax: Any, call: Callable[..., Any]) -> None:
    assert _compilations_of_a_second_call(jax, call) == 0


def test_jax_would_be_caught_compiling_again(jax: Any) -> None:
    assert _compilations_of_a_second_call(jax, lambda x, y, labels: jax.jit(lambda x: x + 1.0)(x)) > 0


@every_call
def test_jax_has_no_branch_on_values(jax: Any, call: Callable[..., Any]) -> None:
    jax.eval_shape(call, X, Y, LABELS)


def test_jax_would_be_caught_branching(jax: Any) -> None:
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.eval_shape(looks, X, Y, LABELS)


def _passes(jax: Any, function: Callable[[Any], Any]) -> tuple[int, int]:
    """How many exponentials of a whole array, and how many reductions, a compiled function always computes.

    What is in the branch of a condition is not among them.
    """
    program = jax.jit(function).lower(np.zeros((256, 1000), np.float32)).compile().as_text()
    bodies = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) .*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    main = bodies[re.search(r"^ENTRY (%[\w.-]+)", program, re.MULTILINE)[1]]  # type: ignore[index]
    always = main + "".join(bodies[name] for name in re.findall(r"calls=(%[\w.-]+)", main))
    exponentials = re.findall(r"f32\[256,1000\]\S* exponential\(", always)
    return len(exponentials), len(re.findall(r"f32\[256\]\S* reduce\(", always))


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_jax_takes_two_sums_and_one_exponential(jax: Any, name: str) -> None:
    """The maximum and the sum; in a gradient too, up to where it asks whether a row is dominated."""
    function = getattr(anysoft, name)
    assert _passes(jax, lambda x: function(x, -1)) == (1, 2)
    exponentials, reductions = _passes(jax, jax.grad(lambda x: (function(x, -1) ** 2).sum()))
    assert exponentials == 1
    assert reductions <= 3


def test_jax_would_be_caught_passing_twice(jax: Any) -> None:
    def twice(x: Any) -> Any:  # what the formula for every case comes to
        with anysoft.options(path="generic"):
            return anysoft.logsumexp(x, -1)

    exponentials, reductions = _passes(jax, twice)
    assert exponentials + reductions > 3


def test_jax_looks_at_no_condition_off_the_cpu(jax: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.numpy.ones(3)
    assert anysoft.explain("softmax", x).path == "rows in single passes"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = anysoft.explain("softmax", x)
    assert found.path == "generic"
    assert "wait for the device" in found.reasons["rows in single passes"]
