"""The page of `anysoft conformance --html`: a heat map of the worst errors, and behind each square what was judged.

There is no script and nothing is loaded: a square is a link to what stands behind it, further down.
"""

from __future__ import annotations

import re
from collections import Counter
from html import escape

from anysoft_conformance import summary
from anysoft_conformance.document import document
from anysoft_conformance.judgement import Verdict
from anysoft_conformance.report import Report
from anysoft_conformance.suite import NATIVE
from anysoft_conformance.summary import Finding, Key, Matrix, Square

MOST_CHARACTERS = 400  # of one reason
MOST_BROKEN = 80  # behind one square
WORST_KEPT = 3
_KINDS = {"value": "values", "gradient": "first derivatives", "hessian": "second derivatives"}

Squares = dict[Key, dict[str, Square]]


def render(report: Report) -> str:
    """The page as HTML.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
        A whole document that refers to nothing outside itself but by links to the issues that it names.
    """
    squares = summary.squares(report)
    parts = [
        _headline(report),
        _map(report, squares),
        _transformations(report),
        _known(report),
        _scoreboard(report),
        _behind(report, squares),
        _footer(report),
    ]
    return document(f"anysoft conformance: {report.machine}", "".join(parts), "report_page.css")


# ---------------------------------------------------------------------------------------------------------------------
# The sections


def _headline(report: Report) -> str:
    tiles = []
    ours = [one for one in report.verdicts if one.path != NATIVE and one.outcome != "not offered"]
    theirs = [one for one in report.verdicts if one.path == NATIVE and one.outcome != "not offered"]
    for name, who, verdicts in (
        ("native", "the frameworks’ own functions", theirs),
        ("anysoft", "anysoft", ours),
    ):
        if not verdicts:
            continue
        broken = sum(one.outcome == "broken" for one in verdicts)
        known = len(report.unexpected)
        note = f"<span>{broken - known:,} of them known, {known:,} not</span>" if name == "anysoft" and broken else ""
        tiles.append(
            f'<div class="tile {name}"><span class="who">{who}</span>'
            f'<span class="big">{100 * (1 - broken / len(verdicts)):.{2 if broken else 0}f}<small> %</small></span>'
            f"<span>of {len(verdicts):,} checks keep the stability contract; <b>{broken:,}</b> do not</span>"
            f"{note}</div>"
        )
    sweep = "full sweep" if report.full else "quick sweep"
    return (
        f"<header><h1>Conformance, measured</h1><p>The suite’s {sweep} on {escape(report.machine)}, {report.made}, "
        f"against {escape(report.truth)}: every case of every function, on each backend, device, dtype and path."
        f'</p><div class="tiles">{"".join(tiles)}</div></header>\n'
    )


