"""Seeded defects of the one-pass kernels."""

from __future__ import annotations

from precalign.gpu.validate.mutant import Mutant


def _once(name: str, kind: str, old: str, new: str, rule: str = "online") -> Mutant:
    """Return a defect of the one-pass kernels."""
    return Mutant(name, kind, "one_pass.cu", old, new, rule, one_pass=True)


ONE_PASS_MUTANTS = (
    # What only a kernel that rescales can get wrong.
    _once("rescale-forgotten", "rescaling", "__fmul_rn(sums[head][i], rescale[head][page])", "sums[head][i]"),
    _once(
        "rescale-of-lanes-forgotten",
        "rescaling",
        "__fmaf_rn(lane_sums[head], rescale[head][page], w)",
        "__fadd_rn(lane_sums[head], w)",
    ),
    _once("rescale-inverted", "rescaling", "weight(running, raised)", "__frcp_rn(weight(running, raised))"),
    _once(
        "rescale-one-page-late",
        "rescaling",
        "__fmul_rn(sums[head][i], rescale[head][page])",
        "__fmul_rn(sums[head][i], rescale[head][max(page - 1, 0)])",
    ),
    _once(
        "weights-against-own-page",
        "rescaling",
        "page_top[head][page] = running = raised;",
        "running = raised;",
    ),
    _once(
        "combine-unscaled",
        "rescaling",
        "sum = __fmaf_rn(partials[(at + split) * HEAD_DIM + threadIdx.x], scale, sum);",
        "sum = __fadd_rn(partials[(at + split) * HEAD_DIM + threadIdx.x], sum);",
    ),
    _once(
        "combine-first-maximum",
        "rescaling",
        "top = fmaxf(top, split_maxima[at + split]);",
        "top = split_maxima[at];",
    ),
    # The running maximum of the rule.
    _once(
        "seed-forgotten", "rule", "int exponent = references[head_of_all * GROUP + head];", "int exponent = -(1 << 29);"
    ),
    _once(
        "seed-of-neighbour",
        "skipped head",
        "int exponent = references[head_of_all * GROUP + head];",
        "int exponent = references[head_of_all * GROUP + (head ^ (head + 1 < GROUP))];",
    ),
    _once("seed-oldest-page", "rule", "page_index = (length - 1) / PAGE_TOKENS;", "page_index = 0 * length;"),
    _once(
        "seed-one-token-short",
        "tail off by one",
        "int count = length - page_index * PAGE_TOKENS;",
        "int count = max(1, length - page_index * PAGE_TOKENS - 1);",
    ),
    _once("addend-rounded", "rule", "__float2int_rd(binades)", "__float2int_rn(binades)"),
    _once("addend-truncated", "rule", "__float2int_rd(binades)", "__float2int_rz(binades)"),
    _once("addend-without-values", "rule", "+ token_maximum - EXPONENT_BIAS", "+ 0 * token_maximum"),
    _once(
        "maximum-of-this-page-only",
        "rule",
        "exponent = max(exponent, page_exponent[head][page]);",
        "exponent = page_exponent[head][page];",
    ),
    _once(
        "group-widest-forgotten",
        "skipped head",
        "            for (int head = 0; head < GROUP; ++head)\n                diff",
        "            for (int head = 0; head < 1; ++head)\n                diff",
    ),
    # Reads.
    _once(
        "values-always-whole",
        "plane read in vain",
        "threadIdx.x * CHANNELS, widths[at]);",
        "threadIdx.x * CHANNELS, 16); codes.third = widths[at] < 16 ? (widths[at] < 12 ? 0u : 0x88888888u) : codes.third;"
        " codes.second = widths[at] < 12 ? 0x88888888u : codes.second;",
    ),
    _once(
        "keys-read-twice",
        "plane read in vain",
        "        dot_tokens(planes, q, bits, token, sums);\n",
        "        dot_tokens(planes, q, bits, token, sums);\n        if (gridDim.z > 1) {\n"
        "            float again[GROUP][TOKENS] = {};\n            dot_tokens(planes, q, bits, token, again);\n"
        "            sums[0][0] = fmaxf(sums[0][0], again[0][0]);\n        }\n",
    ),
    _once(
        "values-tail-one-short",
        "tail off by one",
        "int last = min(PAGE_TOKENS, count - page * PAGE_TOKENS);",
        "int last = min(PAGE_TOKENS, count - page * PAGE_TOKENS - 1);",
    ),
    _once("split-tail-one-long", "tail off by one", "bool visible = t < count;", "bool visible = t <= count;"),
    _once(
        "combine-last-split-lost-once",
        "tail off by one",
        "(lengths[sequence] + SPLIT_TOKENS - 1) / SPLIT_TOKENS;",
        "max(1, lengths[sequence] / SPLIT_TOKENS);",
    ),
    # Barriers.
    _once(
        "scores-barrier",
        "missing barrier",
        "                s[head * stride + position + i] = __fmul_rn(sums[head][i], scale);\n    }\n    __syncthreads();",
        "                s[head * stride + position + i] = __fmul_rn(sums[head][i], scale);\n    }",
    ),
    _once(
        "page-maxima-barrier",
        "missing barrier",
        "            page_exponent[head][page] = exponent;\n        }\n    }\n    __syncthreads();",
        "            page_exponent[head][page] = exponent;\n        }\n    }",
    ),
    _once(
        "running-maxima-barrier",
        "missing barrier",
        "        split_maxima[at] = running;\n    }\n    __syncthreads();",
        "        split_maxima[at] = running;\n    }",
    ),
    _once(
        "lanes-barrier",
        "missing barrier",
        "            upper[head][lane] = lane_sums[head];\n    __syncthreads();",
        "            upper[head][lane] = lane_sums[head];",
    ),
    # Order and arithmetic.
    _once(
        "splits-descending",
        "order of operations",
        "        float scale = weight(split_maxima[at + split], top);\n",
        "        float scale = weight(split_maxima[at + (n_splits - 1 - split)], top);\n",
    ),
    _once(
        "lanes-not-fused",
        "arithmetic",
        "__fmaf_rn(lane_sums[head], rescale[head][page], w)",
        "__fadd_rn(__fmul_rn(lane_sums[head], rescale[head][page]), w)",
    ),
    _once("divided-early", "arithmetic", "__fdiv_rn(sum, total)", "__fmul_rn(sum, __frcp_rn(total))"),
    _once(
        "weights-swapped",
        "swapped tokens",
        "sums[head][i] = __fmaf_rn(s[head][at], value",
        "sums[head][i] = __fmaf_rn(s[head][at ^ (at + 1 < count)], value",
    ),
    _once(
        "policy-of-first-head",
        "skipped head",
        "RULE == RULE_STATIC ? value_policy[kv_head] : 16",
        "RULE == RULE_STATIC ? value_policy[0] : 16",
        rule="static",
    ),
)
