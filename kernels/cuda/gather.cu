// The rows that a layer keeps, out of all its keys and values, into pages: wide ones as they are, the others packed.
// Codes are those that kernels/src/rows.rs gives, to the bit.
#include "pages.cuh"
#include "rotation.cuh"

constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / WARP;

struct GatherParameters {
    // [N, Hkv, D]
    const uint16_t *keys, *values;
    // Positions of the rows that are kept, head after head, in the order in which they are stored.
    const uint32_t *positions;
    // [Hkv]: where those of a head begin.
    const uint32_t *first_positions;
    // The sequence's own, of this layer: [Hkv], and [Hkv, D].
    const Table *tables;
    const uint32_t *pages;
    const uint16_t *mean_keys;
    Pool pool;
    uint32_t kv_heads, unused;
};

// A scale that reads back as it is used: rounded, and finite.
__device__ __forceinline__ uint16_t scale_of(float x) { return float_to_half(fminf(x, 65504.0f)); }
__device__ __forceinline__ float steps_per_one(uint16_t scale) {
    const float step = half_to_float(scale);
    return step == 0.0f ? 0.0f : 1.0f / step;
}

template <unsigned D> struct GatherShared {
    float rows[WARPS][D];
    float errors[WARPS][96];
};

// Each format makes a scale, and the bytes of a lane: element `at` and those behind it.

struct PackInt8 {
    template <unsigned D> static constexpr unsigned CODE_BYTES = D;
    template <unsigned D>
    static __device__ __forceinline__ uint16_t scale(const float (&)[D], float (&)[96], float largest) {
        return scale_of(largest / 127.5f);
    }
    template <unsigned D> static __device__ __forceinline__ unsigned code(const float (&row)[D], unsigned at, float per_step) {
        const float place = add_once(multiply_once(row[at], per_step), 127.5f);
        return static_cast<unsigned>(fminf(fmaxf(rintf(place), 0.0f), 255.0f));
    }
};

struct PackFp8 {
    template <unsigned D> static constexpr unsigned CODE_BYTES = D;
    template <unsigned D>
    static __device__ __forceinline__ uint16_t scale(const float (&)[D], float (&)[96], float largest) {
        return scale_of(largest / 448.0f);
    }
    template <unsigned D> static __device__ __forceinline__ unsigned code(const float (&row)[D], unsigned at, float per_step) {
        // As a float whose exponent has the narrow bias, so that small numbers are rounded as subnormals are.
        const float x = multiply_once(row[at], per_step);
        const float rebias = __uint_as_float((127u - 120u) << 23);
        const unsigned narrow = __float_as_uint(fminf(fabsf(x), 448.0f) * rebias);
        const unsigned tie = narrow >> 20 & 1;
        return (__float_as_uint(x) >> 24 & 0x80u) | (narrow + 0x7ffffu + tie) >> 20;
    }
};

struct PackInt4 {
    template <unsigned D> static constexpr unsigned CODE_BYTES = D / 2;
    static __device__ __forceinline__ float level(float x) { return fminf(fmaxf(rintf(add_once(x, 7.5f)), 0.0f), 15.0f); }

    // Of twelve scales the one with the least squared error. Every error is the sum of eight sums, each over every
    // eighth element, in the order of the CPU's.
    template <unsigned D>
    static __device__ __forceinline__ uint16_t scale(const float (&row)[D], float (&errors)[96], float largest) {
        const float reach = largest / 7.5f;
        for (unsigned i = lane(); i < 96; i += WARP) {
            const float step = half_to_float(scale_of(multiply_once(reach, share(i / 8))));
            const float per_step = 1.0f / step;
            float sum = 0.0f;
            for (unsigned at = i % 8; at < D; at += 8) {
                const float place = multiply_add_once(row[at], per_step, 7.5f);
                const float code = add_once(rintf(fminf(fmaxf(place, 0.0f), 15.0f)), -7.5f);
                const float error = multiply_add_once(code, -step, row[at]);
                sum = multiply_add_once(error, error, sum);
            }
            errors[i] = sum;
        }
        __syncwarp();
        float least = -MINUS_INFINITY;
        uint16_t best = 0;
        for (unsigned i = 0; i < 12; i++) {
            float error = 0.0f;
            for (unsigned part = 0; part < 8; part++)
                error = add_once(error, errors[8 * i + part]);
            const uint16_t scale = scale_of(multiply_once(reach, share(i)));
            if (half_to_float(scale) > 0.0f && error < least) {
                least = error;
                best = scale;
            }
        }
        return best;
    }
    static __device__ __forceinline__ float share(unsigned i) {
        // 1.06, 1, 0.95, 0.9 ... 0.5; as the nearest floats, which steps of 0.05 would not give.
        switch (i) {
        case 0: return 1.06f;
        case 1: return 1.0f;
        case 2: return 0.95f;
        case 3: return 0.9f;
        case 4: return 0.85f;
        case 5: return 0.8f;
        case 6: return 0.75f;
        case 7: return 0.7f;
        case 8: return 0.65f;
        case 9: return 0.6f;
        case 10: return 0.55f;
        default: return 0.5f;
        }
    }
    template <unsigned D> static __device__ __forceinline__ unsigned code(const float (&row)[D], unsigned at, float per_step) {
        const float low = level(multiply_once(row[at], per_step));
        const float high = level(multiply_once(row[at + D / 2], per_step));
        return static_cast<unsigned>(low) | static_cast<unsigned>(high) << 4;
    }
};

