//! Integer products against the definition: exact, on every level of the machine.

use millstream_gemm::{Exact, Lhs, PackedQuantised, QuantisedElement, QuantisedGemm, QuantisedRef, Window, ZeroPoint, ZeroPoints};
use millstream_simd::Level;
use proptest::prelude::*;

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as u8
    };
    (0..n).map(|_| step()).collect()
}

fn product<T: QuantisedElement>(level: Level, a: &Lhs<'_, T>, b: QuantisedRef<'_>, zeros: &ZeroPoints<'_>, (m, k, n): (usize, usize, usize)) -> Vec<i32> {
    let gemm = QuantisedGemm::new(level, m, k, n);
    let (mut c, mut scratch) = (vec![-7; m * n], vec![-7; gemm.scratch_len()]);
    gemm.run(a, b, zeros, &Exact, (&mut c, n), &mut scratch).unwrap();
    c
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_definition(m in 0..40_usize, k in 0..1_300_usize, n in 0..70_usize, seed in any::<u64>()) {
        let (ua, ub) = (bytes(m * k, seed), bytes(k * n, seed ^ 1));
        let (ia, ib): (Vec<i8>, Vec<i8>) = (ua.iter().map(|x| *x as i8).collect(), ub.iter().map(|x| *x as i8).collect());
        let a_zeros: Vec<i32> = bytes(m, seed ^ 2).into_iter().map(i32::from).collect();
        let b_zeros: Vec<i32> = bytes(n, seed ^ 3).into_iter().map(i32::from).collect();
        let signed: Vec<i32> = b_zeros.iter().map(|x| x - 128).collect();
        let want = |a: &dyn Fn(usize) -> i32, b: &dyn Fn(usize) -> i32, az: &dyn Fn(usize) -> i32, bz: &dyn Fn(usize) -> i32| -> Vec<i32> {
            (0..m * n).map(|x| (0..k).map(|l| (a(x / n * k + l) - az(x / n)) * (b(l * n + x % n) - bz(x % n))).sum()).collect()
        };
        let (ua_at, ia_at) = (|i: usize| i32::from(ua[i]), |i: usize| i32::from(ia[i]));
        let (ub_at, ib_at) = (|i: usize| i32::from(ub[i]), |i: usize| i32::from(ib[i]));
        let unsigned = PackedQuantised::from_u8(&ub, n, 1, k, n).unwrap();
        let transposed: Vec<i8> = (0..n * k).map(|x| ib[x % k * n + x / k]).collect();
        let negative = PackedQuantised::from_i8(&transposed, 1, k, k, n).unwrap();
        let exact = [
            want(&ua_at, &ub_at, &|_| 131, &|_| 97),
            want(&ua_at, &ib_at, &|i| a_zeros[i], &|j| signed[j]),
            want(&ia_at, &ub_at, &|_| -5, &|j| b_zeros[j]),
            want(&ia_at, &ib_at, &|_| 0, &|_| 0),
        ];
        for level in Level::available() {
            let dims = (m, k, n);
            let zeros = ZeroPoints { a: ZeroPoint::All(131), b: ZeroPoint::All(97) };
            prop_assert_eq!(&product(level, &Lhs::row_major(&ua, k), unsigned.view(), &zeros, dims), &exact[0]);
            let zeros = ZeroPoints { a: ZeroPoint::Each(&a_zeros), b: ZeroPoint::Each(&signed) };
            prop_assert_eq!(&product(level, &Lhs::row_major(&ua, k), negative.view(), &zeros, dims), &exact[1]);
            let zeros = ZeroPoints { a: ZeroPoint::All(-5), b: ZeroPoint::Each(&b_zeros) };
            prop_assert_eq!(&product(level, &Lhs::row_major(&ia, k), unsigned.view(), &zeros, dims), &exact[2]);
            prop_assert_eq!(&product(level, &Lhs::row_major(&ia, k), negative.view(), &ZeroPoints::default(), dims), &exact[3]);
        }
    }
}

