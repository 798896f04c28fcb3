// Codes in planes 8|4|4, and what a code means to the arithmetic.
//
// One source serves every configuration; the compiler is given
//   HEAD_DIM        64, 96, 128 or 256
//   GROUP           query heads that share a kv head, 1 to 8
//   BFLOAT16        1 for bfloat16 codes, 0 for binary16
//   RULE            one of the RULE_* below
//   GUARD_BITS      bits kept beyond what the rule asks for
//   SKIP_DIFF       exponent difference from which RULE_ALIGNED_SKIP leaves a token out
//   SPLIT_TOKENS    tokens per split, a multiple of 64
//
// Layout of the buffers (page = 64 tokens; `page` is an entry of the block table):
//   key planes      first [page][kv_head][HEAD_DIM][64] bytes, second and third [page][kv_head][HEAD_DIM][32] bytes
//   value planes    first [page][kv_head][64][HEAD_DIM] bytes, second and third [page][kv_head][64][HEAD_DIM / 2] bytes
//   4-bit planes    code 2i in the low nibble of byte i, code 2i + 1 in the high one
#pragma once

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;

#define RULE_FULL 0
#define RULE_ALIGNEDKV 1
#define RULE_ALIGNED_MAX 2
#define RULE_ALIGNED_SKIP 3
#define RULE_STATIC 4
#define RULE_ONLINE 5

#define PAGE_TOKENS 64
#define WARP 32
#define ALL_LANES 0xffffffffu

#if BFLOAT16
#define EXPONENT_BIAS 127
#define EXPONENT_FIELD(code) (((code) >> 7) & 0xff)
#define LEAST_BITS 12  // the first plane ends inside the exponent
#else
#define EXPONENT_BIAS 15
#define EXPONENT_FIELD(code) (((code) >> 10) & 0x1f)
#define LEAST_BITS 8
#endif

// Exponent of the binade of a binary32 number; -126 for subnormals and zero.
static __device__ __forceinline__ int exponent_of(float x)
{
    int field = (__float_as_int(x) >> 23) & 0xff;
    return max(field, 1) - 127;
}

// Biased exponent of the binade of a 16-bit code; that of the smallest normal number, 1, for subnormals and zero. The
// maxima are kept as these, one byte each; 0 stands for "of nothing yet".
static __device__ __forceinline__ int biased_exponent(uint32 code)
{
    return max((int)EXPONENT_FIELD(code), 1);
}

// The exact binary32 value of a 16-bit code.
static __device__ __forceinline__ float value_of_code(uint32 code)
{
#if BFLOAT16
    return __uint_as_float(code << 16);
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((uint16)code));
    return x;
#endif
}

// Bits to read for an addend whose exponent lies `diff` below the reference: the narrowest read that drops at most that
// many bits.
static __device__ __forceinline__ int bits_for(int diff)
{
    int spare = diff - GUARD_BITS;
    if (LEAST_BITS == 8 && spare >= 8)
        return 8;
    return spare >= 4 ? 12 : 16;
}

// N codes side by side in the planes, N = 2, 4 or 8, loaded with one access per plane. A plane that `bits` does not
// need is not touched; what is not read is replaced by its midpoint (first missing bit 1, the others 0).
template <int N>
struct Codes
{
    uint32 first[(N + 3) / 4];  // byte i: the high byte of code i
    uint32 second, third;       // nibble i: the next four bits, the last four bits of code i

    __device__ __forceinline__ void load(const uint8* p8, const uint8* p4, const uint8* p4_last, int bits)
    {
        second = 0x88888888u;
        third = bits >= 12 ? 0x88888888u : 0u;
        if (N == 2) {
            first[0] = *(const uint16*)p8;
            if (bits >= 12) second = *p4;
            if (bits >= 16) third = *p4_last;
        } else if (N == 4) {
            first[0] = *(const uint32*)p8;
            if (bits >= 12) second = *(const uint16*)p4;
            if (bits >= 16) third = *(const uint16*)p4_last;
        } else {
            uint2 wide = *(const uint2*)p8;
            first[0] = wide.x;
            first[(N + 3) / 4 - 1] = wide.y;
            if (bits >= 12) second = *(const uint32*)p4;
            if (bits >= 16) third = *(const uint32*)p4_last;
        }
    }

    __device__ __forceinline__ float value(int i) const
    {
        uint32 high = (first[i / 4] >> (8 * (i % 4))) & 0xff;
        return value_of_code((high << 8) | (((second >> (4 * i)) & 0xf) << 4) | ((third >> (4 * i)) & 0xf));
    }
};

// Where one head's part of a page begins in each plane; `row` bytes of the first plane make one row of it.
struct Planes
{
    const uint8* first;
    const uint8* second;
    const uint8* third;

    __device__ __forceinline__ Planes(const uint8* p8, const uint8* p4, const uint8* p4_last, int page, int n_kv_heads, int kv_head)
    {
        uint64 at = ((uint64)page * n_kv_heads + kv_head) * (PAGE_TOKENS * HEAD_DIM);
        first = p8 + at;
        second = p4 + at / 2;
        third = p4_last + at / 2;
    }

    // N codes from element `at` of this head's page on.
    template <int N>
    __device__ __forceinline__ Codes<N> load(int at, int bits) const
    {
        Codes<N> codes;
        codes.load(first + at, second + at / 2, third + at / 2, bits);
        return codes;
    }
};
