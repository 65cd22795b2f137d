// Checks of ../../kernels/movement.cu: nothing is computed, so that everything is exact.

#include "../../kernels/movement.cu"
#include "check.h"

using namespace check;

CHECK(strided_copies) {
    for (int round = 0; round < 4; round++) {
        Walk<2> walk{};
        walk.rank = chance.integer(0, MOST_AXES);
        i64 n = 1, order[MOST_AXES];
        for (int a = 0; a < walk.rank; a++) n *= walk.size[a] = chance.integer(1, n > 100 ? 2 : 5), order[a] = a;
        // x along a random permutation of the axes, y with a gap at the end of each line.
        for (i64 a = walk.rank; a-- > 1;) std::swap(order[a], order[chance.integer(0, a)]);
        i64 stride_x = 1, stride_y = 1;
        for (i64 a = walk.rank; a-- > 0;) {
            walk.stride[0][order[a]] = stride_x, stride_x *= walk.size[order[a]];
            walk.stride[1][a] = stride_y, stride_y *= walk.size[a] + (a == walk.rank - 1);
        }
        Buffer<u64> x(n, chance, 0, 1 << 30), y(stride_y);
        Buffer<u8> small(n), moved(stride_y);
        for (i64 i = 0; i < n; i++) small[i] = static_cast<u8>(x[i]);
        LAUNCH(copy_strided_b8, chance.integer(1, 3), 256, 0, x.data(), y.data(), n, walk);
        LAUNCH(copy_strided_b1, 1, 256, 0, small.data(), moved.data(), n, walk);
        for (i64 i = 0; i < n; i++) {
            i64 rest = i, from = 0, to = 0;
            for (i64 a = walk.rank; a-- > 0;) from += rest % walk.size[a] * walk.stride[0][a], to += rest % walk.size[a] * walk.stride[1][a], rest /= walk.size[a];
            same(y[to], x[from], "copy_strided_b8", i);
            same(moved[to], small[from], "copy_strided_b1", i);
        }
    }
}

template <class T, class K> static void transpose(Chance& chance, K kernel, const char* name) {
    const i64 batch = chance.integer(1, 3), rows = chance.integer(1, 70), columns = chance.integer(1, 70);
    Buffer<T> x(batch * rows * columns, chance, 0, 100), y(batch * rows * columns);
    start(kernel, name, chance.integer(1, 5), 256, 0, x.data(), y.data(), batch, rows, columns);
    for (i64 b = 0; b < batch; b++) {
        for (i64 r = 0; r < rows; r++) {
            for (i64 c = 0; c < columns; c++) same(y[(b * columns + c) * rows + r], x[(b * rows + r) * columns + c], name, (b * rows + r) * columns + c);
        }
    }
}

CHECK(transposes) {
    transpose<u8>(chance, transpose_b1, "transpose_b1");
    transpose<u16>(chance, transpose_b2, "transpose_b2");
    transpose<u32>(chance, transpose_b4, "transpose_b4");
    transpose<u64>(chance, transpose_b8, "transpose_b8");
}

CHECK(gathers) {
    const i64 outer = chance.integer(1, 4), axis = chance.integer(1, 9), count = chance.integer(1, 12), inner = chance.integer(1, 40), n = outer * count * inner;
    Buffer<u16> x(outer * axis * inner, chance, 1, 60000), y(n);
    Buffer<i64> indices(count, chance, static_cast<double>(-axis), static_cast<double>(axis - 1));
    Buffer<i32> each(n, chance, static_cast<double>(-axis), static_cast<double>(axis - 1)), fault(1);
    fault[0] = 0;
    const auto place = [&](i64 i, i64 index) { return (i / inner / count * axis + (index < 0 ? index + axis : index)) * inner + i % inner; };
    LAUNCH(gather_i64_b2, chance.integer(1, 3), 256, 0, x.data(), indices.data(), y.data(), outer, axis, count, inner, fault.data());
    for (i64 i = 0; i < n; i++) same(y[i], x[place(i, indices[i / inner % count])], "gather", i);
    LAUNCH(gather_elements_i32_b2, 2, 256, 0, x.data(), each.data(), y.data(), outer, axis, count, inner, fault.data());
    for (i64 i = 0; i < n; i++) same(y[i], x[place(i, each[i])], "gather_elements", i);
    same(fault[0], 0, "fault", 0);
    indices[0] = chance.coin() ? axis : -axis - 1;
    LAUNCH(gather_i64_b2, 1, 256, 0, x.data(), indices.data(), y.data(), outer, axis, count, inner, fault.data());
    same(fault[0], 1, "fault of an index out of range", 0);
    same<u16>(y[0], 0, "what is not there", 0);
}
