"""Validation: it passes on the kernels as they are, and each of its points can fail."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's wheels are not installed")

from precalign.errors import InputError, UnavailableError
from precalign.formats import BFLOAT16, BINARY16
from precalign.gpu.devices.ptx import PtxDevice
from precalign.gpu.kernels import KernelConfig
from precalign.gpu.kernels.config import HEAD_DIMS, RULES, VARIANTS, sources
from precalign.gpu.validate.case import Case
from precalign.gpu.validate.check import check
from precalign.gpu.validate.data import KINDS
from precalign.gpu.validate.emulated import value_row_sectors
from precalign.gpu.validate.invariance import check_invariance, check_splits, pass_witness, split_bound, split_witness
from precalign.gpu.validate.matrix import matrix
from precalign.gpu.validate.mutants import MUTANTS
from precalign.gpu.validate.mutation import hunt
from precalign.gpu.validate.points import Tallies
from precalign.policy import Policy

ALWAYS = {"planes", "maxima", "key-bits", "value-bits", "outputs", "sectors", "memory", "order"}
TWO_PASSES, ONE_PASS = {"scores", "probs"}, {"partials", "passes"}


@pytest.mark.parametrize(("rule", "one_pass"), VARIANTS)
def test_kernels_equal_the_emulation(rule, one_pass):
    fmt = BFLOAT16 if rule in ("full", "aligned-max") else BINARY16
    head_dim = 96 if rule in ("alignedkv", "online") else 64
    config = KernelConfig(head_dim, 2, fmt, rule, split_tokens=128, one_pass=one_pass)
    result = check(Case(config, 2, ((129, 0), (2, 1)), "spread", 3), PtxDevice())
    assert result.fault is None
    assert not result.tallies.failed
    own = ONE_PASS if one_pass else TWO_PASSES
    assert set(result.tallies.points) == ALWAYS | own | ({"seeds"} if rule == "online" else set())
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


def test_shortest_sequence_that_shows_the_number_of_passes():
    witness = pass_witness(KernelConfig(64, 1, BFLOAT16))
    one, two = witness.outputs
    assert witness.seq_len == 2  # one token has weight 1 and sum 1 in either order
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
    assert {(c.config.variant, c.data) for c in cases} >= {(c.config.variant, kind) for c in cases for kind in KINDS}
    quick = matrix("quick")
    assert len({c.config.variant for c in quick}) == len(quick) == len(VARIANTS)
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
        (["--dump", "absent.safetensors", "--group", "2"], 2, "its own"),
        (["--policy", "absent.json"], 3, "absent.json"),
        (["--policy", "absent.json", "--rule", "alignedkv"], 3, "absent.json"),
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
        ((case, codes),) = dump_cases(dump, ["online"], layers=[3])
    result = check(replace(case, appends=case.appends[:1]), PtxDevice(), codes)
    assert result.fault is None
    assert not result.tallies.failed
    assert result.tallies["outputs"].checked == 4 * 64
    assert result.plane_sectors < result.full_sectors


def test_a_dump_without_kernels_is_told(shared):
    from precalign.analysis.readers import open_dump
    from precalign.analysis.validation import dump_cases

    with open_dump(shared / "data/kv/stories260k-512.safetensors") as dump, pytest.raises(UnavailableError) as caught:
        next(dump_cases(dump))
    assert "layer 0: no kernel for head_dim 8" in str(caught.value)
    assert "64, 96, 128, 256" in str(caught.value)


POLICY = {
    "schema": "precalign.policy/1",
    "format": "binary16",
    "layout": "8|4|4",
    "split_tokens": 128,
    "heads": [
        {"layer": 0, "kv_head": 0, "rule": "static:key_bits=12,value_bits=8"},
        {"layer": 0, "kv_head": 1, "rule": "static:key_bits=8,value_bits=12"},
    ],
}


def test_a_policy_is_what_is_read():
    from precalign.analysis.validation import policy_cases

    two_passes, one_pass = policy_cases(Policy.from_json(POLICY), [64], [1])
    assert one_pass.config.one_pass
    result = check(replace(two_passes, appends=((70,),)), PtxDevice())
    assert not result.tallies.failed
    # head 0 reads 12 and 8 bits, head 1 8 and 12: keys of 70 tokens in two pages, 64 channels; values of 70 rows.
    keys = 64 * ((2 + 1 + 1 + 1) + (2 + 1))
    values = 70 * (2 + (2 + 1))
    assert result.plane_sectors == keys + values


def test_a_policy_of_other_rules_is_refused():
    from precalign.analysis.validation import policy_cases

    heads = [{"layer": 0, "kv_head": 0, "rule": "alignedkv"}]
    with pytest.raises(InputError, match="not the rule static"):
        policy_cases(Policy.from_json(POLICY | {"heads": heads}), None, None)
