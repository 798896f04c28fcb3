"""Files of every format that are cut, flipped, lie, change while they are read or lead nowhere: an error that says so, never a signal, a hang or
memory without bound."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from precalign.analysis.readers import inflate, open_dump
from precalign.analysis.readers.inflate import Marks
from precalign.analysis.readers.numpy_file import NumpyReader
from precalign.analysis.readers.ranges import RangedFile
from precalign.analysis.readers.zips import content as source_of
from precalign.analysis.readers.zips import members
from precalign.errors import InputError, PrecalignError

N_KV, TOKENS, DIM = 2, 6, 8
NAMES = [f"layers.{layer}.{role}" for layer in (0, 1) for role in ("keys", "values")]


def arrays(shape=(1, N_KV, TOKENS, DIM), dtype=np.float16, names=NAMES):
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype(dtype) for name in names}


def save_safetensors(path, held):
    save_file(held, path)


def save_folder(path, held):
    path.mkdir(exist_ok=True)
    for name, array in held.items():
        np.save(path / f"{name}.npy", array)


def save_npy(path, held):
    keys, values = ([array for name, array in held.items() if role in name] for role in ("keys", "values"))
    np.save(path, np.stack([np.stack(keys), np.stack(values)]))


def save_torch(**options):
    def save(path, held):
        torch = pytest.importorskip("torch", reason="needs torch, which writes such files")
        signed = {"V": np.int16, "f": None}
        tensors = {}
        for name, array in held.items():
            view = signed.get(array.dtype.kind)
            tensor = torch.from_numpy(array.copy() if view is None else array.view(view).copy())
            tensors[name] = tensor if view is None else tensor.view(torch.bfloat16)
        torch.save(tensors, path, **options)

    return save


WRITERS = {
    "d.safetensors": save_safetensors,
    "d.npz": lambda path, held: np.savez(path, **held),
    "packed.npz": lambda path, held: np.savez_compressed(path, **held),
    "d.npy": save_npy,
    "folder": save_folder,
    "d.pt": save_torch(),
    "old.pt": save_torch(_use_new_zipfile_serialization=False),
}
FILES = [name for name in WRITERS if name != "folder"]


def read_all(path):
    """Read every head; return the codes."""
    with open_dump(path) as dump:
        heads = [dump.read_head(layer, head) for layer in dump.layers for head in range(layer.n_kv_heads)]
        dump.check_unchanged()
    return [(head.keys.tobytes(), head.values.tobytes()) for head in heads]


def expected(held):
    return [
        (held[f"layers.{layer}.keys"][0, head].tobytes(), held[f"layers.{layer}.values"][0, head].tobytes())
        for layer in (0, 1)
        for head in range(held["layers.0.keys"].shape[1])
    ]


# --- what is whole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", [np.float16, bfloat16], ids=["binary16", "bfloat16"])
def test_every_code_survives(tmp_path, name, dtype):
    """NaN, infinities, subnormals, zeros of both signs: all 2^16 codes."""
    codes = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(1, 2, 256, 128)
    held = {tensor: np.roll(codes, i, axis=2) for i, tensor in enumerate(NAMES)}
    WRITERS[name](tmp_path / name, held)
    assert read_all(tmp_path / name) == expected(held)


@pytest.mark.parametrize("name", WRITERS)
def test_one_token(tmp_path, name):
    held = arrays((1, 1, 1, 1))
    WRITERS[name](tmp_path / name, held)
    assert read_all(tmp_path / name) == expected(held)


# --- cut, flipped, empty ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_beginning_of_a_file_is_never_taken_for_it(tmp_path, name):
    WRITERS[name](tmp_path / name, arrays())
    whole = (tmp_path / name).read_bytes()
    for length in {*range(0, len(whole), 41), *range(64), *range(len(whole) - 64, len(whole))}:
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            read_all(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.hint, caught.value


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flipped_bits_are_an_error_or_another_dump(tmp_path, name):
    """One, two and many bits, above all where headers lie: nothing but an error of ours may come of it."""
    WRITERS[name](tmp_path / name, arrays((1, 1, 2, 4), names=NAMES[:2]))
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(5)
    outcomes = set()
    for case in range(600):
        changed = bytearray(whole)
        for _ in range((1, 1, 2, 8)[case % 4]):
            changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        (tmp_path / name).write_bytes(changed)
        try:
            read_all(tmp_path / name)
            outcomes.add("read")
        except PrecalignError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def spliced(rng, whole):
    """A file with a piece of it moved, doubled or taken out, or a number in it made large."""
    begin, end = sorted(int(n) for n in rng.integers(0, len(whole), 2))
    kind = int(rng.integers(4))
    if kind == 0:
        return whole[:begin] + whole[end:]
    if kind == 1:
        return whole[:end] + whole[begin:]
    if kind == 2:
        return whole[end:] + whole[:begin]
    width = int(rng.choice([1, 2, 4, 8]))
    return whole[:begin] + b"\xff" * width + whole[begin + width :]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_moved_pieces_are_an_error_or_another_dump(tmp_path, name):
    WRITERS[name](tmp_path / name, arrays((1, 1, 2, 4), names=NAMES[:2]))
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(6)
    refused = 0
    for _ in range(300):
        (tmp_path / name).write_bytes(spliced(rng, whole))
        try:
            read_all(tmp_path / name)
        except PrecalignError:
            refused += 1
    assert refused > 200


# --- changing while it is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, name):
    """A mapped file would end the process by SIGBUS."""
    WRITERS[name](tmp_path / name, arrays((1, 2, 3000, 64)))
    files = sorted((tmp_path / name).iterdir()) if name == "folder" else [tmp_path / name]
    with open_dump(tmp_path / name) as dump:
        dump.read_head(dump.layers[0], 0)
        for file in files:
            os.truncate(file, 100)
        with pytest.raises(InputError, match="has become shorter while it was read") as caught:
            dump.read_head(dump.layers[1], 1)
        assert files[0].name in str(caught.value) or name == "folder"
        with pytest.raises(InputError, match="changed while it was read"):
            dump.check_unchanged()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_replaced_while_it_is_read_is_told(tmp_path, name):
    held = arrays()
    WRITERS[name](tmp_path / name, held)
    other = tmp_path / f"other-{name}"
    WRITERS[name](other, arrays((1, 2, 9, 4)))
    with open_dump(tmp_path / name) as dump:
        if name == "folder":
            for file in other.iterdir():
                file.replace(tmp_path / name / file.name)
        else:
            other.replace(tmp_path / name)
        # What was opened is read on: it is one dump to the end.
        assert dump.read_head(dump.layers[1], 1).keys.tobytes() == held["layers.1.keys"][0, 1].tobytes()
        with pytest.raises(InputError, match="changed while it was read"):
            dump.check_unchanged()


# --- archives --------------------------------------------------------------------------------------------------------------


def npy_bytes(array):
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def archive(path, *pairs, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as held:
        for name, content in pairs:
            held.writestr(name, content)
    return path


ONE = npy_bytes(np.zeros((1, 1, 2, 2), np.float16))
PAIR = (("layers.0.keys.npy", ONE), ("layers.0.values.npy", ONE))
ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"


def patched(path, signature, offset, kind, value):
    """Change a field of the first record with that signature."""
    held = bytearray(path.read_bytes())
    struct.pack_into(kind, held, held.index(signature) + offset, value)
    path.write_bytes(held)
    return path


@pytest.mark.parametrize(
    ("signature", "offset", "kind", "value", "word"),
    [
        (ENTRY, 20, "<L", 1 << 30, "ends beyond the file"),
        (ENTRY, 24, "<L", 1 << 30, "is stored in"),
        (ENTRY, 24, "<L", 0xFFFFFFFF, "lacks the sizes of zip64"),
        (ENTRY, 42, "<L", 7, "does not begin where the archive says"),
        (ENTRY, 42, "<L", 1 << 31, "ends beyond the file"),
        (ENTRY, 28, "<H", 0xFFFF, "cut short"),
        (ENTRY, 30, "<H", 0xFFF0, "cut short"),
        (ENTRY, 8, "<H", 1, "is encrypted"),
        (ENTRY, 10, "<H", 12, "packed by method 12"),
        (ENTRY, 0, "<L", 0, "something else than members"),
        (END, 8, "<2H", None, "several parts"),
        (END, 10, "<H", 3, "several parts"),
        (END, 12, "<L", 1 << 30, "does not lie before its end"),
        (END, 16, "<L", 1 << 30, "does not lie before its end"),
        (END, 16, "<L", 1, "something else than members"),
        (END, 16, "<L", 0xFFFFFFFF, "zip64 locator is missing"),
        (END, 20, "<H", 1, "the end of its directory is missing"),
    ],
)
def test_directories_that_lie(tmp_path, signature, offset, kind, value, word):
    path = archive(tmp_path / "d.npz", *PAIR)
    read_all(path)
    if value is None:
        kind, value = "<H", 1
    with pytest.raises(InputError, match=word):
        read_all(patched(path, signature, offset, kind, value))


def test_a_directory_with_another_count(tmp_path):
    path = archive(tmp_path / "d.npz", *PAIR)
    for count in (1, 3):
        held = bytearray(path.read_bytes())
        struct.pack_into("<2H", held, held.index(END) + 8, count, count)
        path.write_bytes(held)
        with pytest.raises(InputError, match=f"claims {count} members and lists 2"):
            read_all(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_stand_twice_or_outside(tmp_path):
    with pytest.raises(InputError, match=r"layers.0.keys.npy stands twice"):
        read_all(archive(tmp_path / "d.npz", *PAIR, PAIR[0]))
    with pytest.raises(InputError, match=r"layers.0.keys stands twice"):
        read_all(archive(tmp_path / "d.npz", *PAIR, ("layers.0.keys", ONE)))
    for name in ("../x.npy", "/etc/x.npy", "a/../../x.npy", "..\\x.npy", "a/..", "\\x.npy"):
        with pytest.raises(InputError, match="points outside the archive"):
            read_all(archive(tmp_path / "d.npz", *PAIR, (name, ONE)))
        with pytest.raises(InputError, match="points outside the archive"):
            read_all(archive(tmp_path / "d.pt", ("d/data.pkl", b"N."), (name, ONE)))


def test_large_archives_are_zip64(tmp_path):
    """More than 65,535 members need the fields of zip64, as sizes above 4 GiB do."""
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as held:
        for name, content in PAIR:
            held.writestr(name, content)
        for i in range(0x10000):
            held.writestr(f"x{i}", b"")
    with closing(RangedFile(path)) as file:
        assert len(members(file)) == 0x10002


def test_a_sparse_archive_of_five_gigabytes(tmp_path):
    """Sizes and offsets above 4 GiB, in a file that takes no room."""
    path = tmp_path / "d.npz"
    shape = (1, 2, 1 << 24, 80)  # 5.4 GB
    text = str({"descr": "<f2", "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    size = len(header) + 2 * int(np.prod(shape))
    extra = struct.pack("<2H2Q", 1, 16, size, size)
    with path.open("wb") as file:
        entries = b""
        for name in (b"layers.0.keys", b"layers.0.values"):
            begin = file.tell()
            local = struct.pack(
                "<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra)
            )
            file.write(local + name + extra + header)
            file.seek(begin + len(local) + len(name) + len(extra) + size - 160)
            file.write(bytes(range(160)))  # the last token
            wide = struct.pack("<2H3Q", 1, 24, size, size, begin)
            fields = (45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(wide), 0, 0, 0, 0, 0xFFFFFFFF)
            entries += struct.pack("<4s6H3L5H2L", ENTRY, *fields) + name + wide
        at = file.tell()
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(entries), at)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at + len(entries), 1)
        file.write(
            entries + end64 + locator + struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        )
    with open_dump(path) as dump:
        (layer,) = dump.layers
        assert layer.seq_len == 1 << 24
        tensor = dump._tensors[0]["values"].codes()
        last = np.asarray(tensor[0, 1, (1 << 24) - 1 : 1 << 24])
    assert last.tobytes() == bytes(range(160))


# --- compressed members ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 9])
def test_ranges_of_a_compressed_member_are_those_of_its_bytes(tmp_path, monkeypatch, level):
    """In any order and size, with marks that come and go."""
    monkeypatch.setattr(inflate, "UNPACKED_PIECE_BYTES", 1000)
    monkeypatch.setattr(inflate, "PACKED_PIECE_BYTES", 300)
    monkeypatch.setattr(inflate, "MAX_MARKS", 5)
    rng = np.random.default_rng(4)
    content = (rng.integers(0, 256, 30_000) * (np.arange(30_000) % 3000 < 2000)).astype(np.uint8).tobytes()
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=level) as held:
        held.writestr("a", content)
        held.writestr("b", content[::-1])
    marks = Marks()
    with closing(RangedFile(tmp_path / "d.zip")) as file:
        found = {member.name: member for member in members(file)}
        sources = {name: source_of(file, member, marks)[0] for name, member in found.items()}
        for _ in range(300):
            name = rng.choice(["a", "b"])
            start, length = int(rng.integers(30_000)), int(rng.integers(4000))
            whole = content if name == "a" else content[::-1]
            assert sources[name].read(start, length) == whole[start : start + length]
        assert len(marks._held) <= 5


def bomb(path, claimed=None, zeros=1 << 20):
    """A member that unpacks to `zeros` bytes, a thousandth of it in the file."""
    shape = (1, 1, zeros // 128, 64)
    text = str({"descr": "<f2", "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    for _ in range(zeros >> 20):
        packed += packer.compress(bytes(1 << 20))
    packed += packer.flush()
    size = zeros + 128 if claimed is None else claimed
    with path.open("wb") as file:
        entries = b""
        for name in (b"layers.0.keys", b"layers.0.values"):
            begin = file.tell()
            file.write(
                struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0)
                + name
                + packed
            )
            fields = (20, 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0, 0, 0, 0, 0, begin)
            entries += struct.pack("<4s6H3L5H2L", ENTRY, *fields) + name
        at = file.tell()
        file.write(entries + struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(entries), at, 0))
    return path


LIMITED = """
import resource, sys
from precalign.analysis.readers import open_dump
import numpy as np
from precalign.errors import PrecalignError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]), -1))
try:
    with open_dump(sys.argv[1]) as dump:
        layer = dump.layers[0]
        tensor = dump._tensors[0]["keys"].codes()
        print(layer.seq_len, int(np.asarray(tensor[0, 0, layer.seq_len - 10 : layer.seq_len]).sum()))
