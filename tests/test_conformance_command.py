"""``anysoft conformance``, as a user meets it: its exit codes, its summary, its JSON and its page."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from anysoft_conformance import corpus, judgement, report_page, subjects, suite, summary
from anysoft_conformance import report as reports
from anysoft_conformance.commands import app
from anysoft_conformance.conformance_command import slug
from anysoft_conformance.corpus import Case
from anysoft_conformance.report import Report, dump
from typer.testing import CliRunner, Result

NAMES = (
    "moderate",
    "dominated",
    "dominated_float32",
    "infinite",
    "masked",
    "point_nothing",
    "refuses_axis_2",
    "unanswered",
)
KNOWN = [f"softmax-unanswered-numpy-cpu-float64-{path}" for path in suite.PATHS]
SHIPPED = suite.KnownFailure(tuple(KNOWN), "as shipped", "https://github.com/numpy/numpy/pull/3685")

needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")


def _unanswerable(name: str, **more: Any) -> Case:
    why = "no function is that (jax#16200)"
    return Case(name, (0.0, 1.0), why, on=("softmax",), raises=KeyError, derivatives=False, **more)


UNANSWERED = _unanswerable("unanswered", dtypes=("float64",))


def _cases(*names: str) -> tuple[Case, ...]:
    return tuple(case for case in (*corpus.CASES, UNANSWERED) if case.name in names)


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cases, among them one that NumPy is known to break."""
    _ask(monkeypatch, _cases(*NAMES))
    monkeypatch.setattr(suite, "known_failures", lambda backend: (SHIPPED,) if backend == "numpy" else ())


def _ask(monkeypatch: pytest.MonkeyPatch, cases: tuple[Case, ...]) -> None:
    """Let the suite be about these cases of the core functions."""
    core = (subjects.SUBJECTS[name] for name in corpus.CORE)
    few = {one.name: dataclasses.replace(one, cases=tuple(c for c in cases if one.name in c.on)) for one in core}
    for module in (suite, summary):
        monkeypatch.setattr(module, "SUBJECTS", few)


def _run(*arguments: str | Path) -> Result:
    everything = ["conformance", "--backend", "numpy", *map(str, arguments)]
    return CliRunner().invoke(app, everything, env={"COLUMNS": "99"})


def _report(result: Result) -> Report:
    return Report.from_dict(json.loads(result.stdout))


def _failures(tmp_path: Path, *checks: str) -> Path:
    file = tmp_path / "known.toml"
    globs = ", ".join(f'"{check}"' for check in checks)
    file.write_text(f'[[failure]]\nchecks = [{globs}]\ncause = "of my own"\nlink = "https://example.org"\n')
    return file


