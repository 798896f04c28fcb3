"""Every format, every naming convention, and every way a file can be wrong, with the message that the user sees."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from precalign.analysis.readers import open_dump, parse_mapping, printable
from precalign.analysis.readers.conversion import to_storage
from precalign.analysis.readers.names import NAMINGS
from precalign.errors import InputError, UsageError
from precalign.formats import BFLOAT16, BINARY16

N_Q, N_KV, TOKENS, DIM = 4, 2, 5, 8


def tensors(layers=(0, 1), dtype=np.float16, queries=True):
    rng = np.random.default_rng(1)
    roles = {"keys": N_KV, "values": N_KV} | ({"queries": N_Q} if queries else {})
    return {
        f"layers.{i}.{role}": rng.standard_normal((1, n, TOKENS, DIM)).astype(dtype)
        for i in layers
        for role, n in roles.items()
    }


def check(dump, expected, layer=1, kv_head=1):
    """Codes of one head equal the array that was saved."""
    info = next(found for found in dump.layers if found.index == layer)
    head = dump.read_head(info, kv_head)
    keys = expected[f"layers.{layer}.keys"][0, kv_head]
    assert (head.keys == keys.view(np.uint16)).all()
    assert (head.values == expected[f"layers.{layer}.values"][0, kv_head].view(np.uint16)).all()
    assert (head.queries == expected[f"layers.{layer}.queries"][0, 2 * kv_head : 2 * kv_head + 2].view(np.uint16)).all()


def read_all(path, **options):
    with open_dump(path, **options) as dump:
        for layer in dump.layers:
            dump.read_head(layer, 0)


def fails(path, *words, error=InputError, **options):
    with pytest.raises(error) as caught:
        read_all(path, **options)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert caught.value.hint, f"no hint: {text}"


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_safetensors(tmp_path, dtype):
    saved = tensors(dtype=dtype)
    save_file(saved, tmp_path / "d.safetensors", {"scale": "0.25"})
    with open_dump(tmp_path / "d.safetensors") as dump:
        assert dump.reader == "safetensors"
        assert [layer.index for layer in dump.layers] == [0, 1]
        assert dump.layers[0].group == 2
        assert dump.layers[0].stored_bytes == 2 * TOKENS * DIM * (N_Q + 2 * N_KV)
        assert dump.scale == (0.25, "the dump's metadata")
        check(dump, saved)


def test_sharded_safetensors(tmp_path):
    saved = tensors()
    parts = {"a.safetensors": "layers.0", "b.safetensors": "layers.1"}
    for name, prefix in parts.items():
        save_file({k: v for k, v in saved.items() if k.startswith(prefix)}, tmp_path / name)
    weights = {k: next(name for name, prefix in parts.items() if k.startswith(prefix)) for k in saved}
    index = tmp_path / "d.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}))
    with open_dump(index) as dump:
        check(dump, saved)
    (tmp_path / "b.safetensors").unlink()
    fails(index, "shard b.safetensors is missing")
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    fails(index, "is not a file beside the index")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    saved = tensors()
    save(tmp_path / "d.npz", **saved)
    with open_dump(tmp_path / "d.npz") as dump:
        check(dump, saved)


def test_npz_of_bfloat16(tmp_path):
    saved = tensors(dtype=bfloat16)
    np.savez(tmp_path / "d.npz", **saved)
    with open_dump(tmp_path / "d.npz") as dump:
        assert dump.layers[0].format == BFLOAT16
        check(dump, saved)


def test_npy_of_keys_and_values(tmp_path):
    array = (
        np.random.default_rng(2).standard_normal((2, 3, N_KV, TOKENS, DIM)).astype(np.float16)
    )  # roles, layers, heads, ...
    np.save(tmp_path / "d.npy", array[:, :, None])
    with open_dump(tmp_path / "d.npy") as dump:
        assert len(dump.layers) == 3
        assert dump.layers[0].n_queries is None
        assert (dump.read_head(dump.layers[2], 1).values == array[1, 2, 1].view(np.uint16)).all()


def test_folder_of_npy_and_fortran_order(tmp_path):
    saved = tensors()
    for name, array in saved.items():
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(array))
    with open_dump(tmp_path) as dump:
        check(dump, saved)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch, which is not installed")


def test_torch_dict(tmp_path, torch):
    saved = tensors()
    torch.save({name: torch.from_numpy(array) for name, array in saved.items()} | {"scale": 0.5}, tmp_path / "d.pt")
    with open_dump(tmp_path / "d.pt") as dump:
        check(dump, saved)
        assert dump.scale[0] == 0.5


def test_torch_bfloat16_and_legacy_tuples(tmp_path, torch):
    pairs = tuple(tuple(torch.randn(1, N_KV, TOKENS, DIM).bfloat16() for _ in range(2)) for _ in range(3))
    torch.save(pairs, tmp_path / "d.pt")
    with open_dump(tmp_path / "d.pt") as dump:
        head = dump.read_head(dump.layers[2], 1)
        assert head.format == BFLOAT16
        assert (head.keys.view(np.int16) == pairs[2][0][0, 1].view(torch.int16).numpy()).all()


def test_torch_old_file_format(tmp_path, torch):
    saved = tensors()
    torch.save(
        {n: torch.from_numpy(a) for n, a in saved.items()}, tmp_path / "d.pth", _use_new_zipfile_serialization=False
    )
    with open_dump(tmp_path / "d.pth") as dump:
        check(dump, saved)


def test_dynamic_cache(tmp_path, torch):
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    cache = transformers.DynamicCache()
    keys = [torch.randn(1, N_KV, TOKENS, DIM).half() for _ in range(2)]
    for layer, key in enumerate(keys):
        cache.update(key, key + 1, layer)
    torch.save(cache, tmp_path / "d.pt")
    with open_dump(tmp_path / "d.pt") as dump:
        assert [layer.index for layer in dump.layers] == [0, 1]
        assert (dump.read_head(dump.layers[1], 1).keys == keys[1][0, 1].numpy().view(np.uint16)).all()


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda n: n.keys)
def test_every_convention_is_found(tmp_path, naming):
    array = np.zeros((1, N_KV, TOKENS, DIM), np.float16)
    roles = {"keys": naming.keys, "values": naming.values, "queries": naming.queries}
    save_file({t.format(layer=3): array + i for i, t in enumerate(roles.values())}, tmp_path / "d.safetensors")
    with open_dump(tmp_path / "d.safetensors") as dump:
        (layer,) = dump.layers
        assert layer.names == {role: t.format(layer=3) for role, t in roles.items()}
        assert (dump.read_head(layer, 0).values.view(np.float16) == 1).all()


def test_own_names_and_axes(tmp_path):
    saved = tensors(layers=(7,))
    renamed = {
        f"blk-7/{name.split('.')[-1][0]}": np.ascontiguousarray(array.transpose(0, 2, 1, 3))
        for name, array in saved.items()
    }
    save_file(renamed, tmp_path / "d.safetensors")
    mapping = parse_mapping(["keys=blk-{layer}/k", "values=blk-{layer}/v", "queries=blk-{layer}/q"])
    with open_dump(tmp_path / "d.safetensors", mapping=mapping, axes="bshd") as dump:
        check(dump, saved, layer=7)
    fails(tmp_path / "d.safetensors", "no tensors are named like", "blk-7/k  F16 (1, 5, 2, 8)", "--map")
    fails(tmp_path / "d.safetensors", "no tensor matches --map", mapping=parse_mapping(["keys=a", "values=b"]))
    fails(tmp_path / "d.safetensors", "is not an order of", error=UsageError, mapping=mapping, axes="bsdd")


@pytest.mark.parametrize(
    ("items", "word"), [(["keys"], "ROLE=TEMPLATE"), (["keys=a"], "both keys and values"), (["x=a"], "ROLE=TEMPLATE")]
)
def test_wrong_mappings(items, word):
    with pytest.raises(UsageError, match=word):
        parse_mapping(items)


def test_binary32_is_rounded_on_request_only(tmp_path):
    saved = tensors(dtype=np.float32)
    saved["layers.0.keys"][0, 0, 0, 0] = 1e6
    save_file(saved, tmp_path / "d.safetensors")
    fails(tmp_path / "d.safetensors", "layers.0.keys is binary32", "--storage-format")
    for fmt, dtype in ((BINARY16, np.float16), (BFLOAT16, bfloat16)):
        with open_dump(tmp_path / "d.safetensors", storage_format=fmt) as dump, np.errstate(over="ignore"):
            head = dump.read_head(dump.layers[0], 0)
            assert (head.keys == saved["layers.0.keys"][0, 0].astype(dtype).view(np.uint16)).all()
            assert head.conversions["keys"].overflowed == (fmt == BINARY16)
            assert 0 < head.conversions["values"].inexact <= head.conversions["values"].elements == TOKENS * DIM


def test_rounding_is_to_nearest_even_and_counts():
    values = np.array([1.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 65520.0, np.inf, np.nan], np.float32)
    codes, counted = to_storage(values.view(np.uint32), BINARY16)
    assert codes[:5].tolist() == [0x3C00, 0x3C00, 0x3C02, 0x7C00, 0x7C00]
    assert (counted.elements, counted.inexact, counted.overflowed) == (6, 3, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"layers.0.values": np.zeros((1, N_KV, TOKENS, 16), np.float16)},
            ["layers.0.values: head_dim must match layers.0.keys: 16 vs 8"],
        ),
        ({"layers.0.values": np.zeros((1, N_KV, 4, DIM), np.float16)}, ["seq_len must match layers.0.keys: 4 vs 5"]),
        (
            {"layers.0.values": np.zeros((1, N_KV, TOKENS, DIM), bfloat16)},
            ["dtype must match layers.0.keys: BF16 vs F16"],
        ),
        ({"layers.0.queries": np.zeros((1, 3, TOKENS, DIM), np.float16)}, ["has 3 heads, not a multiple of the 2"]),
        ({"layers.0.queries": np.zeros((1, N_Q, TOKENS, 16), np.float16)}, ["head_dim must match"]),
        (
            {"layers.0.keys": np.zeros((1, N_KV, TOKENS, DIM), np.int8)},
            ["layers.0.keys has dtype I8", "expected binary16"],
        ),
        ({"layers.0.keys": np.zeros((1, N_KV, 0, DIM), np.float16)}, ["layers.0.keys is empty: shape (1, 2, 0, 8)"]),
        (
            {"layers.0.keys": np.zeros((N_KV * TOKENS, DIM), np.float16)},
            ["layers.0.keys: expected", "got shape (10, 8)", "--axes"],
        ),
        ({"layers.0.values": None}, ["layer 0 has layers.0.keys but no values"]),
    ],
)
def test_tensors_that_do_not_belong_together(tmp_path, change, words):
    saved = {name: array for name, array in (tensors(layers=(0,)) | change).items() if array is not None}
    save_file(saved, tmp_path / "d.safetensors")
    fails(tmp_path / "d.safetensors", "d.safetensors", *words)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("scale", "nan", "no positive number"),
        ("scale", "x", "no positive number"),
        ("sliding_window", "-1", "no positive count"),
    ],
)
def test_wrong_metadata(tmp_path, key, value, word):
    save_file(tensors(), tmp_path / "d.safetensors", {key: value})
    with open_dump(tmp_path / "d.safetensors") as dump, pytest.raises(InputError, match=word):
        _ = dump.scale if key == "scale" else dump.sliding_window


def test_sliding_window(tmp_path):
    save_file(tensors(), tmp_path / "d.safetensors", {"sliding_window": "64"})
    with open_dump(tmp_path / "d.safetensors") as dump:
        assert dump.sliding_window == 64


# --- damaged and hostile files -------------------------------------------------------------------------------------------


def safetensors_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes):
    return {"layers.0.keys": {"dtype": "F16", "shape": [1, 1, 2, 2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["the file is empty"]),
        (b"\x01\x02", ["2 bytes are no safetensors file"]),
        (safetensors_bytes({}, length=1 << 40), ["claims 1099511627776 bytes", "allows 100000000"]),
        (safetensors_bytes({}, length=1 << 20), ["claims 1048576 bytes, the file has 10"]),
        (safetensors_bytes(b"{nonsense"), ["the header is not JSON"]),
        (safetensors_bytes(b"[" * 200_000), ["the header is not JSON"]),
        (safetensors_bytes([1]), ["not a table of tensors"]),
        (safetensors_bytes(b'{"a":1,"a":2}'), ["a stands twice"]),
        (safetensors_bytes({"layers.0.keys": 3}), ["lacks dtype, shape or data_offsets"]),
        (safetensors_bytes(entry(shape=[1 << 40, 1, 1, 1])), ["needs 2199023255552 bytes, its offsets span 8"]),
        (safetensors_bytes(entry(shape=[-1, 1, 1, 1])), ["a size or offset that is no count"]),
        (safetensors_bytes(entry(shape=[True, 1, 2, 2])), ["a size or offset that is no count"]),
        (safetensors_bytes(entry(data_offsets=[8, 0])), ["needs 8 bytes, its offsets span -8"]),
        (safetensors_bytes(entry(), b"1234"), ["ends at byte", "the file at"]),
        (safetensors_bytes(entry(dtype="F4")), ["unknown dtype F4"]),
        (
            safetensors_bytes(entry() | {"b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}, b"12345678"),
            ["overlap"],
        ),
        (safetensors_bytes({"__metadata__": 3}), ["__metadata__ is not a table"]),
        (safetensors_bytes({}), ["no tensors are named like", "no tensors"]),
    ],
)
def test_damaged_safetensors(tmp_path, content, words):
    (tmp_path / "d.safetensors").write_bytes(content)
    fails(tmp_path / "d.safetensors", "d.safetensors", *words)


def test_truncated_anywhere(tmp_path):
    """A prefix of a good file is never taken for a good one, whatever the format."""
    saved = tensors(layers=(0,))
    save_file(saved, tmp_path / "good.safetensors")
    np.savez(tmp_path / "good.npz", **saved)
    np.save(tmp_path / "good.npy", np.zeros((2, 1, N_KV, TOKENS, DIM), np.float16))
    for name in ("good.safetensors", "good.npz", "good.npy"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole), 37):
            (tmp_path / f"cut{name[4:]}").write_bytes(whole[:length])
            fails(tmp_path / f"cut{name[4:]}")


def test_damaged_numpy(tmp_path):
    def npy(**changes):
        header = {"descr": "<f2", "fortran_order": False, "shape": (2, 1, 1, 2, 2)} | changes
        text = repr(header).encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    path = tmp_path / "d.npy"
    for content, word in (
        (b"", "the file is empty"),
        (b"NUMPY", "does not begin as a NumPy array does"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "unknown format version"),
        (npy(shape=(1 << 40, 2, 1, 2)), "needs 8796093022208 bytes"),
        (npy(shape=(-1,)), "negative size"),
        (npy(shape="x"), "header that cannot be read"),
        (npy(descr="|O"), "holds pickled Python objects"),
        (npy(), "needs 16 bytes, there are 0"),
    ):
        path.write_bytes(content)
        fails(path, word)


def test_hostile_archives(tmp_path):
    path = tmp_path / "d.npz"
    array = io.BytesIO()
    np.save(array, np.zeros((1, 1, 2, 2), np.float16))

    def write(*members, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)

    write(("../../layers.0.keys.npy", array.getvalue()))
    fails(path, "points outside the archive")
    bomb = (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 80)
        + repr({"descr": "<f2", "fortran_order": False, "shape": (1, 1, 1 << 29, 4)}).ljust(79).encode()
        + b"\n"
    )
    write(("layers.0.keys.npy", bomb + bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED)
    fails(path, "needs 4294967296 bytes, there are 1048576")
    write(("layers.0.keys.npy", b"no array"))
    fails(path, "does not begin as a NumPy array does")
    path.write_bytes(b"PK\x05\x06" + bytes(3))
    fails(path, "not a whole archive")


class Hostile:
    """A pickle of this would write a file when it is loaded by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, torch, zipped):
    trace = tmp_path / "code-was-run"
    torch.save({"layers.0.keys": Hostile(trace)}, tmp_path / "d.pt", _use_new_zipfile_serialization=zipped)
    fails(tmp_path / "d.pt", "refused: the pickle asks for io.open", "could run code")
    (tmp_path / "e.pt").write_bytes(pickle.dumps(Hostile(trace)))
    fails(tmp_path / "e.pt")
    np.save(tmp_path / "f.npy", np.array([Hostile(trace)], dtype=object), allow_pickle=True)
    fails(tmp_path / "f.npy", "holds pickled Python objects")
    assert not trace.exists()


