"""Judgement: namespace, dtype, shape and device first, then special values, then the contract in ulp.

`judge` holds any implementation of one of the functions to the contract that anysoft is held to.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anysoft_conformance import differences, oracle
from anysoft_conformance.corpus import FLOATS, HALVES, Case
from anysoft_conformance.oracle import FloatArray, Truth
from anysoft_conformance.rows import Row, find
from anysoft_conformance.subject import Subject
from anysoft_conformance.subjects import SUBJECTS
from anysoft_conformance.transformations import Call, Transformation
from anysoft_conformance.truths import Axis, Problem

Array = Any
What = Literal["value", "gradient", "hessian"]
Outcome = Literal["kept", "broken", "not offered"]

__all__ = ["Judgement", "Verdict", "judge", "judge_case"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one case said of one function on one row.

    `transformation` names what the framework does to the call, if it is no plain one.
    `error` and `allowed` are in ulp of the truth, where `error / allowed` is largest; None where nothing could be
    measured. `aspect` is what is broken: ``raised``, ``refusal``, ``namespace``, ``dtype``, ``shape``, ``device``,
    ``argument`` (one was written to), ``sum`` (probabilities do not add up to 1), ``special value`` or ``contract``.
    """

    function: str
    case: str
    what: What
    backend: str
    device: str
    dtype: str
    path: str
    outcome: Outcome
    aspect: str = ""
    reason: str = ""
    error: float | None = None
    allowed: float | None = None
    computed: str = ""
    truth: str = ""
    transformation: str = ""

    @property
    def id(self) -> str:
        """Its name among all verdicts."""
        row = f"{self.backend}-{self.device}-{self.dtype}"
        return name_of(self.function, self.case, self.what, row, self.path, self.transformation)

    @property
    def question(self) -> str:
        """What the function was asked: the case, which derivative, and how it was called."""
        what = "" if self.what == "value" else f" {self.what}"
        return f"{self.case}{what}{f' @{self.transformation}' if self.transformation else ''}"

    @property
    def ratio(self) -> float | None:
        """The error over what the contract allows."""
        return None if self.error is None or not self.allowed else self.error / self.allowed


def name_of(function: str, case: str, what: What, row: str, path: str, transformation: str = "") -> str:
    """The id of a check, which its verdict has too."""
    plain = "-".join([function, case, *([] if what == "value" else [what]), row, path])
    return f"{plain}@{transformation}" if transformation else plain


class _BrokenError(Exception):
    def __init__(self, aspect: str, reason: str, **measured: Any) -> None:
        super().__init__(reason)
        self.aspect, self.measured = aspect, measured
        self.reason = " ".join(reason.split())  # on one line, whatever an array prints


# ---------------------------------------------------------------------------------------------------------------------
# One case


def judge_case(
    subject: Subject,
    case: Case,
    row: Row,
    call: Callable[..., Any],
    *,
    path: str = "",
    what: What = "value",
    transformation: Transformation | None = None,
) -> Verdict:
    """Judge one call.

    Parameters
    ----------
    subject : Subject
    case : Case
    row : Row
    call : callable
        Takes the arrays and the axis by position, and the case's options by keyword (the axis too where the function
        takes it by name). A `LookupError` of its own says that it does not offer what the case needs.
    path : str
        What the verdict is to say about how the call was made.
    what : {"value", "gradient", "hessian"}
    transformation : Transformation, optional
        How the call is made, if it is not just made; its `what` must be `what`.

    Returns
    -------
    Verdict
    """
    verdict = functools.partial(
        Verdict,
        *(subject.name, case.name, what, row.backend, row.device, row.dtype, path or "call"),
        transformation=transformation.name if transformation else "",
    )
    judged = _judged_value if what == "value" else _judged_derivative
    try:
        with row.framework.session():
            measured = judged(subject, case, row, call, what, transformation)
    except _BrokenError as broken:
        return verdict("broken", broken.aspect, f"{broken.reason} ({case.why})", **broken.measured)
    except _NotOfferedError as error:
        return verdict("not offered", reason=str(error))
    return verdict("kept", **measured)


