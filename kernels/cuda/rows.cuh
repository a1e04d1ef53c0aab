// Rows as they are stored, read as pairs of 16-bit elements without their scales: kernels/src/rows.rs says what
// the formats are.
#pragma once

#include "device.cuh"

// Each format says how many bytes the codes of a row take, which 16-bit type its codes are read as, how many pairs
// four bytes give, what they are, and which elements of the row they are.

template <class T, unsigned D> struct WideRows {
    using Element = T;
    static constexpr bool IS_PACKED = false;
    static constexpr unsigned CODE_BYTES = 2 * D, PAIRS = 1;
    static __device__ __forceinline__ void read(Pair (&pairs)[PAIRS], uint32_t word) { pairs[0] = word; }
    // The first and second element of a pair of the word that begins at this byte.
    static __device__ __forceinline__ unsigned first(unsigned byte, unsigned) { return byte / 2; }
    static __device__ __forceinline__ unsigned second(unsigned byte, unsigned) { return byte / 2 + 1; }
};
template <unsigned D> using F16Rows = WideRows<F16, D>;
template <unsigned D> using Bf16Rows = WideRows<Bf16, D>;

template <unsigned D> struct Int8Rows {
    using Element = F16;
    static constexpr bool IS_PACKED = true;
    static constexpr unsigned CODE_BYTES = D, PAIRS = 2;
    static __device__ __forceinline__ void read(Pair (&pairs)[PAIRS], uint32_t word) {
        // With 0x64 above it a byte u is the half 1024 + u; its code is u - 127.5, and both steps there are exact.
        pairs[0] = __byte_perm(word, 0x64646464u, 0x4140);
        pairs[1] = __byte_perm(word, 0x64646464u, 0x4342);
        for (Pair &pair : pairs)
            pair = subtract_halves(subtract_halves(pair, 0x64006400u), 0x57f857f8u);
    }
    static __device__ __forceinline__ unsigned first(unsigned byte, unsigned pair) { return byte + 2 * pair; }
    static __device__ __forceinline__ unsigned second(unsigned byte, unsigned pair) { return byte + 2 * pair + 1; }
};

template <unsigned D> struct Fp8Rows {
    using Element = F16;
    static constexpr bool IS_PACKED = true;
    static constexpr unsigned CODE_BYTES = D, PAIRS = 2;
    static __device__ __forceinline__ void read(Pair (&pairs)[PAIRS], uint32_t word) {
        // As halves, whose exponent has a bias that is larger by 8.
        pairs[0] = __byte_perm(word, 0, 0x1404);
        pairs[1] = __byte_perm(word, 0, 0x3424);
        for (Pair &pair : pairs)
            pair = multiply_halves((pair & 0x80008000u) | (pair & 0x7f007f00u) >> 1, 0x5c005c00u);
    }
    static __device__ __forceinline__ unsigned first(unsigned byte, unsigned pair) { return byte + 2 * pair; }
    static __device__ __forceinline__ unsigned second(unsigned byte, unsigned pair) { return byte + 2 * pair + 1; }
};

template <unsigned D> struct Int4Rows {
    using Element = F16;
    static constexpr bool IS_PACKED = true;
    static constexpr unsigned CODE_BYTES = D / 2, PAIRS = 4;
    static __device__ __forceinline__ void read(Pair (&pairs)[PAIRS], uint32_t word) {
        // Four bits u in their place are the half 64 + u; its code is u - 7.5.
        const uint32_t bits[PAIRS] = {word << 4, word, word >> 4, word >> 8};
        for (unsigned i = 0; i < PAIRS; i++)
            pairs[i] = subtract_halves((bits[i] & 0x00f000f0u) | 0x54005400u, 0x54785478u);
    }
    // Low bits are the first half of the row, high bits the second; a pair has every other byte.
    static __device__ __forceinline__ unsigned first(unsigned byte, unsigned pair) {
        return byte + pair / 2 + pair % 2 * (D / 2);
    }
    static __device__ __forceinline__ unsigned second(unsigned byte, unsigned pair) { return first(byte, pair) + 2; }
};

// One lane's share of a row that so many lanes read together, in steps of at most 16 bytes that lie side by side.
template <class Rows, unsigned LANES> struct Share {
    static constexpr unsigned BYTES = Rows::CODE_BYTES / LANES;
    static constexpr unsigned STEP_BYTES = BYTES < 16 ? BYTES : 16;
    static constexpr unsigned WORDS = BYTES / 4;
    static constexpr unsigned PAIRS = WORDS * Rows::PAIRS;
    static_assert(BYTES % STEP_BYTES == 0 && STEP_BYTES % 4 == 0, "lanes read whole words");

    uint32_t words[WORDS];

    // Where in the row a word of the share of lane `at` begins.
    static __device__ __forceinline__ unsigned byte(unsigned at, unsigned word) {
        constexpr unsigned step_words = STEP_BYTES / 4;
        return (word / step_words * LANES + at) * STEP_BYTES + word % step_words * 4;
    }

    __device__ __forceinline__ void load(const unsigned char *row, unsigned at) {
        if constexpr (STEP_BYTES == 16) {
#pragma unroll
            for (unsigned word = 0; word < WORDS; word += 4) {
                const uint4 four = load_16(row + byte(at, word));
                words[word] = four.x;
                words[word + 1] = four.y;
                words[word + 2] = four.z;
                words[word + 3] = four.w;
            }
        } else if constexpr (STEP_BYTES == 8) {
            const uint2 two = *reinterpret_cast<const uint2 *>(row + byte(at, 0));
            words[0] = two.x;
            words[1] = two.y;
        } else {
            words[0] = *reinterpret_cast<const uint32_t *>(row + byte(at, 0));
        }
    }

    __device__ __forceinline__ void read(Pair (&pairs)[PAIRS]) const {
#pragma unroll
        for (unsigned word = 0; word < WORDS; word++) {
            Pair of_word[Rows::PAIRS];
            Rows::read(of_word, words[word]);
#pragma unroll
            for (unsigned i = 0; i < Rows::PAIRS; i++)
                pairs[word * Rows::PAIRS + i] = of_word[i];
        }
    }

    // The elements of a pair in the share of lane `at`.
    static __device__ __forceinline__ unsigned first(unsigned at, unsigned pair) {
        return Rows::first(byte(at, pair / Rows::PAIRS), pair % Rows::PAIRS);
    }
    static __device__ __forceinline__ unsigned second(unsigned at, unsigned pair) {
        return Rows::second(byte(at, pair / Rows::PAIRS), pair % Rows::PAIRS);
    }
};
