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
    assert set(rows) == {"logsumexp", "softmax", "log_softmax"}
    for operation, row in rows.items():
        assert row.call is None
        assert row.name == f"cupyx.scipy.special.{operation}"
        verdict = row.guard(np.zeros(3), -1, None, None, None)
        assert isinstance(verdict, str)
        assert operation in verdict


def test_the_natives_have_the_arguments_that_the_adapter_passes(rows: dict[str, registry.FastPath]) -> None:
    special = importlib.import_module("cupyx.scipy.special")
    for operation in rows:
        assert callable(getattr(special, operation))
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
