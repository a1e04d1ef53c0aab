// The best entries of a layer, or of each head, in their strict order: score descending, then index ascending; the
// first positions of every head before all others (crates/lava/src/ranking.rs). An entry is one number of 64 bits
// that orders so, and no two are equal. A radix select finds the last number that is taken, and only what is taken
// is sorted.
#include "device.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned DIGITS_MAX = 2048;
// Numbers that a block sorts in shared memory.
constexpr unsigned TILE = 2048;
constexpr uint64_t NOTHING = ~static_cast<uint64_t>(0);

// What is known of a segment's last number.
struct Selection {
    // Its upper bits; all of them once `is_known`.
    uint64_t last;
    // How many of the numbers with those bits are taken, and of all.
    uint32_t remaining, count;
    uint32_t is_known;
    // Written so far.
    uint32_t taken;
};

struct RankParameters {
    // [segments, entries]
    const float *scores;
    // [segments]: how many are wanted; may be more than there are.
    const uint32_t *counts;
    Selection *selections;
    // [segments, DIGITS_MAX], zero before each look and after it.
    uint32_t *histograms;
    // [segments, capacity], all bits set before; a power of two, not less than what is wanted of a segment.
    uint64_t *best;
    // [segments, capacity]: their indices in the segment.
    uint32_t *indices;
    uint32_t entries, positions, sinks, capacity;
    // The digit of a look.
    uint32_t shift, bits;
    // The distance of a step of the sort, and the length of the runs that it makes.
    uint32_t distance, run;
};

__device__ __forceinline__ uint64_t number_of(const RankParameters &p, unsigned segment, unsigned index) {
    const float score = p.scores[static_cast<uint64_t>(segment) * p.entries + index];
    // Scores have no sign, so their bits order as they do; -0 is 0.
    uint32_t upper = ~(__float_as_uint(score) & 0x7fffffffu);
    if (index % p.positions < p.sinks)
        upper &= 0x7fffffffu;
    return static_cast<uint64_t>(upper) << 32 | index;
}

__device__ __forceinline__ void begin(const RankParameters &p) {
    const unsigned segment = blockIdx.x;
    const uint32_t count = min(p.counts[segment], p.entries);
    if (threadIdx.x == 0)
        p.selections[segment] = {count == p.entries ? NOTHING : 0, count, count, count == 0 || count == p.entries, 0};
}

struct HistogramShared {
    uint32_t counts[DIGITS_MAX];
};

// Counts one digit of all numbers that have the bits of the last one above it.
__device__ __forceinline__ void count_digits(HistogramShared &s, const RankParameters &p) {
    const unsigned segment = blockIdx.y;
    const Selection selection = p.selections[segment];
    if (selection.is_known)
        return;
    for (unsigned digit = threadIdx.x; digit < DIGITS_MAX; digit += THREADS)
        s.counts[digit] = 0;
    __syncthreads();
    const unsigned above = p.shift + p.bits;
    for (unsigned index = blockIdx.x * THREADS + threadIdx.x; index < p.entries; index += gridDim.x * THREADS) {
        const uint64_t number = number_of(p, segment, index);
        if (above == 64 || (number ^ selection.last) >> above == 0)
            atomicAdd(&s.counts[number >> p.shift & ((1u << p.bits) - 1)], 1u);
    }
    __syncthreads();
    for (unsigned digit = threadIdx.x; digit < DIGITS_MAX; digit += THREADS)
        if (s.counts[digit] > 0)
            atomicAdd(&p.histograms[segment * DIGITS_MAX + digit], s.counts[digit]);
}

// Finds the digit of the last number: one warp for each segment.
__device__ __forceinline__ void choose_digit(const RankParameters &p) {
    constexpr unsigned OF_LANE = DIGITS_MAX / WARP;
    const unsigned segment = blockIdx.x;
    Selection selection = p.selections[segment];
    if (selection.is_known)
        return;
    uint32_t *counts = p.histograms + segment * DIGITS_MAX + lane() * OF_LANE;
    uint32_t mine = 0;
    for (unsigned i = 0; i < OF_LANE; i++)
        mine += counts[i];
    uint32_t before = mine;
    for (unsigned distance = 1; distance < WARP; distance *= 2) {
        const uint32_t other = __shfl_up_sync(ALL_LANES, before, distance);
        if (lane() >= distance)
            before += other;
    }
    before -= mine;
    const bool is_here = before < selection.remaining && selection.remaining <= before + mine;
    bool is_found = !is_here;
    for (unsigned i = 0; i < OF_LANE; i++) {
        const uint32_t count = counts[i];
        counts[i] = 0;
        if (!is_found && selection.remaining <= before + count) {
            is_found = true;
            selection.last |= static_cast<uint64_t>(lane() * OF_LANE + i) << p.shift;
            selection.remaining -= before;
            if (selection.remaining == count) {
                // All numbers with this digit are taken.
                selection.last |= (static_cast<uint64_t>(1) << p.shift) - 1;
                selection.is_known = 1;
            }
            p.selections[segment] = selection;
        }
        before += count;
    }
}

