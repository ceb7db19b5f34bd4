"""The tables of the documentation, made from the reports in `conformance/reports`.

python -m anysoft_conformance.support_table conformance/reports/*.json README.md docs/transformations.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from anysoft_conformance import suite, summary
from anysoft_conformance.judgement import What
from anysoft_conformance.report import Report
from anysoft_conformance.summary import Square

BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"
BEGIN_MATRIX, END_MATRIX = "<!-- transformations: begin -->", "<!-- transformations: end -->"
KINDS: dict[What, str] = {"value": "values", "gradient": "first derivatives", "hessian": "second derivatives"}
NAMES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "cupy": "CuPy"}


def support_table(*reports: Report) -> str:
    """The table as Markdown: a row for each function, a column for each backend, and for what its framework has.

    Parameters
    ----------
    *reports : Report
        One for each machine.

    Returns
    -------
    str
        ``✓`` where everything is kept, otherwise how many checks are not, of how many.
    """
    functions = list(dict.fromkeys(name for report in reports for name in summary.functions(report)))
    columns = [column for report in reports for column in _columns(report, functions)]
    lines = [" | ".join(["|", *(title for title, _ in columns)]) + " |", "|---" * (1 + len(columns)) + "|"]
    for place, function in enumerate(functions):
        lines.append(f"| `{function}` | {' | '.join(cells[place] for _, cells in columns)} |")
    return "\n".join([*lines, "", *map(_source, reports)])


def _columns(report: Report, functions: Sequence[str]) -> list[tuple[str, list[str]]]:
    """A title and a cell for each function; where something computes is said of what is no CPU."""
    groups: dict[tuple[str, str, bool], dict[str, list[Square]]] = {}
    for (backend, device, _, path), named in summary.squares(report).items():
        place = " on a GPU" if device.startswith(("cuda", "mps")) else ""
        for name, square in named.items():
            groups.setdefault((backend, place, path == suite.NATIVE), {}).setdefault(name, []).append(square)
    columns = []
    for (backend, place, native), found in groups.items():
        version = report.versions.get(backend, "")
        ours = f"anysoft on {NAMES.get(backend, backend)} {version}"
        title = (f"{summary.native_name(report, backend)} itself" if native else ours) + place
        columns.append((title, [_cell(found.get(function, ()), native=native) for function in functions]))
    return columns


def _cell(squares: Iterable[Square], *, native: bool) -> str:
    cells = [square.cell for square in squares]
    kept, broken, known = (sum(getattr(cell, name) for cell in cells) for name in ("kept", "broken", "known"))
    if not kept + broken:
        return "–"
    if not broken:
        return "✓"
    if native:
        return f"✗ {broken:,} of {kept + broken:,}"
    parts = [f"✗ {broken - known:,}"] if broken > known else []
    return ", ".join([*parts, *([f"{known:,} known"] if known else [])]) + f" of {kept + broken:,}"


def transformation_tables(*reports: Report) -> str:
    """The matrices function × transformation as Markdown: a table for each backend and order of the derivative.

    Parameters
    ----------
    *reports : Report
        One for each machine.

    Returns
    -------
    str
        In each cell the sign of anysoft's function, and beside it that of the framework's own.
    """
    parts = []
    for report in reports:
        found = summary.matrices(report)
        for matrix in found:
            name = f"{NAMES.get(matrix.backend, matrix.backend)} {report.versions.get(matrix.backend, '')}".strip()
            for what, transformations in matrix.transformations.items():
                parts += [f"### {name}: {KINDS[what]}", "", *_matrix(matrix, transformations), ""]
        parts += [_source(report), ""] if found else []
    return "\n".join(parts[:-1]) or "No report holds transformations yet."


def _matrix(matrix: summary.Matrix, transformations: Sequence[str]) -> list[str]:
    titles = "".join(f" `{name}` |" for name in transformations)
    lines = [f"| |{titles}", "|---" + "|:-:" * len(transformations) + "|"]
    for function in matrix.functions:
        keys = [(function, name) for name in transformations]
        if any(key in matrix.ours for key in keys):
            cells = (" ".join(summary.signs(matrix, *key)) for key in keys)
            lines.append(f"| `{function}` | {' | '.join(cells)} |")
    return lines


def _source(report: Report) -> str:
    old = "" if report.suite >= suite.VERSION else f", **older than today's suite {suite.VERSION}**"
    commit = f" ({report.commit})" if report.commit else ""
    return f"{report.machine}, {report.made}: anysoft {report.anysoft}{commit}, suite {report.suite}{old}."


def rewritten(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """A document with the table between the two comments.

    Raises
    ------
    ValueError
        If it has not both of them once.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"there is not one {begin} and one {end}")
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


def refreshed(text: str, reports: Sequence[Report]) -> str:
    """A document with the table that it has a place for: that of transformations, or the support table."""
    if BEGIN_MATRIX in text:
        return rewritten(text, transformation_tables(*reports), BEGIN_MATRIX, END_MATRIX)
    return rewritten(text, support_table(*reports))


def read(file: Path) -> Report:
    """A report from its JSON."""
    return Report.from_dict(json.loads(file.read_text(encoding="utf-8")))


def main(*arguments: str) -> None:
    """Write the tables of some reports, the files that end with .json, into the documents, the others."""
    files = list(map(Path, arguments))
    reports = [read(file) for file in files if file.suffix == ".json"]
    for document in (file for file in files if file.suffix != ".json"):
        text = refreshed(document.read_text(encoding="utf-8"), reports)
        document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m anysoft_conformance.support_table REPORT.json... DOCUMENT.md...")
    main(*sys.argv[1:])