/// Weights as quantisers make them: most neighbours are small, and some are as large as a byte may be.
fn weights(n: usize, seed: u64) -> Vec<i8> {
    let noise = bytes(5 * n, seed);
    let small = |x: &[u8]| x[..4].iter().map(|x| i32::from(*x) - 128).sum::<i32>() / 4;
    noise.chunks_exact(5).map(|x| if x[4] < 8 { [127, -128][usize::from(x[4] & 1)] } else { small(x) as i8 }).collect()
}

/// The greatest elements of A meet the greatest of B, next to groups that are harmless.
#[test]
fn large_neighbours_do_not_saturate() {
    for (m, k, n) in [(1, 64, 32), (5, 70, 33), (17, 64, 16), (40, 516, 70), (130, 131, 95)] {
        let b = weights(k * n, 7);
        let packed = PackedQuantised::from_i8(&b, n, 1, k, n).unwrap();
        let mut a = bytes(m * k, 8);
        a.iter_mut().step_by(3).for_each(|x| *x = 255);
        a[..k].fill(255);
        let at = |x: usize, l: usize| i32::from(a[x / n * k + l]) * i32::from(b[l * n + x % n]);
        let want: Vec<i32> = (0..m * n).map(|x| (0..k).map(|l| at(x, l)).sum()).collect();
        for level in Level::available() {
            assert_eq!(product(level, &Lhs::row_major(&a, k), packed.view(), &ZeroPoints::default(), (m, k, n)), want, "{level}: {m} x {k} x {n}");
        }
    }
}

/// More rows than a grain has, and so deep that a grain packs them in several blocks.
#[test]
fn grains_and_blocks_of_rows_make_one_product() {
    for (m, k, n) in [(150, 37, 40), (75, 6001, 5), (150, 128, 40), (49, 64, 33), (32, 192, 64)] {
        let (a, b) = (bytes(m * k, 3), bytes(k * n, 4));
        let packed = PackedQuantised::from_u8(&b, n, 1, k, n).unwrap();
        let zeros = ZeroPoints { a: ZeroPoint::All(9), b: ZeroPoint::All(200) };
        let cell = |i: usize, j: usize| (0..k).map(|l| (i32::from(a[i * k + l]) - 9) * (i32::from(b[l * n + j]) - 200)).sum::<i32>();
        let want: Vec<i32> = (0..m * n).map(|x| cell(x / n, x % n)).collect();
        for level in Level::available() {
            assert_eq!(product(level, &Lhs::row_major(&a, k), packed.view(), &zeros, (m, k, n)), want, "{level}");
        }
    }
}

/// What lies outside of an image is a zero point, so it adds nothing.
#[test]
fn windows_are_padded_with_the_zero_point() {
    let (h, w, channels, filters) = (6, 7, 5, 9);
    let (image, weights) = (bytes(h * w * channels, 1), bytes(9 * channels * filters, 2));
    let window = Window {
        data: &image,
        batch: 1,
        size: [h, w],
        channels,
        pixel_stride: channels,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [1, 1],
        out: [h, w],
    };
    let (m, k, n) = (h * w, 9 * channels, filters);
    let packed = PackedQuantised::from_u8(&weights, n, 1, k, n).unwrap();
    let zeros = ZeroPoints { a: ZeroPoint::All(100), b: ZeroPoint::All(50) };
    for level in Level::available() {
        let got = product(level, &Lhs::Window(window), packed.view(), &zeros, (m, k, n));
        for (x, got) in got.iter().enumerate() {
            let (y, x, f) = (x / n / w, x / n % w, x % n);
            let mut want = 0;
            for l in 0..k {
                let (iy, ix) = ((y + l / channels / 3).wrapping_sub(1), (x + l / channels % 3).wrapping_sub(1));
                if iy < h && ix < w {
                    want += (i32::from(image[(iy * w + ix) * channels + l % channels]) - 100) * (i32::from(weights[l * n + f]) - 50);
                }
            }
            assert_eq!(*got, want, "({y}, {x}, {f}) at {level}");
        }
    }
}
