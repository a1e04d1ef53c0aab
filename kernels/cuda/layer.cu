// What stands between the products of a layer. The residual stream is in f32, what products read and write in 16 bits.
#include "device.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / WARP;
// Elements in 16 bytes.
constexpr unsigned EIGHT = 8;

template <class T> __device__ __forceinline__ void unpack(float (&x)[EIGHT], uint4 packed) {
    const Pair pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        x[2 * i] = T{static_cast<uint16_t>(pairs[i] & 0xffffu)}.value();
        x[2 * i + 1] = T{static_cast<uint16_t>(pairs[i] >> 16)}.value();
    }
}

template <class T> __device__ __forceinline__ uint4 pack(const float (&x)[EIGHT]) {
    return {pair_of<T>(x[0], x[1]), pair_of<T>(x[2], x[3]), pair_of<T>(x[4], x[5]), pair_of<T>(x[6], x[7])};
}

struct EmbedParameters {
    // [T]
    const uint32_t *ids;
    // [V, hidden]
    const uint16_t *table;
    // [T, hidden]
    float *x;
    uint32_t hidden, unused;
};

// The residual stream of some tokens: one block for each.
template <class T> __device__ __forceinline__ void embed(const EmbedParameters &p) {
    const uint16_t *row = p.table + static_cast<uint64_t>(p.ids[blockIdx.x]) * p.hidden;
    float *x = p.x + static_cast<uint64_t>(blockIdx.x) * p.hidden;
    for (unsigned at = threadIdx.x * EIGHT; at < p.hidden; at += THREADS * EIGHT) {
        float eight[EIGHT];
        unpack<T>(eight, load_16(row + at));
#pragma unroll
        for (unsigned i = 0; i < EIGHT; i++)
            x[at + i] = eight[i];
    }
}

struct NormParameters {
    // [T, hidden], in and out.
    float *x;
    // [T, hidden], added to x before; or null.
    const uint16_t *y;
    // [hidden]
    const float *weight;
    // [T, hidden]
    uint16_t *out;
    uint32_t hidden;
    float epsilon;
};

struct NormShared {
    float sums[WARPS];
};

// x += y, and x / sqrt(mean(x^2) + epsilon) * weight: one block for each row.
template <class T> __device__ __forceinline__ void add_and_norm(NormShared &s, const NormParameters &p) {
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * p.hidden;
    float *x = p.x + first;
    float sum = 0.0f;
    for (unsigned at = threadIdx.x * EIGHT; at < p.hidden; at += THREADS * EIGHT) {
        float added[EIGHT] = {};
        if (p.y)
            unpack<T>(added, load_16(p.y + first + at));
#pragma unroll
        for (unsigned i = 0; i < EIGHT; i++) {
            const float sum_of_both = x[at + i] + added[i];
            if (p.y)
                x[at + i] = sum_of_both;
            sum += sum_of_both * sum_of_both;
        }
    }
    sum = warp_sum(sum);
    if (lane() == 0)
        s.sums[warp()] = sum;
    __syncthreads();
    float total = 0.0f;
    for (float of_warp : s.sums)
        total += of_warp;
    const float scale = 1.0f / sqrtf(total / p.hidden + p.epsilon);
    for (unsigned at = threadIdx.x * EIGHT; at < p.hidden; at += THREADS * EIGHT) {
        float scaled[EIGHT];
#pragma unroll
        for (unsigned i = 0; i < EIGHT; i++)
            scaled[i] = x[at + i] * scale * p.weight[at + i];
        store_16(p.out + first + at, pack<T>(scaled));
    }
}

struct HeadParameters {
    // [T, (Hq + 2 Hkv) D]: queries, keys and values of each token as their product gives them.
    const uint16_t *projected;
    // [(Hq + 2 Hkv) D], or null.
    const float *bias;
    // [D], or null: what query and key heads are normalised with.
    const float *query_norm, *key_norm;
    // [T, D / 2]
    const float *cosines, *sines;
    // [T, Hq, D], and [T, Hkv, D] twice.
    uint16_t *queries, *keys, *values;
    uint32_t tokens, q_heads, kv_heads;
    float epsilon;
};

