"""How each framework's arrays are made, read and differentiated: all that the suite knows of frameworks.

Backends that anysoft has, built in or registered, and array_api_strict, the referee of the standard. A framework that
is not listed here needs no line: what the standard gives is enough to make its arrays and to read them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import operator
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import anysoft
from anysoft_conformance.oracle import FORMATS

Array = Any
HostArray = np.ndarray[Any, Any]

# judged although anysoft needs no adapter for it: nothing else is as strict, and it has several devices on any machine
REFEREE = "array_api_strict"

# Judged if named only: to build and run a graph takes twenty times as long as what its tasks do to small arrays, which
# NumPy's rows have judged already.
ON_DEMAND = ("dask",)


class AbsentBackendError(LookupError):
    """A framework that was asked for by name and is not here; its text is one sentence that says what to do."""


def _nothing(array: Array) -> None:
    pass


def _idle() -> None:
    pass


@functools.cache
def cpu() -> str:
    """The processor's name, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True, eq=False)
class Framework:
    """A framework on one of its devices.

    `asarray(values, dtype)` makes an array of the named dtype on the device, `asnumpy(array)` a NumPy array as it is.
    `default_float` is what an integer becomes, `default_integer` what an index is, `lacking` the dtypes that the device
    has not, `subnormal` whether it computes with numbers below the smallest normal one. `forget` drops what it has
    compiled. `jacobian(function, x, *more)` and `hessian(function, x, *more)` are with respect to `x`, by reverse mode;
    None where there is no differentiation.
    """

    name: str
    device: str
    dtypes: tuple[str, ...]
    xp: Any
    asarray: Callable[[HostArray, str], Array]
    asnumpy: Callable[[Array], HostArray]
    device_of: Callable[[Array], str]
    default_float: str = "float64"
    default_integer: str = "int64"
    lacking: frozenset[str] = frozenset()
    subnormal: bool = True
    wait: Callable[[Array], object] = _nothing
    session: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    hardware: Callable[[], str] = cpu
    forget: Callable[[], object] = _idle
    jacobian: Callable[..., Array] | None = None
    hessian: Callable[..., Array] | None = None

    def has(self, dtype: str) -> bool:
        """Whether it has a dtype on this device."""
        return hasattr(self.xp, dtype) and dtype not in self.lacking

    def host(self, array: Array) -> HostArray:
        """A result as a NumPy array, widened to float64 if it is real."""
        found = self.asnumpy(array)
        return found.copy() if np.iscomplexobj(found) else found.astype(np.float64)


def _numpy(device: str) -> Framework:
    return Framework(
        "numpy",
        device,
        ("float64", "float32", "float16"),
        np,
        asarray=lambda values, dtype: values.astype(dtype),
        asnumpy=np.asarray,
        device_of=lambda array: "cpu",
    )


def _torch(device: str) -> Framework:
    import torch

    functional: Any = torch.autograd.functional

    def asarray(values: HostArray, dtype: str) -> Array:
        if any(stride < 0 for stride in values.strides) or not values.flags.writeable:
            values = values.copy()  # torch has no negative strides and nothing read-only; all else survives
        if values.dtype.kind == "u" and values.dtype.itemsize > 1:
            values = values.astype(np.int64)
        return torch.from_numpy(values).to(device=device, dtype=getattr(torch, dtype))

    def asnumpy(array: Array) -> HostArray:
        array = array.detach().cpu().resolve_conj()
        return np.asarray((array.double() if array.dtype is torch.bfloat16 else array).numpy())

    return Framework(
        "torch",
        device,
        ("float64", "float32", "float16", "bfloat16") if "mps" not in device else ("float32", "float16", "bfloat16"),
        torch,
        asarray,
        asnumpy,
        device_of=lambda array: str(array.device),
        default_float=str(torch.get_default_dtype()).rpartition(".")[2],
        lacking=frozenset({"float64", "complex128"} if "mps" in device else ()),
        wait=lambda array: torch.cuda.synchronize(device) if "cuda" in device else None,
        hardware=lambda: torch.cuda.get_device_name(device) if "cuda" in device else cpu(),
        jacobian=lambda function, x, *more: functional.jacobian(lambda x: function(x, *more), x),
        hessian=lambda function, x, *more: functional.hessian(lambda x: function(x, *more), x),
    )


