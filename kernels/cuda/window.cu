// What the window sees of a layer, and the scores that follow: LAVa, arXiv 2509.09754, section 4; the order of
// operations is that of crates/lava/src/scores.rs. Prefill attention leaves the log-sum-exp of every query, so one
// look at the keys is enough.
#include "rows.cuh"

constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / WARP;
// Keys of a warp, and of a block.
constexpr unsigned WARP_KEYS = 16;
constexpr unsigned KEYS = WARPS * WARP_KEYS;
// Queries that are in shared memory at once.
constexpr unsigned QUERIES = 32;

// What is taken of the weights that the window gives a key.
enum Statistic : uint32_t { MEAN, ROOT_MEAN_SQUARE, LARGEST };

struct WindowParameters {
    // [W, Hq, D], [N, Hkv, D]
    const uint16_t *queries, *keys;
    // [W, Hq]: ln of the sum of exp(logit) over the keys that a query sees.
    const float *log_sums;
    // [Hq, n]
    float *seen;
    // W and n.
    uint32_t rows, columns;
    // Position of the first query: it sees the keys up to its own.
    uint32_t first_position;
    uint32_t kv_heads, group;
    Statistic statistic;
};

template <unsigned D> struct WindowShared {
    // Rows begin in different banks.
    Pair queries[QUERIES][D / 2 + 4];
    float log_sums[QUERIES];
};

__device__ __forceinline__ float take_in(Statistic statistic, float so_far, float weight) {
    switch (statistic) {
    case MEAN: return so_far + weight;
    case ROOT_MEAN_SQUARE: return so_far + weight * weight;
    default: return fmaxf(so_far, weight);
    }
}

// Some keys (x) of a KV head (y), with all queries of its group one after the other. Keys are the left factor.
template <class T, unsigned D>
__device__ __forceinline__ void look_at_keys(WindowShared<D> &s, const WindowParameters &p) {
    using Keys = Share<WideRows<T, D>, 4>;
    const unsigned head = blockIdx.y, i = lane() / 4, t = lane() % 4;
    const unsigned first = blockIdx.x * KEYS + warp() * WARP_KEYS + i;
    const unsigned q_heads = p.kv_heads * p.group;
    const float norm = 1.0f / sqrtf(static_cast<float>(D));
    Pair keys[2][Keys::PAIRS];
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        // Keys that are not there are read as the last one, and not written.
        const uint64_t key = min(first + 8 * half, p.columns - 1);
        Keys share;
        share.load(reinterpret_cast<const unsigned char *>(p.keys + (key * p.kv_heads + head) * D), t);
        share.read(keys[half]);
    }
    for (unsigned g = head * p.group; g < (head + 1) * p.group; g++) {
        float seen[2] = {};
        for (unsigned start = 0; start < p.rows; start += QUERIES) {
            const unsigned there = min(QUERIES, p.rows - start);
            __syncthreads();
            for (unsigned at = threadIdx.x; at < QUERIES * (D / 8); at += THREADS) {
                const unsigned row = at / (D / 8), c = at % (D / 8);
                const uint64_t query = static_cast<uint64_t>(start + min(row, there - 1)) * q_heads + g;
                store_16(&s.queries[row][4 * c], load_16(p.queries + query * D + 8 * c));
            }
            if (threadIdx.x < QUERIES)
                s.log_sums[threadIdx.x] =
                    threadIdx.x < there ? p.log_sums[static_cast<uint64_t>(start + threadIdx.x) * q_heads + g] : 0.0f;
            __syncthreads();
            for (unsigned eight = 0; eight < there; eight += 8) {
                float products[4] = {};
#pragma unroll
                for (unsigned pair = 0; pair < Keys::PAIRS; pair += 2) {
                    const Pair a[4] = {keys[0][pair], keys[1][pair], keys[0][pair + 1], keys[1][pair + 1]};
                    const Pair b[2] = {s.queries[eight + i][Keys::first(t, pair) / 2],
                                       s.queries[eight + i][Keys::first(t, pair + 1) / 2]};
                    T::multiply_add(products, a, b);
                }
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    const unsigned row = eight + 2 * t + j % 2, key = first + 8 * (j / 2);
                    const bool is_seen = row < there && key <= p.first_position + start + row;
                    const float weight = is_seen ? exp_fast(products[j] * norm - s.log_sums[row]) : 0.0f;
                    seen[j / 2] = take_in(p.statistic, seen[j / 2], weight);
                }
            }
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            float all = seen[half];
            for (unsigned distance = 1; distance < 4; distance *= 2) {
                const float other = __shfl_xor_sync(ALL_LANES, all, distance);
                all = p.statistic == LARGEST ? fmaxf(all, other) : all + other;
            }
            if (p.statistic != LARGEST)
                all /= p.rows;
            if (p.statistic == ROOT_MEAN_SQUARE)
                all = sqrtf(all);
            const unsigned key = first + 8 * half;
            if (t == 0 && key < p.columns)
                p.seen[static_cast<uint64_t>(g) * p.columns + key] = all;
        }
    }
}

struct NormParameters {
    // [N, Hkv, D]
    const uint16_t *values;
    // [Hkv], zero before: largest sums as the bits of floats, which order as they do.
    uint32_t *norms;
    uint32_t rows, kv_heads;
};

// Largest L1 norm of a value row, per KV head: one warp for each row.
template <class T, unsigned D> __device__ __forceinline__ void value_norms(const NormParameters &p) {
    const unsigned row = blockIdx.x * WARPS + warp(), head = blockIdx.y;
    if (row >= p.rows)
        return;
    const uint16_t *value = p.values + (static_cast<uint64_t>(row) * p.kv_heads + head) * D;
    float sum = 0.0f;
    for (unsigned i = lane(); i < D; i += WARP)
        sum += fabsf(T{value[i]}.value());
    sum = warp_sum(sum);
    if (lane() == 0)
        atomicMax(&p.norms[head], __float_as_uint(sum));
}

