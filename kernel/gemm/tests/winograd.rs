//! Winograd's convolution against its definition in f64, on every level of the machine.

use millstream_gemm::{Activation, GemmError, PackedWinograd, Residual, Window, Winograd};
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

#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    size: [usize; 2],
    channels: usize,
    outputs: usize,
    pad: [usize; 4],
    seed: u64,
}

/// A case's operands, and its result before the activation: made once for all levels, because an emulator takes its time over them.
struct Made {
    case: Case,
    out: [usize; 2],
    data: Vec<f32>,
    /// `[outputs, channels, 9]`
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    sums: Vec<f64>,
}

impl Case {
    fn make(self) -> Made {
        let Case { batch, size: [h, w], channels, outputs, pad: [top, left, bottom, right], seed } = self;
        let out = [h + top + bottom - 2, w + left + right - 2];
        let pixels = batch * out[0] * out[1];
        let (data, weights) = (noise(batch * h * w * channels, seed), noise(outputs * channels * 9, seed ^ 1));
        let (bias, residual) = (noise(outputs, seed ^ 2), noise(pixels * outputs, seed ^ 3));
        let mut sums: Vec<f64> = residual.iter().zip(bias.iter().cycle()).map(|(r, b)| f64::from(*r) + f64::from(*b)).collect();
        // Of one tap and channel, for all outputs.
        let column = |tap: usize, c: usize| -> Vec<f64> { (0..outputs).map(|o| f64::from(weights[(o * channels + c) * 9 + tap])).collect() };
        for tap in 0..9 {
            let columns: Vec<_> = (0..channels).map(|c| column(tap, c)).collect();
            for (pixel, sums) in sums.chunks_exact_mut(outputs).enumerate() {
                let (b, y, x) = (pixel / out[1] / out[0], pixel / out[1] % out[0], pixel % out[1]);
                let (iy, ix) = ((y + tap / 3).wrapping_sub(top), (x + tap % 3).wrapping_sub(left));
                if iy < h && ix < w {
                    for (x, column) in data[((b * h + iy) * w + ix) * channels..][..channels].iter().zip(&columns) {
                        sums.iter_mut().zip(column).for_each(|(sum, weight)| *sum += f64::from(*x) * weight);
                    }
                }
            }
        }
        Made { case: self, out, data, weights, bias, residual, sums }
    }
}

