"""The entry point of the command ``anysoft``."""

from __future__ import annotations

import sys

# what the extra `compare` installs, and the commands need
_EXTRA = {"typer", "rich", "mpmath"}


def main() -> None:
    """Run the command line; one sentence and exit code 2 where the extra that it needs is not installed."""
    try:
        from anysoft_conformance.commands import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(f"anysoft: the command line needs {missing}; pip install 'anysoft[compare]'", file=sys.stderr)
        sys.exit(2)
