// Movement: gathers, strided copies, transposes. What an element means is no concern here, only how wide it is.

#include "millstream.cuh"

// entries: copy_strided_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(n / 1024) shared=0 registers=56
// args: x, y, n, walk (Walk<2> by value: strides of x and of y). Slices, concatenations, expansions and permutations of any
// kind; no two elements may go to one place.
#define COPY_STRIDED(W, T) \
    KERNEL(copy_strided_##W, 256, const T* x, T* y, i64 n, Walk<2> walk) { \
        walk_over(walk, n, [=](i64, const i64* at) { y[at[1]] = x[at[0]]; }); \
    }
FOR_WIDTHS(COPY_STRIDED)

constexpr int TILE = 32;
constexpr int TILE_ROWS = 8;

// entries: transpose_{b1,b2,b4,b8}
// launch: block=256 grid=batch * ceil(rows / 32) * ceil(columns / 32) shared=0 registers=40
// args: x, y, batch, rows, columns. y[b][c][r] = x[b][r][c]; both are read and written along their lines, by tiles in
// shared memory (a column more than needed, so that a tile's column lies in as many banks).
#define TRANSPOSE(W, T) \
    KERNEL(transpose_##W, 256, const T* x, T* y, i64 batch, i64 rows, i64 columns) { \
        SHARED(T, tile, [TILE][TILE + 1]); \
        const i64 down = (rows + TILE - 1) / TILE, across = (columns + TILE - 1) / TILE; \
        const int column = threadIdx.x % TILE, first = threadIdx.x / TILE; \
        ROLLED for (i64 t = blockIdx.x; t < batch * down * across; t += gridDim.x) { \
            const i64 b = t / (down * across), r = t / across % down * TILE, c = t % across * TILE; \
            UNROLL for (int k = first; k < TILE; k += TILE_ROWS) { \
                if (r + k < rows && c + column < columns) tile[k][column] = x[(b * rows + r + k) * columns + c + column]; \
            } \
            __syncthreads(); \
            UNROLL for (int k = first; k < TILE; k += TILE_ROWS) { \
                if (c + k < columns && r + column < rows) y[(b * columns + c + k) * rows + r + column] = tile[column][k]; \
            } \
            __syncthreads(); \
        } \
    }
FOR_WIDTHS(TRANSPOSE)

// entries: gather_{i64,i32}_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(outer * count * inner / 1024) shared=0 registers=48
// args: x, indices, y, outer, axis, count, inner, fault. x is outer × axis × inner, y outer × count × inner:
// y[o][k][i] = x[o][indices[k]][i]. A negative index counts from the end; one out of range gives 0 and sets *fault.
//
// entries: gather_elements_{i64,i32}_{b1,b2,b4,b8}
// launch: block=256 grid=ceil(outer * count * inner / 1024) shared=0 registers=48
// args: x, indices, y, outer, axis, count, inner, fault. As above with an index for each element:
// y[o][k][i] = x[o][indices[o][k][i]][i].
#define GATHER(I, W, T) \
    KERNEL(gather_##I##_##W, 256, const T* x, const I* indices, T* y, i64 outer, i64 axis, i64 count, i64 inner, i32* fault) { \
        ROLLED for (i64 i = thread_of_grid(); i < outer * count * inner; i += threads_of_grid()) { \
            const i64 line = i / inner; \
            y[i] = picked(x + line / count * axis * inner + (i - line * inner), static_cast<i64>(indices[line % count]), axis, inner, fault); \
        } \
    } \
    KERNEL(gather_elements_##I##_##W, 256, const T* x, const I* indices, T* y, i64 outer, i64 axis, i64 count, i64 inner, i32* fault) { \
        ROLLED for (i64 i = thread_of_grid(); i < outer * count * inner; i += threads_of_grid()) { \
            const i64 line = i / inner; \
            y[i] = picked(x + line / count * axis * inner + (i - line * inner), static_cast<i64>(indices[i]), axis, inner, fault); \
        } \
    }
template <class T> DEVICE T picked(const T* x, i64 index, i64 axis, i64 inner, i32* fault) {
    if (index < 0) index += axis;
    if (index < 0 || index >= axis) {
        atomicExch(fault, 1);
        return T(0);
    }
    return x[index * inner];
}
#define GATHERS(W, T) GATHER(i64, W, T) GATHER(i32, W, T)
FOR_WIDTHS(GATHERS)
