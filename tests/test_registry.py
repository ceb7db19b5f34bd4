"""Which backend a call goes to, which path it takes there, what it says about it, and what others may add."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anysoft
from anysoft import Backend, FastPath, registry

TINY = 4.248354255291589e-18  # log1p(exp(-40)), which a native logsumexp loses
FUNCTIONS = [anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax]


def _framework(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


def _strict() -> Any:
    return _framework("array_api_strict")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Whatever a test registers is gone after it."""
    tables: list[dict[Any, Any]] = [registry._BACKENDS, registry._BY_TYPE, registry._FOUND]
    tables += [table for operation in registry._OPERATIONS.values() for table in (operation.paths, operation.first)]
    before = [dict(table) for table in tables]
    read = registry._ENTRY_POINTS_READ
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    registry._ENTRY_POINTS_READ = read


@pytest.fixture
def toyarray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy framework's module, which nobody has registered."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "plugin")
    return importlib.import_module("toyarray")


@pytest.fixture
def toy(toyarray: Any) -> Any:
    """The toy framework's module, with its backend registered."""
    anysoft.register_backend(toyarray.BACKEND)
    return toyarray


# ---------------------------------------------------------------------------------------------------------------------
# Recognition

# Each calls `see` with an array of the named kind.
Show = Callable[[Callable[[Any], Any]], Any]


def _torch_subclass(see: Callable[[Any], Any]) -> None:
    torch = _framework("torch")

    see(torch.ones(3).as_subclass(type("Tensor", (torch.Tensor,), {})))


