"""What the names in a file of torch.save mean, as data: tensors, storages, dtypes, containers and transformers' caches.

Nothing of torch is imported. The table `KNOWN` is all that a file may ask for; each call becomes a record of what torch would build.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from precalign.analysis.readers.base import MAX_AXES, MAX_AXIS
from precalign.analysis.readers.pickled import Known, Pairs, PickleError
from precalign.formats import BFLOAT16, BINARY16, BINARY32, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ

if TYPE_CHECKING:
    from collections.abc import Callable

    from precalign.formats import Format

FORMATS: dict[str, Format] = {
    "float16": BINARY16,
    "bfloat16": BFLOAT16,
    "float32": BINARY32,
    "float8_e4m3fn": E4M3FN,
    "float8_e5m2": E5M2,
    "float8_e4m3fnuz": E4M3FNUZ,
    "float8_e5m2fnuz": E5M2FNUZ,
}
"""dtype of torch -> format, where precalign analyses it."""
ITEM_BYTES = {
    **dict.fromkeys(["uint8", "int8", "bool", "qint8", "quint8", "quint4x2", "quint2x4", "bits8", "bits1x8", "bits2x4", "bits4x2"], 1),
    **dict.fromkeys(["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"], 1),
    **dict.fromkeys(["float16", "bfloat16", "int16", "uint16", "bits16"], 2),
    **dict.fromkeys(["float32", "int32", "uint32", "qint32", "complex32"], 4),
    **dict.fromkeys(["float64", "int64", "uint64", "complex64"], 8),
    **dict.fromkeys([f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)], 1),
    "complex128": 16,
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "QInt8Storage": "qint8", "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4", "UntypedStorage": "uint8",
}  # fmt: skip
"""Class of a storage -> dtype; newer dtypes have none and lie in an UntypedStorage."""
CACHE_CLASSES = (
    "transformers.cache_utils.DynamicCache",
    "transformers.cache_utils.DynamicLayer",
    "transformers.cache_utils.DynamicSlidingWindowLayer",
    "transformers.cache_utils.StaticCache",
    "transformers.cache_utils.StaticLayer",
)
"""Classes of which a file may hold objects: they become records of their attributes, and none of their code runs."""
MAX_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that tensors are views of.

    Attributes
    ----------
    key : str
        By which the file names it.
    dtype : str
    count : int
        Elements.
    """

    key: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage.

    Attributes
    ----------
    storage : Storage
    offset : int
        First element, counted in elements.
    shape, strides : tuple of int
        In elements.
    dtype : str
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class NoTensor:
    """A tensor without plain numbers: sparse, quantised, without data.

    Attributes
    ----------
    shape : tuple of int
        () where the file does not tell.
    what : str
        What it is, for messages.
    """

    shape: tuple[int, ...]
    what: str


@dataclass(frozen=True, slots=True)
class Thing:
    """Anything else that is no tensor and no number, such as a device."""


THING = Thing()


def _shape(value: object, what: str) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple)
        or len(value) > MAX_AXES
        or not all(type(n) is int and 0 <= n <= MAX_AXIS for n in value)
    ):
        raise PickleError(f"a tensor's {what} is no tuple of counts")
    return value


def _view(storage: object, offset: object, size: object, stride: object, dtype: str | None = None) -> Tensor:
    """Return a view of a storage, checked to lie in it (torch._utils._rebuild_tensor)."""
    if not isinstance(storage, Storage):
        raise PickleError("a tensor without a storage")
    shape, strides = _shape(size, "shape"), _shape(stride, "strides")
    if type(offset) is not int or not 0 <= offset <= MAX_AXIS or len(shape) != len(strides):
        raise PickleError("a tensor whose offset, shape and strides do not belong together")
    kind = storage.dtype if dtype is None else dtype
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if prod(shape) and (last + 1) * ITEM_BYTES[kind] > storage.size:
        raise PickleError(
            f"a tensor of shape {shape} and dtype {kind} ends at byte {(last + 1) * ITEM_BYTES[kind]} of storage "
            f"{storage.key}, which has {storage.size}"
        )
    return Tensor(storage, offset, shape, strides, kind)


def _take(arguments: tuple[Any, ...], least: int, most: int, name: str) -> tuple[Any, ...]:
    if not least <= len(arguments) <= most:
        raise PickleError(f"{name} with {len(arguments)} arguments")
    return arguments + (None,) * (most - len(arguments))


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    return _view(*_take(arguments, 4, 4, "_rebuild_tensor"))


def _tensor_v2(arguments: tuple[Any, ...]) -> Tensor | NoTensor:
    storage, offset, size, stride, _, _, marks = _take(arguments, 6, 7, "_rebuild_tensor_v2")
    return _marked(_view(storage, offset, size, stride), marks)


def _tensor_v3(arguments: tuple[Any, ...]) -> Tensor | NoTensor:
    storage, offset, size, stride, _, _, dtype, marks = _take(arguments, 7, 8, "_rebuild_tensor_v3")
    return _marked(_view(storage, offset, size, stride, _dtype(dtype)), marks)


def _dtype(value: object) -> str:
    name = value.name.removeprefix("torch.") if isinstance(value, Known) else ""
    if name not in ITEM_BYTES:
        raise PickleError("a tensor of no dtype")
    return name


def _marked(tensor: Tensor, marks: object) -> Tensor | NoTensor:
    """Return no tensor where its numbers are to be negated or conjugated before use."""
    if isinstance(marks, Pairs) and any(value for _, value in marks[:8]):
        return NoTensor(tensor.shape, f"{tensor.dtype}, lazily negated or conjugated")
    return tensor


