"""CuPy's adapter as far as it goes without a GPU: it imports, says what it refuses, and has no device to offer."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from anysoft import registry

cupy = pytest.importorskip("cupy", reason="cupy is not installed")


@pytest.fixture
def rows() -> dict[str, registry.FastPath]:
    adapter: Any = importlib.import_module("anysoft_backends._cupy")
    return {path.operation: path for path in adapter.BACKEND.fast_paths}


def test_every_native_row_is_for_comparison_only(rows: dict[str, registry.FastPath]) -> None:
    assert {"logsumexp", "softmax", "log_softmax", "logaddexp", "sigmoid"} <= set(rows)
    for row in rows.values():
        assert row.call is None
        assert isinstance(row.guard(np.zeros(3), -1, None, None, None), str)


def test_the_natives_have_the_arguments_that_the_adapter_passes(rows: dict[str, registry.FastPath]) -> None:
    for row in rows.values():
        module, _, name = row.name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    where = np.array([True])
    assert rows["logsumexp"].raw is not None
    with pytest.raises(LookupError, match="no where"):
        rows["logsumexp"].raw(np.zeros(1), -1, where, None, None, False, False)
    assert rows["softmax"].raw is not None
    with pytest.raises(LookupError, match="only an axis"):
        rows["softmax"].raw(np.zeros(1), -1, None, 2.0, None)


def test_devices() -> None:
    here = next(one for one in registry.installed() if one.name == "cupy")
    assert here.version == cupy.__version__
    assert bool(here.devices) == (here.reason is None)


def test_the_generators_of_others_are_refused() -> None:
    adapter: Any = importlib.import_module("anysoft_backends._cupy")
    with pytest.raises(TypeError, match=r"cupy.random.Generator"):
        adapter.BACKEND.random_bits(np.random.default_rng(1), (3,), None)