// One warp for each head of each token. A lane has elements that turn together, D / 2 apart.
template <class T, unsigned D> __device__ __forceinline__ void split_heads(const HeadParameters &p) {
    constexpr unsigned PAIRS = D / 2 / WARP;
    const unsigned heads = p.q_heads + 2 * p.kv_heads, index = blockIdx.x * WARPS + warp();
    if (index >= p.tokens * heads)
        return;
    const unsigned token = index / heads, head = index % heads;
    const uint16_t *from = p.projected + static_cast<uint64_t>(index) * D;
    float low[PAIRS], high[PAIRS], squares = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < PAIRS; i++) {
        const unsigned c = lane() + i * WARP;
        low[i] = T{from[c]}.value();
        high[i] = T{from[c + D / 2]}.value();
        if (p.bias) {
            low[i] += p.bias[head * D + c];
            high[i] += p.bias[head * D + c + D / 2];
        }
        squares += low[i] * low[i] + high[i] * high[i];
    }
    const bool is_query = head < p.q_heads, is_value = head >= p.q_heads + p.kv_heads;
    const float *norm = is_query ? p.query_norm : is_value ? nullptr : p.key_norm;
    if (norm) {
        const float scale = 1.0f / sqrtf(warp_sum(squares) / D + p.epsilon);
#pragma unroll
        for (unsigned i = 0; i < PAIRS; i++) {
            const unsigned c = lane() + i * WARP;
            low[i] *= scale * norm[c];
            high[i] *= scale * norm[c + D / 2];
        }
    }
    const uint64_t row = static_cast<uint64_t>(token) * (is_query ? p.q_heads : p.kv_heads) +
                         (is_query ? head : is_value ? head - p.q_heads - p.kv_heads : head - p.q_heads);
    uint16_t *to = (is_query ? p.queries : is_value ? p.values : p.keys) + row * D;
#pragma unroll
    for (unsigned i = 0; i < PAIRS; i++) {
        const unsigned c = lane() + i * WARP;
        const uint64_t angle = static_cast<uint64_t>(token) * (D / 2) + c;
        const float cosine = is_value ? 1.0f : p.cosines[angle], sine = is_value ? 0.0f : p.sines[angle];
        to[c] = T::of(low[i] * cosine - high[i] * sine).bits;
        to[c + D / 2] = T::of(high[i] * cosine + low[i] * sine).bits;
    }
}

struct GateParameters {
    // [T, 2, intermediate]: gate and up of each token.
    const uint16_t *gate_up;
    // [T, intermediate]
    uint16_t *out;
    uint32_t tokens, intermediate;
};

// gate * sigmoid(gate) * up.
template <class T> __device__ __forceinline__ void silu_product(const GateParameters &p) {
    const uint64_t at = (static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x) * EIGHT;
    if (at >= static_cast<uint64_t>(p.tokens) * p.intermediate)
        return;
    const uint64_t token = at / p.intermediate, c = at % p.intermediate;
    float gate[EIGHT], up[EIGHT];
    unpack<T>(gate, load_16(p.gate_up + 2 * token * p.intermediate + c));
    unpack<T>(up, load_16(p.gate_up + (2 * token + 1) * p.intermediate + c));
#pragma unroll
    for (unsigned i = 0; i < EIGHT; i++) {
        // Below 1 whatever the sign, so nothing overflows.
        const float e = exp_fast(-fabsf(gate[i]));
        gate[i] *= up[i] * (gate[i] >= 0.0f ? 1.0f : e) / (1.0f + e);
    }
    store_16(p.out + at, pack<T>(gate));
}

#define LAYER(T, name)                                                                                                 \
    KERNEL(embed_##name, EmbedParameters, THREADS) { embed<T>(p); }                                                    \
    KERNEL(add_and_norm_##name, NormParameters, THREADS) {                                                             \
        SHARED(NormShared, s);                                                                                         \
        add_and_norm<T>(s, p);                                                                                         \
    }                                                                                                                  \
    KERNEL(split_heads_##name##_64, HeadParameters, THREADS) { split_heads<T, 64>(p); }                                \
    KERNEL(split_heads_##name##_128, HeadParameters, THREADS) { split_heads<T, 128>(p); }                              \
    KERNEL(silu_product_##name, GateParameters, THREADS) { silu_product<T>(p); }

// Names: what a model computes in, and D where it matters.
LAYER(Bf16, bf16)
LAYER(F16, f16)
