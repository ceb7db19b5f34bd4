"""Losses from logits: their truths, of one sample after the other, and their cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import truths
from anysoft_conformance.corpus import FLOATS, LOGITS, MASKS, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import FloatArray, Truth
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem

INF, NAN = math.inf, math.nan
BITS = 2600  # exp(−745) keeps its digits in the difference that makes a condition
STEP = 500  # 2^−STEP is how far an argument is moved for one

# An array of numbers of mpmath, and a function of all floating arguments of a call
Numbers = np.ndarray[Any, Any]
OfAll = Callable[[list[Numbers]], Numbers]


def exactly(values: Any) -> Numbers:
    """Numbers of mpmath, in the shape of the values."""
    array = np.asarray(values, dtype=np.float64)
    return _shaped([mpmath.mpf(value) for value in array.reshape(-1).tolist()], array.shape)


def _shaped(numbers: list[Any], shape: tuple[int, ...]) -> Numbers:
    whole: Numbers = np.empty(len(numbers), dtype=object)
    whole[:] = numbers
    return whole.reshape(shape)


def judged(function: OfAll, given: list[FloatArray]) -> Truth:
    """The truth of a function, with Σ |∂f/∂a|·|a| over all numbers a among its arguments, by differences."""
    with mpmath.workprec(BITS):
        all_arguments = [exactly(array) for array in given]
        value = function(all_arguments)
        condition = np.zeros(value.shape)
        step = mpmath.ldexp(1, -STEP)
        for place, array in enumerate(all_arguments):
            for index in np.ndindex(array.shape):
                size = array[index]
                if size == 0 or not mpmath.isfinite(size):
                    continue
                ends = []
                for sign in (1, -1):
                    moved = array.copy()
                    moved[index] = size + sign * step
                    ends.append(function([*all_arguments[:place], moved, *all_arguments[place + 1 :]]))
                slopes = [
                    float(abs((high - low) / (2 * step) * size)) if mpmath.isfinite(high - low) else 0.0
                    for high, low in zip(*(end.reshape(-1) for end in ends), strict=True)
                ]
                condition += np.reshape(slopes, value.shape)
        return of_mpmath(list(value.reshape(-1)), list(condition.reshape(-1))).map(
            lambda part: part.reshape(value.shape)
        )


# ---------------------------------------------------------------------------------------------------------------------
# Cross-entropy


class _CrossEntropy:
    """A problem as samples: (x, targets or labels, weights) and what the options say of them."""

    def __init__(self, problem: Problem) -> None:
        options = problem.options
        x, targets = (np.asarray(array) for array in problem.arrays)
        assert isinstance(problem.axis, int)
        x = np.moveaxis(x.astype(np.float64), problem.axis, -1)
        self.batch, self.n, self.axis = x.shape[:-1], x.shape[-1], problem.axis
        self.soft = targets.dtype.kind == "f" and targets.ndim == x.ndim
        self.given = [x.reshape(-1, self.n)]
        if self.soft:
            self.given.append(np.moveaxis(targets, problem.axis, -1).reshape(-1, self.n))
        else:
            self.labels = targets.astype(int).reshape(-1)
        if (weights := options.get("weights")) is not None:
            self.given.append(np.asarray(weights, dtype=np.float64))
        self.weighted = weights is not None
        ignored = options.get("ignore_index")
        self.kept = np.ones(len(self.given[0]), bool) if ignored is None else self.labels != int(ignored)
        self.smoothing = options.get("label_smoothing", 0.0)
        self.z = options.get("z_loss", 0.0)
        self.reduction = options.get("reduction", "mean")

    def coefficients(self, arrays: list[Numbers], row: int) -> Numbers:
        """w_i y_i of one sample, smoothed over the classes that are there."""
        x = arrays[0][row]
        y = arrays[1][row] if self.soft else exactly(np.arange(self.n) == self.labels[row])
        there = [bool(v > -mpmath.inf) for v in x]
        e = mpmath.mpf(self.smoothing)
        y = np.array([(1 - e) * t + (e / max(sum(there), 1) if k else 0) for t, k in zip(y, there, strict=True)])
        return y * arrays[-1] if self.weighted else y

    def sample(self, arrays: list[Numbers], row: int, order: int) -> tuple[Any, Any, Any]:
        """One sample's Σ c (−log p), its lse² times z, and the logsumexp; or the derivatives of the first two."""
        x, c = arrays[0][row], self.coefficients(arrays, row)
        n, nothing = self.n, np.array([mpmath.mpf(0)] * self.n)
        top = float("nan") if any(mpmath.isnan(v) for v in x) else max(x)
        if not mpmath.isfinite(top):
            assert order == 0 or not self.kept[row]
            return mpmath.nan, mpmath.nan, mpmath.mpf(top)
        e = np.array([mpmath.exp(v - top) if mpmath.isfinite(v) else mpmath.mpf(0) for v in x])
        lse, p = top + mpmath.log(sum(e)), e / sum(e)
        if order == 0:
            terms = [w * (lse - v) if w else mpmath.mpf(0) for v, w in zip(x, c, strict=True)]
            return mpmath.fsum(terms), self.z * lse**2, lse
        # of 1 − p_i the sum of the others, which the precision takes care of
        first = 2 * self.z * lse * p
        if order == 1:
            return sum(c) * p - c, first, nothing
        both = np.multiply.outer(p, p)
        covariance = np.diag(p) + np.multiply.outer(nothing, nothing) - both
        return sum(c) * covariance, 2 * self.z * (both + lse * covariance), np.zeros((n, n))

    def function(self, arrays: list[Numbers], order: int = 0) -> Numbers:
        rows = range(len(self.kept))
        counted = sum(self.kept) or 1
        if self.soft or not self.weighted:
            whole = mpmath.mpf(int(counted))
        else:
            whole = mpmath.fsum([arrays[-1][self.labels[row]] for row in rows if self.kept[row]]) or mpmath.mpf(1)
        if self.reduction != "mean":
            whole, counted = mpmath.mpf(1), 1
        zero = mpmath.mpf(0)
        found = []
        for row in rows:
            cost, square, _ = self.sample(arrays, row, order) if self.kept[row] else (zero, zero, zero)
            found.append(cost / whole + square / counted)
        if order == 0 and self.reduction == "none":
            return _shaped(found, self.batch)
        if order == 0:
            return _shaped([mpmath.fsum(found)], ())
        # of a sum, or of one sample: the derivative with respect to each logit
        shape = (*self.batch, self.n)
        whole_of = np.full((len(rows), self.n) * order, zero, dtype=object)
        for row in rows:
            if self.kept[row]:
                whole_of[(row, slice(None)) * order] = found[row]
        whole_of = whole_of.reshape(shape * order)
        axes = [len(shape) * i + len(shape) - 1 for i in range(order)]
        return np.moveaxis(whole_of, axes, [len(shape) * i + self.axis % len(shape) for i in range(order)])

    def logsumexp(self, arrays: list[Numbers]) -> Numbers:
        found = [self.sample(arrays, row, 0)[2] for row in range(len(self.kept))]
        return _shaped(found, self.batch)


