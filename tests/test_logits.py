"""Reading logits: every file that is none gets one sentence; and the real ones that ship with the package."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import logits

SCRIPT = Path(__file__).parent.parent / "conformance" / "make_digits_logits.py"


def _text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content, encoding="utf-8")


def _array(values: Any) -> Callable[[Path], Any]:
    return lambda path: np.save(path, np.asarray(values))


def _cut(path: Path) -> None:
    np.save(path, np.zeros((100, 10)))
    path.write_bytes(path.read_bytes()[:500])


# name, what makes the file, what the sentence says
BAD = [
    ("none.npy", lambda path: None, "does not exist"),
    ("folder.npy", Path.mkdir, "is a folder, not a file"),
    ("logits.txt", _text("1 2"), "none of .npy, .npz and .csv"),
    ("text.npy", _text("1,2"), "not in NumPy's .npy format"),
    ("text.npz", _text("1,2"), "not in NumPy's .npz format"),
    ("cut.npy", _cut, "is damaged"),
    ("objects.npy", _array([{}, None]), "pickled Python objects, which are never loaded"),
    ("objects.npz", lambda path: np.savez(path, a=np.array([None])), "pickled Python objects"),
    ("two.npz", lambda path: np.savez(path, a=[1.0], b=[2.0]), r"2 arrays \(a, b\): name one with --key"),
    ("none.npz", lambda path: np.savez(path), "no array"),
    ("empty.npy", _array(np.zeros((0, 10))), r"is empty: its shape is \(0, 10\)"),
    ("complex.npy", _array([1j]), "holds complex numbers"),
    ("strings.npy", _array(["1", "2"]), "holds no numbers"),
    ("booleans.npy", _array([True]), "holds booleans"),
    ("empty.csv", _text("\n"), "is empty"),
    ("ragged.csv", _text("1,2,3\n4,5,6\n7,8\n"), "is ragged: line 3 has 2 values and line 1 has 3"),
    ("words.csv", _text("1,2\n3,four\n"), "line 2, column 2: 'four' is not a number"),
    ("hole.csv", _text("1,2\n3,\n"), "line 2, column 2: '' is not a number"),
    ("bytes.csv", lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "is not text in UTF-8"),
]


@pytest.mark.parametrize(("name", "make", "says"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_file_gets_one_sentence(tmp_path: Path, name: str, make: Callable[[Path], Any], says: str) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(logits.BadFileError, match=says) as error:
        logits.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name, save in (("trap.npy", np.save), ("trap.npz", np.savez)):
        save(tmp_path / name, np.array([Trap()], dtype=object), allow_pickle=True)
        with pytest.raises(logits.BadFileError, match="never loaded"):
            logits.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "uint16", ">f8"])
def test_numbers_of_every_kind_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", only=values)
    np.savez(tmp_path / "two.npz", one=values, two=values + 1)
    for found in (
        logits.load(tmp_path / "a.npy"),
        logits.load(tmp_path / "a.npz"),
        logits.load(tmp_path / "two.npz", key="one"),
    ):
        assert found.dtype == np.float64
        assert np.array_equal(found, values)
    with pytest.raises(logits.BadFileError, match="has no array named 'three', but one, two"):
        logits.load(tmp_path / "two.npz", key="three")
    with pytest.raises(logits.BadFileError, match=r"is no \.npz file"):
        logits.load(tmp_path / "a.npy", key="one")


def test_special_values_and_names_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffcat,dog\n1,nan\n\n-inf, 2.5e3\n", encoding="utf-8")
    found = logits.load(tmp_path / "a.csv")
    assert np.array_equal(found, [[1.0, np.nan], [-np.inf, 2500.0]], equal_nan=True)


def test_a_single_number_is_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", 3.0)
    assert logits.load(tmp_path / "a.npy").shape == (1,)


def test_the_shipped_logits() -> None:
    shipped = logits.shipped()
    assert shipped.shape == (1797, 10)
    assert shipped.dtype == np.float64
    assert np.isfinite(shipped).all()
    assert np.ptp(shipped) > 30  # real logits of a confident model
    folder = resources.files("anysoft_conformance") / "data"
    assert len((folder / "digits_logits.npy").read_bytes()) < 200_000
    provenance = (folder / "digits_logits.md").read_text(encoding="utf-8")
    for fact in ("logistic regression", "scikit-learn", "make_digits_logits.py", "CC BY 4.0", "10.24432/C50P49"):
        assert fact in provenance


@pytest.mark.skipif(not SCRIPT.exists(), reason="the script is in the repository, not in an installed package")
def test_the_script_makes_them() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    made, accuracy = runpy.run_path(str(SCRIPT))["digits_logits"]()
    assert accuracy > 0.95
    assert np.allclose(made, logits.shipped(), atol=0.05)  # versions of scikit-learn stop the solver elsewhere
