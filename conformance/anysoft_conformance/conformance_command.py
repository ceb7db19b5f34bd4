"""The command ``anysoft conformance``: the suite, as a report."""

# Typer reads the annotations at run time, and the heavy imports stand inside: `anysoft --help` is quick.

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anysoft_conformance import terminal
from anysoft_conformance.terminal import JsonOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from anysoft_conformance.judgement import Verdict
    from anysoft_conformance.report import Report
    from anysoft_conformance.suite import KnownFailure
    from anysoft_conformance.summary import Finding, Matrix, Square

MOST_FAILURES = 20
MOST_KNOWN = 4  # of each cause
MOST_CHARACTERS = 400
MOST_FINDINGS = 15  # of each function

_SIGNS = {"✓": "green", "–": "dim", "*": "magenta", "✗": "bold red"}
_STYLES = {"": "", "*": "magenta", "!": "bold red", "✗": "bold red"}


def conformance(
    backend: Annotated[list[str] | None, typer.Option(help="Only this framework; repeat it for more.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Only this device; cuda is every cuda:i; repeat it for more.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help="Only this path: auto, generic or native; repeat it for more.")
    ] = None,
    natives: Annotated[bool, typer.Option("--natives", help="The frameworks' own functions too.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The full sweep: more cases, axes of 10⁷.")] = False,
    json_file: JsonOption = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page, of one file.")] = None,
    known_failures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Known failures of a backend that anysoft does not ship.")
    ] = None,
) -> None:
    """Hold every installed backend to the stability contract, case by case.

    Exit code 0: nothing is broken that is not known to be; 1: something is, or a known failure did not fail.
    Where --json names a folder, the file there is named for the machine.
    """
    folder = json_file is not None and json_file != "-" and Path(json_file).is_dir()
    terminal.check_writable(None if folder else json_file)
    terminal.check_writable(html)
    from anysoft_conformance import report as reports
    from anysoft_conformance import suite
    from anysoft_conformance.frameworks import AbsentBackendError
    from anysoft_conformance.rows import find

    every = (*suite.PATHS, suite.NATIVE)
    for name in path or ():
        if name not in every:
            terminal.fail(f"there is no path {name!r}; there are {', '.join(every)}")
    paths = [*(path or suite.PATHS), *([suite.NATIVE] if natives else [])]
    own = _own(known_failures) if known_failures else ()
    try:
        rows, absent = find(backend or (), device or ())
    except AbsentBackendError as error:
        terminal.fail(str(error))
    with _progress() as advance:
        found = reports.run(rows, absent, paths=list(dict.fromkeys(paths)), full=full, advance=advance)
    if not found.verdicts:
        terminal.fail("no check at all: there is nothing that such a run could find")
    report = _with_known(found, own)
    if json_file == "-":
        typer.echo(reports.dump(report.as_dict()))
    elif json_file:
        report.write(Path(json_file) / f"{slug(report.machine)}.json" if folder else Path(json_file))
    if html:
        from anysoft_conformance import report_page

        html.write_text(report_page.render(report), encoding="utf-8")
    if json_file != "-":
        show(report, terminal.console())
    raise typer.Exit(1 if report.unexpected or report.stale else 0)


