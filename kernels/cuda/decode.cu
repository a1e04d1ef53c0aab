// Decode attention over ragged pages: every (sequence, KV head) has its own number of rows. See `decode_attention`
// of kernels/src/decode.rs; here rows are multiplied by tensor cores, straight from the pages.
//
// The rows of a head are split into pieces, which depend on the head only; a second kernel puts the pieces together.
// So an answer does not depend on the batch that it is computed in.
#include "pages.cuh"
#include "rotation.cuh"
#include "rows.cuh"

// Rows of a piece.
constexpr unsigned PIECE_ROWS = 256;
// Rows that a warp multiplies at once.
constexpr unsigned TILE_ROWS = 16;
// Queries that look at a piece together; the rest of a group looks in blocks of its own.
constexpr unsigned QUERIES = 8;
constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / WARP;

struct DecodeParameters {
    // [B]
    const Sequence *sequences;
    // [B, Hq, D]
    const uint16_t *queries;
    Pool pool;
    // [B, Hkv, pieces, G, 2 + D]: the largest logit, the sum of exp(logit - largest), and the values by those
    // weights; of packed rows as rotated codes.
    float *partials;
    uint32_t layer, kv_heads, group;
    // Of the longest head.
    uint32_t pieces;
};

template <unsigned D> struct DecodeShared {
    float queries[QUERIES][D];
    // What the mean key adds to the logits of packed rows.
    float constants[QUERIES];
    // Where the codes and the scale of each row's key begin in the pool.
    uint64_t codes[PIECE_ROWS], scales[PIECE_ROWS];
    float logits[QUERIES][PIECE_ROWS];
    // As multiples of `unit`; some room behind each row, so that the rows lie in different banks.
    Pair weights[QUERIES][PIECE_ROWS / 2 + 4];
    float unit[QUERIES];
    float sums[WARPS][QUERIES][D];
};

// The piece of a block.
struct Piece {
    Sequence sequence;
    Table table;
    unsigned head;
    // Rows of its area before it, and its own.
    unsigned start, rows;
};

template <class T, class Rows, unsigned D>
__device__ __forceinline__ void load_queries(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece) {
    const unsigned batch = blockIdx.y / p.kv_heads, first = blockIdx.z * QUERIES;
    const uint16_t *queries = p.queries + (static_cast<uint64_t>(batch * p.kv_heads + piece.head) * p.group + first) * D;
    for (unsigned i = threadIdx.x; i < QUERIES * D; i += THREADS) {
        const bool is_there = first + i / D < p.group;
        s.queries[i / D][i % D] = is_there ? T{queries[i]}.value() : 0.0f;
    }
    __syncthreads();
    if constexpr (Rows::IS_PACKED) {
        // A packed key is mean + R^-1 scale code with R the rotation: its product with q is q mean + scale (R q) code.
        const uint16_t *mean = piece.sequence.mean_keys + static_cast<uint64_t>(p.layer * p.kv_heads + piece.head) * D;
        for (unsigned q = warp(); q < QUERIES; q += WARPS) {
            float product = 0.0f;
            for (unsigned i = lane(); i < D; i += WARP)
                product += s.queries[q][i] * half_to_float(mean[i]);
            product = warp_sum(product);
            if (lane() == 0)
                s.constants[q] = product;
            rotate<D>(s.queries[q]);
        }
    } else if (threadIdx.x < QUERIES) {
        s.constants[threadIdx.x] = 0.0f;
    }
}

template <class Rows, unsigned D>
__device__ __forceinline__ void find_rows(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece) {
    const uint32_t *pages =
        piece.sequence.pages + (Rows::IS_PACKED ? piece.table.packed_page : piece.table.wide_page);
    const unsigned page_rows = Rows::IS_PACKED ? p.pool.packed_page_rows : p.pool.wide_page_rows;
    const unsigned tiles = ceil_div(piece.rows, TILE_ROWS);
    for (unsigned row = threadIdx.x; row < tiles * TILE_ROWS; row += THREADS) {
        // Rows that are not there are read as the last one; they have no weight.
        const unsigned there = piece.start + min(row, piece.rows - 1);
        const RowPlace place = place_of(p.pool, pages, page_rows, Rows::CODE_BYTES, there);
        s.codes[row] = place.codes[0];
        s.scales[row] = place.scales[0];
    }
}

