"""The entry point for pytest, in every run of an environment where anysoft is installed: it must cost nothing there.

With ``--pyargs`` pytest reads no conftest early enough for its options. This brings them, where the suite is named.
"""

from __future__ import annotations

import pytest


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Load the suite's plugin where the command line names the suite."""
    if any("anysoft_conformance" in argument for argument in args):
        early_config.pluginmanager.import_plugin("anysoft_conformance.plugin")