def _fake_tensor(see: Callable[[Any], Any]) -> None:
    torch = _framework("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        see(torch.ones(3))


def _jax_tracer(transform: str) -> Show:
    def show(see: Callable[[Any], Any]) -> None:
        jax = _framework("jax")
        getattr(jax, transform)(lambda x: see(x).sum())(jax.numpy.ones((2, 3)))

    return show


KINDS: dict[str, tuple[str, Show]] = {
    "numpy-array": ("numpy", lambda see: see(np.ones(3))),
    "numpy-scalar": ("numpy", lambda see: see(np.float32(1))),
    "numpy-0d": ("numpy", lambda see: see(np.array(1.0))),
    "numpy-subclass": ("numpy", lambda see: see(np.ones(3).view(np.recarray))),
    "torch-tensor": ("torch", lambda see: see(_framework("torch").ones(3))),
    "torch-subclass": ("torch", _torch_subclass),
    "torch-parameter": ("torch", lambda see: see(_framework("torch").nn.Parameter(_framework("torch").ones(3)))),
    "torch-buffer": ("torch", lambda see: see(_framework("torch").nn.Buffer(_framework("torch").ones(3)))),
    "torch-meta": ("torch", lambda see: see(_framework("torch").ones(3, device="meta"))),
    "torch-fake": ("torch", _fake_tensor),
    "torch-vmap": ("torch", lambda see: _framework("torch").func.vmap(see)(_framework("torch").ones(2, 3))),
    "torch-grad": (
        "torch",
        lambda see: _framework("torch").func.grad(lambda x: see(x).sum())(_framework("torch").ones(3)),
    ),
    "jax-array": ("jax", lambda see: see(_framework("jax").numpy.ones(3))),
    "jax-jit": ("jax", _jax_tracer("jit")),
    "jax-vmap": ("jax", _jax_tracer("vmap")),
    "jax-grad": ("jax", _jax_tracer("grad")),
    "array_api_strict": ("array_api_strict", lambda see: see(_strict().ones(3))),
}


@pytest.mark.parametrize(("owner", "show"), KINDS.values(), ids=KINDS.keys())
def test_an_array_is_recognised(owner: str, show: Show) -> None:
    seen = []

    def see(x: Any) -> Any:
        seen.append(anysoft.explain("softmax", x).backend)
        result = anysoft.softmax(x)
        assert result.shape == x.shape
        return result

    show(see)
    assert seen == [owner]


def test_an_object_with_nothing_but_a_namespace_is_an_array(toyarray: Any) -> None:
    x = toyarray.ToyArray([0.0, -40.0])
    result = anysoft.logsumexp(x)
    assert type(result) is toyarray.ToyArray
    assert result.data == TINY
    assert str(anysoft.explain("logsumexp", x)) == "logsumexp on toyarray: generic"


def test_a_subclass_is_of_its_parents_framework(toyarray: Any) -> None:
    class Derived(toyarray.ToyArray):  # type: ignore[misc]
        pass

    mask = toyarray.ToyArray([True, False])
    for x in (Derived([0.0, 2.0]), toyarray.ToyArray([0.0, 2.0])):
        assert anysoft.logsumexp(x, where=mask).data == 0
        assert anysoft.logsumexp(x, where=Derived([False, True])).data == pytest.approx(2)


@pytest.mark.parametrize("x", [2, 2.5, True, [1, 2], (1.0, 2.0), [[1, 2], [3, 4]], range(3)], ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_python_numbers_and_sequences_are_numpy(function: Any, x: Any) -> None:
    result = function(x)
    expected = function(np.asarray(x))
    assert isinstance(result, np.ndarray | np.generic)
    assert result.dtype == expected.dtype == np.float64
    assert np.array_equal(result, expected)


def test_sequences_go_where_the_array_is() -> None:
    torch, strict = _framework("torch"), _strict()
    by_mask = anysoft.logsumexp([0.0, 2.0], where=torch.tensor([True, False]))
    assert isinstance(by_mask, torch.Tensor)
    assert by_mask == 0
    by_weight = anysoft.logsumexp(strict.asarray([0.0, 2.0]), b=[1, 0], where=[True, True])
    assert type(by_weight) is type(strict.ones(1))
    assert by_weight == 0


@pytest.mark.parametrize("framework", ["torch", "jax.numpy", "array_api_strict"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("b", np.float64(2)), ("b", np.float32(2)), ("b", np.int8(2)), ("where", np.True_)],
    ids=lambda each: f"{type(each).__name__}" if isinstance(each, np.generic) else each,
)
def test_numpy_scalars_are_numbers_to_every_framework(framework: str, option: str, value: Any) -> None:
    xp = _framework(framework)
    x = xp.asarray([1.0, 2.0], dtype=xp.float32)
    result = anysoft.logsumexp(x, **{option: value})
    assert result.dtype == xp.float32
    assert result == anysoft.logsumexp(x, **{option: value.item()})


def test_a_numpy_scalar_is_a_temperature_to_every_framework() -> None:
    torch = _framework("torch")
    result = anysoft.softmax(torch.arange(3.0), temperature=np.float64(2))
    assert result.dtype == torch.float32
    assert torch.equal(result, anysoft.softmax(torch.arange(3.0), temperature=2))


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda x, y: anysoft.logsumexp(x, b=y), "x of torch and b of numpy"),
        (lambda x, y: anysoft.logsumexp(y, b=x), "x of numpy and b of torch"),
        (lambda x, y: anysoft.softmax(x, where=y > 0), "x of torch and where of numpy"),
        (lambda x, y: anysoft.log_softmax(x, temperature=y[:1]), "x of torch and temperature of numpy"),
        (lambda x, y: anysoft.logsumexp([0, 0], where=x > 0, b=y), "where of torch and b of numpy"),
        (lambda x, y: anysoft.explain("logsumexp", x, b=y), "x of torch and b of numpy"),
    ],
    ids=["b", "b-reversed", "where", "temperature", "neither-is-x", "explain"],
)
def test_two_frameworks_are_refused_by_name(call: Callable[[Any, Any], Any], names: str) -> None:
    torch = _framework("torch")
    with pytest.raises(TypeError, match=names):
        call(torch.ones(2), np.ones(2))


def test_two_frameworks_without_an_adapter_are_refused_too(toyarray: Any) -> None:
    with pytest.raises(TypeError, match="x of toyarray and b of array_api_strict"):
        anysoft.logsumexp(toyarray.ToyArray([1.0]), b=_strict().ones(1))


def test_two_devices_are_refused_by_name() -> None:
    strict = _strict()
    there = strict.Device("device1")
    x = strict.asarray([1.0, 2.0], device=there)
    for option in ({"b": strict.ones(2)}, {"where": strict.asarray([True, False])}):
        with pytest.raises(TypeError, match=rf"x is on .*device1.* and {next(iter(option))} on .*CPU_DEVICE"):
            anysoft.logsumexp(x, **option)
    with pytest.raises(TypeError, match=r"x is on .*CPU_DEVICE.* and temperature on .*device1"):
        anysoft.softmax(strict.ones(2), temperature=strict.ones(1, device=there))
    with pytest.raises(TypeError, match=r"where is on .*device1.* and b on .*CPU_DEVICE"):
        anysoft.logsumexp([1.0, 2.0], where=strict.asarray([True, False], device=there), b=strict.ones(2))


