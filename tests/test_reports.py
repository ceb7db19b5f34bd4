"""Reports: what is committed is what the README shows; and a change of the contract is counted."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import conformance_command, oracle, report_page, suite, support_table, transformations
from anysoft_conformance.corpus import Case
from anysoft_conformance.judgement import Verdict
from anysoft_conformance.report import Report, dump
from anysoft_conformance.subjects import SUBJECTS
from rich.console import Console

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "conformance" / "reports").glob("*.json"))

needs_reports = pytest.mark.skipif(not FILES, reason="conformance/reports holds no report")


def _verdict(function: str, case: str, path: str, outcome: Any, **more: Any) -> Verdict:
    return Verdict(function, case, "value", "numpy", "cpu", "float64", path, outcome, **more)


def _transformed() -> tuple[Verdict, ...]:
    """What is asked of JAX's softmax under transformations, and of its own function."""
    make = functools.partial(Verdict, "softmax", "kept", backend="jax", device="cpu:0", dtype="float32")
    measured: dict[str, Any] = {"error": 1.0, "allowed": 4.0}
    wrong: dict[str, Any] = {"outcome": "broken", "aspect": "raised", "reason": "an error"}
    return (
        make("value", path="auto", transformation="vmap-first", outcome="kept", **measured),
        make("value", path="auto", transformation="jit", outcome="kept", **measured),
        make("gradient", path="auto", transformation="jacfwd", **wrong),
        make("value", path="native", transformation="jit", **wrong),
    )


def _report(**more: Any) -> Report:
    wrong: dict[str, Any] = {"aspect": "special value", "reason": "inf where 0.0 is right (a case)", "truth": "0.0"}
    verdicts = (
        _verdict("softmax", "kept", "auto", "kept", error=1.0, allowed=4.0),
        _verdict("softmax", "refuses_axis_2", "auto", "kept"),
        _verdict("softmax", "known", "auto", "broken", error=9.0, allowed=4.0, aspect="contract", reason="far off"),
        _verdict("logsumexp", "kept", "auto", "kept", error=1.0, allowed=4.0),
        _verdict("logsumexp", "wrong", "native", "broken", computed="inf", **wrong),
        _verdict("logsumexp", "masked", "native", "not offered", reason="it has no where"),
        *_transformed(),
    )
    link = "https://github.com/numpy/numpy/issues/1"
    known = {
        "softmax-known-numpy-cpu-float64-auto": ("a cause", link),
        "softmax-kept-gradient-jax-cpu:0-float32-auto@jacfwd": ("a cause", link),
    }
    meta: dict[str, Any] = {"anysoft": "1.0", "suite": suite.VERSION, "commit": "abc", "made": "2026-01-02"}
    meta |= {"machine": "a machine", "truth": "mpmath 1", "versions": {"numpy": "2.0", "scipy": "1.0"}, "absent": {}}
    return Report(**{**meta, "full": False, "seconds": 1.0, "verdicts": verdicts, "known": known, **more})


# ---------------------------------------------------------------------------------------------------------------------
# What is committed