except PrecalignError as error:
    print(type(error).__name__, error)
"""


def limited(path, allowed):
    """Open a dump and read its last ten tokens in a process that may take so much more memory; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(allowed)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_zip_bomb_is_unpacked_in_bounded_memory(tmp_path):
    assert limited(bomb(tmp_path / "d.npz", zeros=1 << 28), 64 << 20) == f"{(1 << 28) // 128} 0\n"


def test_a_zip_bomb_that_lies_is_refused(tmp_path):
    path = bomb(tmp_path / "d.npz", claimed=(1 << 32) - 2, zeros=1 << 20)
    with pytest.raises(InputError, match=r"more than \d+ can unpack to"):
        open_dump(path)
    path = bomb(tmp_path / "d.npz", claimed=(1 << 20) + 100, zeros=1 << 20)
    with pytest.raises(InputError, match="needs 1048576 bytes"):
        open_dump(path)
    small = bomb(tmp_path / "d.npz", zeros=1 << 20).read_bytes()
    path.write_bytes(
        small[: small.index(ENTRY)]
        + small[small.index(ENTRY) :].replace(struct.pack("<L", (1 << 20) + 128), struct.pack("<L", (1 << 20) + 300))
    )
    assert read_all(path)


# --- sizes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.safetensors", "d.npy"])
def test_a_million_tokens(tmp_path, name):
    """One head of a million tokens in a file that takes no room: opened within 64 MiB."""
    tokens, dim = 1_000_000, 8
    size = 2 * tokens * dim
    path = tmp_path / name
    if name == "d.npy":
        text = (
            str({"descr": "<f2", "fortran_order": False, "shape": (2, 1, 1, 1, tokens, dim)}).ljust(117).encode()
            + b"\n"
        )
        header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    else:
        entry = '"layers.0.%s":{"dtype":"F16","shape":[1,1,%d,%d],"data_offsets":[%d,%d]}'
        text = (
            "{"
            + ",".join(
                entry % (role, tokens, dim, i * size, (i + 1) * size) for i, role in enumerate(("keys", "values"))
            )
            + "}"
        )
        header = struct.pack("<Q", len(text)) + text.encode()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * size)
    assert limited(path, 64 << 20) == "1000000 0\n"
    with open_dump(path) as dump:
        head = dump.read_head(dump.layers[0], 0)
    assert head.keys.shape == (tokens, dim)
    assert not head.values.any()


