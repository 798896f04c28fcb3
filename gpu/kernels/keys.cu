// Scores of one decode step, reading of each key channel only the planes that the rule asks for.
//
// grid (ceil(pages / 8), n_kv_heads, batch_size), block 128 threads. A half warp takes a page, a thread four neighbouring
// tokens of it for all query heads of the group, so that a channel's row of a page is one coalesced access and every
// score is one chain of fused multiply-adds over ascending channels.
#define THREADS 128
#include "planes.cuh"
#include "scores.cuh"

#define PAGES (THREADS / PAGE_THREADS)  // per block

extern "C" __global__ void __launch_bounds__(THREADS) key_scores(
    const uint16* __restrict__ queries,   // [batch][q_head][HEAD_DIM] codes
    const int* __restrict__ lengths,      // [batch]
    const int* __restrict__ block_table,  // [batch][max_pages]
    int max_pages, int n_kv_heads, float scale,
    const uint8* __restrict__ first, const uint8* __restrict__ second, const uint8* __restrict__ third,
    const uint8* __restrict__ key_maxima,  // [batch][kv_head][HEAD_DIM]
    const int* __restrict__ policy,       // [kv_head] bits, for RULE_STATIC
    uint8* key_bits,                      // out [batch][kv_head][HEAD_DIM]
    float* scores)                        // out [batch][q_head][max_pages * 64]
{
    __shared__ __align__(16) float q[HEAD_DIM][GROUP];
    __shared__ uint8 bits[HEAD_DIM];
    int kv_head = blockIdx.y, sequence = blockIdx.z, length = lengths[sequence];
    if (blockIdx.x * PAGES * PAGE_TOKENS >= length)
        return;  // the whole block, before any barrier
    int head_of_all = sequence * n_kv_heads + kv_head;
    const uint16* own_queries = queries + (uint64)head_of_all * GROUP * HEAD_DIM;

    load_queries(own_queries, q);
    decide_key_bits(key_maxima + head_of_all * HEAD_DIM, own_queries, kv_head, policy, bits);
    if (blockIdx.x == 0)
        for (int channel = threadIdx.x; channel < HEAD_DIM; channel += THREADS)
            key_bits[head_of_all * HEAD_DIM + channel] = bits[channel];

    int page_index = blockIdx.x * PAGES + threadIdx.x / PAGE_THREADS;
    int token = threadIdx.x % PAGE_THREADS * TOKENS;
    int position = page_index * PAGE_TOKENS + token;
    if (position >= length)
        return;
    Planes planes(first, second, third, block_table[sequence * max_pages + page_index], n_kv_heads, kv_head);

    float sums[GROUP][TOKENS] = {};
    dot_tokens(planes, q, bits, token, sums);
#pragma unroll
    for (int head = 0; head < GROUP; ++head) {
        float* row = scores + ((uint64)head_of_all * GROUP + head) * max_pages * PAGE_TOKENS + position;
#pragma unroll
        for (int i = 0; i < TOKENS; ++i)
            if (position + i < length)
                row[i] = __fmul_rn(sums[head][i], scale);
    }
}
