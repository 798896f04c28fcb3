// Split new tokens into planes and keep the maxima of exponents that the rules need.
#include "planes.cuh"

// Replace the code of token `token` in a page of the key planes; `channel` rows of 64 tokens.
static __device__ __forceinline__ void put_key(uint8* p8, uint8* p4, uint8* p4_last, int channel, int token, uint32 code)
{
    int at = channel * PAGE_TOKENS + token, shift = 4 * (token & 1), keep = 0xf0 >> shift;
    p8[at] = code >> 8;
    p4[at / 2] = (p4[at / 2] & keep) | (((code >> 4) & 0xf) << shift);
    p4_last[at / 2] = (p4_last[at / 2] & keep) | ((code & 0xf) << shift);
}

// grid (pages that a sequence's new tokens can touch, n_kv_heads, batch_size), block HEAD_DIM threads. One block owns one
// page of one kv head, so the two tokens that share a byte of a 4-bit key plane are written by one thread.
extern "C" __global__ void __launch_bounds__(HEAD_DIM) store(
    const uint16* __restrict__ new_keys,    // [new token][kv_head][HEAD_DIM] codes
    const uint16* __restrict__ new_values,  // the same
    const int* __restrict__ new_starts,     // [batch + 1]: where a sequence's new tokens begin among the new tokens
    const int* __restrict__ lengths,        // [batch]: tokens that the sequence held before
    const int* __restrict__ block_table,    // [batch][max_pages]
    int max_pages, int n_kv_heads,
    uint8* key_first, uint8* key_second, uint8* key_third,
    uint8* value_first, uint8* value_second, uint8* value_third,
    uint8* token_maxima)                    // [page][kv_head][64] largest biased exponent of a token's values
{
    __shared__ uint16 tile[HEAD_DIM];
    __shared__ int warp_maxima[HEAD_DIM / WARP];
    int channel = threadIdx.x, kv_head = blockIdx.y, sequence = blockIdx.z;
    int length = lengths[sequence], n_new = new_starts[sequence + 1] - new_starts[sequence];
    int page_index = length / PAGE_TOKENS + blockIdx.x;
    int begin = max(length, page_index * PAGE_TOKENS), end = min(length + n_new, (page_index + 1) * PAGE_TOKENS);
    if (begin >= end || page_index >= max_pages)
        return;  // the whole block; what finds no place is counted by store_lengths
    uint64 head_page = (uint64)block_table[sequence * max_pages + page_index] * n_kv_heads + kv_head;
    uint64 at = head_page * (PAGE_TOKENS * HEAD_DIM);

    for (int position = begin; position < end; ++position) {
        uint64 source = ((uint64)(new_starts[sequence] + position - length) * n_kv_heads + kv_head) * HEAD_DIM + channel;
        int token = position % PAGE_TOKENS;
        uint32 value = new_values[source];
        put_key(key_first + at, key_second + at / 2, key_third + at / 2, channel, token, new_keys[source]);

        // A token's values: bytes by every thread, nibbles two channels at a time.
        value_first[at + token * HEAD_DIM + channel] = value >> 8;
        tile[channel] = value;
        int top = biased_exponent(value);
        for (int offset = WARP / 2; offset; offset /= 2)
            top = max(top, __shfl_xor_sync(ALL_LANES, top, offset));
        if (channel % WARP == 0)
            warp_maxima[channel / WARP] = top;
        __syncthreads();
        if (channel < HEAD_DIM / 2) {
            uint32 low = tile[2 * channel], high = tile[2 * channel + 1];
            uint64 byte = at / 2 + token * (HEAD_DIM / 2) + channel;
            value_second[byte] = ((low >> 4) & 0xf) | (high & 0xf0);
            value_third[byte] = (low & 0xf) | ((high & 0xf) << 4);
        }
        if (channel == 0) {
            for (int warp = 1; warp < HEAD_DIM / WARP; ++warp)
                top = max(top, warp_maxima[warp]);
            token_maxima[head_page * PAGE_TOKENS + token] = top;
        }
        __syncthreads();  // before the next token overwrites the tile
    }
}

// grid (1, n_kv_heads, batch_size), block HEAD_DIM threads: one thread owns one channel, so no two write the same byte.
extern "C" __global__ void __launch_bounds__(HEAD_DIM) store_maxima(
    const uint16* __restrict__ new_keys, const uint16* __restrict__ new_values, const int* __restrict__ new_starts,
    int n_kv_heads,
    uint8* key_maxima,    // [batch][kv_head][HEAD_DIM] largest biased exponent of a channel so far
    uint8* value_maxima)  // the same for values
{
    int channel = threadIdx.x, kv_head = blockIdx.y, sequence = blockIdx.z;
    int own = (sequence * n_kv_heads + kv_head) * HEAD_DIM + channel;
    int key_top = key_maxima[own], value_top = value_maxima[own];
    for (int token = new_starts[sequence]; token < new_starts[sequence + 1]; ++token) {
        uint64 source = ((uint64)token * n_kv_heads + kv_head) * HEAD_DIM + channel;
        key_top = max(key_top, biased_exponent(new_keys[source]));
        value_top = max(value_top, biased_exponent(new_values[source]));
    }
    key_maxima[own] = key_top;
    value_maxima[own] = value_top;
}

// grid (ceil(batch_size / 32)), block 32 threads: the sequences have grown, at most to their capacity.
extern "C" __global__ void __launch_bounds__(WARP) store_lengths(
    const int* __restrict__ new_starts, int batch_size, int capacity,
    int* lengths,  // [batch]
    int* lost)     // [batch] tokens that found no place
{
    int sequence = blockIdx.x * WARP + threadIdx.x;
    if (sequence >= batch_size)
        return;
    int grown = lengths[sequence] + new_starts[sequence + 1] - new_starts[sequence];
    lengths[sequence] = min(grown, capacity);
    if (grown > capacity)
        lost[sequence] += grown - capacity;
}