def sparse(path, size, begin=b"", end=b""):
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(size - len(end))
        file.seek(size - len(end))
        file.write(end)
    return path


LARGE = 8 << 30
HOSTILE = {
    "zeros.safetensors": (b"", b"", "not a table|header"),
    "header.safetensors": (struct.pack("<Q", 100_000_000), b"", "not JSON"),
    "values.safetensors": (
        lambda: struct.pack("<Q", 99_000_001) + b"[" + b"[]," * 33_000_000,
        b"",
        "more than 4194304 values",
    ),
    "array.npy": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", b"", "claims a header"),
    "directory.npz": (b"PK\x03\x04", struct.pack("<4s4H2LH", END, 0, 0, 9, 9, 0xFFFFFF00, 16, 0), "are read"),
    "directory.pt": (b"PK\x03\x04", struct.pack("<4s4H2LH", END, 0, 0, 9, 9, 0xFFFFFF00, 16, 0), "are read"),
    "text.pt": (b"\x80\x02X\xff\xff\xff\x7f", b"", "not a PyTorch file"),
    "bytes.pt": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40), b"", "not a PyTorch file"),
    "line.pt": (b"cos", b"", "not a PyTorch file"),
    "marks.pt": (b"\x80\x02" + b"(" * 500_000, b"", "not a PyTorch file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_of_eight_gigabytes_takes_no_memory(tmp_path, name):
    """Opening takes 256 MiB at most whatever a file claims (a header of 100 MB is text, and an error about it)."""
    begin, end, word = HOSTILE[name]
    path = sparse(tmp_path / name, LARGE, begin() if callable(begin) else begin, end)
    told = limited(path, 256 << 20)
    assert told.startswith("InputError"), told
    assert any(part in told for part in word.split("|")), told


@pytest.mark.parametrize(
    "shape",
    [
        (1 << 40, 0, 1, 1, 1),
        (2, 1 << 40, 0, 1, 1, 1),
        (1 << 40, 1, 0, 4),
        (2, 20_000, 1, 1, 1, 1),
        (1,) * 65,
        (2, 1 << 63, 0, 1),
    ],
)
def test_shapes_that_are_empty_and_endless(tmp_path, shape):
    """A size of 0 makes a claim of 2^40 layers cost nothing in the file; it must cost nothing in memory either."""
    path = tmp_path / "keys.npy"
    text = (str({"descr": "<f2", "fortran_order": False, "shape": shape}) + "\n").encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(80_000))
    path.with_name("values.npy").write_bytes(path.read_bytes())
    for place in (path, tmp_path):
        with pytest.raises(InputError):
            open_dump(place)


