"""Recordings cut into windows of one length, and their log-mel spectrograms, sixteen frames at a time.

A frame of 512 samples is too short for a transform of its own to fill a processor: setting it up, and shuffling within
registers, costs more than its arithmetic. So sixteen frames go through side by side, one in each lane of a register,
and no step of the transform ever crosses lanes. A row is one complex number of each of them: 16 real parts, then 16
imaginary ones.

The transform is the constant-geometry one of Pease, "An adaptation of the fast Fourier transform for parallel
processing", Journal of the ACM 15 (1968), for factors 2, 3, 4 and 5. Stage after stage reads rows ``m`` apart, m = h /
factor, and writes ``factor`` rows next to each other, so that the compiler sees where nothing overlaps and vectorises
without help. (Each stage is one function for the same reason: rows handed to another one would be counted references.)
The frequencies come out in the order of their reversed digits; ``Tables.places`` says where each is.

The n samples of a real frame are taken as h = n / 2 complex ones, even samples + i · odd samples, and their spectrum is
taken apart afterwards (Cooley, Lewis & Welch, "The fast Fourier transform algorithm: programming considerations",
Journal of Sound and Vibration 12 (1970)). Every frame keeps its own rounding; two frames in one transform would leak a
loud one into a silent one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel
from torchspeed.data.kernels.mel_tables import Tables

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

LANES = 16
ROW = 2 * LANES

_HALF, _SIN_60 = np.float32(0.5), np.float32(np.sin(np.pi / 3))
_COS_72, _SIN_72 = np.float32(np.cos(2 * np.pi / 5)), np.float32(np.sin(2 * np.pi / 5))
_COS_144, _SIN_144 = np.float32(np.cos(4 * np.pi / 5)), np.float32(np.sin(4 * np.pi / 5))

_ONE, _TWO, _LN_2 = np.float32(1), np.float32(2), np.float32(np.log(2))
_THIRD, _FIFTH, _SEVENTH, _NINTH = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7), np.float32(1 / 9)
_SQRT_HALF_BITS = np.sqrt(np.float32(0.5)).view(np.int32)
_MANTISSA_BITS = np.int32(23)


@kernel
def waveform_windows(
    samples: Floats, starts: Integers, counts: Integers, leads: Integers, gains: Floats, out: Floats
) -> None:
    """``out`` [B, length]: recording b, ``counts`` samples from ``starts`` on, begins at place ``leads`` (before the
    window if below 0), is multiplied by ``gains``, and has silence around it."""
    for b in range(len(starts)):
        _cut(samples, starts[b], counts[b], leads[b], gains[b], out[b])


@kernel
def log_mel(
    samples: Floats,
    starts: Integers,
    counts: Integers,
    leads: Integers,
    gains: Floats,
    length: int,
    tables: Tables,
    out: Floats,
) -> None:
    """``out`` [B, mels, 1 + length // hop]: natural logarithms of the powers of what ``waveform_windows`` makes.

    Frame t is centred on sample t · hop of a window; beyond the window there is silence. Frames before and after a
    recording are not transformed: what comes out is known.
    """
    half, hop = len(tables.places) - 1, tables.hop
    frames = out.shape[2]
    padded = np.zeros((frames + LANES) * hop + 2 * half, np.float32)
    views = np.lib.stride_tricks.as_strided(padded, (frames + LANES, 2 * half), (4 * hop, 4))
    rows, spare, powers = _rows(half, ROW), _rows(half, ROW), _rows(tables.mels + 1, LANES)
    silence = _logarithm(tables.floor)
    for b in range(len(starts)):
        begin, end = _cut(samples, starts[b], counts[b], leads[b], gains[b], padded[half : half + length])
        first = max(0, (begin - half + hop) // hop)  # frame t has the samples from t · hop - half to t · hop + half
        last = min(frames, (end + half - 1) // hop + 1)
        out[b, :, :first] = silence
        out[b, :, last:] = silence
        for frame in range(first, last, LANES):
            _load(views[frame : frame + LANES], tables.window, rows.reshape((2 * half, LANES)))
            spectrum = _transform(rows, spare, tables.factors, tables.cos, tables.sin)
            _mel_powers(spectrum, tables, powers.reshape(-1))
            _store_logarithms(powers, tables.floor, out[b], frame, min(frame + LANES, last))


@kernel
def _cut(samples: Floats, start: int, count: int, lead: int, gain: np.float32, window: Floats) -> tuple[int, int]:
    """One recording into ``window`` [length]; returns where it begins there and where it ends."""
    begin = max(0, min(lead, len(window)))
    end = max(begin, min(lead + count, len(window)))
    recording = samples[start + begin - lead : start + end - lead]
    window[:begin] = 0
    for i in range(end - begin):
        window[begin + i] = gain * recording[i]
    window[end:] = 0
    return begin, end


@kernel
def _rows(count: int, width: int) -> Floats:
    """Memory for rows; it begins with a cache line, for a register is loaded more slowly from two of them."""
    raw = np.empty(count * width + LANES, np.float32)
    skipped = -(raw.ctypes.data // 4) % LANES
    return raw[skipped : skipped + count * width].reshape((count, width))


@kernel
def _load(frames: Floats, window: Floats, halves: Floats) -> None:
    """``frames`` [LANES, n] to ``halves`` of rows [n, LANES]: even samples are real parts, odd ones imaginary."""
    for i in range(len(window)):
        weight, half_row = window[i], halves[i]
        for u in range(LANES):
            half_row[u] = weight * frames[u, i]


@kernel
def _transform(rows: Floats, spare: Floats, factors: Integers, cos: Floats, sin: Floats) -> Floats:
    """The discrete Fourier transforms of the lanes of ``rows`` [h, ROW], in one of the two arrays."""
    half, done = len(rows), 1
    for factor in factors:
        out = spare.reshape((half // factor, factor * ROW))
        if factor == 2:
            _stage_2(rows, out, cos, sin, done)
        elif factor == 3:
            _stage_3(rows, out, cos, sin, done)
        elif factor == 4:
            _stage_4(rows, out, cos, sin, done)
        else:
            _stage_5(rows, out, cos, sin, done)
        rows, spare = spare, rows
        done *= factor
    return rows


# In every stage i counts the sub-transforms' own places, of which each of the ``done`` interleaved ones has one, and
# the k-th output is turned by the angle 2 π i k / h, which lies at 2 i k in tables made for n = 2 h.


@kernel
def _stage_2(rows: Floats, out: Floats, cos: Floats, sin: Floats, done: int) -> None:
    m = len(out)
    for i in range(0, m, done):
        c1, s1 = cos[2 * i], sin[2 * i]
        for p in range(i, i + done):
            a, b, y = rows[p], rows[p + m], out[p]
            for u in range(LANES):
                v = u + LANES
                re, im = a[u] - b[u], a[v] - b[v]
                y[u], y[v] = a[u] + b[u], a[v] + b[v]
                y[ROW + u], y[ROW + v] = re * c1 - im * s1, re * s1 + im * c1


@kernel
def _stage_3(rows: Floats, out: Floats, cos: Floats, sin: Floats, done: int) -> None:
    m = len(out)
    for i in range(0, m, done):
        c1, s1, c2, s2 = cos[2 * i], sin[2 * i], cos[4 * i], sin[4 * i]
        for p in range(i, i + done):
            a, b, c, y = rows[p], rows[p + m], rows[p + 2 * m], out[p]
            for u in range(LANES):
                v = u + LANES
                sum_re, sum_im = b[u] + c[u], b[v] + c[v]
                turned_re, turned_im = _SIN_60 * (b[v] - c[v]), _SIN_60 * (c[u] - b[u])
                middle_re, middle_im = a[u] - _HALF * sum_re, a[v] - _HALF * sum_im
                y[u], y[v] = a[u] + sum_re, a[v] + sum_im
                re, im = middle_re + turned_re, middle_im + turned_im
                y[ROW + u], y[ROW + v] = re * c1 - im * s1, re * s1 + im * c1
                re, im = middle_re - turned_re, middle_im - turned_im
                y[2 * ROW + u], y[2 * ROW + v] = re * c2 - im * s2, re * s2 + im * c2


@kernel
def _stage_4(rows: Floats, out: Floats, cos: Floats, sin: Floats, done: int) -> None:
    m = len(out)
    for i in range(0, m, done):
        c1, s1, c2, s2, c3, s3 = cos[2 * i], sin[2 * i], cos[4 * i], sin[4 * i], cos[6 * i], sin[6 * i]
        for p in range(i, i + done):
            a, b, c, d, y = rows[p], rows[p + m], rows[p + 2 * m], rows[p + 3 * m], out[p]
            for u in range(LANES):
                v = u + LANES
                even_re, even_im, odd_re, odd_im = a[u] + c[u], a[v] + c[v], b[u] + d[u], b[v] + d[v]
                across_re, across_im, turned_re, turned_im = a[u] - c[u], a[v] - c[v], b[v] - d[v], d[u] - b[u]
                y[u], y[v] = even_re + odd_re, even_im + odd_im
                re, im = across_re + turned_re, across_im + turned_im
                y[ROW + u], y[ROW + v] = re * c1 - im * s1, re * s1 + im * c1
                re, im = even_re - odd_re, even_im - odd_im
                y[2 * ROW + u], y[2 * ROW + v] = re * c2 - im * s2, re * s2 + im * c2
                re, im = across_re - turned_re, across_im - turned_im
                y[3 * ROW + u], y[3 * ROW + v] = re * c3 - im * s3, re * s3 + im * c3


@kernel
def _stage_5(rows: Floats, out: Floats, cos: Floats, sin: Floats, done: int) -> None:
    m = len(out)
    for i in range(0, m, done):
        c1, s1, c2, s2 = cos[2 * i], sin[2 * i], cos[4 * i], sin[4 * i]
        c3, s3, c4, s4 = cos[6 * i], sin[6 * i], cos[8 * i], sin[8 * i]
        for p in range(i, i + done):
            a, b, c, d, e, y = rows[p], rows[p + m], rows[p + 2 * m], rows[p + 3 * m], rows[p + 4 * m], out[p]
            for u in range(LANES):
                v = u + LANES
                outer_re, outer_im, inner_re, inner_im = b[u] + e[u], b[v] + e[v], c[u] + d[u], c[v] + d[v]
                outward_re, outward_im, inward_re, inward_im = b[v] - e[v], e[u] - b[u], c[v] - d[v], d[u] - c[u]
                y[u], y[v] = a[u] + outer_re + inner_re, a[v] + outer_im + inner_im
                middle_re = a[u] + _COS_72 * outer_re + _COS_144 * inner_re
                middle_im = a[v] + _COS_72 * outer_im + _COS_144 * inner_im
                turned_re = _SIN_72 * outward_re + _SIN_144 * inward_re
                turned_im = _SIN_72 * outward_im + _SIN_144 * inward_im
                re, im = middle_re + turned_re, middle_im + turned_im
                y[ROW + u], y[ROW + v] = re * c1 - im * s1, re * s1 + im * c1
                re, im = middle_re - turned_re, middle_im - turned_im
                y[4 * ROW + u], y[4 * ROW + v] = re * c4 - im * s4, re * s4 + im * c4
                middle_re = a[u] + _COS_144 * outer_re + _COS_72 * inner_re
                middle_im = a[v] + _COS_144 * outer_im + _COS_72 * inner_im
                turned_re = _SIN_144 * outward_re - _SIN_72 * inward_re
                turned_im = _SIN_144 * outward_im - _SIN_72 * inward_im
                re, im = middle_re + turned_re, middle_im + turned_im
                y[2 * ROW + u], y[2 * ROW + v] = re * c2 - im * s2, re * s2 + im * c2
                re, im = middle_re - turned_re, middle_im - turned_im
                y[3 * ROW + u], y[3 * ROW + v] = re * c3 - im * s3, re * s3 + im * c3


@kernel
def _mel_powers(spectrum: Floats, tables: Tables, powers: Floats) -> None:
    """The power of each frequency of the real frames, added to its two bands in ``powers`` [mels + 1, LANES], flat."""
    half = len(spectrum)
    powers[:] = 0
    for k in range(half + 1):
        z, mirrored = spectrum[tables.places[k]], spectrum[tables.places[half - k]]
        cos, sin, lower, upper = tables.cos[k], tables.sin[k], tables.lower[k], tables.upper[k]
        pair = powers[tables.band[k] * LANES : (tables.band[k] + 2) * LANES]
        for u in range(LANES):
            v = u + LANES
            even_re, even_im = z[u] + mirrored[u], z[v] - mirrored[v]
            odd_re, odd_im = z[v] + mirrored[v], mirrored[u] - z[u]
            re, im = even_re + cos * odd_re - sin * odd_im, even_im + cos * odd_im + sin * odd_re
            power = re * re + im * im
            pair[u] += lower * power
            pair[v] += upper * power


@kernel
def _store_logarithms(powers: Floats, floor: Any, out: Floats, first: int, last: int) -> None:
    """Frames ``first`` to ``last`` of ``out`` [mels, frames], from the lanes of ``powers``, which are used up."""
    for mel in range(len(out)):
        band, row = powers[mel], out[mel, first:last]
        for u in range(LANES):
            # What is no number stays none: a power minus itself is 0, or it is not.
            band[u] = _logarithm(max(band[u], floor)) + (band[u] - band[u])
        for u in range(last - first):
            row[u] = band[u]


@kernel
def _logarithm(x: Any) -> Any:
    """The natural logarithm of a normal number above 0, to 2e-7: ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)),
    x = m 2^e with m around 1, by the series of artanh. Without a branch or a call, so that it fills the lanes."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    mantissa = np.int32(bits - np.int32(exponent << _MANTISSA_BITS)).view(np.float32)
    s = np.divide(mantissa - _ONE, mantissa + _ONE)
    t = s * s
    series = _ONE + t * (_THIRD + t * (_FIFTH + t * (_SEVENTH + t * _NINTH)))
    return np.float32(exponent) * _LN_2 + _TWO * s * series
