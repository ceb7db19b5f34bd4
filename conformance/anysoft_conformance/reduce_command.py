"""The command ``anysoft reduce``: logsumexp of a .npy file that may be larger than memory."""

# Typer reads the annotations at run time, and the heavy imports stand inside: `anysoft --help` is quick.

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anysoft_conformance import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def reduce(
    file: Annotated[Path, typer.Argument(help="Logits in a .npy file, of any size.")],
    axis: Annotated[
        str | None, typer.Option(help="The axis to sum over, or several as 0,2; without it, all of them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result to a .npy file.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the state in a .npz file, and go on from there if it is there."),
    ] = None,
) -> None:
    """Take logsumexp of a .npy file in constant memory; with --state, it can be stopped and goes on."""
    for target in (out, state):
        terminal.check_writable(target)
    from anysoft_conformance import reduction

    try:
        with _progress() as report:
            result = reduction.reduce(file, _axes(axis), out=out, state=state, report=report)
    except (reduction.BadReductionError, IndexError, ValueError) as error:
        terminal.fail(str(error))
    if out is None:
        typer.echo(str(result))


def _axes(text: str | None) -> int | tuple[int, ...] | None:
    if text is None:
        return None
    try:
        axes = tuple(int(part) for part in text.split(","))
    except ValueError:
        terminal.fail(f"--axis is an integer, or several as 0,2, not {text}")
    return axes[0] if len(axes) == 1 else axes


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    """A progress bar in bytes, on a terminal only; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
