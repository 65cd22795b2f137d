//! Every vector operation of every level against the same operation of `f32` or `i32`.

use std::vec;
use std::vec::Vec;

use crate::{Level, Simd, SimdF32, SimdI32, SimdMask, dispatch};

const SPECIAL: [f32; 24] = [
    0.0,
    -0.0,
    0.3,
    -0.3,
    0.5,
    -0.5,
    1.5,
    -1.5,
    2.5,
    -2.5,
    0.999_999_94,
    -0.999_999_94,
    1e-40,
    -1e-40,
    8_388_607.5,
    -8_388_607.5,
    8_388_608.0,
    1e20,
    -1e20,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    4_194_303.8,
    -7.0,
];

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[inline(always)]
fn unary<S: Simd>(s: S, x: &[f32], f: impl Fn(S::F32) -> S::F32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    crate::slice::map(s, x, &mut y, f);
    y
}

#[allow(clippy::type_complexity)]
#[inline(always)]
fn floats<S: Simd>(s: S) {
    let check = |name: &str, got: Vec<f32>, want: fn(f32) -> f32| {
        for (x, y) in SPECIAL.iter().zip(got) {
            assert!(same(want(*x), y), "{name}({x}) = {y} at {}, want {}", s.level(), want(*x));
        }
    };
    check("abs", unary(s, &SPECIAL, |v| v.abs()), f32::abs);
    check("neg", unary(s, &SPECIAL, |v| -v), |x| -x);
    check("sqrt", unary(s, &SPECIAL, |v| v.sqrt()), f32::sqrt);
    check("floor", unary(s, &SPECIAL, |v| v.floor()), f32::floor);
    check("ceil", unary(s, &SPECIAL, |v| v.ceil()), f32::ceil);
    check("trunc", unary(s, &SPECIAL, |v| v.trunc()), f32::trunc);
    check("round", unary(s, &SPECIAL, |v| v.round_ties_even()), f32::round_ties_even);
    for other in SPECIAL {
        let b = S::F32::splat(s, other);
        let one = S::F32::splat(s, 1.0);
        let zero = S::F32::splat(s, 0.0);
        let pairs: [(&str, Vec<f32>, fn(f32, f32) -> f32); 10] = [
            ("add", unary(s, &SPECIAL, |v| v + b), |x, y| x + y),
            ("sub", unary(s, &SPECIAL, |v| v - b), |x, y| x - y),
            ("mul", unary(s, &SPECIAL, |v| v * b), |x, y| x * y),
            ("div", unary(s, &SPECIAL, |v| v / b), |x, y| x / y),
            ("copysign", unary(s, &SPECIAL, |v| v.copysign(b)), f32::copysign),
            ("min", unary(s, &SPECIAL, |v| v.min(b)), |x, y| if x < y { x } else { y }),
            ("max", unary(s, &SPECIAL, |v| v.max(b)), |x, y| if x > y { x } else { y }),
            ("eq", unary(s, &SPECIAL, |v| S::F32::select(v.eq(b), one, zero)), |x, y| f32::from(x == y)),
            ("lt", unary(s, &SPECIAL, |v| S::F32::select(v.lt(b), one, zero)), |x, y| f32::from(x < y)),
            ("ge", unary(s, &SPECIAL, |v| S::F32::select(v.ge(b), one, zero)), |x, y| f32::from(x >= y)),
        ];
        for (name, got, want) in pairs {
            for (x, y) in SPECIAL.iter().zip(got) {
                assert!(same(want(*x, other), y), "{name}({x}, {other}) = {y} at {}", s.level());
            }
        }
    }
    for n in [-240, -239, -160, -151, -149, -130, -127, -126, -125, -1, 0, 1, 5, 126, 127, 128, 129, 239, 240] {
        let values = [1.0, 1.25, -0.75, 0.25, -0.250_000_03, 3.999_999_8, 4.0];
        let got = unary(s, &values, |v| v.scale_by_pow2(S::F32::splat(s, n as f32)));
        for (x, y) in values.into_iter().zip(got) {
            assert!(same((f64::from(x) * f64::from(n).exp2()) as f32, y), "{x} * 2^{n} = {y} at {}", s.level());
        }
    }
}