def _jax(device: str) -> Framework:
    import jax

    # its place before JAX 0.8
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    (adapter,) = anysoft.registry.installed("jax")
    place = dict(zip(adapter.devices, jax.devices(), strict=True))[device]
    names = {one: name for name, one in zip(adapter.devices, jax.devices(), strict=True)}

    # compiled, because eager reverse mode costs a second a call; once for each function, whatever the shape
    @functools.lru_cache(maxsize=256)
    def derivative(order: Callable[..., Any], function: Callable[..., Array]) -> Any:
        return jax.jit(order(function))

    return Framework(
        "jax",
        device,
        ("float64", "float32", "float16", "bfloat16"),
        jax.numpy,
        asarray=lambda values, dtype: jax.device_put(values.astype(jax.numpy.dtype(dtype)), place),
        asnumpy=np.asarray,
        device_of=lambda array: ", ".join(sorted(names[one] for one in array.devices())),
        subnormal=place.platform != "cpu",  # XLA on the CPU flushes them to 0
        wait=lambda array: array.block_until_ready(),
        session=functools.partial(home.enable_x64, True),  # without it JAX has no float64
        hardware=lambda: cpu() if place.platform == "cpu" else str(place.device_kind),
        forget=jax.clear_caches,  # each program holds pages, of which a process may have 65 530
        jacobian=lambda function, *arrays: derivative(jax.jacrev, function)(*arrays),
        hessian=lambda function, *arrays: derivative(jax.hessian, function)(*arrays),
    )


def _cupy(device: str) -> Framework:
    import cupy

    number = int(device.partition(":")[2])

    def asarray(values: HostArray, dtype: str) -> Array:
        with cupy.cuda.Device(number):
            return cupy.asarray(values.astype(dtype))

    return Framework(
        "cupy",
        device,
        ("float64", "float32", "float16"),
        cupy,
        asarray,
        asnumpy=lambda array: np.asarray(array.get()),
        device_of=lambda array: f"cuda:{array.device.id}",
        subnormal=False,  # CuPy compiles with -ftz=true, which flushes those of float32 to 0
        wait=lambda array: cupy.cuda.get_current_stream().synchronize(),
        hardware=lambda: str(cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()),
    )


