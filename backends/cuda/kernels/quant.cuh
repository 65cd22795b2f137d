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

// Blocks of 32 weights of 4 bits, `count` of them a row.
template <class T> struct Blocks {
    const u8* weights;
    const T* scales;
    const u8* zeros;
    i64 count;

    MEMBER f32 zero(i64 n, i64 block) const { return zeros ? static_cast<f32>(zeros[n * ((count + 1) / 2) + block / 2] >> block % 2 * 4 & 15) : 8.0f; }
    MEMBER Nibbles whole(i64 n, i64 block) const {
        const i64 at = n * count + block;
        return {load<4>(reinterpret_cast<const u32*>(weights + at * 16)), 8388608.0f + zero(n, block), to_f32(scales[at])};
    }
    // Weights 8 part and on.
    MEMBER void quarter(i64 n, i64 block, int part, f32* w) const {
        const i64 at = n * count + block;
        const Nibbles nibbles{{}, 8388608.0f + zero(n, block), to_f32(scales[at])};
        nibbles.apart(reinterpret_cast<const u32*>(weights + at * 16)[part], w);
    }
};

// The rest of a linear layer: y = activation(sum + bias) + residual.
struct Linear {
    i64 m, n, k;
    i32 activation, reserved;
    f32 alpha, beta;
};

template <class T> DEVICE void finish(T* y, const T* bias, const T* residual, const Linear& s, i64 m, i64 n, f32 sum) {
    if (bias) sum += to_f32(bias[n]);
    sum = activated(sum, s.activation, s.alpha, s.beta);
    const i64 at = m * s.n + n;
    if (residual) sum += to_f32(residual[at]);
    y[at] = rounded<T>(sum);
}
