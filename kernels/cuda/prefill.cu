// Causal attention of consecutive queries over all keys up to their own: tiles with an online softmax, products by
// tensor cores. See kernels/src/prefill.rs; here the log-sum-exp of every query is left too, for the window's scores.
#include "rows.cuh"

constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / WARP;
constexpr unsigned WARP_QUERIES = 16;
constexpr unsigned QUERIES = WARPS * WARP_QUERIES;
// Keys of a tile.
constexpr unsigned KEYS = 64;

struct PrefillParameters {
    // [T, Hq, D]
    const uint16_t *queries;
    // [first position + T, Hkv, D]
    const uint16_t *keys, *values;
    // [T, Hq, D]
    uint16_t *out;
    // [T, Hq]: ln of the sum of exp(logit).
    float *log_sums;
    uint32_t rows, first_position, kv_heads, group;
};

template <unsigned D> struct PrefillShared {
    // What lies behind each row spreads the reads of a warp over all banks.
    uint16_t keys[KEYS][D + 32];
    uint16_t values[KEYS][D + 8];
};

// A tile of keys or values, on its way to shared memory. Rows that are not there are read as the last one.
template <unsigned D, unsigned STRIDE>
__device__ __forceinline__ void fetch(uint16_t (&tile)[KEYS][STRIDE], const uint16_t *all, unsigned first, unsigned end,
                                      unsigned kv_heads, unsigned head) {
    constexpr unsigned STEPS = D / 8;
    for (unsigned at = threadIdx.x; at < KEYS * STEPS; at += THREADS) {
        const unsigned row = at / STEPS, c = at % STEPS * 8;
        const uint64_t key = min(first + row, end - 1);
        copy_16(&tile[row][c], all + (key * kv_heads + head) * D + c);
    }
    end_copy_group();
}

// 64 queries (x, the last ones first) of one query head (y); 16 for each warp.
template <class T, unsigned D> __device__ __forceinline__ void attend(PrefillShared<D> &s, const PrefillParameters &p) {
    using Queries = Share<WideRows<T, D>, 4>;
    constexpr unsigned KEY_EIGHTS = KEYS / 8, DIM_EIGHTS = D / 8;
    const unsigned i = lane() / 4, t = lane() % 4;
    const unsigned g = blockIdx.y, head = g / p.group, q_heads = p.kv_heads * p.group;
    const unsigned first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const unsigned last_query = min(first_query + QUERIES, p.rows) - 1;
    // Keys that the last query sees.
    const unsigned end = p.first_position + last_query + 1;
    const unsigned rows[2] = {first_query + warp() * WARP_QUERIES + i, first_query + warp() * WARP_QUERIES + i + 8};
    // Logits in units of ln 2.
    const float norm = LOG2_E / sqrtf(static_cast<float>(D));

    fetch<D>(s.keys, p.keys, 0, end, p.kv_heads, head);
    Pair queries[2][Queries::PAIRS];
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        const uint64_t row = min(rows[half], p.rows - 1);
        Queries share;
        share.load(reinterpret_cast<const unsigned char *>(p.queries + (row * q_heads + g) * D), t);
        share.read(queries[half]);
    }
    float sums[DIM_EIGHTS][4] = {};
    float largest[2] = {MINUS_INFINITY, MINUS_INFINITY}, total[2] = {};
    for (unsigned first = 0; first < end; first += KEYS) {
        wait_for_copies<0>();
        // The keys are there, and nobody needs the values of the tile before.
        __syncthreads();
        fetch<D>(s.values, p.values, first, end, p.kv_heads, head);

        float logits[KEY_EIGHTS][4] = {};
#pragma unroll
        for (unsigned eight = 0; eight < KEY_EIGHTS; eight++) {
            Queries keys;
            keys.load(reinterpret_cast<const unsigned char *>(s.keys[8 * eight + i]), t);
#pragma unroll
            for (unsigned pair = 0; pair < Queries::PAIRS; pair += 2) {
                const Pair a[4] = {queries[0][pair], queries[1][pair], queries[0][pair + 1], queries[1][pair + 1]};
                const Pair b[2] = {keys.words[pair], keys.words[pair + 1]};
                T::multiply_add(logits[eight], a, b);
            }
        }
        float tile_largest[2] = {largest[0], largest[1]};
#pragma unroll
        for (unsigned eight = 0; eight < KEY_EIGHTS; eight++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                const unsigned key = first + 8 * eight + 2 * t + j % 2;
                const bool is_seen = key <= p.first_position + rows[j / 2];
                logits[eight][j] = is_seen ? logits[eight][j] * norm : MINUS_INFINITY;
                tile_largest[j / 2] = fmaxf(tile_largest[j / 2], logits[eight][j]);
            }
        }
        float kept[2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            for (unsigned distance = 1; distance < 4; distance *= 2)
                tile_largest[half] = fmaxf(tile_largest[half], __shfl_xor_sync(ALL_LANES, tile_largest[half], distance));
            kept[half] = exp2_fast(largest[half] - tile_largest[half]);
            largest[half] = tile_largest[half];
            total[half] *= kept[half];
        }
