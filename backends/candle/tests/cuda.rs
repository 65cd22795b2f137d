//! Our operators on a CUDA device of Candle's beside the same operators on the CPU, which `ops.rs` holds against their definitions: as
//! functions, layers and custom operators, dense and strided. Needs a GPU, or what stands in for NVIDIA's libraries
//! (`tests/run.py --only cuda`), which has none of Candle's own kernels: only copies between host and device are Candle's here.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Result, Tensor};
use millstream_candle::ops::{
    Activation, Attention, AttentionMask, Bits, Conv2d, Epilogue, GeluKind, LayerNorm, OpError, PackedConv2d, PackedLinear, QuantisedLinear, RmsNorm,
    RotaryEmbedding, Softmax, activate, conv2d, layer_norm, rms_norm, softmax,
};

/// The device, opened for each test: a thread's stream is its own.
fn device() -> Device {
    Device::new_cuda(0).expect("a GPU, or a stand-in")
}

/// Deterministic elements in (-1, 1).
fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..dims.iter().product()).map(|_| next()).collect::<Vec<f32>>(), dims, &Device::Cpu).expect("dims fit")
}

/// The same elements, lying transposed in memory.
fn strided(t: &Tensor) -> Tensor {
    let (a, b) = (t.rank() - 2, t.rank() - 1);
    t.transpose(a, b).and_then(|t| t.contiguous()).and_then(|t| t.transpose(a, b)).expect("two axes")
}

/// On the device as it lies on the CPU.
fn up(t: &Tensor) -> Tensor {
    let device = device();
    if t.is_contiguous() {
        return t.to_device(&device).expect("a copy");
    }
    let (a, b) = (t.rank() - 2, t.rank() - 1);
    t.transpose(a, b).and_then(|t| t.to_device(&device)).and_then(|t| t.transpose(a, b)).expect("it was transposed")
}

/// An operator of these tensors gives on the device what it gives on the CPU, for f32 and halves.
fn agree(what: &str, tolerance: f64, inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (dtype, tolerance) in [(DType::F32, tolerance), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        let cast = |t: &Tensor| if t.dtype() == DType::F32 { t.to_dtype(dtype).expect("floats") } else { t.clone() };
        let inputs: Vec<Tensor> = inputs.iter().map(cast).collect();
        let wide: Vec<Tensor> = inputs.iter().map(|t| if t.dtype() == dtype { t.to_dtype(DType::F32).expect("floats") } else { t.clone() }).collect();
        let wanted = run(&wide).unwrap_or_else(|e| panic!("{what} on the CPU: {e}"));
        let found = run(&inputs.iter().map(up).collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{what} of {dtype:?} on the device: {e}"));
        assert!(found.device().is_cuda() && found.dtype() == dtype, "{what} of {dtype:?}");
        close(&found, &wanted, tolerance, &format!("{what} of {dtype:?}"));
    }
}

/// Within `tolerance` of the greatest magnitude (at least of 1).
fn close(found: &Tensor, wanted: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    let list = |t: &Tensor| {
        let here = if t.is_contiguous() { t.to_device(&Device::Cpu) } else { t.transpose(1, 2).and_then(|t| t.to_device(&Device::Cpu)?.transpose(1, 2)) };
        here.and_then(|t| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()).expect("elements")
    };
    let (found, wanted) = (list(found), list(wanted));
    let greatest = wanted.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
        assert!((x - y).abs() <= tolerance * greatest, "{what}: element {i} is {x}, expected {y}");
    }
}

const F32: f64 = 1e-5;

#[test]
fn norms_agree() {
    let (w, b) = (random(&[70], 2), random(&[70], 3));
    for x in [random(&[2, 9, 70], 1), strided(&random(&[2, 9, 70], 1))] {
        let all = [x, w.clone(), b.clone()];
        agree("layer_norm", F32, &all, |t| Ok(layer_norm(&t[0], &t[1], Some(&t[2]), 1e-5)?));
        agree("LayerNorm of three", F32, &all, |t| t[0].apply_op3_no_bwd(&t[1], &t[2], &LayerNorm { epsilon: 1e-5 }));
        agree("LayerNorm of two", F32, &all, |t| t[0].apply_op2_no_bwd(&t[1], &LayerNorm { epsilon: 1e-5 }));
        agree("rms_norm", F32, &all, |t| Ok(rms_norm(&t[0], &t[1], 1e-6)?));
        agree("RmsNorm", F32, &all, |t| t[0].apply_op2_no_bwd(&t[1], &RmsNorm { epsilon: 1e-6 }));
        agree("softmax", F32, &all, |t| Ok(softmax(&t[0], -1)?));
        agree("softmax across", F32, &all, |t| Ok(softmax(&t[0], 1)?));
        agree("Softmax", F32, &all, |t| t[0].apply_op1_no_bwd(&Softmax { axis: 2 }));
    }
}

