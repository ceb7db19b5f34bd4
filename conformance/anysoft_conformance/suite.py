"""The suite: every check on every row, and the failures that are known."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib.resources
import operator
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anysoft
from anysoft_conformance import transformations
from anysoft_conformance.corpus import CORE, Case
from anysoft_conformance.frameworks import native
from anysoft_conformance.judgement import Verdict, What, applies, differenced, differentiable, judge_case, name_of
from anysoft_conformance.rows import Row
from anysoft_conformance.subject import Subject
from anysoft_conformance.subjects import SUBJECTS
from anysoft_conformance.transformations import Transformation

# Counted up with every change of the contract: what is asked, or how it is judged. A report names the one it was made
# with, so that an old report is not read as a new one.
VERSION = 3
# What VERSION says in a digest, so that a test sees a change that was not counted (tests/test_reports.py).
CONTRACT = "94a1d3bb0233e5d2"

PATHS = ("auto", "generic")
NATIVE = "native"


@dataclass(frozen=True)
class Check:
    """One case of one function on one row by one path, plainly called or transformed; `run` judges it."""

    subject: Subject
    case: Case
    row: Row
    path: str
    what: What = "value"
    transformation: Transformation | None = None

    @property
    def id(self) -> str:
        """Its name, the same on every machine that has the row."""
        transformation = self.transformation.name if self.transformation else ""
        return name_of(self.subject.name, self.case.name, self.what, str(self.row), self.path, transformation)

    def run(self) -> Verdict:
        """Judge it. A warning from anysoft is a failure; natives may warn of what the verdict says."""
        call = _call(self.subject.name, self.row.backend, self.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if self.path == NATIVE else "error")
            if self.transformation:
                # PyTorch's own, from modules that torch.func.jvp and inductor import (2.13)
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                return self._transformed(call, self.transformation)
            return judge_case(self.subject, self.case, self.row, call, path=self.path, what=self.what)

    def _transformed(self, call: Callable[..., Any], transformation: Transformation) -> Verdict:
        """The options are set around the transformation, not in the function that it sees, as they are in a program."""
        judged = functools.partial(judge_case, self.subject, self.case, self.row, path=self.path)
        if self.path == NATIVE:
            plain = judged(call, what="value")
            if plain.outcome == "not offered":  # which a compiler would say in other words
                return replace(plain, what=self.what, transformation=transformation.name)
        exported = operator.attrgetter(self.subject.name)(anysoft)
        path: Any = self.path
        with contextlib.nullcontext() if path == "auto" else anysoft.options(path=path):
            return judged(exported, what=self.what, transformation=transformation)


@functools.cache
def _call(function: str, backend: str, path: Any) -> Callable[..., Any]:
    """One function object for each, so that what a framework compiles for it is compiled once."""
    if path == NATIVE:
        return native(backend, function)[1]
    exported = operator.attrgetter(function)(anysoft)

    def call(*arguments: Any, **options: Any) -> Any:
        with anysoft.options(path=path):
            return exported(*arguments, **options)

    return call


def checks(rows: Iterable[Row], paths: Sequence[str] = PATHS, *, full: bool = False) -> Iterator[Check]:
    """Every check on these rows, by function and case, so that one truth serves all rows while it is remembered.

    Parameters
    ----------
    rows : iterable of Row
    paths : sequence of {"auto", "generic", "native"}
    full : bool
        The cases of the full sweep too.
    """
    rows = tuple(rows)
    kinds: tuple[What, ...] = ("value", "gradient", "hessian")
    for subject in SUBJECTS.values():
        for case in subject.cases:
            if case.full and not full:
                continue
            for row in rows:
                if not applies(case, row):
                    continue
                for what in kinds:
                    if what == "value" or differentiable(subject, case, row, what, full=full):
                        asked = (path for path in paths if _judges(subject, case, row, path, paths))
                        yield from (Check(subject, case, row, path, what) for path in asked)
                yield from _transformed(subject, case, row, paths, full=full)


def forget(rows: Iterable[Row]) -> None:
    """Let the frameworks drop what they have compiled, which the checks of another function do not need."""
    for one in {row.framework for row in rows}:
        one.forget()


def _transformed(subject: Subject, case: Case, row: Row, paths: Sequence[str], *, full: bool) -> Iterator[Check]:
    """The checks of the matrix function × transformation.

    The core functions are asked for everything: each transformation, every day by one case and one path, and in the
    full sweep by all of them. Of the others, what takes long to compile is asked in the full sweep, by one case.
    """
    for one in transformations.of(row.backend):
        if not _asked(subject, case, row, one):
            continue
        often = one.daily or subject.name in CORE
        everything = often and full
        if not (often or full) or not (everything or case == _first(subject, row, one)):
            continue
        for path in paths:
            if (everything or path in (paths[0], NATIVE)) and _judges(subject, case, row, path, paths):
                yield Check(subject, case, row, path, one.what, one)


def _asked(subject: Subject, case: Case, row: Row, transformation: Transformation) -> bool:
    """Whether a transformation is asked of a case, and there is a truth of what it gives."""
    if not (transformation.asks(subject, case, row) and applies(case, row)):
        return False
    what = transformation.what
    return what == "value" or differentiable(subject, case, row, what) or case == _differenced(subject, row, what)


def _among(subject: Subject) -> Iterator[Case]:
    """The cases of a function's transformations, in their order."""
    named = {case.name: case for case in subject.cases}
    return (named[name] for name in transformations.names(subject) if name in named)


