"""Threads for NumPy's kernels, whose loops run without Python's lock: ``options(workers=n)``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

_POOLS: list[tuple[int, ThreadPoolExecutor]] = []  # one at most, and how many threads it may have
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)  # a forked process has none of the threads


def _pool(threads: int) -> ThreadPoolExecutor:
    if not _POOLS or _POOLS[0][0] < threads:
        _POOLS[:] = [(threads, ThreadPoolExecutor(threads, "anysoft"))]  # the threads of another end with its work
    return _POOLS[0][1]


def share(work: Callable[[Any, Any], Any], items: Sequence[Any], rooms: list[Any]) -> list[Any]:
    """``work(item, room)`` of each item, as many at once as there are rooms to work in; the results in order."""
    if len(rooms) == 1 or len(items) == 1:
        return [work(item, rooms[0]) for item in items]
    numbered = [*enumerate(items)]
    results: list[Any] = [None] * len(numbered)
    waiting = iter(numbered)  # from which each takes the next: list iterators are atomic

    def take(room: Any) -> None:
        for i, item in waiting:
            results[i] = work(item, room)

    pool = _pool(len(rooms) - 1)
    others = [pool.submit(copy_context().run, take, room) for room in rooms[1:]]  # numpy.errstate is in the context
    try:
        take(rooms[0])
    finally:
        for other in others:
            other.result()
    return results