def _break(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a case of that name ask for what nobody answers."""
    _ask(monkeypatch, (*_cases(*NAMES), _unanswerable(name)))


# ---------------------------------------------------------------------------------------------------------------------
# Exit codes


def test_nothing_unexpected() -> None:
    result = _run()
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no progress where nobody watches
    assert max(map(len, result.stdout.splitlines())) < 100
    assert "…" not in result.stdout
    for word in ("numpy", "float16", "softmax", "auto", "generic", "Known to be broken: 2", *KNOWN, "shipped", "suite"):
        assert word in result.stdout
    assert "native" not in result.stdout


def test_something_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, "impossible")
    result = _run("--path", "auto")
    assert result.exit_code == 1
    assert "Broken: 3" in result.stdout
    assert "softmax-impossible-numpy-cpu-float64-auto" in result.stdout
    assert "refusal: no KeyError" in result.stdout
    assert "✗" in result.stdout


def test_known_failures_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _break(monkeypatch, "impossible")
    result = _run("--known-failures", _failures(tmp_path, "softmax-impossible-*"))
    assert result.exit_code == 0, result.output
    assert "of my own" in result.stdout
    assert "https://example.org" in result.stdout
    assert "as shipped" in result.stdout  # and those that anysoft ships


def test_a_stale_known_failure(tmp_path: Path) -> None:
    result = _run("--path", "auto", "--known-failures", _failures(tmp_path, "softmax-moderate-numpy-cpu-float64-*"))
    assert result.exit_code == 1
    assert "not broken: 1" in result.stdout
    assert "softmax-moderate-numpy-cpu-float64-auto" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--backend", "nosuch"], "no backend named 'nosuch'"),
        (["--device", "nosuch"], "no backend has a device 'nosuch'"),
        (["--path", "fast"], "no path 'fast'; there are auto, generic, native"),
        (["--json", "nosuchfolder/a.json"], "there is no such folder"),
        (["--html", "."], "it is a folder"),
        (["--known-failures", "nosuch.toml"], "nosuch.toml cannot be read"),
        (["--known-failures", "README.md"], "is no TOML"),
    ],
)
def test_a_bad_option(arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    result = _run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("anysoft: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_no_check_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    _ask(monkeypatch, ())
    result = _run()
    assert result.exit_code == 2
    assert "no check at all" in result.stderr


def test_known_failures_without_a_cause(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[failure]]\nchecks = ["*"]\n')
    result = _run("--known-failures", tmp_path / "a.toml")
    assert result.exit_code == 2
    assert "cause" in result.stderr


def test_an_absent_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find(name))
    result = _run("--backend", "cupy")
    assert result.exit_code == 2
    assert "cupy is not installed" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The report


@needs_scipy
def test_the_json(tmp_path: Path) -> None:
    result = _run("--natives", "--json", "-")
    assert result.exit_code == 0
    report = _report(result)
    assert dump(report.as_dict()) + "\n" == result.stdout
    assert report.suite == suite.VERSION
    assert {verdict.path for verdict in report.verdicts} == {"auto", "generic", "native"}
    assert list(report.known) == KNOWN
    assert "scipy" in report.versions
    assert "Known to be broken" in _run("--path", "auto", "--json", tmp_path).stdout
    assert [file.name for file in tmp_path.iterdir()] == [f"{slug(report.machine)}.json"]


def test_a_bound_beyond_float64_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ask(monkeypatch, _cases("largest"))
    assert all(verdict.allowed for verdict in _report(_run("--path", "auto", "--json", "-")).verdicts)


def test_a_machine_as_a_name() -> None:
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("Intel(R) Xeon(R) CPU @ 2.20GHz") == "intel-xeon-cpu-2-20ghz"
    assert slug("???") == "machine"


@needs_scipy
def test_the_scoreboard() -> None:
    result = _run("--natives")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) < 100
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["dominated_float32", "float32", "-2.06e-09", "0", "tensorflow#62400"] in lines
    assert any(line[:1] == ["infinite"] and line[2:4] == ["nan", "-inf"] for line in lines)
    assert not any(line[:1] == ["masked"] for line in lines)  # SciPy has no where: not offered
    assert "refuses_axis_2" not in result.stdout


def test_every_issue_that_a_case_names_has_a_tracker() -> None:
    for case in (case for subject in subjects.SUBJECTS.values() for case in subject.cases):
        for match in summary.ISSUE.finditer(case.why):
            assert summary.issue(match), f"{case.name} names {match[0]}"


def test_devices_with_the_same_numbers_are_one() -> None:
    one = judgement.Verdict(
        "softmax", "moderate", "value", "cupy", "cuda:0", "float32", "auto", "kept", error=1.0, allowed=4
    )
    other = dataclasses.replace(one, device="cuda:1")
    worse = dataclasses.replace(one, device="cuda:2", error=2.0)
    report = dataclasses.replace(_report(_run("--path", "auto", "--json", "-")), verdicts=(one, other, worse), known={})
    assert list(summary.alike(summary.squares(report))) == [("cupy", ("cuda:0", "cuda:1")), ("cupy", ("cuda:2",))]


# ---------------------------------------------------------------------------------------------------------------------
# The page


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "style"):
                self.loads.append(value or "")


@needs_scipy
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, "impossible")
    monkeypatch.setattr(reports, "machine", lambda rows: "a <script>")
    assert _run("--natives", "--html", tmp_path / "a.html").exit_code == 1
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.loads == []
    assert not re.search(r"url\(|@import", text)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.ids)
    assert "numpy-cpu-float64-softmax-native" in page.ids
    outside = {link for link in page.links if not link.startswith("#")}
    assert outside >= {
        "https://github.com/numpy/numpy/pull/3685",  # of a known failure
        "https://github.com/tensorflow/tensorflow/issues/62400",  # of what SciPy breaks
        "https://github.com/jax-ml/jax/issues/16200",  # of what is broken here
    }
    assert all(link.startswith("https://") for link in outside)
    assert "prefers-color-scheme: dark" in text
    for part in ("SciPy", "a &lt;script&gt;", "refusal", "no KeyError", f"suite {suite.VERSION}", "as shipped"):
        assert part in text


def test_a_large_report_is_a_small_page() -> None:
    report = _report(_run("--path", "auto", "--json", "-"))
    many = [
        dataclasses.replace(verdict, case=f"{verdict.case}{i}", device=f"cuda:{i % 3}")
        for i in range(200)
        for verdict in report.verdicts
    ]
    page = report_page.render(dataclasses.replace(report, verdicts=tuple(many)))
    assert len(many) > 8_000
    assert len(page.encode()) < 500_000


def test_the_matrix_of_transformations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    _ask(monkeypatch, _cases("dominated"))
    page = tmp_path / "page.html"
    monkeypatch.setattr(suite, "known_failures", lambda backend: ())
    result = _run("--backend", "array_api_strict", "--html", page)
    assert result.exit_code == 0, result.output
    assert re.search(r"array_api_strict [\d.]+ · transformations", result.stdout)
    assert re.search(r"^ *logsumexp  +✓  ✓  ✓ *$", result.stdout, re.MULTILINE), result.stdout
    assert "1\N{NO-BREAK SPACE}2023.12  2\N{NO-BREAK SPACE}2024.12" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 100
    text = page.read_text(encoding="utf-8")
    assert '<table class="matrix">' in text
    assert "<span>2024.12</span>" in text
    assert 'title="logsumexp, 2023.12: ' in text
