"""The page of `anysoft bench --html`: how fast each function is at each size, beside the machine's limit."""

from __future__ import annotations

import math
from html import escape

import anysoft
from anysoft_conformance.bench import FLOORS, OURS, PEERS, Bench, Place, Timing
from anysoft_conformance.bench_command import by_place, duration, number, once, title
from anysoft_conformance.document import document
from anysoft_conformance.page import Axis, scale


def render(bench: Bench) -> str:
    """The page as HTML: a whole document that refers to nothing outside itself."""
    sections = [_section(bench, place, timings) for place, timings in by_place(bench).items()]
    parts = [_headline(bench), *sections, _numbers(bench), _footer(bench)]
    return document(f"anysoft bench: {bench.machine}", "".join(parts), "bench_page.css")


def _headline(bench: Bench) -> str:
    facts = "".join(f"<li>{escape(line)}</li>" for line in once(bench))
    return (
        f"<header><h1>Speed, measured</h1><p>anysoft beside the frameworks’ own functions, the plain formula and the "
        f"machine’s limit, called in turn in one process on {escape(bench.machine)}, {escape(bench.made)}.</p>"
        f"<ul>{facts}</ul></header>\n"
    )


def _section(bench: Bench, place: Place, timings: list[Timing]) -> str:
    speeds = [_speed(timing, one.seconds) for timing in timings for one in timing.measured.values()]
    axis = Axis(math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds))))
    panels = []
    for function in dict.fromkeys(timing.function for timing in timings):
        for dtype in dict.fromkeys(timing.dtype for timing in timings):
            rows = [one for one in timings if (one.function, one.dtype) == (function, dtype)]
            lines = "".join(
                f'<div class="line"><span class="label">{escape(str(one.size))}</span>{_strip(one, axis)}</div>'
                for one in rows
            )
            panels.append(
                f'<div class="panel"><h3>{function} <small>{dtype}</small></h3>{lines}'
                f"{scale(axis, 'GB of input a second', most=4)}</div>"
            )
    floors = any(name in timing.measured for timing in timings for name in FLOORS)
    limits = "<span>┃ reading the input once, one exp over it, and on a GPU a copy</span>" if floors else ""
    torch = any("torch" in timing.measured for timing in timings)
    other = '<span class="torch">● PyTorch</span>' if torch else ""
    return (
        f'<section class="speed"><h2>{escape(title(bench, place))}</h2><p class="legend">'
        f'<span class="anysoft">● anysoft</span><span class="native">● native</span><span>○ plain formula</span>'
        f'{other}{limits}</p><div class="panels free">{"".join(panels)}</div></section>\n'
    )


def _speed(timing: Timing, seconds: float) -> float:
    return timing.read_bytes / seconds / 1e9


def _strip(timing: Timing, axis: Axis) -> str:
    """Each contender where its speed is, anysoft above the others."""
    grid = "".join(
        f'<line class="grid" x1="{axis.at(10.0**p):.2f}%" x2="{axis.at(10.0**p):.2f}%" y1="0%" y2="100%"/>'
        for p in range(axis.low, axis.high + 1)
    )
    marks = []
    for name in (*FLOORS, *reversed(PEERS), OURS):
        if (one := timing.measured.get(name)) is None:
            continue
        x = axis.at(_speed(timing, one.seconds))
        said = f"<title>{name}: {duration(one.seconds)}, {_speed(timing, one.seconds):.3g} GB/s</title>"
        if name in FLOORS:
            marks.append(f'<line class="floor" x1="{x:.2f}%" x2="{x:.2f}%" y1="4" y2="20">{said}</line>')
        else:
            marks.append(f'<circle class="{name}" cx="{x:.2f}%" cy="12" r="{5 if name == OURS else 4}">{said}</circle>')
    return f'<svg class="bar" role="img" aria-label="{_spoken(timing)}">{grid}{"".join(marks)}</svg>'


def _spoken(timing: Timing) -> str:
    ratios = [f"{number(timing.measured[name].ratio)} times {name}" for name in PEERS if name in timing.measured]
    return escape(f"{timing.function} {timing.size}: {duration(timing.seconds)}; {', '.join(ratios)}")


def _numbers(bench: Bench) -> str:
    heads = (
        "where",
        "function",
        "shape",
        "dtype",
        "anysoft",
        *PEERS,
        *(f"floor: {name}" for name in FLOORS),
        "rounds",
    )
    body = []
    for timing in bench.timings:
        place = timing.place
        found = timing.measured
        cells = [
            f"{place.backend} {place.device} {place.mode}",
            timing.function,
            str(timing.size),
            timing.dtype,
            duration(timing.seconds),
            *(
                f"{number(one.ratio)} ({number(one.low)}–{number(one.high)})" if (one := found.get(name)) else "–"
                for name in PEERS
            ),
            *(number(1 / one.ratio) if (one := found.get(name)) else "–" for name in FLOORS),
            str(timing.rounds),
        ]
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return (
        "<section><details><summary>All numbers</summary><p>A peer’s time over anysoft’s: above 1, anysoft is faster. "
        "Median of the rounds, and quartiles. A floor is anysoft’s time over that of the limit.</p>"
        f'<div class="wide">{table}</div></details></section>\n'
    )


def _footer(bench: Bench) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    absent = "".join(f"<p>{escape(name)}: {escape(reason)}</p>" for name, reason in bench.absent.items())
    load = "" if bench.load is None else f"; the machine’s load was {bench.load:.1f} at the start"
    return (
        f"<footer><p>anysoft {anysoft.__version__} with {escape(versions)}; {bench.threads} threads{load}.</p>"
        f"{absent}</footer>\n"
    )