#pragma unroll
        for (unsigned eight = 0; eight < KEY_EIGHTS; eight++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                logits[eight][j] = exp2_fast(logits[eight][j] - largest[j / 2]);
                total[j / 2] += logits[eight][j];
            }
        }
#pragma unroll
        for (unsigned eight = 0; eight < DIM_EIGHTS; eight++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++)
                sums[eight][j] *= kept[j / 2];
        }

        wait_for_copies<0>();
        // The values are there, and nobody needs the keys any more.
        __syncthreads();
        if (first + KEYS < end)
            fetch<D>(s.keys, p.keys, first + KEYS, end, p.kv_heads, head);
#pragma unroll
        for (unsigned sixteen = 0; sixteen < KEYS / 16; sixteen++) {
            const float(&low)[4] = logits[2 * sixteen], (&high)[4] = logits[2 * sixteen + 1];
            const Pair a[4] = {pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]), pair_of<T>(high[0], high[1]),
                               pair_of<T>(high[2], high[3])};
#pragma unroll
            for (unsigned eight = 0; eight < DIM_EIGHTS; eight += 2) {
                // Tiles: the first and the last eight keys of the first eight elements, and of the next.
                Pair tiles[4];
                const unsigned tile = lane() / 8;
                load_tiles_transposed(tiles, &s.values[16 * sixteen + tile % 2 * 8 + lane() % 8][8 * (eight + tile / 2)]);
                const Pair b[2][2] = {{tiles[0], tiles[1]}, {tiles[2], tiles[3]}};
                T::multiply_add(sums[eight], a, b[0]);
                T::multiply_add(sums[eight + 1], a, b[1]);
            }
        }
    }
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned distance = 1; distance < 4; distance *= 2)
            total[half] += __shfl_xor_sync(ALL_LANES, total[half], distance);
        if (rows[half] >= p.rows)
            continue;
        const uint64_t place = static_cast<uint64_t>(rows[half]) * q_heads + g;
        if (t == 0)
            p.log_sums[place] = (largest[half] + log2f(total[half])) / LOG2_E;
        Pair *out = reinterpret_cast<Pair *>(p.out + place * D);
#pragma unroll
        for (unsigned eight = 0; eight < DIM_EIGHTS; eight++)
            out[4 * eight + t] =
                pair_of<T>(sums[eight][2 * half] / total[half], sums[eight][2 * half + 1] / total[half]);
    }
}

#define PREFILL(T, D, names)                                                                                           \
    KERNEL(prefill_##names, PrefillParameters, THREADS) {                                                              \
        SHARED(PrefillShared<D>, s);                                                                                   \
        attend<T, D>(s, p);                                                                                            \
    }

// Names: what a model computes in, D.
PREFILL(Bf16, 64, bf16_64)
PREFILL(Bf16, 128, bf16_128)
PREFILL(F16, 64, f16_64)
PREFILL(F16, 128, f16_128)
