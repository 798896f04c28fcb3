// Place of the largest number of each row, a warp a row; of equal ones the first.
extern "C" __global__ void argmax(const float* in, int columns, int* place)
{
    const float* row = in + blockIdx.x * columns;
    float best = -__int_as_float(0x7f800000);
    int at = -1;
    for (int i = threadIdx.x; i < columns; i += 32)
        if (at < 0 || row[i] > best) {
            best = row[i];
            at = i;
        }
    for (int offset = 16; offset; offset /= 2) {
        float other = __shfl_down_sync(0xffffffff, best, offset);
        int other_at = __shfl_down_sync(0xffffffff, at, offset);
        if (other_at >= 0 && (at < 0 || other > best || (other == best && other_at < at))) {
            best = other;
            at = other_at;
        }
    }
    if (threadIdx.x == 0)
        place[blockIdx.x] = at;
}