def test_two_torch_devices_are_refused_by_name() -> None:
    torch = _framework("torch")
    with pytest.raises(TypeError, match="x is on cpu and b on meta"):
        anysoft.logsumexp(torch.ones(2), b=torch.ones(2, device="meta"))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_result_stays_on_the_device_of_its_array(function: Any) -> None:
    strict = _strict()
    there = strict.Device("device1")
    x = strict.asarray([[1.0, 2.0], [3.0, -strict.inf]], device=there)
    for options in ({}, {"where": [True, False]}, {"where": strict.asarray([True, False], device=there)}):
        assert function(x, axis=-1, **options).device == there
    if function is anysoft.logsumexp:
        for b in (2, [1.0, 2.0], strict.asarray([1.0, 2.0], device=there)):
            value, sign = function(x, b=b, return_sign=True)
            assert value.device == sign.device == there
        assert function([1.0, 2.0], b=strict.asarray([1.0, 2.0], device=there)).device == there
    else:
        for temperature in (2, 0, [[2.0], [3.0]], strict.asarray([2.0], device=there)):
            assert function(x, temperature=temperature).device == there


def _matrix() -> Any:
    with pytest.warns(PendingDeprecationWarning, match="matrix"):
        return np.matrix([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: np.ma.array([1.0, 2.0], mask=[True, False]), r"MaskedArray is not supported: pass x\.data, and where"),
        (_matrix, r"numpy\.matrix is not supported: pass numpy\.asarray\(x\)"),
        (lambda: np.array([1.0, None]), "x has the dtype object"),
        (lambda: [1.0, None], "x has the dtype object"),
        (lambda: None, "x has the dtype object"),
        (lambda: np.array(["1", "2"]), "x has the dtype <U1"),
        (lambda: "1.0", "x has the dtype <U3"),
        (lambda: np.array([b"1"]), r"x has the dtype \|S1"),
        (lambda: np.array(["2020"], dtype="datetime64[Y]"), "x has the dtype datetime64"),
    ],
    ids=["masked", "matrix", "object", "list-of-objects", "none", "strings", "a-string", "bytes", "dates"],
)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_what_is_no_array_of_numbers_is_refused_by_name(function: Any, make: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        function(make())


def test_a_masked_mask_is_refused_too() -> None:
    with pytest.raises(TypeError, match="MaskedArray is not supported"):
        anysoft.logsumexp(np.ones(2), where=np.ma.array([True, False]))
    with pytest.raises(TypeError, match="MaskedArray is not supported"):
        anysoft.logsumexp(np.ones(2), b=np.ma.array([1.0, 2.0]))


# ---------------------------------------------------------------------------------------------------------------------
# explain


def test_explain_names_the_chosen_path() -> None:
    chosen = anysoft.explain("logsumexp", np.ones(3))
    assert (chosen.operation, chosen.backend, chosen.path) == ("logsumexp", "numpy", "numpy kernel")
    assert chosen.reasons == {}
    assert str(chosen) == "logsumexp on numpy: numpy kernel"


def test_explain_has_a_sentence_for_each_path_not_chosen() -> None:
    refused = anysoft.explain("softmax", np.ones(3), temperature=2)
    assert refused.path == "generic"
    assert list(refused.reasons) == ["numpy kernel"]
    assert str(refused) == (f"softmax on numpy: generic\n  not numpy kernel: {refused.reasons['numpy kernel']}")
    assert "temperature" in refused.reasons["numpy kernel"]


def test_explain_takes_what_the_function_takes() -> None:
    x = np.ones((2, 3))
    assert anysoft.explain("logsumexp", x, 1).path == "numpy kernel"
    assert anysoft.explain("logsumexp", x, axis=(0, 1), keepdims=True).path == "generic"
    assert anysoft.explain("logsumexp", x, b=[1, 2, 3]).path == "generic"
    assert anysoft.explain("softmax", x, temperature=1).path == "numpy kernel"


def test_explain_agrees_with_the_call() -> None:
    torch = _framework("torch")
    x = torch.ones(2, 3)
    before = x.clone().requires_grad_()
    assert anysoft.explain("logsumexp", x, -1).path == "torch.logsumexp"
    refused = anysoft.explain("logsumexp", before, -1)
    assert refused.path == "torch.logsumexp, own derivative"
    assert "derivative" in refused.reasons["torch.logsumexp"]
    lost = anysoft.explain("log_softmax", x)
    assert lost.backend == "torch"
    assert lost.path == "torch kernel"
    assert anysoft.explain("log_softmax", x, where=x > 0).path == "generic"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("sofmax", [1.0]), LookupError, "no operation 'sofmax'; there are .*log_softmax, .*logsumexp, .*softmax"),
        (("logsumexp", [1.0], None, {"temperature": 2}), TypeError, "logsumexp has no argument temperature"),
        (("softmax", [1.0], -1, {"keepdims": True, "b": 1}), TypeError, "softmax has no argument b, keepdims"),
        (("softmax", [1.0], -1, {"temperature": -2}), ValueError, "temperature must not be negative or NaN, not -2"),
    ],
    ids=["operation", "argument", "arguments", "value"],
)
def test_explain_refuses_what_there_is_not(arguments: tuple[Any, ...], error: type[Exception], says: str) -> None:
    *positional, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=says):
        anysoft.explain(*positional, **options)