struct ScoreParameters {
    // [Hq, n]
    const float *seen;
    // [Hkv], or [Hkv, n] where each entry has a norm of its own, or null.
    const float *norms;
    // [Hkv, n]
    float *scores;
    // [Hkv, blocks]: sums of pooled scores.
    double *pooled_sums;
    // [Hkv, blocks, 2]: the sum of scores, and of s ln s; their entropy is ln S - T / S.
    double *sums;
    uint32_t columns, kv_heads, group;
    // Positions on each side that the pool looks at, and what it takes of them.
    uint32_t reach;
    float shoulder;
    // Whether each entry has a norm; whether the group's mean is taken and not its largest; whether no entry is
    // less than its head's mean.
    uint32_t of_entries, of_mean, clamped;
};

struct ScoreShared {
    double sums[2][WARPS];
    float mean;
};

__device__ __forceinline__ double warp_sum(double value) {
    return warp_reduce(value, [](double a, double b) { return a + b; });
}

// Sums over the block, in the order of lanes and warps; for thread 0.
__device__ __forceinline__ double block_sum(double (&of_warps)[WARPS], double value) {
    value = warp_sum(value);
    if (lane() == 0)
        of_warps[warp()] = value;
    __syncthreads();
    double all = 0.0;
    if (threadIdx.x == 0)
        for (double of_warp : of_warps)
            all += of_warp;
    return all;
}

__device__ __forceinline__ float norm_of(const ScoreParameters &p, unsigned head, unsigned at) {
    return p.norms ? p.norms[p.of_entries ? static_cast<uint64_t>(head) * p.columns + at : head] : 1.0f;
}

// Pooled along positions and reduced over the group: one thread for each entry of a head (y).
__device__ __forceinline__ void pool_scores(ScoreShared &s, const ScoreParameters &p) {
    const unsigned at = blockIdx.x * THREADS + threadIdx.x, head = blockIdx.y;
    float score = 0.0f;
    if (at < p.columns) {
        const unsigned begin = at < p.reach ? 0 : at - p.reach, end = min(at + p.reach + 1, p.columns);
        // The mean of scores that are clamped comes first.
        const float norm = p.clamped ? 1.0f : norm_of(p, head, at);
        for (unsigned g = head * p.group; g < (head + 1) * p.group; g++) {
            const float *seen = p.seen + static_cast<uint64_t>(g) * p.columns;
            float pooled = 0.0f;
            for (unsigned i = begin; i < end; i++)
                pooled = fmaxf(pooled, seen[i]);
            pooled = multiply_once(fmaxf(multiply_once(pooled, p.shoulder), seen[at]), norm);
            score = p.of_mean ? add_once(score, pooled) : fmaxf(score, pooled);
        }
        if (p.of_mean)
            score /= p.group;
        p.scores[static_cast<uint64_t>(head) * p.columns + at] = score;
    }
    const double sum = block_sum(s.sums[0], score);
    if (threadIdx.x == 0)
        p.pooled_sums[static_cast<uint64_t>(head) * gridDim.x + blockIdx.x] = sum;
}

// Clamped and scaled where that is wanted; and what the layer's entropy needs.
__device__ __forceinline__ void finish_scores(ScoreShared &s, const ScoreParameters &p) {
    const unsigned at = blockIdx.x * THREADS + threadIdx.x, head = blockIdx.y;
    if (p.clamped && warp() == 0) {
        double sum = 0.0;
        for (unsigned block = lane(); block < gridDim.x; block += WARP)
            sum += p.pooled_sums[static_cast<uint64_t>(head) * gridDim.x + block];
        sum = warp_sum(sum);
        if (lane() == 0)
            s.mean = static_cast<float>(sum / p.columns);
    }
    __syncthreads();
    double score = 0.0, information = 0.0;
    if (at < p.columns) {
        float *place = &p.scores[static_cast<uint64_t>(head) * p.columns + at];
        if (p.clamped)
            *place = multiply_once(fmaxf(*place, s.mean), norm_of(p, head, at));
        score = *place;
        information = score > 0.0 ? score * log(score) : 0.0;
    }
    const double sums[2] = {block_sum(s.sums[0], score), block_sum(s.sums[1], information)};
    if (threadIdx.x == 0) {
        double *out = p.sums + 2 * (static_cast<uint64_t>(head) * gridDim.x + blockIdx.x);
        out[0] = sums[0];
        out[1] = sums[1];
    }
}

KERNEL(pool_scores, ScoreParameters, THREADS) {
    SHARED(ScoreShared, s);
    pool_scores(s, p);
}
KERNEL(finish_scores, ScoreParameters, THREADS) {
    SHARED(ScoreShared, s);
    finish_scores(s, p);
}

#define WINDOW(T, D, names)                                                                                            \
    KERNEL(window_##names, WindowParameters, THREADS) {                                                                \
        SHARED(WindowShared<D>, s);                                                                                    \
        look_at_keys<T, D>(s, p);                                                                                      \
    }                                                                                                                  \
    KERNEL(value_norms_##names, NormParameters, THREADS) { value_norms<T, D>(p); }

// Names: what a model computes in, D.
WINDOW(Bf16, 64, bf16_64)
WINDOW(Bf16, 128, bf16_128)
WINDOW(F16, 64, f16_64)
WINDOW(F16, 128, f16_128)
