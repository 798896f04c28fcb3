"""Pickles as lists of opcodes: what torch.save writes, and what else an opcode can ask for."""

from __future__ import annotations

import pickletools
import struct
from typing import TYPE_CHECKING

from precalign.analysis.fuzz.draw import CANARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from precalign.analysis.fuzz.draw import Draw

_NAMES = (
    *("os system", "posix system", "builtins eval", "builtins exec", "builtins open", "builtins __import__", "builtins getattr", "io open"),
    *("subprocess Popen", "subprocess check_output", "os mkdir", "runpy _run_code", "socket socket", "importlib import_module", "nt system"),
    *("torch load", "torch.hub load", "torch.serialization load", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    *("torch FloatStorage", "torch HalfStorage", "torch.storage UntypedStorage", "torch Tensor", "torch._tensor _rebuild_from_type_v2"),
    *("collections OrderedDict", "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode", "copyreg _reconstructor"),
    *("transformers.cache_utils DynamicCache", "transformers.modeling_utils PreTrainedModel", "a\x1b[2J b", "a\tb c", "os.system x", " "),
)  # fmt: skip
"""What a pickle may name: module and attribute."""


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    octets = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(octets)) + octets


def integer(value: int) -> bytes:
    """Return the opcode that pushes an integer."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    octets = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(octets)]) + octets


def named(module: str, attribute: str) -> bytes:
    """Return the opcode that pushes what a module calls so."""
    return f"c{module}\n{attribute}\n".encode("utf-8", "surrogatepass")


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """Return the opcodes that call something; arguments are opcodes."""
    return named(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def _calls() -> tuple[bytes, ...]:
    run = text(f"touch {CANARY}")
    write = text(f"open('{CANARY}', 'w')")
    return (
        call("os", "system", run),
        call("posix", "system", run),
        call("builtins", "exec", write),
        call("builtins", "eval", write),
        call("builtins", "open", text(CANARY), text("w")),
        call("io", "open", text(CANARY), text("w")),
        call("os", "mkdir", text(CANARY)),
        call("subprocess", "Popen", b"]" + text("touch") + b"a" + text(CANARY) + b"a"),
        b"(S'touch " + CANARY.encode() + b"'\nios\nsystem\n",  # INST
        b"(" + named("os", "system") + run + b"o",  # OBJ
        named("subprocess", "Popen") + text(CANARY) + b"\x85\x81",  # NEWOBJ
        named("subprocess", "Popen") + text(CANARY) + b"\x85}\x92",  # NEWOBJ_EX
        text("os") + text("system") + b"\x93" + run + b"\x85R",  # STACK_GLOBAL
        text("os") + text("path.os.system") + b"\x93" + run + b"\x85R",
        named("collections", "OrderedDict") + b")R}" + text("__class__") + named("os", "system") + b"sb",  # BUILD
        b"\x82\x01",  # EXT1
    )


CALLS = _calls()
"""Opcodes that run something where a pickle is obeyed."""
ODD = (
    *(b".", b"(", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"t", b"l", b"d", b"u", b"e", b"a", b"s", b"b", b"R", b"Q", b"\x81", b"\x85", b"\x86"),
    *(b"\x87", b"\x8f", b"\x90", b"\x91", b"\x94", b"\x98", b"\x97", b"h\xff", b"q\xff", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\xff"),
    *(b"\x80\xff", b"\x80\x05", b"\x95" + b"\xff" * 8, b"\x95" + bytes(8), b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x8d" + bytes(8), b"\x8e" + b"\xff" * 7),
    *(b"\x96\x00\x00\x00\x00\x00\x01\x00\x00", b"\x8b\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x8a\xff", b"I1\n", b"I" + b"9" * 5000 + b"\n", b"Lx\n"),
    *(b"F1e999\n", b"Fnan\n", b"G" + b"\xff" * 8, b"S'a\\x1b'\n", b"Sx\n", b"V\\ud800\n", b"Pnothing\n", b"gzz\n", b"pzz\n", b"q\x00h\x00", b"]q\x01h\x01a"),
    *(b"(" * 5000, b"]" * 3000, b"}" * 100, b"]" + b"]a" * 50, b"\x85" * 2000, b"(((ttt", b"2" * 2000),
)  # fmt: skip
"""Opcodes and runs of them that few writers write."""


def opcodes(data: bytes) -> list[bytes]:
    """Cut a pickle into its opcodes with their arguments."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def change_pickle(draw: Draw, held: Sequence[bytes], others: Sequence[Sequence[bytes]] = ()) -> bytes:
    """Return a pickle after one or a few changes of its opcodes."""
    parts = list(held)
    for _ in range(draw.times()):
        _change(draw, parts, others)
    return b"".join(parts)[: 1 << 16]


def _change(draw: Draw, parts: list[bytes], others: Iterable[Sequence[bytes]]) -> None:
    at = draw.randint(0, len(parts))
    end = at + draw.one((1, 1, 2, 8))
    what = draw.randrange(12)
    if what == 0:
        del parts[at:end]
    elif what == 1:
        parts[at:at] = parts[at:end] * draw.one((1, 1, 2, 20))
    elif what == 2:
        parts[at:at] = [draw.one(CALLS)]
    elif what == 3:
        parts[at : at + draw.randint(0, 1)] = [draw.one(ODD)]
    elif what == 4:
        parts[at:at] = [named(*(draw.one(_NAMES).split(" ", 1)))]
    elif what == 5:
        parts[at : at + draw.randint(0, 1)] = [text(draw.text())]
    elif what == 6 and (chosen := list(others)):
        other = draw.one(chosen)
        parts[at:end] = other[draw.randint(0, len(other)) :]
    elif what == 7:
        del parts[at:]
    elif what <= 10:
        _change_some(draw, parts, what)
    else:
        parts.insert(at, draw.octets(16))


def _change_some(draw: Draw, parts: list[bytes], what: int) -> None:
    """Change an integer, a text or a name that stands there."""
    first = {8: b"KMJ\x8a", 9: b"X\x8cUT", 10: b"c"}[what]
    places = [i for i, part in enumerate(parts) if part[:1] and part[0] in first]
    if not places:
        return
    at = draw.one(places)
    if what == 8:
        parts[at] = integer(draw.one((draw.count(), draw.randint(0, 70))))
    elif what == 9:
        parts[at] = text(draw.text())
    else:
        parts[at] = named(*(draw.one(_NAMES).split(" ", 1)))