// Logits of all rows into shared memory. Keys are the left factor, so that a tile is 16 of them; the order of
// elements in the sums is the one that they have in memory, and queries are read in the same.
template <class Rows, unsigned D>
__device__ __forceinline__ void multiply_keys(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece) {
    using Keys = Share<Rows, 4>;
    using Element = typename Rows::Element;
    const unsigned i = lane() / 4, t = lane() % 4;
    const float norm = 1.0f / sqrtf(static_cast<float>(D));
    Pair queries[Keys::PAIRS];
#pragma unroll
    for (unsigned pair = 0; pair < Keys::PAIRS; pair++)
        queries[pair] = pair_of<Element>(s.queries[i][Keys::first(t, pair)], s.queries[i][Keys::second(t, pair)]);
    for (unsigned first = warp() * TILE_ROWS; first < piece.rows; first += WARPS * TILE_ROWS) {
        const unsigned rows[2] = {first + i, first + i + 8};
        Pair keys[2][Keys::PAIRS];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            Keys share;
            share.load(p.pool.bytes + s.codes[rows[half]], t);
            share.read(keys[half]);
        }
        float products[4] = {};
#pragma unroll
        for (unsigned pair = 0; pair < Keys::PAIRS; pair += 2) {
            const Pair a[4] = {keys[0][pair], keys[1][pair], keys[0][pair + 1], keys[1][pair + 1]};
            const Pair b[2] = {queries[pair], queries[pair + 1]};
            Element::multiply_add(products, a, b);
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            float scale = 1.0f;
            if constexpr (Rows::IS_PACKED)
                scale = half_to_float(*reinterpret_cast<const uint16_t *>(p.pool.bytes + s.scales[rows[half]]));
#pragma unroll
            for (unsigned j = 0; j < 2; j++) {
                const unsigned q = 2 * t + j;
                const float logit = (products[2 * half + j] * scale + s.constants[q]) * norm;
                s.logits[q][rows[half]] = rows[half] < piece.rows ? logit : MINUS_INFINITY;
            }
        }
    }
}

// Logits become weights by which values are summed: times the row's scale, and as multiples of a unit that uses
// the range of half precision. The largest logit and the sum go out.
template <class Rows, unsigned D>
__device__ __forceinline__ void weigh(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece, float *partial) {
    const unsigned padded = ceil_div(piece.rows, TILE_ROWS) * TILE_ROWS;
    for (unsigned q = warp(); q < QUERIES; q += WARPS) {
        float largest = MINUS_INFINITY;
        for (unsigned row = lane(); row < padded; row += WARP)
            largest = fmaxf(largest, s.logits[q][row]);
        largest = warp_max(largest);
        float sum = 0.0f, heaviest = 0.0f;
        for (unsigned row = lane(); row < padded; row += WARP) {
            float weight = exp_fast(s.logits[q][row] - largest);
            sum += weight;
            if constexpr (Rows::IS_PACKED) {
                const uint64_t scale = s.scales[row] + 2 * p.pool.packed_page_rows;
                weight *= half_to_float(*reinterpret_cast<const uint16_t *>(p.pool.bytes + scale));
            }
            s.logits[q][row] = weight;
            heaviest = fmaxf(heaviest, weight);
        }
        sum = warp_sum(sum);
        heaviest = warp_max(heaviest);
        constexpr float TOP = 1024.0f;
        const float per_unit = heaviest > 0.0f ? TOP / heaviest : 0.0f;
        __syncwarp();
        for (unsigned row = 2 * lane(); row < padded; row += 2 * WARP)
            s.weights[q][row / 2] = pair_of<typename Rows::Element>(s.logits[q][row] * per_unit,
                                                                    s.logits[q][row + 1] * per_unit);
        if (lane() == 0) {
            s.unit[q] = heaviest / TOP;
            if (blockIdx.z * QUERIES + q < p.group) {
                partial[q * (2 + D)] = largest;
                partial[q * (2 + D) + 1] = sum;
            }
        }
    }
}

