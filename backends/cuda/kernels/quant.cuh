// How quantised weights are taken apart in registers, and what follows their product.

#pragma once

#include "millstream.cuh"

// 2^23 + q, whose low bits are q, if q < 2^23: less 2^23 + zero it is q - zero, exactly, and no conversion is needed.
DEVICE f32 lifted(u32 q) { return __int_as_float(static_cast<i32>(0x4b000000u | q)); }

// Four signed bytes.
DEVICE void bytes(u32 word, f32* w) {
    UNROLL for (int i = 0; i < 4; i++) w[i] = lifted((word >> 8 * i & 255u) ^ 128u) - 8388736.0f;
}

struct Bytes {
    Pack<u32, 4> words;
    MEMBER void apart(u32 word, f32* w) const { bytes(word, w); }
};

// N words of bytes from k0 on, those past the end being 0.
template <int N> DEVICE Pack<u32, N> words_of(const i8* row, i64 k0, i64 k) {
    if (k0 + 4 * N <= k && aligned<4 * N>(row + k0)) return load<N>(reinterpret_cast<const u32*>(row + k0));
    Pack<u32, N> words;
    UNROLL for (int j = 0; j < N; j++) {
        words.at[j] = 0;
        UNROLL for (int i = 0; i < 4; i++) {
            if (k0 + 4 * j + i < k) words.at[j] |= static_cast<u32>(static_cast<u8>(row[k0 + 4 * j + i])) << 8 * i;
        }
    }
    return words;
}

// A block of 32 weights of 4 bits. less = 2^23 + zero.
struct Nibbles {
    Pack<u32, 4> words;
    f32 less, scale;
    // Eight weights of a word, as (q - zero) scale.
    MEMBER void apart(u32 word, f32* w) const {
        UNROLL for (int i = 0; i < 8; i++) w[i] = (lifted(word >> 4 * i & 15u) - less) * scale;
    }
};

// Rows of k weights of 4 bits, in blocks of 32 of which 2^shift share a scale; a row ends with whole scales.
template <class T> struct Blocks {
    const u8* weights;
    const T* scales;
    const u8* zeros;
    i64 groups;
    int shift;

    DEVICE Blocks of(const u8* weights, const T* scales, const u8* zeros, i64 k, int shift) {
        return {weights, scales, zeros, (k + (i64{32} << shift) - 1) >> (5 + shift), shift};
    }
    // Offsets are of 32 bits, which are enough for 2^37 weights and take half the registers.
    MEMBER u32 at(i64 n, i64 group) const { return static_cast<u32>(n) * static_cast<u32>(groups) + static_cast<u32>(group); }
    MEMBER f32 zero(i64 n, i64 group) const {
        const u32 row = (static_cast<u32>(groups) + 1) / 2;
        return zeros ? static_cast<f32>(zeros[static_cast<u32>(n) * row + static_cast<u32>(group) / 2] >> group % 2 * 4 & 15) : 8.0f;
    }
    MEMBER const u32* words(i64 n, i64 block) const { return reinterpret_cast<const u32*>(weights) + (n * (groups << shift) + block) * 4; }
    MEMBER Nibbles whole(i64 n, i64 block) const {
        const i64 group = block >> shift;
        return {load<4>(words(n, block)), 8388608.0f + zero(n, group), to_f32(scales[at(n, group)])};
    }
    // Weights 8 part and on.
    MEMBER void quarter(i64 n, i64 block, int part, f32* w) const {
        const i64 group = block >> shift;
        const Nibbles nibbles{{}, 8388608.0f + zero(n, group), to_f32(scales[at(n, group)])};
        nibbles.apart(words(n, block)[part], w);
    }
};

// Sixteen weights of 8 bits. less = 2^23 + zero.
struct Octets {
    Pack<u32, 4> words;
    f32 less, scale;
    // Four weights of a word, as (q - zero) scale.
    MEMBER void apart(u32 word, f32* w) const {
        UNROLL for (int i = 0; i < 4; i++) w[i] = (lifted(word >> 8 * i & 255u) - less) * scale;
    }
};

// Rows of k weights of 8 bits, in blocks of 16 of which 2^shift share a scale; a row ends with whole scales.
template <class T> struct ByteBlocks {
    const u8* weights;
    const T* scales;
    const u8* zeros;
    i64 groups;
    int shift;

    DEVICE ByteBlocks of(const u8* weights, const T* scales, const u8* zeros, i64 k, int shift) {
        return {weights, scales, zeros, (k + (i64{16} << shift) - 1) >> (4 + shift), shift};
    }
    MEMBER i64 pitch() const { return groups << (4 + shift); }
    // From element k0 on, a multiple of 8; the words are the caller's.
    MEMBER Octets factors(i64 n, i64 k0) const {
        const i64 at = n * groups + (k0 >> (4 + shift));
        return {{}, 8388608.0f + (zeros ? static_cast<f32>(zeros[at]) : 128.0f), to_f32(scales[at])};
    }
    // Weights k0 and on, a multiple of 16.
    MEMBER Octets whole(i64 n, i64 k0) const {
        Octets run = factors(n, k0);
        run.words = load<4>(reinterpret_cast<const u32*>(weights + n * pitch() + k0));
        return run;
    }
    // Eight weights from k0 on, a multiple of 8.
    MEMBER void eight(i64 n, i64 k0, f32* w) const {
        if (k0 >= pitch()) return;
        const Octets run = factors(n, k0);
        const auto words = load<2>(reinterpret_cast<const u32*>(weights + n * pitch() + k0));
        run.apart(words.at[0], w);
        run.apart(words.at[1], w + 4);
    }
};

// The rest of a linear layer: y = activation(sum + bias) + residual.
struct Linear {
    i64 m, n, k;
    i32 activation;
    i32 shift;  // where scales are for blocks: for 32 << shift weights of 4 bits, 16 << shift of 8
    f32 alpha, beta;
};

template <class T> DEVICE void finish(T* y, const T* bias, const T* residual, const Linear& s, i64 m, i64 n, f32 sum) {
    if (bias) sum += to_f32(bias[n]);
    sum = activated(sum, s.activation, s.alpha, s.beta);
    const i64 at = m * s.n + n;
    if (residual) sum += to_f32(residual[at]);
    y[at] = rounded<T>(sum);
}
