// Compact caches in device memory: ragged rows in pages of one pool. The layout of a page is that of
// lava_engine's PageTable: key codes, value codes, key scales, value scales, each with room for all rows of a page.
#pragma once

#include "device.cuh"

// Rows of one (layer, KV head) of a sequence as prefill left them.
struct Table {
    // Where its pages begin in the sequence's list.
    uint32_t wide_page, packed_page;
    uint32_t wide_rows, packed_rows;
};

struct Sequence {
    // [L, Hkv]
    const Table *tables;
    // Numbers of pages, of all tables; each wide area has room for what will be appended.
    const uint32_t *pages;
    // [L, Hkv, D] in half precision: what packed keys are relative to.
    const uint16_t *mean_keys;
    // Rows that every table has more than at its start, all of them wide.
    uint32_t appended;
    uint32_t unused;
};

struct Pool {
    unsigned char *bytes;
    uint64_t page_bytes;
    // Rows of a page in either form.
    uint32_t wide_page_rows, packed_page_rows;
};

// Where a row's key and value codes and scales begin.
struct RowPlace {
    uint64_t codes[2], scales[2];
};

// `pages` are those of the area that the row is in.
__device__ __forceinline__ RowPlace place_of(const Pool &pool, const uint32_t *pages, unsigned page_rows,
                                             unsigned code_bytes, unsigned row) {
    const unsigned page = row / page_rows, at = row % page_rows;
    const uint64_t start = pages[page] * pool.page_bytes;
    const uint64_t scales = start + 2 * static_cast<uint64_t>(page_rows) * code_bytes;
    return {{start + static_cast<uint64_t>(at) * code_bytes, start + static_cast<uint64_t>(page_rows + at) * code_bytes},
            {scales + 2 * at, scales + 2 * static_cast<uint64_t>(page_rows + at)}};
}
