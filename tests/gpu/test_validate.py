"""Validation: it passes on the kernels as they are, and each of its points can fail."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")

from precalign.formats import BFLOAT16, BINARY16
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import HEAD_DIMS, RULES, sources
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.check import check
from precalign.gpu.validate.data import KINDS
from precalign.gpu.validate.emulated import value_row_sectors
from precalign.gpu.validate.invariance import check_invariance, check_splits, split_bound, split_witness
from precalign.gpu.validate.matrix import matrix
from precalign.gpu.validate.mutants import MUTANTS
from precalign.gpu.validate.mutation import hunt
from precalign.gpu.validate.points import Tallies

ALWAYS = {"planes", "maxima", "key-bits", "scores", "probs", "value-bits", "outputs", "sectors", "memory", "order"}


@pytest.mark.parametrize("rule", RULES)
def test_kernels_equal_the_emulation(rule):
    fmt = BFLOAT16 if rule in ("full", "aligned-max") else BINARY16
    case = Case(KernelConfig(96, 3, fmt, rule, split_tokens=64), 2, ((70, 0, 1), (3, 2, 0)), "spread", 3)
    result = check(case, PtxDevice())
    assert result.fault is None
    assert not result.tallies.failed
    assert set(result.tallies.points) == ALWAYS
    assert all(tally.checked for tally in result.tallies.points.values())
    assert (result.plane_sectors == result.full_sectors) == (rule == "full")


def test_results_do_not_depend_on_the_batch():
    tallies, case = Tallies(), Case(KernelConfig(64, 2, rule="full"), 2, ((70, 1), (1, 64)), "normal", 1)
    check_invariance(case, PtxDevice, tallies)
    check_splits(case, PtxDevice, tallies)
    assert set(tallies.points) == {"invariance", "splits"}
    assert not tallies.failed


def test_shortest_sequence_that_shows_the_size_of_a_split():
    witness = split_witness(KernelConfig(64, 1, BINARY16))
    one, two = witness.outputs
    assert witness.seq_len == 65
    assert 0 < abs(one - two) <= witness.bound


def test_split_bound_is_not_vacuous():
    probs, values = np.full((1, 512), 1 / 512, np.float32), np.ones((512, 64))
    bound = split_bound(probs, values, (64, 256))
    assert (bound < 1e-4).all()
    assert (bound > 2.0**-24).all()


def test_matrix_is_large_and_mixed():
    cases = matrix("default")
    assert len(cases) >= 200
    assert len({str(case) for case in cases}) == len(cases)
    configs = {(c.config.rule, c.config.format.name, c.config.head_dim) for c in cases}
    assert len(configs) == len(RULES) * 2 * len(HEAD_DIMS)
    assert {c.config.group for c in cases} == set(range(1, 9))
    assert {c.data for c in cases} == set(KINDS)
    quick = matrix("quick")
    assert len({c.config.rule for c in quick}) == len(RULES)
    assert {c.config.head_dim for c in quick} == set(HEAD_DIMS)


def test_every_defect_still_fits_the_sources():
    texts = sources()
    for mutant in MUTANTS:
        assert mutant.apply(texts) != texts
    assert len(MUTANTS) >= 40
    assert len({m.kind for m in MUTANTS}) >= 10


FIRST_OF_KIND = list({mutant.kind: mutant for mutant in reversed(MUTANTS)}.values())


@pytest.mark.parametrize("mutant", FIRST_OF_KIND, ids=lambda m: m.name)
def test_a_defect_of_each_kind_is_caught(mutant):
    catch = hunt(mutant)
    assert catch.caught_by is not None
    assert catch.evidence


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_defect_is_caught(mutant):
    assert hunt(mutant).caught_by is not None


@pytest.mark.long
def test_the_whole_matrix(proof):
    from precalign.gpu.validate.run import Work, validate

    found = validate([Work(case, "cpu") for case in matrix("default")], jobs=2)
    proof(
        f"kernels against the emulation, {found.cases} configurations",
        sum(t.checked for t in found.tallies.points.values()),
        sum(t.failed for t in found.tallies.points.values()),
    )


def test_rows_that_share_a_sector_count_twice():
    # 48-byte rows of head_dim 96: tokens 0 and 1 share the sector of bytes 32..63.
    assert value_row_sectors(np.array([16], np.uint8), 96) == 3 + 2 + 2
    assert value_row_sectors(np.array([16, 16], np.uint8), 96) == 2 * (3 + 2 + 2)
    assert value_row_sectors(np.array([0, 8, 12], np.uint8), 64) == 2 + 2 + 1


def test_a_wrong_kernel_is_caught_by_the_command(tmp_path):
    text = sources()["keys.cu"]
    wrong = text.replace("row[i] = __fmul_rn(sums[head][i], scale);", "row[i] = __fmul_rn(sums[0][i], scale);")
    assert wrong != text
    (tmp_path / "keys.cu").write_text(wrong)
    arguments = ["validate", "--quick", "--rule", "full", "--head-dim", "64", "--dtype", "fp16", "--group", "2"]
    run = subprocess.run(
        [sys.executable, "-m", "precalign.cli.main", *arguments, "--jobs", "1", "--json", "--sources", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    found = json.loads(run.stdout)
    first = found["points"]["scores"]["first"]
    assert first["where"]["query head"] == 1
    assert "acc = fma" in " ".join(first["history"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rule", "nonsense"], 2, "alignedkv"),
        (["--head-dim", "80"], 2, "96"),
        (["--group", "9"], 2, "8"),
        (["--sources", "."], 3, "keys.cu"),
        (["--dump", "absent.safetensors"], 3, "absent.safetensors"),
    ],
)
def test_wrong_choices_are_told(arguments, code, words, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "precalign.cli.main", "validate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == code
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_layers_of_a_dump(shared):
    from precalign.analysis.readers import open_dump
    from precalign.analysis.validation import dump_cases

    with open_dump(shared / "data/kv/novel-1024.safetensors") as dump:
        ((case, codes),) = dump_cases(dump, ["alignedkv"], layers=[3])
    result = check(case, PtxDevice(), codes)
    assert result.fault is None
    assert not result.tallies.failed
    assert result.tallies["outputs"].checked == 2 * 4 * 64
