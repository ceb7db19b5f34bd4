"""Which backend an array belongs to, what that backend offers, what was chosen and why.

The built-in adapters are a table of strings: an adapter is imported when an array of its framework first arrives, so
``import anysoft`` imports no framework. Everything is resolved by the *type* of an array and then remembered, so that
a later call costs one dictionary look-up.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = Any
State = tuple[Array, ...]
Path = Literal["auto", "native", "generic"]

__all__ = [
    "Backend",
    "Explanation",
    "FastPath",
    "Installed",
    "Operation",
    "explain",
    "installed",
    "options",
    "register_backend",
    "register_fast_path",
]


def _always(*_: Any, **__: Any) -> bool:
    return True


def _never() -> bool:
    return False


def _one(x: Array, axis: int) -> int:
    return 1


def _same(x: Array) -> Array:
    return x


def _repeat(n: int, step: Callable[[State], State], state: State) -> State:
    for _ in range(n):
        state = step(state)
    return state


def _device_of(x: Array) -> Any:
    return getattr(x, "device", None)


def quietly(operation: Operation, backend: Backend, arguments: tuple[Any, ...]) -> Any:
    """Run on a library that stands on NumPy: special values are results here, not something to warn about."""
    with np.errstate(all="ignore"):
        return operation.generic(backend, *arguments)


@dataclass(frozen=True, slots=True)
class FastPath:
    """A row of a backend's table: an operation done faster than by the generic implementation.

    Parameters
    ----------
    operation : str
        The public function's name, such as ``"logsumexp"``.
    name : str
        What ``explain`` calls this path, such as ``"torch.logsumexp"``.
    call : callable or None
        Takes the public function's arguments by position, all of them and in the order of its signature, except that
        a `temperature` of 1 is None. It may return ``NotImplemented`` where a certificate computed after the fact
        fails; the call then takes the next path. None is a row for comparison only, whose guard never says True.
    guard : callable
        Takes the same and answers with True, or with a sentence that says why not.
    raw : callable, optional
        The framework's own answer with nothing added, which ``options(path="native")`` returns. It raises
        ``LookupError`` for an argument that the framework's function does not have.
    asks_itself : bool
        `call` returns ``NotImplemented`` wherever `guard` does not say True, before it computes anything. It is then
        called at once: to ask and to call are two calls, which a small array feels. Only ``explain`` asks `guard`.
    """

    operation: str
    name: str
    call: Callable[..., Any] | None
    guard: Callable[..., bool | str] = _always
    raw: Callable[..., Any] | None = None
    asks_itself: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """What anysoft has to know of a framework beyond the array API standard.

    Parameters
    ----------
    name : str
        The framework's import name.
    arrays : tuple of str
        Its array types as ``"module:Class"``. They are looked up in ``sys.modules`` only: nothing is imported.
    namespace : callable
        From an array to its namespace of the standard.
    devices : callable
        The devices that it has here, as strings.
    device_of : callable
        The device of an array; None where there is nothing to compare (a tracer).
    stop_gradient : callable
        The array as a constant of differentiation; itself where nothing differentiates.
    displacement : callable, optional
        Zeros with the derivatives of the array, where that can be had without computing ``x - stop_gradient(x)``.
    sums_in_halves : callable
        Whether a long sum is to be made by adding halves, because the framework's own loses with its length. Asked at
        each call: not while a compiler holds the lengths as symbols, which splitting would pin.
    blocks : callable
        ``blocks(x, axis)``, a divisor of the length: into how many stretches an axis is cut before halves are added,
        so that each device adds its own. Halves of the whole would be sent from device to device.
    gathers : callable
        ``gathers(x, axis)``: whether entries are taken by their index along an axis. Where it is sharded they are
        found by comparison, which sends nothing.
    unrolls : callable
        Whether a Python loop becomes as many copies of its body, which a compiler then has to work through. Asked at
        each call.
    repeat : callable
        ``repeat(n, step, state)`` is a tuple of arrays after n steps, each of the same shapes and dtypes. No derivative
        is taken of it.
    cumulative_sum : callable, optional
        ``cumulative_sum(x, axis=axis)``, where the one of the namespace does not do (PyTorch: under torch.compile).
    random_bits : callable, optional
        ``random_bits(rng, shape, device)``: an array of integers, uniform over 0 … 2³² − 1, drawn by the framework's
        own generator, from an integer seed, or for None from whatever the framework draws from; a `TypeError` for
        any other `rng`. Left out, NumPy's generator draws, and the bits are moved to the device.
    may_look : callable
        Whether the values of an array can be looked at, to refuse what is wrong among them: not under a trace, and not
        where that would make a device wait, or compute what is lazy.
    run : callable, optional
        How the generic implementation is run, if not just called: ``run(operation, backend, arguments)`` comes to
        ``operation.generic(backend, *arguments)``.
    under : callable, optional
        ``under(path)``: a context to be in while `options` sets that path, so that the framework takes no function that
        it compiled under another one.
    fast_paths : tuple of FastPath
        In the order in which they are tried.
    """

    name: str
    arrays: tuple[str, ...]
    namespace: Callable[[Array], Any]
    devices: Callable[[], tuple[str, ...]] = lambda: ("cpu",)
    device_of: Callable[[Array], Any] = _device_of
    stop_gradient: Callable[[Array], Array] = _same
    displacement: Callable[[Array], Array] | None = None
    sums_in_halves: Callable[[], bool] = _always
    blocks: Callable[[Array, int], int] = _one
    gathers: Callable[[Array, int], bool] = _always
    unrolls: Callable[[], bool] = _never
    repeat: Callable[[int, Callable[[State], State], State], State] = _repeat
    cumulative_sum: Callable[..., Array] | None = None
    random_bits: Callable[[Any, tuple[int, ...], Any], Array] | None = None
    may_look: Callable[[Array], bool] = _always
    run: Callable[..., Any] | None = None
    under: Callable[[Path], AbstractContextManager[Any]] | None = None
    fast_paths: tuple[FastPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which path a call takes, and one sentence for each path that it does not take."""

    operation: str
    backend: str
    path: str
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.operation} on {self.backend}: {self.path}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Installed:
    """A backend as it stands on this machine; `reason` says why it is absent."""

    name: str
    version: str | None
    devices: tuple[str, ...]
    fast_paths: tuple[FastPath, ...]
    reason: str | None = None


