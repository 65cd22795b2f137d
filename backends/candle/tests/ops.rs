//! Our operators on Candle's tensors against compositions of Candle's basic operations in f64: random shapes, dense and strided
//! layouts, functions and custom operators alike.

use candle_core::{CustomOp1, CustomOp2, CustomOp3, D, DType, Device, Result, Tensor};
use millstream_candle::ops::{
    Activation, Attention, AttentionMask, Bits, Conv2d, Epilogue, GeluKind, LayerNorm, OpError, PackedConv2d, PackedLinear, QuantisedLinear, RmsNorm,
    RotaryEmbedding, Softmax, activate, conv2d, layer_norm, rms_norm, softmax,
};
use proptest::prelude::*;

/// Deterministic elements in (-1, 1).
fn random(dims: &[usize], seed: u64) -> Tensor {
    let n: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..n).map(|_| next()).collect::<Vec<f32>>(), dims, &Device::Cpu).expect("dims fit")
}

/// The same elements, lying transposed in memory.
fn strided(t: &Tensor) -> Tensor {
    let (a, b) = (t.rank() - 2, t.rank() - 1);
    t.transpose(a, b).and_then(|t| t.contiguous()).and_then(|t| t.transpose(a, b)).expect("two axes")
}

fn wide(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).expect("floats")
}

/// Within `tolerance` of the greatest magnitude (at least of 1).
fn close(found: &Tensor, wanted: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    let list = |t: &Tensor| wide(t).flatten_all().and_then(|t| t.to_vec1::<f64>()).expect("elements");
    let (found, wanted) = (list(found), list(wanted));
    let greatest = wanted.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
        assert!((x - y).abs() <= tolerance * greatest, "{what}: element {i} is {x}, expected {y}");
    }
}

/// f32 sums of some hundred terms.
const F32: f64 = 3e-6;

fn normed(x: &Tensor, w: &Tensor, b: Option<&Tensor>, epsilon: f64, centred: bool) -> Result<Tensor> {
    let x = wide(x);
    let x = if centred { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x };
    let y = x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?)?.broadcast_mul(&wide(w))?;
    b.map_or(Ok(y.clone()), |b| y.broadcast_add(&wide(b)))
}

