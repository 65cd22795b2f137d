//! Grouped convolutions against the definition, on every level of the machine.

use millstream_gemm::{Activation, GemmError, GroupDims, Grouped, Window};
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

/// Dims of groups: depthwise, quads, several in a vector, and one or more vectors for each.
fn dims() -> impl Strategy<Value = GroupDims> {
    let group = prop_oneof![
        4 => Just((1, 1)),
        2 => Just((4, 4)),
        3 => (1..9_usize, 1..9_usize),
        2 => (1..20_usize, 4..32_usize),
    ];
    (group, 1..40_usize).prop_map(|((channels, out), total)| GroupDims { groups: total.div_ceil(channels.max(out)), channels, out })
}

/// A convolution's image and output.
struct Case<'a> {
    image: Window<'a>,
    dims: GroupDims,
    /// `[groups * out, channels, taps]`
    weights: &'a [f32],
    bias: &'a [f32],
}

impl Case<'_> {
    /// Channel `o` of pixel (y, x) of image `b`, before the activation.
    fn reference(&self, b: usize, y: usize, x: usize, o: usize) -> f64 {
        let (image, GroupDims { channels, out, .. }) = (&self.image, self.dims);
        let [kh, kw] = image.kernel;
        let mut sum = f64::from(self.bias[o]);
        for (ky, kx, c) in (0..kh).flat_map(|ky| (0..kw).flat_map(move |kx| (0..channels).map(move |c| (ky, kx, c)))) {
            let iy = (y * image.stride[0] + ky * image.dilation[0]).wrapping_sub(image.pad[0]);
            let ix = (x * image.stride[1] + kx * image.dilation[1]).wrapping_sub(image.pad[1]);
            if iy < image.size[0] && ix < image.size[1] {
                let pixel = (b * image.size[0] + iy) * image.size[1] + ix;
                let w = self.weights[((o * channels + c) * kh + ky) * kw + kx];
                sum += f64::from(w) * f64::from(image.data[pixel * image.pixel_stride + o / out * channels + c]);
            }
        }
        sum
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_definition(
        batch in 1..3_usize, h in 1..9_usize, w in 1..40_usize, (dims, extra) in (dims(), 0..3_usize),
        (kh, kw) in (1..5_usize, 1..5_usize), (sy, sx) in (1..3_usize, 1..3_usize), (dy, dx) in (1..3_usize, 1..3_usize),
        (top, left, bottom, right) in (0..4_usize, 0..4_usize, 0..4_usize, 0..4_usize), seed in any::<u64>(),
    ) {
        let axis = |size: usize, k: usize, s: usize, d: usize| Some(size.checked_sub((k - 1) * d + 1)? / s + 1);
        let (Some(oh), Some(ow)) = (axis(h + top + bottom, kh, sy, dy), axis(w + left + right, kw, sx, dx)) else { return Ok(()) };
        let (channels, outputs) = (dims.groups * dims.channels, dims.groups * dims.out);
        let data = noise(batch * h * w * (channels + extra), seed);
        let weights = noise(kh * kw * dims.channels * outputs, seed ^ 1);
        let bias = noise(outputs, seed ^ 2);
        let image = Window {
            data: &data, batch, size: [h, w], channels, pixel_stride: channels + extra, kernel: [kh, kw], stride: [sy, sx], dilation: [dy, dx],
            pad: [top, left], out: [oh, ow],
        };
        let case = Case { image, dims, weights: &weights, bias: &bias };
        for level in Level::available() {
            let Some(job) = Grouped::new(level, batch, [oh, ow], dims, kh * kw) else { continue };
            // Nothing beyond the length that was asked for is read: the packed weights lie in a vector of just that length.
            let mut packed = vec![f32::NAN; job.packed_len().unwrap()];
            job.pack(&weights, &mut packed).unwrap();
            for activation in [Activation::None, Activation::Relu, Activation::HardSwish] {
                let stride = outputs + extra;
                let mut out = vec![f32::NAN; batch * oh * ow * stride];
                job.run(&image, &packed, Some(&bias), activation, &mut out, stride).unwrap();
                for (pixel, out) in out.chunks_exact(stride).enumerate() {
                    let (b, y, x) = (pixel / ow / oh, pixel / ow % oh, pixel % ow);
                    for (o, got) in out[..outputs].iter().enumerate() {
                        let sum = case.reference(b, y, x, o);
                        let want = match activation {
                            Activation::Relu => sum.max(0.0),
                            Activation::HardSwish => sum * (sum / 6.0 + 0.5).clamp(0.0, 1.0),
                            _ => sum,
                        };
                        prop_assert!((f64::from(*got) - want).abs() < 3e-5, "{got}, want {want} at {level}, {dims:?}");
                    }
                    prop_assert!(out[outputs..].iter().all(|x| x.is_nan()), "wrote between pixels");
                }
            }
        }
    }
}

