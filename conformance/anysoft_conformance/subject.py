"""What the suite judges: a function, what it should return, and the cases that it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anysoft_conformance.corpus import Case
from anysoft_conformance.oracle import Truth
from anysoft_conformance.truths import Problem


@dataclass(frozen=True)
class Subject:
    """A function, and what it should return: a truth for each of its results.

    `gradient` is the truth of the derivative of its result with respect to one row, its first array, and `hessian` that
    of the second; `derived` are the options with which they are asked for.
    `results` says of each result what its dtype is, if not the case's: the default integer, or at least float32.
    `along` says whether it takes an axis, after its arrays or, if ``named``, by keyword, and `sums` what of it adds up
    to 1 along that axis.
    """

    name: str
    truth: Callable[[Problem], tuple[Truth, ...]]
    cases: tuple[Case, ...]
    gradient: Callable[[Problem], Truth] | None = None
    hessian: Callable[[Problem], Truth] | None = None
    derived: tuple[str, ...] = ("where",)
    results: tuple[Literal["integer", "carrier"], ...] = ()
    along: bool | Literal["named"] = True
    sums: Literal["", "value", "exp of value", "gradient"] = ""
