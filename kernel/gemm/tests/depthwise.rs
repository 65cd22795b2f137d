//! Depthwise convolutions against the definition, on every level of the machine.

use millstream_gemm::{Activation, Depthwise, GemmError, Window};
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
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_definition(
        batch in 1..3_usize, h in 1..9_usize, w in 1..40_usize, (channels, extra) in (1..40_usize, 0..3_usize),
        (kh, kw) in (1..5_usize, 1..5_usize), (sy, sx) in (1..3_usize, 1..3_usize), (dy, dx) in (1..3_usize, 1..3_usize),
        (top, left, bottom, right) in (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize), seed in any::<u64>(),
    ) {
        let axis = |size: usize, k: usize, s: usize, d: usize| Some(size.checked_sub((k - 1) * d + 1)? / s + 1);
        let (Some(oh), Some(ow)) = (axis(h + top + bottom, kh, sy, dy), axis(w + left + right, kw, sx, dx)) else { return Ok(()) };
        let stride = channels + extra;
        let data = noise(batch * h * w * stride, seed);
        let weights = noise(kh * kw * channels, seed ^ 1);
        let bias = noise(channels, seed ^ 2);
        let image = Window {
            data: &data, batch, size: [h, w], channels, pixel_stride: stride, kernel: [kh, kw], stride: [sy, sx], dilation: [dy, dx],
            pad: [top, left], out: [oh, ow],
        };
        for level in Level::available() {
            let job = Depthwise::new(level, batch, [oh, ow], channels, kh * kw);
            for activation in [Activation::None, Activation::Relu, Activation::HardSwish] {
                let mut out = vec![f32::NAN; batch * oh * ow * stride];
                job.run(&image, &weights, Some(&bias), activation, &mut out, stride).unwrap();
                for b in 0..batch {
                    for y in 0..oh {
                        for x in 0..ow {
                            for c in 0..channels {
                                let mut sum = f64::from(bias[c]);
                                for ky in 0..kh {
                                    for kx in 0..kw {
                                        let iy = (y * sy + ky * dy).wrapping_sub(top);
                                        let ix = (x * sx + kx * dx).wrapping_sub(left);
                                        if iy < h && ix < w {
                                            sum += f64::from(weights[(ky * kw + kx) * channels + c])
                                                * f64::from(data[((b * h + iy) * w + ix) * stride + c]);
                                        }
                                    }
                                }
                                let want = match activation {
                                    Activation::Relu => sum.max(0.0),
                                    Activation::HardSwish => sum * (sum / 6.0 + 0.5).clamp(0.0, 1.0),
                                    _ => sum,
                                };
                                let got = out[((b * oh + y) * ow + x) * stride + c];
                                prop_assert!((f64::from(got) - want).abs() < 1e-5, "{got}, want {want} at {level}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn grains_cover_a_large_output_in_any_order() {
    let (h, w, channels) = (112, 112, 96);
    let data = noise(h * w * channels, 1);
    let weights = noise(9 * channels, 2);
    let image = Window {
        data: &data,
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
    for level in Level::available() {
        let job = Depthwise::new(level, 1, [h, w], channels, 9);
        assert!(job.grains() > 1);
        let (mut whole, mut parts) = (vec![f32::NAN; data.len()], vec![f32::NAN; data.len()]);
        job.run(&image, &weights, None, Activation::None, &mut whole, channels).unwrap();
        let tiles = job.tiles(&mut parts, channels).unwrap();
        for grain in (0..job.grains()).rev() {
            job.run_grain(grain, &image, &weights, None, Activation::None, &tiles).unwrap();
        }
        assert_eq!(job.run_grain(0, &image, &weights, None, Activation::None, &tiles), Err(GemmError::Grain(0)));
        assert_eq!(whole, parts);
        assert!(job.run(&image, &weights[1..], None, Activation::None, &mut whole, channels).is_err());
    }
}
