"""anysoft imports a framework only when an array of it arrives; each claim is looked up in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = ["torch", "jax", "jaxlib", "cupy", "dask", "tensorflow", "mlx", "array_api_strict", "scipy", "sklearn"]
EXTRAS = ["mpmath", "gmpy2", "typer", "rich", "matplotlib", "pytest", "anysoft_conformance"]

USE = """
import numpy as np, anysoft
x = np.array([[1.0, 2.0, -np.inf], [3.0, 4.0, 5.0]])
for function in (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax):
    for each in (x, x.astype("f2"), x > 1, np.float32(1), [1, 2], 3.0):
        function(each)
        assert anysoft.explain(function.__name__, each).backend == "numpy"
    function(x, where=x > 1)
    with anysoft.options(path="generic"):
        function(x, axis=(0, 1))
for refused in (np.ma.array([1.0]), np.array(["a"])):
    try:
        anysoft.softmax(refused)
    except TypeError:
        continue
    raise SystemExit("not refused")
"""
CLAIMS = {
    "import": "import anysoft",
    "conformance": "import anysoft_conformance, anysoft",  # the suite's package too, until it is asked for something
    "use": USE,
}


def _python(program: str, *before: Path) -> str:
    path = os.pathsep.join([*map(str, before), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _imported(program: str, names: list[str], *before: Path) -> list[str]:
    """Which of the named modules a process has after it ran the program."""
    return _python(
        f"{program}\nimport sys; print(*(name for name in {names!r} if name in sys.modules))", *before
    ).split()


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Modules by the frameworks' names, so that an import that hides in a ``try`` succeeds on a bare machine too."""
    for name in FRAMEWORKS:
        (tmp_path / f"{name}.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("program", CLAIMS.values(), ids=CLAIMS.keys())
def test_no_framework_is_imported(program: str, stubs: Path) -> None:
    assert _imported(program, FRAMEWORKS, stubs) == []


@pytest.mark.parametrize("program", [CLAIMS["import"], CLAIMS["use"]], ids=["import", "use"])
def test_nothing_of_the_extras_is_imported(program: str) -> None:
    assert _imported(program, EXTRAS) == []


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_proof_can_fail(name: str, stubs: Path) -> None:
    hidden = f"try:\n    import {name}\nexcept ImportError:\n    pass"
    assert _imported(f"{USE}\n{hidden}", FRAMEWORKS, stubs) == [name]


def test_numpys_adapter_is_loaded_with_its_first_array() -> None:
    adapters = [f"anysoft_backends._{name}" for name in ("numpy", "torch", "jax", "cupy")]
    assert _imported("import anysoft", adapters) == []
    assert _imported("import anysoft; anysoft.softmax([1, 2])", adapters) == ["anysoft_backends._numpy"]


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("torch", "torch.ones(3)", ["torch", "anysoft_backends._torch"]),
        ("jax", "jax.numpy.ones(3)", ["jax", "anysoft_backends._jax"]),
        ("array_api_strict", "array_api_strict.ones(3)", ["array_api_strict"]),
    ],
    ids=["torch", "jax", "array_api_strict"],
)
def test_one_framework_brings_no_other(name: str, array: str, expected: list[str]) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    names = ["torch", "jax", "cupy", "array_api_strict"]
    names += [f"anysoft_backends._{name}" for name in ("numpy", "torch", "jax", "cupy")]
    program = f"import {name}, anysoft; anysoft.softmax({array})"
    assert _imported(program, names) == expected


def test_a_framework_may_come_after_anysoft() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    program = "import anysoft, sys; anysoft.softmax([1, 2]); import torch; print(anysoft.softmax(torch.zeros(2)))"
    assert _python(program).strip() == str(torch.tensor([0.5, 0.5]))
