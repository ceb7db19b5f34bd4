"""How the suite's test run is set up: what is here in the header, float64 for JAX, and the known failures."""

from __future__ import annotations

import fnmatch
import importlib
import tomllib
from pathlib import Path

import pytest

from anysoft_conformance.rows import DTYPES, present

KNOWN_FAILURES = Path(__file__).with_name("known_failures.toml")


def pytest_configure(config: pytest.Config) -> None:
    if present("jax") is None:
        importlib.import_module("jax").config.update("jax_enable_x64", True)


def pytest_report_header() -> list[str]:
    """Versions and devices, one line a backend; absent ones with the reason."""
    lines = []
    for backend in DTYPES:
        if reason := present(backend):
            lines.append(f"{backend}: absent, {reason}")
            continue
        version = getattr(importlib.import_module(backend), "__version__", "")
        lines.append(f"{backend}: {version} on {', '.join(devices(backend))}")
    return lines


def devices(backend: str) -> list[str]:
    """The devices of a backend that is here."""
    return sorted({row.values[0].device for row in importlib.import_module("anysoft_conformance.rows").rows(backend)})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    failures = tomllib.loads(KNOWN_FAILURES.read_text()).get("failure", [])
    for failure in failures:
        # ids hold brackets, which a glob would read as a set of characters
        patterns = [pattern.replace("[", "[[]") for pattern in failure["tests"]]
        for item in items:
            if any(fnmatch.fnmatchcase(item.name, pattern) for pattern in patterns):
                reason = f"{failure['cause']} ({failure['link']})"
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
