// Inclusive prefix sum of one block, two buffers in turn.
extern "C" __global__ void scan(const int* in, int* out)
{
    extern __shared__ int buffers[];
    int n = blockDim.x, t = threadIdx.x, from = 0, to = n;
    buffers[t] = in[t];
    __syncthreads();
    for (int step = 1; step < n; step *= 2) {
        buffers[to + t] = t >= step ? buffers[from + t] + buffers[from + t - step] : buffers[from + t];
        __syncthreads();
        int swap = from;
        from = to;
        to = swap;
    }
    out[t] = buffers[from + t];
}
