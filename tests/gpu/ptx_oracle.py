"""What one PTX instruction computes, in plain Python: integers and exact rationals, one lane at a time.

Written from the PTX manual; shares nothing with either engine. Operands and results are codes (bit patterns).
"""

import re
from fractions import Fraction
from math import isqrt

INF = "inf"
# precision, exponent of the last place of subnormal numbers, bits
FORMATS = {"f16": (11, -24, 16), "bf16": (8, -133, 16), "f32": (24, -149, 32), "f64": (53, -1074, 64)}
MODES = ("rn", "rz", "rm", "rp")
INTEGRAL = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}


class Number:
    """A sign and a magnitude: a rational, INF, or None for NaN."""

    def __init__(self, negative, magnitude):
        self.negative, self.magnitude = negative, magnitude

    @property
    def nan(self):
        return self.magnitude is None

    @property
    def infinite(self):
        return self.magnitude == INF

    @property
    def value(self):
        return -self.magnitude if self.negative else self.magnitude

    def key(self):
        """Order numbers; the zeros are equal."""
        size = Fraction(2) ** 5000 if self.infinite else self.magnitude
        return -size if self.negative else size


NAN = Number(False, None)


def decode(code, kind):
    precision, quantum, bits = FORMATS[kind]
    negative, rest = code >> (bits - 1) == 1, code & ((1 << (bits - 1)) - 1)
    field, fraction = rest >> (precision - 1), rest & ((1 << (precision - 1)) - 1)
    if field == (1 << (bits - precision)) - 1:
        return NAN if fraction else Number(negative, INF)
    if field == 0:
        return Number(negative, fraction * Fraction(2) ** quantum)
    return Number(negative, (fraction + (1 << (precision - 1))) * Fraction(2) ** (quantum + field - 1))


def whole(magnitude, mode, negative):
    """Round a rational magnitude to an integer."""
    down = magnitude.numerator // magnitude.denominator
    rest = magnitude - down
    if mode == "rn":
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1)
    else:
        up = rest > 0 and mode == ("rm" if negative else "rp")
    return down + up


def encode(number, kind, mode="rn"):
    precision, smallest, bits = FORMATS[kind]
    infinity = ((1 << (bits - precision)) - 1) << (precision - 1)
    if number.nan:
        return 0x7FF8000000000000 if kind == "f64" else (1 << (bits - 1)) - 1
    sign = number.negative << (bits - 1)
    if number.infinite:
        return sign | infinity
    if not number.magnitude:
        return sign
    exponent = number.magnitude.numerator.bit_length() - number.magnitude.denominator.bit_length()
    exponent -= number.magnitude < Fraction(2) ** exponent
    quantum = max(exponent - precision + 1, smallest)
    kept = whole(number.magnitude / Fraction(2) ** quantum, mode, number.negative)
    code = ((quantum - smallest) << (precision - 1)) + kept
    if code >= infinity:
        away = mode in ("rn", "rm" if number.negative else "rp")
        code = infinity if away else infinity - 1
    return sign | code


def flushed(code, kind):
    precision, _, bits = FORMATS[kind]
    return code & 1 << (bits - 1) if (code >> (precision - 1)) & ((1 << (bits - precision)) - 1) == 0 else code


def saturated(code, kind):
    number = decode(code, kind)
    if number.nan or number.negative:
        return 0
    return encode(Number(False, Fraction(1)), kind) if number.infinite or number.magnitude > 1 else code


def add(a, b, mode):
    if a.nan or b.nan or (a.infinite and b.infinite and a.negative != b.negative):
        return NAN
    if a.infinite or b.infinite:
        return a if a.infinite else b
    total = a.value + b.value
    if total == 0:
        if a.magnitude == 0 and b.magnitude == 0 and a.negative == b.negative:
            return a
        return Number(mode == "rm", Fraction(0))
    return Number(total < 0, abs(total))


