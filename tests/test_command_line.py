"""The command line, as a user meets it: its sentences, its exit codes, its table, its JSON and its page."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import compare, oracle
from anysoft_conformance.commands import app
from anysoft_conformance.compare import ratio, ulp
from anysoft_conformance.questions import QUESTIONS
from anysoft_conformance.subjects import SUBJECTS
from typer.testing import CliRunner, Result

import anysoft

EXTRA_IMPORT = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; "
MAIN = "from anysoft_conformance.cli import main; main()"


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EXTRA_IMPORT + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _without(*modules: str) -> str:
    return f"sys.modules.update(dict.fromkeys({modules!r})); sys.argv[0] = 'anysoft'; "


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "TIMING_SECONDS", 0.0)


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    path = tmp_path / "logits.npy"
    np.save(path, np.array([[0.0, -40.0, -50.0], [3.0, 2.0, 1.0]]))
    return path


@pytest.fixture
def small(logits: Path) -> list[str]:
    return [str(logits), "--backend", "numpy", "--dtype", "float64"]


# ---------------------------------------------------------------------------------------------------------------------
# Sentences and exit codes


def _assert_sentence(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("anysoft: ")
    for part in parts:
        assert part in result.stderr


def test_version() -> None:
    assert _run("--version").stdout == f"{anysoft.__version__}\n"


def test_help_names_the_commands_and_imports_no_framework() -> None:
    done = _python(
        "import anysoft_conformance.commands as c; from typer.testing import CliRunner;"
        "print(CliRunner().invoke(c.app, ['--help']).output);"
        "print([m for m in ('torch', 'jax', 'cupy', 'numpy', 'mpmath') if m in sys.modules])"
    )
    assert "backends" in done.stdout
    assert "compare" in done.stdout
    assert done.stdout.rstrip().endswith("[]"), done


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    done = _python(_without(missing) + MAIN, "backends")
    assert done.returncode == 2
    assert done.stderr == f"anysoft: the command line needs {missing}; pip install 'anysoft[compare]'\n"


def test_without_a_high_precision_library() -> None:
    done = _python(_without("gmpy2", "mpmath") + MAIN, "compare")
    assert done.returncode == 2
    assert done.stderr == "anysoft: the command line needs mpmath; pip install 'anysoft[compare]'\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("none.npy", None), ("words.csv", "1,two\n"), ("ragged.csv", "1,2\n3\n"), ("empty.csv", ""), ("a.txt", "1")],
)
def test_a_bad_file(tmp_path: Path, name: str, content: str | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    _assert_sentence(_run("compare", path), str(path))


def test_a_file_of_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([None]), allow_pickle=True)
    _assert_sentence(_run("compare", tmp_path / "a.npy"), "never loaded")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--axis", "2"], ("axis 2 is out of range", "(2, 3)")),
        (["--temperature", "-1"], ("temperature", "-1.0")),
        (["--temperature", "nan"], ("temperature", "nan")),
        (["--dtype", "int8"], ("'int8'", "bfloat16")),
        (["--function", "softermax"], ("'softermax'", "log_softmax", "sigmoid")),
        (["--backend", "nosuch"], ("'nosuch'", "numpy")),
        (["--backend", "numpy", "--dtype", "bfloat16"], ("bfloat16", "numpy")),
        (["--key", "a"], ("is no .npz file",)),
        (["--html", "nosuchfolder/page.html"], ("nosuchfolder/page.html cannot be written",)),
        (["--json", "."], ("it is a folder",)),
    ],
)
def test_a_bad_option(logits: Path, arguments: list[str], parts: tuple[str, ...]) -> None:
    _assert_sentence(_run("compare", logits, *arguments), *parts)


def test_an_absent_framework(logits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find(name))
    _assert_sentence(_run("compare", logits, "--backend", "cupy"), "cupy is not installed", "pip install 'anysoft[cupy")
    result = _run("compare", logits, "--dtype", "float32")
    assert result.exit_code == 0
    assert "cupy is not installed" in result.stdout  # nobody asked: named, with the reason


# ---------------------------------------------------------------------------------------------------------------------
# What compare measures


def _json(*arguments: str) -> dict[str, Any]:
    result = _run("compare", *arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_the_shape_of_the_json(small: list[str]) -> None:
    content = _json(*small)
    assert content["anysoft"] == anysoft.__version__
    assert content["logits"] == {
        "source": small[0],
        "shape": [2, 3],
        "axis": -1,
        "temperature": 1.0,
        "rows": 2,
        "judged_rows": 2,
        "judged_per_row": 3,
    }
    assert content["truth"].startswith(("gmpy2", "mpmath"))
    assert content["versions"]["numpy"] == np.__version__
    assert [(row["framework"], row["function"], row["dtype"]) for row in content["rows"]] == [
        ("numpy", function, "float64") for function in ("logsumexp", "softmax", "log_softmax")
    ]
    for row in content["rows"]:
        assert row["anysoft"].keys() == {"name", "worst", "median", "stray", "outside", "seconds"}
        assert row["anysoft"]["outside"] == 0
        assert row["anysoft"]["seconds"] > 0


def test_it_sees_what_the_natives_lose(logits: Path) -> None:
    for row in _json(str(logits), "--dtype", "float64")["rows"]:
        assert row["anysoft"]["outside"] == 0, row
        assert row["anysoft"]["worst"] < 4, row
        if row["native"] is None:
            assert row["missing"]
            assert row["time_ratio"] is None
        elif row["function"] == "log_softmax":  # log_softmax([0, -40]) has 0 where -4.2e-18 is right
            assert row["native"]["worst"] > 1e15, row
            assert row["native"]["outside"] > 0


def _default_float_of_jax() -> str | None:
    if importlib.util.find_spec("jax") is None:
        return None
    import jax.numpy

    return str(jax.numpy.zeros(1).dtype)


def test_every_installed_framework_has_its_rows(logits: Path) -> None:
    before = _default_float_of_jax()
    content = _json(str(logits))
    built_in = {"numpy", "torch", "jax", "cupy"}  # other tests may have registered more
    found = {one.name: one.reason for one in anysoft.registry.installed() if one.name in built_in}
    assert {row["framework"] for row in content["rows"]} & built_in == {name for name in found if not found[name]}
    assert {name: content["absent"].get(name) for name in found} == found
    if not found["jax"]:
        assert _default_float_of_jax() == before  # compare left the process as it was
        assert {row["dtype"] for row in content["rows"] if row["framework"] == "jax"} == set(oracle.FORMATS)


def test_wrong_special_values_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: NumPy has no native to be wrong")
    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0], [-np.inf, 0.0], [np.nan, 1.0], [np.inf, 1.0]]))
    arguments = (str(tmp_path / "a.npy"), "--backend", "numpy", "--dtype", "float32", "--temperature", "0")
    rows = {row["function"]: row for row in _json(*arguments)["rows"]}
    assert rows["softmax"]["native"]["stray"] == 4  # x / 0 is no temperature of 0
    assert rows["softmax"]["anysoft"]["stray"] == 0
    assert rows["logsumexp"]["native"]["stray"] == 0


def test_axis_and_temperature(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(3, 4, 5)) * 9)
    for axis in ("0", "1", "-1"):
        for temperature in ("1", "0.3", "inf"):
            content = _json(str(tmp_path / "a.npy"), "--backend", "numpy", "--axis", axis, "--temperature", temperature)
            assert all(row["anysoft"]["outside"] == 0 for row in content["rows"])
            assert any("takes no temperature" in note for note in content["notes"]) == (temperature != "1")


def test_every_function_has_a_question() -> None:
    assert {*oracle.FUNCTIONS, *QUESTIONS} == set(SUBJECTS)


def test_every_function_on_the_same_logits(logits: Path, tmp_path: Path) -> None:
    files = "--json", tmp_path / "c.json", "--html", tmp_path / "c.html"
    result = _run("compare", logits, "--function", "all", "--backend", "numpy", "--dtype", "float64", *files)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["rows"]
    assert {row["function"] for row in rows} == {*oracle.FUNCTIONS, *QUESTIONS}
    for row in rows:
        assert (row["anysoft"]["outside"], row["anysoft"]["stray"]) == (0, 0), row
        assert row["anysoft"]["worst"] is not None
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    for name, question in QUESTIONS.items():
        assert f"<h3>{name}</h3>" in page
        assert name in result.stdout
        assert f": {question.asked}." in " ".join(result.stdout.split())


def test_only_the_functions_that_are_named(logits: Path) -> None:
    result = _run("compare", logits, "--function", "sigmoid", "--backend", "numpy", "--dtype", "float64", "--json", "-")
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["function"], row["native"]["name"]) == ("sigmoid", "scipy.special.expit")


def test_a_sample_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "JUDGED_LOGITS", 20)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 5)))
    content = _json(str(tmp_path / "a.npy"), "--backend", "numpy", "--dtype", "float32")
    assert content["logits"]["judged_rows"] == 4
    assert content["notes"][0] == "Errors are of 4 of the 50 rows, evenly spread; times are of all."
    np.save(tmp_path / "b.npy", np.random.default_rng(0).normal(size=100))
    content = _json(str(tmp_path / "b.npy"), "--backend", "numpy", "--dtype", "float32")
    assert content["notes"][0] == "Errors are of 20 of the 100 entries, evenly spread; times are of all."
    assert all(row["anysoft"]["outside"] == 0 for row in content["rows"])


def test_a_native_that_fails_leaves_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: Any, axis: int) -> Any:
        raise RuntimeError("not implemented for 'Half'\nlong tail")

    monkeypatch.setattr(compare, "native", lambda name, function: (function, broken))
    found = compare.compare(np.zeros((2, 2)), backends=["numpy"], dtypes=["float16"])
    assert found.rows[0].native is None
    names = "logsumexp, softmax, log_softmax"
    assert found.notes == [f"–: numpy fails at {names} of float16: not implemented for 'Half'."]


# ---------------------------------------------------------------------------------------------------------------------
# What a reader sees


def test_the_table(small: list[str]) -> None:
    result = _run("compare", *small)
    assert result.exit_code == 0, result.output
    assert "2 × 3" in result.stdout
    for word in ("logsumexp", "softmax", "log_softmax", "float64", "numpy", "time"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "…" not in result.stdout


def test_the_shipped_logits_on_numpy_alone() -> None:
    absent = _without("torch", "jax", "cupy", "scipy", "gmpy2")
    done = _python(absent + MAIN, "compare", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress where nobody watches
    assert "1797 × 10" in done.stdout
    assert "mpmath" in done.stdout
    assert "–: NumPy has no function of its own, and SciPy" in done.stdout
    assert "torch is not installed; pip install 'anysoft[torch]'" in done.stdout


class _Page(HTMLParser):
    """What a page refers to, and what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.refers += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


