"""Pickles read as data: a small machine that knows the opcodes of Python's pickler and imports and calls nothing.

What a pickle asks for by name is looked up in a table of the caller, and a name that is not there ends the reading. A call becomes a call
of the caller's own function, which makes a record of it; an object becomes a `Record` of its attributes.

Bounds: `MAX_OPCODES` opcodes, which also bounds the stack, the memo and all containers; `MAX_PICKLE_BYTES` read, which bounds all text;
integers of `MAX_INTEGER_BYTES`. The machine does not recurse, hashes no value that the pickle makes, and copies none.
Source: pickletools, which names every opcode and decodes its argument.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from precalign.analysis.readers.base import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_PICKLE_BYTES = 32 << 20
MAX_OPCODES = 1 << 21
MAX_INTEGER_BYTES = 255
MAX_LINE_BYTES = 4096


class PickleError(Exception):
    """A pickle that is damaged or too large."""


class RefusedError(Exception):
    """A pickle that asks for something by name that is not data; the name is the argument."""


class Stream(Protocol):
    """Bytes from a place on; never more than are there are returned, whatever is asked for."""

    def read(self, length: int, /) -> bytes:
        """Return bytes, fewer at the end."""

    def readline(self) -> bytes:
        """Return bytes up to and with a line's end."""


