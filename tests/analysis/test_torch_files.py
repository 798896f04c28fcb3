"""What torch.save writes is read without torch as torch.load reads it, bit for bit."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from precalign.analysis.readers.torch_file import MAX_DEPTH, TorchReader
from precalign.errors import InputError

torch = pytest.importorskip("torch", reason="needs torch, which writes the files that are read here without it")

N_KV, TOKENS, DIM = 2, 5, 8
DTYPES = [
    "float16",
    "bfloat16",
    "float32",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "uint8",
]
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def random_tensor(dtype="float16", shape=(1, N_KV, TOKENS, DIM), seed=1):
    """Random bytes as a tensor: NaN, infinities and subnormals are among them."""
    dtype = getattr(torch, dtype)
    held = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8)
    return torch.from_numpy(held).view(dtype).reshape(shape)


def bytes_of(tensor):
    """Bytes of each element in the order of the axes, by torch."""
    held = tensor.detach().clone(memory_format=torch.contiguous_format)
    return held.reshape(-1).view(torch.uint8).numpy().tobytes()


def leaves(value, name="", depth=0):
    """Tensors of what torch.load returns, by the names of docs/dump-formats.md: an oracle that shares no code with the reader."""
    if isinstance(value, torch.Tensor):
        return {name or "tensor": value} if depth <= MAX_DEPTH else {}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        items = getattr(value, "__dict__", {}).items()
    found = {}
    for key, item in items:
        found |= leaves(item, f"{name}.{key}" if name else str(key), depth + 1)
    return found


def check_equal(path, saved=None):
    """Every tensor with a dtype that precalign analyses equals torch.load's; the others have the same names and shapes."""
    expected = leaves(torch.load(path, weights_only=saved is None) if saved is None else saved)
    file = TorchReader().open(path)
    try:
        assert file.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            got = file.tensors[name]
            assert got.shape == tuple(tensor.shape), name
            if got.format is not None or got.dtype == "uint8":
                assert got.dtype == str(tensor.dtype).removeprefix("torch.")
                assert np.asarray(got.codes()).tobytes() == bytes_of(tensor), name
        return file
    finally:
        file.close()


@pytest.fixture(params=FORMS)
def save(request, tmp_path):
    def write(saved, **options):
        torch.save(saved, tmp_path / "d.pt", **FORMS[request.param], **options)
        return tmp_path / "d.pt"

    return write


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(save, dtype):
    saved = {"layers.0.keys": random_tensor(dtype), "layers.0.values": random_tensor(dtype, seed=2)}
    file = check_equal(save(saved), saved)  # torch.load itself fails on 8-bit formats in the old form
    assert all((tensor.format is None) == (dtype == "uint8") for tensor in file.tensors.values())


def test_views(save):
    base = random_tensor(shape=(4, 6, 10, 8))
    other = random_tensor("bfloat16", shape=(3, 1, 1, 5))
    views = {
        "whole": base,
        "part": base[1:3, 2:4, 3:9, ::2],
        "transposed": base.transpose(1, 2),
        "permuted": base.permute(3, 1, 0, 2)[1:5],
        "one": base[2, 3],
        "scalar": base[1, 2, 3, 4],
        "expanded": other.expand(3, 7, 2, 5),
        "expanded and cut": other.expand(3, 7, 2, 5)[:, 2:, :, 1:3],
        "strided": torch.as_strided(base, (3, 4, 5), (7, 2, 1), 11),
        "overlapping": torch.as_strided(base, (50, 8), (1, 1), 3),
        "channels last": base.to(memory_format=torch.channels_last),
        "empty": base[:0],
        "shared": base.view(-1),
        "diagonal": torch.diagonal(base[0, 0][:8]),
    }
    check_equal(save(views))


def test_a_small_part_of_a_large_storage_is_where_it_should_be(save):
    large = random_tensor(shape=(200, 300))
    check_equal(save({"corner": large[199:, 290:], "column": large[:, 7]}))


def test_containers(save):
    t = random_tensor()
    saved = OrderedDict(
        a={"b": [t, (t + 1, {"c": t + 2})], 3: t + 3, (1, "x"): t + 4, None: t + 5, True: t + 6, 2.5: t + 7},
        parameter=torch.nn.Parameter(t.float()),
        size=t.shape,
        dtype=t.dtype,
        device=t.device,
        layout=t.layout,
        scale=0.25,
        name="text",
        number=-(1 << 100),
        flag=False,
        nothing=None,
        data=b"\x80\x90" * 300,
        ids=list(range(1000)),
        complex=1 + 2j,
        set={1, 2},
    )
    file = check_equal(save(saved))
    assert file.metadata == {"scale": "0.25", "name": "text", "number": str(-(1 << 100)), "flag": "False"}
    for protocol in (3, 4, 5):
        check_equal(save(saved, pickle_protocol=protocol), saved)


