// What lanes of a warp get from each other: shuffles, votes, and the two tensor-core instructions that our kernels use, in
// the arrangement of fragments that the PTX ISA's tables give (sections "mma.m16n8k16" and "ldmatrix").

#include "shim.h"

namespace shim {

void meet_shuffle(uint32_t mask, const Words* const* given, Words** got, const unsigned* choice) {
    for (unsigned l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) continue;
        if (!(mask >> choice[l] & 1)) fail("a shuffle reads from a lane that its mask leaves out");
        *got[l] = *given[choice[l]];
    }
}

void meet_ballot(uint32_t mask, const Words* const* given, Words** got, const unsigned*) {
    uint32_t votes = 0;
    for (unsigned l = 0; l < 32; l++) {
        if (mask >> l & 1) votes |= given[l]->at[0] << l;
    }
    for (unsigned l = 0; l < 32; l++) {
        if (mask >> l & 1) got[l]->at[0] = votes;
    }
}

void meet_nothing(uint32_t, const Words* const*, Words**, const unsigned*) {}

static float number(f16 x) { return __half2float(x); }
static float number(bf16 x) { return __bfloat162float(x); }

// A 16 × 16 by rows (words 0 to 3 of each lane), B 16 × 8 by columns (words 4 and 5) → their product 16 × 8, four float32 a
// lane. Products of halves are exact in float32; the hardware's order of addition is not told.
template <class T> static void product(uint32_t mask, const Words* const* given, Words** got) {
    if (mask != 0xffffffffu) fail("mma without the whole warp");
    const auto half = [&](unsigned lane, unsigned word, unsigned i) {
        return number(T{static_cast<uint16_t>(given[lane]->at[word] >> 16 * i)});
    };
    float a[16][16], b[16][8];
    for (unsigned l = 0; l < 32; l++) {
        const unsigned group = l / 4, within = l % 4;
        for (unsigned i = 0; i < 2; i++) {
            for (unsigned word = 0; word < 4; word++) a[group + word % 2 * 8][within * 2 + i + word / 2 * 8] = half(l, word, i);
            for (unsigned word = 0; word < 2; word++) b[within * 2 + i + word * 8][group] = half(l, 4 + word, i);
        }
    }
    for (unsigned l = 0; l < 32; l++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            float sum = 0;
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            std::memcpy(&got[l]->at[i], &sum, 4);
        }
    }
}
void meet_mma_f16(uint32_t mask, const Words* const* given, Words** got, const unsigned*) { product<f16>(mask, given, got); }
void meet_mma_bf16(uint32_t mask, const Words* const* given, Words** got, const unsigned*) { product<bf16>(mask, given, got); }

// Four 8 × 8 matrices of halves; lane 8 j + r gives row r of matrix j (four words). Each lane gets one word of each
// matrix: two neighbours of a row, or, transposed, two neighbours of a column.
void meet_matrices(uint32_t mask, const Words* const* given, Words** got, const unsigned* transposed) {
    if (mask != 0xffffffffu) fail("ldmatrix without the whole warp");
    const auto half = [&](unsigned matrix, unsigned row, unsigned column) {
        return given[8 * matrix + row]->at[column / 2] >> 16 * (column % 2) & 0xffffu;
    };
    for (unsigned l = 0; l < 32; l++) {
        const unsigned group = l / 4, first = l % 4 * 2;
        for (unsigned j = 0; j < 4; j++) {
            got[l]->at[j] = transposed[l] ? half(j, first, group) | half(j, first + 1, group) << 16 : half(j, group, first) | half(j, group, first + 1) << 16;
        }
    }
}

}  // namespace shim