@needs_reports
@pytest.mark.parametrize("document", ["README.md", "docs/transformations.md"])
def test_the_documentation_shows_the_committed_reports(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    command = "python -m anysoft_conformance.support_table conformance/reports/*.json README.md docs/transformations.md"
    fresh = support_table.refreshed(text, [support_table.read(file) for file in FILES])
    assert fresh == text, f"the table of {document} is stale; {command}"


@needs_reports
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_committed_report(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    report = Report.from_dict(json.loads(text))
    assert dump(report.as_dict()) + "\n" == text
    assert report.suite <= suite.VERSION, "made by a suite that is not here"
    assert not report.unexpected
    assert not report.stale


# ---------------------------------------------------------------------------------------------------------------------
# Reports and the table


def test_a_report_survives_json() -> None:
    content = _report().as_dict()
    again = Report.from_dict(json.loads(dump(content)))
    assert again.as_dict() == content
    assert {verdict.id for verdict in again.verdicts} == {verdict.id for verdict in _report().verdicts}
    assert again.known == _report().known
    assert again.verdicts[-1].transformation == "jit"
    assert not _report().unexpected


def test_the_support_table() -> None:
    table = support_table.support_table(_report())
    assert table.splitlines() == [
        "| | anysoft on NumPy 2.0 | SciPy 1.0 itself |",
        "|---|---|---|",
        "| `softmax` | 1 known of 3 | – |",
        "| `logsumexp` | ✓ | ✗ 1 of 1 |",
        "",
        f"a machine, 2026-01-02: anysoft 1.0 (abc), suite {suite.VERSION}.",
    ]
    assert "✗ 1 of 3" in support_table.support_table(_report(known={}))
    assert "**older than" not in table
    assert f"suite 0, **older than today's suite {suite.VERSION}**" in support_table.support_table(_report(suite=0))


def test_the_tables_of_transformations() -> None:
    assert support_table.transformation_tables(_report()).splitlines() == [
        "### JAX: values",
        "",
        "| | `jit` | `vmap-first` |",
        "|---|:-:|:-:|",
        "| `softmax` | ✓ ✗ | ✓ |",
        "",
        "### JAX: first derivatives",
        "",
        "| | `jacfwd` |",
        "|---|:-:|",
        "| `softmax` | * |",
        "",
        f"a machine, 2026-01-02: anysoft 1.0 (abc), suite {suite.VERSION}.",
    ]
    assert "| `softmax` | ✗ |" in support_table.transformation_tables(_report(known={}))
    plain = tuple(verdict for verdict in _report().verdicts if not verdict.transformation)
    assert support_table.transformation_tables(_report(verdicts=plain)) == "No report holds transformations yet."


def test_the_native_stands_beside() -> None:
    console = Console(file=io.StringIO(), width=40)
    conformance_command.show(_report(), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "softmax ✓✗  ✓   *" in [line.rstrip() for line in lines]
    page = report_page.render(_report())
    assert '<td class="kept-2" title="softmax, jit: 1 kept">✓</td><td class="broken-2 native"' in page
    assert "1 broken of anysoft’s functions" in page


def test_the_table_is_written_between_the_comments(tmp_path: Path) -> None:
    document, file = tmp_path / "README.md", tmp_path / "report.json"
    _report().write(file)
    document.write_text(f"before\n{support_table.BEGIN}\nold\n{support_table.END}\nafter\n", encoding="utf-8")
    support_table.main(str(file), str(document))
    text = document.read_text(encoding="utf-8")
    table = support_table.support_table(_report())
    assert text == f"before\n{support_table.BEGIN}\n{table}\n{support_table.END}\nafter\n"
    with pytest.raises(ValueError, match="support table: begin"):
        support_table.rewritten("nothing", "table")


# ---------------------------------------------------------------------------------------------------------------------
# The contract is counted


def _contract() -> Iterator[Any]:
    """What the contract says, in values that no edit of a comment changes.

    Every case as the functions are given it (what NumPy draws at random by its name alone, and no reason why), the
    truths of the plain rows, and what is allowed on a grid of truths and conditions.
    """
    for subject in SUBJECTS.values():
        for case in subject.cases:
            refusal = (case.raises.__name__ if case.raises else "", case.match)
            yield subject.name, case.name, case.axis, case.dtypes, case.layout, refusal, case.derivatives, case.full
            for dtype in () if _drawn(case) else oracle.FORMATS:
                problem = case.problem(dtype, "float64")
                options = sorted((name, _plain(value)) for name, value in problem.options.items())
                yield [_plain(array) for array in problem.arrays], options, problem.dtype, problem.at
                if dtype == "float32" and not case.options and not case.raises and case.axis == -1:
                    yield [_plain(truth.value) for truth in subject.truth(problem)]
        yield transformations.names(subject)
    for backend in ("jax", "torch", "array_api_strict", "dask"):
        yield backend, [(one.name, one.what, one.data, one.daily) for one in transformations.of(backend)]
    for dtype in oracle.FORMATS:
        high, exponent, condition = np.meshgrid([0.5, 0.75, -0.99], [-1074, -20, 0, 1, 9], [0.0, 1.0, 1e4])
        truth = oracle.Truth(high, high * 0, exponent.astype(np.int64), condition)
        yield _plain(oracle.budget(truth, dtype)), _plain(oracle.ulp_error(truth.value * 1.25, truth, dtype))


def _drawn(case: Case) -> bool:
    return any(map(callable, (*case.arrays, *case.options.values())))


def _plain(value: Any) -> str:
    return repr(np.asarray(value).tolist())


def test_a_change_of_the_contract_is_counted() -> None:
    digest = hashlib.sha256()
    for part in _contract():
        digest.update(repr(part).encode())
    found = digest.hexdigest()[:16]
    assert found == suite.CONTRACT, f"what is asked or how it is judged changed: VERSION + 1, CONTRACT = {found!r}"
