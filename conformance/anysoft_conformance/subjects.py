"""Everything that the suite judges: each function that anysoft exports, with its truth and its cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anysoft_conformance import truths
from anysoft_conformance.corpus import CASES
from anysoft_conformance.families import (
    attention,
    boltzmann,
    conditioning,
    decoding,
    entropy,
    logspace,
    losses,
    sampling,
    sparse,
)
from anysoft_conformance.subject import Subject

# what else anysoft exports: how calls are made, and the mergeable state, which tests/test_online.py holds to the
# contract of logsumexp; and a second name of log1pexp
MACHINERY = frozenset(
    {"Backend", "FastPath", "LogSumExp", "explain", "options", "register_backend", "register_fast_path"}
)
ALIASES = frozenset({"softplus"})
# what it exports as a module, whose functions are subjects by their dotted names
MODULES = frozenset({"decoding"})
# and what only draws, which is judged by statistics, in test_sampling.py
DRAWN = frozenset({"gumbel"})


# of softmax's cases, those in which a sign could go wrong
_OF_SOFTMIN = (
    "moderate", "dominated", "huge", "hugely_negative", "largest", "some_absent", "infinite", "not_a_number", "masked",
    "masked_infinite", "point", "empty", "int8", "uint8", "refuses_complex", "refuses_axis_2",
)  # fmt: skip


def _softmin() -> Subject:
    cases = (case for case in CASES if "softmax" in case.on and case.name in _OF_SOFTMIN)
    own = tuple(replace(case, on=("softmin",)) for case in cases)
    return Subject("softmin", truths.softmin, own, truths.jacobian_of_softmin, sums="value")


def _core(name: str, gradient: Any, hessian: Any = None, *, sums: Any) -> Subject:
    cases = tuple(case for case in CASES if name in case.on)
    return Subject(name, getattr(truths, name), cases, gradient, hessian, sums=sums)


SUBJECTS = {
    subject.name: subject
    for subject in (
        _core("logsumexp", truths.gradient_of_logsumexp, truths.jacobian_of_softmax, sums="gradient"),
        _core("softmax", truths.jacobian_of_softmax, sums="value"),
        _softmin(),
        _core("log_softmax", truths.jacobian_of_log_softmax, sums="exp of value"),
        *logspace.SUBJECTS,
        *boltzmann.SUBJECTS,
        *conditioning.SUBJECTS,
        *attention.SUBJECTS,
        *decoding.SUBJECTS,
        *sparse.SUBJECTS,
        *sampling.SUBJECTS,
        *entropy.SUBJECTS,
        *losses.SUBJECTS,
    )
}
