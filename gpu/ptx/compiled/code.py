"""LLVM IR as text, one 32-lane vector per value.

No instruction written here may give poison: a lane that does not take part computes too, and one poisoned lane would poison
the mask of its whole warp. Shift counts are clamped, divisors are made safe, conversions saturate. No fast-math flag is ever
written, so LLVM may neither contract nor reassociate.
"""

from __future__ import annotations

LANES = 32
FLOATS = {16: "half", 32: "float", 64: "double"}


def vector(element: str) -> str:
    """Return the IR type of one element per lane."""
    return f"<{LANES} x {element}>"


def splat(element: str, value: int) -> str:
    """Return a constant, the same for all lanes."""
    return f"splat ({element} {value})"


class Code:
    """Instructions of one function, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.declarations: dict[str, str] = {}
        self._names = 0

    def name(self, stem: str = "v") -> str:
        """Return a new local name."""
        self._names += 1
        return f"{stem}{self._names}"

    def emit(self, text: str) -> str:
        """Write an instruction with a result; return the result."""
        name = f"%{self.name()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Write an instruction without a result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a block of the IR."""
        self.lines.append(f"{name}:")

    def binary(self, operation: str, element: str, a: str, b: str) -> str:
        """Write an operation on two vectors."""
        return self.emit(f"{operation} {vector(element)} {a}, {b}")

    def compare(self, condition: str, element: str, a: str, b: str) -> str:
        """Write a comparison; the condition names icmp or fcmp by the element type."""
        kind = "fcmp" if element in FLOATS.values() else "icmp"
        return self.emit(f"{kind} {condition} {vector(element)} {a}, {b}")

    def select(self, truth: str, element: str, a: str, b: str) -> str:
        """Take a where `truth` holds, else b."""
        return self.emit(f"select {vector('i1')} {truth}, {vector(element)} {a}, {vector(element)} {b}")

    def cast(self, operation: str, source: str, value: str, result: str) -> str:
        """Convert a vector; nothing is written where the types agree."""
        if source == result:
            return value
        return self.emit(f"{operation} {vector(source)} {value} to {vector(result)}")

    def number(self, bits: int, code: str) -> str:
        """Return codes as floating-point numbers."""
        return self.cast("bitcast", f"i{bits}", code, FLOATS[bits])

    def codes(self, bits: int, number: str) -> str:
        """Return floating-point numbers as codes."""
        return self.cast("bitcast", FLOATS[bits], number, f"i{bits}")

    def intrinsic(self, name: str, element: str, *values: str, flag: str = "") -> str:
        """Call an LLVM intrinsic whose operands and result are of one type."""
        kind = vector(element)
        suffix = {"half": "f16", "float": "f32", "double": "f64"}.get(element, element)
        full = f"{name}.v{LANES}{suffix}"
        taken = ", ".join([kind] * len(values) + (["i1"] if flag else []))
        self.declarations[full] = f"declare {kind} @{full}({taken})"
        given = ", ".join([f"{kind} {v}" for v in values] + ([f"i1 {flag}"] if flag else []))
        return self.emit(f"call {kind} @{full}({given})")

    def saturating(self, name: str, source: str, value: str, result: str) -> str:
        """Call llvm.fptosi.sat or llvm.fptoui.sat."""
        suffix = {"float": "f32", "double": "f64"}[source]
        full = f"{name}.v{LANES}{result}.v{LANES}{suffix}"
        self.declarations[full] = f"declare {vector(result)} @{full}({vector(source)})"
        return self.emit(f"call {vector(result)} @{full}({vector(source)} {value})")

    def mask(self, truth: str) -> str:
        """Return a vector of truth values as 32 bits."""
        return self.emit(f"bitcast {vector('i1')} {truth} to i32")

    def truth(self, mask: str) -> str:
        """Return 32 bits as a vector of truth values."""
        return self.emit(f"bitcast i32 {mask} to {vector('i1')}")

    def scalar_call(self, function: str, result: str, *sources: tuple[str, str]) -> str:
        """Call a scalar function of the runtime once for each lane.

        Parameters
        ----------
        function : str
            Of `runtime.scalars`.
        result : str
            Element type.
        *sources : tuple of str
            Element type and vector of each argument.
        """
        taken = ", ".join(kind for kind, _ in sources)
        self.declarations[function] = f"declare {result} @{function}({taken})"
        places = [self._slot(number, f"store {vector(kind)} {value}") for number, (kind, value) in enumerate(sources)]
        results, loop, after = self._slot(len(sources), ""), self.name("each"), self.name("each")
        before = self.name("each")
        self.do(f"br label %{before}")
        self.label(before)
        self.do(f"br label %{loop}")
        self.label(loop)
        lane, following = f"%{self.name()}", f"%{self.name()}"
        self.do(f"{lane} = phi i32 [0, %{before}], [{following}, %{loop}]")
        given = []
        for (kind, _), place in zip(sources, places, strict=True):
            one = self.emit(f"getelementptr {kind}, ptr {place}, i32 {lane}")
            given.append(f"{kind} {self.emit(f'load {kind}, ptr {one}')}")
        made = self.emit(f"call {result} @{function}({', '.join(given)})")
        self.do(f"store {result} {made}, ptr {self.emit(f'getelementptr {result}, ptr {results}, i32 {lane}')}")
        self.do(f"{following} = add i32 {lane}, 1")
        done = self.emit(f"icmp eq i32 {following}, {LANES}")
        self.do(f"br i1 {done}, label %{after}, label %{loop}")
        self.label(after)
        return self.emit(f"load {vector(result)}, ptr {results}, align 64")

    def _slot(self, number: int, store: str) -> str:
        """Return a place for a vector, and store one there."""
        place = self.emit(f"getelementptr i8, ptr %scratch.value, i64 {8 * LANES * number}")
        if store:
            self.do(f"{store}, ptr {place}, align 64")
        return place