// The values by those weights, and out. Values are the left factor: a tile is two elements of the shares of eight
// lanes over 16 rows.
template <class Rows, unsigned D>
__device__ __forceinline__ void multiply_values(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece,
                                                float *partial) {
    using Values = Share<Rows, 8>;
    using Element = typename Rows::Element;
    const unsigned i = lane() / 4, t = lane() % 4;
    const unsigned page_rows = Rows::IS_PACKED ? p.pool.packed_page_rows : p.pool.wide_page_rows;
    const uint64_t behind_keys = static_cast<uint64_t>(page_rows) * Rows::CODE_BYTES;
    float sums[Values::PAIRS][4] = {};
    for (unsigned first = warp() * TILE_ROWS; first < piece.rows; first += WARPS * TILE_ROWS) {
        const unsigned rows[4] = {first + 2 * t, first + 2 * t + 1, first + 2 * t + 8, first + 2 * t + 9};
        Pair values[4][Values::PAIRS];
#pragma unroll
        for (unsigned k = 0; k < 4; k++) {
            Values share;
            share.load(p.pool.bytes + s.codes[rows[k]] + behind_keys, i);
            share.read(values[k]);
        }
        const Pair b[2] = {s.weights[i][first / 2 + t], s.weights[i][first / 2 + t + 4]};
#pragma unroll
        for (unsigned pair = 0; pair < Values::PAIRS; pair++) {
            // Pairs of one row and two elements become pairs of two rows and one element.
            const Pair a[4] = {
                __byte_perm(values[0][pair], values[1][pair], 0x5410),
                __byte_perm(values[0][pair], values[1][pair], 0x7632),
                __byte_perm(values[2][pair], values[3][pair], 0x5410),
                __byte_perm(values[2][pair], values[3][pair], 0x7632),
            };
            Element::multiply_add(sums[pair], a, b);
        }
    }
#pragma unroll
    for (unsigned pair = 0; pair < Values::PAIRS; pair++) {
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            s.sums[warp()][2 * t + j][Values::first(i, pair)] = sums[pair][j];
            s.sums[warp()][2 * t + j][Values::second(i, pair)] = sums[pair][2 + j];
        }
    }
    __syncthreads();
    const unsigned queries = min(QUERIES, p.group - blockIdx.z * QUERIES);
    for (unsigned at = threadIdx.x; at < queries * D; at += THREADS) {
        const unsigned q = at / D, c = at % D;
        float sum = 0.0f;
        for (unsigned w = 0; w < WARPS; w++)
            sum += s.sums[w][q][c];
        partial[q * (2 + D) + 2 + c] = sum * s.unit[q];
    }
}

template <class T, class Rows, unsigned D>
__device__ __forceinline__ void attend(DecodeShared<D> &s, const DecodeParameters &p, const Piece &piece) {
    const uint64_t place = static_cast<uint64_t>(blockIdx.y) * p.pieces + blockIdx.x;
    float *partial = p.partials + (place * p.group + blockIdx.z * QUERIES) * (2 + D);
    load_queries<T, Rows, D>(s, p, piece);
    find_rows<Rows, D>(s, p, piece);
    __syncthreads();
    multiply_keys<Rows, D>(s, p, piece);
    __syncthreads();
    weigh<Rows, D>(s, p, piece, partial);
    __syncthreads();
    multiply_values<Rows, D>(s, p, piece, partial);
}

struct Pieces {
    unsigned wide, packed;
};

__device__ __forceinline__ Pieces pieces_of(const Sequence &sequence, const Table &table) {
    return {ceil_div(table.wide_rows + sequence.appended, PIECE_ROWS), ceil_div(table.packed_rows, PIECE_ROWS)};
}

