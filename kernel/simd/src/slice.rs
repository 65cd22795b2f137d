//! Loops over slices for kernels that are one expression per element. The tail of a slice runs through the same vector code with idle lanes, so
//! an element's result does not depend on where it stands.

use crate::{Simd, SimdF32};

/// `dst[i] = f(src[i])`.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn map<S: Simd>(s: S, src: &[f32], dst: &mut [f32], f: impl Fn(S::F32) -> S::F32) {
    assert_eq!(src.len(), dst.len());
    let mut from = src.chunks_exact(S::F32::LANES);
    let mut to = dst.chunks_exact_mut(S::F32::LANES);
    for (x, y) in (&mut from).zip(&mut to) {
        f(S::F32::load(s, x)).store(y);
    }
    let rest = to.into_remainder();
    if !rest.is_empty() {
        f(S::F32::load_partial(s, from.remainder())).store_partial(rest);
    }
}

/// `x[i] = f(x[i])`.
#[inline(always)]
pub fn map_in_place<S: Simd>(s: S, x: &mut [f32], f: impl Fn(S::F32) -> S::F32) {
    let mut chunks = x.chunks_exact_mut(S::F32::LANES);
    for c in &mut chunks {
        f(S::F32::load(s, c)).store(c);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        f(S::F32::load_partial(s, rest)).store_partial(rest);
    }
}

/// `dst[i] = f(a[i], b[i])`.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn zip_map<S: Simd>(s: S, a: &[f32], b: &[f32], dst: &mut [f32], f: impl Fn(S::F32, S::F32) -> S::F32) {
    assert!(a.len() == dst.len() && b.len() == dst.len());
    let (mut xs, mut ys) = (a.chunks_exact(S::F32::LANES), b.chunks_exact(S::F32::LANES));
    let mut to = dst.chunks_exact_mut(S::F32::LANES);
    for ((x, y), d) in (&mut xs).zip(&mut ys).zip(&mut to) {
        f(S::F32::load(s, x), S::F32::load(s, y)).store(d);
    }
    let rest = to.into_remainder();
    if !rest.is_empty() {
        f(S::F32::load_partial(s, xs.remainder()), S::F32::load_partial(s, ys.remainder())).store_partial(rest);
    }
}

/// `a[i] = f(a[i], b[i])`.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn zip_map_in_place<S: Simd>(s: S, a: &mut [f32], b: &[f32], f: impl Fn(S::F32, S::F32) -> S::F32) {
    assert_eq!(a.len(), b.len());
    let mut ys = b.chunks_exact(S::F32::LANES);
    let mut to = a.chunks_exact_mut(S::F32::LANES);
    for (d, y) in (&mut to).zip(&mut ys) {
        f(S::F32::load(s, d), S::F32::load(s, y)).store(d);
    }
    let rest = to.into_remainder();
    if !rest.is_empty() {
        f(S::F32::load_partial(s, rest), S::F32::load_partial(s, ys.remainder())).store_partial(rest);
    }
}

/// Folds `x` into one vector: `f(acc, x)` for each whole vector, in four independent chains that `f` then joins in order; a tail is padded with `identity`.
#[inline(always)]
pub fn fold<S: Simd>(s: S, x: &[f32], identity: f32, f: impl Fn(S::F32, S::F32) -> S::F32) -> S::F32 {
    let lanes = S::F32::LANES;
    let neutral = S::F32::splat(s, identity);
    let mut acc = [neutral; 4];
    let mut blocks = x.chunks_exact(4 * lanes);
    for b in &mut blocks {
        for (i, a) in acc.iter_mut().enumerate() {
            *a = f(*a, S::F32::load(s, &b[i * lanes..]));
        }
    }
    let mut rest = blocks.remainder().chunks_exact(lanes);
    for c in &mut rest {
        acc[0] = f(acc[0], S::F32::load(s, c));
    }
    let tail = rest.remainder();
    if !tail.is_empty() {
        // The widest level has 16 lanes; chunks of the padded copy stay inside it.
        let mut padded = [identity; 64];
        padded[..tail.len()].copy_from_slice(tail);
        acc[1] = f(acc[1], S::F32::load(s, &padded));
    }
    f(f(acc[0], acc[1]), f(acc[2], acc[3]))
}

