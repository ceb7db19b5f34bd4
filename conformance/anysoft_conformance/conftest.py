"""Brings the suite's pytest plugin along, however pytest came here."""

import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Idempotent: with `--pyargs` the entry point has done it already."""
    pluginmanager.import_plugin("anysoft_conformance.plugin")
