"""The rows of the softmax family on a GPU, in Triton: one read of the input, and no digit lost to the shift.

Each lane of a tile keeps (m, rest): the largest number that it has seen, and the sum of the exponentials of all others.
As a number x arrives, the smaller of x and m joins the rest: one exponential for each number, and the largest stays
apart, so that log1p(rest) has all digits near 0. Lanes, and the parts of a row that several programs read, are merged
in the same way.

Of float32 and float64, exp(x) is e·2^n: the exponents n are integers, and rescaling a sum to a larger maximum is exact.
No maximum is subtracted, which would cost up to half an ulp of x − m in the exponent; only where |m| is so large that
x − m is exact for all that counts. A sum is kept ×2^P, so that terms far below the smallest normal number add up, in
two words once it has more than a few terms.

What rounds more coarsely than float32 takes the hardware's exp2. What is done once a row is done in float64.
"""

# Triton runs these functions in a language of its own, which has no types for mypy.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, misc"
# ruff: noqa: N803 - what is known when a kernel is compiled is written in capitals, as everywhere in Triton

from __future__ import annotations

import triton
import triton.language as tl

# forms: how terms are computed
HALF = tl.constexpr(0)  # in float32, for results of fewer bits
SINGLE = tl.constexpr(1)
DOUBLE = tl.constexpr(2)

# what is written for each entry
SOFTMAX = tl.constexpr(0)
GRADIENT = tl.constexpr(1)  # of logsumexp: softmax times the row's cotangent, 0 on dead rows, shared by +inf
LOG_SOFTMAX = tl.constexpr(2)
LOG_SOFTMAX_AND_SOFTMAX = tl.constexpr(3)  # in a dominant entry's place −(sum of the others): see _torch_kernels.py

# numbers kept of a row for what is computed later, in this order
KEPT = tl.constexpr(5)  # its maximum; its logsumexp in two words; 1/sum; −(all but the largest)/sum

STEPS = tl.constexpr(8)  # numbers that a lane takes at a time

# P of each form, and 2^-P: terms reach down to 2^-(P + 126), or 2^-(P + 1022), and no number of them overflows
_P_HALF, _P_SINGLE, _P_DOUBLE = tl.constexpr(64), tl.constexpr(96), tl.constexpr(900)
_UNSCALED_HALF = tl.constexpr(2.0**-64)
_UNSCALED_SINGLE = tl.constexpr(2.0**-96)
_UNSCALED_DOUBLE = tl.constexpr(2.0**-900)

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
# log 2 in two words, the first with so few bits that its product with an exponent is exact
_LN2_HIGH_SINGLE = tl.constexpr(0.693359375)
_LN2_LOW_SINGLE = tl.constexpr(-0.00021219444005469057)
_LN2_HIGH_DOUBLE = tl.constexpr(0.6931471805582987)
_LN2_LOW_DOUBLE = tl.constexpr(1.6465949582897082e-12)
# (e^r − 1 − r)/r² for |r| ≤ log(2)/2, from the highest power down: minimax to 2^-28, and 1/k! to 2^-57
_EXP_SINGLE = tl.constexpr(
    (0.0013814540177, 0.0083687451089, 0.041668390783548, 0.16666520399042, 0.49999993432129),
)
_EXP_DOUBLE = tl.constexpr(
    (
        1.6059043836821613e-10,
        2.08767569878681e-09,
        2.505210838544172e-08,
        2.755731922398589e-07,
        2.7557319223985893e-06,
        2.48015873015873e-05,
        0.0001984126984126984,
        0.001388888888888889,
        0.008333333333333333,
        0.041666666666666664,
        0.16666666666666666,
        0.5,
    )
)


@triton.jit
def _exponent(d, FORM: tl.constexpr):
    """The integer nearest to d/log 2, as a number and as what is added to the bits of an exponent."""
    # beyond 1.5·2^23, float32 has only integers left: the sum's last bits are the integer itself
    if FORM == DOUBLE:
        t = d * _LOG2E + 6755399441055744.0
        n = t - 6755399441055744.0
        k = t.to(tl.int64, bitcast=True) - 0x4338000000000000
    else:
        t = d * _LOG2E + 12582912.0
        n = t - 12582912.0
        k = t.to(tl.int32, bitcast=True) - 0x4B400000
    return n, k


