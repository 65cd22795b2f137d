//! Conversion of whole slices between f32 and the 16-bit floats, whose bits are given as u16. All round to nearest even and keep NaN a NaN.

use half::f16;

use crate::{Level, Simd, SimdF32, SimdI32, dispatch};

/// Widens f16 bits.
///
/// # Panics
/// If the slices differ in length.
pub fn f16_to_f32(level: Level, src: &[u16], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    macro_rules! vector {
        ($s:ident, $n:literal) => {
            $s.vectorize(
                #[inline(always)]
                || {
                    let (src, src_tail) = src.as_chunks::<$n>();
                    let (dst, dst_tail) = dst.as_chunks_mut::<$n>();
                    for (x, y) in src.iter().zip(dst) {
                        $s.f16_to_f32(x, y);
                    }
                    let mut tail = ([0; $n], [0.0; $n]);
                    tail.0[..src_tail.len()].copy_from_slice(src_tail);
                    $s.f16_to_f32(&tail.0, &mut tail.1);
                    dst_tail.copy_from_slice(&tail.1[..src_tail.len()]);
                },
            )
        };
    }
    match level.vectors() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(s) => vector!(s, 16),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(s) => vector!(s, 8),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        Level::Neon(s) => vector!(s, 8),
        _ => {
            for (x, y) in src.iter().zip(dst) {
                *y = f16::from_bits(*x).to_f32();
            }
        }
    }
}

/// Narrows to f16 bits.
///
/// # Panics
/// If the slices differ in length.
pub fn f32_to_f16(level: Level, src: &[f32], dst: &mut [u16]) {
    assert_eq!(src.len(), dst.len());
    macro_rules! vector {
        ($s:ident, $n:literal) => {
            $s.vectorize(
                #[inline(always)]
                || {
                    let (src, src_tail) = src.as_chunks::<$n>();
                    let (dst, dst_tail) = dst.as_chunks_mut::<$n>();
                    for (x, y) in src.iter().zip(dst) {
                        $s.f32_to_f16(x, y);
                    }
                    let mut tail = ([0.0; $n], [0; $n]);
                    tail.0[..src_tail.len()].copy_from_slice(src_tail);
                    $s.f32_to_f16(&tail.0, &mut tail.1);
                    dst_tail.copy_from_slice(&tail.1[..src_tail.len()]);
                },
            )
        };
    }
    match level.vectors() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(s) => vector!(s, 16),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(s) => vector!(s, 8),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        Level::Neon(s) => vector!(s, 8),
        _ => {
            for (x, y) in src.iter().zip(dst) {
                *y = f16::from_f32(*x).to_bits();
            }
        }
    }
}

/// Widens bf16 bits.
///
/// # Panics
/// If the slices differ in length.
pub fn bf16_to_f32(level: Level, src: &[u16], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    dispatch!(level, s => bf16_widen(s, src, dst));
}

/// Narrows to bf16 bits.
///
/// # Panics
/// If the slices differ in length.
pub fn f32_to_bf16(level: Level, src: &[f32], dst: &mut [u16]) {
    assert_eq!(src.len(), dst.len());
    dispatch!(level, s => bf16_narrow(s, src, dst));
}

#[inline(always)]
fn bf16_widen<S: Simd>(s: S, src: &[u16], dst: &mut [f32]) {
    let lanes = S::F32::LANES;
    let mut from = src.chunks_exact(lanes);
    let mut to = dst.chunks_exact_mut(lanes);
    for (x, y) in (&mut from).zip(&mut to) {
        S::F32::from_bits(S::I32::load_u16(s, x).shl(16)).store(y);
    }
    for (x, y) in from.remainder().iter().zip(to.into_remainder()) {
        *y = f32::from_bits(u32::from(*x) << 16);
    }
}

#[inline(always)]
fn bf16_narrow<S: Simd>(s: S, src: &[f32], dst: &mut [u16]) {
    let lanes = S::F32::LANES;
    let (half, one, quiet) = (S::I32::splat(s, 0x7fff), S::I32::splat(s, 1), S::I32::splat(s, 0x40));
    let mut from = src.chunks_exact(lanes);
    let mut to = dst.chunks_exact_mut(lanes);
    for (x, y) in (&mut from).zip(&mut to) {
        let x = S::F32::load(s, x);
        let bits = x.to_bits();
        let truncated = bits.shr_logical(16);
        let rounded = (bits + half + (truncated & one)).shr_logical(16);
        S::I32::select(x.is_nan(), truncated | quiet, rounded).store_u16(y);
    }
    for (x, y) in from.remainder().iter().zip(to.into_remainder()) {
        *y = half::bf16::from_f32(*x).to_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn all_16_bit_floats_round_trip_on_every_level() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        for level in Level::available() {
            let mut wide = vec![0.0; bits.len()];
            let mut back = vec![0; bits.len()];
            f16_to_f32(level, &bits, &mut wide);
            f32_to_f16(level, &wide, &mut back);
            for i in 0..bits.len() {
                let h = f16::from_bits(bits[i]);
                assert!(h.is_nan() && wide[i].is_nan() && f16::from_bits(back[i]).is_nan() || (h.to_f32() == wide[i] && back[i] == bits[i]));
            }
            bf16_to_f32(level, &bits, &mut wide);
            f32_to_bf16(level, &wide, &mut back);
            for i in 0..bits.len() {
                let h = bf16::from_bits(bits[i]);
                assert!(h.is_nan() && wide[i].is_nan() && bf16::from_bits(back[i]).is_nan() || (h.to_f32() == wide[i] && back[i] == bits[i]));
            }
        }
    }

    #[test]
    fn narrowing_rounds_as_half_does() {
        let x: Vec<f32> = (0..200_003_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).filter(|x| !x.is_nan()).collect();
        for level in Level::available() {
            let mut y = vec![0; x.len()];
            f32_to_f16(level, &x, &mut y);
            assert!(x.iter().zip(&y).all(|(x, y)| f16::from_f32(*x).to_bits() == *y));
            f32_to_bf16(level, &x, &mut y);
            assert!(x.iter().zip(&y).all(|(x, y)| bf16::from_f32(*x).to_bits() == *y));
        }
    }
}