fn soft(x: &Tensor, axis: usize) -> Result<Tensor> {
    let e = wide(x).broadcast_sub(&wide(x).max_keepdim(axis)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(axis)?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn norms_are_their_compositions(rows in 1usize..40, n in 1usize..300, turned in any::<bool>(), seed in 0u64..1000) {
        let (x, w, b) = (random(&[2, rows, n], seed), random(&[n], seed + 1), random(&[n], seed + 2));
        let x = if turned { strided(&x) } else { x };
        let wanted = normed(&x, &w, Some(&b), 1e-5, true)?;
        close(&layer_norm(&x, &w, Some(&b), 1e-5)?, &wanted, F32 * 10.0, "layer_norm");
        close(&x.apply_op3_no_bwd(&w, &b, &LayerNorm { epsilon: 1e-5 })?, &wanted, F32 * 10.0, "LayerNorm");
        let unbiased = normed(&x, &w, None, 1e-5, true)?;
        close(&x.apply_op2_no_bwd(&w, &LayerNorm { epsilon: 1e-5 })?, &unbiased, F32 * 10.0, "LayerNorm without bias");
        let wanted = normed(&x, &w, None, 1e-6, false)?;
        close(&rms_norm(&x, &w, 1e-6)?, &wanted, F32, "rms_norm");
        close(&x.apply_op2_no_bwd(&w, &RmsNorm { epsilon: 1e-6 })?, &wanted, F32, "RmsNorm");
    }

    #[test]
    fn softmaxes_are_their_compositions(a in 1usize..9, b in 1usize..200, c in 1usize..70, axis in 0usize..3, turned in any::<bool>(), seed in 0u64..1000) {
        let x = (random(&[a, b, c], seed) * 20.0)?;
        let x = if turned { strided(&x) } else { x };
        let wanted = soft(&x, axis)?;
        close(&softmax(&x, axis as i64)?, &wanted, F32, "softmax");
        close(&x.apply_op1_no_bwd(&Softmax { axis: axis as i64 - 3 })?, &wanted, F32, "Softmax");
    }

    #[test]
    fn activations_are_their_definitions(n in 1usize..3000, seed in 0u64..1000) {
        let x = (random(&[n, 2], seed) * 8.0)?;
        let x64 = wide(&x);
        let sigmoid = |x: &Tensor| -> Result<Tensor> { (x.neg()?.exp()? + 1.0)?.recip() };
        let clamped = ((&x64 / 6.0)? + 0.5)?.clamp(0.0, 1.0)?;
        let cases = [
            (Activation::Gelu(GeluKind::Erf), x64.gelu_erf()?),
            (Activation::Gelu(GeluKind::Tanh), x64.gelu()?),
            (Activation::Gelu(GeluKind::Quick), (&x64 * sigmoid(&(&x64 * 1.702)?)?)?),
            (Activation::Silu, (&x64 * sigmoid(&x64)?)?),
            (Activation::HardSwish, (&x64 * &clamped)?),
            (Activation::HardSigmoid, clamped.clone()),
            (Activation::Mish, (&x64 * (x64.exp()? + 1.0)?.log()?.tanh()?)?),
            (Activation::Relu, x64.relu()?),
            (Activation::LeakyRelu { slope: 0.125 }, x64.maximum(&(&x64 * 0.125)?)?),
            (Activation::Elu { alpha: 1.0 }, x64.elu(1.0)?),
            (Activation::Sigmoid, sigmoid(&x64)?),
            (Activation::Tanh, x64.tanh()?),
        ];
        for (activation, wanted) in cases {
            close(&activate(&x, activation)?, &wanted, F32, &format!("{activation:?}"));
            close(&strided(&x).apply_op1_no_bwd(&activation)?, &wanted, F32, &format!("{activation:?} strided"));
        }
    }

    #[test]
    fn attention_is_its_composition(
        (batch, kv, group) in (1usize..3, 1usize..4, 1usize..4), (l, s, d) in (1usize..40, 1usize..70, 1usize..40), (causal, masked, turned) in any::<(bool, bool, bool)>(),
        seed in 0u64..1000,
    ) {
        let s = if causal { s.max(l) } else { s };
        let heads = kv * group;
        let make = |h: usize, n: usize, seed| {
            if turned { random(&[batch, n, h, d], seed).transpose(1, 2).expect("four axes") } else { random(&[batch, h, n, d], seed) }
        };
        let (q, k, v) = (make(heads, l, seed), make(kv, s, seed + 1), make(kv, s, seed + 2));
        let added = random(&[batch, 1, l, s], seed + 3);
        let shared = |t: &Tensor| -> Result<Tensor> {
            Tensor::stack(&vec![wide(t); group], 2)?.reshape((batch, heads, s, d))
        };
        let mut scores = (wide(&q).contiguous()?.matmul(&shared(&k)?.t()?.contiguous()?)? / (d as f64).sqrt())?;
        if masked {
            scores = scores.broadcast_add(&wide(&added))?;
        }
        if causal {
            let hidden: Vec<f64> = (0..l * s).map(|i| if i % s > i / s { -1e30 } else { 0.0 }).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (l, s), &Device::Cpu)?)?;
        }
        let wanted = soft(&scores, 3)?.matmul(&shared(&v)?)?;
        let attention = Attention { causal, ..Attention::default() };
        let mask = masked.then_some(AttentionMask::Added(&added));
        close(&attention.run(&q, &k, &v, mask)?, &wanted, F32 * 4.0, "attention");
        if !masked {
            close(&q.apply_op3_no_bwd(&k, &v, &attention)?, &wanted, F32 * 4.0, "Attention as a custom operator");
        }
    }

    #[test]
    fn a_cache_continues_an_attention(kv in 1usize..3, group in 1usize..3, past in 1usize..30, l in 1usize..6, d in 1usize..20, seed in 0u64..1000) {
        let all = past + l;
        let (q, k, v) = (random(&[2, kv * group, all, d], seed), random(&[2, kv, all, d], seed + 1), random(&[2, kv, all, d], seed + 2));
        let attention = Attention { causal: true, ..Attention::default() };
        let whole = attention.run(&q, &k, &v, None)?;
        let part = |t: &Tensor, from: usize, n: usize| t.narrow(2, from, n).expect("rows");
        let (first, k1, v1) = attention.run_cached(&part(&q, 0, past), &part(&k, 0, past), &part(&v, 0, past), None, None)?;
        let (then, k2, v2) = attention.run_cached(&part(&q, past, l), &part(&k, past, l), &part(&v, past, l), Some((&k1, &v1)), None)?;
        close(&Tensor::cat(&[&first, &then], 2)?, &whole, F32 * 4.0, "two steps");
        close(&k2, &k, 0.0, "keys");
        close(&v2, &v, 0.0, "values");
    }

    #[test]
    fn rotary_turns_pairs(batch in 1usize..4, heads in 1usize..5, rows in 1usize..30, pairs in 1usize..40, interleaved in any::<bool>(), rest in 0usize..3, seed in 0u64..1000) {
        let depth = 2 * pairs + rest;
        let x = random(&[batch, heads, rows, depth], seed);
        let angles = (wide(&random(&[rows, pairs], seed + 1)) * 3.0)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let x64 = wide(&x).narrow(3, 0, 2 * pairs)?;
        let (a, b) = if interleaved {
            let split = x64.reshape((batch, heads, rows, pairs, 2))?;
            (split.narrow(4, 0, 1)?.squeeze(4)?, split.narrow(4, 1, 1)?.squeeze(4)?)
        } else {
            (x64.narrow(3, 0, pairs)?, x64.narrow(3, pairs, pairs)?)
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        let turned = if interleaved { Tensor::stack(&[first, second], 4)?.reshape((batch, heads, rows, 2 * pairs))? } else { Tensor::cat(&[first, second], 3)? };
        let wanted = Tensor::cat(&[turned, wide(&x).narrow(3, 2 * pairs, rest)?], 3)?;
        let (cos, sin) = (cos.to_dtype(DType::F32)?, sin.to_dtype(DType::F32)?);
        let rotary = RotaryEmbedding { interleaved };
        close(&rotary.run(&x, &cos, &sin)?, &wanted, F32, "rotary");
        let each = |t: &Tensor| t.broadcast_as((batch, rows, pairs)).and_then(|t| t.contiguous()).expect("a batch of tables");
        close(&rotary.run(&x, &each(&cos), &each(&sin))?, &wanted, F32, "rotary with a table each");
        close(&x.apply_op3_no_bwd(&each(&cos), &each(&sin), &rotary)?, &wanted, F32, "RotaryEmbedding");
    }

    #[test]
    fn convolutions_are_candles(
        (batch, groups, channels, outputs) in (1usize..3, 1usize..6, 1usize..6, 1usize..6), (h, w, kernel) in (3usize..20, 3usize..20, 1usize..4),
        (padding, stride, dilation) in (0usize..3, 1usize..3, 1usize..3), turned in any::<bool>(), seed in 0u64..1000,
    ) {
        let (h, w) = (h.max(dilation * (kernel - 1) + 1), w.max(dilation * (kernel - 1) + 1));
        let x = random(&[batch, groups * channels, h, w], seed);
        let x = if turned { strided(&x) } else { x };
        let (weight, bias) = (random(&[groups * outputs, channels, kernel, kernel], seed + 1), random(&[groups * outputs], seed + 2));
        let wanted = wide(&x).contiguous()?.conv2d(&wide(&weight), padding, stride, dilation, groups)?;
        let unbiased = wanted.clone();
        let wanted = wanted.broadcast_add(&wide(&bias).reshape((1, (), 1, 1))?)?.relu()?;
        let conv = Conv2d { padding, stride, dilation, groups, activation: Epilogue::Relu };
        close(&conv2d(&x, &weight, Some(&bias), conv)?, &wanted, F32 * 4.0, "conv2d");
        close(&PackedConv2d::new(&weight, Some(&bias), conv)?.run(&x)?, &wanted, F32 * 10.0, "PackedConv2d");
        close(&x.apply_op3_no_bwd(&weight, &bias, &conv)?, &wanted, F32 * 4.0, "Conv2d");
        let plain = Conv2d { activation: Epilogue::None, ..conv };
        close(&x.apply_op2_no_bwd(&weight, &plain)?, &unbiased, F32 * 4.0, "Conv2d without bias");
    }

    #[test]
    fn linear_layers_are_products(rows in 1usize..40, k in 1usize..200, n in 1usize..150, turned in any::<bool>(), seed in 0u64..1000) {
        let x = random(&[2, rows, k], seed);
        let x = if turned { strided(&x) } else { x };
        let (w, b, residual) = (random(&[n, k], seed + 1), random(&[n], seed + 2), random(&[2, rows, n], seed + 3));
        let product = wide(&x).broadcast_matmul(&wide(&w).t()?)?.broadcast_add(&wide(&b))?;
        let layer = PackedLinear::new(&w, Some(&b), Epilogue::Relu)?;
        close(&layer.run(&x)?, &product.relu()?, F32 * 4.0, "linear");
        close(&layer.run_add(&x, &residual)?, &(&product + wide(&residual))?.relu()?, F32 * 4.0, "linear with residual");
        close(&x.apply_op1_no_bwd(&layer)?, &product.relu()?, F32 * 4.0, "PackedLinear as a custom operator");
        for bits in [Bits::Eight, Bits::Four] {
            let layer = QuantisedLinear::quantise(&w, Some(&b), bits, Epilogue::None)?;
            let wanted = wide(&x).broadcast_matmul(&wide(&layer.dequantise()?).t()?)?.broadcast_add(&wide(&b))?;
            close(&layer.run(&x)?, &wanted, F32 * 4.0, "quantised linear");
            close(&x.apply_op1_no_bwd(&layer)?, &wanted, F32 * 4.0, "QuantisedLinear as a custom operator");
        }
    }
}

