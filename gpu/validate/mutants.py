"""Seeded defects: one small change each to the kernels, every one of which validation must catch."""

from __future__ import annotations

from precalign.gpu.validate.mutant import Mutant
from precalign.gpu.validate.one_pass_mutants import ONE_PASS_MUTANTS

TWO_PASS_MUTANTS = (
    # A plane that is dropped, or read although the rule does not ask for it.
    Mutant("second-plane-dropped", "dropped plane", "planes.cuh", "if (bits >= 12) second = *(const uint16*)p4;", ";"),
    Mutant(
        "third-plane-dropped", "dropped plane", "planes.cuh", "if (bits >= 16) third = *(const uint16*)p4_last;", ";"
    ),
    Mutant(
        "third-plane-from-second",
        "dropped plane",
        "planes.cuh",
        "third = *(const uint16*)p4_last;",
        "third = *(const uint16*)p4;",
    ),
    Mutant(
        "second-plane-always",
        "plane read in vain",
        "planes.cuh",
        "if (bits >= 12) second = *(const uint16*)p4;",
        "second = *(const uint16*)p4; if (bits < 12) second = 0x88888888u;",
    ),
    Mutant(
        "third-plane-always",
        "plane read in vain",
        "planes.cuh",
        "if (bits >= 16) third = *(const uint16*)p4_last;",
        "{ uint32 had = third; third = *(const uint16*)p4_last; if (bits < 16) third = had; }",
    ),
    # Wrong fill of what is not read.
    Mutant("fill-second-zero", "wrong fill", "planes.cuh", "second = 0x88888888u;", "second = 0;"),
    Mutant("fill-third-zero", "wrong fill", "planes.cuh", "third = bits >= 12 ? 0x88888888u : 0u;", "third = 0u;"),
    Mutant(
        "fill-third-always",
        "wrong fill",
        "planes.cuh",
        "third = bits >= 12 ? 0x88888888u : 0u;",
        "third = 0x88888888u;",
    ),
    Mutant("fill-second-off-by-one", "wrong fill", "planes.cuh", "second = 0x88888888u;", "second = 0x77777777u;"),
    # Wrong nibble or byte.
    Mutant(
        "nibble-not-shifted",
        "wrong nibble",
        "planes.cuh",
        "(((second >> (4 * i)) & 0xf) << 4)",
        "((second >> (4 * i)) & 0xf)",
    ),
    Mutant(
        "nibble-neighbour",
        "wrong nibble",
        "planes.cuh",
        "((third >> (4 * i)) & 0xf)",
        "((third >> (4 * (i ^ 1))) & 0xf)",
    ),
    Mutant("byte-neighbour", "wrong nibble", "planes.cuh", "(8 * (i % 4))) & 0xff", "(8 * ((i % 4) ^ 1))) & 0xff"),
    Mutant(
        "store-nibbles-swapped",
        "wrong nibble",
        "store.cu",
        "int at = channel * PAGE_TOKENS + token, shift = 4 * (token & 1)",
        "int at = channel * PAGE_TOKENS + token, shift = 4 * (~token & 1)",
    ),
    Mutant("store-neighbour-lost", "wrong nibble", "store.cu", "p4[at / 2] = (p4[at / 2] & keep) |", "p4[at / 2] ="),
    Mutant(
        "store-value-nibble-high",
        "wrong nibble",
        "store.cu",
        "value_second[byte] = ((low >> 4) & 0xf) | (high & 0xf0);",
        "value_second[byte] = ((low >> 4) & 0xf) | ((high & 0xf) << 4);",
    ),
    # Off by one at tails.
    Mutant(
        "scores-tail-one-short",
        "tail off by one",
        "keys.cu",
        "if (position + i < length)",
        "if (position + i < length - 1)",
    ),
    Mutant(
        "scores-tail-one-long",
        "tail off by one",
        "keys.cu",
        "if (position + i < length)",
        "if (position + i <= length)",
    ),
    Mutant(
        "values-tail-one-short",
        "tail off by one",
        "values.cu",
        "count = min(SPLIT_TOKENS, lengths[sequence] - begin);",
        "count = min(SPLIT_TOKENS, lengths[sequence] - begin - 1);",
    ),
    Mutant(
        "combine-last-split-lost",
        "tail off by one",
        "combine.cu",
        "(lengths[sequence] + SPLIT_TOKENS - 1) / SPLIT_TOKENS;\n    int max",
        "lengths[sequence] / SPLIT_TOKENS;\n    int max",
    ),
    Mutant(
        "sum-first-split-only",
        "tail off by one",
        "softmax.cu",
        "base < n_splits; base += TEAMS",
        "base < 1; base += TEAMS",
    ),
    Mutant(
        "store-page-one-short",
        "tail off by one",
        "store.cu",
        "end = min(length + n_new, (page_index + 1) * PAGE_TOKENS);",
        "end = min(length + n_new - 1, (page_index + 1) * PAGE_TOKENS);",
    ),
    # A barrier that is missing.
    Mutant(
        "store-barrier-before-nibbles",
        "missing barrier",
        "store.cu",
        "            warp_maxima[channel / WARP] = top;\n        __syncthreads();",
        "            warp_maxima[channel / WARP] = top;",
    ),
    Mutant(
        "store-barrier-at-end",
        "missing barrier",
        "store.cu",
        "__syncthreads();  // before the next token overwrites the tile",
        ";",
    ),
    Mutant(
        "softmax-barrier-tops",
        "missing barrier",
        "softmax.cu",
        "        tops[threadIdx.x / WARP] = top;\n    __syncthreads();\n    top = tops[0];",
        "        tops[threadIdx.x / WARP] = top;\n    top = tops[0];",
    ),
    Mutant(
        "softmax-barrier-lanes",
        "missing barrier",
        "softmax.cu",
        "        lanes[team][lane] = sum;\n        __syncthreads();",
        "        lanes[team][lane] = sum;",
    ),
    Mutant(
        "softmax-barrier-splits",
        "missing barrier",
        "softmax.cu",
        "                splits[team] = sum;\n        }\n        __syncthreads();",
        "                splits[team] = sum;\n        }",
    ),
    Mutant("values-warp-barrier", "missing barrier", "values.cu", "    __syncwarp();\n", ""),
    Mutant("keys-barrier", "missing barrier", "scores.cuh", "#endif\n    __syncthreads();\n}", "#endif\n}"),
    # A head that is skipped or mistaken for another.
    Mutant(
        "group-last-head-lost",
        "skipped head",
        "scores.cuh",
        "for (int head = 0; head < GROUP; ++head)\n            diff",
        "for (int head = 0; head < GROUP - 1; ++head)\n            diff",
    ),
    Mutant(
        "values-group-first-head-only",
        "skipped head",
        "values.cu",
        "        diff = min(diff, references[head] - exponent",
        "        if (head == 0) diff = min(diff, references[head] - exponent",
    ),
    Mutant(
        "softmax-wrong-kv-head", "skipped head", "softmax.cu", "kv_head = head / GROUP,", "kv_head = 0 * head / GROUP,"
    ),
    Mutant(
        "values-head-swapped",
        "skipped head",
        "values.cu",
        "sums[head][i] = __fmaf_rn(p[warp][head][at]",
        "sums[head][i] = __fmaf_rn(p[warp][GROUP - 1 - head][at]",
    ),
    # Tokens or channels in the wrong order or place.
    Mutant(
        "tokens-swapped",
        "swapped tokens",
        "keys.cu",
        "row[i] = __fmul_rn(sums[head][i], scale);",
        "row[i ^ (position + 3 < length)] = __fmul_rn(sums[head][i], scale);",
    ),
    Mutant(
        "sum-order-reversed",
        "order of operations",
        "combine.cu",
        "own[(uint64)split * HEAD_DIM]",
        "own[(uint64)(n_splits - 1 - split) * HEAD_DIM]",
    ),
    Mutant(
        "channels-descending",
        "order of operations",
        "scores.cuh",
        "for (int channel = 0; channel < HEAD_DIM; ++channel) {\n        Codes",
        "for (int channel = HEAD_DIM - 1; channel >= 0; --channel) {\n        Codes",
    ),
    Mutant(
        "lane-tree-changed",
        "order of operations",
        "softmax.cu",
        "__fadd_rn(sum, __shfl_down_sync(ALL_LANES, sum, offset))",
        "__fadd_rn(sum, __shfl_down_sync(ALL_LANES, sum, WARP / 2 / offset))",
    ),
    # Arithmetic that is not the stated one.
    # mul and add instead of the scores' fma would be no defect: the product of two 16-bit codes is exact in binary32.
    Mutant(
        "scores-round-toward-zero",
        "arithmetic",
        "scores.cuh",
        "__fmaf_rn(q[channel][head], key, sums[head][i])",
        "__fmaf_rz(q[channel][head], key, sums[head][i])",
    ),
    Mutant(
        "values-not-fused",
        "arithmetic",
        "values.cu",
        "__fmaf_rn(p[warp][head][at], value, sums[head][i])",
        "__fadd_rn(__fmul_rn(p[warp][head][at], value), sums[head][i])",
    ),
    Mutant(
        "division-approximate",
        "arithmetic",
        "softmax.cu",
        "__fdiv_rn(weight(own_scores[t], maximum), sum)",
        "__fmul_rn(weight(own_scores[t], maximum), __frcp_rn(sum))",
    ),
    Mutant(
        "scaled-twice",
        "arithmetic",
        "scores.cuh",
        "__fmaf_rn(q[channel][head], key, sums",
        "__fmaf_rn(__fmul_rn(q[channel][head], 0.125f), key, sums",
    ),
    Mutant("exp2-coefficient", "arithmetic", "exp2.cuh", "__fmaf_rn(y, f, EXP2_C3)", "__fmaf_rn(y, f, EXP2_C4)"),
    Mutant("exp2-truncated", "arithmetic", "exp2.cuh", "rintf(x)", "truncf(x)"),
    # The rule itself.
    Mutant("threshold-7", "rule", "planes.cuh", "spare >= 8)", "spare >= 7)"),
    Mutant("threshold-strict", "rule", "planes.cuh", "spare >= 4 ?", "spare > 4 ?"),
    Mutant(
        "key-top-of-first-head", "rule", "scores.cuh", "diff = min(diff, tops[head] -", "diff = min(diff, tops[0] -"
    ),
    Mutant("prepass-weakest", "rule", "softmax.cu", "best_t < 0 || p > best_p ||", "best_t < 0 || p < best_p ||"),
    Mutant("prepass-tie-late", "rule", "softmax.cu", "(p == best_p && t < best_t)", "(p == best_p && t > best_t)"),
    Mutant(
        "prepass-full-read",
        "rule",
        "softmax.cu",
        "% PAGE_TOKENS * HEAD_DIM + channel, LEAST_BITS)",
        "% PAGE_TOKENS * HEAD_DIM + channel, 16)",
    ),
    Mutant("estimate-signed", "rule", "softmax.cu", "fabsf(codes.value(i))", "codes.value(i)"),
    Mutant(
        "margin-of-one-channel",
        "rule",
        "softmax.cu",
        "margin = min(margin, exponent_of(expected[i])",
        "margin = min(1000, exponent_of(expected[i])",
    ),
    Mutant("skip-late", "rule", "values.cu", "diff >= SKIP_DIFF)", "diff > SKIP_DIFF)", rule="aligned-skip"),
    Mutant(
        "top-without-values",
        "rule",
        "softmax.cu",
        "exponent_of(p) + token_maxima[token]",
        "exponent_of(p) + token_maxima[token] / 256",
        rule="aligned-max",
    ),
    Mutant(
        "subnormals-by-field", "rule", "planes.cuh", "max((int)EXPONENT_FIELD(code), 1)", "(int)EXPONENT_FIELD(code)"
    ),
    # Metadata.
    Mutant(
        "maxima-not-running",
        "metadata",
        "store.cu",
        "int key_top = key_maxima[own], value_top",
        "int key_top = 0, value_top",
    ),
    Mutant(
        "maxima-signed",
        "metadata",
        "store.cu",
        "key_top = max(key_top, biased_exponent(new_keys[source]));",
        "if (new_keys[source] < 0x8000) key_top = max(key_top, biased_exponent(new_keys[source]));",
    ),
    Mutant(
        "token-maximum-first-warp",
        "metadata",
        "store.cu",
        "warp < HEAD_DIM / WARP; ++warp)",
        "warp < 1; ++warp)",
        rule="aligned-max",
    ),
    # Addresses.
    Mutant(
        "page-of-neighbour",
        "address",
        "keys.cu",
        "block_table[sequence * max_pages + page_index], n_kv_heads",
        "block_table[sequence * max_pages + max(page_index - 1, 0)], n_kv_heads",
    ),
    Mutant(
        "out-of-bounds",
        "address",
        "scores.cuh",
        "planes.load<TOKENS>(channel * PAGE_TOKENS + token,",
        "planes.load<TOKENS>((channel + HEAD_DIM * 4000) * PAGE_TOKENS + token,",
    ),
    Mutant("half-plane-stride", "address", "planes.cuh", "second = p4 + at / 2;", "second = p4 + at / 4;"),
    Mutant(
        "misaligned-load",
        "address",
        "values.cu",
        "t * HEAD_DIM + lane * CHANNELS, width)",
        "t * HEAD_DIM + lane * CHANNELS + 1, width)",
    ),
)

MUTANTS = TWO_PASS_MUTANTS + ONE_PASS_MUTANTS
