"""How opcodes become LLVM IR; importing this package fills the registry."""

from precalign.gpu.ptx.compiled.translate import bits, compare, convert, floats, halves, integers
from precalign.gpu.ptx.compiled.translate.table import TRANSLATIONS, Translation, translate

__all__ = [
    "TRANSLATIONS",
    "Translation",
    "bits",
    "compare",
    "convert",
    "floats",
    "halves",
    "integers",
    "translate",
]