@functools.cache
def _first(subject: Subject, row: Row, transformation: Transformation) -> Case | None:
    return next((case for case in _among(subject) if _asked(subject, case, row, transformation)), None)


@functools.cache
def _differenced(subject: Subject, row: Row, what: What) -> Case | None:
    """The one case whose derivative is had by differences, where no truth of it is written."""
    if subject.name in transformations.ROUGH:
        return None
    return next((case for case in _among(subject) if differenced(subject, case, row, what)), None)


def _judges(subject: Subject, case: Case, row: Row, path: str, paths: Sequence[str]) -> bool:
    """Whether a path has something to say that no other says.

    Natives: where there is one; how it refuses, in which words, anysoft promises of itself alone. Where no fast path
    can be taken, auto is generic.
    """
    if path == NATIVE:
        return case.raises is None and _has_native(row.backend, subject.name)
    return path != "generic" or "auto" not in paths or _has_fast_path(row.backend, subject.name)


@functools.cache
def _has_fast_path(backend: str, function: str) -> bool:
    found = anysoft.registry.installed(backend)
    return any(path.operation == function and path.call for one in found for path in one.fast_paths)


@functools.cache
def _has_native(backend: str, function: str) -> bool:
    try:
        native(backend, function)
    except LookupError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Known failures


@dataclass(frozen=True)
class KnownFailure:
    """What a backend cannot keep: the checks (globs over their ids), the cause, and where upstream knows of it."""

    checks: tuple[str, ...]
    cause: str
    link: str

    def covers(self, check: str) -> bool:
        """Whether a check is one of these."""
        return any(fnmatch.fnmatchcase(check, pattern) for pattern in self.checks)


@functools.cache
def known_failures(backend: str) -> tuple[KnownFailure, ...]:
    """What is known of a backend, from its file; nothing for one that has none."""
    file = importlib.resources.files(__package__) / "known_failures" / f"{backend}.toml"
    if not file.is_file():
        return ()
    return read_known_failures(file.read_text(encoding="utf-8"))


def read_known_failures(text: str) -> tuple[KnownFailure, ...]:
    """Known failures from TOML: ``[[failure]]`` with ``checks``, ``cause`` and ``link``."""
    entries = tomllib.loads(text).get("failure", [])
    return tuple(KnownFailure(tuple(entry["checks"]), entry["cause"], entry["link"]) for entry in entries)


def known_failure(verdict: Verdict | Check) -> KnownFailure | None:
    """The entry that covers a check, if there is one; natives have none."""
    backend = verdict.backend if isinstance(verdict, Verdict) else verdict.row.backend
    return next((entry for entry in known_failures(backend) if entry.covers(verdict.id)), None)