#[inline(always)]
fn lanes<S: Simd>(s: S) {
    let n = S::F32::LANES;
    assert_eq!(n, S::I32::LANES);
    let ramp: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
    let v = S::F32::load(s, &ramp);
    assert_eq!(v.reduce_add(), ramp.iter().sum::<f32>());
    assert_eq!(v.reduce_max(), n as f32 - 4.0);
    assert_eq!(v.reduce_min(), -3.0);
    let lanes = |v: S::F32| {
        let mut y = vec![0.0; n];
        v.store(&mut y);
        y
    };
    for (quad, got) in [v.splat_in_quads::<0>(), v.splat_in_quads::<1>(), v.splat_in_quads::<2>(), v.splat_in_quads::<3>()].into_iter().enumerate() {
        assert_eq!(lanes(got), (0..n).map(|i| ramp[i / 4 * 4 + quad]).collect::<Vec<_>>(), "lane {quad} of each quad at {}", s.level());
    }
    for step in [1, 3, n - 1] {
        let from: Vec<i32> = (0..n).map(|i| ((i * step + 2) % n) as i32).collect();
        let want: Vec<f32> = from.iter().map(|&i| ramp[i as usize]).collect();
        assert_eq!(lanes(v.permute(S::I32::load(s, &from))), want, "permuted at {}", s.level());
    }
    for k in 0..=n {
        let mut y = vec![9.0; n];
        S::F32::load_partial(s, &ramp[..k]).store(&mut y);
        assert!((0..n).all(|i| y[i] == if i < k { ramp[i] } else { 0.0 }));
        let mut y = vec![9.0; n];
        v.store_partial(&mut y[..k]);
        assert!((0..n).all(|i| y[i] == if i < k { ramp[i] } else { 9.0 }));
        let below = v.lt(S::F32::splat(s, k as f32 - 3.0));
        assert_eq!((below.any(), below.all()), (k > 0, k == n));
    }
}

#[allow(clippy::type_complexity)]
#[inline(always)]
fn integers<S: Simd>(s: S) {
    let n = S::I32::LANES;
    let x: Vec<i32> = (0..n).map(|i| (i as i32).wrapping_mul(-0x1234_5679)).collect();
    let v = S::I32::load(s, &x);
    let b = S::I32::splat(s, 77_777);
    let one = S::I32::splat(s, 1);
    let zero = S::I32::splat(s, 0);
    let table: [(S::I32, fn(i32) -> i32); 13] = [
        (v + b, |x| x.wrapping_add(77_777)),
        (v - b, |x| x.wrapping_sub(77_777)),
        (v * b, |x| x.wrapping_mul(77_777)),
        (v & b, |x| x & 77_777),
        (v | b, |x| x | 77_777),
        (v ^ b, |x| x ^ 77_777),
        (v.shl(5), |x| x << 5),
        (v.shr(5), |x| x >> 5),
        (v.shr_logical(5), |x| (x as u32 >> 5) as i32),
        (v.min(b), |x| x.min(77_777)),
        (v.max(b), |x| x.max(77_777)),
        (S::I32::select(v.gt(b), one, zero), |x| i32::from(x > 77_777)),
        (S::I32::select(v.eq(b), one, zero), |x| i32::from(x == 77_777)),
    ];
    for (i, (got, want)) in table.into_iter().enumerate() {
        let mut y = vec![0; n];
        got.store(&mut y);
        assert!(x.iter().zip(&y).all(|(x, y)| want(*x) == *y), "operation {i} at {}", s.level());
    }
    assert_eq!(v.reduce_add(), x.iter().fold(0, |a: i32, b| a.wrapping_add(*b)));
    let bytes: Vec<u8> = (0..n).map(|i| (i * 37) as u8).collect();
    let signed: Vec<i8> = bytes.iter().map(|b| *b as i8).collect();
    let words: Vec<u16> = (0..n).map(|i| (i * 9_377) as u16).collect();
    let mut y = vec![0; n];
    S::I32::load_i8(s, &signed).store(&mut y);
    assert!(signed.iter().zip(&y).all(|(a, b)| i32::from(*a) == *b));
    let mut back = vec![0_u8; n];
    S::I32::load_u8(s, &bytes).store_u8(&mut back);
    assert_eq!(back, bytes);
    let mut back = vec![0_u16; n];
    S::I32::load_u16(s, &words).store_u16(&mut back);
    assert_eq!(back, words);
    let mut f = vec![0.0; n];
    v.to_f32().store(&mut f);
    assert!(x.iter().zip(&f).all(|(a, b)| *a as f32 == *b));
    S::F32::splat(s, -2.75).to_i32().store(&mut y);
    assert!(y.iter().all(|y| *y == -2));
    for k in 0..=n {
        let mut y = vec![9; n];
        S::I32::load_partial(s, &x[..k]).store_partial(&mut y);
        assert!((0..n).all(|i| y[i] == if i < k { x[i] } else { 0 }));
    }
}

#[test]
fn operations_agree_with_the_scalar_ones() {
    for level in Level::available() {
        dispatch!(level, s => floats(s));
        dispatch!(level, s => lanes(s));
        dispatch!(level, s => integers(s));
    }
}
