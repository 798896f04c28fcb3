"""Writes the table of opcodes in docs/ptx-machine.md from the registries of both engines: python tests/write_ptx_docs.py."""

import re
from pathlib import Path

from precalign.gpu.ptx.compiled.translate import TRANSLATIONS
from precalign.gpu.ptx.fuzz.catalog import GROUPS
from precalign.gpu.ptx.operations import REGISTRY, resolve

PAGE = Path(__file__).parents[1] / "docs" / "ptx-machine.md"
BEGIN, END = "<!-- opcodes: written by tests/write_ptx_docs.py -->", "<!-- end of opcodes -->"
_TYPE = re.compile(r"(?:[busf]|bf)\d+(?:x2)?|pred")


def table():
    """Return the table of computing opcodes: one row each, with the forms that random programs draw."""
    forms = {}
    for group in GROUPS:
        for form in group:
            forms.setdefault(form.opcode.split(".")[0], []).append(form.opcode)
    known = {name for name, _ in REGISTRY}
    assert known == {name for name, _ in TRANSLATIONS}, known ^ {name for name, _ in TRANSLATIONS}
    assert known == set(forms), known ^ set(forms)
    lines = ["| opcode | modifiers | types | forms | tested |", "|---|---|---|---:|---|"]
    for name in sorted(known):
        parts = [opcode.split(".")[1:] for opcode in forms[name]]
        modifiers = sorted({p for opcode in parts for p in opcode if not _TYPE.fullmatch(p)})
        types = sorted(
            {p for opcode in parts for p in opcode if _TYPE.fullmatch(p)}, key=lambda t: (t.strip("0123456789x"), t)
        )
        modelled = sum(bool(resolve(opcode).model) for opcode in forms[name])
        tested = "F" if modelled == len(forms[name]) else "F O"
        shown = " ".join(f".{m}" for m in modifiers) or "–"
        lines.append(f"| `{name}` | {shown} | {' '.join(types)} | {len(forms[name])} | {tested} |")
    total = sum(map(len, forms.values()))
    return "\n".join([*lines, f"\n{len(known)} opcodes, {total:,} forms."])


def page(text):
    """Return the page with the table as it should be."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