def _map(report: Report, squares: Squares) -> str:
    panels = []
    places = summary.places(squares)
    for function in summary.functions(report):
        rows = []
        heads: list[str] = []
        for (backend, devices), place in summary.alike(squares).items():
            dtypes, paths = places[place]
            heads += [path for path in paths if path not in heads]
            name = f"{escape(backend)} <small>{escape(', '.join(devices))}</small>"
            rows.append(f'<tr><th class="place" colspan="{{span}}">{name}</th></tr>')
            for dtype in dtypes:
                cells = (_square(squares.get((*place, dtype, path), {}).get(function)) for path in paths)
                rows.append(f"<tr><th>{dtype}</th>{''.join(cells)}</tr>")
        head = "".join(f"<th>{escape(path)}</th>" for path in heads)
        body = "".join(rows).replace("{span}", str(len(heads) + 1))
        panels.append(
            f'<div class="panel"><h3>{function}</h3><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    natives = any(key[3] == NATIVE for key in squares)
    native = " <b>native</b> is the framework’s own function (NumPy’s is SciPy’s)." if natives else ""
    return (
        "<section><h2>Worst error</h2><p>Over what the contract allows: at most 1 is kept. Each square leads to the "
        "cases behind it. <b>auto</b> is what a call takes, <b>generic</b> anysoft’s plain formulas."
        f'{native}</p><p class="key"><span><i class="kept-1">¼</i><i class="kept-2">½</i><i class="kept-3">1</i>kept'
        '</span><span><i class="known">2*</i>known to be broken</span><span><i class="broken-1">10!</i>'
        '<i class="broken-2">1e3!</i><i class="broken-3">1e6!</i>past the contract</span>'
        '<span><i class="broken-1 wrong">2✗</i>wrong NaN, infinity, shape, … too</span>'
        f'<span><i>–</i>nothing offered</span></p><div class="panels free maps">{"".join(panels)}</div></section>\n'
    )


def _transformations(report: Report) -> str:
    sections = []
    for matrix in summary.matrices(report):
        name = f"{escape(matrix.backend)} {escape(report.versions.get(matrix.backend, ''))}"
        tables = "".join(_matrix(matrix, _KINDS[what], names) for what, names in matrix.transformations.items())
        beside = f"Beside it, smaller, what {escape(summary.native_name(report, matrix.backend))} itself does."
        sections.append(
            f"<h3>{name}</h3><p>{beside if matrix.native else ''}</p><div class='wide matrices'>{tables}</div>"
            f"{_broken_of(report, matrix)}"
        )
    if not sections:
        return ""
    return (
        "<section><h2>Transformations</h2><p>What the framework does to functions, judged as a plain call is: "
        f"✓ kept, * known to be broken, ✗ broken, – nothing to ask.</p>{''.join(sections)}</section>\n"
    )


def _matrix(matrix: Matrix, title: str, names: tuple[str, ...]) -> str:
    span = 2 if matrix.native else 1
    heads = "".join(f'<th colspan="{span}"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for function in matrix.functions:
        if not any((function, name) in matrix.ours for name in names):
            continue
        cells = []
        for key in ((function, name) for name in names):
            cells.append(_sign(matrix.ours.get(key), ""))
            if matrix.native:
                cells.append(_sign(matrix.native.get(key), " native"))
        rows.append(f"<tr><th>{function}</th>{''.join(cells)}</tr>")
    return (
        f'<table class="matrix"><thead><tr><th>{title}</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _sign(square: Square | None, who: str) -> str:
    sign = summary.sign(square)
    if square is None or not square.offered:
        return f'<td class="none{who}">{"" if who else sign}</td>'
    kind = {"✓": "kept-2", "*": "known", "✗": "broken-2"}[sign]
    title = f"{square.verdicts[0].function}, {square.verdicts[0].transformation}: {_counts(square)}"
    return f'<td class="{kind}{who}" title="{escape(title)}">{sign}</td>'


def _broken_of(report: Report, matrix: Matrix) -> str:
    """What the matrix has of the framework's own functions that is broken, and of anysoft's."""
    parts = []
    for who, squares in (("anysoft’s", matrix.ours), ("the framework’s own", matrix.native)):
        broken = summary.worst_first(verdict for square in squares.values() for verdict in square.broken)
        if broken:
            more = f"<p>and {len(broken) - MOST_BROKEN:,} more in the JSON report</p>" * (len(broken) > MOST_BROKEN)
            parts.append(
                f"<details><summary>{len(broken):,} broken of {who} functions</summary>"
                f'<div class="square">{_list(report, broken[:MOST_BROKEN], place=True)}{more}</div></details>'
            )
    return "".join(parts)


def _square(square: Square | None) -> str:
    if square is None or not square.offered:
        return '<td class="none">–</td>'
    kind = _kind(square)
    wrong = " wrong" if square.mark == "✗" else ""
    return (
        f'<td class="{kind}{wrong}"><a href="#{_anchor(square)}" title="{escape(_counts(square))}">'
        f"{square.text}{square.mark}</a></td>"
    )


def _kind(square: Square) -> str:
    ratio = square.cell.ratio or 0.0
    if square.mark == "*":
        return "known"
    if square.mark:
        return "broken-1" if ratio <= 10 else "broken-2" if ratio <= 1e3 else "broken-3"
    return "kept-1" if ratio <= 0.25 else "kept-2" if ratio <= 0.5 else "kept-3"


def _anchor(square: Square) -> str:
    one = square.verdicts[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", "-".join((one.backend, one.device, one.dtype, one.function, one.path)))


def _counts(square: Square) -> str:
    cell = square.cell
    parts = [f"{cell.kept:,} kept"]
    parts += [f"{cell.known:,} known to be broken"] if cell.known else []
    parts += [f"{square.unexpected:,} broken"] if square.unexpected else []
    parts += [f"{cell.not_offered:,} not offered"] if cell.not_offered else []
    return ", ".join(parts)


def _known(report: Report) -> str:
    items = []
    for (cause, link), verdicts in summary.causes(report).items():
        backends = ", ".join(dict.fromkeys(f"{one.backend} {one.device}" for one in verdicts))
        items.append(
            f"<details><summary><em class='expected'>{len(verdicts):,}</em> on {escape(backends)}: {_linked(cause)} "
            f'(<a href="{escape(link)}">{escape(_short(link))}</a>)</summary><div class="square">'
            f"{_list(report, verdicts, place=True)}</div></details>"
        )
    if report.stale:
        names = "".join(f"<li><code>{escape(name)}</code></li>" for name in report.stale)
        items.append(
            f"<details open><summary><em>{len(report.stale):,} known failures did not fail</em></summary>"
            f'<div class="square"><ul>{names}</ul></div></details>'
        )
    if not items:
        return ""
    return f"<section><h2>Known failures</h2>{''.join(items)}</section>\n"


def _scoreboard(report: Report) -> str:
    sections = []
    for device, findings in summary.scoreboard(report).items():
        backends = list(dict.fromkeys(name for finding in findings for name in finding.answers))
        names = "".join(f"<th>{escape(summary.native_name(report, backend))}</th>" for backend in backends)
        head = f"<tr><th>case</th><th>dtype</th><th>truth</th>{names}<th>why it is asked</th></tr>"
        tables = []
        for function in dict.fromkeys(finding.function for finding in findings):
            rows = [_finding(finding, backends) for finding in findings if finding.function == function]
            tables.append(
                f"<details><summary><b>{function}</b>: {len(rows):,} cases</summary><div class='wide'>"
                f'<table class="board"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div></details>'
            )
        sections.append(
            f"<section><h2>What the frameworks’ own functions break on {escape(device)}</h2><p>Each case in one dtype. "
            "× is how many times past what the contract allows, where six digits do not tell the answer from the truth "
            f"or the answers miss it at different places.</p>{''.join(tables)}</section>\n"
        )
    return "".join(sections)


def _finding(finding: Finding, backends: list[str]) -> str:
    answers = []
    for backend in backends:
        text = finding.answer(backend)
        answers.append(f'<td class="{"fine" if text in ("–", "kept") else "wrong"}">{escape(text)}</td>')
    return (
        f"<tr><td><code>{escape(finding.case)}</code></td><td>{finding.dtype}</td><td>{escape(finding.truth)}</td>"
        f"{''.join(answers)}<td>{_linked(summary.why(finding.function, finding.case))}</td></tr>"
    )


def _behind(report: Report, squares: Squares) -> str:
    """What stands behind each square; of devices with the same numbers, the first."""
    parts = []
    for (backend, devices), place in summary.alike(squares).items():
        here = [square for key, named in squares.items() if key[:2] == place for square in named.values()]
        inner = "".join(_details(report, square) for square in here if square.offered)
        name = f"<b>{escape(backend)}</b> {escape(', '.join(devices))}"
        parts.append(f'<details><summary>{name}</summary><div class="place">{inner}</div></details>')
    return f"<section><h2>Behind the squares</h2>{''.join(parts)}</section>\n"


def _details(report: Report, square: Square) -> str:
    one = square.verdicts[0]
    worst = f"; worst {square.text}{square.mark}" if square.cell.worst else ""
    body = []
    if square.broken:
        body.append(_list(report, square.broken[:MOST_BROKEN]))
        if len(square.broken) > MOST_BROKEN:
            body.append(f"<p>and {len(square.broken) - MOST_BROKEN:,} more in the JSON report</p>")
    kept = summary.worst_first(v for v in square.verdicts if v.outcome == "kept" and v.ratio is not None)[:WORST_KEPT]
    if kept:
        items = ", ".join(f"<code>{escape(v.question)}</code> {summary.times(v.ratio)}" for v in kept)
        body.append(f"<p>Closest to the contract of what is kept: {items}</p>")
    lacking = Counter(v.reason.partition("; ")[0] for v in square.verdicts if v.outcome == "not offered")
    body += [f"<p>{count:,} not offered: {escape(reason[:MOST_CHARACTERS])}</p>" for reason, count in lacking.items()]
    return (
        f"<details><summary><b>{one.function}</b> {one.dtype} {one.path}: {_counts(square)}{worst}</summary>"
        f'<div class="square" id="{_anchor(square)}">{"".join(body)}</div></details>\n'
    )


def _footer(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    absent = "".join(f"<p>{escape(name)}: {escape(reason)}</p>" for name, reason in report.absent.items())
    commit = f" at commit {escape(report.commit)}" if report.commit else ""
    return (
        "<footer><p><b>The stability contract</b>: |computed − f| ≤ 4 ulp + 2u·Σ|∂f/∂xⱼ|·|xⱼ|, the exact answer for "
        "inputs moved by two roundings, rounded by a few ulp.</p>"
        f"<p>anysoft {escape(report.anysoft)}{commit}, suite {report.suite}, with {escape(versions)}; "
        f"{escape(report.machine)}; {report.made}, in {report.seconds:,.0f} s.</p>{absent}</footer>\n"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Their parts


def _list(report: Report, verdicts: tuple[Verdict, ...], *, place: bool = False) -> str:
    return f"<ul>{''.join(_broken(report, verdict, place) for verdict in verdicts)}</ul>"


def _broken(report: Report, verdict: Verdict, place: bool) -> str:
    """One item: with `place`, where it is broken; otherwise, whether it is known to be and why."""
    function, where, cause = "", "", ""
    if place:
        function, where = (
            f"{verdict.function} ",
            f" on {verdict.backend} {verdict.device} {verdict.dtype} {verdict.path}",
        )
    elif known := report.known.get(verdict.id):
        cause = f' Known: {_linked(known[0])} (<a href="{escape(known[1])}">{escape(_short(known[1]))}</a>)'
    reason = verdict.reason.removeprefix(f"{verdict.aspect} ")
    reason = reason if len(reason) <= MOST_CHARACTERS else f"{reason[:MOST_CHARACTERS]}…"
    expected = ' class="expected"' if verdict.id in report.known else ""
    aspect = f"<em{expected}>{verdict.aspect}</em>"
    case = f"<code>{escape(verdict.question)}</code>"
    return f"<li>{function}{case}{escape(where)} {aspect} {_linked(reason)}{cause}</li>"


def _linked(text: str) -> str:
    """Text as HTML, in which ``scipy#19521`` leads there."""

    def link(match: re.Match[str]) -> str:
        url = summary.issue(match)
        return f'<a href="{url}">{match[0]}</a>' if url else match[0]

    return summary.ISSUE.sub(link, escape(text))


def _short(link: str) -> str:
    """The link to an issue as ``jax#16200``; any other as it is."""
    found = re.fullmatch(r"https://github\.com/[^/]+/([^/]+)/(?:issues|pull)/(\d+)", link)
    return f"{found[1]}#{found[2]}" if found else link