def cross_entropy(problem: Problem) -> tuple[Truth, ...]:
    """The loss, and with `return_logsumexp` each sample's logsumexp."""
    loss = _CrossEntropy(problem)
    value = judged(loss.function, loss.given)
    if not problem.options.get("return_logsumexp"):
        return (value,)
    return value, judged(loss.logsumexp, loss.given)


def gradient_of_cross_entropy(problem: Problem) -> Truth:
    """Σc·p − c and 2z·lse·p."""
    loss = _CrossEntropy(problem)
    return judged(lambda arrays: loss.function(arrays, 1), loss.given)


def hessian_of_cross_entropy(problem: Problem) -> Truth:
    """Σc times the covariance of softmax, and that of the z-loss."""
    loss = _CrossEntropy(problem)
    return judged(lambda arrays: loss.function(arrays, 2), loss.given)


def _case(name: str, x: Any, targets: Any, why: str, **more: Any) -> Case:
    options = more.pop("options", {})
    return Case(name, x, why, ("cross_entropy",), others=(targets,), options=options, **more)


def _labels(*labels: Any) -> Typed:
    return Typed("int64", labels)


def _label(label: int) -> Typed:
    return Typed("int64", label)


_TWO = ((0.5, -1.25, 2.0), (3.0, 2.5, -4.0))
_SURE = ((20.0, 0.0, 1.0), (-30.0, 0.0, -31.0))
_ABSENT = ((0.5, -INF, 2.0), (-INF, 0.0, -40.0))
_W = (0.5, 2.0, 1.25)
_IGNORED = {"ignore_index": Typed("int64", -100)}

