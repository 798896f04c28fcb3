// A decode step that goes over keys and values once: scores and probabilities stay in shared memory.
//
//   newest            what the newest page knows: the exponent of its largest addend, where the running maximum begins
//   one_pass          a split per block: scores, bits of the values, weights against the running maximum, sums
//   one_pass_combine  splits scaled to the largest score of all, added in ascending order, divided once
//
// docs/architecture.md states the order, operation by operation.
#define THREADS 64
#include "planes.cuh"
#include "exp2.cuh"
#include "scores.cuh"

#define WARPS (THREADS / WARP)
#define PAGES (SPLIT_TOKENS / PAGE_TOKENS)
#define MINUS_INFINITY (-__int_as_float(0x7f800000))

// A value row is shared by both warps where each still reads whole sectors of every plane.
#if HEAD_DIM == 64
#define CHANNELS 2
#elif HEAD_DIM == 96
#define CHANNELS 4
#else
#define CHANNELS (HEAD_DIM / THREADS)
#endif
#define VALUE_THREADS (HEAD_DIM / CHANNELS)

// Exponent of a token's addend, floor(s log2 e) + max_c E(v): neither the maximum nor the sum of the softmax is needed,
// they would shift all alike.
static __device__ __forceinline__ int addend_exponent(float score, int token_maximum)
{
    float binades = fminf(fmaxf(__fmul_rn(score, LOG2E), -16777216.0f), 16777216.0f);
    return __float2int_rd(binades) + token_maximum - EXPONENT_BIAS;
}

