"""The cache's and the weights' formats in numpy, after docs/03-quantization.md: pack(kind, x) turns
f32 rows [...][D] into bytes, unpack(kind, raw) turns bytes [...][bytes of a row] into f64 rows.

Written from the formulas, in no hurry, and with no idea how rotkv does any of this."""
import numpy as np

LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
I = np.arange(256)  # the elements of a super-block


def pack(kind, x):
    with np.errstate(all="ignore"):  # infinities and NaNs may do what they like
        x = np.asarray(x).astype(np.float32)
        if kind == "f32":
            return x
        if kind == "f16":
            return x.astype(np.float16).view(np.uint8)
        if kind == "bf16":
            bits = x.view(np.uint32).astype(np.uint64)
            even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to the nearest, ties to even
            even = np.where(np.isnan(x), bits >> 16 | 0x40, even)
            return even.astype(np.uint16).view(np.uint8)
        blocks = x.reshape(x.shape[:-1] + (x.shape[-1] // 32, 32))
        return pack_blocks(kind, blocks).reshape(x.shape[:-1] + (-1,)) if x.size else np.zeros(
            x.shape[:-1] + (x.shape[-1] // 32 * BYTES[kind],), np.uint8)


BYTES = {"q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18,
         "mxfp4": 17}


def f16_bytes(x):
    return np.ascontiguousarray(x.astype(np.float16)).view(np.uint8)


def inverse(d):
    return np.where(d == 0, np.float32(0), np.float32(1) / d)


def pack_blocks(kind, x):  # [...][32] f32 to [...][bytes]
    peak = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)  # the first of the largest
    if kind == "q8_0":
        d = np.abs(peak) / np.float32(127)
        scaled = x * inverse(d)
        codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
        return np.concatenate([f16_bytes(d), codes.view(np.uint8)], -1)
    if kind == "mxfp4":
        return mxfp4_bytes(x, np.abs(peak))
    if kind == "iq4_nl":
        scaled = x * inverse(peak / np.float32(-127))
        codes = np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, scaled, side="right")
        level, weight = LEVELS[codes], x.astype(np.float64) ** 2
        below, above = (weight * level ** 2).sum(-1), (weight * level * x).sum(-1)
        scale = np.where(below > 0, above / below, np.where(below == 0, 0, np.nan))
        return np.concatenate([f16_bytes(scale[..., None]), nibbles(codes)], -1)
    if kind in ("q4_1", "q5_1"):
        least, top = x.min(-1, keepdims=True), 15 if kind == "q4_1" else 31
        d = (x.max(-1, keepdims=True) - least) / np.float32(top)
        codes = np.minimum(np.trunc((x - least) * inverse(d) + np.float32(0.5)), top)
        head = [f16_bytes(d), f16_bytes(least)]
    else:
        half = 8 if kind == "q4_0" else 16
        d = peak / np.float32(-half)
        codes = np.minimum(np.trunc(x * inverse(d) + np.float32(half + 0.5)), 2 * half - 1)
        head = [f16_bytes(d)]
    codes = np.nan_to_num(codes, posinf=0, neginf=0).astype(np.uint8)
    fifth = [np.packbits(codes >> 4, axis=-1, bitorder="little")] if kind[1] == "5" else []
    return np.concatenate(head + fifth + [nibbles(codes & 15)], -1)


def mxfp4_bytes(x, peak):
    """The scale is a power of two that puts the largest value at 4 to 8 (at most 6 has a code), and
    of two codes as near the one nearer 0 is taken."""
    exponent = np.where(peak > 0, np.maximum(np.frexp(peak)[1] - 1 - 2 + 127, 0), 0)
    steps = np.abs(x) * np.exp2(128.0 - exponent)  # halves: MXFP4's levels are twice the values
    level = np.searchsorted((MXFP4[1:8] + MXFP4[:7]) / 2, steps, side="left")
    codes = level | np.where((x < 0) & (level > 0), 8, 0)
    return np.concatenate([exponent.astype(np.uint8), nibbles(codes)], -1)


def nibbles(codes):
    return (codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8)


def unpack(kind, raw):
    with np.errstate(all="ignore"):
        if kind == "f32":
            return raw.astype(np.float64)
        if kind == "f16":
            return f16(raw)
        if kind == "bf16":
            words = np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16
            return words.view(np.float32).astype(np.float64)
        read, size = READ[kind]
        blocks = raw.reshape(raw.shape[:-1] + (raw.shape[-1] // size, size))
        x = read(blocks)
        return x.reshape(raw.shape[:-1] + (blocks.shape[-2] * x.shape[-1],))


def f16(raw):
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float64)


def low_high(qs):
    return np.concatenate([qs & 15, qs >> 4], -1).astype(np.int64)


def fifth(qh):
    return np.unpackbits(np.ascontiguousarray(qh), axis=-1, bitorder="little").astype(np.int64) << 4


def two_bits(qs):
    return (qs[..., I // 128 * 32 + I % 32] >> (I // 32 % 4 * 2) & 3).astype(np.int64)


def four_bits(qs):
    return (qs[..., I // 64 * 32 + I % 32] >> (I // 32 % 2 * 4) & 15).astype(np.int64)


def scales_and_minima(b):  # q4_K, q5_K: eight and eight six-bit numbers in twelve bytes
    first, second, third = (b[..., i:i + 4].astype(np.int64) for i in (0, 4, 8))
    scale = np.concatenate([first & 63, third & 15 | first >> 6 << 4], -1)
    least = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], -1)
    return scale[..., I // 32], least[..., I // 32]


def q2_k(b):
    scales = b[..., I // 16].astype(np.int64)
    return f16(b[..., 80:82]) * (scales & 15) * two_bits(b[..., 16:80]) - f16(
        b[..., 82:84]) * (scales >> 4)


def q3_k(b):
    s = np.arange(16)
    scale = (b[..., 96 + s % 8] >> (s // 8 * 4) & 15) | (b[..., 104 + s % 4] >> (s // 4 * 2) & 3) << 4
    third = (b[..., I % 32] >> (I // 32) & 1).astype(np.int64)
    code = (two_bits(b[..., 32:96]) | third << 2) - 4
    return f16(b[..., 108:110]) * (scale.astype(np.int64) - 32)[..., I // 16] * code


def q4_k(b):
    scale, least = scales_and_minima(b[..., 4:16])
    return f16(b[..., :2]) * scale * four_bits(b[..., 16:]) - f16(b[..., 2:4]) * least


def q5_k(b):
    scale, least = scales_and_minima(b[..., 4:16])
    high = (b[..., 16 + I % 32] >> (I // 32) & 1).astype(np.int64) << 4
    return f16(b[..., :2]) * scale * (four_bits(b[..., 48:]) | high) - f16(b[..., 2:4]) * least


def q6_k(b):
    low = (b[..., I // 128 * 64 + I % 64] >> (I // 64 % 2 * 4) & 15).astype(np.int64)
    scale = np.ascontiguousarray(b[..., 192:208]).view(np.int8).astype(np.int64)[..., I // 16]
    return f16(b[..., 208:210]) * scale * ((low | two_bits(b[..., 128:192]) << 4) - 32)


def iq4_xs(b):
    s = np.arange(8)
    low = b[..., 4 + s // 2].astype(np.int64) >> (s % 2 * 4) & 15
    high = np.ascontiguousarray(b[..., 2:4]).view(np.uint16).astype(np.int64) >> (s * 2) & 3
    codes = low_high(b[..., 8:].reshape(b.shape[:-1] + (8, 16)))
    scale = f16(b[..., :2]) * ((low | high << 4) - 32)
    return (scale[..., None] * LEVELS[codes]).reshape(b.shape[:-1] + (256,))


READ = {  # bytes of blocks to values; bytes of one block
    "q8_0": (lambda b: f16(b[..., :2]) * np.ascontiguousarray(b[..., 2:]).view(np.int8), 34),
    "q5_1": (lambda b: f16(b[..., :2]) * (low_high(b[..., 8:]) | fifth(b[..., 4:8]))
             + f16(b[..., 2:4]), 24),
    "q5_0": (lambda b: f16(b[..., :2]) * ((low_high(b[..., 6:]) | fifth(b[..., 2:6])) - 16), 22),
    "q4_1": (lambda b: f16(b[..., :2]) * low_high(b[..., 4:]) + f16(b[..., 2:4]), 20),
    "q4_0": (lambda b: f16(b[..., :2]) * (low_high(b[..., 2:]) - 8), 18),
    "iq4_nl": (lambda b: f16(b[..., :2]) * LEVELS[low_high(b[..., 2:])], 18),
    "q2_K": (q2_k, 84), "q3_K": (q3_k, 110), "q4_K": (q4_k, 144), "q5_K": (q5_k, 176),
    "q6_K": (q6_k, 210), "iq4_xs": (iq4_xs, 136),
    "mxfp4": (lambda b: np.exp2(b[..., :1] - 128.0) * MXFP4[low_high(b[..., 1:])], 17),
}
