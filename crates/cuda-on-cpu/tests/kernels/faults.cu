// Kernels that do one thing wrong, for the tests of the machine; and what they would be if they did not.
#include "cuda_on_cpu.h"

constexpr unsigned THREADS = 64;

struct Parameters {
    const uint32_t *in;
    uint32_t *out;
    // Which fault, if any.
    uint32_t fault, count;
};

struct Shared {
    uint32_t numbers[THREADS];
    alignas(16) uint32_t copied[THREADS];
};

enum Fault : uint32_t {
    NONE,
    BEHIND_THE_END,
    NEVER_WRITTEN,
    NO_BARRIER,
    NOT_ALL_COME,
    ENDS_BEFORE_THE_OTHERS,
    NOT_ALIGNED,
    BEHIND_AN_ARRAY,
    TWO_BLOCKS_ONE_BYTE,
    HALF_A_WARP,
    COPY_NOT_WAITED_FOR,
    COPY_FORGOTTEN,
    SHUFFLE_AFTER_BRANCH,
};

// Each thread gives the sum of its number and its mirror's.
KERNEL(sum_with_mirror, Parameters, THREADS) {
    SHARED(Shared, s);
    const unsigned i = threadIdx.x, first = blockIdx.x * THREADS;
    if (p.fault == ENDS_BEFORE_THE_OTHERS && i == 3)
        return;
    if (p.fault == NO_BARRIER) {
        s.numbers[THREADS - 1 - i] = 0;
        __syncthreads();
    }
    const unsigned far = p.fault == BEHIND_THE_END ? p.count : 0;
    if (p.fault != NEVER_WRITTEN || i != 5)
        s.numbers[i] = p.in[first + i + far];
    if (p.fault == NOT_ALL_COME) {
        if (i >= 32)
            return;
        __syncthreads();
    } else if (p.fault != NO_BARRIER) {
        __syncthreads();
    }
    const unsigned mirror = THREADS - 1 - i + (p.fault == BEHIND_AN_ARRAY ? THREADS : 0);
    uint32_t sum = s.numbers[i] + s.numbers[mirror];
    if (p.fault == HALF_A_WARP)
        sum = __shfl_xor_sync(0xffffu, sum, 1);
    if (p.fault == SHUFFLE_AFTER_BRANCH && i % 2 == 0)
        sum = __shfl_xor_sync(0xffffffffu, sum, 2);
    if (p.fault == NOT_ALIGNED)
        sum += cuda_on_cpu::load_16(p.in + 1).x;
    const unsigned place = p.fault == TWO_BLOCKS_ONE_BYTE ? i : first + i;
    p.out[place] = sum;
    __syncthreads();
    if (i < THREADS / 4) {
        cuda_on_cpu::copy_16(&s.copied[4 * i], p.in + 4 * i);
        if (p.fault != COPY_FORGOTTEN) {
            cuda_on_cpu::end_copy_group();
            cuda_on_cpu::wait_for_copies(p.fault == COPY_NOT_WAITED_FOR ? 1 : 0);
            p.out[first + 4 * i] += s.copied[4 * i];
        }
    }
}