@pytest.mark.parametrize("path", ["native", "generic"])
def test_explain_sees_the_options(path: Any) -> None:
    torch = _framework("torch")
    with anysoft.options(path=path):
        chosen = anysoft.explain("softmax", torch.ones(3))
    assert chosen.path == path
    assert chosen.reasons == {"auto": f"options(path={path!r}) is set"}


def test_explain_of_a_native_path_that_is_not_there() -> None:
    with anysoft.options(path="native"), pytest.raises(LookupError, match="numpy has no softmax of its own"):
        anysoft.explain("softmax", [1.0])


# ---------------------------------------------------------------------------------------------------------------------
# options


def _path() -> str:
    """The path that calls take now, as seen by calls."""
    torch = _framework("torch")
    x = torch.tensor([0.0, -40.0], dtype=torch.float64)
    if anysoft.logsumexp(x, -1) == 0:
        return "native"
    if anysoft.explain("softmax", x).path == "generic":
        return "generic"
    assert anysoft.logsumexp(x, -1).item() == TINY
    return "auto"


def test_options_choose_the_path() -> None:
    assert _path() == "auto"
    for path in ("auto", "native", "generic"):
        with anysoft.options(path=path):
            assert _path() == path
        assert _path() == "auto"


def test_options_nest() -> None:
    with anysoft.options(path="generic"):
        with anysoft.options(path="native"):
            with anysoft.options():  # nothing said, nothing changed
                assert _path() == "native"
            with anysoft.options(path="auto"):
                assert _path() == "auto"
            assert _path() == "native"
        assert _path() == "generic"
    assert _path() == "auto"


def test_options_end_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), anysoft.options(path="native"):
        _ = 1 / 0
    assert _path() == "auto"
    assert registry._options_in_use is False


@pytest.mark.parametrize("value", ["fast", "", "AUTO", True, 1], ids=repr)
def test_a_bad_option_is_refused_by_value(value: Any) -> None:
    with pytest.raises(ValueError, match=f"'auto', 'native' or 'generic', not {value!r}"), anysoft.options(path=value):
        pass
    assert _path() == "auto"


def test_generic_takes_no_fast_path(toy: Any) -> None:
    x = toy.ToyArray([0.0, -40.0])
    assert anysoft.explain("logsumexp", x).path == "toy kernel"
    with anysoft.options(path="generic"):
        assert anysoft.explain("logsumexp", x).path == "generic"
        assert anysoft.logsumexp(x).data == TINY


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_there_is_no_native_path_on_numpy(function: Any) -> None:
    name = function.__name__
    with (
        anysoft.options(path="native"),
        pytest.raises(LookupError, match=f"numpy has no {name} of its own; use path='auto' or 'generic'"),
    ):
        function(np.ones(3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: anysoft.softmax(x, temperature=2), "torch.softmax has no temperature"),
        (lambda x: anysoft.log_softmax(x, where=x > 0), "torch.log_softmax has no where"),
        (lambda x: anysoft.logsumexp(x, b=2), "torch.logsumexp has no b"),
        (lambda x: anysoft.logsumexp(x, return_sign=True), "torch.logsumexp has no return_sign"),
        (lambda x: anysoft.softmax(x, (0, 1)), r"torch.softmax takes one axis, not \(0, 1\)"),
    ],
    ids=["temperature", "where", "b", "return_sign", "axes"],
)
def test_a_native_path_says_what_it_has_not(call: Callable[[Any], Any], says: str) -> None:
    torch = _framework("torch")
    with anysoft.options(path="native"), pytest.raises(LookupError, match=says):
        call(torch.ones(2, 3))