# name -> (adapter, its array types, the extra that installs it)
_BUILT_IN: dict[str, tuple[str, tuple[str, ...], str]] = {
    "numpy": ("anysoft_backends._numpy", ("numpy:ndarray", "numpy:generic"), ""),
    "torch": ("anysoft_backends._torch", ("torch:Tensor",), "torch"),
    "jax": ("anysoft_backends._jax", ("jax:Array", "jax.core:Tracer"), "jax"),
    "cupy": ("anysoft_backends._cupy", ("cupy:ndarray",), "cupy-cuda13"),
    "dask": ("anysoft_backends._dask", ("dask.array:Array",), "dask"),
}
# refused by name, and why
_REFUSED: dict[str, str] = {
    "numpy.ma:MaskedArray": "pass x.data, and where=~x.mask",
    "numpy:matrix": "pass numpy.asarray(x)",
}

# Types of ours that hold arrays, with tree_flatten and tree_unflatten as JAX has them: an adapter whose framework looks
# into containers tells it of them.
containers: list[type] = []

_BACKENDS: dict[str, Backend] = {}
_BY_TYPE: dict[type, Backend | None] = {}
_FOUND: dict[str, Backend] = {}
_OPERATIONS: dict[str, Operation] = {}
_WAITING: dict[str, list[str]] = {}  # addresses of rows for built-in backends that no array has asked for yet
_LOCK = threading.RLock()
_ENTRY_POINTS_READ = False


# ---------------------------------------------------------------------------------------------------------------------
# From an array to its backend


def _class_at(address: str) -> type | None:
    module, _, name = address.partition(":")
    return getattr(sys.modules.get(module), name, None)


def _is_a(kind: type, addresses: tuple[str, ...]) -> bool:
    return any(cls is not None and issubclass(kind, cls) for cls in map(_class_at, addresses))


