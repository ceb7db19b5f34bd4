"""Every installed framework beside anysoft, on one array of logits, against the truth: what `anysoft compare` shows."""

from __future__ import annotations

import functools
import math
import operator
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.frameworks import Framework, families, native, present, scipy_version
from anysoft_conformance.oracle import FORMATS, FUNCTIONS, FloatArray, Function, Truth
from anysoft_conformance.questions import QUESTIONS, Arrays, Question

# How many logits are judged for each dtype. The truth of one takes about 25 µs with gmpy2 and 50 µs without.
JUDGED_LOGITS = 100_000 if oracle.FAST else 40_000
# The same for the rest of the family, whose truths take up to a millisecond.
ASKED_LOGITS = 1_000
# Pairs of timed calls: until this many seconds have gone, within these limits; a slow pair is timed once.
TIMING_SECONDS, LEAST_PAIRS, MOST_PAIRS, SLOW_SECONDS = 0.15, 3, 41, 1.0

Report = Callable[[str, int, int], object]


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
    function: str
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
    def functions(self) -> list[str]:
        """The functions that were compared."""
        return list(dict.fromkeys(row.function for row in self.rows))

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
        if asked := [QUESTIONS[name] for name in self.functions if name in QUESTIONS]:
            lines = len(_spread(self.lines, ASKED_LOGITS // self.logits.shape[self.axis]))
            alike = {text: [one.function for one in asked if one.asked == text] for text in (q.asked for q in asked)}
            found += [f"{', '.join(names)}: {text}." for text, names in alike.items()]
            found.append(f"Errors of these are of {lines:,} rows, evenly spread.")
        if self.temperature != 1.0 and set(self.functions) & set(FUNCTIONS):
            found.append(
                f"softmax and log_softmax are at temperature {self.temperature:g} (natively: of x / "
                f"{self.temperature:g}); logsumexp takes no temperature."
            )
        if "jax" in self.versions:
            found.append("JAX is timed compiled, natively too.")
        found += _missing(self.rows)
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


def _missing(rows: Sequence[Row]) -> list[str]:
    """Why there are no natives: one sentence for all functions of which the same is true."""
    alike: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.missing:
            alike.setdefault(row.missing.replace(row.function, "{}"), {})[row.function] = None
    return [f"–: {sentence.format(', '.join(functions))}." for sentence, functions in alike.items()]


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def compare(
    logits: FloatArray,
    *,
    source: str = "logits",
    axis: int = -1,
    dtypes: Sequence[str] = (),
    backends: Sequence[str] = (),
    functions: Sequence[str] = FUNCTIONS,
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
    functions : sequence of str
        Names of anysoft's functions.
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
        If a dtype or function is unknown, or none of the frameworks has the dtype, or the temperature is negative or
        NaN.
    """
    if not -logits.ndim <= axis < logits.ndim:
        raise IndexError(f"axis {axis} is out of range for logits of shape {logits.shape}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    for dtype in dtypes:
        if dtype not in FORMATS:
            raise ValueError(f"there is no dtype {dtype!r}; there are {', '.join(FORMATS)}")
    for function in functions:
        if function not in (*FUNCTIONS, *QUESTIONS):
            raise ValueError(
                f"there is nothing to compare {function!r} on; there are {', '.join((*FUNCTIONS, *QUESTIONS))}"
            )
    found = present(*backends, referee=False)
    here, versions = list(families(found.frameworks)), dict(found.versions)
    if "numpy" in versions and (scipy := scipy_version()):
        versions["scipy"] = scipy
    work = [(one, dtype) for one in here for dtype in one.dtypes if not dtypes or dtype in dtypes]
    if not work:
        raise ValueError(f"{' or '.join(dtypes)} is no dtype of {', '.join(one.name for one in here)}")
    sample = Sample.of(logits, axis)
    wanted = [dtype for dtype in FORMATS if any(dtype == other for _, other in work)]
    tasks = _tasks(logits, wanted, functions, temperature, sample, report)
    rows: list[Row] = []
    for done, (one, dtype) in enumerate(work):
        report(f"{one.name} {dtype}", done, len(work))
        with one.session(), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a native function may warn of what the table is about to show
            rows += [_row(one, dtype, task) for task in tasks[dtype]]
    report("done", len(work), len(work))
    judged = len(sample.rows), len(sample.places)
    return Comparison(source, logits, axis, temperature, judged, versions, found.absent, tuple(rows))


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


@dataclass(frozen=True, slots=True)
class Task:
    """A function and what it is given at one dtype, on the host; `judged` takes from a result what `truth` is of."""

    function: str
    arrays: Arrays
    axis: tuple[int, ...]
    options: Mapping[str, Any]
    truth: Truth
    judged: Callable[[FloatArray], FloatArray]


def _tasks(
    logits: FloatArray,
    dtypes: Sequence[str],
    functions: Sequence[str],
    temperature: float,
    sample: Sample,
    report: Report,
) -> dict[str, list[Task]]:
    """What is asked at each dtype; nearly all of the work is the truth."""
    core: list[Function] = [function for function in FUNCTIONS if function in functions]
    asked = [QUESTIONS[function] for function in dict.fromkeys(functions) if function in QUESTIONS]
    total = len(dtypes) * (len(sample.rows) * bool(core) + len(asked))
    done = 0

    def advance(steps: int = 1) -> None:
        nonlocal done
        done += steps
        report("truth", done, total)

    tasks: dict[str, list[Task]] = {dtype: [] for dtype in dtypes}
    for dtype in dtypes:
        rounded = oracle.round_to(logits, dtype)
        if core:
            tasks[dtype] += _core(core, rounded, temperature, sample, advance)
        for question in asked:
            tasks[dtype].append(_asked(question, rounded, sample.axis, dtype))
            advance()
    return tasks


def _core(
    functions: Sequence[Function],
    rounded: FloatArray,
    temperature: float,
    sample: Sample,
    advance: Callable[[int], object],
) -> list[Task]:
    """The three that share their exponentials, on the array as it is."""
    lines = sample.lines(rounded)
    at = None if len(sample.places) == lines.shape[-1] else sample.places.tolist()
    exact = oracle.truths(lines, -1, temperature, at=at, advance=advance)
    if temperature != 1.0:
        exact["logsumexp"] = oracle.truths(lines, -1, at=[])["logsumexp"]

    def judged(result: FloatArray) -> FloatArray:
        if result.ndim < rounded.ndim:
            chosen: FloatArray = np.reshape(result, -1)[sample.rows]
            return chosen
        return sample.lines(result)[:, sample.places]

    heat = {"temperature": temperature} if temperature != 1.0 else {}
    return [
        Task(name, (rounded,), (sample.axis,), {} if name == "logsumexp" else heat, exact[name], judged)
        for name in functions
    ]


def _asked(question: Question, rounded: FloatArray, axis: int, dtype: str) -> Task:
    """Any other function, on the rows as a matrix."""
    lines = np.moveaxis(rounded, axis, -1).reshape(-1, rounded.shape[axis])[: question.most]
    arrays = tuple(_rounded(array, dtype) for array in question.arguments(lines))
    options = {name: _rounded(value, dtype) for name, value in question.given(lines).items()}
    chosen = _spread(len(lines), ASKED_LOGITS // lines.shape[-1])
    truth = question.truth(arrays, options, chosen, dtype)
    return Task(question.function, arrays, question.along, options, truth, lambda result: result[chosen])


def _rounded(value: Any, dtype: str) -> Any:
    return oracle.round_to(value, dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _on(one: Framework, value: Any, dtype: str) -> Any:
    """A host array as the framework's; what is none as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return one.asarray(value, dtype if value.dtype.kind == "f" else str(value.dtype))


def _row(one: Framework, dtype: str, task: Task) -> Row:
    arrays = tuple(_on(one, array, dtype) for array in task.arrays)
    options = {name: _on(one, value, dtype) for name, value in task.options.items()}
    ours = functools.partial(operator.attrgetter(task.function)(anysoft), *arrays, *task.axis, **options)
    own, own_result, name = _native(one, task, arrays, options)
    own_seconds, our_seconds, ratio = _timed(own, ours, one.wait)
    theirs = _judge(name, own_seconds, one.host(_first(own_result)), task, dtype) if own else None
    path = anysoft.explain(task.function, *arrays, *task.axis, **options).path
    answer = _judge(path, our_seconds, one.host(_first(ours())), task, dtype)
    return Row(one.name, one.device, task.function, dtype, theirs, None if own else name, answer, ratio, task.truth)


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _native(
    one: Framework, task: Task, arrays: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Callable[[], Any] | None, Any, str]:
    """What a user of the framework would write, its result and its name; or the reason why there is nothing."""
    given = dict(options)
    heat = given.pop("temperature", 1.0)
    try:
        name, own = native(one.name, task.function)

        def call() -> Any:
            x, *more = arrays
            return own(x if heat == 1.0 else x / heat, *more, *task.axis, **given)

        return call, call(), name
    except LookupError as error:
        return None, None, str(error)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return None, None, f"{one.name} fails at {task.function} of {_dtype_name(arrays[0])}: {_first_line(error)}"


def _dtype_name(array: Any) -> str:
    """The dtype of an array, as every framework's users know it."""
    return str(array.dtype).rpartition(".")[2]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _timed(
    native: Callable[[], Any] | None, ours: Callable[[], Any], wait: Callable[[Any], object]
) -> tuple[float, float, float | None]:
    """Median seconds of the two, and the median of native over ours, taken pair by pair so that noise hits both."""

    def seconds(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        wait(_first(call()))
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


def _judge(name: str, seconds: float, result: FloatArray, task: Task, dtype: str) -> Judged:
    exact, judged = task.truth, task.judged(result)
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
    logits = np.zeros((64, 64))
    with one.session():
        for function in (*FUNCTIONS, *QUESTIONS):
            for dtype in one.dtypes:
                question = QUESTIONS.get(function)
                host = question.arguments(logits) if question else (logits,)
                options = question.given(logits) if question else {"axis": -1}
                arrays = [_on(one, array, dtype) for array in host]
                given = {name: _on(one, value, dtype) for name, value in options.items()}
                found = anysoft.explain(function, *arrays, *(question.along if question else ()), **given)
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