#[test]
fn masks_of_truth_hide_keys() -> Result<()> {
    let (q, k, v) = (random(&[1, 2, 3, 8], 1), random(&[1, 2, 4, 8], 2), random(&[1, 2, 4, 8], 3));
    let seen = Tensor::new(&[[1u8, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]], &Device::Cpu)?;
    let hidden = ((seen.to_dtype(DType::F32)? - 1.0)? * 1e30)?;
    let attention = Attention::default();
    let wanted = attention.run(&q, &k, &v, Some(AttentionMask::Added(&hidden)))?;
    close(&attention.run(&q, &k, &v, Some(AttentionMask::Visible(&seen)))?, &wanted, F32, "a mask of truth");
    let without = attention.run(&q, &k.narrow(2, 0, 3)?, &v.narrow(2, 0, 3)?, Some(AttentionMask::Visible(&seen.narrow(1, 0, 3)?)))?;
    close(&without, &wanted, F32, "without the hidden key");
    Ok(())
}

#[test]
fn half_precision_is_taken() -> Result<()> {
    for dtype in [DType::F16, DType::BF16] {
        let x = random(&[3, 5, 64], 1).to_dtype(dtype)?;
        let w = random(&[64], 2).to_dtype(dtype)?;
        let tolerance = if dtype == DType::F16 { 1e-3 } else { 8e-3 };
        assert_eq!(rms_norm(&x, &w, 1e-6)?.dtype(), dtype);
        close(&rms_norm(&x, &w, 1e-6)?, &normed(&x, &w, None, 1e-6, false)?, tolerance, "rms_norm");
        close(&softmax(&x, -1)?, &soft(&x, 2)?, tolerance, "softmax");
        let q = x.reshape((1, 3, 5, 64))?;
        let scores = (wide(&q).matmul(&wide(&q).t()?.contiguous()?)? / 8.0)?;
        close(&Attention::default().run(&q, &q, &q, None)?, &soft(&scores, 3)?.matmul(&wide(&q))?, tolerance, "attention");
    }
    Ok(())
}