#[test]
fn activations_agree() {
    let x = (random(&[7, 333], 4) * 8.0).expect("floats");
    for activation in [
        Activation::Gelu(GeluKind::Erf),
        Activation::Gelu(GeluKind::Tanh),
        Activation::Gelu(GeluKind::Quick),
        Activation::Silu,
        Activation::HardSwish,
        Activation::HardSigmoid,
        Activation::Mish,
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.125 },
        Activation::Elu { alpha: 1.5 },
        Activation::Sigmoid,
        Activation::Tanh,
    ] {
        agree(&format!("{activation:?}"), F32, std::slice::from_ref(&x), |t| Ok(activate(&t[0], activation)?));
        agree(&format!("{activation:?} as an operator"), F32, &[strided(&x)], |t| t[0].apply_op1_no_bwd(&activation));
    }
}

#[test]
fn attention_agrees() {
    let (q, k, v) = (random(&[2, 4, 21, 16], 5), random(&[2, 2, 30, 16], 6), random(&[2, 2, 30, 16], 7));
    let (added, seen) = (random(&[2, 1, 21, 30], 8), (random(&[21, 30], 9) + 0.9).and_then(|t| t.to_dtype(DType::U8)).expect("bytes"));
    let causal = Attention { causal: true, ..Attention::default() };
    for (q, k, v) in [(q.clone(), k.clone(), v.clone()), (strided(&q), strided(&k), v.clone())] {
        let all = [q, k, v, added.clone(), seen.clone()];
        agree("attention", F32, &all, |t| Ok(Attention::default().run(&t[0], &t[1], &t[2], None)?));
        agree("causal attention", F32, &all, |t| Ok(causal.run(&t[0], &t[1], &t[2], None)?));
        agree("Attention", F32, &all, |t| t[0].apply_op3_no_bwd(&t[1], &t[2], &causal));
        agree("attention with a mask", F32, &all, |t| Ok(Attention::default().run(&t[0], &t[1], &t[2], Some(AttentionMask::Added(&t[3])))?));
        agree("attention with bytes", F32, &all, |t| Ok(Attention::default().run(&t[0], &t[1], &t[2], Some(AttentionMask::Visible(&t[4])))?));
    }
    // Heads side by side, as a projection leaves them.
    let rows = |heads: usize, n: usize, seed| random(&[2, n, heads, 16], seed);
    let all = [rows(4, 21, 1), rows(2, 30, 2), rows(2, 30, 3)];
    agree("attention side by side", F32, &all, |t| {
        let turned = t.iter().map(|t| t.transpose(1, 2)).collect::<Result<Vec<_>>>()?;
        Ok(causal.run(&turned[0], &turned[1], &turned[2], None)?)
    });
    // One new row behind a cache.
    let all = [random(&[2, 4, 1, 16], 1), random(&[2, 2, 1, 16], 2), random(&[2, 2, 1, 16], 3), k, v];
    for result in 0..3 {
        agree("attention with a cache", F32, &all, |t| {
            let (y, k, v) = causal.run_cached(&t[0], &t[1], &t[2], Some((&t[3], &t[4])), None)?;
            Ok([y, k, v][result].clone())
        });
    }
}

#[test]
fn rotary_agrees() {
    let x = random(&[3, 2, 11, 20], 1);
    let (cos, sin) = (random(&[11, 8], 2), random(&[11, 8], 3));
    let (each_cos, each_sin) = (random(&[3, 11, 8], 4), random(&[3, 11, 8], 5));
    for interleaved in [false, true] {
        let rotary = RotaryEmbedding { interleaved };
        agree("rotary", F32, &[x.clone(), cos.clone(), sin.clone()], |t| Ok(rotary.run(&t[0], &t[1], &t[2])?));
        agree("rotary strided", F32, &[strided(&x), cos.clone(), sin.clone()], |t| Ok(rotary.run(&t[0], &t[1], &t[2])?));
        agree("RotaryEmbedding", F32, &[x.clone(), each_cos.clone(), each_sin.clone()], |t| t[0].apply_op3_no_bwd(&t[1], &t[2], &rotary));
    }
}