# --- headers of arrays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_version_and_order_of_numpy(tmp_path, version, order):
    held = np.asarray(np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float16), order=order)
    with (tmp_path / "d.npy").open("wb") as file:
        np.lib.format.write_array(file, held, version=version)
    opened = NumpyReader().open(tmp_path / "d.npy")
    assert np.array_equal(np.asarray(opened.tensors["values"].codes()), held[1].view(np.uint16))
    opened.close()


@pytest.mark.parametrize("dtype", ["f8", ">f2", "i4", "?", "c8", "S3", "U2", "M8[ns]", "m8[3s]", "f2,i4"])
def test_other_arrays_may_lie_beside_tensors(tmp_path, dtype):
    held = arrays(names=NAMES)
    np.savez(tmp_path / "d.npz", other=np.zeros(3, dtype), **held)
    assert read_all(tmp_path / "d.npz") == expected(held)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"{}", b"1" * 9000, b"(" * 9000, b"[" * 9000, b"-" * 9000, b"{'descr':1}", b"__import__('os').system('true')", b"\xff\xfe",
        b"{'descr':'<f2','fortran_order':False,'shape':(1,True)}",
        b"{'descr':'<f2','fortran_order':0,'shape':(1,)}",
        b"{'descr':'<f2','fortran_order':False,'shape':[1]}",
        b"{'descr':'<f2','fortran_order':False,'shape':(1e3,)}",
        b"{'descr':'<f3','fortran_order':False,'shape':(1,)}",
        b"{'descr':'<M8[','fortran_order':False,'shape':(1,)}",
        b"{'descr':'<M8[0s]','fortran_order':False,'shape':(1,)}",
        b"{'descr':'<U999999999','fortran_order':False,'shape':(1,)}",
        b"{'descr':'f2,f2','fortran_order':False,'shape':(1,)}",
        b"{'descr':None,'fortran_order':False,'shape':(1,)}",
        b"{'descr':'<f2','fortran_order':False,'shape':(" + b"9" * 5000 + b",)}",
        b"{'descr':'<f2','fortran_order':False,'shape':(1,),'x':1}",
        b"{'descr':'<f2','fortran_order':False,'shape':(1,)}" + b" " * 9900,
    ],
)  # fmt: skip
def test_headers_of_arrays_that_are_none(tmp_path, header):
    for version, kind in ((b"\x01\x00", "<H"), (b"\x02\x00", "<I"), (b"\x03\x00", "<I")):
        (tmp_path / "d.npy").write_bytes(b"\x93NUMPY" + version + struct.pack(kind, len(header)) + header + bytes(100))
        with pytest.raises(InputError, match=r"d\.npy"):
            open_dump(tmp_path / "d.npy")


