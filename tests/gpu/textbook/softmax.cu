// Softmax of each row, a warp a row.
extern "C" __global__ void softmax(const float* in, float* out, int columns)
{
    const float* row = in + blockIdx.x * columns;
    float top = -__int_as_float(0x7f800000), sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += 32)
        top = fmaxf(top, row[i]);
    for (int offset = 16; offset; offset /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, offset));
    for (int i = threadIdx.x; i < columns; i += 32)
        sum += expf(row[i] - top);
    for (int offset = 16; offset; offset /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, offset);
    for (int i = threadIdx.x; i < columns; i += 32)
        out[blockIdx.x * columns + i] = expf(row[i] - top) / sum;
}