def test_the_page_is_self_contained(logits: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    named = logits.rename(tmp_path / "<script>.npy")
    assert _run("compare", named, "--backend", "numpy", "--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    parsed = _Page(text)
    assert parsed.refers == []
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert parsed.tags.count("svg") >= 9
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "&lt;script&gt;.npy" in text
    assert not re.search(r"\b(nan|inf)%|=\"(nan|inf)", text)


@pytest.mark.parametrize(
    "values",
    [[0.0], [[np.nan, 1.0]], [[-np.inf, -np.inf]], [[1e308, -1e308], [1e5, -3e38]], [[5e-324, 0.0]], [[7.0] * 3] * 2],
)
def test_the_page_of_strange_logits(values: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(values))
    for temperature in ("1", "0"):
        arguments = ("--backend", "numpy", "--temperature", temperature, "--html", tmp_path / "a.html")
        result = _run("compare", tmp_path / "a.npy", *arguments)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "a.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_numbers_at_a_glance() -> None:
    assert [ulp(e) for e in (None, 0.0, 0.504, 12.34, 255.4, 6.3e6, 5.5e15, 1e300)] == [
        *("–", "0.00", "0.50", "12.3", "255", "6.3e6", "5.5e15", "1.0e300")
    ]
    assert [ratio(r) for r in (None, 0.5, 3.14159, 12.4)] == ["–", "0.50", "3.14", "12"]


# ---------------------------------------------------------------------------------------------------------------------
# anysoft backends


def test_backends() -> None:
    result = _run("backends")
    assert result.exit_code == 0, result.output
    assert f"numpy {np.__version__}" in result.stdout
    for found in anysoft.registry.installed():
        assert (found.reason or found.name) in result.stdout


def test_backends_as_json(tmp_path: Path) -> None:
    assert _run("backends", "--json", tmp_path / "b.json").exit_code == 0
    content = {one["name"]: one for one in json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))}
    assert content.keys() >= {"numpy", "torch", "jax", "cupy"}
    numpy = content["numpy"]
    assert (numpy["version"], numpy["reason"]) == (np.__version__, None)
    offered = {path["function"] for path in numpy["fast_paths"]}
    for path in numpy["paths"]:
        assert path.keys() == {"function", "path", "dtypes", "reasons"}
        assert path["path"] != "generic" or bool(path["reasons"]) == (path["function"] in offered)
    assert {path["function"] for path in numpy["paths"]} == {*oracle.FUNCTIONS, *QUESTIONS}
