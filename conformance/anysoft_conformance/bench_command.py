"""The command ``anysoft bench``: how fast anysoft is beside its peers and beside the machine's limit."""

# Typer reads the annotations at run time, and the heavy imports stand inside: `anysoft --help` is quick.

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

    from anysoft_conformance.bench import Bench, Measured, Place, Size, Timing

SLOWER = 0.95  # of a peer's speed: below it, a ratio is red


def bench(
    backend: Annotated[list[str] | None, typer.Option(help="Only this framework; repeat it for more.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Only this device; cuda is every kind of GPU; repeat it for more.")
    ] = None,
    function: Annotated[
        list[str] | None, typer.Option(help="logsumexp, softmax or log_softmax; repeat it for more; else all three.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="This dtype instead of float32; repeat it for more.")] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="This shape, as 32x50257, or 64x128x256@1 with the axis; repeat for more."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="For one size of one function in one way.")] = 0.5,
    json_file: JsonOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures, of one file.")
    ] = None,
) -> None:
    """Time anysoft beside SciPy, the frameworks' own functions, the plain formula, and the machine's limit.

    All are called in turn in one process, and every ratio is a median over the rounds: above 1, anysoft is faster.
    OMP_NUM_THREADS sets the threads.
    """
    terminal.check_writable(json_file)
    terminal.check_writable(html)
    from anysoft_conformance import bench as measure
    from anysoft_conformance.frameworks import AbsentBackendError

    sizes = tuple(map(_size, size)) if size else measure.SIZES
    try:
        with _progress() as advance:
            found = measure.bench(
                backend or (),
                device or (),
                functions=function or measure.FUNCTIONS,
                dtypes=dtype or measure.DTYPES,
                sizes=sizes,
                seconds=seconds,
                advance=advance,
            )
    except (AbsentBackendError, ValueError) as error:
        terminal.fail(str(error))
    if html:
        from anysoft_conformance import bench_page

        html.write_text(bench_page.render(found), encoding="utf-8")
    if json_file:
        terminal.write_json(found.as_dict(), json_file)
    if json_file != "-":
        show(found, terminal.console())


def _size(text: str) -> "Size":
    from anysoft_conformance.bench import Size

    found = re.fullmatch(r"(\d+(?:[x×]\d+)*)(?:@(-?\d+))?", text)
    shape = tuple(map(int, re.split("[x×]", found[1]))) if found else ()
    axis = int(found[2] or -1) if found else 0
    if not shape or 0 in shape or not -len(shape) <= axis < len(shape):
        terminal.fail(f"--size takes a shape and perhaps an axis of it, such as 1000x10 or 64x128x256@1, not {text!r}")
    return Size(shape, axis % len(shape))


@contextmanager
def _progress() -> "Iterator[Callable[[int, int, str], None]]":
    """A progress bar that says what is timed, on a terminal only; it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description:<50}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("the timings", total=None)
        yield lambda done, total, name: bar.update(task, description=name[:50], completed=done, total=total)


# ---------------------------------------------------------------------------------------------------------------------
# What a reader sees


def show(bench: "Bench", console: "Console") -> None:
    """Print the ratios, and what was measured once."""
    from rich.text import Text

    console.print(
        Text.assemble(
            ("Speed", "bold"),
            " as the peer's time over anysoft's, the median of all rounds and its quartiles: ",
            ("below 0.95", "bold red"),
            " anysoft is slower",
        )
    )
    console.print(
        Text.assemble(
            ("Floor", "bold"),
            " is anysoft's time over that of reading the input once, of one exp over it, and on a GPU of a copy",
        )
    )
    for place, timings in by_place(bench).items():
        console.print()
        console.print(Text(title(bench, place), style="bold"))
        console.print(_table(timings))
    console.print()
    for line in once(bench):
        console.print(Text(line))
    for name, reason in bench.absent.items():
        console.print(Text.assemble((name, "bold"), f"  {reason}"), soft_wrap=True)
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    load = "" if bench.load is None else f", load {bench.load:.1f}"
    console.print(
        Text(f"anysoft {bench.anysoft} with {versions}; {bench.machine}, {bench.threads} threads{load}", style="dim")
    )


def by_place(bench: "Bench") -> "dict[Place, list[Timing]]":
    """The timings of each backend, device and mode."""
    groups: dict[Place, list[Timing]] = {}
    for timing in bench.timings:
        groups.setdefault(timing.place, []).append(timing)
    return groups


def title(bench: "Bench", place: "Place") -> str:
    """What a table of timings is of."""
    parts = [f"{place.backend} {bench.versions.get(place.backend, '')}", place.device, place.mode]
    if place.backend == "numpy" and "scipy" in bench.versions:
        parts.append(f"native is SciPy {bench.versions['scipy']}")
    return " · ".join(parts)


def once(bench: "Bench") -> list[str]:
    """What was measured once, a sentence each."""
    lines = [
        f"A small call of softmax on {name} takes {1e9 * seconds:,.0f} ns beyond its kernel."
        for name, seconds in bench.calls.items()
    ]
    if bench.import_seconds == bench.import_seconds:
        lines.append(f"import anysoft takes {1e3 * bench.import_seconds:.0f} ms beside NumPy's own import.")
    lines += [
        f"logsumexp of 5·10⁷ float32 on {name} takes {size / 2**20:,.0f} MiB beyond its input."
        for name, size in bench.memory.items()
    ]
    return lines


def _table(timings: "list[Timing]") -> "Table":
    from rich.table import Table

    from anysoft_conformance.bench import FLOORS, PEERS

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("\nfunction", width=11)
    table.add_column("\nshape", width=19)
    table.add_column("\ndtype", width=8)
    table.add_column("\nanysoft", justify="right", width=8)
    present = {name for timing in timings for name in timing.measured}
    peers = [name for name in PEERS if name in present]
    floors = [name for name in FLOORS if name in present]
    for name in peers:
        table.add_column(f"\n{name}", justify="right", width=17)
    for name in floors:
        table.add_column(f"floor\n{name}", justify="right", width=6)
    last = ""
    for timing in timings:
        found = timing.measured
        table.add_row(
            timing.function if timing.function != last else "",
            str(timing.size),
            timing.dtype,
            duration(timing.seconds),
            *(_ratio(found.get(name)) for name in peers),
            *(_floor(found.get(name)) for name in floors),
        )
        last = timing.function
    return table


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def number(ratio: float) -> str:
    """A ratio in three characters or four."""
    return f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.1f}" if ratio < 99.5 else f"{ratio:,.0f}"


def _ratio(measured: "Measured | None") -> str:
    if measured is None:
        return "–"
    text = f"{number(measured.ratio)} [dim]{number(measured.low)}–{number(measured.high)}[/]"
    return f"[bold red]{text}[/]" if measured.ratio < SLOWER else text


def _floor(measured: "Measured | None") -> str:
    return "–" if measured is None else number(1.0 / measured.ratio)
