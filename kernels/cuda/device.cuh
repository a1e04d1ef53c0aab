// What all kernels stand on. Compiled by nvcc for a GPU; or by a C++ compiler for a CPU, where
// crates/cuda-on-cpu runs and watches them. What differs between the two is in this file and nowhere else.
//
// Rules that both hold us to: a kernel takes one struct of parameters; its blocks are one row of whole warps; all
// lanes of a warp meet at every barrier and shuffle; shared memory is one struct.
#pragma once

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cstdint>

// Two blocks on a multiprocessor are all that is asked of the compiler: it may use registers for them.
#define KERNEL(name, Parameters, threads)                                                                              \
    extern "C" __global__ void __launch_bounds__(threads, 2) name(const __grid_constant__ Parameters p)
#define SHARED(Type, name) __shared__ Type name

#else

#include "cuda_on_cpu.h"

#endif

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ unsigned lane() { return threadIdx.x % WARP; }
__device__ __forceinline__ unsigned warp() { return threadIdx.x / WARP; }
__device__ __forceinline__ constexpr unsigned ceil_div(unsigned a, unsigned b) { return (a + b - 1) / b; }

// Two 16-bit elements; the lower one is the first in memory.
using Pair = uint32_t;

#ifdef __CUDACC__

__device__ __forceinline__ uint4 load_16(const void *from) { return *static_cast<const uint4 *>(from); }
__device__ __forceinline__ void store_16(void *to, uint4 value) { *static_cast<uint4 *>(to) = value; }

__device__ __forceinline__ float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }

// d += a b for tiles of 16 x 16 and 16 x 8, in f16 with f32 sums. Fragments as in PTX's mma.m16n8k16: with
// i = lane / 4 and t = lane % 4, `a` holds rows (i, i + 8, i, i + 8) at columns (2t, 2t, 2t + 8, 2t + 8) and the
// one behind each; `b` column i at rows 2t and 2t + 8 and the one behind each; `d` rows (i, i, i + 8, i + 8) at
// columns (2t, 2t + 1, 2t, 2t + 1).
__device__ __forceinline__ void multiply_add_f16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same in bf16.
__device__ __forceinline__ void multiply_add_bf16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 tiles of 16-bit elements: lane 8 m + r brings the address of row r of tile m, which lies in shared
// memory. A lane gets the pair at row i, columns 2t and 2t + 1 of each tile; transposed, at rows 2t and 2t + 1,
// column i.
__device__ __forceinline__ void load_tiles(Pair (&tiles)[4], const void *row) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_tiles_transposed(Pair (&tiles)[4], const void *row) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(at)
                 : "memory");
}

// 16 bytes on their way to shared memory. They are there for this thread after the wait for their group, and for
// the others after the next barrier.
__device__ __forceinline__ void copy_16(void *shared, const void *global) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
}
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most so many groups are on their way.
template <unsigned LEFT> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// One rounding each, whatever stands around them: what must be equal to the CPU's to the bit is written with these.
__device__ __forceinline__ float multiply_add_once(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float multiply_once(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add_once(float a, float b) { return __fadd_rn(a, b); }

// Both halves of a pair less those of another, rounded.
__device__ __forceinline__ Pair subtract_halves(Pair a, Pair b) {
    Pair difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
__device__ __forceinline__ Pair multiply_halves(Pair a, Pair b) {
    Pair product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

#else

using cuda_on_cpu::copy_16;
using cuda_on_cpu::end_copy_group;
using cuda_on_cpu::float_to_half;
using cuda_on_cpu::half_to_float;
using cuda_on_cpu::load_16;
using cuda_on_cpu::store_16;

inline void multiply_add_f16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2], SITE_PARAMETERS) {
    cuda_on_cpu::mma(d, a, b, cuda_on_cpu::Element::F16, file, line);
}
inline void multiply_add_bf16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2], SITE_PARAMETERS) {
    cuda_on_cpu::mma(d, a, b, cuda_on_cpu::Element::BF16, file, line);
}
inline void load_tiles(Pair (&tiles)[4], const void *row, SITE_PARAMETERS) {
    cuda_on_cpu::load_tiles(tiles, row, false, file, line);
}
inline void load_tiles_transposed(Pair (&tiles)[4], const void *row, SITE_PARAMETERS) {
    cuda_on_cpu::load_tiles(tiles, row, true, file, line);
}
template <unsigned LEFT> inline void wait_for_copies() { cuda_on_cpu::wait_for_copies(LEFT); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline float multiply_add_once(float a, float b, float c) { return std::fma(a, b, c); }
inline float multiply_once(float a, float b) { return a * b; }
inline float add_once(float a, float b) { return a + b; }
inline Pair subtract_halves(Pair a, Pair b) {
    const auto of = [&](unsigned shift) {
        return static_cast<Pair>(float_to_half(half_to_float(a >> shift) - half_to_float(b >> shift))) << shift;
    };
    return of(0) | of(16);
}
inline Pair multiply_halves(Pair a, Pair b) {
    const auto of = [&](unsigned shift) {
        return static_cast<Pair>(float_to_half(half_to_float(a >> shift) * half_to_float(b >> shift))) << shift;
    };
    return of(0) | of(16);
}

#endif

// The two 16-bit types that models compute in, and that rows are stored in.
struct F16 {
    uint16_t bits;
    static __device__ __forceinline__ F16 of(float value) { return {float_to_half(value)}; }
    __device__ __forceinline__ float value() const { return half_to_float(bits); }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
        multiply_add_f16(d, a, b);
    }
};
struct Bf16 {
    uint16_t bits;
    // To the nearest, ties to even; what is no number stays none.
    static __device__ __forceinline__ Bf16 of(float value) {
        const unsigned bits = __float_as_uint(value);
        const bool is_number = (bits & 0x7fffffffu) <= 0x7f800000u;
        const unsigned rounded = is_number ? bits + 0x7fffu + (bits >> 16 & 1) : bits | 0x400000u;
        return {static_cast<uint16_t>(rounded >> 16)};
    }
    __device__ __forceinline__ float value() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
    static __device__ __forceinline__ void multiply_add(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
        multiply_add_bf16(d, a, b);
    }
};

template <class T> __device__ __forceinline__ Pair pair_of(float first, float second) {
    return T::of(first).bits | static_cast<Pair>(T::of(second).bits) << 16;
}

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float MINUS_INFINITY = -__builtin_huge_valf();

// e^x. x may be -inf.
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * LOG2_E); }

template <class T, class Reduce> __device__ __forceinline__ T warp_reduce(T value, Reduce reduce) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
        value = reduce(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}
__device__ __forceinline__ float warp_sum(float value) {
    return warp_reduce(value, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float warp_max(float value) {
    return warp_reduce(value, [](float a, float b) { return a > b ? a : b; });
}
