"""Tensors read by ranges are those of NumPy, whatever is cut and transposed; and a file that shrinks is an error, not a signal."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import small_dump
from hypothesis import given, settings
from hypothesis import strategies as st

from precalign.analysis.readers import open_dump, ranges
from precalign.analysis.readers.address import Remote
from precalign.analysis.readers.ranges import RangedFile
from precalign.errors import InputError, UnavailableError


@pytest.fixture
def store():
    """fsspec's store in memory, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@st.composite
def cuts(draw):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    steps = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["transpose", "new", "cut"]))
        steps.append((kind, draw(st.permutations(range(5))), [draw(st.integers(0, 5)) for _ in range(10)]))
    return tuple(shape), steps


def applied(array, steps):
    for kind, order, numbers in steps:
        n = len(array.shape)
        if kind == "transpose":
            array = array.transpose([axis for axis in order if axis < n])
        elif kind == "new" and n < 5:
            array = array[None]
        elif kind == "cut":
            key = []
            for axis in range(min(n, 2)):
                a, b = numbers[2 * axis], numbers[2 * axis + 1]
                key.append(
                    a % array.shape[axis] if b == 0 and n > 2 and array.shape[axis] else slice(min(a, b), max(a, b))
                )
            array = array[tuple(key)]
    return array


@settings(max_examples=60)
@given(cuts(), st.integers(1, 64), st.integers(0, 40), st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_ranges_are_numpy_views(made, block, gap, dtype):
    shape, steps = made
    held = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    with tempfile.NamedTemporaryFile() as there, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "SCRATCH_BYTES", block)
        patch.setattr(ranges, "LOCAL_GAP_BYTES", gap)
        there.write(b"head" + held.tobytes())
        there.flush()
        file = RangedFile(Path(there.name))
        got = np.asarray(applied(file.array(4, shape, np.dtype(dtype)), steps))
        file.close()
    assert np.array_equal(got, applied(held, steps))
    assert got.dtype == dtype


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    path = small_dump.write(tmp_path / "x.safetensors")
    with open_dump(path) as dump:
        read = []
        fill = ranges.RangedFile.fill
        monkeypatch.setattr(ranges.RangedFile, "fill", lambda f, s, b: read.append(len(b)) or fill(f, s, b))
        dump.read_head(dump.layers[0], 1)
    head = small_dump.SEQ_LEN * small_dump.HEAD_DIM * 2
    assert read == [head, head, small_dump.GROUP * small_dump.N_QUERIES * small_dump.HEAD_DIM * 2]


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    path = small_dump.write(tmp_path / "x.safetensors")
    with open_dump(path) as dump:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        dump.read_head(dump.layers[0], 0)
        with pytest.raises(InputError, match="has become shorter while it was read"):
            dump.read_head(dump.layers[1], 1)
        with pytest.raises(InputError, match=r"changed while it was read: x\.safetensors had"):
            dump.check_unchanged()


def same_heads(one, other):
    assert [layer.index for layer in one.layers] == [layer.index for layer in other.layers]
    for layer in one.layers:
        for head in range(layer.n_kv_heads):
            a, b = one.read_head(layer, head), other.read_head(layer, head)
            for role in ("keys", "values", "queries"):
                assert np.array_equal(getattr(a, role), getattr(b, role))


def write_as(path):
    """Write the small dump in the format that the name tells."""
    if path.suffix == ".safetensors":
        small_dump.write(path)
    elif path.suffix == ".npy":
        tensors = small_dump.tensors()
        np.save(path, np.stack([tensors[f"layers.0.{role}"] for role in ("keys", "values")]))
    elif path.suffix == ".npz":
        (np.savez_compressed if "packed" in path.name else np.savez)(path, **small_dump.tensors())
    else:
        torch = pytest.importorskip("torch")
        tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in small_dump.tensors().items()}
        torch.save(tensors, path, _use_new_zipfile_serialization="old" not in path.name)
    return path


REMOTE = ("x.safetensors", "x.npz", "packed.npz", "x.npy", "x.pt", "old.pt")


@pytest.mark.parametrize("name", REMOTE)
def test_a_remote_file_is_read_by_ranges(tmp_path, store, monkeypatch, name):
    path = write_as(tmp_path / name)
    store.pipe(f"/run/{name}", path.read_bytes())
    asked = []
    cat_file = type(store).cat_file

    def ranged(fs, path, start=None, end=None, **keywords):
        asked.append(end - start)  # TypeError for the whole of it
        return cat_file(fs, path, start=start, end=end, **keywords)

    monkeypatch.setattr(type(store), "cat_file", ranged)
    with open_dump(path) as local, open_dump(f"memory://run/{name}") as remote:
        assert local.layers
        assert max(asked) < 2**17
        same_heads(local, remote)
        remote.check_unchanged()
        store.pipe(f"/run/{name}", path.read_bytes())
        with pytest.raises(InputError, match=rf"memory://run/{name}: changed while it was read"):
            remote.check_unchanged()


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("what", ["gone", "damaged", "empty"])
def test_a_remote_file_that_cannot_be_used_is_named_by_its_url(store, name, what):
    if what != "gone":
        store.pipe(f"/run/{name}", b"PK not really" if what == "damaged" else b"")
    expected = "no such object" if what == "gone" else f"memory://run/{name}"
    with pytest.raises(InputError, match=expected):
        open_dump(f"memory://run/{name}")


def test_a_store_that_fails_is_told_without_a_traceback(store, monkeypatch):
    store.pipe("/run/x.safetensors", b"\x10\0\0\0\0\0\0\0")
    monkeypatch.setattr(type(store), "cat_file", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=r"memory://run/x.safetensors: cannot be read: division by zero"):
        open_dump(Remote("memory://run/x.safetensors"))


def test_without_fsspec_urls_are_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UnavailableError, match="URLs need fsspec"):
        open_dump("memory://x.npz")