def test_damaged_torch(tmp_path, torch):
    for content in (b"", b"PK\x03\x04 nothing", b"\x80\x02 nothing", bytes(100)):
        (tmp_path / "d.pt").write_bytes(content)
        fails(tmp_path / "d.pt", "d.pt")


def test_torch_is_not_needed_for_reading(tmp_path, torch, monkeypatch):
    saved = tensors()
    torch.save({name: torch.from_numpy(array) for name, array in saved.items()}, tmp_path / "d.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with open_dump(tmp_path / "d.pt") as dump:
        check(dump, saved)


def test_paths_that_are_no_dump(tmp_path):
    fails(tmp_path / "none.safetensors", "no such file")
    fails(tmp_path, "a folder without .npy files")
    (tmp_path / "empty").write_bytes(b"")
    fails(tmp_path / "empty", "empty")
    (tmp_path / "text").write_text("hello, this is text")
    fails(tmp_path / "text", "no format that is known here")


def test_names_from_files_are_made_harmless(tmp_path):
    save_file({"\x1b[2Jevil\nname": np.zeros(2, np.float16)}, tmp_path / "d.safetensors")
    with pytest.raises(InputError) as caught:
        open_dump(tmp_path / "d.safetensors")
    assert r"\x1b[2Jevil\nname" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(printable("x" * 1000)) == 100


def test_memory_is_given_back(tmp_path):
    """Reading head after head of a large file does not keep its pages resident."""
    psutil = pytest.importorskip("psutil")
    path = tmp_path / "big.safetensors"
    shape = [1, 8, 65536, 64]
    size = 2 * int(np.prod(shape))
    header = {
        f"layers.0.{role}": {"dtype": "F16", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
        for i, role in enumerate(("keys", "values"))
    }
    with path.open("wb") as file:
        file.write(safetensors_bytes(header))
        file.truncate(file.tell() + 2 * size)
    process = psutil.Process()
    with open_dump(path) as dump:
        before = process.memory_info().rss
        for kv_head in range(8):
            dump.read_head(dump.layers[0], kv_head)
        grown = process.memory_info().rss - before
    assert grown < size, f"{grown} bytes stayed resident of {2 * size} read"
