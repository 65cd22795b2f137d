//! millstream's operators on Candle's tensors beside Candle's own on the CPU.
//!
//! `RUSTFLAGS="-C target-cpu=native" cargo bench -p millstream-benches --bench candle_ops`: without the flag Candle's quantised
//! products have no vector instructions at all, since it chooses them when it is compiled.
#![allow(missing_docs)]

use candle_core::{
    D, DType, Device, Module, Result, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime};
use millstream::candle::ops::{
    Activation, Attention, Bits, Conv2d, Epilogue, GeluKind, PackedConv2d, PackedLinear, QuantisedLinear, RotaryEmbedding, activate, conv2d, layer_norm,
    rms_norm, softmax,
};
use millstream_tests::bert::{Bert, Kernels, Sizes, noise};
use std::time::Duration;

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(15).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(700));
    group
}

/// The two sides of a case, one after the other.
fn both(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, candle: impl Fn() -> Result<Tensor>, ours: impl Fn() -> Result<Tensor>) {
    let (wanted, found) = (candle().expect("Candle runs it"), ours().expect("millstream runs it"));
    assert_eq!(wanted.dims(), found.dims(), "{case}");
    group.bench_function(BenchmarkId::new("candle", case), |b| b.iter(&candle));
    group.bench_function(BenchmarkId::new("millstream", case), |b| b.iter(&ours));
}

fn made(dims: &[usize], seed: u64) -> Tensor {
    noise(dims, seed).expect("dims fit")
}

fn convolutions(c: &mut Criterion) {
    let mut group = group(c, "candle_convolution");
    // Image, outputs, window, stride, groups.
    let cases = [
        ("depthwise_96x56", [96, 56], 96, 3, 1, 96),
        ("depthwise_576x14", [576, 14], 576, 3, 1, 576),
        ("groups_32_of_4_56", [128, 56], 128, 3, 1, 32),
        ("dense_64x56", [64, 56], 64, 3, 1, 1),
        ("stem_3x224", [3, 224], 32, 3, 2, 1),
        ("pointwise_64x56", [64, 56], 128, 1, 1, 1),
    ];
    for (name, [channels, side], outputs, window, stride, groups) in cases {
        let (x, w, b) = (made(&[1, channels, side, side], 1), made(&[outputs, channels / groups, window, window], 2), made(&[outputs], 3));
        let conv = Conv2d { padding: window / 2, stride, dilation: 1, groups, activation: Epilogue::None };
        let packed = PackedConv2d::new(&w, Some(&b), conv).expect("it packs");
        let theirs = || x.conv2d(&w, conv.padding, stride, 1, groups)?.broadcast_add(&b.reshape((1, (), 1, 1))?);
        both(&mut group, name, theirs, || Ok(packed.run(&x)?));
        group.bench_function(BenchmarkId::new("millstream_unpacked", name), |bench| bench.iter(|| conv2d(&x, &w, Some(&b), conv)));
    }
    group.finish();
}

