"""Losses straight from logits: the log-probability of labels, and the cross-entropies."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature
from anysoft._shift import shift_for, total
from anysoft.logsumexp import LOGSUMEXP
from anysoft.registry import Backend, Operation
from anysoft.softmax import LOG_SOFTMAX, log_probabilities, log_sums, rows_of

Array = Any

_REDUCTIONS = ("mean", "sum", "none")


def categorical_log_prob(
    logits: Array,
    labels: Array,
    /,
    axis: int = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Any:
    r"""The log-probability of labels under logits, x_y/T − log Σ exp(x/T), exact near zero.

    Parameters
    ----------
    logits : array
        Of any shape; booleans and integers become the default float before anything else.
    labels : array of integers
        Classes, from 0 on, along `axis` of the logits. Their shape broadcasts with that of the logits without `axis`:
        labels of shape (samples, batch) go with logits of shape (batch, classes).
    axis : int
        The classes.
    where, temperature, dtype
        As for `log_softmax`.

    Returns
    -------
    array
        The shapes of the labels, and of the logits and their options without `axis`, broadcast together; of the dtype
        of the logits.

    Notes
    -----
    It is ``log_softmax`` at the labels, without the log-probabilities of all the other classes.

    Special values: −inf for a class whose logit is −inf, or that `where` excludes; NaN where the whole row of
    `log_softmax` is. A label out of range is a `ValueError` where values can be looked at, and NaN where they cannot:
    under a trace (everywhere in JAX), and on a GPU.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For labels that are not integers, for an axis that is not one integer, and as for `log_softmax`.
    ValueError
        For a label out of range, for shapes that do not broadcast, and as for `log_softmax`.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    ``torch.distributions.Categorical.log_prob``, whose value broadcasts alike.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> logits = np.array([[0.0, -40.0], [1.0, 1.0]])
    >>> print(anysoft.categorical_log_prob(logits, [0, 1]))
    [-4.24835426e-18 -6.93147181e-01]
    >>> anysoft.categorical_log_prob(logits, [[0, 1], [1, 1], [0, 0]]).shape
    (3, 2)
    """
    return _call_categorical_log_prob(False, logits, labels, axis, where, _temperature_of_call(temperature), dtype)


def cross_entropy(
    logits: Array,
    targets: Array,
    /,
    axis: int = -1,
    *,
    weights: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
    return_logsumexp: bool = False,
) -> Any:
    r"""The cross-entropy of targets and logits, −Σ y log softmax(x), small where the prediction is good.

    With weights w, label smoothing ε, and K the number of classes of a sample, the loss of that sample is

        Σ_i w_i ((1 − ε) y_i + ε/K) (−log p_i) + z · (log Σ exp(x))²,    p = softmax(x),

    where y is 1 at the label and 0 elsewhere, or the target's probabilities.

    Parameters
    ----------
    logits : array
        Of any shape; booleans and integers become the default float before anything else.
    targets : array
        Labels: integers from 0 on, of the shape of the logits without `axis`. Or probabilities: floats of the shape of
        the logits, which are taken as they are, also where they do not add up to 1.
    axis : int
        The classes.
    weights : array, optional
        One for each class.
    label_smoothing : float
        ε, from 0 to 1: how much of each target is spread evenly over the classes.
    ignore_index : int, optional
        The label of samples that do not count: their loss is 0, and their logits are never looked at.
    z_loss : float
        z ≥ 0, the coefficient of the squared logsumexp.
    reduction : {"mean", "sum", "none"}
        Over the samples. The mean divides by the sum of the weights of the labels, or else by the number of samples
        that count; the z-loss always by the latter.
    return_logsumexp : bool
        Return log Σ exp(x) of each sample too.

    Returns
    -------
    array, or a tuple of two arrays with `return_logsumexp`
        The loss: a scalar, or with ``reduction="none"`` of the shape of the logits without `axis`. The logsumexp is of
        that shape always. Their dtype is ``result_type(logits, weights)``, with targets that are probabilities.

    Notes
    -----
    Special values: a class whose logit is −inf is not there. It has no part in the smoothing, which is spread over the
    K others, so that the loss is that of the row without it; a target of 0 and a weight of 0 take nothing of it
    (0 · ∞ = 0), and any other makes the loss +inf. A row of nothing but −inf, or with +inf or NaN in it, is NaN. The
    mean over no samples, whether there are none or all are ignored or of weight 0, is 0 with gradient 0; that of the
    z-loss too. A label out of range is a `ValueError` where values can be looked at, and makes the loss NaN where they
    cannot: under a trace (everywhere in JAX), and on a GPU. The logsumexp does not depend on the targets: it is that of
    the logits of ignored samples too.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, also where the loss is small:
    that of [20, 0] with label 0 is 2.06e-9 in float32, not 0. The gradient p − y keeps its digits where p is near y,
    to second order.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex logits, targets that are neither integers nor floats, an axis
        that is not one integer.
    ValueError
        For shapes that do not fit, a label out of range, label smoothing outside [0, 1], a negative z-loss, an unknown
        reduction, `ignore_index` with probabilities, no classes at all.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    ``torch.nn.functional.cross_entropy``, whose weights, smoothing and means these are; there −inf makes smoothing
    infinite, and a mean over nothing NaN (pytorch#75181). Szegedy et al., "Rethinking the Inception architecture", 2016
    (label smoothing). Chowdhery et al., "PaLM: scaling language modeling with pathways", 2022, section 5 (z-loss).

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> logits = np.array([[20.0, 0.0], [0.0, 1.0]])
    >>> print(anysoft.cross_entropy(logits, [0, 1], reduction="none"))
    [2.06115362e-09 3.13261688e-01]
    >>> print(anysoft.cross_entropy(logits, [-100, -100], ignore_index=-100))
    0.0
    >>> smooth = anysoft.cross_entropy([2.0, 0.0, -np.inf], 0, label_smoothing=0.1)
    >>> print(round(smooth, 12) == round(anysoft.cross_entropy([2.0, 0.0], [0.95, 0.05]), 12))
    True
    """
    return _call_cross_entropy(
        False,
        logits,
        targets,
        axis,
        weights,
        _number("label_smoothing", label_smoothing, 1.0),
        _label(ignore_index),
        _number("z_loss", z_loss),
        _reduction(reduction),
        return_logsumexp,
    )


def binary_cross_entropy(
    logits: Array,
    targets: Array,
    /,
    *,
    weights: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Any:
    r"""The cross-entropy of targets and logits of two outcomes, −y log σ(x) − (1 − y) log(1 − σ(x)), elementwise.

    With weights w and a weight b of the positive outcome the loss is

        w (b y log(1 + exp(−x)) + (1 − y) log(1 + exp(x))).

    Parameters
    ----------
    logits : array
        Of the positive outcome; of any shape. Booleans and integers become the default float.
    targets : array
        Its probability, from 0 to 1; booleans and integers too. It broadcasts with the logits, as the weights do.
    weights : float or array, optional
        Of each loss.
    pos_weight : float or array, optional
        Of the positive outcome.
    reduction : {"mean", "sum", "none"}
        The mean divides by the number of losses, whatever the weights.

    Returns
    -------
    array
        A scalar, or with ``reduction="none"`` of the common shape; dtype as ``result_type`` of the floating arguments.

    Notes
    -----
    Smoothed labels are targets too: ``targets * (1 - epsilon) + epsilon / 2``.

    Special values: an outcome of probability 0 or weight 0 takes nothing of an infinite loss (0 · ∞ = 0), so that +inf
    with target 1 is 0, and with any other +inf. NaN is never swallowed. The mean over nothing is 0.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too. No
    threshold, and no 1 − σ(x), however sure the prediction is.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, and for complex input.
    ValueError
        For shapes that do not broadcast, and for an unknown reduction.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.binary_cross_entropy([40.0, -40.0, 0.0], [1, 1, 0.5], reduction="none"))
    [4.24835426e-18 4.00000000e+01 6.93147181e-01]
    """
    return _call_binary_cross_entropy(False, logits, targets, weights, pos_weight, _reduction(reduction))


# ---------------------------------------------------------------------------------------------------------------------
# Options


def _temperature_of_call(temperature: Any) -> Any:
    return None if temperature.__class__ is float and temperature == 1.0 else checked_temperature(temperature)


def _number(name: str, value: Any, most: float = math.inf) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= value <= most or value == math.inf:
        raise ValueError(f"{name} must be at least 0 and {'finite' if most == math.inf else 'at most 1'}, not {value}")
    return float(value)


def _label(index: Any) -> int | None:
    try:
        return None if index is None else operator.index(index)
    except TypeError:
        raise TypeError(f"ignore_index must be an integer or None, not {index!r}") from None


def _reduction(reduction: Any) -> Any:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return reduction


def _check_temperature(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


def _check_reduction(given: dict[str, Any]) -> None:
    given["reduction"] = _reduction(given["reduction"])


def _check_cross_entropy(given: dict[str, Any]) -> None:
    given["label_smoothing"] = _number("label_smoothing", given["label_smoothing"], 1.0)
    given["ignore_index"] = _label(given["ignore_index"])
    given["z_loss"] = _number("z_loss", given["z_loss"])
    _check_reduction(given)


# ---------------------------------------------------------------------------------------------------------------------
# Classes and labels


def _one_axis(name: str, axis: Any) -> None:
    if axis is None or isinstance(axis, tuple | list):
        raise TypeError(f"axis must be an int, not {axis!r}: {name} has one axis of classes")


def _some_classes(name: str, n: Any) -> None:
    if n == 0:
        raise ValueError(f"{name} needs at least one class, not {n}")


class _Labels(NamedTuple):
    """Labels, with 0 in place of those that are none."""

    index: Array
    valid: Array
    ignored: Array | None


def _labels(backend: Backend, xp: Any, labels: Array, x: Array, n: Any, ignore_index: int | None) -> _Labels:
    """The labels from 0 to n − 1 of a call; any other is refused where values can be looked at."""
    if isinstance(labels, int) and not isinstance(labels, bool):
        labels = xp.asarray(labels, device=getattr(x, "device", None))
    if not hasattr(labels, "dtype") or not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"labels must be integers, not {getattr(labels, 'dtype', repr(labels))}")
    # the default integer, because 300 does not fit an int8 that it is compared with
    labels = xp.astype(xp.asarray(labels), arguments.default_integer(xp, x), copy=False)
    valid = (labels >= 0) & (labels < n)
    ignored = None if ignore_index is None else labels == ignore_index
    if backend.may_look(labels):
        wrong = ~valid if ignored is None else ~(valid | ignored)
        if bool(xp.any(wrong)):
            others = xp.where(wrong, labels, xp.zeros_like(labels))
            worst = int(xp.min(others)) or int(xp.max(others))
            raise ValueError(f"label {worst} is out of range: there are {n} classes")
    return _Labels(xp.where(valid, labels, xp.zeros_like(labels)), valid, ignored)


def _picked(backend: Backend, x: Array, index: Array, axis: int) -> Array:
    """The entries of `x` at an index of length one along `axis`, and of the shape of `x` elsewhere."""
    xp = backend.namespace(x)
    if hasattr(xp, "take_along_axis") and backend.gathers(x, axis):
        return xp.take_along_axis(x, index, axis=axis)
    places = xp.reshape(xp.arange(x.shape[axis], device=getattr(x, "device", None)), (-1, *(1,) * (x.ndim - 1 - axis)))
    return xp.sum(xp.where(places == index, x, xp.zeros_like(x)), axis=axis, keepdims=True)


class _Distribution(NamedTuple):
    """The log-probabilities of rows, where a fast path has them; or else what they are made of."""

    logarithms: Any  # or None, and then there are the other two
    rows: Any = None  # Rows
    sums: Any = None  # LogSums

    def log_p(self, backend: Backend, picked: Callable[[Array], Array]) -> Array:
        """Those of some entries; without the others, where they are not there yet."""
        if self.logarithms is not None:
            return picked(self.logarithms)
        value = log_probabilities(backend, self.rows, self.sums, picked(self.rows.x))
        xp = backend.namespace(value)
        return xp.where(self.rows.parts.dead, xp.full_like(value, xp.nan), value)


def _distribution(
    backend: Backend,
    x: Array,
    axis: int,
    temperature: Array | None = None,
    where: Array | None = None,
    maximum: Array | None = None,
) -> _Distribution:
    """Of rows that are −inf where masked."""
    logarithms = LOG_SOFTMAX.fast(backend, x, axis, where, temperature, None)
    if logarithms is not NotImplemented:
        return _Distribution(logarithms)
    rows = rows_of(backend, x, (axis,), temperature, maximum)
    return _Distribution(None, rows, log_sums(backend, rows, (axis,)))


def _categorical_log_prob(
    backend: Backend, x: Array, labels: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any
) -> Array:
    xp = backend.namespace(x)
    name = "categorical_log_prob"
    _one_axis(name, axis)
    prepared = arguments.prepared(xp, name, {"x": x}, axis, where=where, temperature=temperature, dtype=dtype)
    ((x,), (place,)) = prepared.arrays, prepared.axes
    n = x.shape[place]
    _some_classes(name, n)
    index, valid, _ = _labels(backend, xp, labels, x, n, None)
    distribution = _distribution(backend, x, place, prepared.temperature, prepared.where)

    batch = (*x.shape[:place], *x.shape[place + 1 :])
    shape = arguments.broadcast_shape(logits=batch, labels=index.shape)
    along = place + len(shape) - len(batch)  # among the axes of the result

    def at_labels(entries: Array) -> Array:
        entries = arguments.broadcast_to(xp, entries, (*shape[:along], n, *shape[along:]))
        return _picked(backend, entries, xp.expand_dims(arguments.broadcast_to(xp, index, shape), axis=along), along)

    value = distribution.log_p(backend, at_labels)
    if prepared.where is not None:
        kept = at_labels(arguments.broadcast_to(xp, xp.astype(prepared.where, x.dtype), x.shape))
        value = xp.where(kept != 0, value, xp.full_like(value, -xp.inf))
    value = arguments.without_axes(value, (along,))
    value = xp.where(valid, value, xp.full_like(value, xp.nan))
    return xp.astype(value, prepared.dtype, copy=False)


# ---------------------------------------------------------------------------------------------------------------------
# Cross-entropy


def _cross_entropy(
    backend: Backend,
    x: Array,
    targets: Array,
    axis: Any,
    weights: Array | None,
    label_smoothing: float,
    ignore_index: int | None,
    z_loss: float,
    reduction: str,
    return_logsumexp: bool,
) -> Any:
    xp = backend.namespace(x)
    if targets is None:
        raise TypeError("cross_entropy is of logits and targets")
    soft = _is_soft(xp, targets)
    if soft and ignore_index is not None:
        raise ValueError(f"ignore_index {ignore_index} is a label, but the targets are probabilities")
    if x.ndim == 0:
        x = xp.expand_dims(x, axis=0)
        targets = xp.reshape(arguments.as_array(xp, targets, x.dtype, x), (1,)) if soft else targets
    _one_axis("cross_entropy", axis)
    (place,) = arguments.canonical_axes(axis, x.ndim)
    shape = tuple(x.shape)
    _some_classes("cross_entropy", shape[place])
    arrays = {"x": x}
    if soft:
        _fits("targets", targets, shape, "probabilities have the same")
        arrays["targets"] = targets
    if weights is not None:
        _fits("weights", weights, shape[place : place + 1], "weights are of the classes")
        arrays["weights"] = xp.reshape(weights, (-1, *(1,) * (len(shape) - 1 - place)))
    prepared = arguments.prepared(xp, "cross_entropy", arrays, place)
    operands = dict(zip(arrays, prepared.arrays, strict=True))
    samples = _samples(backend, operands["x"], place)
    if soft:
        costs = _of_probabilities(backend, samples, operands["targets"], operands.get("weights"), label_smoothing)
    else:
        _fits("targets", targets, shape[:place] + shape[place + 1 :], "labels have none for the classes")
        labels = _labels(backend, xp, targets, x, shape[place], ignore_index)
        costs = _of_labels(backend, samples, labels, operands.get("weights"), label_smoothing)

    value = _reduced(backend, costs.cost, reduction, costs.share)
    lse: Any = _logsumexp(backend, samples) if z_loss != 0 or return_logsumexp else None
    if z_loss != 0:
        value = value + z_loss * _reduced(backend, lse * lse * costs.counted, reduction, costs.counted)
    value = arguments.without_axes(value, prepared.axes if reduction == "none" else tuple(range(len(shape))))
    value = xp.astype(value, prepared.dtype, copy=False)
    if not return_logsumexp:
        return value
    # a maximum of −inf has no derivative, one of +inf that of a maximum
    peak = xp.where(samples.peak == -xp.inf, xp.full_like(samples.peak, -xp.inf), samples.peak)
    lse = arguments.without_axes(xp.where(samples.sound, lse, peak), prepared.axes)
    return value, xp.astype(lse, prepared.dtype, copy=False)


class _Samples(NamedTuple):
    """Samples as rows. One whose maximum is not finite answers by itself, and has zeros instead of its logits."""

    x: Array
    axes: tuple[int, ...]
    distribution: _Distribution
    peak: Array
    sound: Array


def _samples(backend: Backend, x: Array, axis: int) -> _Samples:
    xp = backend.namespace(x)
    peak = xp.max(x, axis=axis, keepdims=True)
    sound = xp.isfinite(peak)
    maximum = peak
    if not (backend.may_look(sound) and bool(xp.all(sound))):
        x, maximum = (xp.where(sound, a, xp.zeros_like(a)) for a in (x, maximum))
    return _Samples(x, (axis,), _distribution(backend, x, axis, maximum=maximum), peak, sound)


class _Costs(NamedTuple):
    """Of each sample: Σ c (−log p), what it counts for in the mean of these, and 1 if it counts at all."""

    cost: Array
    share: Array
    counted: Array


def _of_probabilities(backend: Backend, samples: _Samples, y: Array, w: Array | None, label_smoothing: float) -> _Costs:
    xp = backend.namespace(y)
    if label_smoothing != 0:
        y = (1.0 - label_smoothing) * y + label_smoothing * _even(backend, samples)
    cost = _expected(backend, samples, y if w is None else w * y)
    one = xp.ones_like(cost)
    return _Costs(xp.where(samples.sound, cost, xp.full_like(cost, xp.nan)), one, one)


def _of_labels(backend: Backend, samples: _Samples, labels: _Labels, w: Array | None, label_smoothing: float) -> _Costs:
    xp, (place,) = backend.namespace(samples.x), samples.axes
    index, valid, ignored = (None if a is None else xp.expand_dims(a, axis=place) for a in labels)
    cost = 0.0 - samples.distribution.log_p(backend, lambda entries: _picked(backend, entries, index, place))
    counted = xp.ones_like(cost)
    share = counted if w is None else _picked(backend, w, index, place)
    cost = _times(backend, (1.0 - label_smoothing) * share, cost)
    if label_smoothing != 0:
        even = _even(backend, samples)
        cost = cost + label_smoothing * _expected(backend, samples, even if w is None else w * even)
    cost = xp.where(samples.sound & valid, cost, xp.full_like(cost, xp.nan))
    if ignored is None:
        return _Costs(cost, share, counted)
    return _Costs(*(xp.where(ignored, xp.zeros_like(a), a) for a in (cost, share, counted)))


def _expected(backend: Backend, samples: _Samples, c: Array) -> Array:
    """Σ c (−log p)."""
    x, axes, (logarithms, rows, sums) = samples.x, samples.axes, samples.distribution
    xp = backend.namespace(x)
    zero = xp.zeros_like(x)
    nothing = (c == 0) & (x == -xp.inf)
    if logarithms is not None:
        return total(backend, c * xp.where(nothing, zero, 0.0 - logarithms), axes)
    # −log p_i is (max − x_i) + log Σ exp(x − max), both at least 0; and so written no derivative sums over the classes
    largest = rows.parts.tied & rows.parts.dominated  # the origin: its own distance is no function of its logit
    distance = xp.where(largest | nothing, zero, rows.maximum - x)
    c = xp.where(nothing, zero, c)  # its derivative is not finite, and there is none
    others = total(backend, xp.where(largest, zero, c), axes)
    most = xp.sum(xp.where(largest, c, zero), axis=axes, keepdims=True)
    return total(backend, c * distance, axes) + sums.origin * others + (others + most) * sums.value


def _even(backend: Backend, samples: _Samples) -> Array:
    """1/K for each of the K classes that are there."""
    xp = backend.namespace(samples.x)
    there = xp.astype(samples.x > -xp.inf, samples.x.dtype)
    return there / total(backend, there, samples.axes)


def _logsumexp(backend: Backend, samples: _Samples) -> Array:
    xp, (logarithms, rows, sums) = backend.namespace(samples.x), samples.distribution
    if logarithms is not None:
        return LOGSUMEXP.call(True, samples.x, samples.axes[0], None, None, None, True, False)
    # as `logsumexp` has it, which is exact near 0; the derivative is that of max + log Σ exp(x − max)
    value = shift_for(xp, rows.maximum) + xp.log1p(rows.parts.r + (rows.parts.k - 1.0))
    slope = sums.origin + sums.value
    return backend.stop_gradient(value) + (slope - backend.stop_gradient(slope))


def _times(backend: Backend, c: Array, loss: Array) -> Array:
    """A coefficient of 0 takes nothing of an infinite loss, and has no derivative there, which would be infinite."""
    xp = backend.namespace(loss)
    endless = loss == xp.inf
    c = xp.where(endless, backend.stop_gradient(c), c)
    return c * xp.where((c == 0) & endless, xp.zeros_like(loss), loss)


def _reduced(backend: Backend, cost: Array, reduction: str, share: Array) -> Array:
    """The costs, their sum, or that by the sum of the shares; over nothing, 0."""
    if reduction == "none":
        return cost
    xp, axes = backend.namespace(cost), tuple(range(cost.ndim))
    value = total(backend, cost, axes)
    if reduction == "sum":
        return value
    whole = total(backend, share, axes)
    return value / xp.where(whole == 0, xp.ones_like(whole), whole)


def _is_soft(xp: Any, targets: Any) -> bool:
    """Whether targets are probabilities, and not labels."""
    if isinstance(targets, int | float) and not isinstance(targets, bool):
        return isinstance(targets, float)
    if hasattr(targets, "dtype") and xp.isdtype(targets.dtype, ("integral", "real floating")):
        return bool(xp.isdtype(targets.dtype, "real floating"))
    kind = getattr(targets, "dtype", repr(targets))
    raise TypeError(f"targets must be labels, which are integers, or probabilities, which are floats; not {kind}")


def _fits(name: str, a: Any, shape: tuple[Any, ...], why: str) -> None:
    found = tuple(getattr(a, "shape", ()))
    if found != shape:
        raise ValueError(f"{name} of shape {found} where {shape} is right, beside these logits: {why}")


# ---------------------------------------------------------------------------------------------------------------------
# Of two outcomes


def _binary_cross_entropy(
    backend: Backend, x: Array, targets: Array, weights: Array | None, pos_weight: Array | None, reduction: str
) -> Array:
    xp = backend.namespace(x)
    if targets is None:
        raise TypeError("binary_cross_entropy is of logits and targets")
    given = {"x": x, "targets": targets, "weights": weights, "pos_weight": pos_weight}
    given = {name: a for name, a in given.items() if a is not None}
    prepared = arguments.prepared(xp, "binary_cross_entropy", given, ())
    operands = dict(zip(given, prepared.arrays, strict=True))
    x, y = operands["x"], operands["targets"]
    yes = y if pos_weight is None else operands["pos_weight"] * y
    no = 1.0 - y
    # log(1 + exp(±x)) is the part of ±x that is positive, and what both have in common
    positive = x > 0
    size = xp.where(positive, x, -x)  # xp.abs has no derivative at 0
    loss = _times(backend, xp.where(positive, no, yes), size) + (yes + no) * xp.log1p(xp.exp(-size))
    loss = loss if weights is None else _times(backend, operands["weights"], loss)
    loss = arguments.without_axes(loss, prepared.axes)
    value = _reduced(backend, loss, reduction, xp.ones_like(loss))
    value = value if reduction == "none" else arguments.without_axes(value, tuple(range(value.ndim)))
    return xp.astype(value, prepared.dtype, copy=False)


_call_categorical_log_prob = Operation(
    "categorical_log_prob",
    _categorical_log_prob,
    {"labels": None, "axis": -1, "where": None, "temperature": 1.0, "dtype": None},
    ("labels", "where", "temperature"),
    _check_temperature,
).call
_call_cross_entropy = Operation(
    "cross_entropy",
    _cross_entropy,
    {
        "targets": None,
        "axis": -1,
        "weights": None,
        "label_smoothing": 0.0,
        "ignore_index": None,
        "z_loss": 0.0,
        "reduction": "mean",
        "return_logsumexp": False,
    },
    ("targets", "weights"),
    _check_cross_entropy,
).call
_call_binary_cross_entropy = Operation(
    "binary_cross_entropy",
    _binary_cross_entropy,
    {"targets": None, "weights": None, "pos_weight": None, "reduction": "mean"},
    ("targets", "weights", "pos_weight"),
    _check_reduction,
).call
