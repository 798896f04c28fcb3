"""The conformance kit passes every codec here, and fails codecs that are wrong on purpose, with a small example."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from precalign.codecs import CODECS, CodedCache, RowCodec, get_codec
from precalign.codecs.conform import CHECKS, conform
from precalign.codecs.packed import PackedCodec
from precalign.codecs.q8_0 import Q8_0

SETTINGS = ["kivi", "ott", "packkv:order=median", "fp8", "nvfp4", "q4_0", "turboquant:inner=1", "quanto", "planes"]


def small(monkeypatch):
    monkeypatch.setattr("precalign.codecs.conform.TOKENS", (1, 2, 65, 200))
    monkeypatch.setattr("precalign.codecs.conform.HEAD_DIMS", (64,))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_claim_holds(name, monkeypatch):
    small(monkeypatch)
    found = {finding.check: finding for finding in conform(get_codec(name))}
    assert list(found) == list(CHECKS)
    for finding in found.values():
        assert finding.holds is not False, finding
        codec = get_codec(name)
        disclaimed = finding.check in codec.disclaims or (
            finding.check == "packed" and not isinstance(codec, PackedCodec)
        )
        assert (finding.holds is None) == disclaimed


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_codec_conforms_on_the_whole_kit(name, proof):
    found = list(conform(get_codec(name)))
    failed = [finding for finding in found if finding.holds is False]
    assert not failed
    proof(f"conformance of codec {name}", sum(finding.cases for finding in found), len(failed))


@dataclass(frozen=True)
class Half(RowCodec):
    """A correct codec: the numbers as they are, in 32 bits."""

    name = "half"
    source = "test"

    def row_bytes(self, head_dim):
        return 4 * head_dim

    def encode_rows(self, rows, header, shape):
        return rows.view(np.uint8)

    def decode_rows(self, octets, header, shape):
        return np.ascontiguousarray(octets).view(np.float32)


@dataclass(frozen=True)
class Longer(Half):
    """Says fewer bytes than it stores."""

    def coded_bytes(self, n_tokens, shape):
        return super().coded_bytes(n_tokens, shape) // 2


@dataclass(frozen=True)
class Batched(Half):
    """Scales by the largest number of whatever comes together."""

    def encode_rows(self, rows, header, shape):
        return np.float32(rows / max(1, np.abs(rows).max()) * 100).view(np.uint8)


@dataclass(frozen=True)
class ZeroByZero(Half):
    """Divides by the largest number of a row, which may be 0."""

    def encode_rows(self, rows, header, shape):
        with np.errstate(all="ignore"):
            return (rows / np.abs(rows).max(axis=1, keepdims=True)).view(np.uint8)


@dataclass(frozen=True)
class Hidden(Half):
    """Remembers the numbers instead of storing them."""

    def encode_rows(self, rows, header, shape):
        MEMORY[rows.shape] = rows.copy()
        return np.zeros((len(rows), self.row_bytes(shape.head_dim)), np.uint8)

    def decode_rows(self, octets, header, shape):
        return MEMORY.pop((len(octets), shape.head_dim))


MEMORY = {}


@pytest.mark.parametrize(
    ("codec", "check", "example"),
    [
        (Longer, "size", "1 tokens, 1 kv heads, head_dim 64, binary16, normal: 512 bytes, predicted 256"),
        (Batched, "stream", "2 tokens, 1 kv heads"),
        (Batched, "heads", "1 tokens, 2 kv heads"),
        (ZeroByZero, "finite", "1 tokens, 1 kv heads, head_dim 64, binary16, zero: keys: an infinity or NaN"),
        (Hidden, "bytes", "KeyError"),
    ],
)
def test_what_is_wrong_is_found_on_the_smallest_case(codec, check, example, monkeypatch):
    small(monkeypatch)
    found = {finding.check: finding for finding in conform(codec())}
    assert found[check].holds is False
    assert example in found[check].example
    assert {finding.check for finding in conform(Half()) if not finding.holds} == {"packed"}


@dataclass(frozen=True)
class Skips(Q8_0):
    """Its attention leaves out the last token."""

    def score_rows(self, octets, queries, out):
        return super().score_rows(octets, queries, out) * (np.arange(out.shape[2]) < out.shape[2] - 1)


@dataclass(frozen=True)
class Doubles(Q8_0):
    """Its attention counts the first token twice."""

    def sum_rows(self, octets, weights, out):
        weights = weights.copy()
        weights[:, :, 0] *= 2
        return super().sum_rows(octets, weights, out)


@pytest.mark.parametrize(("codec", "side"), [(Skips, "keys: a score"), (Doubles, "values: a sum")])
def test_attention_over_packed_codes_that_is_wrong_is_found(codec, side, monkeypatch):
    small(monkeypatch)
    found = {finding.check: finding for finding in conform(codec())}
    assert found["packed"].holds is False
    assert f"1 tokens, 1 kv heads, head_dim 64, binary16, normal: {side}" in found["packed"].example


def test_the_window_and_the_refusal_are_checked(monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr("precalign.codecs.store.check_tokens", lambda *_: None)
    monkeypatch.setattr(
        CodedCache, "decode", lambda self: np.zeros((self.n_tokens, *self._window.shape[1:]), np.float32)
    )
    found = {finding.check: finding for finding in conform(dataclasses.replace(get_codec("kivi")))}
    assert "a token of the window is not exact" in found["window"].example
    assert "takes a inf without a word" in found["refuses"].example
