"""Speed: anysoft beside SciPy, the framework's own function and the plain formula, and beside what the machine can do.

These machines are shared, and a time alone means nothing: all that is compared is called in turn, round by round, and a
ratio is the median of the rounds' ratios. The floors are the machine's limit: reading the input once, and one exp over
it into memory that is there already; on a GPU also a copy, which moves twice the bytes of a read.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

import anysoft
from anysoft_conformance import frameworks
from anysoft_conformance.frameworks import Framework, native
from anysoft_conformance.oracle import FORMATS

Array = Any
Call = Callable[[], Any]

OURS = "anysoft"
PEERS = ("native", "formula", "torch")
FLOORS = ("read", "exp", "copy")
FUNCTIONS = ("logsumexp", "softmax", "log_softmax")
DTYPES = ("float32",)

LEAST_SECONDS = 2e-4  # of a measurement: what is shorter is called several times
LEAST_ROUNDS, MOST_ROUNDS = 5, 200
SMALL = 10  # entries of the row whose calls cost nothing but the call
MEMORY_SIZE = 5 * 10**7

__all__ = ["Bench", "Call", "Measured", "Place", "Size", "Timing", "bench", "contenders", "modes"]


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of an array and the axis that is reduced."""

    shape: tuple[int, ...]
    axis: int = -1

    def __str__(self) -> str:
        axis = "" if self.axis in (-1, len(self.shape) - 1) else f" axis {self.axis}"
        return "×".join(map(_short, self.shape)) + axis


SIZES = (
    Size((10,)),
    Size((1000,)),
    Size((1000, 10)),
    Size((1000, 1000)),
    Size((32, 50257)),
    Size((1, 10**7)),
    Size((10**6, 10)),
    Size((10**6, 10), 0),
    Size((64, 128, 256), 0),
    Size((64, 128, 256), 1),
)


def _short(n: int) -> str:
    power = len(str(n)) - 1
    return f"10{str(power).translate(_RAISED)}" if power > 4 and n == 10**power else str(n)


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a function is called: ``forward``, ``gradient`` (with it), and on JAX both ``compiled`` or not."""

    backend: str
    device: str
    mode: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One of those that are compared: its median time, and its time over anysoft's, median and quartiles."""

    seconds: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Timing:
    """A function on an array of one size and dtype: what was measured, by name; anysoft is one of them."""

    function: str
    place: Place
    dtype: str
    size: Size
    rounds: int
    measured: Mapping[str, Measured]

    @property
    def seconds(self) -> float:
        """What anysoft took."""
        return self.measured[OURS].seconds

    @property
    def read_bytes(self) -> int:
        """The size of the input in bytes."""
        return math.prod(self.size.shape) * {"float64": 8, "float32": 4}.get(self.dtype, 2)


@dataclass(frozen=True, slots=True)
class Bench:
    """A run: the timings, the price of small calls, of the import, and the peak of memory beyond the input."""

    anysoft: str
    made: str
    machine: str
    threads: int  # that PyTorch and XLA take; NumPy takes one
    load: float | None  # of the machine when the run began
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    timings: tuple[Timing, ...]
    calls: Mapping[str, float]
    import_seconds: float
    memory: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


# ---------------------------------------------------------------------------------------------------------------------
# A run


