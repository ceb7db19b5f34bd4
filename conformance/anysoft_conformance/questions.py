"""What `anysoft compare` asks each function of an array of logits: what its arguments are, made of the logits alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import anysoft
from anysoft_conformance.oracle import FloatArray, Truth
from anysoft_conformance.subjects import SUBJECTS
from anysoft_conformance.truths import Problem

Arrays = tuple[np.ndarray[Any, Any], ...]


@dataclass(frozen=True)
class Question:
    """A function's arguments, made of rows of logits, (lines, length); `asked` says in words which they are.

    `most` is how many lines it is asked of, if not all, and `shared` how many of its arrays, the last ones, belong to
    every line alike.
    """

    function: str
    asked: str
    arguments: Callable[[FloatArray], Arrays]
    options: Callable[[FloatArray], Mapping[str, Any]] | Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None
    shared: int = 0

    @property
    def along(self) -> tuple[int, ...]:
        """The axis, where the function takes one after its arrays."""
        return (-1,) if SUBJECTS[self.function].along is True else ()

    def given(self, lines: FloatArray) -> dict[str, Any]:
        """All options, with the axis where the function takes it by name."""
        options = self.options(lines) if callable(self.options) else self.options
        return {**options, **({"axis": -1} if SUBJECTS[self.function].along == "named" else {})}

    def truth(self, arrays: Arrays, options: Mapping[str, Any], lines: np.ndarray[Any, Any], dtype: str) -> Truth:
        """What is right for some of the lines; of several results, the first."""
        own = len(arrays) - self.shared
        found = []
        for line in lines.tolist():  # one by one: a truth may ask each entry what it is to every result
            chosen = (*(array[[line]] for array in arrays[:own]), *arrays[own:])
            given = {name: one[[line]] if isinstance(one, np.ndarray) else one for name, one in options.items()}
            found.append(SUBJECTS[self.function].truth(Problem(chosen, -1, given, dtype))[0])
        parts = ((one.high, one.low, one.exponent, one.condition) for one in found)
        return Truth(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _alone(lines: FloatArray) -> Arrays:
    return (lines,)


def _beside_the_next(lines: FloatArray) -> Arrays:
    return lines, np.roll(lines, -1, axis=0)


def _upper_and_lower(lines: FloatArray) -> Arrays:
    beside = np.roll(lines, -1, axis=0)
    return np.maximum(lines, beside), np.minimum(lines, beside)


def _labelled(lines: FloatArray) -> Arrays:
    return lines, np.argmax(lines, axis=-1)


def _signed(lines: FloatArray) -> Arrays:
    return lines, np.where(lines > 0, 1.0, 0.0)


def _probabilities(lines: FloatArray) -> Arrays:
    return (anysoft.sigmoid(lines),)


def _energies(lines: FloatArray) -> Arrays:
    return (-lines,)


def _thrice(lines: FloatArray) -> Arrays:
    return lines, lines, lines


def _noise(lines: FloatArray) -> dict[str, Any]:
    return {"noise": anysoft.gumbel(lines.shape, rng=0)}


_BOLTZMANN = ("boltzmann", "log_partition", "free_energy", "mean_energy", "gibbs_entropy", "heat_capacity")
_EACH: tuple[tuple[Any, ...], ...] = (
    ("softmin", "of each row", _alone),
    ("logmeanexp", "of each row", _alone),
    ("logcumsumexp", "of each row", _alone),
    ("logaddexp", "of each logit and the same place of the next row", _beside_the_next),
    ("logsubexp", "of the same, the larger first", _upper_and_lower),
    ("log1mexp", "of −|x|", lambda lines: (-np.abs(lines),)),
    ("log1pexp", "of each logit", _alone),
    ("logexpm1", "of |x|", lambda lines: (np.abs(lines),)),
    ("sigmoid", "of each logit", _alone),
    ("log_sigmoid", "of each logit", _alone),
    ("logit", "of each logit's sigmoid", _probabilities),
    *((name, "of −x as energies, at temperature 2", _energies, {"temperature": 2.0}) for name in _BOLTZMANN),
    ("sparsemax", "of each row", _alone),
    ("entmax", "of each row, at α = 1.5", _alone),
    ("decoding.temperature", "of each row, at temperature 0.7", _alone, {"temperature": 0.7}),
    ("decoding.top_k", "of each row, the best 3", _alone, {"k": 3}),
    ("decoding.top_p", "of each row, 0.9 of the probability", _alone, {"p": 0.9}),
    ("decoding.min_p", "of each row, what has 0.05 of the best one's probability", _alone, {"p": 0.05}),
    ("decoding.typical", "of each row, 0.9 of the probability", _alone, {"p": 0.9}),
    ("cross_entropy", "of each row, labelled by its largest logit", _labelled, {"reduction": "none"}),
    ("categorical_log_prob", "of each row, labelled by its largest logit", _labelled),
    ("binary_cross_entropy", "of each logit, labelled by its sign", _signed, {"reduction": "none"}),
    ("entropy", "of each row", _alone),
    ("kl_divergence", "of each row and the next", _beside_the_next),
    ("js_divergence", "of each row and the next", _beside_the_next),
    ("categorical", "of each row, with given noise", _alone, _noise),
    ("gumbel_softmax", "of each row, with given noise", _alone, _noise),
    ("gumbel_top_k", "of each row, the best 3 with given noise", _alone, lambda lines: {"k": 3, **_noise(lines)}),
    ("attention", "of the rows as queries, keys and values, the first 100 of them", _thrice, {}, 100, 2),
    ("condition_number", "of each row's softmax", _alone, {"of": "softmax"}),
    ("error_bound", "of each row's log_softmax", _alone, {"of": "log_softmax"}),
)
QUESTIONS = {each[0]: Question(*each) for each in _EACH}
