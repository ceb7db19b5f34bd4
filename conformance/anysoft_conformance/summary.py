"""What the terminal, the page and the README's table all show of a report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anysoft_conformance import transformations
from anysoft_conformance.compare import ulp
from anysoft_conformance.judgement import Verdict, What
from anysoft_conformance.report import Cell, Report, cell
from anysoft_conformance.subjects import SUBJECTS
from anysoft_conformance.suite import NATIVE, PATHS

# whose functions the native path takes, and where the issues are that the cases name
NATIVES = {"numpy": "SciPy", "torch": "PyTorch", "jax": "JAX", "cupy": "CuPy"}
TRACKERS = {
    "allennlp": "allenai/allennlp",
    "executorch": "pytorch/executorch",
    "jax": "jax-ml/jax",
    "keras": "keras-team/keras",
    "last": "google-research/last",
    "mlx": "ml-explore/mlx",
    "numpy": "numpy/numpy",
    "optax": "google-deepmind/optax",
    "pytorch": "pytorch/pytorch",
    "scipy": "scipy/scipy",
    "tensorflow": "tensorflow/tensorflow",
    "torch-xpu-ops": "intel/torch-xpu-ops",
    "transformers": "huggingface/transformers",
    "trl": "huggingface/trl",
    "vllm": "vllm-project/vllm",
}
ISSUE = re.compile(r"\b([a-z][a-z-]*)#(\d+)\b")

Key = tuple[str, str, str, str]  # backend, device, dtype, path


def issue(match: re.Match[str]) -> str | None:
    """Where the issue is that a text names as ``scipy#19521``; None if nobody knows."""
    tracker = TRACKERS.get(match[1])
    return f"https://github.com/{tracker}/issues/{match[2]}" if tracker else None


def why(function: str, case: str) -> str:
    """Why a function is asked a case; nothing for one that the suite has no more."""
    name = case.partition(" ")[0]
    cases = SUBJECTS[function].cases if function in SUBJECTS else ()
    return next((one.why for one in cases if one.name == name), "")


def native_name(report: Report, backend: str) -> str:
    """Whose functions a backend's native path takes, with the version."""
    version = report.versions.get("scipy" if backend == "numpy" else backend, "")
    return f"{NATIVES.get(backend, backend)} {version}".strip()


def causes(report: Report) -> dict[tuple[str, str], tuple[Verdict, ...]]:
    """What is known to be broken, by (cause, link), the worst first."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in report.verdicts:
        if verdict.outcome == "broken" and verdict.id in report.known:
            found.setdefault(report.known[verdict.id], []).append(verdict)
    return {entry: worst_first(verdicts) for entry, verdicts in found.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Squares of the heat map


@dataclass(frozen=True)
class Square:
    """All verdicts on one function, for one backend, device, dtype and path."""

    verdicts: tuple[Verdict, ...]
    cell: Cell

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """What is broken, the worst first; what cannot be measured is worst of all."""
        return worst_first(verdict for verdict in self.verdicts if verdict.outcome == "broken")

    @property
    def unexpected(self) -> int:
        """How much is broken that is not known to be."""
        return self.cell.broken - self.cell.known

    @property
    def mark(self) -> str:
        """``✗``: broken beyond measure; ``!``: past the contract; ``*``: only what is known to be."""
        if not self.cell.broken:
            return ""
        if not self.unexpected:
            return "*"
        return "✗" if any(verdict.ratio is None for verdict in self.broken) else "!"

    @property
    def text(self) -> str:
        """The worst error over what is allowed; – where nothing could be measured."""
        return times(self.cell.ratio)

    @property
    def offered(self) -> bool:
        """Whether there was anything to judge."""
        return bool(self.cell.kept or self.cell.broken)


def worst_first(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The largest ratio first, and before it what could not be measured."""
    return tuple(sorted(verdicts, key=lambda one: -(float("inf") if one.ratio is None else one.ratio)))