// Copies what is taken, in any order.
__device__ __forceinline__ void take(const RankParameters &p) {
    const unsigned segment = blockIdx.y;
    const uint64_t last = p.selections[segment].last;
    if (p.selections[segment].count == 0)
        return;
    for (unsigned index = blockIdx.x * THREADS + threadIdx.x; index < p.entries; index += gridDim.x * THREADS) {
        const uint64_t number = number_of(p, segment, index);
        if (number <= last) {
            const uint32_t place = atomicAdd(&p.selections[segment].taken, 1u);
            p.best[static_cast<uint64_t>(segment) * p.capacity + place] = number;
        }
    }
}

struct SortShared {
    uint64_t numbers[TILE];
};

__device__ __forceinline__ void order(uint64_t &a, uint64_t &b, bool ascending) {
    if ((a > b) == ascending) {
        const uint64_t other = a;
        a = b;
        b = other;
    }
}

// Steps of a bitonic sort within tiles: those that make runs of `first_run` up to `last_run`, from a distance of
// half a tile at most.
__device__ __forceinline__ void sort_tile(SortShared &s, const RankParameters &p, unsigned first_run, unsigned last_run) {
    const unsigned size = min(TILE, p.capacity), start = blockIdx.x * size;
    uint64_t *numbers = p.best + static_cast<uint64_t>(blockIdx.y) * p.capacity + start;
    for (unsigned i = threadIdx.x; i < size; i += THREADS)
        s.numbers[i] = numbers[i];
    __syncthreads();
    for (unsigned run = first_run; run <= last_run; run *= 2) {
        for (unsigned distance = min(run, size) / 2; distance > 0; distance /= 2) {
            for (unsigned pair = threadIdx.x; pair < size / 2; pair += THREADS) {
                const unsigned a = pair / distance * 2 * distance + pair % distance;
                order(s.numbers[a], s.numbers[a + distance], ((start + a) & run) == 0);
            }
            __syncthreads();
        }
    }
    for (unsigned i = threadIdx.x; i < size; i += THREADS)
        numbers[i] = s.numbers[i];
}

// One step over distances of a tile and more.
__device__ __forceinline__ void sort_far(const RankParameters &p) {
    const unsigned pair = blockIdx.x * THREADS + threadIdx.x;
    if (pair >= p.capacity / 2)
        return;
    uint64_t *numbers = p.best + static_cast<uint64_t>(blockIdx.y) * p.capacity;
    const unsigned a = pair / p.distance * 2 * p.distance + pair % p.distance;
    order(numbers[a], numbers[a + p.distance], (a & p.run) == 0);
}

__device__ __forceinline__ void unpack(const RankParameters &p) {
    const unsigned place = blockIdx.x * THREADS + threadIdx.x, segment = blockIdx.y;
    const uint64_t at = static_cast<uint64_t>(segment) * p.capacity + place;
    if (place < p.selections[segment].count)
        p.indices[at] = static_cast<uint32_t>(p.best[at]);
}

struct CountParameters {
    // Indices of the best of the layer, and how many: [1].
    const uint32_t *best, *counts;
    // [Hkv]: how many of its best each head may have to give.
    uint32_t *of_heads;
    uint32_t kv_heads, positions, alpha_milli, unused;
};

constexpr unsigned HEADS_MAX = 1024;

struct CountShared {
    uint32_t of_heads[HEADS_MAX];
};

// With c of the best of the layer in a head, no prefix of the mixed order has more than (1 - alpha) c + alpha x / Hkv
// of it, where x is how many were ranked.
__device__ __forceinline__ void count_heads(CountShared &s, const CountParameters &p) {
    const uint64_t ranked = p.counts[0];
    for (unsigned head = threadIdx.x; head < p.kv_heads; head += THREADS)
        s.of_heads[head] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < ranked; i += THREADS)
        atomicAdd(&s.of_heads[p.best[i] / p.positions], 1u);
    __syncthreads();
    for (unsigned head = threadIdx.x; head < p.kv_heads; head += THREADS) {
        const uint64_t own = static_cast<uint64_t>(1000 - p.alpha_milli) * p.kv_heads * s.of_heads[head];
        const uint64_t earned = (own + p.alpha_milli * ranked) / (1000u * p.kv_heads);
        p.of_heads[head] = static_cast<uint32_t>(min(earned, static_cast<uint64_t>(p.positions)));
    }
}

KERNEL(rank_begin, RankParameters, WARP) { begin(p); }
KERNEL(rank_count_digits, RankParameters, THREADS) {
    SHARED(HistogramShared, s);
    count_digits(s, p);
}
KERNEL(rank_choose_digit, RankParameters, WARP) { choose_digit(p); }
KERNEL(rank_take, RankParameters, THREADS) { take(p); }
KERNEL(rank_sort_tiles, RankParameters, THREADS) {
    SHARED(SortShared, s);
    sort_tile(s, p, 2, min(TILE, p.capacity));
}
KERNEL(rank_merge_tiles, RankParameters, THREADS) {
    SHARED(SortShared, s);
    sort_tile(s, p, p.run, p.run);
}
KERNEL(rank_sort_far, RankParameters, THREADS) { sort_far(p); }
KERNEL(rank_unpack, RankParameters, THREADS) { unpack(p); }
KERNEL(rank_count_heads, CountParameters, THREADS) {
    SHARED(CountShared, s);
    count_heads(s, p);
}
