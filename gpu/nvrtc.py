"""CUDA C to PTX and cubins with NVRTC: no device, no driver, no toolkit; three wheels.

Every compilation is kept in the user's cache folder under the hash of all that went into it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from precalign.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTIONS = ("--fmad=false", "-lineinfo", "--ptxas-options=-v", "-default-device", "-std=c++17")
_HINT = "pip install 'precalign[kernels]'; no GPU is needed"


@dataclass(frozen=True)
class Resources:
    """What the assembler says of one kernel.

    Attributes
    ----------
    registers : int
        Per thread.
    spill_store_bytes, spill_load_bytes : int
        Register spills; 0 wanted.
    stack_bytes : int
        Frame in local memory.
    shared_bytes : int
        Static shared memory of a block.
    """

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compilation:
    """The result of one compilation.

    Attributes
    ----------
    arch : str
    ptx : str
    cubin : bytes
    log : str
    resources : dict of str to Resources
        By kernel.
    """

    arch: str
    ptx: str
    cubin: bytes
    log: str
    resources: dict[str, Resources]


@lru_cache(maxsize=1)
def _library() -> Any:  # noqa: ANN401 - the bindings have no types
    try:
        bindings = import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise UnavailableError(f"no CUDA compiler: {error}", hint=_HINT) from error
    for folder in nvidia_folders("lib"):  # loaded first, so that the bindings need not guess where wheels live
        for pattern in ("libnvrtc-builtins.so*", "libnvrtc.so*"):
            for file in sorted(folder.glob(pattern)):
                ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    try:
        bindings.nvrtcVersion()
    except Exception as error:
        raise UnavailableError(f"no CUDA compiler: {error}", hint=_HINT) from error
    return bindings


def nvidia_folders(leaf: str) -> list[Path]:
    """Return the folders of that name (lib, include, bin) in NVIDIA's installed wheels."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    return [f for root in roots for f in (*root.glob(f"cu*/{leaf}"), *root.glob(f"cuda_*/{leaf}")) if f.is_dir()]


def version() -> str:
    """Return the compiler's version.

    Raises
    ------
    UnavailableError
        If its wheels are not installed.
    """
    _, major, minor = _library().nvrtcVersion()
    return f"{major}.{minor}"


def cache_folder() -> Path:
    """Return where compilations are kept: $PRECALIGN_CACHE, or precalign in the user's cache folder."""
    chosen = os.environ.get("PRECALIGN_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "precalign"


def compile_ptx(
    source: str,
    arch: str = "sm_80",
    *,
    headers: Mapping[str, str] | None = None,
    macros: Mapping[str, str] | None = None,
    file: str = "kernel.cu",
) -> Compilation:
    """Compile CUDA C to PTX and a cubin, or find it compiled.

    Parameters
    ----------
    source : str
    arch : str
        sm_80 and so on, whatever NVRTC knows.
    headers, macros : mapping, optional
        Contents of include files by name; -D options.
    file : str
        Name of the source, for messages and line numbers.

    Raises
    ------
    UnavailableError
        If the compiler is not installed.
    InputError
        If the source does not compile.
    """
    headers, macros = dict(headers or {}), dict(macros or {})
    parts = [version(), arch, *OPTIONS, file, source, json.dumps([headers, macros], sort_keys=True)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    entry = cache_folder() / "nvrtc" / key
    cached = _read(entry)
    if cached:
        return cached
    compilation = _compile(source, arch, headers, macros, file)
    _write(entry, compilation)
    return compilation


def _check(result: Any, what: str) -> Any:  # noqa: ANN401 - the bindings have no types
    code, *values = result
    if int(code):
        raise InputError(f"{what}: {_library().nvrtcGetErrorString(code)[1].decode()}")
    return values[0] if values else None


def _compile(source: str, arch: str, headers: dict[str, str], macros: dict[str, str], file: str) -> Compilation:
    nvrtc = _library()
    names, texts = [n.encode() for n in headers], [t.encode() for t in headers.values()]
    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), file.encode(), len(names), texts, names), file)
    try:
        includes = [f"-I{folder}" for folder in nvidia_folders("include")]
        defines = [f"-D{name}={value}" for name, value in macros.items()]
        options = [o.encode() for o in (f"--gpu-architecture={arch}", *OPTIONS, *includes, *defines)]
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _text(program, "ProgramLog").decode()
        if int(code):
            raise InputError(f"{file} does not compile for {arch}:\n{indent(log.strip().expandtabs(), '  ')}")
        ptx, cubin = _text(program, "PTX").decode(errors="replace"), _text(program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Compilation(arch, ptx.rstrip("\0"), cubin, log, parse_resources(log))


def _text(program: Any, what: str) -> bytes:  # noqa: ANN401 - the bindings have no types
    nvrtc = _library()
    size = _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program), what)
    buffer: bytes = b" " * size
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer), what)
    return buffer if what == "CUBIN" else buffer.rstrip(b"\0")


def parse_resources(log: str) -> dict[str, Resources]:
    """Read registers, spills and shared memory of each kernel from the assembler's words."""
    found = {}
    count = r"(?<!\d)(\d{1,18})"  # no more digits than a number has: neither the search nor the number is endless
    for piece in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'([^']+)'", piece)
        used = re.search(rf"Used {count} registers", piece)
        frame = re.search(rf"{count} bytes stack frame, {count} bytes spill stores, {count} bytes spill loads", piece)
        shared = re.search(rf"{count} bytes smem", piece)
        if name and used and frame:
            stack, stores, loads = (int(n) for n in frame.groups())
            found[name[1]] = Resources(int(used[1]), stores, loads, stack, int(shared[1]) if shared else 0)
    return found


def _read(entry: Path) -> Compilation | None:
    try:
        facts = json.loads((entry / "facts.json").read_text(encoding="utf-8"))
        ptx, cubin = (entry / "kernel.ptx").read_text(encoding="utf-8"), (entry / "kernel.cubin").read_bytes()
        resources = {name: Resources(**r) for name, r in facts["resources"].items()}
        return Compilation(facts["arch"], ptx, cubin, facts["log"], resources)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # not there, or not whole: compiled again
        return None


def _write(entry: Path, compilation: Compilation) -> None:
    """Store a compilation, whole or not at all; a cache that cannot be written is no error."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
            made = Path(folder) / "entry"
            made.mkdir()
            facts = {"arch": compilation.arch, "log": compilation.log}
            facts["resources"] = {n: asdict(r) for n, r in compilation.resources.items()}  # type: ignore[assignment] # plain JSON
            (made / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
            (made / "kernel.ptx").write_text(compilation.ptx, encoding="utf-8")
            (made / "kernel.cubin").write_bytes(compilation.cubin)
            made.rename(entry)
    except OSError:
        return
