// What CUDA C++ gives to a kernel, for a kernel that runs on one CPU thread and is watched: see machine.cpp.
// Only what our kernels use is here; the names of CUDA keep their meaning.
#pragma once

#include <cmath>
#include <cstdint>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// Where a barrier stands in the source: all who meet at it must have come to the same one.
#define SITE_PARAMETERS const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuda_on_cpu {

uint3 thread_index();
uint3 block_index();
uint3 block_size();
uint3 grid_size();

// The block's shared memory, undefined at the start of each block.
void *shared_memory(unsigned long bytes);

void block_barrier(const char *file, int line);
void warp_barrier(const char *file, int line);
// The value that another lane brings.
uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane, const char *file, int line);
// A bit for each lane.
unsigned ballot(unsigned mask, bool value, const char *file, int line);

// Accesses that the compiler cannot report as one.
uint4 load_16(const void *from);
void store_16(void *to, uint4 value);

uint32_t atomic_add(uint32_t *to, uint32_t value);
uint32_t atomic_max(uint32_t *to, uint32_t value);
double atomic_add(double *to, double value);

enum class Element { F16, BF16 };
// d += a b for tiles of 16 x 16 and 16 x 8, in the fragments of PTX's mma.m16n8k16.
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Element element, const char *file, int line);
// Four 8 x 8 tiles of 16-bit elements; lane i brings the address of row i % 8 of tile i / 8.
void load_tiles(uint32_t (&tiles)[4], const void *row, bool transposed, const char *file, int line);

// 16 bytes on their way to shared memory; they are there after the wait for their group.
void copy_16(void *shared, const void *global);
void end_copy_group();
void wait_for_copies(unsigned groups_left);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);

// A kernel that can be launched by name.
struct Kernel {
    Kernel(const char *name, unsigned threads, unsigned long parameter_bytes, void (*run)(const void *));
};

template <class To, class From> inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

template <class T> inline uint64_t widened(T value) {
    if constexpr (sizeof(T) == 8)
        return bits_of<uint64_t>(value);
    else
        return bits_of<uint32_t>(value);
}

template <class T> inline T narrowed(uint64_t bits) {
    if constexpr (sizeof(T) == 8)
        return bits_of<T>(bits);
    else
        return bits_of<T>(static_cast<uint32_t>(bits));
}

} // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::thread_index())
#define blockIdx (cuda_on_cpu::block_index())
#define blockDim (cuda_on_cpu::block_size())
#define gridDim (cuda_on_cpu::grid_size())

#define KERNEL(name, Parameters, threads)                                                                             \
    void name(const Parameters &p);                                                                                    \
    static const cuda_on_cpu::Kernel name##_kernel{                                                                    \
        #name, threads, sizeof(Parameters), [](const void *p) { name(*static_cast<const Parameters *>(p)); }};         \
    void name(const Parameters &p)

#define SHARED(Type, name) Type &name = *static_cast<Type *>(cuda_on_cpu::shared_memory(sizeof(Type)))

inline void __syncthreads(SITE_PARAMETERS) { cuda_on_cpu::block_barrier(file, line); }
inline void __syncwarp(SITE_PARAMETERS) { cuda_on_cpu::warp_barrier(file, line); }

template <class T> inline T __shfl_sync(unsigned mask, T value, int lane, SITE_PARAMETERS) {
    const unsigned source = static_cast<unsigned>(lane) % 32;
    return cuda_on_cpu::narrowed<T>(cuda_on_cpu::exchange(mask, cuda_on_cpu::widened(value), source, file, line));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int flipped, SITE_PARAMETERS) {
    const unsigned source = threadIdx.x % 32 ^ static_cast<unsigned>(flipped);
    return cuda_on_cpu::narrowed<T>(cuda_on_cpu::exchange(mask, cuda_on_cpu::widened(value), source, file, line));
}
// Lanes whose source does not exist keep their own value.
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, SITE_PARAMETERS) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned source = lane < distance ? lane : lane - distance;
    return cuda_on_cpu::narrowed<T>(cuda_on_cpu::exchange(mask, cuda_on_cpu::widened(value), source, file, line));
}
inline unsigned __ballot_sync(unsigned mask, bool value, SITE_PARAMETERS) {
    return cuda_on_cpu::ballot(mask, value, file, line);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }

inline uint32_t atomicAdd(uint32_t *to, uint32_t value) { return cuda_on_cpu::atomic_add(to, value); }
inline double atomicAdd(double *to, double value) { return cuda_on_cpu::atomic_add(to, value); }
inline uint32_t atomicMax(uint32_t *to, uint32_t value) { return cuda_on_cpu::atomic_max(to, value); }

inline float __uint_as_float(unsigned bits) { return cuda_on_cpu::bits_of<float>(bits); }
inline unsigned __float_as_uint(float value) { return cuda_on_cpu::bits_of<unsigned>(value); }
// Byte i of the result is byte selector[i] of the eight bytes of a and b.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++)
        result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
