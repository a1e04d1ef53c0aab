// The new key and value rows of a step, of all sequences, into the pages that they end in.
#include "pages.cuh"

constexpr unsigned THREADS = 128;
// Elements that a lane moves: 16 bytes.
constexpr unsigned ELEMENTS = 8;

struct AppendParameters {
    // [B]; the new row is counted already.
    const Sequence *sequences;
    // [B, Hkv, D]
    const uint16_t *keys, *values;
    Pool pool;
    uint32_t layer, kv_heads, batch, unused;
};

template <class From, class To> __device__ __forceinline__ Pair convert(Pair pair) {
    const From first{static_cast<uint16_t>(pair & 0xffffu)}, second{static_cast<uint16_t>(pair >> 16)};
    return pair_of<To>(first.value(), second.value());
}

// D / 8 lanes for a row, so many rows side by side in a block.
template <class T, class Wide, unsigned D> __device__ __forceinline__ void append(const AppendParameters &p) {
    constexpr unsigned LANES = D / ELEMENTS;
    const unsigned row = (blockIdx.x * THREADS + threadIdx.x) / LANES, at = threadIdx.x % LANES * ELEMENTS;
    const unsigned heads = p.batch * p.kv_heads;
    if (row >= 2 * heads)
        return;
    const unsigned half = row / heads, head = row % heads;
    const Sequence sequence = p.sequences[head / p.kv_heads];
    const Table table = sequence.tables[p.layer * p.kv_heads + head % p.kv_heads];
    const unsigned last = table.wide_rows + sequence.appended - 1;
    const RowPlace place = place_of(p.pool, sequence.pages + table.wide_page, p.pool.wide_page_rows, 2 * D, last);
    const uint16_t *from = (half == 0 ? p.keys : p.values) + static_cast<uint64_t>(head) * D + at;
    uint4 elements = load_16(from);
    elements.x = convert<T, Wide>(elements.x);
    elements.y = convert<T, Wide>(elements.y);
    elements.z = convert<T, Wide>(elements.z);
    elements.w = convert<T, Wide>(elements.w);
    store_16(p.pool.bytes + (half == 0 ? place.codes[0] : place.codes[1]) + 2 * at, elements);
}

#define APPEND(name, T, Wide, D)                                                                                       \
    KERNEL(name, AppendParameters, THREADS) { append<T, Wide, D>(p); }

// Names: how wide rows are stored, what a model computes in, D.
APPEND(append_f16_bf16_64, Bf16, F16, 64)
APPEND(append_f16_bf16_128, Bf16, F16, 128)
APPEND(append_bf16_bf16_64, Bf16, Bf16, 64)
APPEND(append_bf16_bf16_128, Bf16, Bf16, 128)
APPEND(append_f16_f16_64, F16, F16, 64)
APPEND(append_f16_f16_128, F16, F16, 128)
APPEND(append_bf16_f16_64, F16, Bf16, 64)
APPEND(append_bf16_f16_128, F16, Bf16, 128)
