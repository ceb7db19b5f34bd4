"""logsumexp of a .npy file in constant memory: blocks of it, one at a time, and a state that is saved now and then.

The entries that are kept are cut into blocks, and for each of these the reduced ones: a block of results is finished
before the next begins, so that no more than one block of states is ever held. The last axes are cut last, so that what
is read lies together.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anysoft import LogSumExp
from anysoft import _arguments as arguments

BLOCK = 1 << 21  # entries that are read at a time
SAVE_EVERY = 5.0  # seconds
PRINTED = 10_000  # results that may go without a file

Array = np.ndarray[Any, Any]
Slices = tuple[slice, ...]


class BadReductionError(ValueError):
    """A file that cannot be reduced, or a state that is of another reduction; its text is one sentence."""


def reduce(
    file: Path,
    axis: int | tuple[int, ...] | None = None,
    *,
    out: Path | None = None,
    state: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Array | None:
    """logsumexp of a .npy file.

    Parameters
    ----------
    file : Path
    axis : int, tuple of int or None
    out : Path, optional
        Where the result goes, as a .npy file; it is needed for more than 10⁴ results.
    state : Path, optional
        A .npz file. If it is there, the work goes on from it; it is written every few seconds, and goes at the end.
    report : callable
        Is told how many bytes are done, and of how many.

    Returns
    -------
    numpy.ndarray or None
        The result, if there is no `out`.

    Raises
    ------
    BadReductionError
        If the file is no .npy file of real numbers, if the state is of another one or of another axis, if the results
        are too many to go without a file.
    numpy.exceptions.AxisError, ValueError
        For an axis out of range, and a repeated one.
    """
    x = _opened(file)
    axes = arguments.canonical_axes(axis, x.ndim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if out is None and math.prod(kept) > PRINTED:
        raise BadReductionError(f"the result is of {math.prod(kept)} numbers: name a file for it with --out")
    blocks = list(_blocks(x.shape, axes))
    identity = {"file": str(file.resolve()), "shape": list(x.shape), "dtype": x.dtype.str, "axes": sorted(axes)}
    identity |= {
        "out": None if out is None else str(out.resolve()),
        "bytes": file.stat().st_size,
        "modified": file.stat().st_mtime_ns,
        "block": BLOCK,
    }
    dtype = np.empty(0, x.dtype).astype(LogSumExp.from_array(np.zeros(1, x.dtype)).dtype).dtype
    results = _Results(out, kept, tuple(n for i, n in enumerate(x.shape) if i not in axes), dtype)
    resumed = state is not None and state.exists()
    begin, current, before = _resumed(state, identity, dtype) if state is not None and resumed else (0, None, None)
    results.begin(before, resumed=resumed)
    saved, total = time.monotonic(), max(x.nbytes, 1)
    done = sum(_size(block, x.shape) for _, block, _ in blocks[:begin]) * x.itemsize
    for place, (where, block, last) in enumerate(blocks[begin:], start=begin):
        chunk = np.array(_opened(file)[block])  # mapped anew: what was read does not stay in memory
        part = LogSumExp.from_array(chunk, axes, keepdims=True)
        current = part if current is None else current.merge(part)
        if last:
            results.put(where, current.value())
            current = None
        done += chunk.nbytes
        report(done, total)
        if state is not None and time.monotonic() - saved > SAVE_EVERY:
            _save(state, identity, place + 1, current, results.array)
            saved = time.monotonic()
    finished = results.finish()
    if state is not None:
        state.unlink(missing_ok=True)
    return finished


def _opened(file: Path) -> Array:
    try:
        x = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadReductionError(f"there is no file {file}") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadReductionError(f"{file} is no .npy file that can be mapped: {error}") from None
    if not isinstance(x, np.ndarray):
        raise BadReductionError(f"{file} holds several arrays: a .npy file holds one")
    if x.dtype.kind not in "fiub":
        raise BadReductionError(f"{file} is of {x.dtype}, and logsumexp here is of real numbers")
    return x


# ---------------------------------------------------------------------------------------------------------------------
# Blocks


def _blocks(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[Slices, Slices, bool]]:
    """Of each block: where its results go, what it is, and whether it is the last for these results."""
    sizes, left = [], BLOCK
    for n in reversed(shape):
        sizes.append(min(max(n, 1), left))
        left = max(left // max(n, 1), 1)
    cuts = [
        [slice(start, min(start + size, n)) for start in range(0, n, size)] or [slice(0, 0)]
        for n, size in zip(shape, reversed(sizes), strict=True)
    ]
    kept = [cut if i not in axes else [slice(0, 1)] for i, cut in enumerate(cuts)]
    for where in itertools.product(*kept):
        inner = [cuts[i] if i in axes else [where[i]] for i in range(len(shape))]
        count = math.prod(map(len, inner))
        for i, block in enumerate(itertools.product(*inner), start=1):
            yield where, block, i == count


def _size(block: Slices, shape: tuple[int, ...]) -> int:
    return math.prod(len(range(*cut.indices(n))) for cut, n in zip(block, shape, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# The result and the state


class _Results:
    """What is finished: in memory, or in a file that is mapped anew for each block, so as not to fill memory."""

    def __init__(self, out: Path | None, kept: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> None:
        self.out, self.kept, self.shape, self.dtype = out, kept, shape, dtype
        self.part = None if out is None else out.with_name(out.name + ".part")
        self.array: Array | None = None  # in memory, with the reduced axes of length one

    def begin(self, before: Array | None, *, resumed: bool) -> None:
        if self.part is None:
            self.array = np.full(self.kept, -np.inf, dtype=self.dtype) if before is None else before
        elif not resumed:
            np.lib.format.open_memmap(self.part, "w+", dtype=self.dtype, shape=self.shape)
        elif not self.part.exists():
            raise BadReductionError(f"{self.part}, the results so far, is gone: remove the state to begin again")

    def put(self, where: Slices, value: Array) -> None:
        if self.part is None:
            assert self.array is not None
            self.array[where] = value
        else:
            mapped = np.lib.format.open_memmap(self.part, "r+")
            mapped.reshape(self.kept)[where] = value
            mapped.flush()

    def finish(self) -> Array | None:
        if self.part is None:
            assert self.array is not None
            return self.array.reshape(self.shape)
        assert self.out is not None
        os.replace(self.part, self.out)
        return None


_WORDS = ("reference", "high", "middle", "low")


def _save(state: Path, identity: dict[str, Any], place: int, current: LogSumExp | None, results: Array | None) -> None:
    """Under another name first: a state that is half written is none."""
    arrays: dict[str, Any] = {"place": place, "identity": json.dumps(identity)}
    if current is not None:
        arrays |= {name: getattr(current, name) for name in _WORDS}
    if results is not None:
        arrays["results"] = results
    partial = state.with_name(state.name + ".part")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, state)


def _resumed(state: Path, identity: dict[str, Any], dtype: Any) -> tuple[int, LogSumExp | None, Any]:
    try:
        with np.load(state, allow_pickle=False) as saved:
            content = {name: saved[name] for name in saved.files}
        before = json.loads(str(content["identity"]))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadReductionError(f"{state} is no state of a reduction: {error}") from None
    for name, value in identity.items():
        if before.get(name) != value:
            raise BadReductionError(
                f"{state} is of another reduction: {name} was {before.get(name)!r}, and is {value!r}"
            )
    current = None
    if "high" in content:
        current = LogSumExp.tree_unflatten(dtype, (content[name] for name in _WORDS))
    return int(content["place"]), current, content.get("results")
