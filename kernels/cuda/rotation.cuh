// The rotation of packed rows: kernels/src/rotation.rs says what it is.
#pragma once

#include "device.cuh"

// Bits of the golden ratio: the signs to flip, again and again.
__device__ __forceinline__ float flip_sign(float x, unsigned at) {
    const uint64_t signs = 0x9e3779b97f4a7c15u;
    return (signs >> at % 64 & 1) != 0 ? -x : x;
}

// Walsh-Hadamard over D elements in shared memory, by one warp, which meets before it and after it.
template <unsigned D> __device__ __forceinline__ void hadamard(float (&x)[D]) {
    static_assert((D & (D - 1)) == 0 && D >= 2 * WARP, "each lane has whole pairs");
    for (unsigned half = 1; half < D; half *= 2) {
        for (unsigned pair = lane(); pair < D / 2; pair += WARP) {
            const unsigned a = pair / half * 2 * half + pair % half, b = a + half;
            const float sum = x[a] + x[b], difference = x[a] - x[b];
            x[a] = sum;
            x[b] = difference;
        }
        __syncwarp();
    }
    const float norm = 1.0f / sqrtf(static_cast<float>(D));
    for (unsigned i = lane(); i < D; i += WARP)
        x[i] *= norm;
    __syncwarp();
}

template <unsigned D> __device__ __forceinline__ void rotate(float (&x)[D]) {
    for (unsigned i = lane(); i < D; i += WARP)
        x[i] = flip_sign(x[i], i);
    __syncwarp();
    hadamard<D>(x);
}

template <unsigned D> __device__ __forceinline__ void rotate_back(float (&x)[D]) {
    hadamard<D>(x);
    for (unsigned i = lane(); i < D; i += WARP)
        x[i] = flip_sign(x[i], i);
    __syncwarp();
}