#[test]
fn grains_cover_a_large_output_in_any_order() {
    let (h, w) = (112, 112);
    for dims in [GroupDims::depthwise(96), GroupDims { groups: 24, channels: 4, out: 4 }, GroupDims { groups: 6, channels: 16, out: 12 }] {
        let (channels, outputs) = (dims.groups * dims.channels, dims.groups * dims.out);
        let data = noise(h * w * channels, 1);
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
            let Some(job) = Grouped::new(level, 1, [h, w], dims, 9) else { continue };
            assert!(job.grains() > 1);
            let mut weights = vec![0.0; job.packed_len().unwrap()];
            job.pack(&noise(9 * dims.channels * outputs, 2), &mut weights).unwrap();
            let (mut whole, mut parts) = (vec![f32::NAN; h * w * outputs], vec![f32::NAN; h * w * outputs]);
            job.run(&image, &weights, None, Activation::None, &mut whole, outputs).unwrap();
            let tiles = job.tiles(&mut parts, outputs).unwrap();
            for grain in (0..job.grains()).rev() {
                job.run_grain(grain, &image, &weights, None, Activation::None, &tiles).unwrap();
            }
            assert_eq!(job.run_grain(0, &image, &weights, None, Activation::None, &tiles), Err(GemmError::Grain(0)));
            assert_eq!(whole, parts);
            assert!(job.run(&image, &weights[1..], None, Activation::None, &mut whole, outputs).is_err());
        }
    }
}

#[test]
fn a_groups_neighbours_stay_out_of_its_sums() {
    // One group of infinities: the others' results do not see them.
    let dims = GroupDims { groups: 8, channels: 2, out: 2 };
    let mut data = noise(16, 1);
    data[6..8].fill(f32::INFINITY);
    let image = Window {
        data: &data,
        batch: 1,
        size: [1, 1],
        channels: 16,
        pixel_stride: 16,
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [0, 0],
        out: [1, 1],
    };
    for level in Level::available() {
        let job = Grouped::new(level, 1, [1, 1], dims, 1).unwrap();
        let mut weights = vec![0.0; job.packed_len().unwrap()];
        job.pack(&noise(32, 2), &mut weights).unwrap();
        let mut out = vec![0.0; 16];
        job.run(&image, &weights, None, Activation::None, &mut out, 16).unwrap();
        assert!(out.iter().enumerate().all(|(o, x)| x.is_finite() != (6..8).contains(&o)), "{out:?} at {level}");
    }
}

#[test]
fn impossible_dims_are_refused() {
    let level = Level::detect();
    let huge = GroupDims { groups: usize::MAX / 2, channels: 4, out: 4 };
    assert_eq!(Grouped::new(level, 1, [1, 1], huge, 1), None);
    assert_eq!(Grouped::new(level, usize::MAX, [2, 1], GroupDims::depthwise(8), 9), None);
    assert_eq!(Grouped::new(level, 1, [1, 1], GroupDims { groups: 2, channels: 0, out: 4 }, 9), None);
    let job = Grouped::new(level, 1, [1, 1], GroupDims::depthwise(8), usize::MAX).unwrap();
    assert_eq!(job.packed_len(), Err(GemmError::Overflow));
}