def multiply(a, b):
    negative = a.negative != b.negative
    if a.nan or b.nan or (a.infinite and b.magnitude == 0) or (b.infinite and a.magnitude == 0):
        return NAN
    if a.infinite or b.infinite:
        return Number(negative, INF)
    return Number(negative, a.magnitude * b.magnitude)


def divide(a, b):
    negative = a.negative != b.negative
    if a.nan or b.nan or (a.infinite and b.infinite) or (a.magnitude == 0 and b.magnitude == 0):
        return NAN
    if a.infinite or b.magnitude == 0:
        return Number(negative, INF)
    return Number(negative, Fraction(0) if b.infinite else a.magnitude / b.magnitude)


def root(a):
    """Return the square root to 200 bits and one bit that tells whether it is exact."""
    if a.nan or (a.negative and a.magnitude != 0):
        return NAN
    if a.infinite or a.magnitude == 0:
        return a
    shift = 2 * 1500
    scaled = a.magnitude * 2**shift
    n = scaled.numerator // scaled.denominator
    r = isqrt(n)
    exact = r * r == n and scaled.denominator == 1
    return Number(False, Fraction(2 * r + (not exact), 2 * 2 ** (shift // 2)))


def extreme(name, a, b, kind, *, propagate):
    x, y = decode(a, kind), decode(b, kind)
    if x.nan or y.nan:
        if (x.nan and y.nan) or propagate:
            return encode(NAN, kind)
        return b if x.nan else a
    bits = FORMATS[kind][2]
    if x.key() == y.key():  # only zeros of different signs differ here
        larger = min(a >> (bits - 1), b >> (bits - 1))
        smaller = max(a >> (bits - 1), b >> (bits - 1))
        return (a & ~(1 << (bits - 1))) | ((larger if name == "max" else smaller) << (bits - 1))
    return a if (x.key() > y.key()) == (name == "max") else b


def floating(name, parts, kind, codes):
    """Compute an operation whose operands and result are of one format."""
    ftz, sat = "ftz" in parts, "sat" in parts
    mode = next((m for m in MODES if m in parts), "rn")
    if ftz:
        codes = [flushed(c, kind) for c in codes]
    bits = FORMATS[kind][2]
    if name in ("abs", "neg"):
        return codes[0] & ~(1 << (bits - 1)) if name == "abs" else codes[0] ^ 1 << (bits - 1)
    if name == "copysign":
        return codes[0] & 1 << (bits - 1) | codes[1] & ~(1 << (bits - 1))
    if name in ("min", "max"):
        result = extreme(name, *codes, kind, propagate="NaN" in parts)
    else:
        numbers = [decode(c, kind) for c in codes]
        if name == "sub":
            numbers[1] = numbers[1] if numbers[1].nan else Number(not numbers[1].negative, numbers[1].magnitude)
        exact = {
            "add": lambda a, b: add(a, b, mode),
            "sub": lambda a, b: add(a, b, mode),
            "mul": multiply,
            "fma": lambda a, b, c: add(multiply(a, b), c, mode),
            "div": divide,
            "sqrt": root,
            "rcp": lambda a: divide(Number(False, Fraction(1)), a),
        }[name](*numbers)
        result = encode(exact, kind, mode)
    if ftz:
        result = flushed(result, kind)
    return saturated(result, kind) if sat else result


def signed(code, bits):
    return code - (1 << bits) if code >> (bits - 1) else code


def integer(name, parts, kind, codes):
    """Compute an integer operation; the result as an integer of any sign and size."""
    bits, is_signed = int(kind[1:]), kind[0] == "s"
    values = [signed(c, bits) if is_signed else c for c in codes]
    a, b = values[0], values[1] if len(values) > 1 else 0
    if name in ("add", "sub"):
        result = a + b if name == "add" else a - b
        return max(-(1 << 31), min((1 << 31) - 1, result)) if "sat" in parts else result
    if name in ("mul", "mad"):
        product = a * b
        if "hi" in parts:
            product >>= bits
        if name == "mul":
            return product
        wide = 2 * bits if "wide" in parts else bits
        return product + (signed(codes[2], wide) if is_signed else codes[2])
    if name == "mul24":
        cut = [signed(c & 0xFFFFFF, 24) if is_signed else c & 0xFFFFFF for c in codes]
        return cut[0] * cut[1]
    if name in ("div", "rem"):
        if b == 0:
            return -1 if name == "div" else a
        quotient = abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)
        return quotient if name == "div" else a - quotient * b
    if name == "sad":
        return abs(a - b) + values[2]
    return {"abs": abs(a), "neg": -a, "min": min(a, b), "max": max(a, b)}[name]


def bitwise(name, parts, kind, codes):  # noqa: C901, PLR0912
    """Compute an operation on bits."""
    bits = 1 if kind == "pred" else int(kind[1:])
    ones, a = (1 << bits) - 1, codes[0]
    if name in ("and", "or", "xor"):
        return {"and": a & codes[1], "or": a | codes[1], "xor": a ^ codes[1]}[name]
    if name in ("not", "cnot"):
        return a ^ ones if name == "not" else int(a == 0)
    if name == "lop3":
        b, c, table = codes[1:]
        rows = ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32))
        return sum((table >> row & 1) << i for i, row in enumerate(rows))
    if name == "shl":
        return a << min(codes[1], bits)
    if name == "shr":
        return (signed(a, bits) if kind[0] == "s" else a) >> min(codes[1], bits)
    if name == "shf":
        n = codes[2] % 32 if "wrap" in parts else min(codes[2], 32)
        both = codes[1] << 32 | a
        return both << n >> 32 if "l" in parts else both >> n
    if name == "bfi":
        field, into, position, length = a, codes[1], codes[2] & 255, codes[3] & 255
        for i in range(length):
            if position + i < bits and i < bits:
                into = into & ~(1 << (position + i)) | (field >> i & 1) << (position + i)
        return into
    if name == "bfe":
        position, length = codes[1] & 255, codes[2] & 255
        last = min(position + length - 1, bits - 1)
        sign = a >> last & 1 if kind[0] == "s" and length else 0
        picked = [a >> (position + i) & 1 if i < length and position + i < bits else sign for i in range(bits)]
        return sum(bit << i for i, bit in enumerate(picked))
    if name in ("popc", "clz"):
        return a.bit_count() if name == "popc" else bits - a.bit_length()
    if name == "bfind":
        value = a ^ ones if kind[0] == "s" and a >> (bits - 1) else a
        found = value.bit_length() - 1
        return bits - 1 - found if found >= 0 and "shiftamt" in parts else found
    if name == "brev":
        return int(f"{a:0{bits}b}"[::-1], 2)
    if name == "prmt":
        octets = (codes[1] << 32 | a).to_bytes(8, "little")
        chosen = [(octets[s & 7], s & 8) for s in (codes[2] >> 4 * i & 15 for i in range(4))]
        return int.from_bytes(bytes((0xFF if o & 0x80 else 0) if repeat else o for o, repeat in chosen), "little")
    if name == "selp":
        return a if codes[2] else codes[1]
    return a  # mov


