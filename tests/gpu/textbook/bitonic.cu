// Bitonic sort of one block's numbers.
extern "C" __global__ void bitonic(int* numbers)
{
    __shared__ int own[256];
    int t = threadIdx.x;
    own[t] = numbers[t];
    for (int size = 2; size <= blockDim.x; size *= 2)
        for (int stride = size / 2; stride; stride /= 2) {
            __syncthreads();
            int partner = t ^ stride;
            if (partner > t) {
                int a = own[t], b = own[partner];
                if ((a > b) == ((t & size) == 0)) {
                    own[t] = b;
                    own[partner] = a;
                }
            }
        }
    __syncthreads();
    numbers[t] = own[t];
}
