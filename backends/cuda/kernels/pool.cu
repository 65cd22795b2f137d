// Pooling of two dimensions over NCHW. A global pool is a reduction of rows (norm.cu).

#include "millstream.cuh"

struct Pool {
    i64 planes, height, width, out_height, out_width;
    i32 kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, pad_bottom, pad_right, dilation_y, dilation_x;
    i32 count_padding, reserved;  // average: whether padding counts as elements of value 0
};

// entries: max_pool2d_{f32,f16,bf16} average_pool2d_{f32,f16,bf16}
// launch: block=256 grid=ceil(planes * out_height * out_width / 256) shared=0 registers=56
// args: x, y, shape (Pool by value). Padding is never the largest; NaN in a window gives NaN. An average is over the
// elements inside of the picture, or, with count_padding, inside of the padded picture: a window that ceil mode lets begin
// in it and end beyond counts what is beyond neither way.
#define POOLS(T) \
    KERNEL(max_pool2d_##T, 256, const T* x, T* y, Pool shape) { \
        pool<Largest>(x, y, shape, [](f32 v, i64) { return v; }); \
    } \
    KERNEL(average_pool2d_##T, 256, const T* x, T* y, Pool shape) { \
        pool<Sum>(x, y, shape, [](f32 v, i64 count) { return v / static_cast<f32>(count); }); \
    }

template <class R, class T, class F> DEVICE void pool(const T* x, T* y, const Pool& s, F end) {
    const i64 places = s.out_height * s.out_width;
    ROLLED for (i64 i = thread_of_grid(); i < s.planes * places; i += threads_of_grid()) {
        const i64 place = i % places, top = place / s.out_width * s.stride_y - s.pad_top, left = place % s.out_width * s.stride_x - s.pad_left;
        const T* const plane = x + i / places * s.height * s.width;
        f32 v = R::nothing();
        i64 inside = 0, padded = 0;
        ROLLED for (int ky = 0; ky < s.kernel_height; ky++) {
            const i64 line = top + static_cast<i64>(ky) * s.dilation_y;
            ROLLED for (int kx = 0; kx < s.kernel_width; kx++) {
                const i64 at = left + static_cast<i64>(kx) * s.dilation_x;
                padded += line < s.height + s.pad_bottom && at < s.width + s.pad_right;
                if (line < 0 || line >= s.height || at < 0 || at >= s.width) continue;
                v = R::join(v, to_f32(plane[line * s.width + at]));
                inside++;
            }
        }
        y[i] = rounded<T>(end(v, s.count_padding ? padded : inside));
    }
}
FOR_FLOATS(POOLS)
