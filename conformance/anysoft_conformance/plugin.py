"""The suite as pytest runs it: its options, what is here in the header, and the known failures.

pytest --pyargs anysoft_conformance --backend torch --device cuda --path generic
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import pytest

from anysoft_conformance import suite
from anysoft_conformance.frameworks import AbsentBackendError, present
from anysoft_conformance.rows import Row, find

_PATHS = (*suite.PATHS, suite.NATIVE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that choose the rows."""
    group = parser.getgroup("anysoft conformance")
    group.addoption("--backend", action="append", default=[], metavar="B", help="only this framework; repeat for more")
    group.addoption("--device", action="append", default=[], metavar="D", help="only this device; cuda is every cuda:i")
    group.addoption("--path", action="append", default=[], choices=_PATHS, help="only this path; repeat for more")
    group.addoption("--full", action="store_true", help="the full sweep: more cases, axes of 10⁷, more random rows")
    group.addoption(
        "--known-failures", metavar="FILE", type=Path, help="known failures of a backend that anysoft does not ship"
    )


def pytest_configure(config: pytest.Config) -> None:
    """JAX has no float64 unless it is told to; and what it compiles for one path it need not compile for the next."""
    asked = config.getoption("--backend")
    if importlib.util.find_spec("jax") is not None and (not asked or "jax" in asked):
        jax = importlib.import_module("jax")
        jax.config.update("jax_enable_x64", True)
        if not config.pluginmanager.hasplugin("cacheprovider"):
            return
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Versions and devices, one line a backend; absent ones with the reason."""
    rows, absent = selected(config)
    own_known_failures(config)  # here a file that cannot be read is a usage error
    lines = []
    for backend in dict.fromkeys(row.backend for row in rows):
        devices = dict.fromkeys(row.device for row in rows if row.backend == backend)
        lines.append(f"{backend} {present(backend).versions[backend]} on {', '.join(devices)}")
    return lines + [f"{name}: absent, {reason}" for name, reason in absent.items()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is asked on rows of its own is asked on the rows of the command line only."""
    chosen = {str(row) for row in selected(config)[0]}
    paths = config.getoption("--path")

    def wanted(item: pytest.Item) -> bool:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        row, path = parameters.get("row"), parameters.get("path")
        if config.getoption("--backend") and "row" in parameters and row is None:
            return False  # the skip of a backend that nobody asked for
        return (not isinstance(row, Row) or str(row) in chosen) and (not paths or path is None or path in paths)

    kept = [item for item in items if wanted(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What was compiled for one function is dropped with its last check."""
    check, following = (_check(each) for each in (item, nextitem))
    if check and not (following and following.subject is check.subject):
        suite.forget(selected(item.config)[0])


def _check(item: pytest.Item | None) -> suite.Check | None:
    found = (
        item.callspec.params.get("check") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )
    return found if isinstance(found, suite.Check) else None


def selected(config: pytest.Config) -> tuple[list[Row], dict[str, str]]:
    """The rows that the command line asks for; what was named and is not here is an error."""
    try:
        return find(config.getoption("--backend"), config.getoption("--device"))
    except AbsentBackendError as error:
        raise pytest.UsageError(str(error)) from None


def checks(config: pytest.Config) -> list[suite.Check]:
    """The checks that the command line asks for."""
    rows, _ = selected(config)
    paths = config.getoption("--path") or suite.PATHS
    return list(suite.checks(rows, paths, full=config.getoption("--full")))


def known_failure(config: pytest.Config, check: suite.Check) -> suite.KnownFailure | None:
    """The known failure that covers a check; those in the user's own file come first."""
    if check.path == suite.NATIVE:
        return None
    entries = own_known_failures(config)
    return next((entry for entry in entries if entry.covers(check.id)), None) or suite.known_failure(check)


def own_known_failures(config: pytest.Config) -> tuple[suite.KnownFailure, ...]:
    """Those of the user's own file, if there is one."""
    file = config.getoption("--known-failures")
    return _read(file) if file else ()


@functools.cache
def _read(file: Path) -> tuple[suite.KnownFailure, ...]:
    try:
        return suite.read_known_failures(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise pytest.UsageError(f"--known-failures {file}: {error!r}") from None
