// float16 and bfloat16 for the host shim: storage and the conversions that kernels use, to nearest with ties to even, as
// the hardware's cvt.rn does.

#pragma once

#include <cstdint>
#include <cstring>

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
static inline float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The high bits of `bits` after `dropped` low ones are rounded away, ties to even; 0 < dropped < 32.
static inline uint32_t round_away(uint32_t bits, int dropped) {
    const uint32_t half = 1u << (dropped - 1);
    const uint32_t kept = bits >> dropped, rest = bits & ((half << 1) - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

static inline float __bfloat162float(bf16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }
static inline bf16 __float2bfloat16_rn(float x) {
    if (x != x) return {0x7fff};
    return {static_cast<uint16_t>(round_away(bits_of_float(x), 16))};
}

static inline float __half2float(f16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    // Subnormals are multiples of 2^-24, which float32 holds.
    if (magnitude < 0x400) return float_of_bits(sign | bits_of_float(static_cast<float>(magnitude) * 0x1p-24f));
    return float_of_bits(sign | ((magnitude << 13) + (112u << 23)));
}
static inline f16 __float2half_rn(float x) {
    const uint32_t bits = bits_of_float(x), magnitude = bits & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    const auto made = [sign](uint32_t m) { return f16{static_cast<uint16_t>(sign | m)}; };
    if (magnitude > 0x7f800000u) return {0x7fff};
    if (magnitude >= 0x477ff000u) return made(0x7c00);  // 65520 and above round to infinity
    if (magnitude >= 0x38800000u) return made(round_away(magnitude - (112u << 23), 13));
    if (magnitude < 0x33000000u) return made(0);  // less than half of the smallest subnormal
    const uint32_t exponent = magnitude >> 23, fraction = (magnitude & 0x7fffffu) | 0x800000u;
    return made(round_away(fraction, static_cast<int>(126 - exponent)));
}