class _NotOfferedError(Exception):
    pass


def _judged_value(
    subject: Subject,
    case: Case,
    row: Row,
    call: Callable[..., Any],
    what: What,
    transformation: Transformation | None,
) -> dict[str, Any]:
    problem, arrays, options = _given(subject, case, row)
    positional, named = _axis(subject, case)
    arguments = (*arrays, *positional)
    options |= named
    if case.raises is not None:
        _refused(case, call, arguments, options)
        return {}
    before = [row.host(array) for array in (*arrays, *options.values()) if _is_array(row, array)]
    if transformation:
        result = _called(transformation.apply, (_call(row, call, arrays, positional, options),), {})
    else:
        result = _called(call, arguments, options)
    for was, array in zip(before, (a for a in (*arrays, *options.values()) if _is_array(row, a)), strict=True):
        if not np.array_equal(was, row.host(array), equal_nan=True):
            raise _BrokenError("argument", "an argument was written to")
    truths = _truths(subject.name, case, row.dtype, row.framework.default_float)
    results = result if isinstance(result, tuple) else (result,)
    worst: dict[str, Any] = {}
    dtypes = [_result_dtype(row, problem, kind) for kind in subject.results or ("",) * len(truths)]
    if transformation and not transformation.data:
        _same_kind(results, truths, dtypes)
        return {}
    if np.iscomplexobj(problem.x) and len(results) == 1:
        _keep_place(row, results[0], truths[0], problem, problem.dtype)
        host = row.host(results[0])
        results_on_host: Sequence[FloatArray] = (host.real, host.imag)
    else:
        if len(results) != len(truths):
            raise _BrokenError("shape", f"{len(results)} results where {len(truths)} are right")
        for one, truth, dtype in zip(results, truths, dtypes, strict=True):
            _keep_place(row, one, truth, problem, dtype)
        results_on_host = [row.host(one) for one in results]
    for one, truth, dtype in zip(results_on_host, truths, dtypes, strict=True):
        measured = _measured(_at(one, problem), truth, dtype)
        worst = max(worst, measured, key=lambda found: found.get("error", -1.0) / found.get("allowed", 1.0))
    if subject.sums in ("value", "exp of value"):
        _sums_to_one(results_on_host[0], problem.axis, problem.dtype, logarithms=subject.sums != "value")
    return worst


def _call(
    row: Row, call: Callable[..., Any], arrays: tuple[Array, ...], after: tuple[Any, ...], options: Mapping[str, Any]
) -> Call:
    """A call as a transformation takes it: all arrays together, and all else; a count or a label is no array."""
    counts = {
        name: int(row.host(value))
        for name, value in options.items()
        if _is_array(row, value) and value.ndim == 0 and "int" in str(value.dtype)
    }
    among = {name: value for name, value in options.items() if _is_array(row, value) and name not in counts}
    rest = {name: value for name, value in options.items() if name not in among}
    return Call(row, call, (*arrays, *among.values()), len(arrays), tuple(among), after, {**rest, **counts})


def _same_kind(results: Sequence[Any], truths: Sequence[Truth], dtypes: Sequence[str]) -> None:
    """Of results without data: their number, shapes and dtypes."""
    if len(results) != len(truths):
        raise _BrokenError("shape", f"{len(results)} results where {len(truths)} are right")
    for one, truth, dtype in zip(results, truths, dtypes, strict=True):
        if tuple(one.shape) != truth.high.shape:
            raise _BrokenError("shape", f"{tuple(one.shape)} where {truth.high.shape} is right")
        if (found := str(one.dtype).rpartition(".")[2]) != dtype:
            raise _BrokenError("dtype", f"{found} where {dtype} is right")