# JAX compiles for each shape, each set of options and, if there are any, each derivative
CROSS_ENTROPY = (
    # labels: one shape, and few others
    _case("confident", (20.0, 0.0), _label(0), "2.06e-9 (tensorflow#62400), where natives have 0"),
    _case("confident_wrong", (20.0, 0.0), _label(1), "the loss is large, and so is its gradient"),
    _case("confident_by_far", (0.0, -40.0), _label(0), "log(1 + 4e-18); p − y is as small, and so is p (1 − p)"),
    _case("tied", (2e7, 2e7), _label(1), "log 2; x − logsumexp(x) is 0 in float32"),
    _case("huge", (1000.0, -1000.0), _label(1), "exp overflows"),
    _case("largest", ("max", "-max"), _label(0), "so does the difference"),
    _case("near_half", (0.0, 0.001), _label(0), "no entry holds much more than the other"),
    _case("absent", (0.5, -INF), _label(0), "a logit of −inf is no class"),
    _case("absent_target", (0.5, -INF), _label(1), "+inf, with the gradient of its limit"),
    _case("dead", (-INF, -INF), _label(0), "no distribution", derivatives=False),
    _case("infinite", (INF, 1.0), _label(0), "nor this", derivatives=False),
    _case("not_a_number", (NAN, 1.0), _label(1), "NaN is never swallowed", derivatives=False),
    _case("rows", _TWO, _labels(2, 0), "the mean over samples"),
    _case("rows_sure", _SURE, _labels(0, 1), "of small losses"),
    _case("rows_each", _TWO, _labels(2, 0), "each", options={"reduction": "none"}, derivatives=False),
    _case("columns", _TWO, _labels(1, 1, 0), "classes along axis 0", axis=0, derivatives=False, dtypes=("float32",)),
    _case("uint8", _TWO, Typed("uint8", (2, 0)), "labels of any integer dtype", dtypes=("float32",),
          derivatives=False),
    _case("integers", Typed("int8", (127, -128)), _label(0), "logits that would wrap", dtypes=("float32",),
          derivatives=False),
    # ignored samples
    _case("ignored", ((NAN, INF, 2.0), (3.0, 2.5, -4.0)), _labels(-100, 0), "are never looked at", options=_IGNORED,
          dtypes=("float32",)),
    _case("ignored_all", _TWO, _labels(-100, -100), "0 with gradient 0 (pytorch#75181)", options=_IGNORED,
          dtypes=("float64",), derivatives=False),
    _case("ignored_with_logsumexp", ((INF, 1.0, 2.0), (-INF, -INF, -INF)), _labels(1, 1),
          why="the logsumexp is that of their logits too",
          options={"ignore_index": Typed("int64", 1), "reduction": "sum", "return_logsumexp": True},
          dtypes=("float64",)),
    _case("with_logsumexp", ((-0.1053605, -2.302585, -50.0), (20.0, 0.0, 1.0)), _labels(0, 0),
          "of each sample, exact near 0", options={"reduction": "none", "return_logsumexp": True}, dtypes=FLOATS),
    # weights, smoothing, z-loss
    _case("weights", _TWO, _labels(2, 0), "the mean divides by those of the labels", options={"weights": _W},
          derivatives=False, dtypes=FLOATS),
    _case("weights_of_0", ((20.0, 0.0, -INF), (0.0, 1.0, 2.0)), _labels(2, 1), "0 · ∞ is 0",
          options={"weights": (0.5, 2.0, 0.0)}, derivatives=False, dtypes=("float64",)),
    _case("smoothed", _SURE, _labels(0, 1), "a tenth of the target is spread", options={"label_smoothing": 0.125},
          derivatives=False, dtypes=("float32",)),
    _case("smoothed_absent", _ABSENT, _labels(0, 1), "over the classes that are there: finite (torch: inf)",
          options={"label_smoothing": 0.125, "weights": _W}, dtypes=("float64",)),
    _case("z_loss", ((-0.1053605, -2.302585, -50.0), (20.0, 0.0, 1.0)), _labels(0, 0),
          "beside small losses, and of a logsumexp near 0", options={"z_loss": 0.25}, dtypes=("float32",)),
    _case("z_loss_weights", _TWO, _labels(2, 0), "whose mean is over the samples that count",
          options={"z_loss": 0.25, "weights": _W, "ignore_index": Typed("int64", 2)}, derivatives=False,
          dtypes=("float64",)),
    # probabilities
    _case("soft", _TWO, ((0.5, 0.25, 0.25), (0.125, 0.875, 0.0)), "targets that are a distribution"),
    _case("soft_sure", _SURE, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), "or certain: p − y is small"),
    _case("soft_absent", _ABSENT, ((0.5, 0.0, 0.5), (0.0, 1.0, 0.0)), "0 · log 0 is 0 (optax#896)"),
    _case("soft_mismatch", _ABSENT, ((0.5, 0.25, 0.25), (0.0, 1.0, 0.0)), "+inf", dtypes=("float64",)),
    _case("soft_not_a_number", _TWO, ((NAN, 0.0, 1.0), (1.0, 0.0, 0.0)), "in the targets", derivatives=False,
          dtypes=("float64",)),
    _case("soft_smoothed_weights", _ABSENT, ((0.5, 0.0, 0.5), (0.0, 1.0, 0.0)), "all of it",
          options={"label_smoothing": 0.125, "weights": _W, "reduction": "sum"}, dtypes=("float32",)),
    # refused
    *(
        _case(f"refuses_{name}", _TWO, targets, why, raises=error, match=match, dtypes=("float32",),
              derivatives=False, **more)
        for name, targets, why, error, match, more in (
            ("fewer_labels", _labels(1), "no broadcasting: a loss of the wrong pairs is no loss", ValueError,
             "(1,)", {}),
            ("boolean_labels", Typed("bool", (True, False)), "labels or a mask?", TypeError, "bool", {}),
            ("smoothing", _labels(1, 0), "more than all of it", ValueError, "1.5",
             {"options": {"label_smoothing": 1.5}}),
            ("reduction", _labels(1, 0), "no reduction", ValueError, "'average'",
             {"options": {"reduction": "average"}}),
            ("weights", _labels(1, 0), "weights of other classes", ValueError, "(2,)",
             {"options": {"weights": (1.0, 2.0)}}),
            ("axis", _labels(1, 0), "an axis out of range", IndexError, "2", {"axis": 2}),
        )
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The log-probability of labels


def categorical_log_prob(problem: Problem) -> tuple[Truth, ...]:
    """log_softmax at the labels."""
    assert isinstance(problem.axis, int)
    x, labels = problem.arrays
    (whole,) = truths.log_softmax(replace(problem, arrays=(x,)))
    axis = problem.axis % whole.high.ndim
    shape = np.broadcast_shapes(labels.shape, tuple(np.delete(np.array(whole.high.shape), axis).tolist()))
    axis += len(shape) + 1 - whole.high.ndim
    index = np.expand_dims(np.broadcast_to(labels.astype(int), shape), axis)

    def at_labels(part: Any) -> Any:
        part = np.broadcast_to(part, (*shape[:axis], part.shape[axis - len(shape) - 1], *shape[axis:]))
        return np.take_along_axis(part, index, axis).reshape(shape)

    return (whole.map(at_labels),)


def gradient_of_categorical_log_prob(problem: Problem) -> Truth:
    """A row of the Jacobian of log_softmax."""
    x, label = problem.arrays
    whole = truths.jacobian_of_log_softmax(replace(problem, arrays=(x,)))
    return whole.map(lambda part: part[int(label)])


def hessian_of_categorical_log_prob(problem: Problem) -> Truth:
    """Minus the covariance of softmax, whatever the label."""
    whole = truths.jacobian_of_softmax(replace(problem, arrays=problem.arrays[:1]))
    return replace(whole, high=-whole.high, low=-whole.low)


def _log_prob(case: Case, label: int) -> Case:
    return replace(case, on=("categorical_log_prob",), others=(_label(label),))


_CHOSEN = ("dominated", "dominated_float32", "ties_past_unit_spacing", "opposite", "some_absent", "absent_but_one",
           "dead", "infinite", "not_a_number", "moderate")  # fmt: skip
_BY_NAME = {case.name: case for case in (*LOGITS, *MASKS)}
LOG_PROB = (
    *(_log_prob(_BY_NAME[name], 0) for name in _CHOSEN),
    *(replace(_log_prob(_BY_NAME[name], 1), name=f"{name}_other") for name in ("dominated", "some_absent")),
    replace(_log_prob(_BY_NAME["masked_dominated"], 0), dtypes=FLOATS),
    replace(_log_prob(_BY_NAME["masked_dominated"], 2), name="masked_label", derivatives=False, dtypes=("float32",)),
    replace(_log_prob(_BY_NAME["masked_out"], 1), dtypes=("float64",)),
    Case("broadcast", ((0.5, -1.25, 2.0), (3.0, 2.5, -4.0)), "labels of more samples than there are logits",
         ("categorical_log_prob",), others=(_labels((0, 1), (2, 2), (1, 0)),), derivatives=False),
    Case("columns", ((0.5, -1.25, 2.0), (3.0, 2.5, -4.0)), "classes along axis 0", ("categorical_log_prob",), axis=0,
         others=(_labels(0, 1, 1),), options={"temperature": 0.5}, derivatives=False, dtypes=("float64",)),
    Case("refuses_fractions", (1.0, 2.0), "labels are integers", ("categorical_log_prob",), others=(0.5,),
         raises=TypeError, match="float", dtypes=("float32",)),
    Case("refuses_axes", ((1.0, 2.0),), "one axis of classes", ("categorical_log_prob",), axis=(0, 1),
         others=(_label(0),), raises=TypeError, match="(0, 1)", dtypes=("float32",)),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Of two outcomes


class _Binary:
    def __init__(self, problem: Problem) -> None:
        options = {name: problem.options.get(name) for name in ("weights", "pos_weight")}
        self.names = ["x", "y", *(name for name, value in options.items() if value is not None)]
        given = [*problem.arrays, *(value for value in options.values() if value is not None)]
        self.given = [np.asarray(array, dtype=np.float64) for array in given]
        self.shape = np.broadcast_shapes(*(array.shape for array in self.given))
        self.reduction = problem.options.get("reduction", "mean")

    def each(self, arrays: list[Numbers], order: int) -> list[Any]:
        columns = [np.broadcast_to(array, self.shape).reshape(-1) for array in arrays]
        return [self.one(dict(zip(self.names, row, strict=True)), order) for row in zip(*columns, strict=True)]

    def one(self, of: dict[str, Any], order: int) -> Any:
        x, y, w, b = of["x"], of["y"], of.get("weights", 1), of.get("pos_weight", 1)
        if any(mpmath.isnan(value) for value in of.values()):
            return mpmath.nan
        zero, one = mpmath.mpf(0), mpmath.mpf(1)
        q, p = 1 / (1 + mpmath.exp(x)) if x < INF else zero, 1 / (1 + mpmath.exp(-x)) if x > -INF else zero
        if order == 1:
            return w * ((1 - y) * p - b * y * q)
        if order == 2:
            return w * ((1 - y) + b * y) * p * q
        losses = ((w * b * y, max(-x, zero)), (w * (1 - y), max(x, zero)))
        common = mpmath.log1p(mpmath.exp(-abs(x))) if mpmath.isfinite(x) else zero
        return mpmath.fsum([c * (size + common * one) for c, size in losses if c])

    def function(self, arrays: list[Numbers], order: int = 0) -> Numbers:
        found = self.each(arrays, order)
        if order == 0 and self.reduction == "none":
            return _shaped(found, self.shape)
        whole = max(len(found), 1) if self.reduction == "mean" else 1
        if order == 0:
            return _shaped([mpmath.fsum(found) / whole], ())
        assert arrays[0].shape == self.shape
        n = len(found)
        derivative = np.full((n,) * order, mpmath.mpf(0), dtype=object)
        for i, each in enumerate(found):
            derivative[(i,) * order] = each / whole
        return derivative.reshape(self.shape * order)


def binary_cross_entropy(problem: Problem) -> tuple[Truth, ...]:
    """w (b y log(1 + exp(−x)) + (1 − y) log(1 + exp(x))), reduced."""
    loss = _Binary(problem)
    return (judged(loss.function, loss.given),)


def gradient_of_binary_cross_entropy(problem: Problem) -> Truth:
    """w ((1 − y) σ(x) − b y σ(−x))."""
    loss = _Binary(problem)
    return judged(lambda arrays: loss.function(arrays, 1), loss.given)


def hessian_of_binary_cross_entropy(problem: Problem) -> Truth:
    """w (1 − y + b y) σ(x) σ(−x), on the diagonal."""
    loss = _Binary(problem)
    return judged(lambda arrays: loss.function(arrays, 2), loss.given)


def _binary(name: str, x: Any, y: Any, why: str, **more: Any) -> Case:
    return Case(name, x, why, ("binary_cross_entropy",), others=(y,), **more)


_FOUR = (-1.5, 0.25, 3.0, -0.5)
BINARY = (
    _binary("moderate", _FOUR, (0.25, 1.0, 0.0, 0.5), "nothing special"),
    _binary("sure", (20.0, -30.0, 40.0, -80.0), (1.0, 0.0, 1.0, 0.0), "log(1 + exp(−40)) is not 0"),
    _binary("sure_each", (20.0, -30.0, 40.0, -80.0), (1.0, 0.0, 1.0, 0.0), "each of them",
            options={"reduction": "none"}, derivatives=False),
    _binary("wrong", (20.0, -30.0, 1000.0, "-max"), (0.0, 1.0, 0.0, 0.0), "exp overflows"),
    _binary("ties", (0.0, 0.0, 1e-8, 0.0), (1.0, 0.0, 0.5, 0.5), "log 2, and a gradient of ±½ or 0"),
    _binary("nearly_sure", (7.0, -7.0, 17.0, 0.0), (0.9990234375, 0.0009765625, 1.0, 0.25), "p is near y"),
    _binary("infinite", (INF, -INF, 1.0, 0.0), (1.0, 0.0, 1.0, 0.0), "0 · ∞ is 0"),
    _binary("infinite_wrong", (INF, -INF, INF, 0.0), (0.0, 1.0, 0.5, 1.0), "and anything else ∞",
            options={"reduction": "none"}, derivatives=False),
    _binary("not_a_number", (NAN, 0.0, INF, 1.0), (1.0, NAN, NAN, 0.0), "NaN is never swallowed",
            options={"reduction": "none"}, derivatives=False),
    _binary("weights", _FOUR, (0.25, 1.0, 0.0, 0.5), "of each, and of the positive outcome", dtypes=("float64",),
            options={"weights": (1.0, 0.5, 2.0, 0.0), "pos_weight": (3.0,), "reduction": "sum"}),
    _binary("booleans", _FOUR, Typed("bool", (True, False, False, True)), "targets that are outcomes",
            derivatives=False, dtypes=("float32",)),
    _binary("broadcast", ((0.5, 2.0), (-1.0, 0.25)), (1.0, 0.0), "one target a column", derivatives=False,
            dtypes=("float32",)),
    _binary("point", 0.5, 1.0, "a 0-d array", derivatives=False, dtypes=("float32",)),
    _binary("empty", (), (), "the mean over nothing is 0", derivatives=False, dtypes=("float64",)),
    _binary("refuses_shape", _FOUR, (1.0, 0.0), "targets that do not broadcast", raises=ValueError, match="(2,)",
            dtypes=("float32",)),
)  # fmt: skip


SUBJECTS = (
    Subject(
        "categorical_log_prob",
        categorical_log_prob,
        LOG_PROB,
        gradient_of_categorical_log_prob,
        hessian_of_categorical_log_prob,
    ),
    Subject(
        "cross_entropy",
        cross_entropy,
        CROSS_ENTROPY,
        gradient_of_cross_entropy,
        hessian_of_cross_entropy,
        derived=("weights", "label_smoothing", "ignore_index", "z_loss", "reduction"),
    ),
    Subject(
        "binary_cross_entropy",
        binary_cross_entropy,
        BINARY,
        gradient_of_binary_cross_entropy,
        hessian_of_binary_cross_entropy,
        derived=("weights", "pos_weight", "reduction"),
        along=False,
    ),
)