def _read_entry_points() -> None:
    """Third parties' backends and kernels. Read once, with the first array of all: it costs over a millisecond."""
    global _ENTRY_POINTS_READ
    if _ENTRY_POINTS_READ:
        return
    _ENTRY_POINTS_READ = True
    from importlib import metadata  # here, because it is a third of the price of importing anysoft

    for entry in metadata.entry_points(group="anysoft.backends"):
        try:
            found = entry.load()
            if isinstance(found, Backend):
                register_backend(found)
            else:
                found()
        except Exception as error:  # noqa: BLE001 - a broken plug-in must not take every other framework with it
            text = f"the anysoft.backends entry point {entry.name!r} ({entry.value}) failed: {error!r}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _adapter(name: str) -> Backend:
    if name not in _BACKENDS:
        with _LOCK:
            backend: Backend = importlib.import_module(_BUILT_IN[name][0]).BACKEND
            if name not in _BACKENDS:  # no other thread was first
                for path in backend.fast_paths:
                    _add_path(name, path, last=True)
                _BACKENDS[name] = backend
                for address in _WAITING.pop(name, ()):
                    try:
                        _add_paths_at(name, address)
                    except Exception as error:  # noqa: BLE001 - the backend itself is whole
                        text = f"the rows for {name} at {address!r} failed: {error!r}"
                        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return _BACKENDS[name]


def _resolve(kind: type) -> str | None:
    """Find the backend of an array type, keep it in `_FOUND` and return its key there; None for what is no array."""
    with _LOCK:
        _read_entry_points()
        for address, advice in _REFUSED.items():
            if _is_a(kind, (address,)):
                raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not supported: {advice}")
        backend = _match(kind)
        if backend is None:
            return None
        key = f"{kind.__module__}.{kind.__qualname__}"
        _FOUND[key] = backend
        return key


# torch.compile runs a function marked so instead of tracing into it (what torch.compiler.assume_constant_result sets).
# A type's backend is such a constant; without the mark, the first call inside a compiled function would be traced
# through importlib. Set by hand because importing torch here is exactly what must not happen; and the answer is a
# string because a constant of any other type cannot be guarded on.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _match(kind: type) -> Backend | None:
    for backend in _BACKENDS.values():
        if backend.name not in _BUILT_IN and _is_a(kind, backend.arrays):
            return backend
    for name, (_, arrays, _) in _BUILT_IN.items():
        if _is_a(kind, arrays):
            return _adapter(name)
    if hasattr(kind, "__array_namespace__"):
        return _adapterless(kind)
    return None


def _adapterless(kind: type) -> Backend:
    """Whatever else speaks the standard: the generic implementation, and nothing else."""
    from array_api_compat import array_namespace

    # a subclass is of its parent's framework, and one backend is what says so
    owner = next((cls for cls in kind.__mro__ if "__array_namespace__" in vars(cls)), kind)
    backend = _BY_TYPE.get(owner)
    if backend is None:
        name = owner.__module__.partition(".")[0]
        backend = Backend(name, (), array_namespace, run=quietly)
        _BY_TYPE[owner] = backend
    return backend


def backend_of(x: Array) -> Backend | None:
    """The backend of an array; None for Python numbers and sequences."""
    kind = type(x)
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    key = _resolve(kind)
    _BY_TYPE[kind] = None if key is None else _FOUND[key]
    return _BY_TYPE[kind]


def backend_of_generator(rng: Any) -> Backend | None:
    """The backend whose own a random generator is; None for a seed, and for what is no generator."""
    if hasattr(rng, "dtype"):  # JAX's keys are arrays, and nothing else may enter that table: torch.compile looks there
        return backend_of(rng)
    name = type(rng).__module__.partition(".")[0]
    return _adapter(name) if name in _BUILT_IN else None


def numpy_backend() -> Backend:
    """What Python's numbers and sequences belong to."""
    return backend_of(np.empty(0)) or _adapter("numpy")


# ---------------------------------------------------------------------------------------------------------------------
# Registration


def _add_path(backend: str, path: FastPath, *, last: bool = False) -> None:
    operation = _operation(path.operation)
    rows = operation.paths.get(backend, ())
    rows = (*rows, path) if last else (path, *rows)
    operation.paths[backend] = rows
    if rows[0].asks_itself and rows[0].call is not None:
        operation.first[backend] = rows[0].call
    else:
        operation.first.pop(backend, None)


def register_backend(backend: Backend) -> None:
    """Add a framework.

    Parameters
    ----------
    backend : Backend

    Raises
    ------
    ValueError
        If a backend of that name is there already.
    LookupError
        If a fast path is for an operation that there is not; the backend is then not registered.

    Notes
    -----
    A distribution does this without being imported by anyone: it names a `Backend`, or a function that registers what
    it likes, in the entry-point group ``anysoft.backends``.
    """
    with _LOCK:
        if backend.name in _BACKENDS or backend.name in _BUILT_IN:
            raise ValueError(f"a backend named {backend.name!r} is registered already")
        for path in backend.fast_paths:
            _operation(path.operation)
        _BACKENDS[backend.name] = backend
        for path in backend.fast_paths:
            _add_path(backend.name, path, last=True)
        _BY_TYPE.clear()


