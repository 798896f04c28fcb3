"""Pickles are data: whatever they ask for, nothing is called, and nothing they hold can take more than the bounds allow."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalign.analysis.readers import open_dump, pickled
from precalign.analysis.readers.pickled import Known, Pairs, PickleError, Record, RefusedError, unpickle
from precalign.analysis.readers.torch_file import TorchReader
from precalign.analysis.readers.torch_objects import KNOWN
from precalign.errors import InputError

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def zipped(path, content):
    """An archive as torch.save writes it, with a pickle of ours."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d/data.pkl", content)
        archive.writestr("d/byteorder", b"little")
        archive.writestr("d/data/0", bytes(64))
    return path


def text(value):
    held = value.encode()
    return b"X" + struct.pack("<I", len(held)) + held


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


# --- what a pickle means ---------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=300).filter(bytes.isascii),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


def back(value):
    """What `unpickle` returns as Python's own containers."""
    if isinstance(value, Pairs):
        return {key: back(item) for key, item in value}
    if isinstance(value, list | tuple):
        return type(value)(back(item) for item in value)
    return value


@settings(max_examples=200)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_are_those_of_pickle(value, protocol):
    saved = pickle.dumps(value, protocol)
    assert repr(back(unpickle(io.BytesIO(saved), KNOWN))) == repr(pickle.loads(saved))


def test_shared_and_cyclic_values_stay_shared():
    inner = [1]
    outer = [inner, inner]
    outer.append(outer)
    got = unpickle(io.BytesIO(pickle.dumps(outer, 2)), {})
    assert got[0] is got[1]
    assert got[2] is got


def test_objects_become_records():
    known = {"m.C": Known("m.C", record=True)}
    content = b"\x80\x02" + name("m", "C") + b")\x81}" + text("a") + b"K\x05sb."
    assert unpickle(io.BytesIO(content), known) == Record("m.C", [Pairs([("a", 5)])])


# --- what it must not do ---------------------------------------------------------------------------------------------------


def calls(module, attribute, argument):
    """Every way in which a pickle can ask for a call, by the opcode that does it."""
    made, named = name(module, attribute), stack_name(module, attribute)
    one = text(argument) + b"\x85"
    return {
        "GLOBAL and REDUCE": b"\x80\x02" + made + one + b"R.",
        "STACK_GLOBAL and REDUCE": b"\x80\x04" + named + one + b"R.",
        "INST": b"(" + text(argument) + b"i" + made[1:] + b".",
        "OBJ": b"(" + made + text(argument) + b"o.",
        "NEWOBJ": b"\x80\x02" + made + one + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04" + named + one + b"}\x92.",
        "BUILD": b"\x80\x02" + made + one + b"b.",
        "GLOBAL as a persistent id": b"\x80\x02" + text("storage") + made + b"\x86Q.",
        "GLOBAL as a key": b"\x80\x02}" + made + b"K\x01s.",
        "a memo of it": b"\x80\x02" + made + b"q\x000h\x00" + one + b"R.",
    }


FUNCTIONS = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "exec"),
    ("subprocess", "Popen"),
]
FUNCTIONS += [
    ("torch.hub", "load"),
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("runpy", "_run_code"),
    ("io", "open"),
]


