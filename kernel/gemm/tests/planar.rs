//! Convolutions of planes against the product of channels-last windows, on every level of the machine.

use millstream_gemm::{Activation, Epilogue, Gemm, GemmError, Lhs, PackedB, Planar, Residual, Rhs, Window};
use millstream_simd::Level;
use proptest::prelude::*;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| step()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_product_of_windows(
        batch in 1..4_usize, (h, w) in (1..14_usize, 1..40_usize), channels in 1..5_usize, outputs in 1..70_usize,
        (kh, kw) in (1..6_usize, 1..6_usize), (sy, sx) in (1..4_usize, 1..4_usize),
        (top, left, bottom, right) in (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize), seed in any::<u64>(),
    ) {
        let axis = |size: usize, k: usize, s: usize| Some(size.checked_sub(k)? / s + 1);
        let (Some(oh), Some(ow)) = (axis(h + top + bottom, kh, sy), axis(w + left + right, kw, sx)) else { return Ok(()) };
        let (k, pixels) = (kh * kw * channels, batch * oh * ow);
        let planes = noise(batch * channels * h * w, seed);
        let mut last = vec![0.0; planes.len()];
        for (i, x) in planes.iter().enumerate() {
            let (b, c, p) = (i / (channels * h * w), i / (h * w) % channels, i % (h * w));
            last[(b * h * w + p) * channels + c] = *x;
        }
        let weights = noise(outputs * k, seed ^ 1);
        let at = |o: usize, c: usize, y: usize, x: usize| weights[((o * channels + c) * kh + y) * kw + x];
        let mut ordered = Vec::new();
        for o in 0..outputs {
            (0..k).for_each(|i| ordered.push(at(o, i / kw % channels, i / (kw * channels), i % kw)));
        }
        let (bias, residual) = (noise(outputs, seed ^ 2), noise(pixels * outputs, seed ^ 3));
        let image = Window {
            data: &planes, batch, size: [h, w], channels, pixel_stride: 1, kernel: [kh, kw], stride: [sy, sx], dilation: [1, 1], pad: [top, left], out: [oh, ow],
        };
        for level in Level::available() {
            for activation in [Activation::None, Activation::Relu, Activation::HardSwish] {
                let residual = Residual { data: &residual, row_stride: outputs, beta: 1.0 };
                let epilogue = Epilogue { bias_cols: Some(&bias), residual: Some(residual), activation, ..Epilogue::default() };
                let gemm = Gemm::new(level, pixels, k, outputs);
                let packed = PackedB::new(level, Rhs::convolution(&weights, channels, kh * kw), k, outputs).unwrap();
                let mut want = vec![0.0; pixels * outputs];
                let window = Window { data: &last, pixel_stride: channels, ..image };
                gemm.run(&Lhs::Window(window), packed.view(), &mut want, outputs, &epilogue, &mut vec![0.0; gemm.scratch_len()]).unwrap();

                let packed = PackedB::new(level, Rhs::transposed(&ordered, k), k, outputs).unwrap();
                let job = Planar::new(level, &image, outputs);
                let mut got = vec![f32::NAN; pixels * outputs];
                let mut scratch = vec![f32::NAN; job.scratch_len()];
                let tiles = job.tiles(&mut got, outputs).unwrap();
                (0..job.grains()).for_each(|g| job.run_grain(g, &image, packed.view(), &epilogue, &tiles, &mut scratch).unwrap());
                for (x, y) in want.iter().zip(&got) {
                    prop_assert!((x - y).abs() <= 1e-5 * x.abs().max(1.0), "{x} {y} at {level}");
                }
            }
        }
    }
}

#[test]
fn impossible_arguments_are_errors() {
    let level = Level::detect();
    let packed = PackedB::new(level, Rhs::row_major(&[0.0; 18], 1), 18, 1).unwrap();
    let data = [0.0; 32];
    let image = Window {
        data: &data,
        batch: 1,
        size: [4, 4],
        channels: 2,
        pixel_stride: 1,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [1, 1],
        out: [4, 4],
    };
    let job = Planar::new(level, &image, 1);
    let (mut out, mut scratch) = ([0.0; 16], vec![0.0; job.scratch_len()]);
    let tiles = job.tiles(&mut out, 1).unwrap();
    let run = |grain, image: &Window<'_>, scratch: &mut [f32]| job.run_grain(grain, image, packed.view(), &Epilogue::default(), &tiles, scratch);
    assert!(matches!(run(1, &image, &mut scratch), Err(GemmError::Grain(1))));
    assert!(matches!(run(0, &Window { stride: [2, 2], ..image }, &mut scratch), Err(GemmError::Mismatch { .. })));
    assert!(matches!(run(0, &Window { data: &data[..31], ..image }, &mut scratch), Err(GemmError::Length { .. })));
    assert!(matches!(run(0, &image, &mut []), Err(GemmError::Length { .. })));
    assert!(run(0, &image, &mut scratch).is_ok());
    assert!(matches!(run(0, &image, &mut scratch), Err(GemmError::Grain(0))), "a second time");
}
