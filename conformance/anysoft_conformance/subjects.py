"""What the suite judges: each function that anysoft exports, with its truth, its derivatives' truths and its cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anysoft_conformance import truths
from anysoft_conformance.corpus import CASES, Case
from anysoft_conformance.oracle import Truth
from anysoft_conformance.truths import Problem

# what else anysoft exports: how calls are made, nothing that computes
MACHINERY = frozenset({"Backend", "FastPath", "explain", "options", "register_backend", "register_fast_path"})


@dataclass(frozen=True)
class Subject:
    """A function, and what it should return: a truth for each of its results.

    `gradient` is the truth of the derivative of its result with respect to one row, and `hessian` that of the second.
    `along` says whether it takes an axis, after its arrays, and `sums` what of it adds up to 1 along that axis.
    """

    name: str
    truth: Callable[[Problem], tuple[Truth, ...]]
    gradient: Callable[[Problem], Truth] | None = None
    hessian: Callable[[Problem], Truth] | None = None
    along: bool = True
    sums: Literal["", "value", "exp of value", "gradient"] = ""

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases of the corpus that are for it."""
        return tuple(case for case in CASES if self.name in case.on)


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "logsumexp", truths.logsumexp, truths.gradient_of_logsumexp, truths.jacobian_of_softmax, sums="gradient"
        ),
        Subject("softmax", truths.softmax, truths.jacobian_of_softmax, sums="value"),
        Subject("log_softmax", truths.log_softmax, truths.jacobian_of_log_softmax, sums="exp of value"),
    )
}