@pytest.mark.parametrize("way", calls("a", "b", "c"))
@pytest.mark.parametrize(("module", "attribute"), FUNCTIONS, ids=".".join)
def test_code_is_refused_by_name_and_never_run(tmp_path, way, module, attribute):
    canary = tmp_path / "code-was-run"
    argument = str(canary) if attribute == "open" else f"open({str(canary)!r}, 'w')"
    if attribute in {"system", "Popen"}:
        argument = f"touch {canary}"
    content = calls(module, attribute, argument)[way]
    shown = f"asks for {module.replace('__builtin__', 'builtins')}.{attribute}, and loading it could run code"
    for path in (zipped(tmp_path / "d.pt", content), tmp_path / "old.pt", tmp_path / "bare.pt"):
        if path.name == "old.pt":
            path.write_bytes(MAGIC + content)
        elif path.name == "bare.pt":
            path.write_bytes(content)
        with pytest.raises(InputError, match="refused: the pickle") as caught:
            open_dump(path)
        assert shown in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "error", "word"),
    [
        (b"\x82\x01.", RefusedError, "extension 1"),
        (b"\x83\x01\x02.", RefusedError, "extension 513"),
        (b"\x84\x01\x02\x03\x00.", RefusedError, "extension 197121"),
        (b"Pos.system\n.", RefusedError, "the object os.system"),
        (b"\x80\x02" + name("torch", "float16") + b")R.", RefusedError, "torch.float16"),
        (b"\x80\x02" + name("torch", "float16") + b")\x81.", RefusedError, "torch.float16"),
        (b"\x80\x02" + name("torch", "float16") + b"}b.", RefusedError, "torch.float16"),
        (
            b"\x80\x02" + name("transformers.cache_utils", "DynamicCache") + b"K\x01\x85\x81.",
            PickleError,
            "with arguments",
        ),
        (b"\x80\x02" + name("transformers.cache_utils", "DynamicCache") + b")R.", RefusedError, "DynamicCache"),
        (b"\x80\x02" + name("transformers.cache_utils", "DynamicCache") + b")\x81K\x01b.", PickleError, "attributes"),
        (b"\x80\x02]" + name("os\nsystem", "x") + b".", RefusedError, "os.system"),
        (b"\x80\x04K\x01K\x02\x93.", PickleError, "no text"),
        (b"\x80\x02K\x01)R.", PickleError, "it calls a int"),
        (b"\x80\x02K\x01)\x81.", PickleError, "object of a int"),
        (b"\x80\x02K\x01}b.", PickleError, "attributes of a int"),
        (b"\x80\x02K\x01Q.", PickleError, "not in it"),
        (b"\x80\x05\x97.", PickleError, "NEXT_BUFFER"),
        (b"\x80\x02.", PickleError, "more or less than one value"),
        (b"\x80\x020.", PickleError, "empty stack"),
        (b"\x80\x02t.", PickleError, "never set"),
        (b"\x80\x02(.", PickleError, "more or less than one value"),
        (b"\x80\x02h\x05.", PickleError, "never remembered"),
        (b"\x80\x02K\x01K\x02.", PickleError, "more or less than one value"),
        (b"\x80\x02K\x01a.", PickleError, "empty stack"),
        (b"\x80\x02K\x01K\x02a.", PickleError, "appends to a int"),
        (b"\x80\x02]K\x01K\x02s.", PickleError, "sets items of a list"),
        (b"\x80\x02}(K\x01u.", PickleError, "without a value"),
        (b"\x80\x02(]K\x01(", PickleError, None),
        (b"\x80\x02\x8b" + struct.pack("<i", 300) + bytes(299) + b"\x01.", PickleError, "bits"),
        (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"\x01.", PickleError, None),
        (b"\x80\x02X\xff\xff\xff\xff.", PickleError, None),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", PickleError, None),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", PickleError, None),
        (b"I" + b"9" * 5000 + b"\n.", PickleError, None),
        (b"", PickleError, None),
        (b"\xff", PickleError, None),
    ],
)
def test_what_is_no_data_ends_the_reading(content, error, word):
    with pytest.raises(error, match=word):
        unpickle(io.BytesIO(content), KNOWN)


def bomb_of_memos(make):
    """Ten containers, each of 1000 references to the one before: 10^30 values."""
    held = b"\x80\x02K\x01"
    for level in range(10):
        held += b"q" + bytes([level]) + b"0" + make(level, b"h" + bytes([level]))
    return held + b"."


BOMBS = {
    "lists": bomb_of_memos(lambda _, ref: b"](" + ref * 1000 + b"e"),
    "tuples": bomb_of_memos(lambda _, ref: b"(" + ref * 1000 + b"t"),
    "dictionaries": bomb_of_memos(lambda _, ref: b"}(" + b"".join(text(f"k{i}") + ref for i in range(1000)) + b"u"),
    "tuples as keys": b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(100)) + b"q\x01}h\x01K\x01s.",
    "a list of itself": b"\x80\x02]q\x00(" + b"h\x00" * 1000 + b"e.",
    "a dictionary of itself": b"\x80\x02}q\x00(" + b"".join(text(f"k{i}") + b"h\x00" for i in range(1000)) + b"u.",
    "depth": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "long names": b"\x80\x02" + b"}" + text("x" * 100_000) + b"}" + text("y") + b"K\x01ss.",
    "names that add up": b"\x80\x02}" + (text("x" * 200) + b"}") * 8 + text("y") + b"K\x01s" + b"s" * 8 + b".",
    "equal hashes": b"\x80\x02}("
    + b"".join(b"\x8a\x0c" + (i * ((1 << 61) - 1)).to_bytes(12, "little") + b"N" for i in range(50_000))
    + b"u.",
    "one state set again": b"\x80\x02"
    + name("transformers.cache_utils", "DynamicCache")
    + b")\x81q\x00}("
    + b"".join(text(f"k{i}") + b"]" for i in range(5000))
    + b"uq\x010"
    + b"h\x00h\x01b0" * 50_000
    + b"h\x00.",
    "one list wrapped again": b"\x80\x02]("
    + b"K\x01" * 50_000
    + b"eq\x00"
    + name("torch", "Size")
    + b"q\x01"
    + b"h\x01h\x00\x85R0" * 50_000
    + b"0.",
    "one text encoded again": b"\x80\x02"
    + text("x" * 1000)
    + b"q\x000"
    + name("_codecs", "encode")
    + b"q\x010("
    + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 20_000
    + b"l.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_pickles_stay_small(tmp_path, bomb):
    """However it refers to itself, a pickle of less than 2 MB is read or refused in seconds and a bounded memory."""
    content = BOMBS[bomb]
    path = zipped(tmp_path / "d.pt", content)
    assert path.stat().st_size < 2 << 20
    tracemalloc.start()
    begin = time.process_time()
    with contextlib.suppress(InputError):
        TorchReader().open(path).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20, f"{peak} bytes"
    assert time.process_time() - begin < 60  # tracing makes it some ten times slower