def _choices() -> list[AbstractContextManager[Any]]:
    return [anysoft.options(path="native"), anysoft.options(path="generic"), nullcontext()]


@pytest.mark.parametrize("value", [0, -2, 1.5, True, "2"])
def test_a_bad_number_of_workers_is_refused_by_value(value: Any) -> None:
    with (
        pytest.raises(ValueError, match=f"workers must be 1 or more, .* not {value!r}"),
        anysoft.options(workers=value),
    ):
        pass


def test_options_leave_what_they_do_not_name() -> None:
    assert registry.workers() == 1
    with anysoft.options(workers=3):
        with anysoft.options(path="generic"):
            assert registry.workers() == 3
            assert anysoft.explain("softmax", np.ones(2)).path == "generic"
            with anysoft.options(workers=-1):
                assert registry.workers() >= 1
                assert anysoft.explain("softmax", np.ones(2)).path == "generic"
        assert registry.workers() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(registry.workers).result() == 1
    assert registry.workers() == 1


def test_threads_do_not_see_each_others_options() -> None:
    together = threading.Barrier(3, timeout=60)

    def under(option: AbstractContextManager[Any]) -> list[str]:
        seen = []
        with option:
            together.wait()  # all three are inside
            seen.append(_path())
            together.wait()
        together.wait()  # all three are outside
        return [*seen, _path()]

    choices = _choices()
    with anysoft.options(path="generic"), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(under, choices))
        assert _path() == "generic"
    assert found == [["native", "auto"], ["generic", "auto"], ["auto", "auto"]]
    assert _path() == "auto"


def test_tasks_do_not_see_each_others_options() -> None:
    async def under(option: AbstractContextManager[Any]) -> list[str]:
        seen = []
        with option:
            for _ in range(3):
                await asyncio.sleep(0)  # the other tasks run here, inside their own options
                seen.append(_path())
        await asyncio.sleep(0)
        return [*seen, _path()]

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*map(under, _choices()))

    found = asyncio.run(all_of_them())
    assert found == [["native"] * 3 + ["auto"], ["generic"] * 3 + ["auto"], ["auto"] * 4]
    assert _path() == "auto"


# ---------------------------------------------------------------------------------------------------------------------
# register_backend


def test_a_registered_backend_is_chosen(toy: Any) -> None:
    row = toy.ToyArray([1.0, 2.0])
    assert str(anysoft.explain("logsumexp", row)) == "logsumexp on toyarray: toy kernel"
    assert anysoft.logsumexp(row).data == np.logaddexp(1.0, 2.0)
    refused = anysoft.explain("logsumexp", row, keepdims=True)
    assert refused.path == "generic"
    assert refused.reasons == {"toy kernel": "the toy kernel is for one row and no options"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_registered_backend_gives_numpys_answers(toy: Any, function: Any) -> None:
    x = np.array([[1.0, 2.0, -np.inf], [0.0, -40.0, 3.0]])
    for options in ({}, {"where": [True, True, False]}, {"dtype": np.float32}):
        result = function(toy.ToyArray(x), axis=-1, **options)
        assert type(result) is toy.ToyArray
        expected = function(x, axis=-1, **options)
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result.data, expected, rtol=1e-6 if options.get("dtype") else 1e-15)


def test_a_type_seen_before_its_backend_came_is_looked_at_again(toyarray: Any) -> None:
    x = toyarray.ToyArray([1.0, 2.0])
    assert anysoft.explain("logsumexp", x).path == "generic"
    anysoft.register_backend(toyarray.BACKEND)
    assert anysoft.explain("logsumexp", x).path == "toy kernel"


