"""A parsed kernel to machine code: one LLVM function that runs a warp until all its lanes wait or have exited."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from precalign.errors import PrecalignError
from precalign.gpu.ptx.compiled import memory
from precalign.gpu.ptx.compiled.code import LANES, Code
from precalign.gpu.ptx.compiled.control import Ending, write_dispatch, write_fault, write_prologue, write_turn
from precalign.gpu.ptx.compiled.graph import blocks_of, ending_of
from precalign.gpu.ptx.compiled.lanes import Frame, Lanes, parameter_addresses
from precalign.gpu.ptx.compiled.layout import EXECUTED, ISSUED, PARAMS, SYMBOLS, TRAP
from precalign.gpu.ptx.compiled.runtime import functions
from precalign.gpu.ptx.compiled.translate import translate
from precalign.gpu.ptx.faults import PtxSyntaxError, UnsupportedPtxError
from precalign.gpu.ptx.memory import lay_out
from precalign.gpu.ptx.operations.registry import Modifiers
from precalign.gpu.ptx.program import Label, Pair, Vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precalign.gpu.ptx.compiled.graph import Block
    from precalign.gpu.ptx.program import Entry, Instruction, Module

_FENCES = ("membar", "fence")


@dataclass
class CompiledProgram:
    """A kernel as machine code.

    Attributes
    ----------
    entry : Entry
    address : int
        Of the function (context, frame) to 0 or a fault.
    frame_bytes : int
    blocks : dict of int to Block
    block_numbers : dict of int to int
        Begin of each block to the number of its counters.
    models : dict of int to str
        Instructions whose opcode follows a stated model.
    symbols : list of str
        Module variables, in the order of the table that the function reads.
    ir : str
        The LLVM IR.
    seconds : float
        That compiling took.
    """

    entry: Entry
    address: int
    frame_bytes: int
    blocks: dict[int, Block]
    block_numbers: dict[int, int]
    models: dict[int, str]
    symbols: list[str]
    ir: str
    seconds: float
    engine: Any


class _Writer:
    """Writes the function of one kernel."""

    def __init__(self, module: Module, entry: Entry) -> None:
        self.entry, self.code = entry, Code()
        shared = [v for v in [*module.variables, *entry.variables] if v.space == "shared"]
        local = [v for v in entry.variables if v.space == "local"]
        addresses = lay_out(shared, 0)[0] | lay_out(local, 0)[0]
        addresses |= parameter_addresses([(p.name, p.align, p.size_bytes) for p in entry.params])
        self.symbols = [v.name for v in module.variables if v.space in ("global", "const")]
        self.frame = Frame(addresses, self.symbols)
        self.blocks = blocks_of(entry)
        self.numbers = {begin: i for i, begin in enumerate(sorted(self.blocks))}
        self.models: dict[int, str] = {}

    def write(self, name: str) -> str:
        code = self.code
        code.label("entry")
        write_prologue(code)
        for part, word in (("params", PARAMS), ("symbols", SYMBOLS), ("executed", EXECUTED), ("issued", ISSUED)):
            place = code.emit(f"getelementptr i64, ptr %ctx, i64 {word}")
            code.do(f"%{part} = load ptr, ptr {place}, align 8")
        for scratch, size in memory.SCRATCH.items():
            code.do(f"{scratch} = alloca [{size} x i8], align 64")
        code.do("br label %dispatch")
        write_dispatch(code, sorted(self.blocks))
        targets = {s for b in self.blocks.values() for s in b.successors if s <= b.begin}
        for begin in sorted(self.blocks):
            self._block(self.blocks[begin], again=begin in targets)
        return "\n".join([f"define i32 @{name}(ptr noalias %ctx, ptr noalias %frame) {{", *code.lines, "}"])

    def _block(self, block: Block, *, again: bool) -> None:
        code = self.code
        code.label(f"block{block.begin}")
        if again:
            write_turn(code, block.begin)
        lanes = Lanes(code, self.frame)
        self._count(lanes, self.numbers[block.begin])
        last = block.end - (ending_of(self.entry.instructions[block.end - 1]) != "plain")
        for index in range(block.begin, last):
            self._guarded(lambda index=index: self._plain(lanes, index), index)
        self._guarded(lambda: self._end(lanes, block), block.end - 1)

    def _guarded(self, write: Any, index: int) -> None:  # noqa: ANN401 - a closure
        """Write an instruction; an error names its line."""
        try:
            write()
        except PrecalignError as error:
            instruction = self.entry.instructions[index]
            place = f"{instruction.location}: PTX line {instruction.ptx_line}"
            raise type(error)(f"{place}: {error.message}", hint=error.hint) from error

    def _count(self, lanes: Lanes, number: int) -> None:
        code = self.code
        code.declarations["llvm.ctpop.i32"] = "declare i32 @llvm.ctpop.i32(i32)"
        n = code.emit(f"call i32 @llvm.ctpop.i32(i32 {lanes.mask_bits})")
        for name, amount in (("executed", code.emit(f"zext i32 {n} to i64")), ("issued", "1")):
            place = code.emit(f"getelementptr i64, ptr %{name}, i64 {number}")
            old = code.emit(f"load i64, ptr {place}, align 8")
            code.do(f"store i64 {code.emit(f'add i64 {old}, {amount}')}, ptr {place}, align 8")

    def _end(self, lanes: Lanes, block: Block) -> None:
        instruction, ending = self.entry.instructions[block.end - 1], Ending(lanes, block)
        if block.ending in ("branch", "exit"):
            if instruction.opcode.split(".")[1:] not in ([], ["uni"]):
                raise UnsupportedPtxError(f"{instruction.opcode} is not modelled")
            (ending.branch if block.ending == "branch" else ending.exit)(instruction.guard)
        elif block.ending == "barrier":
            ending.barrier(instruction)
        elif block.ending == "collective":
            ending.collective(instruction)
        else:
            ending.next()

    def _plain(self, lanes: Lanes, index: int) -> None:
        instruction = self.entry.instructions[index]
        name = instruction.name
        lanes.set_guard(instruction.guard)
        if name in _FENCES:  # lanes see memory in program order anyway
            return
        if name in ("ld", "ldu", "st"):
            memory.write_access(lanes, index, instruction)
        elif name in ("atom", "red"):
            memory.write_atomic(lanes, index, instruction)
        elif name == "cvta":
            memory.write_cvta(lanes, instruction)
        elif name == "mov" and any(isinstance(o, Vector) for o in instruction.operands):
            memory.write_vector_move(lanes, instruction)
        elif name == "activemask":
            self._active_mask(lanes, instruction)
        elif name == "trap":
            self._trap(lanes, index)
        else:
            self._computation(lanes, index, instruction)
        lanes.guard = None

    def _active_mask(self, lanes: Lanes, instruction: Instruction) -> None:
        m = Modifiers(instruction.opcode)
        scalar = m.scalar("b32")
        m.finish()
        lanes.write(instruction.operands[0], scalar, lanes.spread("i32", lanes.active_bits))

    def _trap(self, lanes: Lanes, index: int) -> None:
        code, reached, after = lanes.code, lanes.code.name("reached"), lanes.code.name("after")
        bits = lanes.active_bits
        none = code.emit(f"icmp eq i32 {bits}, 0")
        code.do(f"br i1 {none}, label %{after}, label %{reached}")
        code.label(reached)
        write_fault(code, TRAP, index, bits)
        code.label(after)

    def _computation(self, lanes: Lanes, index: int, instruction: Instruction) -> None:
        found = translate(instruction.opcode)
        if found.model:
            self.models[index] = found.model
        destination, *sources = instruction.operands
        if any(isinstance(o, Label) for o in sources):
            raise PtxSyntaxError(f"operand not expected here: {sources}")
        if len(sources) != len(found.sources):
            raise PtxSyntaxError(f"{instruction.opcode}: {len(found.sources)} sources expected, got {len(sources)}")
        values = [lanes.read(o, s, wide=found.wide_registers) for o, s in zip(sources, found.sources, strict=True)]
        made = found.write(lanes.code, *values)
        if isinstance(made, str):
            lanes.write(destination, found.results[0], made, wide=found.wide_registers)
            return
        wanted = (destination.first, destination.second) if isinstance(destination, Pair) else (destination,)
        for operand, scalar, value in zip(wanted, found.results, made, strict=False):
            lanes.write(operand, scalar, value)


_LOCK = threading.Lock()


@lru_cache(maxsize=1)
def _host() -> tuple[Any, str, str]:
    """Return (target, name of this CPU, its features): all its vector instructions and its fused multiply-add."""
    for start in (llvm.initialize_native_target, llvm.initialize_native_asmprinter):
        with contextlib.suppress(RuntimeError):  # newer versions do it by themselves
            start()
    return llvm.Target.from_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def build_all(kernels: Sequence[tuple[Module, Entry]], *, optimise: int = 2) -> list[CompiledProgram]:
    """Compile kernels together.

    Parameters
    ----------
    kernels : sequence of (Module, Entry)
    optimise : int
        Level of LLVM's code generator, 0 to 3.

    Raises
    ------
    PtxSyntaxError, UnsupportedPtxError
        Naming the source line, for the first instruction that is not translated.
    """
    start = time.perf_counter()
    writers = [_Writer(module, entry) for module, entry in kernels]
    texts = [writer.write(f"run_warp_{i}") for i, writer in enumerate(writers)]
    declarations: dict[str, str] = {}
    for writer in writers:
        declarations |= writer.code.declarations
    with _LOCK:
        engine = _assemble("\n".join([*declarations.values(), *texts]), declarations, optimise)
    seconds = (time.perf_counter() - start) / len(kernels)
    return [
        CompiledProgram(
            w.entry,
            int(engine.get_function_address(f"run_warp_{i}")),
            w.frame.size,
            w.blocks,
            w.numbers,
            w.models,
            w.symbols,
            texts[i],
            seconds,
            engine,
        )
        for i, w in enumerate(writers)
    ]


def _assemble(text: str, declarations: dict[str, str], optimise: int) -> Any:  # noqa: ANN401 - an llvmlite engine
    for name in declarations:
        if not name.startswith("llvm."):
            llvm.add_symbol(name, functions.address(name))
    target, cpu, features = _host()
    # The engine owns its code generator and deletes it with itself, so each has its own.
    machine = target.create_target_machine(cpu=cpu, features=features, opt=optimise, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    return engine


assert LANES == 32  # noqa: S101 - masks are 32 bits
