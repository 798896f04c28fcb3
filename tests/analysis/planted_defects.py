"""Readers with defects, for the fuzzer to find."""

from __future__ import annotations

import ctypes
import os
import pickle
import time

from precalign.analysis.fuzz.target import Bound, FileTarget
from precalign.errors import InputError

SIZE = 64


class Planted(FileTarget):
    """Reads a file of 64 bytes; a subclass misbehaves where the first byte is not the one that it should be."""

    name = "planted"
    what = "files of 64 bytes"
    bound = Bound(16 << 20, 16)

    def seeds(self):
        return [{"d.bin": b"P" * SIZE}]

    def damaged(self, draw, seeds):
        return {"d.bin": draw.randbytes(2) + b"P" * (SIZE - 2)}

    def read(self, path):
        data = path.read_bytes()
        if data[0] % 4 == 1:
            self.misbehave(data)
        if data[0] != ord("P"):
            raise InputError(f"{path.name}: begins with {data[:1]!r}")

    def misbehave(self, data):
        """Do nothing wrong."""


class Sound(Planted):
    pass


class Raises(Planted):
    def misbehave(self, data):
        raise KeyError(data[0])


class Hangs(Planted):
    def misbehave(self, data):
        time.sleep(60)


class Dies(Planted):
    def misbehave(self, data):
        ctypes.string_at(0)


class Exits(Planted):
    def misbehave(self, data):
        os._exit(3)


class Allocates(Planted):
    def misbehave(self, data):
        self.held = b"x" * (64 << 20)
        del self.held


class Claims(Planted):
    """Asks for what no machine has."""

    def misbehave(self, data):
        bytearray(1 << 40)


class Unpickles(Planted):
    def damaged(self, draw, seeds):
        payload = draw.one(
            (b"cos\nsystem\n(S'touch canary-was-run'\ntR.", b"cbuiltins\nexec\n(S'x = 1'\ntR.", b"c__main__\nWorker\n.")
        )
        return {"d.bin": payload}

    def read(self, path):
        if path.read_bytes() != b"P" * SIZE:
            pickle.loads(path.read_bytes())


class Evaluates(Planted):
    def misbehave(self, data):
        eval("1 + 1")  # noqa: S307 - the defect


class Writes(Planted):
    def misbehave(self, data):
        with open("elsewhere", "w") as file:  # noqa: PTH123 - as a careless reader would
            file.write("x")


class ReadsElsewhere(Planted):
    def misbehave(self, data):
        with open("/etc/passwd") as file:  # noqa: PTH123 - as a careless reader would
            file.read(1)


class Careless(InputError):  # noqa: N818 - the defect
    """An error that shows what it is given."""

    def __init__(self, message):
        super().__init__("")
        self.message = message

    def __str__(self):
        return self.message


class Prints(Planted):
    def misbehave(self, data):
        raise Careless("d.bin: tensor \x1b[2J is unknown")


class Forges(Planted):
    def misbehave(self, data):
        raise Careless("d.bin: tensor x\nError: forged is unknown")


class Warns(Planted):
    def misbehave(self, data):
        import warnings

        warnings.warn("overflow encountered", RuntimeWarning, stacklevel=1)


class Swallows(Planted):
    """Catches everything, also what the guard throws."""

    def misbehave(self, data):
        try:
            os.system("touch canary-was-run")  # noqa: S605 - the defect
        except BaseException as error:
            raise InputError("d.bin: cannot be read") from error