#[test]
fn convolutions_agree() {
    for groups in [1, 2, 6] {
        let all = [random(&[2, 6, 9, 8], 1), random(&[12, 6 / groups, 3, 3], 2), random(&[12], 3)];
        let conv = Conv2d { padding: 1, stride: 2, groups, ..Conv2d::default() };
        // On the CPU, what follows a convolution is for f32 alone, which `agree` gives it.
        let with_relu = Conv2d { activation: Epilogue::Relu, ..conv };
        agree("conv2d", F32, &all, |t| Ok(conv2d(&t[0], &t[1], Some(&t[2]), with_relu)?));
        agree("Conv2d of two", F32, &all, |t| t[0].apply_op2_no_bwd(&t[1], &conv));
        agree("Conv2d of three", F32, &all, |t| t[0].apply_op3_no_bwd(&t[1], &t[2], &with_relu));
        agree("PackedConv2d", F32, &all, |t| Ok(PackedConv2d::new(&t[1], Some(&t[2]), with_relu)?.run(&t[0])?));
    }
}

#[test]
fn linear_layers_agree() {
    for x in [random(&[2, 9, 40], 1), strided(&random(&[2, 9, 40], 1))] {
        let all = [x, random(&[50, 40], 2), random(&[50], 3), random(&[2, 9, 50], 4)];
        for activation in [Epilogue::None, Epilogue::Relu, Epilogue::Gelu, Epilogue::GeluTanh, Epilogue::Silu] {
            let layer = |t: &[Tensor]| PackedLinear::new(&t[1], Some(&t[2]), activation);
            agree("linear", F32, &all, |t| Ok(layer(t)?.run(&t[0])?));
            agree("linear with a residual", F32, &all, |t| Ok(layer(t)?.run_add(&t[0], &t[3])?));
            agree("PackedLinear", F32, &all, |t| t[0].apply_op1_no_bwd(&layer(t)?));
        }
    }
}

#[test]
fn layers_of_few_bits_agree() {
    for (rows, bits, x_is_strided) in [(1, Bits::Four, false), (3, Bits::Eight, true), (70, Bits::Four, true), (40, Bits::Eight, false)] {
        let x = random(&[1, rows, 70], 1);
        // Scales are of the weight's type: f16 and bf16 round them.
        let all = [if x_is_strided { strided(&x) } else { x }, random(&[50, 70], 2), random(&[50], 3)];
        let layer = |t: &[Tensor]| QuantisedLinear::quantise(&t[1], Some(&t[2]), bits, Epilogue::Silu);
        agree(&format!("{bits:?} bits, {rows} rows"), F32, &all, |t| Ok(layer(t)?.run(&t[0])?));
        agree(&format!("{bits:?} bits as an operator"), F32, &all, |t| t[0].apply_op1_no_bwd(&layer(t)?));
        let (here, there) = (layer(&all).expect("it fits"), layer(&[up(&all[0]), up(&all[1]), up(&all[2])]).expect("it fits"));
        close(&there.dequantise().expect("numbers"), &here.dequantise().expect("numbers"), 0.0, "the weight");
        assert!(there.bytes() <= 50 * 96 * if bits == Bits::Four { 5 } else { 9 } / 8);
        assert!(matches!(there.run(&all[0]), Err(OpError::Device { .. })) && matches!(here.run(&up(&all[0])), Err(OpError::Device { .. })));
    }
}

/// What does not fit, or lies on several devices, is a typed error; so is what only the CPU has a kernel for.
#[test]
fn what_does_not_fit_is_an_error() {
    let (x, w) = (random(&[2, 8], 1), random(&[8], 2));
    assert!(matches!(rms_norm(&up(&x), &w, 1e-6), Err(OpError::Device { input: 1, .. })));
    assert!(matches!(rms_norm(&up(&x), &up(&random(&[7], 1)), 1e-6), Err(OpError::NoKernel { .. })));
    assert!(matches!(layer_norm(&up(&x), &up(&w), Some(&up(&w.to_dtype(DType::F16).expect("floats"))), 1e-5), Err(OpError::Shapes { .. })));
    assert!(matches!(softmax(&up(&x.to_dtype(DType::F64).expect("floats")), -1), Err(OpError::NoKernel { .. })));
    let layer = PackedLinear::new(&random(&[3, 8], 4), None, Epilogue::None).expect("it fits");
    assert!(matches!(layer.run(&up(&x)), Err(OpError::Device { input: 1, .. })), "packed for the CPU");
    assert!(up(&x).apply_op1_no_bwd(&layer).is_err());
}
