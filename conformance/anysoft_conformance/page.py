"""The page of `anysoft compare --html`: one self-contained file whose pictures carry the comparison.

The pictures are SVG whose horizontal positions are percentages, so that they fill any width while text keeps its size;
colours are CSS variables, so that light and dark need no second picture. There is no script and nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

import anysoft
from anysoft_conformance import oracle
from anysoft_conformance.compare import Comparison, Judged, Row, ratio, ulp
from anysoft_conformance.document import document
from anysoft_conformance.oracle import FloatArray

# errors up to this are drawn at the left edge
LEAST = 0.01
BINS = 56
MOST_POINTS_A_BIN = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis between two powers of ten, in percent of its length."""

    low: int
    high: int

    def at(self, value: float) -> float:
        """Where a value stands; beyond the ends, at the end."""
        if value <= 0:
            return 0.0
        place = (math.log10(value) - self.low) / (self.high - self.low)
        return 100.0 * min(1.0, max(0.0, place))

    def decades(self, most: int) -> list[int]:
        """Powers of ten to label, at most so many."""
        step = next(s for s in (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000) if (self.high - self.low) // s < most)
        return [p for p in range(self.low, self.high + 1) if p % step == 0]


def render(comparison: Comparison) -> str:
    """The page as HTML.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        A whole document that refers to nothing outside itself.
    """
    parts = [
        _headline(comparison),
        _errors(comparison),
        _near_zero(comparison),
        _times(comparison),
        _logits(comparison),
        _numbers(comparison),
        _footer(comparison),
    ]
    return document(f"anysoft compare: {comparison.source}", "".join(parts))


# ---------------------------------------------------------------------------------------------------------------------
# The sections


def _headline(comparison: Comparison) -> str:
    shape = " × ".join(map(str, comparison.logits.shape))
    tiles = []
    natives = [(row, row.native) for row in comparison.rows if row.native]
    for name, answers in (("native", natives), ("anysoft", [(row, row.anysoft) for row in comparison.rows])):
        judged = [(row, answer) for row, answer in answers if answer.worst is not None]
        if not judged:
            continue
        row, worst = max(judged, key=lambda pair: pair[1].worst or 0.0)
        outside = sum(answer.outside for _, answer in answers)
        results = sum(answer.errors.size for _, answer in answers)
        share = f"{outside:,} of {results:,}" if outside else f"none of {results:,}"
        tiles.append(
            f'<div class="tile {name}"><span class="who">{name}</span>'
            f'<span class="big">{_words(worst.worst)}<small> ulp</small></span>'
            f"<span>worst error: {escape(worst.name if name == 'native' else f'anysoft.{row.function}')}, "
            f"{row.framework} {row.dtype}</span>"
            f"<span><b>{share}</b> results break the stability contract</span></div>"
        )
    return (
        f"<header><h1>Softmax, measured</h1><p>Every framework’s own {_enumerated(comparison.functions)} beside "
        f"anysoft’s, on {escape(comparison.source)} ({shape}), against "
        f'{escape(oracle.NAME)}.</p><div class="tiles">{"".join(tiles)}</div></header>\n'
    )


def _enumerated(functions: Sequence[str]) -> str:
    *first, last = (f"<code>{function}</code>" for function in functions)
    return f"{', '.join(first)} and {last}" if first else last


def _errors(comparison: Comparison) -> str:
    worst = [answer.worst or 0.0 for row in comparison.rows for answer in (row.native, row.anysoft) if answer]
    axis = Axis(-2, max(2, math.ceil(math.log10(max([*worst, 1.0]) * 2))))
    native = '<span class="native">● native</span>' if any(row.native for row in comparison.rows) else ""
    panels = []
    for function in comparison.functions:
        rows = [row for row in comparison.rows if row.function == function]
        lines = _grouped(rows, lambda row: _strip(row, axis))
        panels.append(f'<div class="panel"><h3>{function}</h3>{lines}{scale(axis, "error in ulp")}</div>')
    return (
        "<section><h2>Error by framework and dtype</h2>"
        "<p>The shapes show how the errors of single results spread, the dots the worst one. A result rounded "
        "correctly is at most ½ ulp off: the dashed line.</p>"
        f'<p class="legend">{native}<span class="anysoft">● anysoft</span>'
        "<span>◇ breaks the stability contract</span></p>"
        f'<div class="panels">{"".join(panels)}</div></section>\n'
    )


def _strip(row: Row, axis: Axis) -> str:
    """One row of the picture: native upwards, anysoft downwards."""
    grid = "".join(_line(axis.at(10.0**p), "grid") for p in range(axis.low, axis.high + 1))
    half = _line(axis.at(0.5), "half")
    upper = _spread(row.native, axis, "native", up=True) if row.native else ""
    lower = _spread(row.anysoft, axis, "anysoft", up=False)
    base = '<line class="base" x1="0%" x2="100%" y1="24" y2="24"/>'
    return f'<svg class="strip" role="img" aria-label="{_spoken(row)}">{grid}{upper}{lower}{base}{half}</svg>'


def _spread(judged: Judged, axis: Axis, name: str, *, up: bool) -> str:
    """The shape of the errors, and their worst."""
    errors = judged.errors[np.isfinite(judged.errors)]
    y, text = (13, 17) if up else (35, 39)
    title = f"<title>{escape(judged.name)}: worst {ulp(judged.worst)}, median {ulp(judged.median)} ulp</title>"
    stray = f"{judged.stray:,} wrong NaN/inf" if judged.stray else ""
    if not errors.size:
        return f'<text class="{name}" x="50%" y="{text}" text-anchor="middle">{stray}</text>'
    places = np.log10(np.maximum(errors, LEAST))
    counts, _ = np.histogram(places, bins=BINS, range=(axis.low, axis.high))
    heights = np.sqrt(counts / counts.max())  # of the root, so that a few large errors are seen too
    for _ in range(2):
        heights = np.convolve(np.pad(heights, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    points = " ".join(f"{i + 0.5} {24 - 20 * h if up else 24 + 20 * h:.2f}" for i, h in enumerate(heights) if h > 1e-3)
    first, last = np.flatnonzero(heights > 1e-3)[[0, -1]]
    shape = (
        f'<svg viewBox="0 0 {BINS} 48" width="100%" height="48" preserveAspectRatio="none">'
        f'<path class="{name}" d="M{first} 24 L{points} L{last + 1} 24 Z"/></svg>'
    )
    x = axis.at(judged.worst or LEAST)
    end, shift = ("end", -9) if x > 70 else ("start", 9)
    dot = (
        f'<path class="{name} outside" d="M-5 0 L0 -5 L5 0 L0 5 Z"/>'
        if judged.outside
        else f'<circle class="{name}" r="4"/>'
    )
    label = ulp(judged.worst) + (f", {stray}" if stray else "")
    mark = (
        f'<svg x="{x:.2f}%" y="{y}" overflow="visible">{dot}'
        f'<text class="{name}" x="{shift}" y="4" text-anchor="{end}">{label}</text></svg>'
    )
    return f"<g>{title}{shape}{mark}</g>"


def _near_zero(comparison: Comparison) -> str:
    """Error against the size of the result, for log_softmax: where the natives lose their digits."""
    rows = [row for row in comparison.rows if row.function == "log_softmax" and row.native]
    lossy = {row.dtype for row in rows if row.native and (row.native.worst or 0.0) > 100}
    dtype = next((d for d in ("float32", "float64", "float16", "bfloat16") if d in lossy), None)
    rows = [row for row in rows if row.dtype == dtype]
    if not rows:
        return ""
    sizes = np.concatenate([_size(row) for row in rows])
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    worst = max((answer.worst or 0.0) for row in rows for answer in (row.native, row.anysoft) if answer)
    if not sizes.size:
        return ""
    x = Axis(math.floor(math.log10(sizes.min())), max(1, math.ceil(math.log10(sizes.max()))))
    y = Axis(-2, max(2, math.ceil(math.log10(max(worst, 1.0) * 2))))
    panels = "".join(
        f'<div class="panel"><h3>{row.framework} <small>{row.device}</small></h3>{_scatter(row, x, y)}'
        f"{scale(x, '|log_softmax|')}</div>"
        for row in rows
    )
    return (
        f"<section><h2>Where the digits go</h2><p>Each dot is one <code>log_softmax</code> in {dtype}: to the left, "
        "probabilities near 1, whose logarithm is near 0. A formula that subtracts two large numbers there keeps their "
        "rounding error, and the error in ulp grows as the result shrinks.</p>"
        '<p class="legend"><span class="native">● native</span><span class="anysoft">● anysoft</span></p>'
        f'<div class="panels free">{panels}</div></section>\n'
    )


def _size(row: Row) -> FloatArray:
    return np.abs(row.truth.value).reshape(-1)


def _scatter(row: Row, x: Axis, y: Axis) -> str:
    size = _size(row)
    dots = []
    for name, judged in (("native", row.native), ("anysoft", row.anysoft)):
        if judged is None:
            continue
        chosen = _representatives(size, judged.errors.reshape(-1), x)
        dots += [
            f'<circle class="{name} dot" cx="{x.at(a):.1f}%" cy="{100 - y.at(e):.1f}%" r="2.2"/>' for a, e in chosen
        ]
    lines = []
    for p in y.decades(6):
        at = 100 - y.at(10.0**p)
        lines.append(f'<line class="grid" x1="0%" x2="100%" y1="{at:.2f}%" y2="{at:.2f}%"/>')
        if 2 < at < 98:
            lines.append(f'<text class="tick" x="4" y="{at:.2f}%" dy="-4">{_power(p)} ulp</text>')
    lines += [_line(x.at(10.0**p), "grid") for p in x.decades(7)]
    return f'<svg class="scatter" role="img" aria-label="{_spoken(row)}">{"".join(lines)}{"".join(dots)}</svg>'


def _representatives(size: FloatArray, errors: FloatArray, x: Axis) -> Iterable[tuple[float, float]]:
    """A few hundred dots for many: in each of a hundred slices the worst, and others evenly spread."""
    drawn = (size > 0) & np.isfinite(size) & np.isfinite(errors)
    size, errors = size[drawn], np.maximum(errors[drawn], LEAST)
    slices = np.array([int(x.at(value)) for value in size], dtype=np.int64)
    for one in np.unique(slices):
        members = np.flatnonzero(slices == one)
        ranked = members[np.argsort(errors[members])[::-1]]
        for i in ranked[np.unique(np.linspace(0, len(ranked) - 1, MOST_POINTS_A_BIN).astype(int))]:
            yield float(size[i]), float(errors[i])


def _times(comparison: Comparison) -> str:
    ratios = [row.time_ratio for row in comparison.rows if row.time_ratio]
    if not ratios:
        return ""
    reach = max(2.0, *(max(value, 1 / value) for value in ratios)) ** 1.25
    panels = []
    for function in comparison.functions:
        rows = [row for row in comparison.rows if row.function == function]
        lines = _grouped(rows, lambda row: _bar(row, reach))
        scale = (
            '<div class="line"><span class="label"></span><span class="ends"><i>slower</i><i>faster</i></span></div>'
        )
        panels.append(f'<div class="panel"><h3>{function}</h3>{lines}{scale}</div>')
    return (
        "<section><h2>Time</h2><p>How many times as fast as the framework’s own function anysoft is, measured in pairs "
        "on the same array. JAX compiles both.</p>"
        f'<div class="panels">{"".join(panels)}</div></section>\n'
    )


def _bar(row: Row, reach: float) -> str:
    middle = _line(50, "half")
    if not row.time_ratio:
        return f'<svg class="bar">{middle}<text x="52%" y="16">–</text></svg>'
    x = 50 + 50 * math.log(row.time_ratio) / math.log(reach)
    left, width = min(x, 50), abs(x - 50)
    end, shift = ("start", 6) if x >= 50 else ("end", -6)
    name = "anysoft" if row.time_ratio >= 0.95 else "native"
    return (
        f'<svg class="bar" role="img" aria-label="{ratio(row.time_ratio)} times as fast">'
        f'<rect class="{name}" x="{left:.2f}%" width="{max(width, 0.4):.2f}%" y="5" height="14" rx="2"/>{middle}'
        f'<svg x="{x:.2f}%" overflow="visible"><text class="{name}" x="{shift}" y="16" text-anchor="{end}">'
        f"{ratio(row.time_ratio)}×</text></svg></svg>"
    )


def _logits(comparison: Comparison) -> str:
    values = comparison.logits[np.isfinite(comparison.logits)]
    if values.size < 2 or values.min() == values.max():
        return ""
    peak = np.abs(values).max()
    counts, _ = np.histogram(values / peak, bins=80)  # of the ratio, which no range can overflow
    heights = counts / counts.max() * 96
    bars = "".join(
        f'<rect class="neutral" x="{i / 0.8:.2f}%" width="1.05%" y="{100 - h:.2f}%" height="{h:.2f}%"/>'
        for i, h in enumerate(heights)
    )
    special = comparison.logits.size - values.size
    note = f" {special:,} of them are not finite." if special else ""
    return (
        f"<section><h2>The logits</h2><p>How the {comparison.logits.size:,} values are spread.{note}</p>"
        f'<svg class="histogram" role="img" aria-label="histogram of the logits">{bars}</svg>'
        f'<p class="ends"><i>{values.min():.4g}</i><i>{values.max():.4g}</i></p></section>\n'
    )


def _numbers(comparison: Comparison) -> str:
    heads = ("framework", "function", "dtype", "worst", "", "median", "", "wrong NaN/inf", "", "anysoft took", "time")
    seconds = ("", "", "", "native", "anysoft", "native", "anysoft", "native", "anysoft", "", "")
    body = []
    for row in comparison.rows:
        native = row.native
        cells = [
            f"{row.framework} {row.device}",
            row.function,
            row.dtype,
            ulp(native.worst if native else None) + ("!" if native and native.outside else ""),
            ulp(row.anysoft.worst) + ("!" if row.anysoft.outside else ""),
            ulp(native.median if native else None),
            ulp(row.anysoft.median),
            str(native.stray) if native else "–",
            str(row.anysoft.stray),
            row.anysoft.name,
            ratio(row.time_ratio),
        ]
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join("<tr>" + "".join(f"<th>{text}</th>" for text in line) + "</tr>" for line in (heads, seconds))
    table = f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"
    return f'<section><details><summary>All numbers</summary><div class="wide">{table}</div></details></section>\n'


def _footer(comparison: Comparison) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    notes = "".join(f"<p>{escape(note)}</p>" for note in comparison.notes)
    return (
        "<footer><p><b>The stability contract</b>: |computed − f| ≤ 4 ulp + 2u·Σ|∂f/∂xⱼ|·|xⱼ|, the exact answer for "
        "inputs moved by two roundings, rounded by a few ulp. <b>ulp</b>: the spacing of the dtype at the correctly "
        f"rounded result; the inputs count as exact once they are rounded to the dtype.</p>{notes}"
        f"<p>anysoft {anysoft.__version__} with {escape(versions)}; axis {comparison.axis}.</p></footer>\n"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Their parts


def _grouped(rows: Sequence[Row], draw: Callable[[Row], str]) -> str:
    out = []
    group = ""
    for row in rows:
        name = f"{row.framework} <small>{escape(row.device)}</small>"
        if name != group:
            out.append(f'<div class="group">{name}</div>')
            group = name
        out.append(f'<div class="line"><span class="label">{row.dtype}</span>{draw(row)}</div>')
    return "".join(out)


def scale(axis: Axis, unit: str, most: int = 6) -> str:
    """The ticks of an axis, at most so many, as the last line of a panel."""
    ticks = "".join(
        f'<text class="tick" x="{axis.at(10.0**p):.2f}%" y="14" text-anchor="{_anchor(p, axis)}">{_power(p)}</text>'
        for p in axis.decades(most)
    )
    return (
        f'<div class="line"><span class="label"></span><svg class="scale">{ticks}'
        f'<text class="tick" x="50%" y="32" text-anchor="middle">{unit}</text></svg></div>'
    )


def _anchor(power: int, axis: Axis) -> str:
    return "start" if power == axis.low else "end" if power == axis.high else "middle"


def _power(power: int) -> str:
    if -2 <= power <= 2:
        return f"{10.0**power:g}"
    return f'10<tspan dy="-5" font-size="80%">{str(power).replace("-", "−")}</tspan>'


def _line(x: float, name: str) -> str:
    return f'<line class="{name}" x1="{x:.2f}%" x2="{x:.2f}%" y1="0%" y2="100%"/>'


def _spoken(row: Row) -> str:
    native = f"native worst {ulp(row.native.worst)} ulp, " if row.native else ""
    return f"{row.framework} {row.dtype} {row.function}: {native}anysoft worst {ulp(row.anysoft.worst)} ulp"


def _words(error: float | None) -> str:
    """A large number as one says it."""
    if error is None:
        return "–"
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if size <= error < 1000 * size:
            return f"{error / size:.1f} {word}"
    return f"{error:,.0f}" if 1000 <= error < 1e6 else ulp(error)
