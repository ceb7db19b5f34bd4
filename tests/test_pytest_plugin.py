"""The suite as pytest runs it, from another folder: its options, its errors, its skips and its known failures."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from anysoft_conformance.rows import find

ROWS, ABSENT = find()
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The suite in this process, since a new one takes seconds to import the frameworks: exit code and lines.

    Without a cache, so that JAX is not told to keep what it compiles in a folder that goes away.
    """
    monkeypatch.chdir(tmp_path)
    fixed = ("-p", "anysoft_conformance.plugin", "-p", "no:cacheprovider", "-s", "-ra", "--pyargs")

    def run(*arguments: str | Path) -> tuple[int, list[str]]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = pytest.main([*fixed, "anysoft_conformance", *map(str, arguments)])
        return int(code), out.getvalue().splitlines()

    return run


@pytest.fixture
def known(tmp_path: Path) -> Callable[[str], Path]:
    """A file of one known failure."""

    def write(pattern: str) -> Path:
        file = tmp_path / "known.toml"
        entry = f'checks = ["{pattern}"]\ncause = "it is said to be wrong"\nlink = "https://example.org/1"\n'
        file.write_text(f"[[failure]]\n{entry}")
        return file

    return write


def _says(lines: list[str], pattern: str) -> bool:
    return bool(fnmatch.filter(lines, pattern))


def _counts(lines: list[str]) -> dict[str, int]:
    return {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backend", "nosuch"], "ERROR: there is no backend named 'nosuch'; there are numpy, torch, jax, cupy, *"),
        (["--backend", "numpy", "--device", "cuda"], "ERROR: no backend has a device 'cuda'; there are cpu"),
        (["--path", "best"], "*error: argument --path: invalid choice: 'best'*"),
        (["--backend", "numpy", "--known-failures", "nosuch.toml"], "ERROR: --known-failures nosuch.toml: FileNot*"),
    ],
)
def test_what_there_is_not_is_a_usage_error(run: Run, arguments: list[str], sentence: str) -> None:
    code, lines = run(*arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert _says(lines, sentence), lines


def test_an_absent_backend_asked_for_is_an_error_with_its_reason(run: Run) -> None:
    if not ABSENT:
        pytest.skip("nothing is absent here")
    for name, reason in ABSENT.items():
        code, lines = run("--backend", name)
        assert code == pytest.ExitCode.USAGE_ERROR
        assert f"ERROR: {reason}" in lines


def test_a_device_that_is_absent_is_an_error(run: Run) -> None:
    if any(row.device.startswith("cuda") for row in ROWS):
        pytest.skip("there is a CUDA device here")
    code, lines = run("--device", "cuda")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert _says(lines, "ERROR: no backend has a device 'cuda'; there are cpu*")


def test_what_is_absent_and_was_not_asked_for_is_one_skip(run: Run) -> None:
    pytest.importorskip(
        "array_api_strict", reason="array_api_strict, which has a device that no other has, is not here"
    )
    code, lines = run(
        "--device", "device1", "-k", " or ".join(["softmax-zeros-array", *(f"test_suite[{name}]" for name in ABSENT)])
    )
    assert code == 0
    assert _says(lines, "array_api_strict * on device1")
    assert _counts(lines) == {"passed": 4} | ({"skipped": len(ABSENT)} if ABSENT else {})
    for name, reason in ABSENT.items():
        assert f"{name}: absent, {reason}" in lines
        assert any(line.startswith("SKIPPED [1] ") and line.endswith(reason) for line in lines)


def test_the_header_says_what_is_here(run: Run) -> None:
    code, lines = run("--backend", "numpy", "-k", "softmax-zeros-numpy")
    assert code == 0
    assert _says(lines, "numpy * on cpu")
    assert not _says(lines, "torch * on *")
    assert _counts(lines) == {"passed": 12}  # two functions, three dtypes, two paths


def test_a_path_of_ones_choice(run: Run) -> None:
    code, lines = run("--backend", "numpy", "--path", "generic", "-k", "softmax-zeros-numpy")
    assert code == 0
    assert _counts(lines) == {"passed": 6}


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="SciPy, NumPy's native, is not installed")
def test_natives_are_judged_too_and_have_no_known_failures(run: Run, known: Callable[[str], Path]) -> None:
    own = known("log_softmax-dominated-*")
    chosen = ("--path", "native", "-k", "softmax-dominated-numpy-cpu-float64")
    code, lines = run("--backend", "numpy", "--known-failures", own, *chosen)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert _counts(lines) == {"passed": 1, "failed": 1}
    assert _says(lines, "FAILED *[[]log_softmax-dominated-numpy-cpu-float64-native]*")


def test_a_known_failure_that_passes_is_a_failure(run: Run, known: Callable[[str], Path]) -> None:
    chosen = ("--known-failures", known("softmax-zeros-*-auto"), "-k", "softmax-zeros-numpy")
    code, lines = run("--backend", "numpy", *chosen)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert _counts(lines) == {"passed": 9, "failed": 3}
    assert "[XPASS(strict)] it is said to be wrong (https://example.org/1)" in lines


def test_no_check_at_all_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anysoft_conformance.suite.SUBJECTS", {})
    code, lines = run("--backend", "numpy")
    assert code == pytest.ExitCode.INTERRUPTED
    assert _says(lines, "*no check at all: there is nothing that such a run could find*")


def test_a_selection_that_leaves_nothing_is_an_error(run: Run) -> None:
    assert run("--backend", "numpy", "-k", "no_such_case")[0] == pytest.ExitCode.NO_TESTS_COLLECTED