def register_fast_path(backend: str, path: FastPath | str) -> None:
    """Add a row to the table of a backend; it is tried before the rows that are there.

    Parameters
    ----------
    backend : str
        The name of a built-in or registered backend.
    path : FastPath or str
        A string is the address ``"module:name"`` of a row, or of a sequence of rows: imported with the backend itself,
        so that nobody pays for the kernels of a framework that is not in use.

    Raises
    ------
    LookupError
        If there is no such backend, or no such operation.
    """
    with _LOCK:
        if isinstance(path, FastPath):
            _operation(path.operation)
        if backend not in _BUILT_IN and backend not in _BACKENDS:
            _read_entry_points()
        if backend not in _BUILT_IN and backend not in _BACKENDS:
            raise LookupError(f"no backend {backend!r}; there are {', '.join(sorted({*_BACKENDS, *_BUILT_IN}))}")
        if isinstance(path, FastPath):
            _add_path(backend, path)  # a built-in backend that comes later puts its own rows behind
        elif backend in _BACKENDS:
            _add_paths_at(backend, path)
        else:
            _WAITING.setdefault(backend, []).append(path)


def _add_paths_at(backend: str, address: str) -> None:
    module, _, name = address.partition(":")
    found = getattr(importlib.import_module(module), name)
    for path in (found,) if isinstance(found, FastPath) else reversed(found):
        _add_path(backend, path)


def installed(*names: str) -> tuple[Installed, ...]:
    """Backends, built-in or registered, as they stand here. It imports the frameworks that it finds.

    Parameters
    ----------
    *names : str
        Which; all of them if left out.

    Returns
    -------
    tuple of Installed
    """
    with _LOCK:
        _read_entry_points()
    known = (*_BUILT_IN, *(name for name in _BACKENDS if name not in _BUILT_IN))
    return tuple(_installed(name) for name in known if not names or name in names)


def _installed(name: str) -> Installed:
    if name in _BUILT_IN and importlib.util.find_spec(name) is None:
        extra = _BUILT_IN[name][2]
        return Installed(name, None, (), (), f"{name} is not installed; pip install 'anysoft[{extra}]'")
    try:
        backend = _adapter(name) if name in _BUILT_IN else _BACKENDS[name]
        devices = backend.devices()
    except Exception as error:  # noqa: BLE001 - a framework that is there but broken is a fact to report
        return Installed(name, None, (), (), f"{name} does not work here: {error}")
    version = getattr(sys.modules.get(name), "__version__", None)
    paths = tuple(path for operation in _OPERATIONS.values() for path in operation.paths.get(name, ()))
    reason = None if devices else f"{name} finds no device that it can compute on"
    return Installed(name, version, devices, paths, reason)


# ---------------------------------------------------------------------------------------------------------------------
# Options

_PATH: ContextVar[Path] = ContextVar("anysoft_path", default="auto")
_WORKERS: ContextVar[int] = ContextVar("anysoft_workers", default=1)
# Almost no call runs under an option, and reading a ContextVar breaks torch.compile(fullgraph=True): this flag is
# looked at first. It is a fast "nobody", never the answer itself; and no number, because torch.compile would compile
# again for each.
_options_in_use = False
_options_count = 0


class _Thread(threading.local):
    path: Path = "auto"


# This thread's path once more, for torch.compile alone: it can guard on an attribute, so that a function compiled
# under one option is compiled again under another. A ContextVar it cannot see.
_THREAD = _Thread()