def holds(test, kind, a, b, *, ftz):
    """Tell whether a comparison holds."""
    if kind in FORMATS:
        x, y = (decode(flushed(c, kind) if ftz else c, kind) for c in (a, b))
        unordered = x.nan or y.nan
        if test in ("num", "nan"):
            return unordered == (test == "nan")
        if unordered:
            return test.endswith("u") and test != "u"
        one, two, test = x.key(), y.key(), test[:2]
    else:
        bits = int(kind[1:])
        one, two = (signed(c, bits) if kind[0] == "s" else c for c in (a, b))
        test = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(test, test)
    return {"eq": one == two, "ne": one != two, "lt": one < two, "le": one <= two, "gt": one > two, "ge": one >= two}[
        test
    ]


def combined(parts, truth, third):
    for name, result in (("and", truth and third), ("or", truth or third), ("xor", truth != third)):
        if name in parts:
            return bool(result)
    return truth


def convert(parts, source, target, code):  # noqa: C901
    """Compute cvt; an integer result as an integer of any sign and size."""
    ftz, sat = "ftz" in parts, "sat" in parts
    mode = next((m for m in MODES if m in parts), "rn")
    integral = next((INTEGRAL[m] for m in INTEGRAL if m in parts), None)
    if source not in FORMATS:
        bits = int(source[1:])
        value = signed(code & ((1 << bits) - 1), bits) if source[0] == "s" else code & ((1 << bits) - 1)
        if target not in FORMATS:
            if sat:
                width = int(target[1:])
                low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if target[0] == "s" else (0, (1 << width) - 1)
                value = max(low, min(high, value))
            if target[1:] == "8":  # of a wider register, which takes the octet extended
                value = signed(value & 0xFF, 8) if target[0] == "s" else value & 0xFF
            return value
        result = encode(Number(value < 0, Fraction(abs(value))), target, mode)
        return saturated(result, target) if sat else result
    if ftz and source == "f32":
        code = flushed(code, source)
    number = decode(code, source)
    if target not in FORMATS:
        width = int(target[1:])
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if target[0] == "s" else (0, (1 << width) - 1)
        if number.nan:
            return 1 << (width - 1) if 64 in (width, FORMATS[source][2]) else 0
        if number.infinite:
            return low if number.negative else high
        size = whole(number.magnitude, integral, number.negative)
        return max(low, min(high, -size if number.negative else size))
    if integral and not number.nan and not number.infinite:
        number = Number(number.negative, Fraction(whole(number.magnitude, integral, number.negative)))
    result = encode(number, target, mode)
    if ftz and target == "f32":
        result = flushed(result, target)
    return saturated(result, target) if sat else result