template <class T, class Wide, class Packed, unsigned D>
__device__ __forceinline__ void decode(DecodeShared<D> &s, const DecodeParameters &p) {
    Piece piece;
    piece.sequence = p.sequences[blockIdx.y / p.kv_heads];
    piece.head = blockIdx.y % p.kv_heads;
    piece.table = piece.sequence.tables[p.layer * p.kv_heads + piece.head];
    const Pieces pieces = pieces_of(piece.sequence, piece.table);
    if (blockIdx.x < pieces.wide) {
        piece.start = blockIdx.x * PIECE_ROWS;
        piece.rows = min(PIECE_ROWS, piece.table.wide_rows + piece.sequence.appended - piece.start);
        attend<T, Wide, D>(s, p, piece);
    } else if (blockIdx.x < pieces.wide + pieces.packed) {
        piece.start = (blockIdx.x - pieces.wide) * PIECE_ROWS;
        piece.rows = min(PIECE_ROWS, piece.table.packed_rows - piece.start);
        attend<T, Packed, D>(s, p, piece);
    }
}

struct MergeParameters {
    const Sequence *sequences;
    const float *partials;
    // [B, Hq, D]
    uint16_t *out;
    uint32_t layer, kv_heads, group, pieces;
};

template <unsigned D> struct MergeShared {
    float rotated[D];
};

// One block for each query, one thread for each element.
template <class T, unsigned D> __device__ __forceinline__ void merge(MergeShared<D> &s, const MergeParameters &p) {
    const unsigned head = blockIdx.x / p.group, query = blockIdx.x % p.group, c = threadIdx.x;
    const Sequence sequence = p.sequences[head / p.kv_heads];
    const Table table = sequence.tables[p.layer * p.kv_heads + head % p.kv_heads];
    const Pieces pieces = pieces_of(sequence, table);
    const float *partials = p.partials + (static_cast<uint64_t>(head) * p.pieces * p.group + query) * (2 + D);
    const uint64_t stride = p.group * (2 + D);
    float largest = MINUS_INFINITY;
    for (unsigned piece = 0; piece < pieces.wide + pieces.packed; piece++)
        largest = fmaxf(largest, partials[piece * stride]);
    float sum = 0.0f, plain = 0.0f, rotated = 0.0f;
    for (unsigned piece = 0; piece < pieces.wide + pieces.packed; piece++) {
        const float *partial = partials + piece * stride;
        const float share = exp_fast(partial[0] - largest);
        sum += partial[1] * share;
        (piece < pieces.wide ? plain : rotated) += partial[2 + c] * share;
    }
    if (pieces.packed > 0) {
        s.rotated[c] = rotated;
        __syncthreads();
        if (warp() == 0)
            rotate_back<D>(s.rotated);
        __syncthreads();
        plain += s.rotated[c];
    }
    p.out[static_cast<uint64_t>(blockIdx.x) * D + c] = T::of(sum > 0.0f ? plain / sum : 0.0f).bits;
}

#define DECODE(name, T, Wide, Packed, D)                                                                               \
    KERNEL(name, DecodeParameters, THREADS) {                                                                          \
        SHARED(DecodeShared<D>, s);                                                                                    \
        decode<T, Wide<D>, Packed<D>, D>(s, p);                                                                        \
    }
#define DECODES(T, D, names)                                                                                           \
    DECODE(decode_bf16_##names, T, Bf16Rows, Int4Rows, D)                                                              \
    DECODE(decode_int8_##names, T, F16Rows, Int8Rows, D)                                                               \
    DECODE(decode_fp8_##names, T, F16Rows, Fp8Rows, D)                                                                 \
    DECODE(decode_int4_##names, T, F16Rows, Int4Rows, D)                                                               \
    KERNEL(merge_##names, MergeParameters, D) {                                                                        \
        SHARED(MergeShared<D>, s);                                                                                     \
        merge<T, D>(s, p);                                                                                             \
    }

// Names: the row format of a cache, what queries are, D. Caches of wide rows have no packed ones, so that those of
// f16 are served by decode_int4.
DECODES(Bf16, 64, bf16_64)
DECODES(Bf16, 128, bf16_128)
DECODES(F16, 64, f16_64)
DECODES(F16, 128, f16_128)
