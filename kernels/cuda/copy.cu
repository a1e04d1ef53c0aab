// Rows between pages and buffers in which they lie as on the wire: of each run the codes of all keys and their
// scales, then the same of values (crates/kv).
#include "pages.cuh"

constexpr unsigned THREADS = 128;
// Rows of a block.
constexpr unsigned ROWS = 64;

// Consecutive rows of one area of a table.
struct Run {
    // Where its keys begin in the buffer.
    uint64_t offset;
    // Where the pages of its area begin in the list.
    uint32_t first_page;
    uint32_t first_row, rows;
    uint32_t is_packed;
};

struct CopyParameters {
    const Run *runs;
    const uint32_t *pages;
    Pool pool;
    unsigned char *buffer;
    // Of an element of wide rows, D, and of the codes of a packed row.
    uint32_t head_dim, packed_code_bytes;
    uint32_t to_pages, unused;
};

// Some bytes, in the widest steps that both sides are aligned to.
__device__ __forceinline__ void move(unsigned char *to, const unsigned char *from, unsigned bytes) {
    const uint64_t sides = reinterpret_cast<uint64_t>(to) | reinterpret_cast<uint64_t>(from) | bytes;
    if (sides % 16 == 0) {
        for (unsigned at = threadIdx.x % WARP * 16; at < bytes; at += WARP * 16)
            store_16(to + at, load_16(from + at));
    } else if (sides % 4 == 0) {
        for (unsigned at = threadIdx.x % WARP * 4; at < bytes; at += WARP * 4)
            *reinterpret_cast<uint32_t *>(to + at) = *reinterpret_cast<const uint32_t *>(from + at);
    } else {
        for (unsigned at = threadIdx.x % WARP * 2; at < bytes; at += WARP * 2)
            *reinterpret_cast<uint16_t *>(to + at) = *reinterpret_cast<const uint16_t *>(from + at);
    }
}

// Up to 64 rows (x) of a run (y), one warp for each.
__device__ __forceinline__ void copy(const CopyParameters &p) {
    const Run run = p.runs[blockIdx.y];
    const unsigned code_bytes = run.is_packed ? p.packed_code_bytes : 2 * p.head_dim;
    const unsigned scale_bytes = run.is_packed ? 2 : 0;
    const unsigned page_rows = run.is_packed ? p.pool.packed_page_rows : p.pool.wide_page_rows;
    const uint64_t half_bytes = static_cast<uint64_t>(run.rows) * (code_bytes + scale_bytes);
    const unsigned end = min(run.rows, (blockIdx.x + 1) * ROWS);
    for (unsigned row = blockIdx.x * ROWS + warp(); row < end; row += THREADS / WARP) {
        const RowPlace place =
            place_of(p.pool, p.pages + run.first_page, page_rows, code_bytes, run.first_row + row);
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            unsigned char *wire = p.buffer + run.offset + half * half_bytes;
            unsigned char *wire_codes = wire + static_cast<uint64_t>(row) * code_bytes;
            unsigned char *wire_scale = wire + static_cast<uint64_t>(run.rows) * code_bytes + row * scale_bytes;
            unsigned char *codes = p.pool.bytes + place.codes[half], *scale = p.pool.bytes + place.scales[half];
            if (p.to_pages) {
                move(codes, wire_codes, code_bytes);
                move(scale, wire_scale, scale_bytes);
            } else {
                move(wire_codes, codes, code_bytes);
                move(wire_scale, scale, scale_bytes);
            }
        }
    }
}

KERNEL(copy_rows, CopyParameters, THREADS) { copy(p); }
