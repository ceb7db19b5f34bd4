"""The regression set, by pytest-benchmark: a few sizes of the core functions, anysoft and the framework's own.

pip install -r requirements/benchmarks.txt
pytest benchmarks --benchmark-autosave
pytest benchmarks --benchmark-compare --benchmark-compare-fail=median:30%

`anysoft bench` is for reading; this compares one commit with another, on a machine that has nothing else to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anysoft_conformance import bench, frameworks

SIZES = (bench.Size((10,)), bench.Size((1000, 1000)), bench.Size((100_000, 10)))
WAYS = [
    pytest.param(one, mode, id=f"{one.name}-{one.device}-{mode}")
    for one in frameworks.families(frameworks.present(referee=False).frameworks)
    for mode in bench.modes(one)
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size.shape)))
@pytest.mark.parametrize("function", bench.FUNCTIONS)
@pytest.mark.parametrize(("one", "mode"), WAYS)
@pytest.mark.parametrize("who", [bench.OURS, "native"])
def test_speed(benchmark: Any, who: str, one: frameworks.Framework, mode: str, function: str, size: bench.Size) -> None:
    benchmark.group = f"{one.name} {one.device} {mode} {function} {size}"
    with one.session():
        x = one.asarray(np.random.default_rng(0).normal(size=size.shape), "float32")
        call = dict(bench.contenders(one, mode, function, x, size.axis)).get(who)
        if call is None:
            pytest.skip(f"{one.name} has no {function} of its own")

        def run() -> None:
            one.wait(call())

        benchmark(run)
