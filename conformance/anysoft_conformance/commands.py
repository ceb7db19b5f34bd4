"""The commands ``anysoft backends`` and ``anysoft compare``; the others have a file each."""

# Typer reads the annotations at run time, and the heavy imports stand inside the commands: `anysoft --help` is quick.

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anysoft_conformance import terminal
from anysoft_conformance.bench_command import bench
from anysoft_conformance.conformance_command import conformance
from anysoft_conformance.reduce_command import reduce
from anysoft_conformance.terminal import WIDTH, JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from anysoft_conformance.compare import Comparison, Judged, Report, Row

app = typer.Typer(
    name="anysoft",
    help="The numerically stable softmax family, on every array framework.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        import anysoft

        typer.echo(anysoft.__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------------------------------------------------------------
# anysoft backends


@app.command()
def backends(json_file: JsonOption = None) -> None:
    """What is here: each framework's version and devices, and which path a call takes on it, and why."""
    terminal.check_writable(json_file)
    found = _backends()
    if json_file:
        terminal.write_json(found, json_file)
    if json_file == "-":
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for one in found:
        if one["reason"]:
            continue
        console.print(Text.assemble((f"{one['name']} {one['version']}", "bold"), f"  on {', '.join(one['devices'])}"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("function", "path", "dtypes"):
            table.add_column(title)
        because: dict[str, None] = {}
        last = ""
        for choice in one["paths"]:
            function = choice["function"] if choice["function"] != last else ""
            table.add_row(function, choice["path"], " ".join(choice["dtypes"]))
            because |= dict.fromkeys(f"not {path}: {reason}" for path, reason in choice["reasons"].items())
            last = choice["function"]
        console.print(table)
        for sentence in because:
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
        console.print()
    for one in found:
        if one["reason"]:
            console.print(Text.assemble((one["name"], "bold"), f"  {one['reason']}"), soft_wrap=True)


def _backends() -> list[dict[str, Any]]:
    """Every backend: name, version, devices, the reason why it is absent, and the paths of each function by dtype."""
    import anysoft
    from anysoft_conformance import compare, frameworks

    here = {one.name: one for one in reversed(frameworks.present(referee=False).frameworks)}
    return [
        {
            "name": found.name,
            "version": found.version,
            "devices": list(found.devices),
            "reason": found.reason,
            "fast_paths": [{"function": path.operation, "name": path.name} for path in found.fast_paths],
            "paths": compare.paths(here[found.name]) if found.name in here else [],
        }
        for found in anysoft.registry.installed()
    ]


# ---------------------------------------------------------------------------------------------------------------------
# anysoft compare


@app.command()
def compare(
    file: Annotated[
        Path | None,
        typer.Argument(help="Logits in a .npy, .npz or .csv file; without it, real ones that ship with anysoft."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which array of an .npz file.")] = None,
    axis: Annotated[int, typer.Option(help="The axis that is summed over.")] = -1,
    dtype: Annotated[list[str] | None, typer.Option(help="Only this dtype; repeat it for more.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only this framework; repeat it for more.")] = None,
    function: Annotated[
        list[str] | None,
        typer.Option(help="This function, and none that is not named; repeat it for more; all is every one."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="The temperature of softmax and log_softmax.")] = 1.0,
    json_file: JsonOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures, of one file.")
    ] = None,
) -> None:
    """Every installed framework, natively and through anysoft, against a high-precision truth on your logits."""
    terminal.check_writable(json_file)
    terminal.check_writable(html)
    from anysoft_conformance import compare as measure
    from anysoft_conformance import logits as files
    from anysoft_conformance.frameworks import AbsentBackendError
    from anysoft_conformance.oracle import FUNCTIONS
    from anysoft_conformance.questions import QUESTIONS

    if file is None and key is not None:
        terminal.fail("--key names an array of an .npz file, and there is no file")
    try:
        logits = files.load(file, key) if file else files.shipped()
        with _progress() as report:
            comparison = measure.compare(
                logits,
                source=str(file) if file else files.SHIPPED,
                axis=axis,
                dtypes=dtype or (),
                backends=backend or (),
                functions=(*FUNCTIONS, *QUESTIONS) if function and "all" in function else function or FUNCTIONS,
                temperature=temperature,
                report=report,
            )
    except (files.BadFileError, AbsentBackendError, IndexError, ValueError) as error:
        terminal.fail(str(error))
    if html:
        from anysoft_conformance import page

        html.write_text(page.render(comparison), encoding="utf-8")
    if json_file:
        terminal.write_json(comparison.as_dict(), json_file)
    if json_file != "-":
        _print(comparison)


@contextmanager
def _progress() -> "Iterator[Report]":
    """A progress bar for each stage of the work, on a terminal only; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        truth = bar.add_task("truth", total=None)
        measured = bar.add_task("frameworks", total=None)

        def report(stage: str, done: int, total: int) -> None:
            if stage == "truth":
                bar.update(truth, completed=done, total=total)
            else:
                bar.update(measured, description=stage, completed=done, total=total)

        yield report


def _print(comparison: "Comparison") -> None:
    from rich.text import Text

    from anysoft_conformance import oracle

    console = terminal.console()
    shape = " × ".join(map(str, comparison.logits.shape))
    console.print(Text.assemble(("Logits  ", "bold"), f"{comparison.source}; {shape}, axis {comparison.axis}"))
    console.print(
        Text.assemble(("Errors  ", "bold"), f"in ulp of the dtype, against {oracle.NAME}; "),
        Text.assemble(("!", "bold red"), " is outside anysoft's stability contract"),
    )
    console.print(Text.assemble(("Time    ", "bold"), "native over anysoft: above 1, anysoft is faster"))
    for (framework, device), rows in _by_framework(comparison.rows).items():
        versions = [f"{framework} {comparison.versions[framework]}", device]
        if framework == "numpy" and "scipy" in comparison.versions:
            versions.append(f"native is scipy.special {comparison.versions['scipy']}")
        console.print()
        console.print(Text(" · ".join(versions), style="bold"))
        console.print(_table(rows, narrow=console.width < WIDTH))
    console.print()
    if console.width < WIDTH:
        console.print(Text(f"Medians take {WIDTH} columns, or --json or --html.", style="dim"))
    for note in comparison.notes:
        console.print(Text(note, style="dim"))


def _by_framework(rows: "tuple[Row, ...]") -> "dict[tuple[str, str], list[Row]]":
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.framework, row.device), []).append(row)
    return groups


def _table(rows: "list[Row]", *, narrow: bool) -> "Table":
    from rich.table import Table

    from anysoft_conformance.compare import ratio, ulp

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    longest = max(11, *(len(row.function) for row in rows))
    table.add_column("\nfunction", width=longest)
    table.add_column("\ndtype", width=8)
    medians = () if narrow else ("median\nnative", "error\nanysoft")
    for title in ("worst\nnative", "error\nanysoft", *medians):
        table.add_column(title, justify="right", width=7)
    for title in ("wrong\nnative", "NaN/inf\nanysoft"):
        table.add_column(title, justify="right", width=7)
    table.add_column("  anysoft\n  took", overflow="fold", width=(30 if narrow else 34) - longest)
    table.add_column("\ntime", justify="right", width=5)
    functions = dict.fromkeys(row.function for row in rows)
    for function in functions:
        for row in (row for row in rows if row.function == function):
            first = row is next(other for other in rows if other.function == function)
            table.add_row(
                function if first else "",
                row.dtype,
                _worst(row.native),
                _worst(row.anysoft),
                *(() if narrow else (ulp(row.native.median if row.native else None), ulp(row.anysoft.median))),
                _count(row.native),
                _count(row.anysoft),
                f"  {row.anysoft.name}",
                ratio(row.time_ratio),
            )
    return table


def _worst(judged: "Judged | None") -> str:
    from anysoft_conformance.compare import ulp

    text = ulp(judged.worst if judged else None)
    return f"[bold red]{text}![/]" if judged and judged.outside else f"{text} "


def _count(judged: "Judged | None") -> str:
    if judged is None:
        return "–"
    return f"[bold red]{judged.stray}[/]" if judged.stray else "[dim]0[/]"


# ---------------------------------------------------------------------------------------------------------------------
# The commands with a file of their own

app.command()(conformance)
app.command()(bench)
app.command()(reduce)
