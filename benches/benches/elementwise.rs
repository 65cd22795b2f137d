//! Activations and arithmetic on the activations of real models: some fit in a core's cache, some do not.
//!
//! `cargo bench -p millstream-benches --bench elementwise`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::kernel::graph::Attribute;
use millstream_benches::{Work, measure, noise, scalar, tensor};

/// BERT-base's inner layer, and an early image of PP-OCRv4's detector.
const SIZES: [(&str, &[usize]); 2] = [("1x128x3072", &[1, 128, 3072]), ("1x48x160x160", &[1, 48, 160, 160])];

fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation");
    for (size, dims) in SIZES {
        for op in ["Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "Exp", "Sqrt", "Softplus"] {
            measure(&mut group, &format!("{op}/{size}"), Work::Bytes, |s| {
                let x = s.input(noise(dims));
                s.op(op, &[x], &[])
            });
        }
        measure(&mut group, &format!("Gelu_tanh/{size}"), Work::Bytes, |s| {
            let x = s.input(noise(dims));
            s.op("Gelu", &[x], &[("approximate", Attribute::String("tanh".into()))])
        });
        measure(&mut group, &format!("Clip/{size}"), Work::Bytes, |s| {
            let inputs = [s.input(noise(dims)), s.constant(scalar(0.0_f32)), s.constant(scalar(6.0_f32))];
            s.op("Clip", &inputs, &[])
        });
    }
    group.finish();
}

/// The right operand's dims in relation to the left one's.
fn arithmetic(c: &mut Criterion) {
    let mut group = c.benchmark_group("arithmetic");
    let cases: [(&str, &str, &[usize], &[usize]); 7] = [
        ("residual", "Add", &[1, 256, 56, 56], &[1, 256, 56, 56]),
        ("bias_of_columns", "Add", &[1, 128, 3072], &[3072]),
        ("scale_of_channels", "Mul", &[1, 96, 160, 160], &[1, 96, 1, 1]),
        ("scalar", "Mul", &[1, 128, 3072], &[]),
        ("quotient", "Div", &[1, 12, 128, 128], &[1, 12, 128, 1]),
        ("square", "Pow", &[1, 128, 768], &[]),
        ("greatest", "Max", &[1, 128, 3072], &[1, 128, 3072]),
    ];
    for (name, op, left, right) in cases {
        measure(&mut group, &format!("{op}_{name}"), Work::Bytes, |s| {
            // Twos: a power that is no power at all, and a quotient without zeroes.
            let inputs = [s.input(noise(left)), s.input(tensor(right, |_| 2.0_f32))];
            s.op(op, &inputs, &[])
        });
    }
    measure(&mut group, "Where_mask", Work::Bytes, |s| {
        let zero = s.constant(scalar(0.0_f32));
        let (x, least) = (s.input(noise(&[1, 12, 128, 128])), s.constant(scalar(f32::MIN)));
        let visible = s.op("Greater", &[x, zero], &[]);
        s.op("Where", &[visible, x, least], &[])
    });
    measure(&mut group, "Cast_to_f16", Work::Bytes, |s| {
        let x = s.input(noise(&[1, 128, 3072]));
        s.op("Cast", &[x], &[("to", Attribute::Int(10))])
    });
    group.finish();
}

criterion_group!(benches, activations, arithmetic);
criterion_main!(benches);