# --- places ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy", ".pt", ""])
def test_links_in_a_circle_end(tmp_path, suffix):
    (tmp_path / f"a{suffix}").symlink_to(tmp_path / f"b{suffix}")
    (tmp_path / f"b{suffix}").symlink_to(tmp_path / f"a{suffix}")
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        open_dump(tmp_path / f"a{suffix}")


def test_links_in_a_folder_of_arrays(tmp_path):
    held = arrays(names=NAMES)
    save_folder(tmp_path / "d", held)
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d")
    assert read_all(tmp_path / "d") == expected(held)
    (tmp_path / "d" / "x.npy").symlink_to(tmp_path / "d" / "x.npy")
    with pytest.raises(InputError, match=r"x\.npy: cannot be read: Too many levels of symbolic links"):
        open_dump(tmp_path / "d")
    (tmp_path / "d" / "x.npy").unlink()
    (tmp_path / "d" / "x.npy").symlink_to(tmp_path / "d")
    with pytest.raises(InputError, match=r"x\.npy: not a regular file"):
        open_dump(tmp_path / "d")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy", ".pt"])
def test_pipes_and_folders_do_not_wait(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(InputError, match="not a regular file"):
        open_dump(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match=r"a folder without \.npy files|not a regular file"):
        open_dump(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(InputError, match="cannot be read"):
        open_dump(name)


EVIL = "\x1b[2J\x1b]0;owned\x07\nlayers\r\u202e.keys"


@pytest.mark.parametrize("name", ["d.safetensors", "d.npz", "packed.npz", "d.pt", "old.pt", "folder"])
def test_names_are_never_printed_raw(tmp_path, name):
    """Of tensors, and of the file itself: no control character, no escape, no line of its own."""
    place = tmp_path / ("evil\x1b[2J\n" + name)
    WRITERS[name](place, {EVIL.replace("/", ""): np.zeros((1, 1, 2, 2), np.float16)})
    with pytest.raises(InputError) as caught:
        open_dump(place)
    assert all(c.isprintable() or c == "\n" for c in caught.value.message), caught.value.message
    assert "\n" not in caught.value.message.replace("\n  ", "")
    with (
        place.with_name("evil\x1b[2J" + name).open("wb")
        if name != "folder"
        else place.joinpath("x.npy").open("wb") as file
    ):
        file.write(b"PK\x03\x04")
    with pytest.raises(InputError) as caught:
        open_dump(place.with_name("evil\x1b[2J" + name) if name != "folder" else place)
    assert caught.value.message.isprintable(), caught.value.message


def test_files_are_closed_when_opening_fails(tmp_path):
    """Thousands of bad dumps in a row must not use up the file handles."""
    save_folder(tmp_path / "d", arrays())
    (tmp_path / "d" / "z.npy").write_bytes(b"none")
    (tmp_path / "x.pt").write_bytes(b"none")
    (tmp_path / "x.npz").write_bytes(b"none")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "d", tmp_path / "x.pt", tmp_path / "x.npz"):
        with pytest.raises(InputError):
            open_dump(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
