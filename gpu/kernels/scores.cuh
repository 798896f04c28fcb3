// Scores of a page from keys read in part: what the key rule asks for, and the chain of fused multiply-adds.
//
// The including file defines THREADS, the size of its blocks.
#pragma once

#define TOKENS 4                               // neighbouring tokens per thread
#define PAGE_THREADS (PAGE_TOKENS / TOKENS)    // threads that take a page

static __device__ __forceinline__ void load_queries(const uint16* queries, float (*q)[GROUP])
{
    for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += THREADS)
        q[i % HEAD_DIM][i / HEAD_DIM] = value_of_code(queries[i]);
}

// Bits of every channel for this step: the widest need of the group, each head's diff taken against its own largest
// term. All threads of the block take part.
static __device__ void decide_key_bits(const uint8* maxima, const uint16* queries, int kv_head, const int* policy, uint8* bits)
{
#if RULE == RULE_FULL || RULE == RULE_STATIC
    for (int channel = threadIdx.x; channel < HEAD_DIM; channel += THREADS)
        bits[channel] = RULE == RULE_FULL ? 16 : policy[kv_head];
#else
    __shared__ int tops[GROUP];
    int lane = threadIdx.x % WARP;
    for (int head = threadIdx.x / WARP; head < GROUP; head += THREADS / WARP) {
        int top = -1000;
        for (int channel = lane; channel < HEAD_DIM; channel += WARP)
            top = max(top, biased_exponent(queries[head * HEAD_DIM + channel]) + maxima[channel]);
        for (int offset = WARP / 2; offset; offset /= 2)
            top = max(top, __shfl_xor_sync(ALL_LANES, top, offset));
        if (lane == 0)
            tops[head] = top;
    }
    __syncthreads();
    for (int channel = threadIdx.x; channel < HEAD_DIM; channel += THREADS) {
        int diff = 1000;
        for (int head = 0; head < GROUP; ++head)
            diff = min(diff, tops[head] - biased_exponent(queries[head * HEAD_DIM + channel]) - maxima[channel]);
        bits[channel] = bits_for(diff);
    }
#endif
    __syncthreads();
}

// Dot products of tokens `token` to `token + TOKENS - 1` of a page with the queries of the group, channels ascending.
static __device__ __forceinline__ void dot_tokens(
    const Planes& planes, const float (*q)[GROUP], const uint8* bits, int token, float (&sums)[GROUP][TOKENS])
{
#pragma unroll 8
    for (int channel = 0; channel < HEAD_DIM; ++channel) {
        Codes<TOKENS> codes = planes.load<TOKENS>(channel * PAGE_TOKENS + token, bits[channel]);
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
            float key = codes.value(i);
#pragma unroll
            for (int head = 0; head < GROUP; ++head)
                sums[head][i] = __fmaf_rn(q[channel][head], key, sums[head][i]);
        }
    }
}