impl Made {
    /// The greatest difference from the definition, over the greatest result.
    fn error(&self, level: Level, activation: Activation, backwards: bool) -> f64 {
        let Case { batch, size, channels, outputs, pad: [top, left, ..], .. } = self.case;
        let image = Window {
            data: &self.data,
            batch,
            size,
            channels,
            pixel_stride: channels,
            kernel: [3, 3],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [top, left],
            out: self.out,
        };
        let residual = Residual { data: &self.residual, row_stride: outputs, beta: 1.0 };
        let packed = PackedWinograd::new(level, &self.weights, channels, outputs).unwrap();
        let job = Winograd::new(level, batch, self.out, channels, outputs);
        let mut got = vec![f32::NAN; self.sums.len()];
        let mut scratch = vec![f32::NAN; job.scratch_len()];
        let tiles = job.tiles(&mut got, outputs).unwrap();
        for i in 0..job.grains() {
            let grain = if backwards { job.grains() - 1 - i } else { i };
            job.run_grain(grain, &image, &packed, Some(&self.bias), Some(residual), activation, &tiles, &mut scratch).unwrap();
        }
        let want = |sum: f64| match activation {
            Activation::Relu => sum.max(0.0),
            Activation::HardSwish => sum * (sum / 6.0 + 0.5).clamp(0.0, 1.0),
            _ => sum,
        };
        let (mut greatest, mut difference) = (f64::MIN_POSITIVE, 0.0_f64);
        for (sum, y) in self.sums.iter().zip(&got) {
            greatest = greatest.max(want(*sum).abs());
            difference = difference.max(if y.is_nan() { f64::INFINITY } else { (want(*sum) - f64::from(*y)).abs() });
        }
        difference / greatest
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_definition(
        batch in 1..4_usize, size in (3..20_usize, 3..40_usize), channels in 1..70_usize, outputs in 1..140_usize,
        pad in (0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize), seed in any::<u64>(),
    ) {
        let case = Case { batch, size: [size.0, size.1], channels, outputs, pad: [pad.0, pad.1, pad.2, pad.3], seed }.make();
        for level in Level::available() {
            for (activation, backwards) in [(Activation::None, false), (Activation::Relu, true), (Activation::HardSwish, false)] {
                let error = case.error(level, activation, backwards);
                prop_assert!(error <= 1e-5, "{error:e} at {level} with {activation:?}");
            }
        }
    }
}

#[test]
fn many_channels_run_in_blocks_and_stay_precise() {
    let case = Case { batch: 1, size: [9, 14], channels: 600, outputs: 40, pad: [1, 1, 1, 1], seed: 5 }.make();
    for level in Level::available() {
        assert!(case.error(level, Activation::None, false) <= 1e-5, "at {level}");
    }
}

#[test]
fn a_result_does_not_depend_on_the_batch() {
    let (channels, outputs, [h, w]) = (20, 36, [9, 10]);
    let (data, weights) = (noise(3 * h * w * channels, 1), noise(outputs * channels * 9, 2));
    let run = |level, data: &[f32], batch| {
        let image =
            Window { data, batch, size: [h, w], channels, pixel_stride: channels, kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pad: [1, 1], out: [h, w] };
        let packed = PackedWinograd::new(level, &weights, channels, outputs).unwrap();
        let job = Winograd::new(level, batch, [h, w], channels, outputs);
        let mut out = vec![0.0; batch * h * w * outputs];
        let tiles = job.tiles(&mut out, outputs).unwrap();
        let mut scratch = vec![0.0; job.scratch_len()];
        (0..job.grains()).for_each(|g| job.run_grain(g, &image, &packed, None, None, Activation::None, &tiles, &mut scratch).unwrap());
        out
    };
    for level in Level::available() {
        let together = run(level, &data, 3);
        for (i, image) in data.chunks_exact(h * w * channels).enumerate() {
            assert_eq!(run(level, image, 1), together[i * h * w * outputs..][..h * w * outputs], "at {level}");
        }
    }
}

#[test]
fn impossible_arguments_are_errors() {
    let level = Level::detect();
    assert!(matches!(PackedWinograd::new(level, &[0.0; 17], 2, 1), Err(GemmError::Length { .. })));
    let packed = PackedWinograd::new(level, &[0.0; 18], 2, 1).unwrap();
    let data = [0.0; 32];
    let image = Window {
        data: &data,
        batch: 1,
        size: [4, 4],
        channels: 2,
        pixel_stride: 2,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [1, 1],
        out: [4, 4],
    };
    let job = Winograd::new(level, 1, [4, 4], 2, 1);
    let mut out = [0.0; 16];
    let mut scratch = vec![0.0; job.scratch_len()];
    let tiles = job.tiles(&mut out, 1).unwrap();
    let run = |grain, image: &Window<'_>, scratch: &mut [f32]| job.run_grain(grain, image, &packed, None, None, Activation::None, &tiles, scratch);
    assert!(matches!(run(1, &image, &mut scratch), Err(GemmError::Grain(1))));
    assert!(matches!(run(0, &Window { stride: [2, 2], ..image }, &mut scratch), Err(GemmError::Mismatch { .. })));
    assert!(matches!(run(0, &Window { data: &data[..31], ..image }, &mut scratch), Err(GemmError::Length { .. })));
    assert!(matches!(run(0, &image, &mut []), Err(GemmError::Length { .. })));
    assert!(run(0, &image, &mut scratch).is_ok());
    assert!(matches!(run(0, &image, &mut scratch), Err(GemmError::Grain(0))), "a second time");
}
