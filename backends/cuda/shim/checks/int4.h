// Random weights of 4 bits in blocks of 32, and their values.

#pragma once

#include "check.h"

template <class T> struct Int4 {
    i64 blocks;
    check::Buffer<u8> weights, zeros;
    check::Buffer<T> scales;
    bool with_zeros;
    Int4(check::Chance& chance, i64 n, i64 k)
        : blocks((k + 31) / 32), weights(n * blocks * 16, chance, 0, 255), zeros(n * ((blocks + 1) / 2), chance, 0, 255), scales(n * blocks, chance, 0.01, 0.1), with_zeros(chance.coin()) {}
    const u8* zero_data() const { return with_zeros ? zeros.data() : nullptr; }
    double operator()(i64 n, i64 k) const {
        const i64 block = k / 32, at = n * blocks + block, within = k % 32;
        const int pair = static_cast<int>(weights(at * 16 + within / 2)), zero_pair = static_cast<int>(zeros(n * ((blocks + 1) / 2) + block / 2));
        const int q = within % 2 ? pair >> 4 : pair & 15, zero = !with_zeros ? 8 : block % 2 ? zero_pair >> 4 : zero_pair & 15;
        return (q - zero) * scales(at);
    }
};
