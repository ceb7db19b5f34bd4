"""The frame of every page: one self-contained HTML file in the style of `page.css`, light and dark."""

from __future__ import annotations

from html import escape
from importlib import resources


def document(title: str, body: str, *styles: str) -> str:
    """A whole HTML document without a script, which loads nothing.

    Parameters
    ----------
    title : str
        As text.
    body : str
        As HTML.
    *styles : str
        Style sheets of this package beside `page.css`.

    Returns
    -------
    str
    """
    files = resources.files(__package__)
    style = "".join((files / name).read_text(encoding="utf-8") for name in ("page.css", *styles))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