def test_the_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_OPCODES", 100)
    assert unpickle(io.BytesIO(b"\x80\x02](" + b"N" * 95 + b"e."), {}) == [None] * 95
    with pytest.raises(PickleError, match="more than 100 opcodes"):
        unpickle(io.BytesIO(b"\x80\x02](" + b"N" * 96 + b"e."), {})


# --- tensors that lie ------------------------------------------------------------------------------------------------------


def tensor(offset=0, shape=(1, 1, 4, 8), strides=(32, 32, 8, 1), count=32, kind="HalfStorage"):
    """A pickle of {"layers.0.keys": tensor}: the storage has 64 bytes."""

    def number(value):
        held = value.to_bytes(20, "little", signed=True)
        return b"\x8a" + bytes([len(held)]) + held

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + number(count) + b"tQ"
    arguments = (
        b"("
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89"
        + name("collections", "OrderedDict")
        + b")Rt"
    )
    return b"\x80\x02}" + text("layers.0.keys") + name("torch._utils", "_rebuild_tensor_v2") + arguments + b"Rs."


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        ({"offset": 1}, "ends at byte 66"),
        ({"offset": -1}, "do not belong together"),
        ({"offset": HUGE}, "ends at byte"),
        ({"offset": 1 << 100}, "do not belong together"),
        ({"shape": (1, 1, 5, 8)}, "ends at byte 80"),
        ({"shape": (HUGE, 1, 4, 8)}, "ends at byte"),
        ({"shape": (1, 1, -4, 8)}, "shape is no tuple of counts"),
        ({"shape": (1, 1, 4, 1 << 90)}, "shape is no tuple of counts"),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "shape is no tuple of counts"),
        ({"strides": (32, 32, -8, 1)}, "strides is no tuple of counts"),
        ({"strides": (32, 32, 9, 1)}, "ends at byte 70"),
        ({"strides": (32, 32, 8)}, "do not belong together"),
        ({"count": 33}, "claims 66 bytes and has 64"),
        ({"count": 16}, "has 32"),
        ({"count": HUGE}, "claims"),
        ({"count": -1}, "no count of elements"),
        ({"kind": "DoubleStorage"}, "claims 256 bytes and has 64"),
        ({"kind": "float16"}, "no known type"),
    ],
)
def test_tensors_that_do_not_lie_in_their_storage(tmp_path, lie, word):
    zipped(tmp_path / "good.pt", tensor())
    TorchReader().open(tmp_path / "good.pt").close()
    with pytest.raises(InputError, match=word):
        open_dump(zipped(tmp_path / "d.pt", tensor(**lie)))


def test_an_expanded_tensor_is_not_made_whole(tmp_path):
    """Strides of 0 let 64 bytes claim 2^40 elements; they are never allocated."""
    pair = tensor(shape=(1, 1, HUGE, 1), strides=(0, 0, 0, 0))
    content = pair[:-1] + text("layers.0.values") + pair[pair.index(b"ctorch._utils") : -1] + b"."
    with open_dump(zipped(tmp_path / "d.pt", content)) as dump:
        assert dump.layers[0].seq_len == HUGE
        with pytest.raises(InputError, match="makes 2199023255552 bytes of 2 that are stored"):
            dump.read_head(dump.layers[0], 0)


# --- the old form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps(5, 2), "does not begin as torch.save begins"),
        (MAGIC.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)), "does not begin as torch.save begins"),
        (MAGIC.replace(b"\x88", b"\x89") + pickle.dumps([], 2), "little-endian"),
        (MAGIC + pickle.dumps([], 2), "not a PyTorch file"),
        (MAGIC + pickle.dumps([], 2) + pickle.dumps(["1"], 2), "does not list its storages"),
        (MAGIC + pickle.dumps([], 2) + pickle.dumps(3, 2), "does not list its storages"),
    ],
)
def test_old_files_that_lie(tmp_path, content, word):
    (tmp_path / "d.pt").write_bytes(content)
    with pytest.raises(InputError, match=word):
        TorchReader().open(tmp_path / "d.pt")
