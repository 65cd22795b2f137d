//! Products and convolutions of 8-bit integers, as dynamic (MiniLM) and static quantisation (ResNet-50) write them, and the
//! conversions around them.
//!
//! `cargo bench -p millstream-benches --bench quantised`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::{Tensor, kernel::graph::Attribute};
use millstream_benches::{Work, ints, measure, noise, scalar, tensor};

fn activations(dims: &[usize]) -> Tensor {
    tensor(dims, |i| (i * 37 % 251) as u8)
}

fn weights(dims: &[usize]) -> Tensor {
    tensor(dims, |i| (i * 41 % 253) as u8 as i8)
}

/// M × K × N.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantised_product");
    let cases = [
        ("minilm_128x384x384", 128, 384, 384),
        ("minilm_128x384x1536", 128, 384, 1536),
        ("bert_base_128x768x3072", 128, 768, 3072),
        ("one_row_2048x1000", 1, 2048, 1000),
    ];
    for (name, m, k, n) in cases {
        measure(&mut group, &format!("MatMulInteger/{name}"), Work::Operations, |s| {
            let (a, b) = (s.input(activations(&[m, k])), s.constant(weights(&[k, n])));
            let (a_zero, b_zero) = (s.input(scalar(128_u8)), s.constant(scalar(0_i8)));
            s.op("MatMulInteger", &[a, b, a_zero, b_zero], &[])
        });
        measure(&mut group, &format!("QLinearMatMul/{name}"), Work::Operations, |s| {
            let a = [s.input(activations(&[m, k])), s.constant(scalar(0.02_f32)), s.constant(scalar(128_u8))];
            let b = [s.constant(weights(&[k, n])), s.constant(scalar(0.01_f32)), s.constant(scalar(0_i8))];
            let y = [s.constant(scalar(0.5_f32)), s.constant(scalar(120_u8))];
            s.op("QLinearMatMul", &[&a[..], &b, &y].concat(), &[])
        });
    }
    group.finish();
}

/// Channels, size of the image, channels that come out, window.
fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantised_convolution");
    group.sample_size(20);
    let cases =
        [("resnet50_1x1_56", 256, 56, 64, 1), ("resnet50_3x3_56", 64, 56, 64, 3), ("resnet50_3x3_14", 256, 14, 256, 3), ("resnet50_1x1_7", 512, 7, 2048, 1)];
    for (name, channels, size, out, window) in cases {
        measure(&mut group, name, Work::Operations, |s| {
            let x = s.input(activations(&[1, size, size, channels]));
            let x = s.op("Transpose", &[x], &[("perm", ints(&[0, 3, 1, 2]))]);
            let x = [x, s.constant(scalar(0.02_f32)), s.constant(scalar(128_u8))];
            let scales = tensor(&[out], |i| 0.01 + i as f32 * 1e-5);
            let w = [s.constant(weights(&[out, channels, window, window])), s.constant(scales), s.constant(tensor(&[out], |_| 0_i8))];
            let y = [s.constant(scalar(0.5_f32)), s.constant(scalar(120_u8)), s.constant(tensor(&[out], |i| i as i32))];
            let y = s.op("QLinearConv", &[&x[..], &w, &y].concat(), &[("pads", ints(&[window as i64 / 2; 4]))]);
            s.op("Transpose", &[y], &[("perm", ints(&[0, 2, 3, 1]))])
        });
    }
    group.finish();
}

fn conversions(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantised_conversion");
    let (rows, image): (&[usize], &[usize]) = (&[1, 128, 1536], &[1, 256, 56, 56]);
    measure(&mut group, "DynamicQuantizeLinear/1x128x1536", Work::Bytes, |s| {
        let x = s.input(noise(rows));
        s.op("DynamicQuantizeLinear", &[x], &[])
    });
    measure(&mut group, "QuantizeLinear/1x256x56x56", Work::Bytes, |s| {
        let x = [s.input(noise(image)), s.constant(scalar(0.01_f32)), s.constant(scalar(128_u8))];
        s.op("QuantizeLinear", &x, &[])
    });
    measure(&mut group, "DequantizeLinear/1x256x56x56", Work::Bytes, |s| {
        let x = [s.input(activations(image)), s.constant(scalar(0.01_f32)), s.constant(scalar(128_u8))];
        s.op("DequantizeLinear", &x, &[("axis", Attribute::Int(1))])
    });
    group.finish();
}

criterion_group!(benches, products, convolutions, conversions);
criterion_main!(benches);
