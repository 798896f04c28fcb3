"""`Kernel`: CUDA C to PTX to results and measurements, with no GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from precalign.errors import UsageError
from precalign.gpu import nvrtc
from precalign.gpu.ptx.launch import Launch, ModuleMemory
from precalign.gpu.ptx.parser import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precalign.gpu.ptx.compiled.program import CompiledProgram
    from precalign.gpu.ptx.compiler import Program
    from precalign.gpu.ptx.program import Module
    from precalign.gpu.ptx.report import Report


Engine = Literal["checked", "compiled"]
ENGINES: tuple[str, ...] = get_args(Engine)


@lru_cache(maxsize=256)
def _parsed(ptx: str, name: str) -> Module:
    module = parse(ptx)
    if name not in module.entries:
        listed = ", ".join(module.entries) or "none"
        raise UsageError(f"no kernel {name}", hint=f'kernels here: {listed}; declare them extern "C"')
    return module


@lru_cache(maxsize=256)
def _steps(ptx: str, name: str) -> Program:
    from precalign.gpu.ptx.compiler import Compiler

    return Compiler(_parsed(ptx, name).entries[name]).compile()


@lru_cache(maxsize=256)
def _machine_code(ptx: str, name: str) -> CompiledProgram:
    from precalign.gpu.ptx.compiled.program import build_all

    module = _parsed(ptx, name)
    return build_all([(module, module.entries[name])])[0]


class PtxKernel:
    """A kernel of a PTX module.

    Parameters
    ----------
    ptx : str
        The module.
    name : str
        Its entry point.
    engine : str
        "checked" runs all lanes in NumPy with every check on and is the engine of record; "compiled" translates to machine
        code, many times as fast, and checks bounds, alignment and barriers only. Both measure the same.

    Attributes
    ----------
    compile_seconds : float
        That the compiled engine took to translate the kernel, 0 for the checked one.

    Raises
    ------
    UsageError
        If there is no such kernel or engine.
    PtxSyntaxError, UnsupportedPtxError
        Where the text uses what is not modelled; the message names the line.
    """

    def __init__(self, ptx: str, name: str, *, engine: Engine = "checked") -> None:
        if engine not in ENGINES:
            raise UsageError(f"no engine {engine!r}", hint="engines: " + ", ".join(ENGINES))
        self.module = _parsed(ptx, name)
        self.entry, self.engine = self.module.entries[name], engine
        self._memory = ModuleMemory(self.module)
        self._steps = _steps(ptx, name) if engine == "checked" else None
        self._code = _machine_code(ptx, name) if engine == "compiled" else None
        self.compile_seconds = self._code.seconds if self._code else 0.0

    def __call__(
        self,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        seed: int | None = None,
    ) -> Report:
        """Run the kernel on NumPy arrays, in place.

        Parameters
        ----------
        grid, block : int or up to 3 int
            Blocks, and threads of a block.
        arguments : sequence
            Contiguous NumPy arrays for pointers (used in place), `Uninitialised` for outputs that must not be read first,
            NumPy scalars for values, None for a null pointer.
        shared_bytes : int
            Dynamic shared memory.
        seed : int, optional
            Draws another order of blocks and warps.

        Returns
        -------
        Report

        Raises
        ------
        KernelFault
            For the first defect of the kernel, naming the source line and the thread.
        InputError, UsageError
            If the arguments do not fit.
        """
        launch = Launch(self.entry, self.module, self._memory, _three(grid), _three(block), arguments, shared_bytes)
        if self._code is not None:
            from precalign.gpu.ptx.compiled.launch import CompiledLaunch

            return CompiledLaunch(self._code, launch).run(seed)
        from precalign.gpu.ptx.machine import run_checked

        assert self._steps is not None  # noqa: S101 - one of the two is there
        return run_checked(self._steps, launch, seed)


class Kernel(PtxKernel):
    """A kernel from CUDA C.

    Parameters
    ----------
    source : str
        CUDA C++; the kernel is declared `extern "C"`.
    name : str
        The kernel.
    headers : mapping of str to str, optional
        Contents of `#include` files by name.
    macros : mapping of str to str, optional
        -D options.
    file : str
        Name of the source, for messages.
    arch : str
        Architecture to compile for.
    engine : str
        "checked" or "compiled".

    Raises
    ------
    UnavailableError
        If the compiler's packages are not installed.
    InputError
        If the source does not compile; the message is the compiler's.
    """

    def __init__(
        self,
        source: str,
        name: str,
        headers: Mapping[str, str] | None = None,
        macros: Mapping[str, str] | None = None,
        *,
        file: str = "kernel.cu",
        arch: str = "sm_80",
        engine: Engine = "checked",
    ) -> None:
        self.compilation = nvrtc.compile_ptx(source, arch, headers=headers, macros=macros, file=file)
        super().__init__(self.compilation.ptx, name, engine=engine)


def _three(extent: int | Sequence[int]) -> tuple[int, int, int]:
    given = (extent,) if isinstance(extent, int) else tuple(int(e) for e in extent)
    if not 1 <= len(given) <= 3:
        raise UsageError(f"a grid or block has 1 to 3 extents, not {given}")
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z
