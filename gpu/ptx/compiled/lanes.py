"""Operands and results of one basic block: registers live in the warp's frame between blocks and in values within one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precalign.gpu.ptx.compiled.code import Code, splat, vector
from precalign.gpu.ptx.compiled.layout import HEADER_BYTES, SPECIAL_SLOTS
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.memory import PARAM_BASE
from precalign.gpu.ptx.program import Immediate, Negated, Register, Sink, SpecialRegister, SymbolAddress
from precalign.gpu.ptx.scalars import SCALARS

if TYPE_CHECKING:
    from precalign.gpu.ptx.program import Operand
    from precalign.gpu.ptx.scalars import Scalar

_PRED = SCALARS["pred"]


class Frame:
    """Where a kernel's registers and symbols are: the layout of what a warp keeps between blocks.

    Attributes
    ----------
    size : int
        Bytes of a warp.
    offsets : dict of str to int
        Registers that had to be kept, by name.
    addresses : dict of str to int
        Parameters and variables of shared and local memory, each in its own space.
    globals : dict of str to int
        Module variables; the number of each in the table that a launch fills.
    """

    def __init__(self, addresses: dict[str, int], module_variables: list[str]) -> None:
        self.size = HEADER_BYTES
        self.offsets: dict[str, int] = {}
        self.addresses = addresses
        self.globals = {name: i for i, name in enumerate(module_variables)}

    def offset(self, register: Register) -> int:
        """Return where a register is kept."""
        if register.name not in self.offsets:
            self.offsets[register.name] = self.size
            bits = register.type.bits if register.type.kind != "pred" else 2  # 32 predicates take 4 bytes, kept at 8
            self.size += -(-4 * bits // 64) * 64
        return self.offsets[register.name]


class Lanes:
    """The values of registers while one block is written.

    Parameters
    ----------
    code : Code
    frame : Frame
    """

    def __init__(self, code: Code, frame: Frame) -> None:
        self.code, self.frame = code, frame
        self.values: dict[str, str] = {}
        self.dirty: dict[str, Register] = {}
        self.mask_bits = code.emit("load i32, ptr %mask.p, align 4")
        self.mask = code.truth(self.mask_bits)
        self.guard: str | None = None

    def place(self, register: Register) -> str:
        """Return the address of a register in the frame."""
        return self.code.emit(f"getelementptr i8, ptr %frame, i64 {self.frame.offset(register)}")

    def fetch(self, register: Register) -> str:
        """Return the present value of a register, a vector of its own width."""
        if register.name not in self.values:
            place = self.place(register)
            if register.type.kind == "pred":
                value = self.code.truth(self.code.emit(f"load i32, ptr {place}, align 4"))
            else:
                value = self.code.emit(f"load {vector(f'i{register.type.bits}')}, ptr {place}, align 64")
            self.values[register.name] = value
        return self.values[register.name]

    @property
    def active(self) -> str:
        """The lanes for which the present instruction counts, as truth values."""
        return self.mask if self.guard is None else self.guard

    @property
    def active_bits(self) -> str:
        """The same as 32 bits."""
        return self.mask_bits if self.guard is None else self.code.mask(self.guard)

    def set_guard(self, guard: Operand | None) -> None:
        """Make the guard of an instruction hold for what is written next."""
        self.guard = None if guard is None else self.code.binary("and", "i1", self.mask, self.read(guard, _PRED))

    def read(self, operand: Operand, scalar: Scalar, *, wide: bool = False) -> str:
        """Return an operand as a vector of a type's width.

        Parameters
        ----------
        operand : Operand
        scalar : Scalar
        wide : bool
            Allow a wider register, whose lower bits are taken.
        """
        if isinstance(operand, Register):
            return self._register(operand, scalar, wide=wide)
        if isinstance(operand, Negated):
            return self.code.binary("xor", "i1", self._register(operand.register, scalar, wide=False), splat("i1", 1))
        if isinstance(operand, Immediate):
            return self._literal(operand, scalar)
        if isinstance(operand, SpecialRegister):
            return self.code.cast(
                "trunc" if scalar.bits < 32 else "zext", "i32", self.special(operand.name), f"i{scalar.bits}"
            )
        if isinstance(operand, SymbolAddress):
            return self._symbol(operand, scalar)
        raise PtxSyntaxError(f"operand not expected here: {operand}")

    def _register(self, register: Register, scalar: Scalar, *, wide: bool) -> str:
        value, own = self.fetch(register), register.type.bits
        if own == scalar.bits and (register.type.kind == "pred") == (scalar.kind == "pred"):
            return value
        if own < scalar.bits or not wide or register.type.kind == "pred":
            raise PtxSyntaxError(f"register {register.name} of .{register.type.name} read as .{scalar.name}")
        return self.code.cast("trunc", f"i{own}", value, f"i{scalar.bits}")

    def _literal(self, immediate: Immediate, scalar: Scalar) -> str:
        value = immediate.value
        if immediate.float_bits and scalar.kind == "f" and scalar.bits != immediate.float_bits:
            import struct

            if (immediate.float_bits, scalar.bits) != (64, 32):
                raise UnsupportedPtxError(f"a literal of {immediate.float_bits} bits where .{scalar.name} is expected")
            (number,) = struct.unpack("<d", value.to_bytes(8, "little"))
            value = int.from_bytes(struct.pack("<f", number), "little")
        if scalar.kind == "pred":
            value = int(bool(value))
        return splat(f"i{scalar.bits}", value & ((1 << scalar.bits) - 1))

    def _symbol(self, symbol: SymbolAddress, scalar: Scalar) -> str:
        word = f"i{scalar.bits}"
        if symbol.name in self.frame.addresses:
            return splat(word, self.frame.addresses[symbol.name] + symbol.offset & ((1 << scalar.bits) - 1))
        if symbol.name not in self.frame.globals:
            raise UnsupportedPtxError(f"no such variable: {symbol.name}")
        place = self.code.emit(f"getelementptr i64, ptr %symbols, i64 {self.frame.globals[symbol.name]}")
        base = self.code.emit(f"load i64, ptr {place}, align 8")
        moved = self.spread("i64", self.code.emit(f"add i64 {base}, {symbol.offset}"))
        return self.code.cast("trunc", "i64", moved, word)

    def spread(self, element: str, value: str) -> str:
        """Give one value to all lanes."""
        kind = vector(element)
        first = self.code.emit(f"insertelement {kind} poison, {element} {value}, i32 0")
        return self.code.emit(f"shufflevector {kind} {first}, {kind} poison, {vector('i32')} zeroinitializer")

    def special(self, name: str) -> str:
        """Return a special register as a vector of i32."""
        if name not in SPECIAL_SLOTS:
            raise UnsupportedPtxError(f"special register %{name} is not modelled")
        place, is_vector = SPECIAL_SLOTS[name]
        address = self.code.emit(f"getelementptr i8, ptr {'%frame' if is_vector else '%ctx'}, i64 {place}")
        if is_vector:
            return self.code.emit(f"load {vector('i32')}, ptr {address}, align 64")
        return self.spread("i32", self.code.emit(f"load i32, ptr {address}, align 4"))

    def write(self, operand: Operand, scalar: Scalar, value: str, *, wide: bool = False) -> None:
        """Give a register a new value in the active lanes.

        Parameters
        ----------
        operand : Operand
            A register, or _ for nowhere.
        scalar : Scalar
        value : str
            A vector of the type's width.
        wide : bool
            Allow a wider register; the value is extended by the type's sign.
        """
        if isinstance(operand, Sink):
            return
        if not isinstance(operand, Register):
            raise PtxSyntaxError(f"destination expected, got {operand}")
        own = operand.type
        if (
            (own.kind == "pred") != (scalar.kind == "pred")
            or own.bits < scalar.bits
            or (own.bits != scalar.bits and not wide)
        ):
            raise PtxSyntaxError(f"register {operand.name} of .{own.name} written as .{scalar.name}")
        word = f"i{own.bits}"
        value = self.code.cast("sext" if scalar.kind == "s" else "zext", f"i{scalar.bits}", value, word)
        if self.guard is not None:
            value = self.code.select(self.guard, word, value, self.fetch(operand))
        self.values[operand.name] = value
        self.dirty[operand.name] = operand

    def flush(self, live: set[str]) -> None:
        """Store what later blocks may read, in the lanes of this block."""
        for name, register in self.dirty.items():
            if name not in live:
                continue
            place, value = self.place(register), self.values[name]
            if register.type.kind == "pred":
                old = self.code.emit(f"load i32, ptr {place}, align 4")
                new = self.code.emit(f"and i32 {self.code.mask(value)}, {self.mask_bits}")
                others = self.code.emit(f"xor i32 {self.mask_bits}, -1")
                kept = self.code.emit(f"and i32 {old}, {others}")
                self.code.do(f"store i32 {self.code.emit(f'or i32 {new}, {kept}')}, ptr {place}, align 4")
                continue
            word = f"i{register.type.bits}"
            old = self.code.emit(f"load {vector(word)}, ptr {place}, align 64")
            self.code.do(f"store {vector(word)} {self.code.select(self.mask, word, value, old)}, ptr {place}, align 64")
        self.dirty.clear()


def parameter_addresses(params: list[tuple[str, int, int]]) -> dict[str, int]:
    """Return the address of each parameter; `params` are (name, alignment, bytes)."""
    addresses, at = {}, 0
    for name, align, size in params:
        at += -at % align
        addresses[name] = PARAM_BASE + at
        at += size
    return addresses
