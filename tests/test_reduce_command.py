"""``anysoft reduce``: a file of any size in constant memory, and on from where it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import reduction
from anysoft_conformance.commands import app
from typer.testing import CliRunner, Result

import anysoft

MEASURE = """
import resource, sys
from pathlib import Path
import anysoft, numpy as np
from anysoft_conformance import reduction
reduction.reduce(Path(sys.argv[2]))  # a small one: what is imported is imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
value = reduction.reduce(Path(sys.argv[1]))
print(repr(float(value)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["reduce", *map(str, arguments)], env={"COLUMNS": "100"})


def _python(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(7, 5, 11)).astype("f4"))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, (0, 2), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block", [1, 8, 64, 10_000])
def test_any_axis_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: Any, order: Any, block: int
) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)), order=order)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(reduction, "BLOCK", block)
    found = reduction.reduce(tmp_path / "x.npy", axis)
    np.testing.assert_allclose(found, anysoft.logsumexp(x, axis), rtol=1e-15, atol=1e-15)  # type: ignore[arg-type]
    reduction.reduce(tmp_path / "x.npy", axis, out=tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), found)


def test_the_command(logits: Path, tmp_path: Path) -> None:
    x = np.load(logits)
    done = _run(logits)
    assert done.exit_code == 0
    assert float(done.stdout) == pytest.approx(float(anysoft.logsumexp(x)), rel=1e-6)
    assert _run(logits, "--axis", "0,2", "--out", tmp_path / "out.npy").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), anysoft.logsumexp(x, (0, 2)), rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "x.npy"]


def test_what_is_wrong_is_said(logits: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros(2, dtype=complex))
    np.save(tmp_path / "long.npy", np.zeros((10_001, 2)))
    for arguments, sentence in (
        ((tmp_path / "none.npy",), "there is no file"),
        ((tmp_path / "text.npy",), "no .npy file"),
        ((tmp_path / "object.npy",), "no .npy file that can be mapped"),
        ((tmp_path / "complex.npy",), "complex128"),
        ((tmp_path / "long.npy", "--axis", "1"), "--out"),
        ((logits, "--axis", "3"), "axis 3 is out of bounds"),
        ((logits, "--axis", "0,0"), "repeated axis"),
        ((logits, "--axis", "x"), "not x"),
        ((logits, "--out", tmp_path / "no" / "out.npy"), "no such folder"),
    ):
        done = _run(*arguments)
        assert done.exit_code == 2, arguments
        assert sentence in done.stderr


def test_it_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 300))
    np.save(tmp_path / "x.npy", x)
    arguments = (tmp_path / "x.npy", tmp_path / "out.npy", tmp_path / "state.npz")
    program = """
import sys, time
from pathlib import Path
from anysoft_conformance import reduction
reduction.BLOCK, reduction.SAVE_EVERY = 64, 0.0
file, out, state = map(Path, sys.argv[1:])
reduction.reduce(file, 0, out=out, state=state, report=lambda done, total: time.sleep(0.002))
"""
    process = _python(program, *arguments)
    while not (tmp_path / "state.npz").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out.npy").exists()
    with np.load(tmp_path / "state.npz") as saved:
        begin = int(saved["place"])
    assert begin > 0

    # of another axis, or another file, it is no state
    assert (
        "is of another reduction: axes was [0], and is [1]"
        in _run(arguments[0], "--axis", "1", "--out", arguments[1], "--state", arguments[2]).stderr
    )

    reports: list[int] = []
    before = reduction.BLOCK
    reduction.BLOCK = 64
    try:
        file, out, state = arguments
        reduction.reduce(file, 0, out=out, state=state, report=lambda done, total: reports.append(done))
    finally:
        reduction.BLOCK = before
    assert len(reports) == 400 * 5 - begin
    assert reports[-1] == x.nbytes
    np.testing.assert_allclose(np.load(out), anysoft.logsumexp(x, axis=0), rtol=1e-15)
    assert not state.exists()


def test_a_state_that_is_none_is_refused(logits: Path, tmp_path: Path) -> None:
    (tmp_path / "state.npz").write_bytes(b"nothing")
    done = _run(logits, "--state", tmp_path / "state.npz")
    assert done.exit_code == 2
    assert "is no state of a reduction" in done.stderr


def test_memory_is_constant(tmp_path: Path) -> None:
    """2 GB of a sparse file, which takes no disk."""
    n = 250_000_000
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype="f8", shape=(n,))
    np.save(tmp_path / "small.npy", np.zeros(5_000_000))
    process = _python(MEASURE, tmp_path / "x.npy", tmp_path / "small.npy")
    value, growth = process.communicate(timeout=120)[0].split()
    assert float(value) == pytest.approx(np.log(n), rel=1e-15)
    assert int(growth) < 200_000  # kB