def times(ratio: float | None) -> str:
    """An error over what is allowed, in a few characters."""
    text = ulp(ratio)
    if ratio is not None and ratio > 1e300:
        return "∞"
    return f"{ratio:.0e}".replace("e+", "e") if ratio is not None and len(text) > 6 else text


def squares(report: Report) -> dict[Key, dict[str, Square]]:
    """A square for each function, by (backend, device, dtype, path); natives that offer nothing are left out."""
    groups: dict[Key, dict[str, list[Verdict]]] = {}
    for verdict in report.verdicts:
        if not verdict.transformation:
            key = (verdict.backend, verdict.device, verdict.dtype, verdict.path)
            groups.setdefault(key, {}).setdefault(verdict.function, []).append(verdict)
    found = {
        key: {name: Square(tuple(ones), cell(ones, report.known)) for name, ones in functions.items()}
        for key, functions in groups.items()
    }
    return {
        key: functions
        for key, functions in found.items()
        if key[3] != NATIVE or any(square.offered for square in functions.values())
    }


def places(keys: Iterable[Key]) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """The dtypes and paths of each (backend, device), in the order of the run."""
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for backend, device, dtype, path in keys:
        dtypes, paths = found.setdefault((backend, device), ([], []))
        dtypes += [dtype] if dtype not in dtypes else []
        paths += [path] if path not in paths else []
    order = (*PATHS, NATIVE)
    return {place: (dtypes, sorted(paths, key=order.index)) for place, (dtypes, paths) in found.items()}


def alike(found: Mapping[Key, Mapping[str, Square]]) -> dict[tuple[str, tuple[str, ...]], tuple[str, str]]:
    """For each backend its devices, those with the same numbers together, and the place that stands for them."""
    groups: dict[tuple[str, object], list[str]] = {}
    for backend, device in places(found):
        numbers = tuple(
            (key[2:], name, square.text, dataclasses.replace(square.cell, worst=None))
            for key, named in found.items()
            for name, square in named.items()
            if key[:2] == (backend, device)
        )
        groups.setdefault((backend, numbers), []).append(device)
    return {(backend, tuple(devices)): (backend, devices[0]) for (backend, _), devices in groups.items()}


def functions(report: Report) -> list[str]:
    """The functions that the report is about."""
    return list(dict.fromkeys(verdict.function for verdict in report.verdicts))


# ---------------------------------------------------------------------------------------------------------------------
# Transformations


@dataclass(frozen=True)
class Matrix:
    """What one backend's transformations do: a square for each (function, transformation), and the native's beside it.

    `transformations` are of values, of first and of second derivatives, in the order of the run.
    """

    backend: str
    transformations: Mapping[What, tuple[str, ...]]
    functions: tuple[str, ...]
    ours: Mapping[tuple[str, str], Square]
    native: Mapping[tuple[str, str], Square]


def matrices(report: Report) -> list[Matrix]:
    """A matrix for each backend that has transformations."""
    found: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        if verdict.transformation:
            found.setdefault(verdict.backend, []).append(verdict)
    return [_matrix(backend, verdicts, report) for backend, verdicts in found.items()]


def _matrix(backend: str, verdicts: list[Verdict], report: Report) -> Matrix:
    groups: tuple[dict[tuple[str, str], list[Verdict]], ...] = {}, {}
    for verdict in verdicts:
        groups[verdict.path == NATIVE].setdefault((verdict.function, verdict.transformation), []).append(verdict)
    ours, native = (
        {key: Square(tuple(ones), cell(ones, report.known)) for key, ones in group.items()} for group in groups
    )
    order = {one.name: place for place, one in enumerate(transformations.of(backend))}
    kinds: dict[What, tuple[str, ...]] = {}
    for what in ("value", "gradient", "hessian"):
        names = {verdict.transformation for verdict in verdicts if verdict.what == what}
        if names:
            kinds[what] = tuple(sorted(names, key=lambda name: order.get(name, len(order))))
    functions = tuple(dict.fromkeys(verdict.function for verdict in verdicts))
    return Matrix(backend, kinds, functions, ours, {key: one for key, one in native.items() if one.offered})


