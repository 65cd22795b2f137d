// Random weights of 4 and 8 bits in blocks, and their values.

#pragma once

#include "check.h"

// BITS a weight; `block` of a row share a scale.
template <class T, int BITS> struct Narrow {
    i64 block, blocks, zero_row;
    check::Buffer<u8> weights, zeros;
    check::Buffer<T> scales;
    bool with_zeros;
    Narrow(check::Chance& chance, i64 n, i64 k, i64 of)
        : block(of), blocks((k + of - 1) / of), zero_row((blocks * BITS + 7) / 8), weights(n * blocks * of * BITS / 8, chance, 0, 255), zeros(n * zero_row, chance, 0, 255),
          scales(n * blocks, chance, 0.01, BITS == 4 ? 0.1 : 0.02), with_zeros(chance.coin()) {}
    const u8* zero_data() const { return with_zeros ? zeros.data() : nullptr; }
    static int integer(const check::Buffer<u8>& bytes, i64 row, i64 i) {
        const int byte = static_cast<int>(bytes(row + i * BITS / 8));
        return BITS == 8 ? byte : i % 2 ? byte >> 4 : byte & 15;
    }
    double operator()(i64 n, i64 k) const {
        const int zero = with_zeros ? integer(zeros, n * zero_row, k / block) : 1 << (BITS - 1);
        return (integer(weights, n * blocks * block * BITS / 8, k) - zero) * scales(n * blocks + k / block);
    }
};

template <class T> struct Int4 : Narrow<T, 4> {
    Int4(check::Chance& chance, i64 n, i64 k, int shift = 0) : Narrow<T, 4>(chance, n, k, i64{32} << shift) {}
};