fn attentions(c: &mut Criterion) {
    let mut group = group(c, "candle_attention");
    for (name, [batch, heads, queries, keys, depth]) in [
        ("minilm_12x128x32", [1, 12, 128, 128, 32]),
        ("bert_12x128x64", [1, 12, 128, 128, 64]),
        ("bert_12x512x64", [1, 12, 512, 512, 64]),
        ("batch_8x12x64x32", [8, 12, 64, 64, 32]),
        ("step_32x1x1024x64", [1, 32, 1, 1024, 64]),
    ] {
        let make = |n, seed| made(&[batch, heads, n, depth], seed);
        let (q, k, v) = (make(queries, 1), make(keys, 2), make(keys, 3));
        let scale = 1.0 / (depth as f64).sqrt();
        let theirs = || candle_nn::ops::softmax_last_dim(&(q.matmul(&k.t()?)? * scale)?)?.matmul(&v);
        both(&mut group, name, theirs, || Ok(Attention::default().run(&q, &k, &v, None)?));
        // candle-nn's flash attention wants [batch, rows, heads, depth].
        let turned = |t: &Tensor| t.transpose(1, 2).and_then(|t| t.contiguous()).expect("four axes");
        let (q, k, v) = (turned(&q), turned(&k), turned(&v));
        group.bench_function(BenchmarkId::new("candle_flash", name), |b| {
            b.iter(|| candle_nn::attention::flash_attn::<f32>(&q, &k, &v, scale as f32, candle_nn::attention::AttnMask::None, None, None));
        });
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut group = group(c, "candle_rows");
    for (name, rows, n) in [("128x384", 128, 384), ("128x768", 128, 768), ("1024x1024", 1024, 1024)] {
        let (x, w, b) = (made(&[1, rows, n], 1), made(&[n], 2), made(&[n], 3));
        both(&mut group, &format!("layer_norm_{name}"), || candle_nn::ops::layer_norm(&x, &w, &b, 1e-5), || Ok(layer_norm(&x, &w, Some(&b), 1e-5)?));
        both(&mut group, &format!("rms_norm_{name}"), || candle_nn::ops::rms_norm(&x, &w, 1e-6), || Ok(rms_norm(&x, &w, 1e-6)?));
        both(&mut group, &format!("softmax_{name}"), || candle_nn::ops::softmax_last_dim(&x), || Ok(softmax(&x, -1)?));
    }
    let scores = made(&[1, 12, 128, 128], 1);
    both(&mut group, "softmax_12x128x128", || candle_nn::ops::softmax(&scores, D::Minus1), || Ok(softmax(&scores, -1)?));
    group.finish();
}

fn activations(c: &mut Criterion) {
    let mut group = group(c, "candle_activation");
    for (name, dims) in [("128x1536", [128, 1536]), ("1024x4096", [1024, 4096])] {
        let x = made(&dims, 1);
        both(&mut group, &format!("gelu_erf_{name}"), || x.gelu_erf(), || Ok(activate(&x, Activation::Gelu(GeluKind::Erf))?));
        both(&mut group, &format!("gelu_tanh_{name}"), || x.gelu(), || Ok(activate(&x, Activation::Gelu(GeluKind::Tanh))?));
        both(&mut group, &format!("silu_{name}"), || x.silu(), || Ok(activate(&x, Activation::Silu)?));
    }
    group.finish();
}

fn linears(c: &mut Criterion) {
    let mut group = group(c, "candle_linear");
    for (m, k, n) in [(1, 1024, 4096), (16, 768, 3072), (128, 384, 1536), (128, 768, 3072)] {
        let (x, w, b) = (made(&[m, k], 1), made(&[n, k], 2), made(&[n], 3));
        let theirs = candle_nn::Linear::new(w.clone(), Some(b.clone()));
        let ours = PackedLinear::new(&w, Some(&b), Epilogue::None).expect("it packs");
        both(&mut group, &format!("f32_{m}x{k}x{n}"), || theirs.forward(&x), || Ok(ours.run(&x)?));
        for (name, bits, ggml) in [("int8", Bits::Eight, GgmlDType::Q8_0), ("int4", Bits::Four, GgmlDType::Q4_0)] {
            let theirs = QMatMul::from_qtensor(QTensor::quantize(&w, ggml).expect("it quantises")).expect("a product");
            let ours = QuantisedLinear::quantise(&w, None, bits, Epilogue::None).expect("it packs");
            both(&mut group, &format!("{name}_{m}x{k}x{n}"), || theirs.forward(&x), || Ok(ours.run(&x)?));
        }
    }
    group.finish();
}

fn rotaries(c: &mut Criterion) {
    let mut group = group(c, "candle_rotary");
    for (name, [heads, rows, depth]) in [("32x1x64", [32, 1, 64]), ("12x128x64", [12, 128, 64]), ("32x512x128", [32, 512, 128])] {
        let (x, cos, sin) = (made(&[1, heads, rows, depth], 1), made(&[rows, depth / 2], 2), made(&[rows, depth / 2], 3));
        for (kind, interleaved) in [("halves", false), ("neighbours", true)] {
            let theirs = || if interleaved { candle_nn::rotary_emb::rope_i(&x, &cos, &sin) } else { candle_nn::rotary_emb::rope(&x, &cos, &sin) };
            both(&mut group, &format!("{kind}_{name}"), theirs, || Ok(RotaryEmbedding { interleaved }.run(&x, &cos, &sin)?));
        }
    }
    group.finish();
}

fn berts(c: &mut Criterion) {
    let mut group = group(c, "candle_bert");
    let load = |kernels| Bert::random(&Sizes::MINILM, kernels).expect("it loads");
    let (theirs, ours) = (load(Kernels::Candle), load(Kernels::Millstream));
    for (name, batch, rows) in [("minilm_1x128", 1, 128), ("minilm_8x64", 8, 64), ("minilm_1x16", 1, 16)] {
        let ids: Vec<u32> = (0..batch * rows).map(|i| (i * 7 % 1000) as u32).collect();
        let ids = Tensor::from_vec(ids, (batch, rows), &Device::Cpu).expect("dims fit");
        let kinds = ids.zeros_like().expect("zeros");
        let mask = Tensor::ones((batch, rows), DType::F32, &Device::Cpu).expect("ones");
        both(&mut group, name, || theirs.forward(&ids, &kinds, &mask), || ours.forward(&ids, &kinds, &mask));
    }
    group.finish();
}

criterion_group!(benches, convolutions, attentions, rows, activations, linears, rotaries, berts);
criterion_main!(benches);