static __device__ __forceinline__ float warp_maximum(float x)
{
    for (int offset = WARP / 2; offset; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

static __device__ __forceinline__ int warp_maximum(int x)
{
    for (int offset = WARP / 2; offset; offset /= 2)
        x = max(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// Scores of up to `n_pages` pages from `begin` on, into s[GROUP][stride]; a quarter of the threads takes a page.
static __device__ void page_scores(
    const uint8* first, const uint8* second, const uint8* third, const int* pages, int n_kv_heads, int kv_head,
    const float (*q)[GROUP], const uint8* bits, float scale, int count, float* s, int stride)
{
    int token = threadIdx.x % PAGE_THREADS * TOKENS, page = threadIdx.x / PAGE_THREADS;
    int position = page * PAGE_TOKENS + token;
    if (position < count) {
        Planes planes(first, second, third, pages[page], n_kv_heads, kv_head);
        float sums[GROUP][TOKENS] = {};
        dot_tokens(planes, q, bits, token, sums);
#pragma unroll
        for (int head = 0; head < GROUP; ++head)
#pragma unroll
            for (int i = 0; i < TOKENS; ++i)
                s[head * stride + position + i] = __fmul_rn(sums[head][i], scale);
    }
    __syncthreads();
}

// grid (n_kv_heads, batch_size), block 64 threads.
extern "C" __global__ void __launch_bounds__(THREADS) newest(
    const uint16* __restrict__ queries,   // [batch][q_head][HEAD_DIM] codes
    const int* __restrict__ lengths,      // [batch]
    const int* __restrict__ block_table,  // [batch][max_pages]
    int max_pages, int n_kv_heads, float scale,
    const uint8* __restrict__ first, const uint8* __restrict__ second, const uint8* __restrict__ third,
    const uint8* __restrict__ key_maxima,    // [batch][kv_head][HEAD_DIM]
    const uint8* __restrict__ token_maxima,  // [page][kv_head][64]
    const int* __restrict__ policy,          // [kv_head] bits, for RULE_STATIC
    int* references)                         // out [batch][q_head]
{
    __shared__ __align__(16) float q[HEAD_DIM][GROUP];
    __shared__ float s[GROUP][PAGE_TOKENS];
    __shared__ uint8 bits[HEAD_DIM];
    int kv_head = blockIdx.x, sequence = blockIdx.y, length = lengths[sequence];
    if (length == 0)
        return;
    int head_of_all = sequence * n_kv_heads + kv_head, page_index = (length - 1) / PAGE_TOKENS;
    int count = length - page_index * PAGE_TOKENS;
    const int* pages = block_table + sequence * max_pages + page_index;
    const uint16* own_queries = queries + (uint64)head_of_all * GROUP * HEAD_DIM;

    load_queries(own_queries, q);
    decide_key_bits(key_maxima + head_of_all * HEAD_DIM, own_queries, kv_head, policy, bits);
    page_scores(first, second, third, pages, n_kv_heads, kv_head, q, bits, scale, count, &s[0][0], PAGE_TOKENS);

    const uint8* tops = token_maxima + ((uint64)pages[0] * n_kv_heads + kv_head) * PAGE_TOKENS;
    for (int head = threadIdx.x / WARP; head < GROUP; head += WARPS) {
        int top = -(1 << 30);
        for (int t = threadIdx.x % WARP; t < count; t += WARP)
            top = max(top, addend_exponent(s[head][t], tops[t]));
        top = warp_maximum(top);
        if (threadIdx.x % WARP == 0)
            references[head_of_all * GROUP + head] = top;
    }
}

// grid (splits, n_kv_heads, batch_size), block 64 threads.
extern "C" __global__ void __launch_bounds__(THREADS) one_pass(
    const uint16* __restrict__ queries,   // [batch][q_head][HEAD_DIM] codes
    const int* __restrict__ lengths,      // [batch]
    const int* __restrict__ block_table,  // [batch][max_pages]
    int max_pages, int n_kv_heads, float scale,
    const uint8* __restrict__ key_first, const uint8* __restrict__ key_second, const uint8* __restrict__ key_third,
    const uint8* __restrict__ value_first, const uint8* __restrict__ value_second, const uint8* __restrict__ value_third,
    const uint8* __restrict__ key_maxima,    // [batch][kv_head][HEAD_DIM]
    const uint8* __restrict__ token_maxima,  // [page][kv_head][64]
    const int* __restrict__ references,      // [batch][q_head], for RULE_ONLINE
    const int* __restrict__ key_policy, const int* __restrict__ value_policy,  // [kv_head] bits, for RULE_STATIC
    uint8* key_bits,                         // out [batch][kv_head][HEAD_DIM]
    uint8* value_bits,                       // out [batch][kv_head][max_pages * 64]
    float* split_maxima, float* split_sums,  // out [batch][q_head][max_splits]
    float* partials)                         // out [batch][q_head][max_splits][HEAD_DIM]
{
    __shared__ __align__(16) float q[HEAD_DIM][GROUP];
    __shared__ float s[GROUP][SPLIT_TOKENS];  // scores, then weights
    __shared__ float page_top[GROUP][PAGES], rescale[GROUP][PAGES], upper[GROUP][WARP];
    __shared__ int page_exponent[GROUP][PAGES];
    __shared__ uint8 bits[HEAD_DIM], tops[SPLIT_TOKENS], widths[SPLIT_TOKENS];
    int split = blockIdx.x, kv_head = blockIdx.y, sequence = blockIdx.z, begin = split * SPLIT_TOKENS;
    int count = min(SPLIT_TOKENS, lengths[sequence] - begin);
    if (count <= 0)
        return;  // the whole block, before any barrier
    int head_of_all = sequence * n_kv_heads + kv_head, lane = threadIdx.x % WARP, n_pages = (count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const int* pages = block_table + sequence * max_pages + begin / PAGE_TOKENS;
    const uint16* own_queries = queries + (uint64)head_of_all * GROUP * HEAD_DIM;

    load_queries(own_queries, q);
#if RULE == RULE_ONLINE
    for (int t = threadIdx.x; t < count; t += THREADS)
        tops[t] = token_maxima[((uint64)pages[t / PAGE_TOKENS] * n_kv_heads + kv_head) * PAGE_TOKENS + t % PAGE_TOKENS];
#endif
    decide_key_bits(key_maxima + head_of_all * HEAD_DIM, own_queries, kv_head, key_policy, bits);
    if (split == 0)
        for (int channel = threadIdx.x; channel < HEAD_DIM; channel += THREADS)
            key_bits[head_of_all * HEAD_DIM + channel] = bits[channel];
    page_scores(key_first, key_second, key_third, pages, n_kv_heads, kv_head, q, bits, scale, count, &s[0][0], SPLIT_TOKENS);

    // The largest score and addend of each page, a warp at a time.
    for (int i = threadIdx.x / WARP; i < GROUP * n_pages; i += WARPS) {
        int head = i / n_pages, page = i % n_pages, exponent = -(1 << 30);
        float top = MINUS_INFINITY;
        for (int t = lane; t < min(PAGE_TOKENS, count - page * PAGE_TOKENS); t += WARP) {
            int at = page * PAGE_TOKENS + t;
            top = fmaxf(top, s[head][at]);
#if RULE == RULE_ONLINE
            exponent = max(exponent, addend_exponent(s[head][at], tops[at]));
#endif
        }
        top = warp_maximum(top);
        exponent = warp_maximum(exponent);
        if (lane == 0) {
            page_top[head][page] = top;
            page_exponent[head][page] = exponent;
        }
    }
    __syncthreads();

    // Running maxima, and what the sums of the pages before are scaled by when a page raises its head's.
    if (threadIdx.x < GROUP) {
        int head = threadIdx.x;
        float running = page_top[head][0];
#if RULE == RULE_ONLINE
        int exponent = references[head_of_all * GROUP + head];
#endif
        for (int page = 0; page < n_pages; ++page) {
            float raised = fmaxf(running, page_top[head][page]);
            rescale[head][page] = weight(running, raised);
            page_top[head][page] = running = raised;
#if RULE == RULE_ONLINE
            page_exponent[head][page] = exponent = max(exponent, page_exponent[head][page]);
#endif
        }
        uint64 at = ((uint64)head_of_all * GROUP + head) * gridDim.x + split;
        split_maxima[at] = running;
    }
    __syncthreads();

    // Bits and weights of the tokens; thread j sums the weights of tokens j, j + 64, ...
    float lane_sums[GROUP] = {};
    for (int page = 0; page < n_pages; ++page) {
        int t = page * PAGE_TOKENS + threadIdx.x;
        bool visible = t < count;
        if (visible) {
            int chosen = RULE == RULE_STATIC ? value_policy[kv_head] : 16;
#if RULE == RULE_ONLINE
            int diff = 1 << 30;
            for (int head = 0; head < GROUP; ++head)
                diff = min(diff, page_exponent[head][page] - addend_exponent(s[head][t], tops[t]));
            chosen = bits_for(diff);
#endif
            widths[t] = chosen;
            value_bits[(uint64)head_of_all * max_pages * PAGE_TOKENS + begin + t] = chosen;
        }
#pragma unroll
        for (int head = 0; head < GROUP; ++head) {
            float w = 0.0f;
            if (visible)
                s[head][t] = w = weight(s[head][t], page_top[head][page]);
            lane_sums[head] = __fmaf_rn(lane_sums[head], rescale[head][page], w);
        }
    }
    if (threadIdx.x >= WARP)
        for (int head = 0; head < GROUP; ++head)
            upper[head][lane] = lane_sums[head];
    __syncthreads();
    if (threadIdx.x < WARP)
#pragma unroll
        for (int head = 0; head < GROUP; ++head) {
            float sum = __fadd_rn(lane_sums[head], upper[head][lane]);
            for (int offset = WARP / 2; offset; offset /= 2)
                sum = __fadd_rn(sum, __shfl_down_sync(ALL_LANES, sum, offset));
            if (lane == 0)
                split_sums[((uint64)head_of_all * GROUP + head) * gridDim.x + split] = sum;
        }

    if (threadIdx.x >= VALUE_THREADS)
        return;
    float sums[GROUP][CHANNELS] = {};
    for (int page = 0; page < n_pages; ++page) {
        Planes planes(value_first, value_second, value_third, pages[page], n_kv_heads, kv_head);
#pragma unroll
        for (int head = 0; head < GROUP; ++head)
#pragma unroll
            for (int i = 0; i < CHANNELS; ++i)
                sums[head][i] = __fmul_rn(sums[head][i], rescale[head][page]);
        int last = min(PAGE_TOKENS, count - page * PAGE_TOKENS);
#pragma unroll 4
        for (int t = 0; t < last; ++t) {
            int at = page * PAGE_TOKENS + t;
            Codes<CHANNELS> codes = planes.load<CHANNELS>(t * HEAD_DIM + threadIdx.x * CHANNELS, widths[at]);
#pragma unroll
            for (int i = 0; i < CHANNELS; ++i) {
                float value = codes.value(i);
#pragma unroll
                for (int head = 0; head < GROUP; ++head)
                    sums[head][i] = __fmaf_rn(s[head][at], value, sums[head][i]);
            }
        }
    }
#pragma unroll
    for (int head = 0; head < GROUP; ++head) {
        float* row = partials + (((uint64)head_of_all * GROUP + head) * gridDim.x + split) * HEAD_DIM + threadIdx.x * CHANNELS;
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i)
            row[i] = sums[head][i];
    }
}

// grid (n_q_heads, batch_size), block HEAD_DIM threads.
extern "C" __global__ void __launch_bounds__(HEAD_DIM) one_pass_combine(
    const float* __restrict__ split_maxima, const float* __restrict__ split_sums,  // [batch][q_head][max_splits]
    const float* __restrict__ partials,                                            // [batch][q_head][max_splits][HEAD_DIM]
    const int* __restrict__ lengths,                                               // [batch]
    int max_pages,
    float* outputs)                                                                // out [batch][q_head][HEAD_DIM]
{
    int sequence = blockIdx.y, n_splits = (lengths[sequence] + SPLIT_TOKENS - 1) / SPLIT_TOKENS;
    int max_splits = (max_pages * PAGE_TOKENS + SPLIT_TOKENS - 1) / SPLIT_TOKENS;
    uint64 row = (uint64)sequence * gridDim.x + blockIdx.x, at = row * max_splits;
    float top = MINUS_INFINITY, total = 0.0f, sum = 0.0f;
    for (int split = 0; split < n_splits; ++split)
        top = fmaxf(top, split_maxima[at + split]);
    for (int split = 0; split < n_splits; ++split) {
        float scale = weight(split_maxima[at + split], top);
        total = __fmaf_rn(split_sums[at + split], scale, total);
        sum = __fmaf_rn(partials[(at + split) * HEAD_DIM + threadIdx.x], scale, sum);
    }
    outputs[row * HEAD_DIM + threadIdx.x] = n_splits ? __fdiv_rn(sum, total) : 0.0f;
}
