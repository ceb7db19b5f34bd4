"""The logits that a comparison runs on: a user's file, or the real ones that ship with the package."""

from __future__ import annotations

import csv
import zipfile
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

SHIPPED = "the decision values of a classifier on scikit-learn's digits"


class BadFileError(ValueError):
    """A file that holds no logits; its text is one sentence that names the file and what is wrong with it."""


def shipped() -> FloatArray:
    """The decision values of a multinomial logistic regression on scikit-learn's digits.

    Returns
    -------
    ndarray of float64, shape (1797, 10)
        One row an image, one column a class. ``data/digits_logits.md`` says how they were made.
    """
    with resources.as_file(resources.files(__package__) / "data" / "digits_logits.npy") as path:
        logits: FloatArray = np.load(path, allow_pickle=False)
        return logits


def load(path: Path, key: str | None = None) -> FloatArray:
    """Read logits from a file.

    Parameters
    ----------
    path : Path
        A ``.npy``, ``.npz`` or ``.csv`` file of real numbers; NaN and infinities are numbers too. A CSV file has one
        row a line, and may have one line of names above them.
    key : str, optional
        Which array of an ``.npz`` file; needed where it holds more than one.

    Returns
    -------
    ndarray of float64
        At least one-dimensional. Nothing is ever unpickled.

    Raises
    ------
    BadFileError
        If there is no such file, or what it holds is not a rectangular, non-empty array of real numbers.
    """
    readers = {".npy": _read_npy, ".npz": lambda p: _read_npz(p, key), ".csv": _read_csv}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise BadFileError(f"{path} is none of .npy, .npz and .csv")
    if key is not None and suffix != ".npz":
        raise BadFileError(f"{path} is no .npz file, so it has no array named {key!r}")
    if path.is_dir():
        raise BadFileError(f"{path} is a folder, not a file")
    try:
        values = readers[suffix](path)
    except FileNotFoundError:
        raise BadFileError(f"{path} does not exist") from None
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise BadFileError(f"{path} holds more than fits into memory") from None
    return _as_logits(values, path)


def _as_logits(values: np.ndarray[Any, Any], path: Path) -> FloatArray:
    if values.dtype.kind not in "iuf":
        kind = {"b": "booleans", "c": "complex numbers", "O": "Python objects"}.get(values.dtype.kind, "no numbers")
        raise BadFileError(f"{path} holds {kind} ({values.dtype}) where logits are real numbers")
    if values.size == 0:
        raise BadFileError(f"{path} is empty: its shape is {values.shape}")
    with np.errstate(over="ignore"):
        return np.atleast_1d(values).astype(np.float64)


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    with path.open("rb") as file:
        return _read_array(file, str(path))


def _read_array(file: IO[bytes], name: str) -> np.ndarray[Any, Any]:
    try:
        np.lib.format.read_magic(file)
    except ValueError:
        raise BadFileError(f"{name} is not in NumPy's .npy format") from None
    file.seek(0)
    try:
        values: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error):
            raise BadFileError(f"{name} holds pickled Python objects, which are never loaded") from None
        raise BadFileError(f"{name} is damaged: {_first_line(error)}") from None
    except (EOFError, SyntaxError, TypeError) as error:
        raise BadFileError(f"{name} is damaged: {_first_line(error)}") from None
    return values


def _read_npz(path: Path, key: str | None) -> np.ndarray[Any, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            if key is None and len(keys) != 1:
                there = f"{len(keys)} arrays ({', '.join(keys)})" if keys else "no array"
                raise BadFileError(f"{path} holds {there}: name one with --key")
            if key is not None and key not in keys:
                raise BadFileError(f"{path} has no array named {key!r}, but {', '.join(keys) or 'none at all'}")
            member = archive.namelist()[keys.index(key) if key is not None else 0]
            with archive.open(member) as file:
                return _read_array(file, f"{path} ({member.removesuffix('.npy')})")
    except zipfile.BadZipFile:
        raise BadFileError(f"{path} is not in NumPy's .npz format") from None


def _read_csv(path: Path) -> np.ndarray[Any, Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
        except UnicodeDecodeError:
            raise BadFileError(f"{path} is not text in UTF-8") from None
        except csv.Error as error:
            raise BadFileError(f"{path} is no CSV file: {error} in line {reader.line_num}") from None
    if not lines:
        raise BadFileError(f"{path} is empty")
    if len(lines) > 1 and all(_number(cell) is None for cell in lines[0][1]):
        del lines[0]  # a line of names
    first, width = lines[0][0], len(lines[0][1])
    rows: list[list[float]] = []
    for line, cells in lines:
        if len(cells) != width:
            raise BadFileError(f"{path} is ragged: line {line} has {len(cells)} values and line {first} has {width}")
        numbers = [_number(cell) for cell in cells]
        if None in numbers:
            column = numbers.index(None)
            text = cells[column].strip()[:40]
            raise BadFileError(f"{path} line {line}, column {column + 1}: {text!r} is not a number")
        rows.append([number for number in numbers if number is not None])
    return np.array(rows, dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