def _judged_derivative(
    subject: Subject,
    case: Case,
    row: Row,
    call: Callable[..., Any],
    what: What,
    transformation: Transformation | None,
) -> dict[str, Any]:
    _, arrays, options = _given(subject, case, row)
    truth, finite = _derivative(subject.name, case, row.dtype, row.framework.default_float, what)
    positional, named = _axis(subject, case)
    if transformation:
        given = _call(row, call, arrays, positional, {**options, **named})
        result = row.host(_called(transformation.apply, (given,), {}))
    else:
        differentiate = getattr(row.framework, {"gradient": "jacobian", "hessian": "hessian"}[what])
        of_arrays = _of_arrays(call, positional, named, options)
        result = row.host(_called(differentiate, (of_arrays, *arrays), {}))
    if result.shape != truth.high.shape:
        raise _BrokenError("shape", f"a derivative of shape {result.shape} where {truth.high.shape} is right")
    if np.isnan(result).any():
        raise _BrokenError("special value", f"a derivative that is NaN: {result}", computed="nan", truth="defined")
    # −inf is no number to differentiate towards: there it must only be defined
    measured = _measured(result[finite], truth.map(lambda part: part[finite]), row.dtype)
    if what == "gradient" and subject.sums == "gradient":
        _sums_to_one(result, -1, row.dtype, logarithms=False)
    return measured