class Pairs(list[tuple[Any, Any]]):
    """A dictionary as its items in order: keys of a pickle are never hashed, because hashing them can take forever."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A name that a pickle may ask for.

    Attributes
    ----------
    name : str
        Module and name, with a dot between.
    call : callable or None
        (arguments) -> value; what calling it means.
    record : bool
        Whether it is a class of which objects become records.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None
    record: bool = False


@dataclass(slots=True)
class Record:
    """An object.

    Attributes
    ----------
    name : str
        Of its class.
    states : list of Pairs
        Its attributes, in the order in which the pickle sets them.
    """

    name: str
    states: list[Pairs] = field(default_factory=list)


def unpickle(stream: Stream, known: Mapping[str, Known], persistent: Callable[[Any], Any] | None = None) -> Any:  # noqa: ANN401 - whatever was saved
    """Read one pickle from a stream, up to its end.

    Parameters
    ----------
    stream : file-like
    known : mapping
        Name -> what it means.
    persistent : callable, optional
        (persistent id) -> value.

    Returns
    -------
    value : None, bool, int, float, str, bytes, tuple, list, Pairs, Record, Known or what the table's functions return

    Raises
    ------
    RefusedError
        If it asks for a name that is not known, or to call what cannot be called.
    PickleError
        If it is damaged, or beyond a bound.
    """
    machine = _Machine(known, persistent)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if number >= MAX_OPCODES:
                raise PickleError(f"it has more than {MAX_OPCODES} opcodes")
            machine.do(opcode.name, argument)
    except (ValueError, OverflowError) as error:  # from pickletools, which checks every argument
        raise PickleError(printable(error)) from error
    if len(machine.stack) != 1 or machine.marks:
        raise PickleError("it leaves more or less than one value")
    return machine.stack[0]


class _Machine:
    """The stack, its marks, and the memo."""

    def __init__(self, known: Mapping[str, Known], persistent: Callable[[Any], Any] | None) -> None:
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:  # noqa: ANN401 - as pickletools decodes it
        if name in PUSHED:
            self.stack.append(argument)
        elif (action := ACTIONS.get(name)) is not None:
            action(self, argument)
        elif name in ASKING:
            raise RefusedError(ASKING[name](argument))
        else:
            raise PickleError(f"it has the opcode {name}, which torch.save does not write")

    def pop(self) -> Any:  # noqa: ANN401 - whatever lies there
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:  # noqa: ANN401 - whatever lies there
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            raise PickleError("it takes values from a mark that was never set")
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def integer(self, argument: int) -> None:
        if argument.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise PickleError(f"it has an integer of {argument.bit_length()} bits")
        self.stack.append(argument)

    def constant(self, value: Any) -> None:  # noqa: ANN401 - any constant
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def items(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise PickleError(f"it appends to {_kind(target)}")
        target.extend(values)

    def pairs(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, Pairs):
            raise PickleError(f"it sets items of {_kind(target)}")
        target.extend(_paired(values))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.pairs([key, value])

    def look_up(self, name: str) -> None:
        if (found := self.known.get(name)) is None:
            raise RefusedError(name)
        self.stack.append(found)

    def named(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it asks for a name that is no text")
        self.look_up(f"{MODULES.get(module, module)}.{name}")

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError("it recalls what was never remembered")
        self.stack.append(self.memo[index])

    def reduce(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, Known):
            raise PickleError(f"it calls {_kind(target)}")
        if target.call is None:
            raise RefusedError(target.name)
        if type(arguments) is not tuple:
            raise PickleError(f"it calls {target.name} without a tuple of arguments")
        self.stack.append(target.call(arguments))

    def new_with_keywords(self) -> None:
        if self.pop():
            raise PickleError("it makes an object with named arguments")
        self.new()

    def new(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, Known):
            raise PickleError(f"it makes an object of {_kind(target)}")
        if not target.record:
            raise RefusedError(target.name)
        if arguments != ():
            raise PickleError(f"it makes an object of {target.name} with arguments")
        self.stack.append(Record(target.name))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Record):
            for part in state if type(state) is tuple and len(state) == 2 else (state,):  # attributes, slots
                if isinstance(part, Pairs):
                    target.states.append(part)  # not copied: one state may be set again and again
                elif part is not None:
                    raise PickleError(f"it sets the attributes of {target.name} to {_kind(part)}")
        elif isinstance(target, Known):
            raise RefusedError(target.name)
        elif not isinstance(target, Pairs):  # an OrderedDict's attributes, such as a state dict's versions, are no data
            raise PickleError(f"it sets the attributes of {_kind(target)}")

    def ask(self, identifier: Any) -> None:  # noqa: ANN401 - as it was saved
        if self.persistent is None:
            raise PickleError("it refers to what is not in it")
        self.stack.append(self.persistent(identifier))


def _paired(values: list[Any]) -> Pairs:
    if len(values) % 2:
        raise PickleError("it sets a key without a value")
    return Pairs(zip(values[::2], values[1::2], strict=True))


def _kind(value: object) -> str:
    return value.name if isinstance(value, Known | Record) else f"a {type(value).__name__}"


def _dotted(argument: str) -> str:
    module, _, name = argument.partition(" ")
    return f"{MODULES.get(module, module)}.{name}"


MODULES = {"__builtin__": "builtins"}
"""What Python 2, whose names protocol 2 keeps, called a module."""
PUSHED = frozenset(
    {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING",
     "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)  # fmt: skip
ASKING: dict[str, Callable[[Any], str]] = {
    "INST": _dotted,
    "EXT1": lambda code: f"the registered extension {code}",
    "EXT2": lambda code: f"the registered extension {code}",
    "EXT4": lambda code: f"the registered extension {code}",
    "OBJ": lambda _: "an object of an old class",
    "PERSID": lambda name: f"the object {printable(name)}",
}
"""Opcodes that ask for code and are never needed for data."""
ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "STOP": lambda *_: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop_marked() if m.marks and m.marks[-1] == len(m.stack) else m.pop(),
    "POP_MARK": lambda m, _: m.pop_marked(),
    "DUP": lambda m, _: m.constant(m.top()),
    "NONE": lambda m, _: m.constant(None),
    "NEWTRUE": lambda m, _: m.constant(value=True),
    "NEWFALSE": lambda m, _: m.constant(value=False),
    "LONG1": lambda m, n: m.integer(n),
    "LONG4": lambda m, n: m.integer(n),
    "EMPTY_LIST": lambda m, _: m.constant([]),
    "EMPTY_SET": lambda m, _: m.constant([]),
    "EMPTY_TUPLE": lambda m, _: m.constant(()),
    "EMPTY_DICT": lambda m, _: m.constant(Pairs()),
    "LIST": lambda m, _: m.constant(m.pop_marked()),
    "FROZENSET": lambda m, _: m.constant(m.pop_marked()),
    "DICT": lambda m, _: m.constant(_paired(m.pop_marked())),
    "TUPLE": lambda m, _: m.constant(tuple(m.pop_marked())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.items([m.pop()]),
    "APPENDS": lambda m, _: m.items(m.pop_marked()),
    "ADDITEMS": lambda m, _: m.items(m.pop_marked()),
    "SETITEM": lambda m, _: m.set_item(),
    "SETITEMS": lambda m, _: m.pairs(m.pop_marked()),
    "BINPUT": lambda m, index: m.remember(index),
    "LONG_BINPUT": lambda m, index: m.remember(index),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "BINGET": lambda m, index: m.recall(index),
    "LONG_BINGET": lambda m, index: m.recall(index),
    "GLOBAL": lambda m, name: m.look_up(_dotted(name)),
    "STACK_GLOBAL": lambda m, _: m.named(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.new(),
    "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.ask(m.pop()),
}