def bench(
    backends: Sequence[str] = (),
    devices: Sequence[str] = (),
    *,
    functions: Sequence[str] = FUNCTIONS,
    dtypes: Sequence[str] = DTYPES,
    sizes: Sequence[Size] = SIZES,
    seconds: float = 0.5,
    once: bool = True,
    advance: Callable[[int, int, str], object] = lambda done, total, name: None,
) -> Bench:
    """Measure.

    Parameters
    ----------
    backends, devices : sequence of str
        Only these; all that are here if empty.
    functions : sequence of str
        Of `FUNCTIONS`.
    dtypes : sequence of str
    sizes : sequence of Size
    seconds : float
        For one size of one function in one way; a slow one has at least five rounds.
    once : bool
        Also what is measured once a run: calls, the import, and memory.
    advance : callable
        Told ``(done, total, name)`` before each timing.

    Returns
    -------
    Bench

    Raises
    ------
    AbsentBackendError
        If a backend or device was asked for by name and is not here.
    ValueError
        If there is no such function or dtype.
    """
    if unknown := [name for name in functions if name not in FUNCTIONS]:
        raise ValueError(f"{unknown[0]!r} has no benchmark; there are {', '.join(FUNCTIONS)}")
    if unknown := [dtype for dtype in dtypes if dtype not in FORMATS]:
        raise ValueError(f"{unknown[0]!r} is no dtype of ours; there are {', '.join(FORMATS)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    present = frameworks.present(*backends, referee=False)
    here = [one for one in present.frameworks if not devices or _is_on(one, devices)]
    here = list(frameworks.families(here))
    if not here:
        raise frameworks.AbsentBackendError(f"no backend has a device {' or '.join(map(repr, devices))}")
    tasks = [
        (one, mode, function, dtype, size)
        for one in here
        for mode in modes(one)
        for function in functions
        for dtype in dtypes
        if dtype in one.dtypes
        for size in sizes
    ]
    timings = []
    for done, (one, mode, function, dtype, size) in enumerate(tasks):
        advance(done, len(tasks), f"{one.name} {one.device} {mode} {function} {size}")
        with one.session():
            timings.append(_timing(one, mode, function, dtype, size, seconds))
    advance(len(tasks), len(tasks), "")
    on_cpu = [one.name for one in here if one.device == "cpu"]
    return Bench(
        anysoft=anysoft.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=", ".join(dict.fromkeys(one.hardware() for one in here)),
        threads=_threads(here),
        load=load,
        versions={**_versions(present.versions), "python": platform.python_version()},
        absent=present.absent,
        timings=tuple(timings),
        calls={one.name: found for one in here if once and (found := _price_of_a_call(one)) is not None},
        import_seconds=_price_of_the_import() if once else math.nan,
        memory={name: peak for name in on_cpu if once and (peak := _peak(name)) is not None},
    )


def _is_on(one: Framework, devices: Sequence[str]) -> bool:
    return any(device in (one.device, one.device.partition(":")[0]) for device in devices)


def _threads(here: Sequence[Framework]) -> int:
    torch = next((one.xp for one in here if one.name == "torch"), None)
    return torch.get_num_threads() if torch is not None else os.cpu_count() or 1


def _versions(found: Mapping[str, str]) -> dict[str, str]:
    scipy = frameworks.scipy_version()
    return {**found, **({"scipy": scipy} if scipy else {})}


def modes(one: Framework) -> tuple[str, ...]:
    """How a framework's functions are called, each a mode of its own."""
    if one.name == "jax":
        return ("forward", "compiled forward", "compiled gradient")
    return ("forward",) if one.jacobian is None else ("forward", "gradient")


# ---------------------------------------------------------------------------------------------------------------------
# One timing


def _timing(one: Framework, mode: str, function: str, dtype: str, size: Size, seconds: float) -> Timing:
    host = np.random.default_rng(0).normal(size=size.shape).astype(np.float32)
    x = one.asarray(host, dtype)
    calls = dict(contenders(one, mode, function, x, size.axis))
    rounds = list(_rounds(calls, one.wait, seconds))
    ours = [each[OURS] for each in rounds]
    measured = {
        name: Measured(statistics.median(each[name] for each in rounds), *_quartiles(name, rounds, ours))
        for name in calls
    }
    return Timing(function, Place(one.name, one.device, mode), dtype, size, len(rounds), measured)


def _quartiles(name: str, rounds: list[dict[str, float]], ours: list[float]) -> tuple[float, float, float]:
    ratios = [each[name] / mine for each, mine in zip(rounds, ours, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def _rounds(calls: Mapping[str, Call], wait: Callable[[Array], object], seconds: float) -> Iterator[dict[str, float]]:
    """The time of each in every round; who comes first changes, so that no one always finds a warm cache."""

    def measure(call: Call, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            result = call()
        wait(result[0] if isinstance(result, tuple | list) else result)
        return (time.perf_counter() - start) / times

    for call in calls.values():
        measure(call, 1)  # which may compile
    times = {name: max(1, math.ceil(LEAST_SECONDS / measure(call, 1))) for name, call in calls.items()}
    end = time.perf_counter() + seconds
    order = itertools.cycle(range(len(calls)))
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            return
        first = next(order)
        names = [*calls][first:] + [*calls][:first]
        found = {name: measure(calls[name], times[name]) for name in names}
        yield {name: found[name] for name in calls}


def contenders(one: Framework, mode: str, function: str, x: Array, axis: int) -> Iterator[tuple[str, Call]]:
    """What is called, by name: anysoft first, then the framework's own and the formula, then the floors.

    Beside CuPy stands PyTorch's own too, on the same memory, where it has the GPU.

    Parameters
    ----------
    one : Framework
    mode : str
        Of `modes`.
    function : str
        Of `FUNCTIONS`.
    x : array
    axis : int

    Yields
    ------
    tuple of str and callable
    """
    compiled = mode.startswith("compiled")
    gradient = mode.endswith("gradient")
    exported = getattr(anysoft, function)
    peers: dict[str, Callable[..., Any]] = {OURS: lambda x: exported(x, axis=axis)}
    for name, peer in (("native", _native), ("formula", _formula)):
        found = peer(one, function, axis)
        if found is not None:
            peers[name] = found
    for name, peer in peers.items():
        call = _with_gradient(one, peer, x) if gradient else peer
        if compiled:
            call = importlib.import_module("jax").jit(call)
        yield name, functools.partial(call, x)
    if one.name == "cupy" and (torch := _torch_with_cuda()) is not None:
        yield "torch", functools.partial(getattr(torch, function), torch.from_dlpack(x), axis)
    if not gradient:
        yield from _floors(one, x)


# whose own functions are called as their users call them; SciPy's are those of NumPy
_OWN = {"torch": "torch", "jax": "jax.nn"}


def _native(one: Framework, function: str, axis: int) -> Callable[..., Any] | None:
    try:
        own = getattr(importlib.import_module(_OWN[one.name]), function) if one.name in _OWN else None
        own = own or native(one.name, function)[1]
    except LookupError:
        return None
    return lambda x: own(x, axis=axis) if one.name == "numpy" else own(x, axis)


def _torch_with_cuda() -> Any:
    torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    return torch if torch is not None and torch.cuda.is_available() else None


def _formula(one: Framework, function: str, axis: int) -> Callable[..., Any]:
    """What is in every textbook: subtract the maximum."""
    xp: Any = importlib.import_module("array_api_compat.torch") if one.name == "torch" else one.xp

    def formula(x: Array) -> Array:
        m = xp.max(x, axis=axis, keepdims=True)
        shifted = x - m
        e = xp.exp(shifted)
        s = xp.sum(e, axis=axis, keepdims=True)
        if function == "softmax":
            return e / s
        return shifted - xp.log(s) if function == "log_softmax" else xp.squeeze(xp.log(s) + m, axis=axis)

    return formula


def _with_gradient(one: Framework, function: Callable[..., Any], x: Array) -> Callable[..., Any]:
    """The function and its derivative in a fixed direction of its result."""
    if one.name == "jax":
        jax: Any = importlib.import_module("jax")

        def both(x: Array) -> Array:
            value, pullback = jax.vjp(function, x)
            return pullback(jax.numpy.asarray(_weights(value), value.dtype))[0]

        return both
    torch: Any = importlib.import_module("torch")
    leaf = x.detach().clone().requires_grad_()
    weights = one.asarray(_weights(function(x)), str(x.dtype).rpartition(".")[2])

    def forward_and_back(x: Array) -> Array:
        return torch.autograd.grad(function(leaf), leaf, weights)

    return forward_and_back


def _weights(value: Array) -> np.ndarray[Any, Any]:
    """Something for a backward pass to start from that is not alike everywhere."""
    return np.linspace(-1.0, 2.0, math.prod(value.shape)).reshape(value.shape)


def _floors(one: Framework, x: Array) -> Iterator[tuple[str, Call]]:
    xp = one.xp
    if one.name == "jax":
        jit = importlib.import_module("jax").jit
        yield "read", functools.partial(jit(xp.max), x)
        yield "exp", functools.partial(jit(xp.exp), x)
        return
    yield "read", functools.partial(xp.max, x)
    if one.name in ("numpy", "torch", "cupy"):
        yield "exp", functools.partial(xp.exp, x, out=xp.empty_like(x))
    if one.device.startswith("cuda"):
        room = xp.empty_like(x)
        yield "copy", functools.partial(room.copy_, x) if one.name == "torch" else functools.partial(xp.copyto, room, x)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured once


def _price_of_a_call(one: Framework) -> float | None:
    """Seconds that a small `anysoft.softmax` takes beyond its kernel; None where it takes none."""
    if one.device != "cpu":
        return None
    x = one.asarray(np.zeros(SMALL), "float32")
    arguments = (x, -1, None, None, None)
    rows = anysoft.registry._operation("softmax").paths.get(one.name, ())
    kernel = next((row.call for row in rows if row.call and row.guard(*arguments) is True), None)
    if kernel is None:
        return None
    calls = {OURS: functools.partial(anysoft.softmax, x), "kernel": functools.partial(kernel, *arguments)}
    return statistics.median(each[OURS] - each["kernel"] for each in _rounds(calls, one.wait, 0.5))


_IMPORT = "import time, numpy; start = time.perf_counter(); import anysoft; print(time.perf_counter() - start)"


def _price_of_the_import() -> float:
    """Seconds of ``import anysoft`` where NumPy is imported already."""
    return statistics.median(float(_alone(_IMPORT)) for _ in range(5))


_PEAK = """
import importlib, sys, numpy, anysoft
x = numpy.random.default_rng(0).normal(size={size}).astype("float32")
if {name!r} == "torch":
    import torch
    x = torch.from_numpy(x)
def resident(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
anysoft.logsumexp(x[:1000])
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
anysoft.logsumexp(x)
print(resident("VmHWM") - before)
"""


def _peak(name: str) -> int | None:
    """Bytes that logsumexp of 5·10⁷ float32 takes beyond its input at its peak, as the system sees it (Linux)."""
    if name not in ("numpy", "torch") or not sys.platform.startswith("linux"):
        return None
    return max(0, int(_alone(_PEAK.format(size=MEMORY_SIZE, name=name))))


def _alone(program: str) -> str:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an import is as fast as it is the second time
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout
