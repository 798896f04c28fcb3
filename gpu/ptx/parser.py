"""PTX text to typed instruction records. Whatever it does not know is an error that names the line."""

from __future__ import annotations

import bisect
import re
from pathlib import PurePosixPath

from precalign.errors import shown
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.operands import Names, parse_operands
from precalign.gpu.ptx.program import Entry, Instruction, Location, Module, Negated, Register
from precalign.gpu.ptx.scalars import SCALARS
from precalign.gpu.ptx.variables import parse_variable

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BLANK = re.compile(r"\s+")
_LABEL = re.compile(r"([$\w]+)\s*:(?!:)")
_LOC = re.compile(r"\.loc\s+([0-9]{1,18})\s+([0-9]{1,18})[^\n]*")
_LINE_DIRECTIVE = re.compile(r"\.(version|target|address_size|file)\b([^\n]*)")
_PRAGMA = re.compile(r"\.pragma\s[^;]*;")
_ENTRY = re.compile(r"(?:\.(?:visible|weak)\s+)*\.entry\s+([$\w]+)\s*")
_FUNCTION = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.func\b")
_SECTION = re.compile(r"\.section\s+[.\w]+\s*")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
_PERFORMANCE = re.compile(r"\.(maxntid|reqntid|minnctapersm|maxnreg)\s+([0-9]{1,9}(?:\s*,\s*[0-9]{1,9}){0,2})\s*")
MOST_REGISTERS = 1 << 17
"""Declared in one kernel; compilers declare thousands."""


class _Text:
    """The text and a place in it."""

    def __init__(self, text: str) -> None:
        # Comments become blanks of the same length, so that places keep their lines.
        self.text = _COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        self.at = 0
        self._line_starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def skip_blank(self) -> bool:
        blank = _BLANK.match(self.text, self.at)
        if blank:
            self.at = blank.end()
        return self.at < len(self.text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def take_char(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += found
        return found

    def until(self, char: str) -> str:
        end = self.text.find(char, self.at)
        if end < 0:
            raise self.error(f"'{char}' expected")
        taken = self.text[self.at : end]
        self.at = end + 1
        return taken

    def skip_braces(self) -> None:
        depth = 0
        while True:
            brace = re.compile(r"[^{}]*([{}])").match(self.text, self.at)
            if not brace:
                raise self.error("'}' expected")
            self.at = brace.end()
            depth += 1 if brace[1] == "{" else -1
            if depth == 0:
                return

    def line(self, at: int | None = None) -> int:
        return bisect.bisect_right(self._line_starts, self.at if at is None else at)

    def error(self, message: str, at: int | None = None) -> PtxSyntaxError:
        return PtxSyntaxError(f"PTX line {self.line(at)}: {message}")


def parse(text: str) -> Module:
    """Parse a PTX module.

    Parameters
    ----------
    text : str
        As NVRTC writes it.

    Raises
    ------
    PtxSyntaxError
        If something is not PTX, naming the line.
    UnsupportedPtxError
        If a directive is not modelled.
    """
    source, module = _Text(text), Module()
    files = {int(m[1]): PurePosixPath(m[2]).name for m in re.finditer(r'\.file\s+([0-9]{1,18})\s+"([^"]*)"', text)}
    while source.skip_blank():
        if line := source.take(_LINE_DIRECTIVE):
            if line[1] in ("version", "target"):
                setattr(module, line[1], line[2].strip())
        elif source.take(_SECTION):
            source.skip_braces()
        elif entry := source.take(_ENTRY):
            module.entries[entry[1]] = _EntryParser(source, module, files, entry[1]).parse()
        elif source.take(_FUNCTION):
            _skip_function(source)
        else:
            start = source.at
            declaration = source.until(";")
            variable = parse_variable(declaration, f"PTX line {source.line(start)}")
            module.variables.append(variable)
    return module


def _skip_function(source: _Text) -> None:
    # A function that is not inlined matters only where it is called, and `call` is refused there.
    rest = re.compile(r"[^{;]*").match(source.text, source.at)
    source.at = rest.end() if rest else source.at
    if not source.take_char(";"):
        source.skip_braces()


class _EntryParser:
    """One kernel: its parameters, scopes, instructions."""

    def __init__(self, source: _Text, module: Module, files: dict[int, str], name: str) -> None:
        self.source, self.files, self.entry = source, files, Entry(name)
        self.location: Location | None = None
        self.scopes: list[dict[str, Register]] = []
        self.n_scopes = self.n_registers = 0
        self.symbols = {v.name for v in module.variables}
        self.pending: list[tuple[str, int, Location]] = []

    def parse(self) -> Entry:
        source = self.source
        if source.take_char("("):
            for declaration in filter(str.strip, source.until(")").split(",")):
                self._declare(declaration, self.entry.params)
        source.skip_blank()
        while directive := source.take(_PERFORMANCE):
            if directive[1] in ("maxntid", "reqntid"):
                x, y, z = ([int(n) for n in directive[2].split(",")] + [1, 1])[:3]
                self.entry.max_threads = x * y * z
            source.skip_blank()
        if not source.take_char("{"):
            raise source.error("'{' of the kernel's body expected")
        self._open_scope()
        while self.scopes:
            self._statement()
        return self.entry

    def _open_scope(self) -> None:
        self.scopes.append({})
        self.n_scopes += 1

    def _statement(self) -> None:
        source = self.source
        if not source.skip_blank():
            raise source.error("the kernel's body does not end")
        if source.take_char("{"):
            self._open_scope()
        elif source.take_char("}"):
            self.scopes.pop()
        elif source.take_char(";") or source.take(_PRAGMA):
            pass
        elif loc := source.take(_LOC):
            if int(loc[2]):
                self.location = Location(self.files.get(int(loc[1]), "?"), int(loc[2]))
        elif label := source.take(_LABEL):
            self.entry.labels[label[1]] = len(self.entry.instructions)
        else:
            start = source.at
            self._declaration_or_instruction(source.until(";").strip(), source.line(start))

    def _declaration_or_instruction(self, text: str, line: int) -> None:
        if registers := _REGISTERS.match(text):
            self._declare_registers(registers[1], registers[2], line)
        elif re.match(r"\.(?:shared|local|global|const)\b", text):
            self._declare(text, self.entry.variables)
        elif text.startswith("."):
            raise UnsupportedPtxError(f"PTX line {line}: directive not modelled: {shown(text.split(maxsplit=1)[0])}")
        else:
            self.entry.instructions.append(self._instruction(text, line))

    def _declare(self, text: str, into: list) -> None:  # type: ignore[type-arg] # list of Variable, the entry's own
        variable = parse_variable(text, f"PTX line {self.source.line()}")
        self.symbols.add(variable.name)
        into.append(variable)

    def _declare_registers(self, type_name: str, names: str, line: int) -> None:
        if type_name not in SCALARS:
            raise UnsupportedPtxError(f"PTX line {line}: register type .{type_name} is not modelled")
        for written in (n.strip() for n in names.split(",")):
            ranged = re.fullmatch(r"([%$\w]+)<([0-9]{1,18})>", written)
            self.n_registers += int(ranged[2]) if ranged else 1
            if self.n_registers > MOST_REGISTERS:
                raise UnsupportedPtxError(f"PTX line {line}: more than {MOST_REGISTERS} registers are not modelled")
            expanded = [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [written]
            for name in expanded:
                unique = name if len(self.scopes) == 1 else f"{name}@{self.n_scopes}"
                self.scopes[-1][name] = Register(unique, SCALARS[type_name])

    def _lookup(self, name: str) -> Register | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def _instruction(self, text: str, line: int) -> Instruction:
        where = f"PTX line {line}"
        match = re.fullmatch(r"(?:@(!?)\s*([%$\w]+)\s+)?([a-z]\w*(?:(?:\.|::)\w+)*)\s*(.*)", text, re.DOTALL)
        if not match:
            raise PtxSyntaxError(f"{where}: not an instruction: {shown(text)}")
        if match[3].split(".")[0] == "call":
            raise UnsupportedPtxError(f"{where}: call is not modelled; let the compiler inline the function")
        guard: Register | Negated | None = None
        if match[2]:
            register = self._lookup(match[2])
            if register is None:
                raise PtxSyntaxError(f"{where}: no such predicate: {match[2]}")
            guard = Negated(register) if match[1] else register
        operands = parse_operands(match[4], Names(self._lookup, self.symbols, match[3].startswith("bra")), where)
        location = self.location or Location("PTX", line)
        return Instruction(match[3], operands, guard, location, line)
