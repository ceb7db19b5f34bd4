"""The rows that everything runs on, made in one place: every (backend, device, dtype) that is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from anysoft_conformance.frameworks import AbsentBackendError, Framework, Present, present

Array = Any


@dataclass(frozen=True)
class Row:
    """One backend, device and dtype: arrays go in and come out through it."""

    framework: Framework
    dtype: str

    @property
    def backend(self) -> str:
        """The framework's name."""
        return self.framework.name

    @property
    def device(self) -> str:
        """The device's name."""
        return self.framework.device

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}-{self.dtype}"

    @property
    def xp(self) -> Any:
        """The backend's namespace, as its users import it."""
        return self.framework.xp

    def array(self, values: Any, dtype: str | None = None) -> Array:
        """An array of this row's dtype (or another) on its device, holding `values` exactly."""
        return self.framework.asarray(np.asarray(values), dtype or self.dtype)

    def host(self, array: Array) -> np.ndarray[Any, Any]:
        """A result as a NumPy array, widened to float64 if it is real."""
        return self.framework.host(array)

    def misplaced(self, result: Array, shape: tuple[int, ...], dtype: str | None = None) -> str | None:
        """What is wrong with a result before anybody looks at its values; None if nothing is."""
        dtype = dtype or self.dtype
        kinds = (np.ndarray, np.generic) if self.backend == "numpy" else type(self.array([0.0]))
        if not isinstance(result, kinds):
            return f"namespace: {type(result).__module__}.{type(result).__qualname__} is no array of {self.backend}"
        if (found := str(result.dtype).rpartition(".")[2]) != dtype:
            return f"dtype: {found} where {dtype} is right"
        if tuple(result.shape) != shape:
            return f"shape: {tuple(result.shape)} where {shape} is right"
        if (place := self.framework.device_of(result)) != self.device:
            return f"device: {place} where the input is on {self.device}"
        return None

    def assert_kept(self, result: Array, shape: tuple[int, ...], dtype: str | None = None) -> None:
        """Namespace, dtype, shape and device of a result, before anybody looks at its values."""
        assert not (wrong := self.misplaced(result, shape, dtype)), wrong


@cache
def _everything() -> Present:
    return present()


def find(
    backends: Sequence[str] = (), devices: Sequence[str] = (), dtypes: Sequence[str] = ()
) -> tuple[list[Row], dict[str, str]]:
    """The rows that are here.

    Parameters
    ----------
    backends, dtypes : sequence of str
        Only these; all if empty.
    devices : sequence of str
        Only these; ``cuda`` is every ``cuda:i``.

    Returns
    -------
    rows : list of Row
    absent : dict of str to str
        The reason why a backend that nobody asked for by name is not here.

    Raises
    ------
    AbsentBackendError
        If one of the backends or devices was asked for by name and is not here, or nothing is left to run.
    """
    found = present(*backends) if backends else _everything()
    here = [one for one in found.frameworks if not devices or any(_is_on(one, device) for device in devices)]
    for device in devices:
        if not any(_is_on(one, device) for one in here):
            there = ", ".join(dict.fromkeys(one.device for one in found.frameworks))
            raise AbsentBackendError(f"no backend has a device {device!r}; there are {there or 'none'}")
    rows = [Row(one, dtype) for one in here for dtype in one.dtypes if not dtypes or dtype in dtypes]
    if not rows:
        raise AbsentBackendError(f"there is nothing to run on: no backend here has {', '.join(dtypes) or 'any dtype'}")
    return rows, found.absent


def versions() -> dict[str, str]:
    """The versions of the frameworks that are here."""
    return _everything().versions


def _is_on(one: Framework, device: str) -> bool:
    return device in (one.device, one.device.partition(":")[0])


def rows(*backends: str, dtypes: tuple[str, ...] = ()) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`; an absent backend is one skip with its reason.

    Parameters
    ----------
    *backends : str
        Which; all of them if left out.
    dtypes : tuple of str
        Which; all that a backend has if left out.
    """
    import pytest

    here, absent = find()
    found = [
        pytest.param(row, id=str(row))
        for row in here
        if (not backends or row.backend in backends) and (not dtypes or row.dtype in dtypes)
    ]
    skipped = {name: reason for name, reason in absent.items() if not backends or name in backends}
    return found + [
        pytest.param(None, id=name, marks=pytest.mark.skip(reason=reason)) for name, reason in skipped.items()
    ]
