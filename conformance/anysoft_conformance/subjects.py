"""Everything that the suite judges: each function that anysoft exports, with its truth and its cases."""

from __future__ import annotations

from typing import Any

from anysoft_conformance import truths
from anysoft_conformance.corpus import CASES
from anysoft_conformance.families import logspace, losses
from anysoft_conformance.subject import Subject

# what else anysoft exports: how calls are made, nothing that computes; and a second name of log1pexp
MACHINERY = frozenset({"Backend", "FastPath", "explain", "options", "register_backend", "register_fast_path"})
ALIASES = frozenset({"softplus"})


def _core(name: str, gradient: Any, hessian: Any = None, *, sums: Any) -> Subject:
    cases = tuple(case for case in CASES if name in case.on)
    return Subject(name, getattr(truths, name), cases, gradient, hessian, sums=sums)


SUBJECTS = {
    subject.name: subject
    for subject in (
        _core("logsumexp", truths.gradient_of_logsumexp, truths.jacobian_of_softmax, sums="gradient"),
        _core("softmax", truths.jacobian_of_softmax, sums="value"),
        _core("log_softmax", truths.jacobian_of_log_softmax, sums="exp of value"),
        *logspace.SUBJECTS,
        *losses.SUBJECTS,
    )
}