@contextmanager
def options(*, path: Path | None = None, workers: int | None = None) -> Iterator[None]:
    """Set how calls inside the ``with`` block are made, for this thread and this asyncio task only.

    What is left out stays as it is.

    What is compiled inside (``jax.jit``, ``torch.compile``) is compiled for that path, and not taken outside, nor the
    other way round; but compilers know the thread only, not the asyncio task.

    Parameters
    ----------
    path : {"auto", "native", "generic"}, optional
        ``auto``: the fastest path that keeps the contract. ``native``: the framework's own answer, right or wrong, for
        comparison; a `LookupError` where there is none. ``generic``: the one implementation.
    workers : int, optional
        How many threads the kernels of NumPy may take for a large array, 1 unless set; −1 is one for each core that
        this process may use. Other frameworks have threads of their own (``torch.set_num_threads``, ...).

    Raises
    ------
    ValueError
        If `path` is none of these, or `workers` no integer of 1 or more, nor −1.

    Examples
    --------
    >>> import anysoft
    >>> with anysoft.options(path="generic"):
    ...     print(anysoft.logsumexp([0.0, -40.0]))
    4.248354255291589e-18
    """
    global _options_in_use, _options_count
    if path not in (None, "auto", "native", "generic"):
        raise ValueError(f"path must be 'auto', 'native' or 'generic', not {path!r}")
    count = _WORKERS.get() if workers is None else _checked_workers(workers)
    with _LOCK:
        _options_count += 1
        _options_in_use = True
    before = _PATH.get()
    now = path or before
    token, workers_token = _PATH.set(now), _WORKERS.set(count)
    _THREAD.path = now
    try:
        with ExitStack() as contexts:
            for backend in _loaded() if now != before else ():
                if backend.under is not None:
                    contexts.enter_context(backend.under(now))
            yield
    finally:
        _PATH.reset(token)
        _WORKERS.reset(workers_token)
        _THREAD.path = before
        with _LOCK:
            _options_count -= 1
            _options_in_use = _options_count > 0


def _checked_workers(workers: Any) -> int:
    if not isinstance(workers, int) or isinstance(workers, bool) or (workers < 1 and workers != -1):
        raise ValueError(f"workers must be 1 or more, or -1 for one on each core, not {workers!r}")
    if workers > 0:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """How many threads a kernel may take."""
    return _WORKERS.get() if _options_in_use else 1


def _loaded() -> tuple[Backend, ...]:
    """The backends of all frameworks that are imported, whether an array of theirs has arrived or not."""
    for name in _BUILT_IN:
        if name in sys.modules:
            with suppress(ImportError):  # a framework that is broken compiles nothing
                _adapter(name)
    return tuple(_BACKENDS.values())


def _path(guarded: Path) -> Path:
    """The path of this context; `guarded` is there only to be guarded on."""
    return _PATH.get()


_path._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as for _resolve


# ---------------------------------------------------------------------------------------------------------------------
# A call


class Operation:
    """One public function: its name, its generic implementation, and the way a call takes to one of its paths."""

    __slots__ = ("check", "defaults", "first", "generic", "name", "operands", "paths")

    def __init__(
        self,
        name: str,
        generic: Callable[..., Any],
        defaults: dict[str, Any],
        operands: tuple[str, ...],
        check: Callable[[dict[str, Any]], None] = _always,  # type: ignore[assignment]
    ) -> None:
        self.name = name
        self.generic = generic  # takes the backend, then what the public function takes, by position
        self.defaults = defaults  # of every argument but the array, in the order of the signature
        self.operands = tuple((1 + list(defaults).index(each), each) for each in operands)  # options that may be arrays
        self.check = check  # refuses options by their value, before any path sees them
        self.paths: dict[str, tuple[FastPath, ...]] = {}  # by the backend's name
        # likewise, the first path where it asks itself. The functions that are called most look here before all else,
        # because a row of ten numbers feels every 50 ns.
        self.first: dict[str, Callable[..., Any]] = {}
        _OPERATIONS[name] = self

    def __repr__(self) -> str:
        return f"<anysoft operation {self.name}>"

    def bring_together(self, *arguments: Any) -> tuple[Backend, tuple[Any, ...]]:
        """The backend of a call, and its arguments with all operands as that backend's arrays."""
        return _bring_together(self, arguments)

    def call(self, alone: bool, *arguments: Any) -> Any:
        """The call of the public function; `alone` says that no option is an array or a sequence."""
        backend = _BY_TYPE.get(type(arguments[0]))
        if backend is None or not alone:
            backend, arguments = _bring_together(self, arguments)
        if _options_in_use and (path := _path(_THREAD.path)) != "auto":
            if path == "native":
                return self._raw(backend)(*arguments)
        else:
            for row in self.paths.get(backend.name, ()):
                if row.call is not None and (row.asks_itself or row.guard(*arguments) is True):
                    result = row.call(*arguments)
                    if result is not NotImplemented:
                        return result
        if backend.run is not None:
            return backend.run(self, backend, arguments)
        return self.generic(backend, *arguments)

    def fast(self, backend: Backend, *arguments: Any) -> Any:
        """The result by one of the fast paths, for another operation to stand on; or NotImplemented."""
        if not _options_in_use or _path(_THREAD.path) == "auto":
            for row in self.paths.get(backend.name, ()):
                if row.call is not None and (row.asks_itself or row.guard(*arguments) is True):
                    result = row.call(*arguments)
                    if result is not NotImplemented:
                        return result
        return NotImplemented

    def _raw(self, backend: Backend) -> Callable[..., Any]:
        for row in self.paths.get(backend.name, ()):
            if row.raw is not None:
                return row.raw
        raise LookupError(f"{backend.name} has no {self.name} of its own; use path='auto' or 'generic'")