def expected(opcode, codes):
    """Return the results of an instruction: one code, or two truth values of setp.

    Parameters
    ----------
    opcode : str
        Of the catalogue of random programs, without a model.
    codes : list of int
        Of the sources, each of the width that the opcode takes.
    """
    name, *parts = opcode.split(".")
    kind = parts[-1]
    if name == "setp":
        truth = holds(parts[0], kind, codes[0], codes[1], ftz="ftz" in parts)
        third = bool(codes[2]) if len(codes) > 2 else False
        return combined(parts, truth, third), combined(parts, not truth, third)
    if name == "set":
        truth = holds(parts[0], kind, codes[0], codes[1], ftz="ftz" in parts)
        truth = combined(parts, truth, bool(codes[2]) if len(codes) > 2 else False)
        true = encode(Number(False, Fraction(1)), parts[-2]) if parts[-2] in FORMATS else -1
        return ((true if truth else 0) & 0xFFFFFFFF,)
    if name == "slct":
        if kind == "s32":
            return (codes[0] if signed(codes[2], 32) >= 0 else codes[1],)
        chooser = decode(flushed(codes[2], "f32") if "ftz" in parts else codes[2], "f32")
        return (codes[0] if not chooser.nan and (not chooser.negative or chooser.magnitude == 0) else codes[1],)
    if name == "cvt":
        if parts[-2] in ("f16x2", "bf16x2"):
            high, low = (convert(parts[:-2], kind, parts[-2][:-2], c) for c in codes)
            return (high << 16 | low,)
        return (convert(parts[:-2], kind, parts[-2], codes[0]),)
    if kind in ("f16x2", "bf16x2"):
        halves = [floating(name, parts, kind[:-2], [c >> shift & 0xFFFF for c in codes]) for shift in (0, 16)]
        return (halves[1] << 16 | halves[0],)
    arithmetic = ("add", "sub", "mul", "fma", "div", "sqrt", "rcp", "min", "max", "abs", "neg", "copysign")
    if kind in FORMATS and name in arithmetic:
        return (floating(name, parts, kind, codes),)
    if re.fullmatch(r"[us]\d+", kind) and name in (
        "add",
        "sub",
        "mul",
        "mad",
        "mul24",
        "div",
        "rem",
        "sad",
        "abs",
        "neg",
        "min",
        "max",
    ):
        return (integer(name, parts, kind, codes),)
    return (bitwise(name, parts, kind, codes),)