@pytest.mark.parametrize("name", ["numpy", "torch", "cupy", "toyarray"])
def test_a_name_can_be_taken_once(toy: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"a backend named '{name}' is registered already"):
        anysoft.register_backend(dataclasses.replace(toy.BACKEND, name=name))


def test_a_backend_with_a_row_for_nothing_is_not_registered(toyarray: Any) -> None:
    row = FastPath("logsunexp", "a slip", lambda *_: None)
    with pytest.raises(LookupError, match="no operation 'logsunexp'"):
        anysoft.register_backend(dataclasses.replace(toyarray.BACKEND, fast_paths=(row,)))
    anysoft.register_backend(toyarray.BACKEND)  # the name is still free
    assert anysoft.explain("logsumexp", toyarray.ToyArray([1.0])).path == "toy kernel"


def test_a_registered_backend_is_listed(toy: Any) -> None:
    listed = {each.name: each for each in registry.installed()}
    assert listed["toyarray"].devices == ("cpu",)
    assert [row.name for row in listed["toyarray"].fast_paths] == ["toy kernel"]
    assert listed["toyarray"].reason is None
    assert listed["numpy"].version == np.__version__


# ---------------------------------------------------------------------------------------------------------------------
# register_fast_path


def _row(answer: Any, verdict: bool | str = True, name: str = "mine") -> FastPath:
    return FastPath("logsumexp", name, lambda *_: answer, lambda *_: verdict)


def test_a_fast_path_is_taken_where_its_guard_says_true() -> None:
    anysoft.register_fast_path("numpy", _row(42.0))
    assert anysoft.logsumexp(np.ones(3)) == 42
    assert anysoft.logsumexp([1, 2]) == 42
    assert str(anysoft.explain("logsumexp", np.ones(3))) == "logsumexp on numpy: mine"


def test_a_fast_path_is_not_taken_where_its_guard_has_a_sentence() -> None:
    anysoft.register_fast_path("numpy", _row(42.0, "not on Sundays"))
    assert anysoft.logsumexp(np.array([0.0, -40.0])) == TINY
    chosen = anysoft.explain("logsumexp", np.ones(3))
    assert chosen.path == "numpy kernel"
    assert chosen.reasons == {"mine": "not on Sundays"}


def test_a_guard_sees_the_arguments_of_the_call_in_order() -> None:
    seen: list[tuple[Any, ...]] = []

    def guard(*arguments: Any) -> str:
        seen.append(arguments)
        return "only looking"

    x = np.ones((2, 2))
    anysoft.register_fast_path("numpy", FastPath("logsumexp", "mine", lambda *_: None, guard))
    anysoft.register_fast_path("numpy", FastPath("softmax", "mine", lambda *_: None, guard))
    anysoft.logsumexp(x, 1, dtype=np.float64, keepdims=True)
    anysoft.softmax(x)
    anysoft.softmax(x, 0, temperature=2)
    anysoft.explain("softmax", x, 0, temperature=2)
    assert seen[0][0] is x
    assert [arguments[1:] for arguments in seen] == [
        (1, None, None, np.float64, True, False),
        (-1, None, None, None),  # a temperature of 1 is None
        (0, None, 2.0, None),
        (0, None, 2.0, None),
    ]


def test_what_is_not_implemented_falls_through_to_the_next_path() -> None:
    anysoft.register_fast_path("numpy", _row(42.0, name="second"))
    anysoft.register_fast_path("numpy", _row(NotImplemented, name="first"))
    assert anysoft.logsumexp(np.ones(3)) == 42
    assert anysoft.explain("logsumexp", np.ones(3)).path == "first"


def test_a_new_fast_path_is_tried_before_those_that_are_there(toy: Any) -> None:
    x = toy.ToyArray([1.0, 2.0])
    for name in ("older", "newer"):
        anysoft.register_fast_path("toyarray", _row(name, name=name))
        assert anysoft.logsumexp(x) == name
    with anysoft.options(path="generic"):
        assert anysoft.logsumexp(x).data == pytest.approx(np.logaddexp(1.0, 2.0))


def test_a_fast_path_may_come_before_the_first_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's own rows go last, even if the adapter is not loaded yet."""
    monkeypatch.delitem(registry._BACKENDS, "numpy", raising=False)
    for operation in registry._OPERATIONS.values():
        operation.paths.pop("numpy", None)
        operation.first.clear()
    registry._BY_TYPE.clear()
    anysoft.register_fast_path("numpy", _row(42.0))
    assert anysoft.logsumexp(np.ones(3)) == 42
    assert [row.name for row in registry._OPERATIONS["logsumexp"].paths["numpy"]] == ["mine", "numpy kernel"]