def _dask(device: str) -> Framework:
    da: Any = importlib.import_module("dask.array")

    def asarray(values: HostArray, dtype: str) -> Array:
        # two chunks along each axis, of unequal lengths where they can be
        return da.from_array(values.astype(dtype), chunks=tuple(max(1, n // 2 + 1) for n in values.shape))

    def asnumpy(array: Array) -> HostArray:
        # in Dask's own tasks nothing of anysoft's keeps NumPy from warning of special values
        with np.errstate(all="ignore"):
            return np.asarray(array.compute(scheduler="synchronous"))

    return Framework(
        "dask",
        device,
        ("float64", "float32", "float16"),
        da,
        asarray,
        asnumpy,
        device_of=lambda array: "cpu",
        wait=asnumpy,
    )


def _standard(name: str, device: str) -> Framework:
    """Any other framework: all that is known of it is the array API standard, in the namespace that it is called by."""
    xp = _namespace(name)
    places = {_device_name(one): one for one in _standard_devices(xp)}
    place = places.get(device)
    try:
        info = xp.__array_namespace_info__()
        here, every = info.dtypes(device=place), info.dtypes()
    except (AttributeError, NotImplementedError, TypeError):
        here = every = {}
    lacking = frozenset(every) - frozenset(here)
    there = {} if place is None else {"device": place}

    def asarray(values: HostArray, dtype: str) -> Array:
        # by NumPy where it has the dtype; only an unusual framework has one that NumPy lacks
        given = values.astype(dtype) if dtype not in FORMATS or hasattr(np, dtype) else values
        return xp.asarray(given, dtype=getattr(xp, dtype), **there)

    def asnumpy(array: Array) -> HostArray:
        if len(places) > 1:
            array = array.to_device(next(iter(places.values())))
        if str(array.dtype).endswith("bfloat16"):
            array = xp.astype(array, xp.float32)  # NumPy has none
        try:
            return np.asarray(np.from_dlpack(array))
        except (AttributeError, BufferError, RuntimeError, TypeError):
            return np.asarray(array)

    return Framework(
        name,
        device,
        tuple(dtype for dtype in FORMATS if hasattr(xp, dtype) and dtype not in lacking),
        xp,
        asarray,
        asnumpy,
        device_of=lambda array: device if place is None else _device_name(getattr(array, "device", device)),
        default_float=_default(xp, there, "real floating", 0.5),
        default_integer=_default(xp, there, "integral", 1),
        lacking=lacking,
        wait=asnumpy,  # whatever is lazy is computed where it is looked at
    )


def _namespace(name: str) -> Any:
    """The one that the backend gives its arrays, which may mend what the raw module lacks; else the module itself."""
    module = importlib.import_module(name)
    backend = anysoft.registry._BACKENDS.get(name)
    if backend is None:
        return module
    make = getattr(module, "asarray", None)
    if make is None:
        owner, _, kind = next(iter(backend.arrays), name).partition(":")
        make = getattr(importlib.import_module(owner), kind)
    return backend.namespace(make(np.zeros(1, dtype=np.float32)))


def _default(xp: Any, there: dict[str, Any], kind: str, example: float) -> str:
    """The default dtype of a kind; where the namespace does not say, that of an example."""
    try:
        default = xp.__array_namespace_info__().default_dtypes(**there)[kind]
    except (AttributeError, NotImplementedError, TypeError):
        default = xp.asarray(example, **there).dtype
    return str(default).rpartition(".")[2]


def _standard_devices(xp: Any) -> Sequence[Any]:
    try:
        return tuple(xp.__array_namespace_info__().devices())
    except (AttributeError, NotImplementedError, TypeError):
        return ()


def _device_name(device: Any) -> str:
    """`array_api_strict.Device('device1')` is `device1`."""
    return str(device).rpartition("('")[2].removesuffix("')")


_MAKERS: dict[str, Callable[[str], Framework]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
    "cupy": _cupy,
    "dask": _dask,
}


@dataclass(frozen=True, slots=True)
class Present:
    """The frameworks that are here, one for each of their devices, their versions, and why others are absent."""

    frameworks: tuple[Framework, ...]
    versions: dict[str, str]
    absent: dict[str, str]


def known(*, referee: bool = True) -> tuple[str, ...]:
    """The names of all backends that anysoft has, and of the referee."""
    names = [found.name for found in anysoft.registry.installed()]
    return (*names, REFEREE) if referee and REFEREE not in names else tuple(names)


def present(*names: str, referee: bool = True) -> Present:
    """The frameworks that are here, each on all of its devices.

    Parameters
    ----------
    *names : str
        Only these; all that anysoft has a backend for, but for `ON_DEMAND`, and the referee, if left out.
    referee : bool
        Whether array_api_strict counts when nothing is named.

    Returns
    -------
    Present

    Raises
    ------
    AbsentBackendError
        If one of `names` is unknown or not here.
    """
    everything = known(referee=referee or REFEREE in names)
    for name in names:
        if name not in everything:
            raise AbsentBackendError(f"there is no backend named {name!r}; there are {', '.join(everything)}")
    here: list[Framework] = []
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name in names or (name for name in everything if name not in ON_DEMAND):
        found = _found(name)
        if isinstance(found, str):
            if name in names:
                raise AbsentBackendError(found)
            absent[name] = found
            continue
        devices, versions[name] = found
        make = _MAKERS.get(name, functools.partial(_standard, name))
        here += [make(device) for device in devices]
    return Present(tuple(here), versions, absent)


def _found(name: str) -> tuple[tuple[str, ...], str] | str:
    """Devices and version of a backend, or the reason why it is absent."""
    if name == REFEREE and importlib.util.find_spec(name) is None:
        return f"{name} is not installed; pip install {name.replace('_', '-')}"
    for installed in anysoft.registry.installed(name):
        if installed.reason:
            return installed.reason
        if name not in _MAKERS:
            try:
                _namespace(name)
            except (AttributeError, ImportError, TypeError) as error:
                return f"{name} has no namespace to make arrays with ({error})"
        return installed.devices, installed.version or ""
    xp = importlib.import_module(name)
    return tuple(map(_device_name, _standard_devices(xp))) or ("cpu",), getattr(xp, "__version__", "")


def native(name: str, function: str) -> tuple[str, Callable[..., Any]]:
    """What a framework has of its own for one of anysoft's functions: its name, and how it is called.

    Raises
    ------
    LookupError
        By this function or by the call, if there is none, or none with such an option; its text says which.
    """
    paths = (path for found in anysoft.registry.installed(name) for path in found.fast_paths)
    raw = next((path for path in paths if path.operation == function and path.raw), None)
    if raw is None:
        if name == "numpy":
            return f"scipy.special.{_OF_SCIPY.get(function, function)}", _scipy(function)
        raise LookupError(f"{name} has no {function} of its own")

    def call(x: Array, *more: Any, **options: Any) -> Any:
        with anysoft.options(path="native"):
            return operator.attrgetter(function)(anysoft)(x, *more, **options)

    return raw.name, call


# where SciPy calls it differently
_OF_SCIPY = {"sigmoid": "expit", "log_sigmoid": "log_expit", "log1pexp": "softplus"}


def _scipy(function: str) -> Callable[..., Any]:
    try:
        own = getattr(importlib.import_module("scipy.special"), _OF_SCIPY.get(function, function))
    except ImportError:
        reason = "NumPy has no function of its own, and SciPy, whose it would be, is not installed"
        raise LookupError(reason) from None
    except AttributeError:
        raise LookupError(f"neither NumPy nor SciPy has {function} of its own") from None
    taken = inspect.signature(own).parameters

    def call(x: Array, *more: Any, **options: Any) -> Any:
        for option in options:
            if option not in taken:
                raise LookupError(f"scipy.special.{function} has no {option}")
        return own(x, *more, **options)

    return call


def scipy_version() -> str | None:
    """The version of SciPy, whose functions are NumPy's natives; None where it is not installed."""
    try:
        return version("scipy") if importlib.util.find_spec("scipy") else None
    except PackageNotFoundError:
        return None


def families(found: Sequence[Framework]) -> Iterator[Framework]:
    """One framework for each kind of device: what `cuda:0` shows, `cuda:1` shows too."""
    seen = set()
    for one in found:
        kind = (one.name, one.device.partition(":")[0])
        if kind not in seen:
            seen.add(kind)
            yield one