def _operation(name: str) -> Operation:
    if name not in _OPERATIONS:
        raise LookupError(f"no operation {name!r}; there are {', '.join(sorted(_OPERATIONS))}")
    return _OPERATIONS[name]


def _is_scalar(value: Any) -> bool:
    # NumPy's scalars are Python numbers to every other framework
    return isinstance(value, bool | int | float | complex | np.generic)


def _bring_together(operation: Operation, arguments: tuple[Any, ...]) -> tuple[Backend, tuple[Any, ...]]:
    """One backend and one device for all operands: what is no array becomes one beside those that are."""
    places = {"x": 0} | {name: place for place, name in operation.operands if arguments[place] is not None}
    operands = {name: arguments[place] for name, place in places.items()}
    # lists are not looked up: a new entry in that table would make torch.compile compile again
    found = {name: backend_of(v) for name, v in operands.items() if not (_is_scalar(v) or isinstance(v, list | tuple))}
    owners = {name: backend for name, backend in found.items() if backend is not None}
    if len({id(backend) for backend in owners.values()}) > 1:
        kinds = " and ".join(f"{name} of {backend.name}" for name, backend in owners.items())
        raise TypeError(f"arrays of two frameworks in one call of {operation.name}: {kinds}")
    device = None
    if not owners:
        backend = numpy_backend()
    else:
        first, backend = next(iter(owners.items()))
        device = backend.device_of(operands[first])
        for name in owners:
            other = backend.device_of(operands[name])
            if device is not None and other is not None and other != device:
                raise TypeError(f"{first} is on {device} and {name} on {other}: one call needs one device")
    together = list(arguments)
    for name, value in operands.items():
        if name in owners:
            continue
        if name != "x" and _is_scalar(value):  # a number takes the dtype of what it meets, as Python's numbers do
            if owners and backend.name != "numpy" and isinstance(value, np.generic):
                together[places[name]] = value.item()
            continue
        xp = backend.namespace(operands[first]) if owners else np
        together[places[name]] = np.asarray(value) if xp is np else xp.asarray(value, device=device)
    return backend, tuple(together)


def explain(operation: str, x: Array, /, *more: Any, **options: Any) -> Explanation:
    """Say which path a call would take, and why it takes none of the others.

    Parameters
    ----------
    operation : str
        The name of a public function.
    x : array
    *more, **options
        As the function takes them; what is left out has the function's own default.

    Returns
    -------
    Explanation
        With ``backend``, ``path`` and ``reasons``; its ``str`` reads well.

    Raises
    ------
    LookupError
        If there is no such operation, or under ``options(path="native")`` if the framework has none of its own.
    TypeError
        If the operation has no such argument.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.explain("logsumexp", [1, 2, 3]))
    logsumexp on numpy: generic
      not numpy kernel: the kernel is for float32 and float64, not int64
    """
    called = _operation(operation)
    if len(more) > len(called.defaults):
        raise TypeError(f"{operation} takes at most {1 + len(called.defaults)} arguments, not {1 + len(more)}")
    given = dict(zip(called.defaults, more, strict=False))
    unknown = [name for name in options if name not in called.defaults or name in given]
    if unknown:
        raise TypeError(f"{operation} has no argument {', '.join(sorted(unknown))} beside those given by position")
    given = {**called.defaults, **given, **options}
    called.check(given)
    backend, positional = _bring_together(called, (x, *given.values()))
    path = _PATH.get()
    if path == "native":
        called._raw(backend)  # or there is none, which is what the call would say
    if path != "auto":
        return Explanation(operation, backend.name, path, {"auto": f"options(path={path!r}) is set"})
    reasons: dict[str, str] = {}
    for row in called.paths.get(backend.name, ()):
        verdict = row.guard(*positional)
        if verdict is True:
            return Explanation(operation, backend.name, row.name, reasons)
        reasons[row.name] = str(verdict)
    return Explanation(operation, backend.name, "generic", reasons)