def test_a_path_that_asks_itself_is_called_at_once_and_may_decline(toy: Any) -> None:
    guard_asked = []

    def mine(x: Any, axis: Any, *_: Any) -> Any:
        return NotImplemented if axis == 0 else "mine"

    def guard(x: Any, axis: Any, *_: Any) -> bool | str:
        guard_asked.append(axis)
        return axis != 0 or "not along axis 0"

    x = toy.ToyArray([1.0, 2.0])
    assert anysoft.softmax(x).data.sum() == 1  # the type has been seen
    anysoft.register_fast_path("toyarray", FastPath("softmax", "mine", mine, guard, asks_itself=True))
    assert anysoft.softmax(x) == "mine"
    assert not guard_asked
    assert anysoft.softmax(x, 0).data.sum() == 1
    assert anysoft.explain("softmax", x, 0).reasons == {"mine": "not along axis 0"}
    with anysoft.options(path="generic"):
        assert anysoft.softmax(x).data.sum() == 1
    anysoft.register_fast_path("toyarray", FastPath("softmax", "newer", lambda *_: "newer"))
    assert anysoft.softmax(x) == "newer"


ASKED: list[tuple[Any, ...]] = [  # axis, where, b or temperature, dtype
    (-1, None, None, None),
    (None, None, None, None),
    ((0, 1), None, None, None),
    (2, None, None, None),
    (0, [True, False], None, None),
    (0, None, 2.0, None),
    (0, None, None, "float64"),
]
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3,), (2, 2))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_path_asks_itself_what_its_guard_is_asked(framework: str) -> None:
    xp = _framework(framework)
    anysoft.softmax(xp.ones(2))
    taken = 0
    for operation in (registry._OPERATIONS[name] for name in ("logsumexp", "softmax", "log_softmax")):
        row = next(row for row in operation.paths[framework] if row.asks_itself)
        assert row.call is not None
        for dtype, shape, (axis, where, option, to) in product(("float32", "int32", "float16"), SHAPES, ASKED):
            x = xp.ones(shape, dtype=getattr(xp, dtype))
            arguments = (x, axis, where, option, to and getattr(xp, to))
            arguments += (False, False) if operation.name == "logsumexp" else ()
            verdict = row.guard(*arguments)
            assert (verdict is True) == (row.call(*arguments) is not NotImplemented)
            taken += verdict is True
    assert taken >= 3 * 2 * 2


def test_a_raw_answer_is_the_native_path(toy: Any) -> None:
    raw = FastPath("softmax", "the toy's own", None, lambda *_: "never", raw=lambda x, *_: ("raw", x))
    anysoft.register_fast_path("toyarray", raw)
    x = toy.ToyArray([1.0, 2.0])
    assert anysoft.explain("softmax", x).reasons == {"the toy's own": "never"}
    assert type(anysoft.softmax(x)) is toy.ToyArray
    with anysoft.options(path="native"):
        assert anysoft.softmax(x) == ("raw", x)
        with pytest.raises(LookupError, match="toyarray has no logsumexp of its own"):
            anysoft.logsumexp(x)


@pytest.mark.parametrize(
    ("backend", "operation", "says"),
    [
        ("tensorfow", "logsumexp", "no backend 'tensorfow'; there are cupy, .*jax, .*numpy, .*torch"),
        ("numpy", "logsunexp", "no operation 'logsunexp'; there are .*logsumexp"),
    ],
    ids=["backend", "operation"],
)
def test_a_fast_path_for_nothing_is_refused(backend: str, operation: str, says: str) -> None:
    with pytest.raises(LookupError, match=says):
        anysoft.register_fast_path(backend, FastPath(operation, "mine", lambda *_: None))


def test_a_backend_needs_no_more_than_a_name_and_a_namespace(toyarray: Any) -> None:
    least = Backend("toyarray", ("toyarray:ToyArray",), lambda x: toyarray.toy_namespace)
    anysoft.register_backend(least)
    x = toyarray.ToyArray([1.0, 2.0])
    assert registry.backend_of(x) is least
    assert anysoft.softmax(x).data.sum() == 1