def test_state_dicts_modules_parameters_and_attributes(save):
    layer = torch.nn.Linear(3, 4).half()
    check_equal(save(layer.state_dict()))
    tensor = random_tensor()
    tensor.note = "an attribute makes torch save it by another function"
    check_equal(save([tensor, torch.nn.Parameter(random_tensor("bfloat16"))]))


def test_a_tensor_alone_and_pairs(save):
    check_equal(save(random_tensor()))
    check_equal(save(tuple((random_tensor(seed=i), random_tensor(seed=i + 9)) for i in range(4))))


def test_depth_is_that_of_the_documentation(save):
    nested = random_tensor()
    for _ in range(MAX_DEPTH + 2):
        nested = {"x": nested, "t": random_tensor()}
    check_equal(save(nested))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_that_are_no_plain_numbers_lie_beside_others(save):
    odd = {
        "complex": torch.zeros(2, 3, dtype=torch.complex64),
        "double": torch.zeros(3, dtype=torch.float64),
        "integers": torch.arange(5),
        "truth": torch.tensor([True, False]),
        "sparse": torch.eye(3).to_sparse(),
        "rows": torch.eye(3).to_sparse_csr(),
        "meta": torch.zeros(2, 2, device="meta"),
        "keys": random_tensor(),
    }
    file = check_equal(save(odd))
    assert [name for name, tensor in file.tensors.items() if tensor.format is not None] == ["keys"]
    assert file.tensors["sparse"].dtype == "sparse"
    assert file.tensors["meta"].dtype == "float32 without data (device meta)"


@pytest.mark.filterwarnings("ignore")
def test_quantised_and_negated_tensors_are_no_numbers(save):
    quantised = torch.quantize_per_tensor(torch.ones(2, 3), 0.5, 3, torch.quint8)
    negated = torch.zeros(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    path = save({"q": quantised, "n": negated, "k": random_tensor()})
    found = TorchReader().open(path)
    found.close()
    assert [tensor.format is None for tensor in found.tensors.values()] == [True, True, False]
    assert "lazily negated" in found.tensors["n"].dtype
    assert found.tensors["q"].shape == (2, 3)


def test_caches_of_transformers(save):
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    cache = transformers.DynamicCache()
    for layer in range(3):
        cache.update(random_tensor(seed=layer), random_tensor(seed=layer + 9), layer)
    file = TorchReader().open(save({"past_key_values": cache}))
    for layer in range(3):
        for role, offset in (("keys", 0), ("values", 9)):
            got = file.tensors[f"past_key_values.layers.{layer}.{role}"]
            assert np.asarray(got.codes()).tobytes() == bytes_of(random_tensor(seed=layer + offset))
    file.close()


def test_records_may_be_compressed_by_other_tools(tmp_path, save):
    """Archives that somebody packed anew are read too."""
    path = save({"keys": random_tensor(shape=(64, 1000))})
    if not zipfile.is_zipfile(path):
        pytest.skip("an old file is no archive")
    expected = leaves(torch.load(path))
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    check_equal(packed, expected)


def rewritten(path, target, change):
    """Write an archive again with members changed: name -> content or None to leave it out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change.get(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"byteorder": b"big"}, "byte order big"),
        ({"data/0": None}, "storage 0 is not in the archive"),
        ({"data/0": bytes(159)}, "storage 0 claims 160 bytes and has 159"),
        ({"data.pkl": None}, "0 members are called data.pkl"),
        ({"data.pkl": b""}, "not a PyTorch file that can be read"),
    ],
)
def test_archives_that_lie(tmp_path, change, word):
    torch.save({"keys": random_tensor()}, tmp_path / "good.pt")
    path = rewritten(tmp_path / "good.pt", tmp_path / "d.pt", change)
    with pytest.raises(InputError, match=word):
        TorchReader().open(path)


def test_an_old_file_whose_storage_says_another_count(tmp_path):
    tensor = random_tensor()
    torch.save({"keys": tensor}, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    held = bytearray((tmp_path / "d.pt").read_bytes())
    at = len(held) - tensor.numel() * 2 - 8
    assert int.from_bytes(held[at : at + 8], "little") == tensor.numel()
    for count in (tensor.numel() - 1, tensor.numel() + 1, 1 << 60):
        held[at : at + 8] = count.to_bytes(8, "little")
        (tmp_path / "d.pt").write_bytes(held)
        with pytest.raises(InputError, match="claims 80 elements and has"):
            TorchReader().open(tmp_path / "d.pt")


def test_programs_and_tars_are_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:
        archive.writestr("d/data.pkl", b"")
        archive.writestr("d/constants.pkl", b"")
    with pytest.raises(InputError, match="TorchScript"):
        TorchReader().open(tmp_path / "d.pt")
    import tarfile

    with tarfile.open(tmp_path / "t.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(InputError, match="the tar form of PyTorch"):
        TorchReader().open(tmp_path / "t.pt")
