"""The rows that a test runs on, made in one place: every (backend, device, dtype) that is here, a skip for the rest."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

Array = Any

# what each backend has of the dtypes that the contract names
DTYPES = {
    "numpy": ("float64", "float32", "float16"),
    "torch": ("float64", "float32", "float16", "bfloat16"),
    "jax": ("float64", "float32", "float16", "bfloat16"),
    "cupy": ("float64", "float32", "float16"),
    "array_api_strict": ("float64", "float32"),
}


@dataclass(frozen=True)
class Row:
    """One backend, device and dtype: arrays go in and come out through it."""

    backend: str
    device: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}-{self.dtype}"

    @property
    def xp(self) -> Any:
        """The backend's namespace, as its users import it."""
        return importlib.import_module("jax.numpy" if self.backend == "jax" else self.backend)

    def array(self, values: Any, dtype: str | None = None) -> Array:
        """An array of this row's dtype (or another) on its device, holding `values` exactly."""
        xp, name = self.xp, dtype or self.dtype
        host = np.asarray(values)
        if self.backend in ("numpy", "cupy"):
            return xp.asarray(host.astype(name))
        if self.backend == "torch":
            # torch keeps NumPy's strides, so that layouts survive
            return xp.from_numpy(host).to(device=self.device, dtype=getattr(xp, name))
        if self.backend == "jax":
            return xp.asarray(host).astype(name)
        return xp.asarray(host.astype(name), device=xp.Device(self.device))

    def host(self, array: Array) -> np.ndarray[Any, Any]:
        """A result as a NumPy array, widened to float64 if it is real."""
        if self.backend == "torch":
            array = array.detach().cpu()
            return np.asarray(array.numpy() if array.is_complex() else array.double().numpy())
        if self.backend == "cupy":
            array = array.get()
        if self.backend == "array_api_strict":
            array = array.to_device(self.xp.Device("CPU_DEVICE"))
        host = np.asarray(array)
        return host if np.iscomplexobj(host) else host.astype(np.float64)

    def assert_kept(self, result: Array, shape: tuple[int, ...], dtype: str | None = None) -> None:
        """Namespace, dtype, shape and device of a result, before anybody looks at its values."""
        kinds = (np.ndarray, np.generic) if self.backend == "numpy" else type(self.array([0.0]))
        assert isinstance(result, kinds), f"{type(result)} is no array of {self.backend}"
        assert str(result.dtype).rpartition(".")[2] == (dtype or self.dtype)
        assert tuple(result.shape) == shape
        if self.backend not in ("numpy", "jax"):
            assert str(result.device).rpartition(".")[2].strip("'<>") in (self.device, f"Device({self.device!r})")


@cache
def present(backend: str) -> str | None:
    """None if a backend can compute here, or the reason why not."""
    if importlib.util.find_spec(backend) is None:
        return f"{backend} is not installed"
    if backend == "cupy":
        import cupy

        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return f"cupy finds no GPU ({error})"
    return None


def _devices(backend: str) -> Iterator[str]:
    if backend == "torch":
        torch = importlib.import_module("torch")
        yield from ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))
    elif backend == "array_api_strict":
        yield from ("CPU_DEVICE", "device1")  # two, so that a result on the wrong one is seen on any machine
    else:
        yield "cuda:0" if backend == "cupy" else "cpu"


def rows(*backends: str, dtypes: tuple[str, ...] = ()) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`; an absent backend is one skip with its reason.

    Parameters
    ----------
    *backends : str
        Which; all of them if left out.
    dtypes : tuple of str
        Which; all that a backend has if left out.
    """
    found = []
    for backend in backends or tuple(DTYPES):
        if reason := present(backend):
            found.append(pytest.param(None, id=backend, marks=pytest.mark.skip(reason=reason)))
            continue
        for device in _devices(backend):
            for dtype in DTYPES[backend]:
                if not dtypes or dtype in dtypes:
                    row = Row(backend, device, dtype)
                    found.append(pytest.param(row, id=str(row)))
    return found