/// The sum of `x`, in an order that depends on its length and the level only.
#[inline(always)]
pub fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    fold(
        s,
        x,
        0.0,
        #[inline(always)]
        |a, b| a + b,
    )
    .reduce_add()
}

/// The greatest element, `-inf` if there is none; unspecified if one is NaN.
#[inline(always)]
pub fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    fold(
        s,
        x,
        f32::NEG_INFINITY,
        #[inline(always)]
        |a, b| a.max(b),
    )
    .reduce_max()
}

/// The transpose of a matrix: `dst[i * dst_stride + j] = src[j * src_stride + i]` for i < `rows`, j < `cols`, which are the dims of `dst`.
///
/// # Panics
/// If a slice is shorter, or `dst_stride` less than `cols`.
#[inline(always)]
pub fn transpose<S: Simd>(s: S, src: &[f32], src_stride: usize, dst: &mut [f32], dst_stride: usize, rows: usize, cols: usize) {
    /// Rows of `dst` whose lines stay in the nearest cache until they are whole.
    const BLOCK: usize = 32;
    assert!(cols <= dst_stride);
    let lanes = S::F32::LANES;
    let whole = (rows / lanes * lanes, cols / lanes * lanes);
    for i0 in (0..whole.0).step_by(BLOCK) {
        for j in (0..whole.1).step_by(lanes) {
            for i in (i0..(i0 + BLOCK).min(whole.0)).step_by(lanes) {
                s.transpose_square(&src[j * src_stride + i..], src_stride, &mut dst[i * dst_stride + j..], dst_stride);
            }
        }
    }
    for i in 0..rows {
        let first = if i < whole.0 { whole.1 } else { 0 };
        for (j, to) in dst[i * dst_stride..][..cols].iter_mut().enumerate().skip(first) {
            *to = src[j * src_stride + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Level, dispatch};
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn transposes_of_every_size() {
        for level in Level::available() {
            for (rows, cols, extra) in [(0, 3, 0), (1, 1, 0), (7, 9, 1), (8, 8, 0), (16, 16, 0), (17, 40, 3), (33, 16, 0), (70, 35, 2)] {
                let (src_stride, dst_stride) = (rows + extra, cols + extra);
                let src: Vec<f32> = (0..src_stride * cols).map(|i| i as f32).collect();
                let mut dst = vec![-1.0; rows * dst_stride];
                dispatch!(level, s => super::transpose(s, &src, src_stride, &mut dst, dst_stride, rows, cols));
                for (at, x) in dst.iter().enumerate() {
                    let (i, j) = (at / dst_stride, at % dst_stride);
                    assert_eq!(*x, if j < cols { src[j * src_stride + i] } else { -1.0 }, "({i}, {j}) of {rows} x {cols} at {level}");
                }
            }
        }
    }

    #[test]
    fn every_length_and_level() {
        for level in Level::available() {
            for n in 0..200 {
                let x: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
                let mut y = vec![0.0; n];
                dispatch!(level, s => super::map(s, &x, &mut y, |v| v + v));
                assert!(x.iter().zip(&y).all(|(a, b)| 2.0 * a == *b));
                dispatch!(level, s => super::map_in_place(s, &mut y, |v| v * v));
                assert!(x.iter().zip(&y).all(|(a, b)| 4.0 * a * a == *b));
                let mut z = vec![0.0; n];
                dispatch!(level, s => super::zip_map(s, &x, &y, &mut z, |a, b| b - a));
                dispatch!(level, s => super::zip_map_in_place(s, &mut z, &x, |a, b| a + b));
                assert_eq!(z, y);
                assert_eq!(dispatch!(level, s => super::sum(s, &x)), x.iter().sum::<f32>());
                assert_eq!(dispatch!(level, s => super::max(s, &x)), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            }
        }
    }
}