def sign(square: Square | None) -> str:
    """A square of the matrix in a character: ✓ kept, ``*`` known to be broken, ✗ broken, – nothing asked."""
    if square is None or not square.offered:
        return "–"
    return "✗" if square.unexpected else "*" if square.cell.broken else "✓"


def signs(matrix: Matrix, function: str, transformation: str) -> tuple[str, ...]:
    """The sign of anysoft's function and, where the framework has one of its own, that one's."""
    key = (function, transformation)
    return (sign(matrix.ours.get(key)), *((sign(matrix.native[key]),) if key in matrix.native else ()))


# ---------------------------------------------------------------------------------------------------------------------
# The scoreboard


@dataclass(frozen=True)
class Finding:
    """A case that one of the frameworks' own functions breaks: what each of them answered, in one dtype."""

    function: str
    case: str
    dtype: str
    answers: Mapping[str, Verdict]

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The answers that break a promise."""
        return tuple(verdict for verdict in self.answers.values() if verdict.outcome == "broken")

    @property
    def truth(self) -> str:
        """What is right where they are wrong, as far as they are wrong at one place."""
        return next((pair[1] for verdict in self.broken if (pair := told_apart(verdict))), "–")

    def answer(self, backend: str) -> str:
        """What one of them said: what it computed, beside `truth`; how many times past the contract, otherwise."""
        verdict = self.answers.get(backend)
        if verdict is None or verdict.outcome == "not offered":
            return "–"
        if verdict.outcome == "kept":
            return "kept"
        pair = told_apart(verdict)
        if pair and pair[1] == self.truth:
            return pair[0]
        return f"{times(verdict.ratio)}×" if verdict.ratio is not None else verdict.computed or verdict.aspect


def scoreboard(report: Report) -> dict[str, list[Finding]]:
    """What natives break, for each kind of device: a finding for each case, in the dtype in which most of them do.

    Parameters
    ----------
    report : Report

    Returns
    -------
    dict of str to list of Finding
        By ``cpu`` or ``cuda``, and in the order of the corpus; what all natives keep or do not offer is no finding.
    """
    offers = {key[0] for key in squares(report) if key[3] == NATIVE}
    groups: dict[tuple[str, str, str], dict[str, dict[str, Verdict]]] = {}
    for verdict in report.verdicts:
        if verdict.path == NATIVE and verdict.backend in offers and not verdict.transformation:
            group = groups.setdefault((verdict.device.partition(":")[0], verdict.function, verdict.question), {})
            answers = group.setdefault(verdict.dtype, {})
            if verdict.outcome == "broken" or verdict.backend not in answers:
                answers[verdict.backend] = verdict
    found: dict[str, list[Finding]] = {}
    for (device, function, case), dtypes in groups.items():
        findings = [Finding(function, case, dtype, answers) for dtype, answers in dtypes.items()]
        most = max(findings, key=lambda one: (len(one.broken), any(told_apart(verdict) for verdict in one.broken)))
        if most.broken:
            found.setdefault(device, []).append(most)
    return found


def told_apart(verdict: Verdict) -> tuple[str, str] | None:
    """What was computed and what is right, in as few digits as tell them apart; None if that takes more than six."""
    if not verdict.computed:
        return None
    try:
        pair = float(verdict.computed), float(verdict.truth)
    except ValueError:
        return verdict.computed, verdict.truth
    shown = [(f"{pair[0]:.{digits}g}", f"{pair[1]:.{digits}g}") for digits in range(3, 7)]
    return next((both for both in shown if both[0] != both[1]), None)


def upstream(function: str, case: str) -> list[str]:
    """The issues that a case is asked for."""
    return [match[0] for match in ISSUE.finditer(why(function, case)) if issue(match)]
