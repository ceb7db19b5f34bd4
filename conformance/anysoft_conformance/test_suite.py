"""The suite itself: one test for each function, case, backend, device, dtype and path."""

from __future__ import annotations

import fnmatch
import importlib.resources

import pytest

import anysoft
from anysoft_conformance import plugin, suite, transformations
from anysoft_conformance.subjects import ALIASES, DRAWN, MACHINERY, MODULES, SUBJECTS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "check" not in metafunc.fixturenames:
        return
    parameters = []
    for check in plugin.checks(metafunc.config):
        known = plugin.known_failure(metafunc.config, check)
        marks = [pytest.mark.xfail(reason=f"{known.cause} ({known.link})", strict=True)] if known else []
        parameters.append(pytest.param(check, id=check.id, marks=marks))
    assert parameters, "no check at all: there is nothing that such a run could find"
    _, absent = plugin.selected(metafunc.config)
    parameters += [
        pytest.param(None, id=name, marks=pytest.mark.skip(reason=reason)) for name, reason in absent.items()
    ]
    metafunc.parametrize("check", parameters)


def test_suite(check: suite.Check) -> None:
    verdict = check.run()
    if verdict.outcome == "not offered":
        pytest.skip(verdict.reason)
    assert verdict.outcome == "kept", f"{verdict.aspect}: {verdict.reason}"


def test_every_exported_function_is_in_the_suite() -> None:
    exported = set(anysoft.__all__) - MACHINERY - ALIASES - DRAWN - MODULES
    exported |= {f"{module}.{name}" for module in MODULES for name in getattr(anysoft, module).__all__}
    assert exported == set(SUBJECTS), "what anysoft exports and what the suite judges differ"
    for subject in SUBJECTS.values():
        assert subject.cases, f"{subject.name} has no case"


def test_every_function_is_asked_for_every_transformation_of_its_backend(pytestconfig: pytest.Config) -> None:
    """In the full sweep; each has a value to judge, but where a transformation is of some functions or options only."""
    rows, _ = plugin.selected(pytestconfig)
    asked = {
        (check.row.backend, check.transformation.name, check.subject.name)
        for check in suite.checks(rows, ("auto",), full=True)
        if check.transformation
    }
    for backend in {row.backend for row in rows}:
        every = [one for one in transformations.of(backend) if one.what == "value" and one.of_all]
        missing = {(backend, one.name, name) for one in every for name in SUBJECTS} - asked
        assert not missing
    for name, subject in SUBJECTS.items():
        assert set(transformations.names(subject)) <= {case.name for case in subject.cases}, name


def test_no_known_failure_is_stale(pytestconfig: pytest.Config) -> None:
    """Each glob covers a check of a backend that is here; that what it covers fails still, xfail_strict sees."""
    rows, _ = plugin.selected(pytestconfig)
    ids = {check.id for check in suite.checks(rows, full=True)}
    for file in (importlib.resources.files(suite.__package__) / "known_failures").iterdir():
        backend = file.name.removesuffix(".toml")
        if not any(row.backend == backend for row in rows):
            continue
        for entry in suite.known_failures(backend):
            for pattern in entry.checks:
                assert fnmatch.filter(ids, pattern), f"{file.name}: {pattern} covers no check"
    for entry in plugin.own_known_failures(pytestconfig):
        for pattern in entry.checks:
            assert fnmatch.filter(ids, pattern), f"--known-failures: {pattern} covers no check"
