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

from precalign.analysis.readers import copies, open_dump, ranges
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


def test_a_remote_file_is_read_by_ranges(tmp_path, store, monkeypatch):
    path = small_dump.write(tmp_path / "x.safetensors")
    store.pipe("/run/x.safetensors", path.read_bytes())
    monkeypatch.setattr(copies.tempfile, "mkdtemp", lambda **_: pytest.fail("copied"))
    with open_dump(path) as local, open_dump("memory://run/x.safetensors") as remote:
        same_heads(local, remote)
        remote.check_unchanged()
        store.pipe("/run/x.safetensors", path.read_bytes())
        with pytest.raises(InputError, match=r"memory://run/x.safetensors: changed while it was read"):
            remote.check_unchanged()


def test_other_remote_files_are_copied_one_at_a_time_and_removed(tmp_path, store, monkeypatch):
    monkeypatch.setattr(copies.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    np.savez(tmp_path / "x.npz", **small_dump.tensors())
    store.pipe("/run/x.npz", (tmp_path / "x.npz").read_bytes())
    with open_dump(tmp_path / "x.npz") as local, open_dump("memory://run/x.npz") as remote:
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        assert not copies._ONE.acquire(blocking=False)
        same_heads(local, remote)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert copies._ONE.acquire(blocking=False)
    copies._ONE.release()


@pytest.mark.parametrize("what", ["gone", "damaged", "too large"])
def test_a_remote_file_that_cannot_be_used_leaves_nothing(tmp_path, store, monkeypatch, what):
    monkeypatch.setattr(copies.tempfile, "tempdir", str(tmp_path))
    if what != "gone":
        store.pipe("/run/x.npz", b"PK not really")
    if what == "too large":
        monkeypatch.setattr(copies, "FREE_SHARE", 0)
    expected = {"gone": "no such object", "damaged": "memory://run/x.npz", "too large": "too many to copy"}
    with pytest.raises(InputError, match=expected[what]) as caught:
        open_dump("memory://run/x.npz")
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert not copies._ONE.locked()


def test_a_store_that_fails_is_told_without_a_traceback(store, monkeypatch):
    store.pipe("/run/x.safetensors", b"\x10\0\0\0\0\0\0\0")
    monkeypatch.setattr(type(store), "cat_file", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=r"memory://run/x.safetensors: cannot be read: division by zero"):
        open_dump(Remote("memory://run/x.safetensors"))


def test_without_fsspec_urls_are_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UnavailableError, match="URLs need fsspec"):
        open_dump("memory://x.npz")