@triton.jit
def _power(k, FORM: tl.constexpr):
    """2^k, where that is a normal number."""
    if FORM == DOUBLE:
        p = ((k + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        p = ((k + 127) << 23).to(tl.float32, bitcast=True)
    return p


@triton.jit
def _mantissa(d, n, FORM: tl.constexpr):
    """exp(d)/2^n, in float64 to little more than half an ulp."""
    if FORM == DOUBLE:
        near, far = d - n * _LN2_HIGH_DOUBLE, n * _LN2_LOW_DOUBLE
        r = near - far
        q = r * 0.0 + _EXP_DOUBLE[0]
        for i in tl.static_range(1, 12):
            q = q * r + _EXP_DOUBLE[i]
        high = 1.0 + r
        e = high + ((r * r) * q + ((r - (high - 1.0)) + ((near - r) - far)))
    else:
        r = (d - n * _LN2_HIGH_SINGLE) - n * _LN2_LOW_SINGLE
        q = r * 0.0 + _EXP_SINGLE[0]
        for i in tl.static_range(1, 5):
            q = q * r + _EXP_SINGLE[i]
        e = (r * r) * q + r + 1.0
    return e


@triton.jit
def _reference(m, FORM: tl.constexpr):
    """c and N of lanes with these maxima: their terms are exp(x − c)·2^(P − N)."""
    if FORM == DOUBLE:
        finite = tl.minimum(tl.maximum(m, -1.7976931348623157e308), 1.7976931348623157e308)
        c = tl.where(tl.abs(finite) <= 2800.0, 0.0, finite)
    else:
        finite = tl.minimum(tl.maximum(m, -3.4028234663852886e38), 3.4028234663852886e38)
        c = finite if FORM == HALF else tl.where(tl.abs(finite) <= 320.0, 0.0, finite)
    _, n = _exponent(finite - c, FORM)
    return c, n


@triton.jit
def _least(n, FORM: tl.constexpr):
    """The exponent that is taken for all below it: its terms are 0 beside the smallest number there is."""
    return n.to(tl.float64) * _LN2 - 1330.0 if FORM == DOUBLE else n.to(tl.float32) * _LN2 - 152.0


@triton.jit
def _term(x, c, n, least, FORM: tl.constexpr):
    """exp(x − c)·2^(P − n)."""
    if FORM == HALF:
        e = tl.exp2((x - c) * _LOG2E + _P_HALF)
    else:
        d = tl.maximum(x - c, least)
        i, k = _exponent(d, FORM)
        e = _mantissa(d, i, FORM) * _power(k - n + (_P_DOUBLE if FORM == DOUBLE else _P_SINGLE), FORM)
    return e


@triton.jit
def _rescaled(s, d, dn, FORM: tl.constexpr):
    """s·exp(d)·2^dn, which is less than s, or s itself; in two steps, because the factor may leave the range."""
    if FORM == HALF:
        s = s * tl.exp2(d * _LOG2E).to(s.dtype)
    else:
        d = tl.maximum(d, dn.to(d.dtype) * -_LN2 - (1330.0 if FORM == DOUBLE else 152.0))
        i, k = _exponent(d, FORM)
        k += dn
        first = k >> 1
        s = s * _mantissa(d, i, FORM).to(s.dtype)
        s = s * _power(first, FORM).to(s.dtype) * _power(k - first, FORM).to(s.dtype)
    return s


@triton.jit
def _log1p(x):
    """Of float64 x ≥ 0, to less than an ulp: 1 + x = 2^k(1 + f), log(1 + f) = 2 artanh(s) with s = f/(2 + f)."""
    u = 1.0 + x
    lost = tl.where(x < 1.0, x - (u - 1.0), 1.0 - (u - x)) / u
    bits = u.to(tl.int64, bitcast=True)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52  # so that 1 + f is between √½ and √2
    f = (bits - (k << 52)).to(tl.float64, bitcast=True) - 1.0
    s = f / (2.0 + f)
    z = s * s
    q = z * (2.0 / 25.0)
    for i in tl.static_range(11):
        q = z * (q + 2.0 / (23 - 2 * i))
    k = k.to(tl.float64)
    return k * _LN2_HIGH_DOUBLE + ((f - s * (f - q)) + (k * _LN2_LOW_DOUBLE + lost))


@triton.jit
def _place(tiles, parts, ROWS: tl.constexpr):
    """The batch, the rows and the part of them that are this program's."""
    program = tl.program_id(0).to(tl.int64)
    rows = (program // parts) % tiles * ROWS + tl.arange(0, ROWS)
    return program // parts // tiles, rows, program % parts


@triton.jit
def _read(
    x_ptr, row_starts, inside, n, begin, end, stride, FORM: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr
):
    """(m, c, N, rest in two words) of each lane over the columns from `begin` to `end`."""
    dtype: tl.constexpr = tl.float64 if FORM == DOUBLE else tl.float32
    m = tl.full((ROWS, LANES), float("-inf"), dtype)
    high = tl.zeros((ROWS, LANES), dtype)
    low = tl.zeros((ROWS, LANES), dtype)
    c, exponent = _reference(m, FORM)
    lanes = tl.arange(0, LANES)
    for start in range(begin, end, STEPS * LANES):
        smaller = ()
        for step in tl.static_range(STEPS):
            columns = start + step * LANES + lanes
            mask = inside[:, None] & (columns < n)[None, :]
            x = tl.load(x_ptr + row_starts[:, None] + columns[None, :] * stride, mask=mask, other=float("-inf"))
            x = x.to(dtype)
            smaller = smaller + (tl.minimum(m, x),)  # noqa: RUF005 - the other form is not of this language
            m = tl.maximum(m, x, propagate_nan=tl.PropagateNan.ALL)
        old, old_exponent = c, exponent
        c, exponent = _reference(m, FORM)
        high = _rescaled(high, old - c, old_exponent - exponent, FORM)
        low = _rescaled(low, old - c, old_exponent - exponent, FORM)
        least = _least(exponent, FORM)
        s = _term(smaller[0], c, exponent, least, FORM)
        for step in tl.static_range(1, STEPS):
            s += _term(smaller[step], c, exponent, least, FORM)
        t = high + s
        z = t - high
        low += (high - (t - z)) + (s - z)
        high = t
    return m, high.to(tl.float64) + low.to(tl.float64)


@triton.jit
def _merge(m, s, FORM: tl.constexpr, LANES: tl.constexpr):
    """One (m, rest) of each row; NaN where a lane has one."""
    is_nan = tl.max((m != m).to(tl.int32), 1)
    top = tl.max(tl.where(m != m, float("-inf"), m), 1)
    c, n = _reference(m, FORM)
    top_c, top_n = _reference(top, FORM)
    top_c, top_n = top_c[:, None], top_n[:, None]
    lanes = tl.arange(0, LANES)[None, :]
    owner = tl.min(tl.where(m == top[:, None], lanes, LANES), 1)
    others = _term(m, top_c, top_n, _least(top_n, FORM), FORM).to(tl.float64)
    s = _rescaled(s, c - top_c, n - top_n, FORM) + tl.where(lanes == owner[:, None], 0.0, others)
    return tl.where(is_nan > 0, float("nan"), top), tl.sum(s, 1)


@triton.jit
def _of_rows(m, s, FORM: tl.constexpr):
    """The logsumexp of rows, in float64, and what is kept of them."""
    c, n = _reference(m, FORM)
    if FORM == HALF:
        largest = tl.full(s.shape, 1.0, tl.float64)
        unscaled = _UNSCALED_HALF
    else:
        largest = _mantissa(m.to(tl.float64) - c.to(tl.float64), n.to(tl.float64), DOUBLE)
        unscaled = _UNSCALED_DOUBLE if FORM == DOUBLE else _UNSCALED_SINGLE
    s = s * unscaled
    rest = s / largest
    log = _log1p(rest)
    finite = tl.abs(m) < float("inf")
    value = tl.where(finite, m.to(tl.float64) + log, m.to(tl.float64))
    undefined = tl.where(finite, 0.0, float("nan"))
    log = log.to(m.dtype) + undefined
    high = m + log
    z = high - m
    low = (m - (high - z)) + (log - z)
    inverse = (1.0 / (s + largest)) * (unscaled if FORM == HALF else 1.0)
    minus = rest * tl.where(finite, -1.0, float("nan")) / (1.0 + rest)  # Triton's −x is 0 − x, and has no −0
    return value, high, low, inverse.to(m.dtype) + undefined, minus.to(m.dtype)


@triton.jit
def _softmax(x, c, n, inverse, FORM: tl.constexpr):
    if FORM == HALF:
        p = tl.exp2((x - c) * _LOG2E + _P_HALF) * inverse
    else:
        d = tl.maximum(x - c, _least(n, FORM))
        i, k = _exponent(d, FORM)
        k -= n
        first = k >> 1
        p = _mantissa(d, i, FORM) * inverse
        p = p * _power(first, FORM) * _power(k - first, FORM)
    return p


@triton.jit
def _count_infinite(x_ptr, starts, inside, n, stride, ROWS: tl.constexpr, LANES: tl.constexpr):
    count = tl.zeros((ROWS, LANES), tl.float32)
    for start in range(0, n, LANES):
        columns = start + tl.arange(0, LANES).to(tl.int64)
        mask = inside[:, None] & (columns < n)[None, :]
        x = tl.load(x_ptr + starts[:, None] + columns[None, :] * stride, mask=mask, other=0.0)
        count += tl.where(x == float("inf"), 1.0, 0.0)
    return tl.sum(count, 1)


@triton.jit
def _write(
    x_ptr, out_ptr, p_ptr, x_starts, out_starts, inside, n, begin, end, x_stride, out_stride,
    m, high, low, inverse, minus, g,
    FORM: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The entries of rows from column `begin` to `end`, of which all else is known."""
    dtype: tl.constexpr = tl.float64 if FORM == DOUBLE else tl.float32
    infinite = m == float("inf")
    share = inverse
    if MODE == GRADIENT:
        if tl.max(infinite.to(tl.int32), 0) > 0:
            count = _count_infinite(x_ptr, x_starts, inside, n, x_stride, ROWS, LANES)
            share = (1.0 / count.to(tl.float64)).to(dtype)  # of float32, / is only about right
        share = (share * g)[:, None]
    m, high, low, inverse, minus, infinite = (
        m[:, None], high[:, None], low[:, None], inverse[:, None], minus[:, None], infinite[:, None]
    )  # fmt: skip
    c, exponent = _reference(m, FORM)
    for start in range(begin, end, 4 * LANES):
        columns = start + tl.arange(0, 4 * LANES)
        mask = inside[:, None] & (columns < n)[None, :]
        x = tl.load(x_ptr + x_starts[:, None] + columns[None, :] * x_stride, mask=mask, other=0.0).to(dtype)
        place = out_starts[:, None] + columns[None, :] * out_stride
        if MODE >= LOG_SOFTMAX:
            tl.store(out_ptr + place, (x - high) - low, mask=mask)
        if MODE != LOG_SOFTMAX:
            p = _softmax(x, c, exponent, inverse, FORM)
            if MODE == SOFTMAX:
                tl.store(out_ptr + place, p, mask=mask)
            elif MODE == GRADIENT:
                p = tl.where(m == float("-inf"), 0.0, p * g[:, None])
                p = tl.where(infinite, tl.where(x == float("inf"), share, 0.0), p)
                tl.store(out_ptr + place, p, mask=mask)
            else:
                tl.store(p_ptr + place, tl.where((x == m) & (minus > -0.5), minus, p), mask=mask)


# ---------------------------------------------------------------------------------------------------------------------
# What is launched. Rows are numbered batch by batch; batches, rows and columns are `batch`, `row` and `stride` apart.


@triton.jit
def reduce_rows(
    x_ptr, value_ptr, kept_ptr, sums_ptr, tiles, parts, rows, n, columns, batch, row, stride, count,
    FORM: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """logsumexp; or of rows that several programs read, (m, rest) of each part: m to `kept`, and rest to `sums`."""
    number, here, part = _place(tiles, parts, ROWS)
    inside = here < rows
    begin = part * columns
    m, s = _read(
        x_ptr, number * batch + here * row, inside, n, begin, tl.minimum(begin + columns, n), stride, FORM, ROWS, LANES
    )
    m, s = _merge(m, s, FORM, LANES)
    place = number * rows + here
    if sums_ptr is None:
        _keep(value_ptr, kept_ptr, place, inside, count, m, s, FORM, KEEP)
    else:
        tl.store(kept_ptr + place * parts + part, m, mask=inside)
        tl.store(sums_ptr + place * parts + part, s, mask=inside)


@triton.jit
def _keep(value_ptr, kept_ptr, place, inside, count, m, s, FORM: tl.constexpr, KEEP: tl.constexpr):
    value, high, low, inverse, minus = _of_rows(m, s, FORM)
    if value_ptr is not None:
        tl.store(value_ptr + place, value if FORM == DOUBLE else value.to(tl.float32), mask=inside)
    if KEEP:
        tl.store(kept_ptr + place, m, mask=inside)
        tl.store(kept_ptr + count + place, high, mask=inside)
        tl.store(kept_ptr + 2 * count + place, low, mask=inside)
        tl.store(kept_ptr + 3 * count + place, inverse, mask=inside)
        tl.store(kept_ptr + 4 * count + place, minus, mask=inside)


@triton.jit
def merge_parts(
    m_ptr, sums_ptr, value_ptr, kept_ptr, parts, count,
    FORM: tl.constexpr, KEEP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A row from its parts."""
    place = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    lanes = tl.arange(0, LANES)[None, :]
    mask = lanes < parts
    m = tl.load(m_ptr + place[:, None] * parts + lanes, mask=mask, other=float("-inf"))
    s = tl.load(sums_ptr + place[:, None] * parts + lanes, mask=mask, other=0.0)
    m, s = _merge(m, s, FORM, LANES)
    _keep(value_ptr, kept_ptr, place, place < count, count, m, s, FORM, KEEP)


@triton.jit
def normalise_rows(
    x_ptr, out_ptr, p_ptr, tiles, rows, n, batch, row, stride, out_batch, out_row, out_stride,
    FORM: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """softmax or log_softmax of rows that one program reads; the second time they are in a cache."""
    number, here, part = _place(tiles, 1, ROWS)
    inside = here < rows
    starts = number * batch + here * row
    m, s = _read(x_ptr, starts, inside, n, part, n, stride, FORM, ROWS, LANES)
    m, s = _merge(m, s, FORM, LANES)
    _, high, low, inverse, minus = _of_rows(m, s, FORM)
    _write(
        x_ptr, out_ptr, p_ptr, starts, number * out_batch + here * out_row, inside, n, part, n, stride, out_stride,
        m, high, low, inverse, minus, inverse, FORM, MODE, ROWS, LANES,
    )  # fmt: skip


@triton.jit
def write_rows(
    x_ptr, kept_ptr, g_ptr, out_ptr, p_ptr, tiles, parts, rows, n, columns, count,
    batch, row, stride, out_batch, out_row, out_stride,
    FORM: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The entries of rows of which all else is kept."""
    number, here, part = _place(tiles, parts, ROWS)
    inside = here < rows
    place = kept_ptr + number * rows + here
    m = tl.load(place, mask=inside, other=0.0)
    high = tl.load(place + count, mask=inside, other=0.0)
    low = tl.load(place + 2 * count, mask=inside, other=0.0)
    inverse = tl.load(place + 3 * count, mask=inside, other=0.0)
    minus = tl.load(place + 4 * count, mask=inside, other=0.0)
    g = inverse
    if MODE == GRADIENT:
        g = tl.load(g_ptr + number * rows + here, mask=inside, other=0.0)
    begin = part * columns
    _write(
        x_ptr, out_ptr, p_ptr, number * batch + here * row, number * out_batch + here * out_row, inside,
        n, begin, tl.minimum(begin + columns, n), stride, out_stride,
        m, high, low, inverse, minus, g, FORM, MODE, ROWS, LANES,
    )  # fmt: skip
