"""The report of a run: what ran where with which versions, every verdict, and what a reader wants to know first."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anysoft
from anysoft_conformance import oracle, suite
from anysoft_conformance.frameworks import scipy_version
from anysoft_conformance.judgement import Verdict, What
from anysoft_conformance.rows import Row, versions

_MEASURED = ("error", "allowed", "computed", "truth", "aspect", "reason")


@dataclass(frozen=True)
class Report:
    """A run of the suite.

    `known` maps the ids of verdicts that are broken, and known to be, to the cause and the link.
    """

    anysoft: str
    suite: int
    commit: str | None
    made: str
    machine: str
    truth: str
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    full: bool
    seconds: float
    verdicts: tuple[Verdict, ...] = field(repr=False)
    known: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    @property
    def unexpected(self) -> tuple[Verdict, ...]:
        """What is broken and not known to be; natives are not held to anything."""
        return tuple(
            verdict
            for verdict in self.verdicts
            if verdict.outcome == "broken" and verdict.path != suite.NATIVE and verdict.id not in self.known
        )

    @property
    def stale(self) -> tuple[str, ...]:
        """Known failures that did not fail."""
        broken = {verdict.id for verdict in self.verdicts if verdict.outcome == "broken"}
        return tuple(name for name in self.known if name not in broken)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it: verdicts by row, function, path and case; what was kept as [error, allowed]."""
        rows: dict[str, Any] = {}
        for verdict in self.verdicts:
            row = f"{verdict.backend} {verdict.device} {verdict.dtype}"
            table = rows.setdefault(row, {}).setdefault(verdict.function, {}).setdefault(verdict.path, {})
            table[verdict.question] = _entry(verdict)
        return {
            "anysoft": self.anysoft,
            "suite": self.suite,
            "commit": self.commit,
            "made": self.made,
            "machine": self.machine,
            "truth": self.truth,
            "versions": dict(self.versions),
            "absent": dict(self.absent),
            "full": self.full,
            "seconds": round(self.seconds, 1),
            "known": {name: list(entry) for name, entry in self.known.items()},
            "rows": rows,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """A report that `as_dict` made."""
        verdicts = [
            _verdict(row, function, path, case, entry)
            for row, functions in content["rows"].items()
            for function, paths in functions.items()
            for path, cases in paths.items()
            for case, entry in cases.items()
        ]
        known = {name: (entry[0], entry[1]) for name, entry in content["known"].items()}
        rest = {name: value for name, value in content.items() if name not in ("rows", "known")}
        return cls(**rest, verdicts=tuple(verdicts), known=known)

    def write(self, target: Path) -> None:
        """Write it as JSON, a line for each table of cases."""
        target.write_text(dump(self.as_dict()) + "\n", encoding="utf-8")


def dump(content: Mapping[str, Any]) -> str:
    """JSON in which a table of cases is one line, so that a change of one result is a change of one line."""

    def lines(value: Any, depth: int, levels: int) -> str:
        if not levels or not isinstance(value, dict) or not value:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        inner = ",\n".join(
            f"{' ' * (depth + 1)}{json.dumps(name)}: {lines(item, depth + 1, levels - 1)}"
            for name, item in value.items()
        )
        return f"{{\n{inner}\n{' ' * depth}}}"

    return lines(content, 0, 4)


def _entry(verdict: Verdict) -> Any:
    if verdict.outcome == "kept":
        return None if verdict.error is None else [_short(verdict.error), _short(verdict.allowed)]
    if verdict.outcome == "not offered":
        return {"not offered": verdict.reason}
    entry = {name: value for name in _MEASURED if (value := getattr(verdict, name)) not in (None, "")}
    return {name: _short(value) if isinstance(value, float) else value for name, value in entry.items()}


def _short(value: float | None) -> float:
    """Three digits; JSON has no infinity, and a bound beyond float64 is as good as 1e308."""
    return float(f"{min(value or 0.0, 1e308):.3g}")


def _verdict(row: str, function: str, path: str, case: str, entry: Any) -> Verdict:
    backend, device, dtype = row.split(" ")
    plain, _, transformation = case.partition(" @")
    name, _, what = plain.partition(" ")
    make: Callable[..., Verdict] = functools.partial(
        Verdict,
        *(function, name, cast(What, what or "value"), backend, device, dtype, path),
        transformation=transformation,
    )
    if entry is None:
        return make("kept")
    if isinstance(entry, list):
        return make("kept", error=entry[0], allowed=entry[1])
    if "not offered" in entry:
        return make("not offered", reason=entry["not offered"])
    return make("broken", **entry)


# ---------------------------------------------------------------------------------------------------------------------
# A run


def run(
    rows: Sequence[Row],
    absent: Mapping[str, str],
    *,
    paths: Sequence[str] = suite.PATHS,
    full: bool = False,
    advance: Callable[[int, int, Verdict | None], object] = lambda done, total, verdict: None,
) -> Report:
    """Run the suite.

    Parameters
    ----------
    rows : sequence of Row
    absent : mapping of str to str
        The reasons why backends that nobody asked for are not here.
    paths : sequence of {"auto", "generic", "native"}
    full : bool
        The full sweep.
    advance : callable
        Told ``(done, total, verdict)`` after each check.

    Returns
    -------
    Report
    """
    started = datetime.now(UTC)
    checks = list(suite.checks(rows, paths, full=full))
    advance(0, len(checks), None)
    verdicts = []
    known = {}
    for done, (check, before) in enumerate(zip(checks, [None, *checks], strict=False), start=1):
        if before and before.subject is not check.subject:
            suite.forget(rows)
        verdict = check.run()
        verdicts.append(verdict)
        if check.path != suite.NATIVE and (entry := suite.known_failure(check)):
            known[check.id] = (entry.cause, entry.link)
        advance(done, len(checks), verdict)
    here = dict.fromkeys(row.backend for row in rows)
    names = {name: version for name, version in versions().items() if name in here}
    if "numpy" in names and suite.NATIVE in paths and (scipy := scipy_version()):
        names["scipy"] = scipy
    return Report(
        anysoft.__version__,
        suite.VERSION,
        _commit(),
        started.strftime("%Y-%m-%d"),
        machine(rows),
        oracle.NAME,
        {**names, "python": platform.python_version()},
        dict(absent),
        full,
        (datetime.now(UTC) - started).total_seconds(),
        tuple(verdicts),
        known,
    )


def _commit() -> str | None:
    """The commit of the checkout that anysoft was imported from; None for an installed wheel."""
    folder = Path(anysoft.__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def machine(rows: Sequence[Row]) -> str:
    """What the rows ran on: the GPUs by name, or the CPU's kind."""
    names = dict.fromkeys(row.framework.hardware() for row in rows)
    return ", ".join(name for name in names if name) or platform.machine()


# ---------------------------------------------------------------------------------------------------------------------
# What a reader wants to know first


@dataclass(frozen=True)
class Cell:
    """All verdicts on one function, for one backend, device, dtype and path."""

    kept: int
    broken: int
    not_offered: int
    known: int
    worst: Verdict | None

    @property
    def ratio(self) -> float | None:
        """The worst error over what is allowed; infinite where something is broken beyond measure."""
        return None if self.worst is None else self.worst.ratio


def cell(verdicts: Iterable[Verdict], known: Mapping[str, Any]) -> Cell:
    """What many verdicts come to. `worst` is of those that could be measured."""
    verdicts = tuple(verdicts)
    counts = Counter(verdict.outcome for verdict in verdicts)
    measured = [verdict for verdict in verdicts if verdict.ratio is not None]
    worst = max(measured, key=lambda verdict: verdict.ratio or 0.0, default=None)
    expected = sum(verdict.outcome == "broken" and verdict.id in known for verdict in verdicts)
    return Cell(counts["kept"], counts["broken"], counts["not offered"], expected, worst)
