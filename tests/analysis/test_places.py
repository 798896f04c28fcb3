"""Which dumps arguments mean."""

from __future__ import annotations

import json

import fsspec
import numpy as np
import pytest
import small_dump
from safetensors.numpy import save_file

from precalign.analysis.readers.address import Remote, is_url, shown_url
from precalign.analysis.sets.places import find_dumps, is_set, names_of
from precalign.errors import InputError, UnavailableError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with dumps at several depths, and what is none."""
    for name in ("b.safetensors", "a.safetensors", "deep/er/c.pt", ".hidden.safetensors", ".hidden/d.safetensors"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in/README").write_text("no dump")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def found(*arguments):
    return [str(place) for place in find_dumps(arguments)]


def test_what_makes_a_set(tree):
    for arguments in (["in"], ["in/*.safetensors"], ["in/a.safetensors", "in/b.safetensors"], ["in/**"]):
        assert is_set(arguments), arguments
    (tree / "odd[1].safetensors").write_bytes(b"x")
    for argument in (
        "in/a.safetensors",
        "in/odd[1].safetensors",
        "nowhere.safetensors",
        f"file://{tree}/a.safetensors",
    ):
        assert not is_set([argument]), argument
    (tree / "arrays").mkdir()
    np.save(tree / "arrays/keys.npy", np.zeros(1))
    assert not is_set(["in/arrays"])


def test_folders_are_searched_to_the_bottom(tree):
    assert found("in") == ["in/a.safetensors", "in/b.safetensors", "in/deep/er/c.pt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.safetensors", ["in/a.safetensors", "in/b.safetensors"]),
        ("in/[b-z].*", ["in/b.safetensors"]),
        ("i?/a*", ["in/a.safetensors"]),
        ("in/**/*.pt", ["in/deep/er/c.pt"]),
        ("in/**", ["in/README", "in/a.safetensors", "in/b.safetensors", "in/deep/er/c.pt"]),
        ("**/er/*", ["in/deep/er/c.pt"]),
        ("in/de*", ["in/deep/er/c.pt"]),
        ("in/*/er/c.pt", ["in/deep/er/c.pt"]),
    ],
)
def test_patterns(tree, pattern, expected):
    assert found(pattern) == expected


def test_each_dump_counts_once_in_the_order_of_the_arguments(tree):
    (tree / "link.safetensors").symlink_to("a.safetensors")
    assert found("in/b*", "in/a.safetensors", "in") == ["in/b.safetensors", "in/a.safetensors", "in/deep/er/c.pt"]


def test_links_that_lead_in_circles_end(tree):
    (tree / "deep/back").symlink_to("..")
    (tree / "deep/er/up").symlink_to("../..")
    assert found("in") == found("in/**/*.*") == ["in/a.safetensors", "in/b.safetensors", "in/deep/er/c.pt"]


def shards(folder):
    folder.mkdir(parents=True)
    held = small_dump.tensors()
    by_layer = {i: {n: t for n, t in held.items() if f".{i}." in n} for i in range(2)}
    for layer, tensors in by_layer.items():
        save_file(tensors, folder / f"part-{layer}.safetensors")
    index = {"weight_map": {name: f"part-{layer}.safetensors" for layer, part in by_layer.items() for name in part}}
    (folder / "dump.safetensors.index.json").write_text(json.dumps(index))


def test_shards_and_arrays_are_one_dump(tree):
    shards(tree / "sharded")
    (tree / "arrays").mkdir()
    np.save(tree / "arrays/keys.npy", np.zeros(1))
    np.save(tree / "arrays/values.npy", np.zeros(1))
    expected = ["in/arrays", "in/sharded/dump.safetensors.index.json"]
    assert [place for place in found("in") if "arrays" in place or "sharded" in place] == expected
    assert found("in/sharded/*.safetensors") == expected[1:]
    assert found("in/sharded/part-0.safetensors") == ["in/sharded/part-0.safetensors"]


def test_a_broken_index_is_a_dump_that_its_reader_refuses(tree):
    (tree / "x.safetensors.index.json").write_text("{")
    assert "in/x.safetensors.index.json" in found("in")


@pytest.mark.parametrize("argument", ["in/*.gguf", "in/deep/er/*.safetensors", "nothing*/here"])
def test_an_argument_that_means_nothing_is_told(tree, argument):
    with pytest.raises(InputError, match="no dump there"):
        find_dumps([argument])


def test_names_are_short_different_and_harmless(tmp_path):
    (place,) = find_dumps([str(tmp_path / "one")])
    assert names_of([place]) == ["one"]
    odd = [tmp_path / "a/x\n\x1b[31m.pt", tmp_path / "a/x\\n\\x1b[31m.pt", tmp_path / "b/x.pt"]
    names = names_of(odd)
    assert names == ["a/x\\n\\x1b[31m.pt", "a/x\\n\\x1b[31m.pt#2", "b/x.pt"]
    assert names_of([Remote("s3://bucket/k/x"), tmp_path / "x"])[0] == "s3://bucket/k/x"


@pytest.fixture
def store():
    """fsspec's store in memory, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def test_urls(store, tmp_path):
    shards(tmp_path / "sharded")
    for path in (tmp_path / "sharded").iterdir():
        store.pipe(f"/run/s/{path.name}", path.read_bytes())
    store.pipe({"/run/b.safetensors": b"x", "/run/a.npz": b"x", "/run/README": b"x", "/other/c.pt": b"x"})
    index = "memory:///run/s/dump.safetensors.index.json"
    assert found("memory://run/*.*") == ["memory:///run/a.npz", "memory:///run/b.safetensors"]
    assert found("memory://run") == ["memory:///run/a.npz", "memory:///run/b.safetensors", index]
    assert is_set(["memory://run"])
    assert is_set(["memory://run/*"])
    assert not is_set(["memory://run/a.npz"])


def test_a_protocol_that_is_not_installed_is_told():
    with pytest.raises(UnavailableError, match=r"s3://bucket/x: .*s3fs"):
        find_dumps(["s3://key:secret@bucket/x"])
    with pytest.raises(InputError, match="Protocol not known"):
        find_dumps(["nosuch://x/y"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@host:80/a/b.pt?X-Signature=abc#f", "https://host:80/a/b.pt"),
        ("s3://bucket/a b*.pt", "s3://bucket/a b*.pt"),
        ("memory://x", "memory://x"),
    ],
)
def test_secrets_of_urls_are_not_shown(url, shown):
    assert shown_url(url) == shown
    assert str(Remote(url)) == shown
    assert "pw" not in str(Remote(url).beside("c.pt"))


def test_what_lies_beside_an_object_has_the_same_query():
    assert Remote("https://h/a/b.json?sig=x/y").beside("c.pt").url == "https://h/a/c.pt?sig=x/y"
    assert Remote("s3://h/a/b?.json").beside("c.pt").url == "s3://h/a/c.pt"


def test_paths_are_not_urls():
    assert not any(is_url(text) for text in ("a/b", "C:/x", "a:b", "://x", "/x://y"))
