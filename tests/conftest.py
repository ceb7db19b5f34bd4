"""The same header and the same set-up as the suite's."""

from anysoft_conformance.conftest import pytest_addoption

__all__ = ["pytest_addoption"]