template <class Pack, unsigned D>
__device__ __forceinline__ void pack(float (&row)[D], float (&errors)[96], unsigned char *codes, unsigned char *scale) {
    rotate<D>(row);
    float largest = 0.0f;
    for (unsigned i = lane(); i < D; i += WARP)
        largest = fmaxf(largest, fabsf(row[i]));
    largest = warp_max(largest);
    const uint16_t chosen = Pack::template scale<D>(row, errors, largest);
    const float per_step = steps_per_one(chosen);
    constexpr unsigned BYTES = Pack::template CODE_BYTES<D> / WARP;
    unsigned word = 0;
#pragma unroll
    for (unsigned i = 0; i < BYTES; i++)
        word |= Pack::template code<D>(row, lane() * BYTES + i, per_step) << 8 * i;
    if constexpr (BYTES == 4)
        reinterpret_cast<uint32_t *>(codes)[lane()] = word;
    else if constexpr (BYTES == 2)
        reinterpret_cast<uint16_t *>(codes)[lane()] = static_cast<uint16_t>(word);
    else
        codes[lane()] = static_cast<unsigned char>(word);
    if (lane() == 0)
        *reinterpret_cast<uint16_t *>(scale) = chosen;
}

// One warp for each row of keys (z = 0) or values (z = 1) of a head (y).
template <class T, class Wide, class Pack, unsigned D>
__device__ __forceinline__ void gather(GatherShared<D> &s, const GatherParameters &p) {
    const unsigned index = blockIdx.x * WARPS + warp(), head = blockIdx.y, half = blockIdx.z;
    const Table table = p.tables[head];
    if (index >= table.wide_rows + table.packed_rows)
        return;
    const uint64_t position = p.positions[p.first_positions[head] + index];
    const uint16_t *from = (half == 0 ? p.keys : p.values) + (position * p.kv_heads + head) * D;
    float(&row)[D] = s.rows[warp()];
    const bool is_wide = index < table.wide_rows;
    for (unsigned i = lane(); i < D; i += WARP) {
        float x = T{from[i]}.value();
        if (!is_wide && half == 0)
            x -= half_to_float(p.mean_keys[head * D + i]);
        // A lane goes on with what it wrote.
        row[i] = x;
    }
    if (is_wide) {
        const RowPlace place =
            place_of(p.pool, p.pages + table.wide_page, p.pool.wide_page_rows, 2 * D, index);
        uint16_t *codes = reinterpret_cast<uint16_t *>(p.pool.bytes + (half == 0 ? place.codes[0] : place.codes[1]));
        for (unsigned i = lane(); i < D; i += WARP)
            codes[i] = Wide::of(row[i]).bits;
    } else {
        const RowPlace place = place_of(p.pool, p.pages + table.packed_page, p.pool.packed_page_rows,
                                        Pack::template CODE_BYTES<D>, index - table.wide_rows);
        pack<Pack, D>(row, s.errors[warp()], p.pool.bytes + (half == 0 ? place.codes[0] : place.codes[1]), p.pool.bytes + (half == 0 ? place.scales[0] : place.scales[1]));
    }
}

struct MeanParameters {
    // [N, Hkv, D]
    const uint16_t *keys;
    // [tiles, Hkv, D]: sums over some rows.
    double *sums;
    // [Hkv, D] in half precision.
    uint16_t *means;
    uint32_t rows, kv_heads, tiles, unused;
};

constexpr unsigned MEAN_ROWS = 256;

// Sums over the rows of a tile (x) of a head (y), one thread for each element.
template <class T, unsigned D> __device__ __forceinline__ void sum_keys(const MeanParameters &p) {
    const unsigned tile = blockIdx.x, head = blockIdx.y, c = threadIdx.x;
    const unsigned end = min(p.rows, (tile + 1) * MEAN_ROWS);
    double sum = 0.0;
    for (unsigned row = tile * MEAN_ROWS; row < end; row++)
        sum += T{p.keys[(static_cast<uint64_t>(row) * p.kv_heads + head) * D + c]}.value();
    p.sums[(static_cast<uint64_t>(tile) * p.kv_heads + head) * D + c] = sum;
}

// In the order of tiles: whatever a head's keys are, its mean is the same each time.
template <unsigned D> __device__ __forceinline__ void mean_keys(const MeanParameters &p) {
    const unsigned head = blockIdx.x, c = threadIdx.x;
    double sum = 0.0;
    for (unsigned tile = 0; tile < p.tiles; tile++)
        sum += p.sums[(static_cast<uint64_t>(tile) * p.kv_heads + head) * D + c];
    const float mean = static_cast<float>(sum / p.rows);
    p.means[head * D + c] = float_to_half(fminf(fmaxf(mean, -65504.0f), 65504.0f));
}

#define GATHER(name, T, Wide, Pack, D)                                                                                 \
    KERNEL(name, GatherParameters, THREADS) {                                                                          \
        SHARED(GatherShared<D>, s);                                                                                    \
        gather<T, Wide, Pack, D>(s, p);                                                                                \
    }
#define GATHERS(T, D, names)                                                                                           \
    GATHER(gather_bf16_##names, T, Bf16, PackInt4, D)                                                                  \
    GATHER(gather_int8_##names, T, F16, PackInt8, D)                                                                   \
    GATHER(gather_fp8_##names, T, F16, PackFp8, D)                                                                     \
    GATHER(gather_int4_##names, T, F16, PackInt4, D)                                                                   \
    KERNEL(sum_keys_##names, MeanParameters, D) { sum_keys<T, D>(p); }                                                 \
    KERNEL(mean_keys_##names, MeanParameters, D) { mean_keys<D>(p); }

// Names: the row format of a cache, what a model computes in, D. Caches of wide rows have no packed ones, so that
// those of f16 are served by gather_int4.
GATHERS(Bf16, 64, bf16_64)
GATHERS(Bf16, 128, bf16_128)
GATHERS(F16, 64, f16_64)
GATHERS(F16, 128, f16_128)
