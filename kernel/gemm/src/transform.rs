//! The transforms of Winograd's F(4 × 4, 3 × 3) at the points 0, ±√½, ±√2 and ∞, each on a vector of channels.
//!
//! With a = √½ and b = √2 (a b = 1) the rows of Bᵀ are the coefficients of the product of (x − q) over the other points q, those of G are
//! (1, p, p²) over that product's value at p, those of Aᵀ the powers of p.

use millstream_simd::{Simd, SimdF32};

use crate::winograd::EDGE;

/// Points of the plane: 6 × 6.
pub(crate) const POINTS: usize = 36;

const A: f32 = core::f32::consts::FRAC_1_SQRT_2;
const B: f32 = core::f32::consts::SQRT_2;

/// One axis of Bᵀ d.
#[inline(always)]
fn image_axis<S: Simd>(s: S, d: [S::F32; EDGE]) -> [S::F32; EDGE] {
    let splat = |x| S::F32::splat(s, x);
    let (a, b, less) = (splat(A), splat(B), splat(-2.5));
    let even = [d[2].mul_add(splat(-2.0), d[4]), d[2].mul_add(splat(-0.5), d[4])];
    let odd = [d[1].mul_add(splat(-2.0), d[3]), d[1].mul_add(splat(-0.5), d[3])];
    [
        d[2].mul_add(less, d[0] + d[4]),
        odd[0].mul_add(a, even[0]),
        odd[0].mul_add(-a, even[0]),
        odd[1].mul_add(b, even[1]),
        odd[1].mul_add(-b, even[1]),
        d[3].mul_add(less, d[1] + d[5]),
    ]
}

/// Bᵀ d B of the 36 pixels that `load` fetches; `store` gets each point's number and value.
#[inline(always)]
pub(crate) fn image_to_points<S: Simd, P: Copy>(s: S, pixels: &[P; POINTS], load: impl Fn(P) -> S::F32, mut store: impl FnMut(usize, S::F32)) {
    let mut half = [[S::F32::splat(s, 0.0); EDGE]; EDGE];
    for j in 0..EDGE {
        let column = image_axis(s, core::array::from_fn(|i| load(pixels[i * EDGE + j])));
        for i in 0..EDGE {
            half[i][j] = column[i];
        }
    }
    for (i, row) in half.into_iter().enumerate() {
        for (j, value) in image_axis(s, row).into_iter().enumerate() {
            store(i * EDGE + j, value);
        }
    }
}

/// One axis of Aᵀ m.
#[inline(always)]
fn product_axis<S: Simd>(s: S, m: [S::F32; EDGE]) -> [S::F32; 4] {
    let splat = |x| S::F32::splat(s, x);
    let (sums, differences) = ([m[1] + m[2], m[3] + m[4]], [m[1] - m[2], m[3] - m[4]]);
    [
        m[0] + sums[0] + sums[1],
        differences[0].mul_add(splat(A), differences[1] * splat(B)),
        sums[0].mul_add(splat(0.5), sums[1] * splat(2.0)),
        differences[0].mul_add(splat(0.5 * A), differences[1].mul_add(splat(2.0 * B), m[5])),
    ]
}

/// Aᵀ m A, 4 × 4 pixels, of the 36 points that `load` fetches by number.
#[inline(always)]
pub(crate) fn points_to_pixels<S: Simd>(s: S, load: impl Fn(usize) -> S::F32) -> [S::F32; 16] {
    let mut half = [[S::F32::splat(s, 0.0); EDGE]; 4];
    for j in 0..EDGE {
        let column = product_axis(s, core::array::from_fn(|i| load(i * EDGE + j)));
        for i in 0..4 {
            half[i][j] = column[i];
        }
    }
    let mut out = [S::F32::splat(s, 0.0); 16];
    for (i, row) in half.into_iter().enumerate() {
        out[i * 4..][..4].copy_from_slice(&product_axis(s, row));
    }
    out
}

/// One axis of G g.
#[inline(always)]
fn weights_axis<S: Simd>(s: S, g: [S::F32; 3]) -> [S::F32; EDGE] {
    let splat = |x| S::F32::splat(s, x);
    let (near, far) = (g[2].mul_add(splat(0.5), g[0]), g[2].mul_add(splat(2.0), g[0]));
    let (third, sixth) = (splat(-2.0 / 3.0), splat(1.0 / 6.0));
    [
        g[0],
        g[1].mul_add(splat(A), near) * third,
        g[1].mul_add(splat(-A), near) * third,
        g[1].mul_add(splat(B), far) * sixth,
        g[1].mul_add(splat(-B), far) * sixth,
        g[2],
    ]
}

/// G g Gᵀ of a 3 × 3 filter; `store` gets each point's number and value.
#[inline(always)]
pub(crate) fn weights_to_points<S: Simd>(s: S, g: &[S::F32; 9], mut store: impl FnMut(usize, S::F32)) {
    let mut half = [[S::F32::splat(s, 0.0); 3]; EDGE];
    for j in 0..3 {
        let column = weights_axis(s, [g[j], g[3 + j], g[6 + j]]);
        for i in 0..EDGE {
            half[i][j] = column[i];
        }
    }
    for (i, row) in half.into_iter().enumerate() {
        for (j, value) in weights_axis(s, row).into_iter().enumerate() {
            store(i * EDGE + j, value);
        }
    }
}
