//! Normalisations and softmaxes of transformers and image models.
//!
//! `cargo bench -p millstream-benches --bench normalisation`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::kernel::graph::Attribute;
use millstream_benches::{Work, measure, noise, tensor};

fn layer_norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("layer_normalization");
    for (name, rows, columns) in [("minilm_128", 128, 384), ("bert_base_128", 128, 768), ("vit_b16_197", 197, 768), ("ppocr_rec_40", 40, 120)] {
        measure(&mut group, name, Work::Bytes, |s| {
            let x = s.input(noise(&[1, rows, columns]));
            let (scale, bias) = (s.constant(noise(&[columns])), s.constant(noise(&[columns])));
            s.op("LayerNormalization", &[x, scale, bias], &[("axis", Attribute::Int(-1))])
        });
    }
    group.finish();
}

fn softmaxes(c: &mut Criterion) {
    let mut group = c.benchmark_group("softmax");
    let cases: [(&str, &[usize], i64); 4] = [
        ("bert_base_scores_128", &[1, 12, 128, 128], -1),
        ("vit_b16_scores_197", &[1, 12, 197, 197], -1),
        ("ppocr_rec_labels", &[1, 40, 6625], -1),
        ("across_rows", &[1, 128, 768], 1),
    ];
    for (name, dims, axis) in cases {
        measure(&mut group, name, Work::Bytes, |s| {
            let x = s.input(noise(dims));
            s.op("Softmax", &[x], &[("axis", Attribute::Int(axis))])
        });
    }
    group.finish();
}

fn image_norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("image_normalization");
    let dims: &[usize] = &[1, 64, 112, 112];
    let statistics = || tensor(&[64], |i| 0.5 + i as f32 / 64.0);
    measure(&mut group, "batch_64x112x112", Work::Bytes, |s| {
        let x = s.input(noise(dims));
        let four = [(); 4].map(|()| s.constant(statistics()));
        s.op("BatchNormalization", &[x, four[0], four[1], four[2], four[3]], &[])
    });
    measure(&mut group, "instance_64x112x112", Work::Bytes, |s| {
        let x = s.input(noise(dims));
        let (scale, bias) = (s.constant(statistics()), s.constant(statistics()));
        s.op("InstanceNormalization", &[x, scale, bias], &[])
    });
    measure(&mut group, "group_64x112x112", Work::Bytes, |s| {
        let x = s.input(noise(dims));
        let (scale, bias) = (s.constant(statistics()), s.constant(statistics()));
        s.op("GroupNormalization", &[x, scale, bias], &[("num_groups", Attribute::Int(32))])
    });
    group.finish();
}

criterion_group!(benches, layer_norms, softmaxes, image_norms);
criterion_main!(benches);
