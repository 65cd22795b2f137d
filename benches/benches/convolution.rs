//! Convolutions of ResNet-50, ResNeXt-50, MobileNetV2 and PP-OCRv4 with their activations: stems, pointwise ones, windows of 3 × 3 (which
//! Winograd's algorithm takes where it pays), depthwise and grouped ones, and transposed ones. Images lie channels-last, but for the stems'.
//!
//! `cargo bench -p millstream-benches --bench convolution`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::kernel::graph::Attribute;
use millstream_benches::{Work, ints, measure, noise, scalar};

struct Case {
    name: &'static str,
    /// Channels, height and width of the image.
    image: [usize; 3],
    /// Channels that come out.
    out: usize,
    window: i64,
    stride: i64,
    group: usize,
    activation: &'static str,
}

const fn case(name: &'static str, image: [usize; 3], out: usize, window: i64, stride: i64, group: usize, activation: &'static str) -> Case {
    Case { name, image, out, window, stride, group, activation }
}

const CASES: &[Case] = &[
    case("resnet50_stem_7x7", [3, 224, 224], 64, 7, 2, 1, "Relu"),
    case("resnet50_3x3_56", [64, 56, 56], 64, 3, 1, 1, "Relu"),
    case("resnet50_3x3_28", [128, 28, 28], 128, 3, 1, 1, "Relu"),
    case("resnet50_3x3_14", [256, 14, 14], 256, 3, 1, 1, "Relu"),
    case("resnet50_3x3_7", [512, 7, 7], 512, 3, 1, 1, "Relu"),
    case("resnet50_3x3_stride_2", [128, 56, 56], 128, 3, 2, 1, "Relu"),
    case("resnet50_1x1_56", [256, 56, 56], 64, 1, 1, 1, "Relu"),
    case("resnet50_1x1_7", [512, 7, 7], 2048, 1, 1, 1, ""),
    case("resnet50_1x1_stride_2", [1024, 14, 14], 2048, 1, 2, 1, ""),
    case("mobilenet_v2_stem_3x3", [3, 224, 224], 32, 3, 2, 1, "Clip"),
    case("mobilenet_v2_1x1_112", [16, 112, 112], 96, 1, 1, 1, "Clip"),
    case("mobilenet_v2_1x1_7", [320, 7, 7], 1280, 1, 1, 1, "Clip"),
    case("mobilenet_v2_depthwise_112", [32, 112, 112], 32, 3, 1, 32, "Clip"),
    case("mobilenet_v2_depthwise_stride_2", [96, 112, 112], 96, 3, 2, 96, "Clip"),
    case("mobilenet_v2_depthwise_7", [960, 7, 7], 960, 3, 1, 960, "Clip"),
    case("resnext50_groups_of_4_56", [128, 56, 56], 128, 3, 1, 32, "Relu"),
    case("resnext50_groups_of_8_28", [256, 28, 28], 256, 3, 1, 32, "Relu"),
    case("ppocr_det_stem_3x3", [3, 640, 640], 16, 3, 2, 1, ""),
    case("ppocr_det_depthwise_5x5", [192, 40, 40], 192, 5, 1, 192, ""),
    case("ppocr_det_1x1_40", [192, 40, 40], 192, 1, 1, 1, "HardSwish"),
    case("ppocr_det_3x3_160", [96, 160, 160], 24, 3, 1, 1, ""),
];

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("convolution");
    group.sample_size(20);
    for Case { name, image: [channels, h, w], out, window, stride, group: groups, activation } in CASES {
        measure(&mut group, name, Work::Operations, |s| {
            let x = if *channels == 3 {
                s.input(noise(&[1, 3, *h, *w]))
            } else {
                let x = s.input(noise(&[1, *h, *w, *channels]));
                s.op("Transpose", &[x], &[("perm", ints(&[0, 3, 1, 2]))])
            };
            let weights = s.constant(noise(&[*out, channels / groups, *window as usize, *window as usize]));
            let bias = s.constant(noise(&[*out]));
            let attributes = [("strides", ints(&[*stride; 2])), ("pads", ints(&[window / 2; 4])), ("group", Attribute::Int(*groups as i64))];
            let mut y = s.op("Conv", &[x, weights, bias], &attributes);
            if *activation == "Clip" {
                let limits = [s.constant(scalar(0.0_f32)), s.constant(scalar(6.0_f32))];
                y = s.op("Clip", &[y, limits[0], limits[1]], &[]);
            } else if !activation.is_empty() {
                y = s.op(activation, &[y], &[]);
            }
            s.op("Transpose", &[y], &[("perm", ints(&[0, 2, 3, 1]))])
        });
    }
    for (name, channels, out, size) in [("ppocr_det_transposed_160", 24, 24, 160), ("ppocr_det_transposed_320", 24, 1, 320)] {
        measure(&mut group, name, Work::Operations, |s| {
            let x = s.input(noise(&[1, size, size, channels]));
            let x = s.op("Transpose", &[x], &[("perm", ints(&[0, 3, 1, 2]))]);
            let weights = s.constant(noise(&[channels, out, 2, 2]));
            s.op("ConvTranspose", &[x, weights], &[("strides", ints(&[2, 2]))])
        });
    }
    group.finish();
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