def slug(name: str) -> str:
    """A machine's name as a file's: ``NVIDIA H200`` is ``nvidia-h200``."""
    plain = re.sub(r"\((r|tm|c)\)", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "machine"


def _own(file: Path) -> "tuple[KnownFailure, ...]":
    import tomllib

    from anysoft_conformance import suite

    try:
        return suite.read_known_failures(file.read_text(encoding="utf-8"))
    except OSError as error:
        terminal.fail(f"{file} cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        terminal.fail(f"{file} is no TOML: {error}")
    except (KeyError, TypeError) as error:
        terminal.fail(f"{file} is no list of [[failure]] with checks, cause and link: {error}")


def _with_known(report: "Report", own: "tuple[KnownFailure, ...]") -> "Report":
    """The report with the user's own known failures, which come before those that anysoft ships."""
    from anysoft_conformance import suite

    known = {
        verdict.id: (entry.cause, entry.link)
        for entry in reversed(own)
        for verdict in report.verdicts
        if verdict.path != suite.NATIVE and entry.covers(verdict.id)
    }
    return dataclasses.replace(report, known={**report.known, **known})


@contextmanager
def _progress() -> "Iterator[Callable[[int, int, Verdict | None], None]]":
    """A progress bar that names the backend and the case, on a terminal only; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("the cases", total=None)

        def advance(done: int, total: int, verdict: "Verdict | None") -> None:
            name = f"{verdict.backend} {verdict.device} {verdict.function} {verdict.case}" if verdict else "the cases"
            bar.update(task, description=name[:44], completed=done, total=total)

        yield advance


# ---------------------------------------------------------------------------------------------------------------------
# What a reader sees


def show(report: "Report", console: "Console") -> None:
    """Print the report's summary."""
    from rich.text import Text

    from anysoft_conformance import suite, summary

    squares = summary.squares(report)
    console.print(
        Text.assemble(
            ("Worst error", "bold"),
            " over what is allowed (at most 1 is kept): ",
            ("!", "bold red"),
            " past it, ",
            ("✗", "bold red"),
            " wrong, ",
            ("*", "magenta"),
            " known to be broken",
        )
    )
    places = summary.places(squares)
    for (backend, devices), place in summary.alike(squares).items():
        dtypes, paths = places[place]
        console.print()
        parts = [f"{backend} {report.versions.get(backend, '')}", ", ".join(devices)]
        if suite.NATIVE in paths:
            parts.append(f"native is {summary.native_name(report, backend)}")
        console.print(Text(" · ".join(parts), style="bold"))
        here = {key[2:]: found for key, found in squares.items() if key[:2] == place}
        console.print(_table(summary.functions(report), dtypes, paths, here))
    _transformations(report, console)
    for where, findings in summary.scoreboard(report).items():
        console.print()
        console.print(Text(f"What the frameworks' own functions break on {where}", style="bold"))
        console.print(Text("Where a number of digits tells nothing, × is how many times past the contract.", "dim"))
        shown = [one for name in summary.functions(report) for one in _of(name, findings)[:MOST_FINDINGS]]
        console.print(_scoreboard(shown, report))
        _more(console, len(findings) - len(shown))
    _failures(report, console)
    console.print()
    for name, reason in report.absent.items():
        console.print(Text.assemble((name, "bold"), f"  {reason}"), soft_wrap=True)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(Text(f"anysoft {report.anysoft} (suite {report.suite}) with {versions}; {report.machine}", "dim"))


def _table(
    functions: "list[str]",
    dtypes: "list[str]",
    paths: "list[str]",
    squares: "dict[tuple[str, str], dict[str, Square]]",
) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("\nfunction", width=max(map(len, functions)))
    table.add_column("\npath", width=7)
    for dtype in dtypes:
        table.add_column(f"\n{dtype}", justify="right", width=8)
    for title in ("\nkept", "\nknown", "\nbroken", "not\noffered"):
        table.add_column(title, justify="right", width=7 if "off" in title else 6)
    for function in functions:
        for path in paths:
            row = [squares[dtype, path].get(function) if (dtype, path) in squares else None for dtype in dtypes]
            here = [square for square in row if square]
            if not any(square.offered for square in here):
                continue  # the framework has no such function
            unexpected = sum(square.unexpected for square in here)
            table.add_row(
                function if path == paths[0] else "",
                path,
                *map(_square, row),
                f"{sum(square.cell.kept for square in here):,}",
                _count(sum(square.cell.known for square in here), "magenta"),
                _count(unexpected, "bold red"),
                _count(sum(square.cell.not_offered for square in here), ""),
            )
    return table


def _transformations(report: "Report", console: "Console") -> None:
    """The matrix function × transformation of each backend, in as many tables as the console is narrow."""
    from rich.text import Text

    from anysoft_conformance import summary

    for matrix in summary.matrices(report):
        names = [name for kind in matrix.transformations.values() for name in kind]
        beside = f", and beside it {summary.native_name(report, matrix.backend)} itself" if matrix.native else ""
        console.print()
        console.print(
            Text.assemble(
                (f"{matrix.backend} {report.versions.get(matrix.backend, '')} · transformations", "bold"),
                (f"  ✓ kept{beside}; – nothing to ask", "dim"),
            )
        )
        first = max(map(len, matrix.functions))
        room = max(1, (console.width - first - 1) // (4 if matrix.native else 3))
        for start in range(0, len(names), room):
            numbers = dict(enumerate(names[start : start + room], start=start + 1))
            console.print(_matrix(matrix, numbers))
            console.print(
                Text("  ".join(f"{number}\N{NO-BREAK SPACE}{name}" for number, name in numbers.items()), "dim")
            )


def _matrix(matrix: "Matrix", numbers: "dict[int, str]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from anysoft_conformance import summary

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("")
    for number in numbers:
        table.add_column(str(number), width=3 if matrix.native else 2)
    for function in matrix.functions:
        found = [summary.signs(matrix, function, name) for name in numbers.values()]
        if any(signs != ("–",) for signs in found):
            cells = (Text.assemble(*((sign, _SIGNS[sign]) for sign in signs)) for signs in found)
            table.add_row(function, *cells)
    return table


def _square(square: "Square | None") -> "Text":
    from rich.text import Text

    if square is None or not square.offered:
        return Text("– ", style="dim")
    return Text(f"{square.text}{square.mark or ' '}", style=_STYLES[square.mark])


def _count(count: int, style: str) -> "Text":
    from rich.text import Text

    return Text(f"{count:,}", style=style if count else "dim")


def _scoreboard(findings: "list[Finding]", report: "Report") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from anysoft_conformance import summary

    backends = list(dict.fromkeys(name for finding in findings for name in finding.answers))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("case", width=26, overflow="fold")
    table.add_column("dtype", width=8)
    table.add_column("truth", justify="right", width=11, overflow="fold")
    for backend in backends:
        table.add_column(summary.native_name(report, backend), justify="right", width=11, overflow="fold")
    table.add_column("upstream", width=max(14, 50 - 12 * len(backends)), overflow="fold")
    last = ""
    for finding in findings:
        if finding.function != last:
            last = finding.function
            table.add_row(Text(last, style="bold"))
        table.add_row(
            finding.case,
            finding.dtype,
            finding.truth,
            *(_answer(finding, backend) for backend in backends),
            Text(" ".join(summary.upstream(finding.function, finding.case)), style="dim"),
        )
    return table


def _of(function: str, findings: "list[Finding]") -> "list[Finding]":
    return [finding for finding in findings if finding.function == function]


def _answer(finding: "Finding", backend: str) -> "Text":
    from rich.text import Text

    text = finding.answer(backend)
    return Text(text, style="dim" if text in ("–", "kept") else "bold red")


def _failures(report: "Report", console: "Console") -> None:
    from rich.text import Text

    from anysoft_conformance import summary

    if report.unexpected:
        console.print()
        console.print(Text(f"Broken: {len(report.unexpected):,}", style="bold red"))
        _list(console, summary.worst_first(report.unexpected), MOST_FAILURES)
    for (cause, link), verdicts in summary.causes(report).items():
        console.print()
        console.print(Text.assemble((f"Known to be broken: {len(verdicts):,}  ", "bold magenta"), cause))
        console.print(Text(link), soft_wrap=True)
        _list(console, verdicts, MOST_KNOWN)
    if report.stale:
        console.print()
        console.print(Text(f"Known to be broken, and not broken: {len(report.stale):,}", style="bold red"))
        for name in report.stale[:MOST_FAILURES]:
            console.print(Text(name), soft_wrap=True)
        _more(console, len(report.stale) - MOST_FAILURES)


def _list(console: "Console", verdicts: "tuple[Verdict, ...]", most: int) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for verdict in verdicts[:most]:
        console.print(Text(f"  {verdict.id}"), soft_wrap=True)
        reason = verdict.reason.removeprefix(f"{verdict.aspect} ")[:MOST_CHARACTERS]
        console.print(Padding(Text(f"{verdict.aspect}: {reason}", "dim"), (0, 0, 0, 4)))
    _more(console, len(verdicts) - most)


def _more(console: "Console", count: int) -> None:
    from rich.text import Text

    if count > 0:
        console.print(Text(f"and {count:,} more: --json or --html has them all", style="dim"))
