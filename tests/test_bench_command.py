"""``anysoft bench``, as a user meets it: what is timed, its table, its JSON and its page."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anysoft_conformance import bench, bench_page, frameworks
from anysoft_conformance.bench import OURS, Measured, Place, Size, Timing
from anysoft_conformance.commands import app
from typer.testing import CliRunner, Result

import anysoft

SMALL = ("--backend", "numpy", "--size", "10", "--size", "4x3x2@1", "--seconds", "0")


@pytest.fixture(autouse=True)
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts processes of its own is tested by itself."""
    monkeypatch.setattr(bench, "_price_of_the_import", lambda: 0.012)
    monkeypatch.setattr(bench, "_peak", lambda name: 3 * 2**20)


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "99"})


def _framework(name: str) -> frameworks.Framework:
    pytest.importorskip(name, reason=f"{name} is not installed")
    return frameworks.present(name).frameworks[0]


def test_the_table_has_every_function_beside_its_peers() -> None:
    result = _run(*SMALL)
    assert result.exit_code == 0, result.output
    for line in ("logsumexp   10 ", "softmax     10 ", "log_softmax 10 ", "4×3×2 axis 1"):
        assert line in result.stdout
    assert "A small call of softmax on numpy takes" in result.stdout
    assert "import anysoft takes 12 ms" in result.stdout
    assert "takes 3 MiB beyond its input" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 99


def test_the_json_and_the_page_hold_what_was_measured(tmp_path: Path) -> None:
    result = _run(*SMALL, "--function", "softmax", "--json", tmp_path / "b.json", "--html", tmp_path / "b.html")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "b.json").read_text())
    assert [(one["function"], one["size"]["shape"], one["size"]["axis"]) for one in found["timings"]] == [
        ("softmax", [10], 0),
        ("softmax", [4, 3, 2], 1),
    ]
    for timing in found["timings"]:
        ours = timing["measured"][OURS]
        assert ours["seconds"] > 0
        assert (ours["low"], ours["ratio"], ours["high"]) == (1, 1, 1)
        assert {"formula", "read", "exp"} < set(timing["measured"])
    page = (tmp_path / "b.html").read_text()
    assert page.count('<circle class="anysoft"') == 2
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--size", "10x"), "--size takes a shape"),
        (("--size", "10x0"), "--size takes a shape"),
        (("--size", "10x3@2"), "--size takes a shape"),
        (("--function", "sinh"), "'sinh' has no benchmark; there are logsumexp, softmax, log_softmax"),
        (("--dtype", "int7"), "'int7' is no dtype of ours"),
        (("--backend", "tensorflow"), "there is no backend named 'tensorflow'"),
        (("--backend", "numpy", "--device", "tpu"), "no backend has a device 'tpu'"),
        (("--html", "/no/such/folder/page.html"), "cannot be written"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = _run("--seconds", "0", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_ratio_is_of_calls_side_by_side() -> None:
    """A peer that takes ten times as long comes out so, whoever comes first in a round, and calls are not mixed up."""

    def slow() -> float:
        time.sleep(0.01)
        return 0.0

    def fast() -> float:
        time.sleep(0.001)
        return 0.0

    rounds = list(bench._rounds({OURS: fast, "native": slow}, lambda _: None, 0.0))
    assert len(rounds) == bench.LEAST_ROUNDS
    middle, low, high = bench._quartiles("native", rounds, [each[OURS] for each in rounds])
    assert 4 < low <= middle <= high < 12


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_all_that_is_compared_computes_the_same(name: str) -> None:
    """A peer that did less would be faster."""
    one = _framework(name)
    host = np.random.default_rng(0).normal(size=(4, 3))
    with one.session():
        x = one.asarray(host, "float64")
        for mode in bench.modes(one):
            for function in bench.FUNCTIONS:
                calls = dict(bench.contenders(one, mode, function, x, 0))
                results: dict[str, Any] = {who: calls[who]() for who in (OURS, "native", "formula") if who in calls}
                found = {who: value[0] if isinstance(value, tuple) else value for who, value in results.items()}
                if not mode.endswith("gradient"):
                    expected = one.host(getattr(anysoft, function)(x, axis=0))
                    np.testing.assert_allclose(one.host(found[OURS]), expected, rtol=1e-15)
                assert set(found) == {OURS, "native", "formula"}
                for value in found.values():
                    np.testing.assert_allclose(one.host(value), one.host(found[OURS]), rtol=1e-10, atol=1e-15)


def test_beside_cupy_stand_torch_and_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy stands for CuPy here, whose names these are."""
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    one = dataclasses.replace(_framework("numpy"), name="cupy", device="cuda:0")
    x = np.random.default_rng(0).normal(size=(4, 3))
    for function in bench.FUNCTIONS:
        calls = dict(bench.contenders(one, "forward", function, x, 0))
        assert {"torch", "read", "copy"} < set(calls)
        calls["copy"]()
        np.testing.assert_allclose(calls["torch"]().numpy(), calls[OURS](), rtol=1e-12)


def test_a_page_of_slow_and_fast_peers_has_one_scale() -> None:
    measured = {
        OURS: Measured(1e-3, 1.0, 1.0, 1.0),
        "native": Measured(2.0, 2000.0, 1900.0, 2100.0),
        "read": Measured(1e-6, 1e-3, 1e-3, 1e-3),
    }
    timing = Timing("softmax", Place("torch", "cuda:0", "forward"), "float32", Size((1000, 1000)), 7, measured)
    run = bench.Bench("0", "today", "a <machine>", 1, None, {}, {}, (timing,), {}, float("nan"), {})
    page = bench_page.render(run)
    assert "a &lt;machine&gt;" in page
    assert "2,000 (1,900–2,100)" in page
    assert all(0 <= float(x) <= 100 for x in re.findall(r'cx="([0-9.]+)%"', page))


def test_memory_and_import_are_measured_in_a_process_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(bench, "MEMORY_SIZE", 10**6)
    peak = bench._peak("numpy")
    assert peak is None or 0 <= peak < 10**8
    assert 0 < float(bench._alone(bench._IMPORT)) < 10
