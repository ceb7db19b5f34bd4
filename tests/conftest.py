"""The same header and the same set-up as the suite's."""

from anysoft_conformance.conftest import pytest_configure, pytest_report_header

__all__ = ["pytest_configure", "pytest_report_header"]