def _sums_to_one(result: FloatArray, axis: Axis, dtype: str, *, logarithms: bool) -> None:
    """Probabilities add up to 1, whatever the size of the logits; a row without any, or undefined, is left out.

    Each probability may be a few roundings off, one below the smallest normal number a whole last place. A logarithm
    may be off by its own roundings and, where exp was in range without a shift, by those of an exponent of half that
    range; halves are rounded once.
    """
    if axis == () or result.ndim == 0 or not result.size:
        return
    form = oracle.FORMATS[dtype]
    with np.errstate(all="ignore"):
        p = np.exp(result) if logarithms else result
        axes = tuple(range(p.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        last = tuple(range(p.ndim - len(axes), p.ndim))
        # the axis last and contiguous, where NumPy's own sum does not lose with the length
        sums = np.sum(np.ascontiguousarray(np.moveaxis(p, axes, last)), axis=last)
        length = result.size // max(sums.size, 1)
        allowed = 8.0 * form.roundoff + length * math.ldexp(1.0, form.smallest - form.bits)
        if logarithms:
            reach = form.largest * math.log(2.0) / 2.0 if dtype in FLOATS else 0.0
            allowed = allowed + 4.0 * form.roundoff * (
                reach + np.sum(np.where(p > 0, p * np.abs(result), 0.0), axis=axes)
            )
    wrong = (sums > 0) & ~(np.abs(sums - 1.0) <= allowed)
    if wrong.any():
        worst = float(np.asarray(sums)[np.asarray(wrong)].flat[0])
        raise _BrokenError("sum", f"probabilities that add up to {worst}", computed=repr(worst), truth="1.0")


def _axis(subject: Subject, case: Case) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The axis as the function takes it: by position, by name, or not at all."""
    if subject.along == "named":
        return (), {"axis": case.axis}
    return ((case.axis,) if subject.along else ()), {}


class _OfArrays:
    """A function of the arrays alone; without options one for each call and axis, which a framework compiles once."""

    def __init__(self, call: Callable[..., Any], after: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self.call, self.after, self.options = call, after, options

    def __call__(self, *arrays: Array) -> Array:
        return self.call(*arrays, *self.after, **self.options)


@functools.lru_cache(maxsize=64)
def _shared(call: Callable[..., Any], after: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> _OfArrays:
    return _OfArrays(call, after, dict(named))


def _of_arrays(
    call: Callable[..., Any], after: tuple[Any, ...], named: dict[str, Any], options: Mapping[str, Any]
) -> _OfArrays:
    return _OfArrays(call, after, {**named, **options}) if options else _shared(call, after, tuple(named.items()))


def _given(subject: Subject, case: Case, row: Row) -> tuple[Problem, tuple[Array, ...], dict[str, Any]]:
    """The problem, and its arrays and options as the row's framework has them."""
    problem = case.problem(row.dtype, row.framework.default_float)
    kinds = [getattr(values, "dtype", row.dtype) for values in case.arrays]
    arrays = tuple(laid_out(row, array, case.layout, kind) for array, kind in zip(problem.arrays, kinds, strict=True))
    options: dict[str, Any] = {}
    for name, value in problem.options.items():
        if name == "dtype":
            options[name] = row.array([0], value).dtype
        elif isinstance(value, np.ndarray):
            given = case.options[name]
            kind = "bool" if value.dtype == bool else getattr(given, "dtype", row.dtype)
            options[name] = row.array(value, kind)
        else:
            options[name] = value
    return problem, arrays, options


def laid_out(row: Row, values: FloatArray, layout: str, dtype: str) -> Array:
    """An array with the memory layout of that name, as far as the framework has it; it holds `values`."""
    if layout == "transposed":
        return row.array(np.ascontiguousarray(values.T), dtype).T
    if layout == "strided":
        return row.array(np.repeat(values, 2, axis=1), dtype)[:, ::2]
    if layout == "broadcast":
        return row.xp.broadcast_to(row.array(values[:1], dtype), values.shape)
    if layout == "view":
        return row.array(np.concatenate([values, values]), dtype)[: len(values), :]
    if layout == "reversed" and row.backend != "torch":  # torch has no negative strides
        return row.array(values[::-1].copy(), dtype)[::-1, :]
    array = row.array(values, dtype)
    if layout == "read_only" and isinstance(array, np.ndarray):
        array.flags.writeable = False
    return array


def _is_array(row: Row, value: Any) -> bool:
    return isinstance(value, type(row.array([0.0])))


def _called(call: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    try:
        return call(*arguments, **options)
    except LookupError as error:
        if isinstance(error, IndexError | KeyError):
            raise _BrokenError("raised", f"{type(error).__name__}: {_first_line(error)}") from error
        raise _NotOfferedError(str(error)) from error
    except Exception as error:
        raise _BrokenError("raised", f"{type(error).__name__}: {_first_line(error)}") from error


def _refused(case: Case, call: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    assert case.raises is not None
    try:
        result = call(*arguments, **options)
    except case.raises as error:
        if case.match not in str(error):
            text = f"the {type(error).__name__} does not say {case.match!r}: {_first_line(error)}"
            raise _BrokenError("refusal", text) from error
    except Exception as error:
        if isinstance(error, LookupError) and not isinstance(error, IndexError | KeyError):
            raise _NotOfferedError(str(error)) from error
        text = f"{type(error).__name__} where {case.raises.__name__} is right: {_first_line(error)}"
        raise _BrokenError("refusal", text) from error
    else:
        raise _BrokenError("refusal", f"no {case.raises.__name__}, but {result}")


def _first_line(error: Exception) -> str:
    first, _, rest = str(error).partition("\n")
    return f"{first} {_first_line(Exception(rest))}" if first.endswith(":") and rest else first


def _result_dtype(row: Row, problem: Problem, kind: str) -> str:
    if kind == "integer":
        return row.framework.default_integer
    return "float32" if kind == "carrier" and problem.dtype in HALVES else problem.dtype


def _keep_place(row: Row, result: Array, truth: Truth, problem: Problem, dtype: str) -> None:
    shape = truth.high.shape if problem.at is None or truth.high.ndim != problem.x.ndim else problem.x.shape
    if np.iscomplexobj(problem.x) and problem.options.get("return_sign"):
        dtype = ""
    if wrong := row.misplaced(result, shape, dtype):
        aspect, _, reason = wrong.partition(": ")
        raise _BrokenError(aspect, f"{aspect} {reason}")


def _at(result: FloatArray, problem: Problem) -> FloatArray:
    if problem.at is None or result.ndim != problem.x.ndim:
        return result
    assert isinstance(problem.axis, int)
    return np.take(result, list(problem.at), axis=problem.axis)


def _measured(computed: FloatArray, truth: Truth, dtype: str) -> dict[str, Any]:
    """The error where it is largest beside what is allowed there; a special value that is wrong is no error in ulp."""
    dtype = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    if not computed.size:
        return {}
    if dtype not in oracle.FORMATS:  # an integer, right or wrong
        if not np.array_equal(computed, truth.value):
            shown = {"computed": str(computed.tolist()), "truth": str(truth.value.tolist())}
            raise _BrokenError("special value", f"{shown['computed']} where {shown['truth']} is right", **shown)
        return {}
    error, allowed = oracle.ulp_error(computed, truth, dtype), oracle.budget(truth, dtype)
    stray = np.isnan(error)
    place = np.unravel_index(int(np.argmax(stray if stray.any() else error / allowed)), error.shape)
    shown = {"computed": repr(float(computed[place])), "truth": repr(float(truth.value[place]))}
    if stray.any():
        text = f"{shown['computed']} where {shown['truth']} is right"
        raise _BrokenError("special value", text, **shown)
    measured = {"error": float(error[place]), "allowed": float(allowed[place]), **shown}
    if not error[place] <= allowed[place]:
        text = (
            f"{shown['computed']} where {shown['truth']} is right: "
            f"{error[place]:.3g} ulp of at most {allowed[place]:.3g}"
        )
        raise _BrokenError("contract", text, **measured)
    return measured


@functools.lru_cache(maxsize=4096)
def _truths(function: str, case: Case, dtype: str, default_float: str) -> tuple[Truth, ...]:
    """One truth serves all backends."""
    return SUBJECTS[function].truth(case.problem(dtype, default_float))


@functools.lru_cache(maxsize=1024)
def _derivative(
    function: str, case: Case, dtype: str, default_float: str, what: What
) -> tuple[Truth, np.ndarray[Any, Any]]:
    """The truth of a derivative with respect to one row, and where the value is a number to differentiate towards."""
    subject = SUBJECTS[function]
    problem = case.problem(dtype, default_float)
    if derivative := written(subject, what):
        truth = derivative(problem)
    elif what == "hessian" and (gradient := subject.gradient):
        truth = differences.jacobian(lambda problem: (gradient(problem),), problem)
    else:
        truth = differences.jacobian(subject.truth, problem)
    value = _truths(function, case, dtype, default_float)[0].value
    finite = np.isfinite(value) if value.ndim else np.array(True)
    finite = finite.reshape(finite.shape + (1,) * (truth.high.ndim - finite.ndim))
    return truth, np.broadcast_to(finite, truth.high.shape)


def written(subject: Subject, what: What) -> Callable[[Problem], Truth] | None:
    """The truth of a derivative that the subject has."""
    return subject.gradient if what == "gradient" else subject.hessian if what == "hessian" else None


def differenced(subject: Subject, case: Case, row: Row, what: What) -> bool:
    """Whether the truth of a derivative can be had by differences: of a value, or of a gradient that is written."""
    if written(subject, what) or case.raises or subject.results or not applies(case, row):
        return False
    if what == "hessian":
        return differentiable(subject, case, row, "gradient")
    truths = _truths(subject.name, case, row.dtype, row.framework.default_float)
    return len(truths) == 1 and not np.isnan(truths[0].high).any()


def differentiable(subject: Subject, case: Case, row: Row, what: What, *, full: bool = False) -> bool:
    """Whether the derivative of a case is to be judged: where the framework differentiates and the value is no NaN.

    In halves in the full sweep only: they are computed in float32 anyway.
    """
    available = (
        (row.framework.jacobian, subject.gradient)
        if what == "gradient"
        else (
            row.framework.hessian,
            subject.hessian,
        )
    )
    if None in available or not case.derivatives or case.raises or case.options.keys() - set(subject.derived):
        return False
    if row.dtype in HALVES and not full:
        return False
    return not np.isnan(_truths(subject.name, case, row.dtype, row.framework.default_float)[0].high).any()


def applies(case: Case, row: Row) -> bool:
    """Whether a row has the dtypes that a case needs."""
    if case.dtypes and row.dtype not in case.dtypes:
        return False
    return all(row.framework.has(dtype) for dtype in case.needs())


# ---------------------------------------------------------------------------------------------------------------------
# Any implementation


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one implementation; its `str` is a summary with the failures, worst first."""

    name: str
    verdicts: tuple[Verdict, ...] = field(repr=False)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that are broken, the worst first."""
        broken = [verdict for verdict in self.verdicts if verdict.outcome == "broken"]
        return tuple(sorted(broken, key=lambda verdict: -(verdict.ratio or float("inf"))))

    @property
    def passed(self) -> bool:
        """Whether nothing is broken."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        counts = {
            outcome: sum(verdict.outcome == outcome for verdict in self.verdicts)
            for outcome in ("kept", "broken", "not offered")
        }
        lines = [f"{self.name}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())]
        lines += [f"  {verdict.id}: {verdict.aspect}: {verdict.reason}" for verdict in self.failures[:20]]
        if len(self.failures) > 20:
            lines.append(f"  and {len(self.failures) - 20:,} more in .failures")
        return "\n".join(lines)


def judge(
    function: str,
    implementation: Callable[..., Any],
    *,
    backend: str = "numpy",
    device: str = "",
    dtypes: Collection[str] = (),
    cases: str | Collection[str] = "*",
    options: Collection[str] | None = None,
    full: bool = False,
) -> Judgement:
    """Hold an implementation of one of anysoft's functions to anysoft's contract.

    Parameters
    ----------
    function : str
        Which function it implements, such as ``"softmax"``.
    implementation : callable
        Called as ``implementation(x, axis, **options)`` with arrays of `backend`; ``scipy.special.softmax``,
        ``torch.logsumexp`` or yours.
    backend, device : str
        Whose arrays it takes, and where they lie; the first device if left out.
    dtypes : collection of str
        Of the input; all that the backend has if left out.
    cases : str or collection of str
        Names of cases, with ``*`` for any part of one.
    options : collection of str, optional
        The options that it takes, such as ``where`` and ``temperature``; cases with others are not offered. Left out,
        they are read from its signature.
    full : bool
        Take the cases of the full sweep too, among them axes of 10⁷.

    Returns
    -------
    Judgement
        True where nothing is broken; ``print`` it to see what is.

    Raises
    ------
    LookupError
        If there is no such function, backend, device or case.

    Examples
    --------
    >>> import numpy as np
    >>> from anysoft_conformance.judgement import judge
    >>> def naive(x, axis):
    ...     return np.log(np.sum(np.exp(x), axis=axis))
    >>> verdict = judge("logsumexp", naive, dtypes=["float64"], cases=["huge"])
    >>> print(verdict)
    logsumexp by naive: 0 kept, 1 broken, 0 not offered
      logsumexp-huge-numpy-cpu-float64-call: special value: inf where 1000.6931471805599 is right (the naive formula \
overflows)
    """
    if function not in SUBJECTS:
        raise LookupError(f"there is no function {function!r}; there are {', '.join(SUBJECTS)}")
    subject = SUBJECTS[function]
    patterns = (cases,) if isinstance(cases, str) else tuple(cases)
    chosen = [
        case
        for case in subject.cases
        if (full or not case.full) and any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)
    ]
    if not chosen:
        raise LookupError(f"no case of {function} is named {' or '.join(patterns)}")
    rows = find((backend,), (device,) if device else (), tuple(dtypes))[0]
    rows = [row for row in rows if row.device == rows[0].device]
    known = {"axis"} | {name for case in subject.cases for name in case.options}
    taken = _options_of(implementation, known) if options is None else set(options)

    # the case's axis and arrays by position, because every library calls them differently
    def call(*arguments: Any, **given: Any) -> Any:
        if missing := given.keys() - taken:
            raise LookupError(f"it takes no {', '.join(sorted(missing))}")
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the verdict is about to say
            return implementation(*arguments, **given)

    kinds: tuple[What, ...] = ("value", "gradient", "hessian")
    verdicts = [
        judge_case(subject, case, row, call, what=what)
        for row in rows
        for case in chosen
        if applies(case, row)
        for what in kinds
        if what == "value" or differentiable(subject, case, row, what, full=full)
    ]
    name = getattr(implementation, "__name__", repr(implementation))
    return Judgement(f"{function} by {name}", tuple(verdicts))


def _options_of(implementation: Callable[..., Any], known: set[str]) -> set[str]:
    with contextlib.suppress(TypeError, ValueError):  # what is written in C may have no signature
        parameters = inspect.signature(implementation).parameters.values()
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return known
        return known & {parameter.name for parameter in parameters}
    return set()
