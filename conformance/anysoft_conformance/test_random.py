"""The core functions on rows that nobody thought of: drawn by hypothesis, subnormals and special values included."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from anysoft_conformance import strategies, suite
from anysoft_conformance.rows import Row, rows
from anysoft_conformance.subjects import SUBJECTS


@pytest.mark.parametrize("path", suite.PATHS)
@pytest.mark.parametrize("row", rows())
def test_drawn(row: Row, path: Any, pytestconfig: pytest.Config) -> None:
    # the same rows in every run: a failure must not come and go; the full sweep draws more
    @settings(
        max_examples=2000 if pytestconfig.getoption("--full") else 40,
        derandomize=True,
        database=None,
        deadline=None,
    )
    @given(case=strategies.cases(row.dtype, subnormal=row.framework.subnormal))
    def holds(case: Any) -> None:
        (function,) = case.on
        verdict = suite.Check(SUBJECTS[function], case, row, path).run()
        assert verdict.outcome == "kept", f"{function} of {case.x} with {dict(case.options)}: {verdict.reason}"

    holds()
