//! Attention between its projections, as exporters write it: heads split by Transpose, a product, a scale, perhaps a mask, a softmax,
//! a product, heads joined. One fused step computes it. And the operator Attention, as decoders have it: one new query against a cache
//! of keys and values that heads share, whose bytes are what counts, and many queries that see the keys before them.
//!
//! `cargo bench -p millstream-benches --bench attention`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::kernel::graph::Attribute;
use millstream_benches::{Work, ints, measure, noise, scalar, tensor};

/// Name, batch, length, heads, depth of a head, whether there is a mask.
const CASES: [(&str, usize, usize, usize, usize, bool); 6] = [
    ("minilm_128", 1, 128, 12, 32, true),
    ("minilm_8x128", 8, 128, 12, 32, true),
    ("bert_base_128", 1, 128, 12, 64, true),
    ("bert_base_512", 1, 512, 12, 64, true),
    ("vit_b16_197", 1, 197, 12, 64, false),
    ("ppocr_rec_40", 1, 40, 8, 15, false),
];

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(20);
    for (name, batch, length, heads, depth, masked) in CASES {
        measure(&mut group, name, Work::Operations, |s| {
            let rows = noise(&[batch, length, heads, depth]);
            let [q, k, v] = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]].map(|perm| {
                let x = s.input(rows.clone());
                s.op("Transpose", &[x], &[("perm", ints(&perm))])
            });
            let scores = s.op("MatMul", &[q, k], &[]);
            let root = s.constant(scalar((depth as f32).sqrt()));
            let mut scores = s.op("Div", &[scores, root], &[]);
            if masked {
                let mask = s.input(tensor(&[batch, 1, 1, length], |i| if i % length < length - 8 { 0.0 } else { -10_000.0_f32 }));
                scores = s.op("Add", &[scores, mask], &[]);
            }
            let weights = s.op("Softmax", &[scores], &[]);
            let joined = s.op("MatMul", &[weights, v], &[]);
            s.op("Transpose", &[joined], &[("perm", ints(&[0, 2, 1, 3]))])
        });
    }
    group.finish();
}

/// Name, heads, heads of keys and values, queries, keys, depth.
const DECODERS: [(&str, usize, usize, usize, usize, usize); 3] =
    [("step_12x1024x64", 12, 12, 1, 1024, 64), ("step_32over8x2048x128", 32, 8, 1, 2048, 128), ("prompt_32over8x512x64", 32, 8, 512, 512, 64)];

fn decoders(c: &mut Criterion) {
    let mut group = c.benchmark_group("decoder");
    group.sample_size(20);
    for (name, heads, shared, queries, keys, depth) in DECODERS {
        let work = if queries == 1 { Work::Bytes } else { Work::Operations };
        measure(&mut group, name, work, |s| {
            let [q, k, v] = [[1, heads, queries, depth], [1, shared, keys, depth], [1, shared, keys, depth]].map(|dims| s.input(noise(&dims)));
            s.op("Attention", &[q, k, v], &[("is_causal", Attribute::Int(i64::from(queries > 1)))])
        });
    }
    group.finish();
}

criterion_group!(benches, attention, decoders);
criterion_main!(benches);
