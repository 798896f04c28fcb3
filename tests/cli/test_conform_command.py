"""`precalign conform`: codecs here, codecs of one's own, and what is none."""

import json
import sys

from precalign.cli.main import main

OWN = '''
from dataclasses import dataclass
import numpy as np
from precalign.codecs import RowCodec

@dataclass(frozen=True)
class Wasteful(RowCodec):
    """Stores binary32."""
    name = "wasteful"
    source = "here"

    def row_bytes(self, head_dim):
        return 4 * head_dim

    def encode_rows(self, rows, header, shape):
        return rows.view(np.uint8)

    def decode_rows(self, octets, header, shape):
        return np.ascontiguousarray(octets).view(np.float32)

class Lying(Wasteful):
    def coded_bytes(self, n_tokens, shape):
        return 2 * n_tokens * shape.token_numbers
'''


def small(monkeypatch):
    monkeypatch.setattr("precalign.codecs.conform.TOKENS", (1, 65))
    monkeypatch.setattr("precalign.codecs.conform.HEAD_DIMS", (64,))


def test_a_codec_of_ones_own(tmp_path, monkeypatch, capsys):
    small(monkeypatch)
    (tmp_path / "my_codecs_for_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert main(["conform", "my_codecs_for_test:Wasteful", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [check["check"] for check in found["checks"] if not check["holds"]] == ["packed"]
    assert main(["conform", "my_codecs_for_test:Lying"]) == 1
    assert "512 bytes, predicted 256" in capsys.readouterr().out
    assert main(["conform", "my_codecs_for_test:np"]) == 2
    assert "is not a class" in capsys.readouterr().err
    assert main(["conform", "fractions:Fraction"]) == 2
    assert "is not a subclass of" in capsys.readouterr().err
    assert main(["conform", "my_codecs_for_test:Missing"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    assert sys.path == path


def test_names_and_parameters(monkeypatch, capsys):
    small(monkeypatch)
    assert main(["conform", "q8_0"]) == 0
    assert "codec q8_0" in capsys.readouterr().out
    assert main(["conform", "q9"]) == 2
    assert "unknown codec 'q9'" in capsys.readouterr().err
    assert main(["conform", "kivi:bits=5"]) == 2
