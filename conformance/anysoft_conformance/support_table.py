"""The README's support table, made from the reports in `conformance/reports`.

python -m anysoft_conformance.support_table conformance/reports/*.json README.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from anysoft_conformance import suite, summary
from anysoft_conformance.report import Report
from anysoft_conformance.summary import Square

BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"
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


def _source(report: Report) -> str:
    old = "" if report.suite >= suite.VERSION else f", **older than today's suite {suite.VERSION}**"
    commit = f" ({report.commit})" if report.commit else ""
    return f"{report.machine}, {report.made}: anysoft {report.anysoft}{commit}, suite {report.suite}{old}."


def rewritten(text: str, table: str) -> str:
    """A document with the table between the two comments.

    Raises
    ------
    ValueError
        If it has not both of them once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"there is not one {BEGIN} and one {END}")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.DOTALL)


def read(file: Path) -> Report:
    """A report from its JSON."""
    return Report.from_dict(json.loads(file.read_text(encoding="utf-8")))


def main(*arguments: str) -> None:
    """Write the table of some reports into a document, the last argument."""
    *files, document = map(Path, arguments)
    table = support_table(*map(read, files))
    document.write_text(rewritten(document.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m anysoft_conformance.support_table REPORT.json... README.md")
    main(*sys.argv[1:])