def _parameter(arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a tensor or none
    return _take(arguments, 3, 4, "_rebuild_parameter")[0]


def _subclass(arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a tensor or none
    """Return the tensor in torch._tensor._rebuild_from_type_v2: (function, type, arguments, state)."""
    rebuild, _, inner, _ = _take(arguments, 4, 4, "_rebuild_from_type_v2")
    if (
        not isinstance(rebuild, Known)
        or rebuild.call is None
        or rebuild.call is _subclass
        or not isinstance(inner, tuple)
    ):
        raise PickleError("a tensor that is rebuilt by no known function")
    return rebuild.call(inner)


def _moved(arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a tensor or none
    tensor, dtype, _, _ = _take(arguments, 4, 4, "_rebuild_device_tensor_from_cpu_tensor")
    if isinstance(tensor, Tensor) and tensor.dtype != _dtype(dtype):
        return NoTensor(tensor.shape, f"{tensor.dtype}, to be cast to {_dtype(dtype)}")
    return tensor


def _without_data(arguments: tuple[Any, ...]) -> NoTensor:
    dtype, size, _, _ = _take(arguments, 4, 4, "_rebuild_meta_tensor_no_storage")
    return NoTensor(_shape(size, "shape"), f"{_dtype(dtype)} without data (device meta)")


def _quantised(arguments: tuple[Any, ...]) -> NoTensor:
    storage, offset, size, stride, *_ = _take(arguments, 7, 7, "_rebuild_qtensor")
    tensor = _view(storage, offset, size, stride)
    return NoTensor(tensor.shape, f"{tensor.dtype}, quantised")


def _sparse(arguments: tuple[Any, ...]) -> NoTensor:
    _, parts = _take(arguments, 2, 2, "_rebuild_sparse_tensor")
    size = next((part for part in parts[2:4] if isinstance(part, tuple)), ()) if isinstance(parts, tuple) else ()
    return NoTensor(_shape(size, "shape"), "sparse")


def _ordered(arguments: tuple[Any, ...]) -> Pairs:
    if arguments:
        raise PickleError("an OrderedDict as Python 2 saved it")
    return Pairs()


def _counter(arguments: tuple[Any, ...]) -> Pairs:
    (held,) = _take(arguments, 0, 1, "a Counter")
    return held if isinstance(held, Pairs) else Pairs()


def _sequence(arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a list or tuple
    """Return the one argument of torch.Size or set; not copied, for one may be wrapped again and again."""
    (held,) = _take(arguments, 0, 1, "a sequence")
    if held is not None and not isinstance(held, tuple | list):
        raise PickleError("a sequence that is none")
    return () if held is None else held


def _encoded(arguments: tuple[Any, ...]) -> bytes | Thing:
    """Return short bytes, which may be a key, as protocol 2 saves them: (text, "latin1")."""
    text, encoding = _take(arguments, 2, 2, "_codecs.encode")
    if isinstance(text, str) and encoding == "latin1" and len(text) <= MAX_NAME_BYTES and text.isascii():
        return text.encode("ascii")
    return THING


def _thing(_: tuple[Any, ...]) -> Thing:
    return THING


CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _moved,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_data,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": lambda _: NoTensor((), "nested"),
    "torch._utils._rebuild_wrapper_subclass": lambda _: NoTensor((), "a wrapper without data"),
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.serialization._get_layout": _thing,
    "torch.device": _thing,
    "torch.Size": _sequence,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "builtins.set": _sequence,
    "builtins.complex": _thing,
    "builtins.bytearray": _thing,
    "_codecs.encode": _encoded,
}
NAMES = (
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    *(
        f"torch.{layout}"
        for layout in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
    ),
    *(f"torch.per_{scheme}" for scheme in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")),
    "torch.per_channel_affine_float_qparams",
)
"""Names that a file holds and nobody calls."""
KNOWN = {
    known.name: known
    for known in (
        *(Known(name, call) for name, call in CALLS.items()),
        *(Known(name) for name in NAMES),
        *(Known(f"torch.{dtype}") for dtype in ITEM_BYTES),
        *(Known(f"{module}.{name}") for module in ("torch", "torch.cuda", "torch.storage") for name in STORAGES),
        *(Known(name, record=True) for name in CACHE_CLASSES),
    )
}
"""Everything that a file may ask for by name."""


def storage_of(kind: object, key: object, count: object) -> Storage:
    """Return a storage from the parts of a persistent id.

    Raises
    ------
    PickleError
        If they are something else.
    """
    dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Known) else None
    if dtype is None:
        raise PickleError("a storage of no known type")
    if not isinstance(key, str) or len(key) > MAX_NAME_BYTES:
        raise PickleError("a storage without a key")
    if type(count) is not int or not 0 <= count <= MAX_AXIS:
        raise PickleError(f"storage {key} of no count of elements")
    return Storage(key, dtype, count)


def parts_of(identifier: object, count: int) -> tuple[Any, ...]:
    """Return the parts of a persistent id behind the word "storage".

    Raises
    ------
    PickleError
        If it refers to something else.
    """
    if not isinstance(identifier, tuple) or len(identifier) != count + 1 or identifier[0] != "storage":
        raise PickleError("it refers to something that is no storage")
    return identifier[1:]


class Storages(dict[str, Storage]):
    """Storages by key; one that is named again must be the same."""

    def add(self, storage: Storage) -> Storage:
        """Return the storage of that key.

        Raises
        ------
        PickleError
            If it was another one before.
        """
        known = self.setdefault(storage.key, storage)
        if known != storage:
            raise PickleError(f"storage {storage.key} is named twice and is not the same")
        return known
