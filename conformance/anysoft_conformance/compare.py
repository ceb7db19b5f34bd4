"""Every installed framework beside anysoft, on one array of logits, against the truth: what `anysoft compare` shows."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.oracle import FORMATS, FUNCTIONS, FloatArray, Function, Truth

# How many logits are judged for each dtype. The truth of one takes about 25 µs with gmpy2 and 50 µs without.
JUDGED_LOGITS = 100_000 if oracle.FAST else 40_000
# Pairs of timed calls: until this many seconds have gone, within these limits; a slow pair is timed once.
TIMING_SECONDS, LEAST_PAIRS, MOST_PAIRS, SLOW_SECONDS = 0.15, 3, 41, 1.0

Report = Callable[[str, int, int], object]


class AbsentBackendError(LookupError):
    """A framework that was asked for by name and is not here; its text is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One function's results against the truth.

    `stray` counts the NaN and infinities where the truth is finite, and the other way round; they are no part of
    `worst` and `median`, in ulp. `outside` counts the results outside the stability contract, stray ones included.
    """

    name: str
    worst: float | None
    median: float | None
    stray: int
    outside: int
    seconds: float
    errors: FloatArray = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """What of it goes into JSON."""
        names = ("name", "worst", "median", "stray", "outside", "seconds")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Row:
    """One function of one framework in one dtype: the framework's own answer, and anysoft's.

    `native` is None where the framework has none, and `missing` says why. `time_ratio` is the native time over
    anysoft's: above 1, anysoft is faster.
    """

    framework: str
    device: str
    function: Function
    dtype: str
    native: Judged | None
    missing: str | None
    anysoft: Judged
    time_ratio: float | None
    truth: Truth = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """What of it goes into JSON."""
        return {
            "framework": self.framework,
            "device": self.device,
            "function": self.function,
            "dtype": self.dtype,
            "native": self.native.as_dict() if self.native else None,
            "missing": self.missing,
            "anysoft": self.anysoft.as_dict(),
            "time_ratio": self.time_ratio,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and the rows; `judged` is how many rows, and how many entries of each, the errors are of."""

    source: str
    logits: FloatArray = field(repr=False, compare=False)
    axis: int
    temperature: float
    judged: tuple[int, int]
    versions: dict[str, str]
    absent: dict[str, str]
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """How many times the function is applied: the number of rows along the axis."""
        return int(self.logits.size // self.logits.shape[self.axis])

    @property
    def notes(self) -> list[str]:
        """What a reader of the rows has to know, in sentences."""
        found = []
        rows, length = self.judged
        if rows < self.lines or length < self.logits.shape[self.axis]:
            parts = [f"{rows:,} of the {self.lines:,} rows"] if self.lines > 1 else []
            if length < self.logits.shape[self.axis]:
                parts.insert(0, f"{length:,} of the {self.logits.shape[self.axis]:,} entries")
            found.append(f"Errors are of {' of '.join(parts)}, evenly spread; times are of all.")
        if self.temperature != 1.0:
            found.append(
                f"softmax and log_softmax are at temperature {self.temperature:g} (natively: of x / "
                f"{self.temperature:g}); logsumexp takes no temperature."
            )
        if "jax" in self.versions:
            found.append("JAX is timed compiled, natively too.")
        found += [f"–: {reason}." for reason in dict.fromkeys(row.missing for row in self.rows if row.missing)]
        return found + [f"{reason}." for reason in self.absent.values()]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        return {
            "anysoft": anysoft.__version__,
            "logits": {
                "source": self.source,
                "shape": list(self.logits.shape),
                "axis": self.axis,
                "temperature": "inf" if math.isinf(self.temperature) else self.temperature,
                "rows": self.lines,
                "judged_rows": self.judged[0],
                "judged_per_row": self.judged[1],
            },
            "truth": oracle.NAME,
            "versions": self.versions,
            "absent": self.absent,
            "notes": self.notes,
            "rows": [row.as_dict() for row in self.rows],
        }


# ---------------------------------------------------------------------------------------------------------------------
# Frameworks


@dataclass(frozen=True, slots=True)
class Framework:
    """How a framework's arrays are made and read; `native` is None where anysoft's native path is the peer."""

    name: str
    device: str
    dtypes: tuple[str, ...]
    to_array: Callable[[FloatArray, str], Any]
    to_host: Callable[[Any], FloatArray]
    wait: Callable[[Any], object] = lambda result: None
    session: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    native: Callable[[Function, Any, int], Any] | None = None


def _numpy(device: str) -> Framework:
    def scipy_special(function: Function, x: Any, axis: int) -> Any:
        return getattr(importlib.import_module("scipy.special"), function)(x, axis=axis)

    return Framework(
        "numpy",
        device,
        ("float64", "float32", "float16"),
        to_array=lambda x, dtype: x.astype(dtype),
        to_host=lambda result: np.asarray(result, dtype=np.float64),
        native=scipy_special if _scipy_version() else None,
    )


def _torch(device: str) -> Framework:
    import torch

    return Framework(
        "torch",
        device,
        ("float64", "float32", "float16", "bfloat16") if "mps" not in device else ("float32", "float16", "bfloat16"),
        to_array=lambda x, dtype: torch.asarray(x).to(getattr(torch, dtype)).to(device),
        to_host=lambda result: result.cpu().to(torch.float64).numpy(),
        wait=lambda result: torch.cuda.synchronize(device) if "cuda" in device else None,
    )


def _jax(device: str) -> Framework:
    import jax

    # its place before JAX 0.8
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return Framework(
        "jax",
        device,
        ("float64", "float32", "float16", "bfloat16"),
        to_array=lambda x, dtype: jax.numpy.asarray(x, dtype=dtype),
        to_host=lambda result: np.asarray(result).astype(np.float64),
        wait=lambda result: result.block_until_ready(),
        session=functools.partial(home.enable_x64, True),  # without it JAX has no float64
    )


def _cupy(device: str) -> Framework:
    import cupy

    return Framework(
        "cupy",
        device,
        ("float64", "float32", "float16"),
        to_array=lambda x, dtype: cupy.asarray(x.astype(dtype)),
        to_host=lambda result: result.get().astype(np.float64),
        wait=lambda result: cupy.cuda.get_current_stream().synchronize(),
    )


def _standard(name: str, device: str) -> Framework:
    """A backend that someone registered: all that is known of it is the array API standard."""
    xp = importlib.import_module(name)
    return Framework(
        name,
        device,
        tuple(dtype for dtype in FORMATS if hasattr(xp, dtype)),
        to_array=lambda x, dtype: xp.astype(xp.asarray(x), getattr(xp, dtype)),
        to_host=lambda result: np.asarray(np.from_dlpack(result), dtype=np.float64),
    )


_BUILT_IN: dict[str, Callable[[str], Framework]] = {"numpy": _numpy, "torch": _torch, "jax": _jax, "cupy": _cupy}


def _scipy_version() -> str | None:
    return version("scipy") if importlib.util.find_spec("scipy") else None


def frameworks(names: Sequence[str] = ()) -> tuple[list[Framework], dict[str, str], dict[str, str]]:
    """The frameworks that are here.

    Parameters
    ----------
    names : sequence of str
        Only these; all that are installed if empty.

    Returns
    -------
    frameworks : list of Framework
        One for each kind of device that the framework has.
    versions : dict of str to str
    absent : dict of str to str
        The reason why a backend that nobody asked for is not here.

    Raises
    ------
    AbsentBackendError
        If one of `names` is unknown or not here.
    """
    known = {found.name: found for found in anysoft.registry.installed(*names)}
    for name in names:
        if name not in known:
            there = ", ".join(found.name for found in anysoft.registry.installed())
            raise AbsentBackendError(f"there is no backend named {name!r}; there are {there}")
        if known[name].reason:
            raise AbsentBackendError(str(known[name].reason))
    here: list[Framework] = []
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name, found in known.items():
        if found.reason:
            absent[name] = found.reason
            continue
        make = _BUILT_IN.get(name, functools.partial(_standard, name))
        kinds = {device.partition(":")[0].lower(): device for device in reversed(found.devices)}
        devices = [device for device in found.devices if device in kinds.values()]
        # only torch computes where it is told to; the others compute where they are at home
        try:
            here += [make(device) for device in (devices if name == "torch" else devices[:1])]
        except ImportError as error:
            absent[name] = f"{name} has no namespace to make arrays with ({error})"
            continue
        versions[name] = found.version or ""
        if name == "numpy" and (scipy := _scipy_version()):
            versions["scipy"] = scipy
    return here, versions, absent


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def compare(
    logits: FloatArray,
    *,
    source: str = "logits",
    axis: int = -1,
    dtypes: Sequence[str] = (),
    backends: Sequence[str] = (),
    temperature: float = 1.0,
    report: Report = lambda stage, done, total: None,
) -> Comparison:
    """Measure every framework on these logits, natively and through anysoft.

    Parameters
    ----------
    logits : ndarray of float64
    source : str
        What the logits are, for the reader.
    axis : int
    dtypes : sequence of {"float64", "float32", "float16", "bfloat16"}
        All of them if empty.
    backends : sequence of str
        All that are installed if empty.
    temperature : float
        Of softmax and log_softmax; at least 0.
    report : callable
        Told ``(stage, done, total)`` as the work goes on.

    Returns
    -------
    Comparison

    Raises
    ------
    AbsentBackendError
        If one of `backends` is unknown or not installed.
    IndexError
        If `axis` is out of range.
    ValueError
        If a dtype is unknown or none of the frameworks has it, or the temperature negative or NaN.
    """
    if not -logits.ndim <= axis < logits.ndim:
        raise IndexError(f"axis {axis} is out of range for logits of shape {logits.shape}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    for dtype in dtypes:
        if dtype not in FORMATS:
            raise ValueError(f"there is no dtype {dtype!r}; there are {', '.join(FORMATS)}")
    here, versions, absent = frameworks(backends)
    work = [(one, dtype) for one in here for dtype in one.dtypes if not dtypes or dtype in dtypes]
    if not work:
        raise ValueError(f"{' or '.join(dtypes)} is no dtype of {', '.join(one.name for one in here)}")
    sample = Sample.of(logits, axis)
    wanted = [dtype for dtype in FORMATS if any(dtype == other for _, other in work)]
    exact = _truths(logits, wanted, temperature, sample, report)
    rows: list[Row] = []
    for done, (one, dtype) in enumerate(work):
        report(f"{one.name} {dtype}", done, len(work))
        rows += _rows(one, dtype, oracle.round_to(logits, dtype), temperature, sample, exact[dtype])
    report("done", len(work), len(work))
    judged = len(sample.rows), len(sample.places)
    return Comparison(source, logits, axis, temperature, judged, versions, absent, tuple(rows))


@dataclass(frozen=True, slots=True)
class Sample:
    """What is judged: rows, and places within them, both evenly spread; as many as the oracle can do in a while."""

    axis: int
    rows: np.ndarray[Any, np.dtype[np.int64]]
    places: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, logits: FloatArray, axis: int) -> Sample:
        """The sample for these logits."""
        length = logits.shape[axis]
        return cls(axis, _spread(logits.size // length, JUDGED_LOGITS // length), _spread(length, JUDGED_LOGITS))

    def lines(self, x: FloatArray) -> FloatArray:
        """The rows, whole."""
        moved = np.moveaxis(x, self.axis, -1)
        lines: FloatArray = moved.reshape(-1, moved.shape[-1])[self.rows]
        return lines


def _spread(count: int, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.unique(np.linspace(0, count - 1, min(count, max(1, most))).round().astype(np.int64))


def _truths(
    logits: FloatArray, dtypes: Sequence[str], temperature: float, sample: Sample, report: Report
) -> dict[str, dict[Function, Truth]]:
    judged = sample.lines(logits)
    at = None if len(sample.places) == judged.shape[-1] else sample.places.tolist()
    total = len(dtypes) * len(judged)
    exact: dict[str, dict[Function, Truth]] = {}
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        report("truth", done, total)

    for dtype in dtypes:
        rounded = oracle.round_to(judged, dtype)
        exact[dtype] = oracle.truths(rounded, -1, temperature, at=at, advance=advance)
        if temperature != 1.0:
            exact[dtype]["logsumexp"] = oracle.truths(rounded, -1, at=[])["logsumexp"]
    return exact


def _rows(
    one: Framework,
    dtype: str,
    rounded: FloatArray,
    temperature: float,
    sample: Sample,
    exact: dict[Function, Truth],
) -> list[Row]:
    rows = []
    axis = sample.axis
    with one.session(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a native function may warn of what the table is about to show
        x = one.to_array(rounded, dtype)
        for function in FUNCTIONS:
            truth = exact[function]
            heat = temperature if function != "logsumexp" else 1.0
            options = {"temperature": heat} if heat != 1.0 else {}
            ours = functools.partial(getattr(anysoft, function), x, axis=axis, **options)
            native, native_result, missing = _native(one, function, x, axis, heat)
            native_seconds, our_seconds, ratio = _timed(native, ours, one.wait)
            theirs = None
            if native:
                theirs = _judge(
                    _native_name(one, function), native_seconds, one.to_host(native_result), sample, truth, dtype
                )
            path = anysoft.explain(function, x, axis, **options).path
            answer = _judge(path, our_seconds, one.to_host(ours()), sample, truth, dtype)
            rows.append(Row(one.name, one.device, function, dtype, theirs, missing, answer, ratio, truth))
    return rows


def _native_name(one: Framework, function: Function) -> str:
    return {"numpy": "scipy.special", "cupy": "cupyx.scipy.special"}.get(one.name, one.name) + f".{function}"


def _native(
    one: Framework, function: Function, x: Any, axis: int, temperature: float
) -> tuple[Callable[[], Any] | None, Any, str | None]:
    """What a user of the framework would write and its result, or the reason why there is nothing to write."""

    def call() -> Any:
        cooled = x if temperature == 1.0 else x / temperature
        if one.native is not None:
            return one.native(function, cooled, axis)
        with anysoft.options(path="native"):
            return getattr(anysoft, function)(cooled, axis=axis)

    try:
        return call, call(), None
    except LookupError as error:
        if one.name == "numpy":
            return None, None, "NumPy has no function of its own, and SciPy, whose it would be, is not installed"
        return None, None, str(error)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return None, None, f"{one.name} fails at {function} of {x.dtype}: {str(error).partition(chr(10))[0]}"


def _timed(
    native: Callable[[], Any] | None, ours: Callable[[], Any], wait: Callable[[Any], object]
) -> tuple[float, float, float | None]:
    """Median seconds of the two, and the median of native over ours, taken pair by pair so that noise hits both."""

    def seconds(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        wait(call())
        return time.perf_counter() - start

    calls = [ours] if native is None else [native, ours]
    first = sum(seconds(call) for call in calls)  # which may compile
    least = LEAST_PAIRS if first < SLOW_SECONDS else 1
    pairs: list[list[float]] = []
    end = time.perf_counter() + TIMING_SECONDS
    while len(pairs) < least or (time.perf_counter() < end and len(pairs) < MOST_PAIRS):
        order = calls if len(pairs) % 2 else calls[::-1]
        measured = [seconds(call) for call in order]
        pairs.append(measured if order is calls else measured[::-1])
    medians = [statistics.median(times) for times in zip(*pairs, strict=True)]
    if native is None:
        return math.nan, medians[0], None
    return medians[0], medians[1], statistics.median(pair[0] / pair[1] for pair in pairs)


def _judge(name: str, seconds: float, result: FloatArray, sample: Sample, exact: Truth, dtype: str) -> Judged:
    judged = np.reshape(result, -1)[sample.rows] if exact.high.ndim == 1 else sample.lines(result)[:, sample.places]
    errors = oracle.ulp_error(judged, exact, dtype)
    stray = np.isnan(errors)
    finite = errors[~stray]
    outside = stray | (errors > oracle.budget(exact, dtype))
    worst, median = (float(finite.max()), float(np.median(finite))) if finite.size else (None, None)
    return Judged(name, worst, median, int(stray.sum()), int(outside.sum()), seconds, errors)


# ---------------------------------------------------------------------------------------------------------------------
# Paths


def paths(one: Framework) -> list[dict[str, Any]]:
    """Which path each function takes on a framework's arrays of plain logits, and why none of the others.

    Parameters
    ----------
    one : Framework

    Returns
    -------
    list of dict
        ``function``, ``path``, ``dtypes`` (those that take it) and ``reasons``.
    """
    choices: dict[tuple[str, str, str], dict[str, Any]] = {}
    with one.session():
        for function in FUNCTIONS:
            for dtype in one.dtypes:
                found = anysoft.explain(function, one.to_array(np.zeros((64, 64)), dtype), -1)
                # a reason that differs only in the dtype that it names is one reason
                alike = (function, found.path, str(found.reasons).replace(dtype, ""))
                choice = {"function": function, "path": found.path, "dtypes": [], "reasons": dict(found.reasons)}
                choices.setdefault(alike, choice)["dtypes"].append(dtype)
    return list(choices.values())


# ---------------------------------------------------------------------------------------------------------------------
# As a reader takes it in


def ulp(error: float | None) -> str:
    """An error as a reader takes it in at a glance."""
    if error is None:
        return "–"
    if error < 100:
        return f"{error:.2f}" if error < 10 else f"{error:.1f}"
    return f"{error:.0f}" if error < 10_000 else f"{error:.1e}".replace("e+0", "e").replace("e+", "e")


def ratio(value: float | None) -> str:
    """A ratio of times."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
