"""What the commands share: how they fail, and how they write files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 99  # of the widest table

JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write it as JSON; - is the standard output.")
]


def fail(sentence: str) -> NoReturn:
    """Say what is wrong with the command line, and leave with 2."""
    typer.echo(f"anysoft: {sentence}", err=True)
    raise typer.Exit(2)


def console() -> Console:
    """The standard output; as wide as the widest table where it is no terminal."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=max(WIDTH, found.width))


def check_writable(path: str | Path | None) -> None:
    """Find out before the work that its result has somewhere to go."""
    if path is None or path == "-":
        return
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        fail(f"{path} cannot be written: {'it is a folder' if target.is_dir() else 'there is no such folder'}")


def write_json(content: Any, target: str) -> None:
    """Write JSON to a file, or to the standard output for ``-``."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    if target == "-":
        typer.echo(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    """NaN (the time of what did not run) as null: JSON has no NaN."""
    recurse: Callable[[Any], Any] = _finite
    if isinstance(content, dict):
        return {key: recurse(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [recurse(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