/// What does not fit is a typed error that names the operator, and Candle's error by `?`.
#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let (x, w) = (random(&[2, 8], 1), random(&[7], 2));
    let ints = Tensor::zeros((2, 8), DType::I64, &Device::Cpu)?;
    let image = random(&[1, 4, 5, 5], 3);
    let layer = PackedLinear::new(&random(&[3, 8], 4), None, Epilogue::None)?;
    let eight = QuantisedLinear::quantise(&random(&[3, 8], 4), None, Bits::Eight, Epilogue::None)?;
    let full = Attention::default();
    let wrong: Vec<(&str, std::result::Result<Tensor, OpError>)> = vec![
        ("weights of another length", layer_norm(&x, &w, None, 1e-5)),
        ("integers", softmax(&ints, -1)),
        ("no such axis", softmax(&x, 2)),
        ("integers", activate(&ints, Activation::Silu)),
        ("a row too long", layer.run(&random(&[2, 9], 1))),
        ("integers", layer.run(&ints)),
        ("a row too long", eight.run(&random(&[2, 9], 1))),
        ("integers", eight.run(&ints)),
        ("another residual", layer.run_add(&x, &x)),
        ("channels", conv2d(&image, &random(&[4, 3, 3, 3], 1), None, Conv2d::default())),
        ("groups", conv2d(&image, &random(&[4, 4, 3, 3], 1), None, Conv2d { groups: 3, ..Conv2d::default() })),
        ("no stride", conv2d(&image, &random(&[4, 4, 3, 3], 1), None, Conv2d { stride: 0, ..Conv2d::default() })),
        ("windows beyond the image", conv2d(&image, &random(&[4, 4, 9, 9], 1), None, Conv2d::default())),
        ("no image", conv2d(&x, &random(&[4, 4, 3, 3], 1), None, Conv2d::default())),
        ("two axes", full.run(&x, &x, &x, None)),
        ("heads that do not divide", full.run(&random(&[1, 3, 2, 4], 1), &random(&[1, 2, 2, 4], 1), &random(&[1, 2, 2, 4], 1), None)),
        ("a mask of integers", full.run(&image, &image, &image, Some(AttentionMask::Visible(&ints)))),
        ("angles of another length", RotaryEmbedding::default().run(&image, &random(&[5, 4], 1), &random(&[5, 4], 1))),
        ("two axes", RotaryEmbedding::default().run(&x, &x, &x)),
    ];
    for (what, result) in wrong {
        let error = result.expect_err(what);
        assert!(!matches!(error, OpError::Candle(_)), "{what}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("millstream "), "{what}: {text}");
        assert_eq!(candle_core::Error::from(error).to_string().lines().next(), text.lines().next(), "{what}");
    }
    assert!(PackedLinear::new(&w, None, Epilogue::None).is_err());
    assert!(PackedLinear::new(&x, Some(&w), Epilogue::None).is_err());
    assert!(QuantisedLinear::quantise(&x, Some(&w), Bits::Four, Epilogue::None).is_err());
    assert!(PackedConv2d::new(&random(&[4, 2, 3, 3], 1), None, Conv2d { groups: 3, ..Conv2d::default() }).is_err());
    assert!(PackedConv2d::new(&x, None, Conv2d::default()).is_err());
    assert!(PackedConv2d::new(&image, None, Conv2d { groups: 0, ..Conv2d::default() }).is_err());
    Ok(())
}

/// Every operator that Candle can take as a custom one says which it is.
#[test]
fn custom_operators_have_names() {
    let names = [
        CustomOp3::name(&LayerNorm { epsilon: 1e-5 }),
        CustomOp2::name(&RmsNorm { epsilon: 1e-5 }),
        CustomOp1::name(&Softmax { axis: 0 }),
        CustomOp1::name(&Activation::Silu),
        CustomOp3::name(&Attention::default()),
        CustomOp3::name(&RotaryEmbedding::default()),
        CustomOp2::name(&Conv2d::default()),
    ];
    assert!(names.iter().all(|n| n.starts_with("millstream ")), "{names:?}");
}
