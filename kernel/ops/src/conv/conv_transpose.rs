//! `ConvTranspose`: the transpose of a convolution: every input element adds a filter's worth of elements to the output.
//!
//! f32: one product gives each input pixel's contribution to all taps; then each output element sums its contributions in
//! ascending order of taps, so that no two grains write the same element. Other floats sum directly.

use super::{
    gather,
    geometry::{Padding, Sliding, positive},
    weights::PackedTransposed,
};
use crate::matmul::activation::suffix;
use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{
    Arity, BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx,
};
use millstream_tensor::{DType, Order, TensorError, TensorView, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ConvTranspose",
    since: &[1, 11, 22],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: &["auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides"],
    subgraphs: &[],
    dtypes: "floats",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let group = cx.attributes.int_or("group", 1)?;
    let in_range = |g: &usize| (1..=i32::MAX as usize).contains(g);
    let unsupported = || BuildError::UnsupportedAttribute { name: "group", value: alloc::format!("{group}") };
    Ok(Box::new(ConvTranspose {
        kernel: positive(cx, "kernel_shape", 1)?,
        sliding: Sliding::read(cx)?,
        group: usize::try_from(group).ok().filter(in_range).ok_or_else(unsupported)?,
        output_padding: positive(cx, "output_padding", 0)?,
        output_shape: positive(cx, "output_shape", 0)?,
        activation: Activation::None,
    }))
}

/// A transposed convolution. Inputs: image, weights `[in, out / group, ..kernel]`, bias (may be absent).
#[derive(Debug, Clone)]
pub struct ConvTranspose {
    kernel: Vec<usize>,
    sliding: Sliding,
    pub(crate) group: usize,
    output_padding: Vec<usize>,
    output_shape: Vec<usize>,
    pub(crate) activation: Activation,
}

/// One spatial axis of a step: output `o` gets tap `t` of input `i` where `o + pad = i · stride + t · dilation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpreadAxis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) pad: usize,
    pub(crate) output: usize,
}

impl SpreadAxis {
    /// The input whose tap `t` lands on output `o`.
    pub(crate) fn source(&self, o: usize, t: usize) -> Option<usize> {
        let at = (o + self.pad).checked_sub(t * self.dilation)?;
        (at % self.stride == 0 && at / self.stride < self.input).then_some(at / self.stride)
    }
}

impl ConvTranspose {
    /// The same operator followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<ConvTranspose> {
        (self.activation == Activation::None).then(|| ConvTranspose { activation, ..self.clone() })
    }

    /// Convolutions side by side.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    fn check_rank(&self, rank: usize) -> Result<(), InferError> {
        self.sliding.check_rank(rank)?;
        // Some exporters write the whole output shape, batch and channels included.
        let fits = |v: &Vec<usize>| v.is_empty() || v.len() == rank;
        if !fits(&self.output_padding) || !(fits(&self.output_shape) || self.output_shape.len() == rank + 2) {
            return Err(InferError::Invalid("output_padding or output_shape have another rank than the input"));
        }
        Ok(())
    }

    fn wanted(&self, i: usize, rank: usize) -> Option<usize> {
        self.output_shape.get(i + self.output_shape.len().saturating_sub(rank)).copied()
    }

    /// Spatial axis `i` of `rank`; an error where numbers overflow.
    fn axis(&self, i: usize, rank: usize, input: usize, kernel: usize) -> Result<SpreadAxis, InferError> {
        let (stride, dilation) = (self.sliding.stride(i), self.sliding.dilation(i));
        let fail = || InferError::Invalid("the output of a transposed convolution is too large or empty");
        let reach = kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|r| r.checked_add(1)).ok_or_else(fail)?;
        let spread = input.saturating_sub(1).checked_mul(stride).ok_or_else(fail)?;
        let extra = self.output_padding.get(i).copied().unwrap_or(0);
        let full = spread.checked_add(reach).and_then(|x| x.checked_add(extra)).filter(|&x| x <= isize::MAX as usize).ok_or_else(fail)?;
        let same = !matches!(self.sliding.padding, Padding::Explicit { .. });
        let wanted = match self.wanted(i, rank) {
            Some(wanted) => Some(wanted),
            None if same => Some(input.checked_mul(stride).ok_or_else(fail)?),
            None => None,
        };
        let (pad, output) = match (wanted, &self.sliding.padding) {
            (Some(wanted), padding) => {
                let total = full.saturating_sub(wanted);
                (if *padding == Padding::SameUpper { total / 2 } else { total.div_ceil(2) }, wanted)
            }
            (None, Padding::Explicit { begin, end }) => {
                let (begin, end) = (begin.get(i).copied().unwrap_or(0), end.get(i).copied().unwrap_or(0));
                (begin, if input == 0 { 0 } else { full.checked_sub(begin + end).ok_or_else(fail)? })
            }
            (None, _) => (0, full),
        };
        Ok(SpreadAxis { input, kernel, stride, dilation, pad, output })
    }

    /// All spatial axes of a step.
    pub(crate) fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<SpreadAxis>, InferError> {
        input.iter().zip(kernel).enumerate().map(|(i, (&d, &k))| self.axis(i, input.len(), d, k)).collect()
    }

    fn output_dim(&self, i: usize, rank: usize, input: &Dim, kernel: &Dim) -> Result<Dim, InferError> {
        if let (Some(input), Some(kernel)) = (input.as_extent(), kernel.as_extent()) {
            return Ok(Dim::from(self.axis(i, rank, input, kernel)?.output));
        }
        if let Some(wanted) = self.wanted(i, rank) {
            return Ok(Dim::from(wanted));
        }
        let (one, stride) = (Dim::from(1), Dim::from(self.sliding.stride(i)));
        let Padding::Explicit { begin, end } = &self.sliding.padding else { return Ok(input.mul(&stride)) };
        let pads = Dim::from(begin.get(i).copied().unwrap_or(0) + end.get(i).copied().unwrap_or(0));
        let reach = kernel.sub(&one).mul(&Dim::from(self.sliding.dilation(i))).add(&one);
        let extra = Dim::from(self.output_padding.get(i).copied().unwrap_or(0));
        Ok(input.sub(&one).mul(&stride).add(&reach).add(&extra).sub(&pads))
    }
}

impl Op for ConvTranspose {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        if !x.dtype.is_float() || self.activation != Activation::None && x.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        for i in 1..3 {
            if let Some(f) = cx.optional(i).filter(|f| f.dtype != x.dtype) {
                return Err(InferError::DType { input: i, found: f.dtype });
            }
        }
        if x.rank() < 2 {
            return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "batch, channels and spatial axes are expected" });
        }
        if w.rank() != x.rank() {
            return Err(InferError::Rank { input: 1, found: w.rank(), wanted: "the rank of the image is expected" });
        }
        let rank = x.rank() - 2;
        self.check_rank(rank)?;
        if let (Some(a), Some(b)) = (x.dims[1].as_extent(), w.dims[0].as_extent())
            && (a != b || a % self.group != 0)
        {
            return Err(InferError::Invalid("channels do not fit the weights or do not divide into groups"));
        }
        let known: Option<Vec<usize>> = w.dims[2..].iter().map(|d| d.as_extent()).collect();
        if known.is_some_and(|k| !self.kernel.is_empty() && k != self.kernel) {
            return Err(InferError::Invalid("the weights do not have the dims of kernel_shape"));
        }
        let outputs = w.dims[1].mul(&Dim::from(self.group));
        if let Some(b) = cx.optional(2)
            && (b.rank() != 1 || b.dims[0].as_const().zip(outputs.as_const()).is_some_and(|(a, b)| a != b))
        {
            return Err(InferError::Invalid("the bias has not one element for each output channel"));
        }
        let mut dims = vec![x.dims[0].clone(), outputs];
        for (i, (d, k)) in x.dims[2..].iter().zip(&w.dims[2..]).enumerate() {
            dims.push(self.output_dim(i, rank, d, k)?);
        }
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::F32 => gather::run(self, cx),
            DType::F64 => gather::run_direct::<f64>(self, cx),
            DType::F16 => gather::run_direct::<f16>(self, cx),
            DType::BF16 => gather::run_direct::<bf16>(self, cx),
            other => Err(EvalError::DType(other)),
        }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        gather::Step::of(self, cx).map(|s| s.scratch()).unwrap_or_default()
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        let shape = weight.shape();
        if input != 1 || weight.dtype() != DType::F32 || shape.rank() < 2 || !shape[0].is_multiple_of(self.group) {
            return Ok(None);
        }
        let view = weight.typed::<f32>()?;
        let weights = view.as_slice().ok_or(TensorError::Strided)?;
        Ok(Some(Arc::new(PackedTransposed::new(cx.level, weights, shape, self.group)?)))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let x = cx.inputs.first()?.as_ref()?;
        if x.dtype != DType::F32 {
            return None;
        }
        let last = Order::channels_last(x.shape().rank());
        let mut wanted = vec![Some(last), Some(Order::row_major(x.shape().rank())), None];
        wanted.truncate(inputs.len());
        Some(Permutation { inputs: wanted, outputs: vec![last] })
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        let per_input: usize = cx.input_shape(1).map_or(1, |w| w[1..].iter().product());
        let inputs = cx.input_shape(0).map_or(0, |x| x.elements());
        Cost { flops: 2.0 * inputs as f64 * per_input as f64, ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        match gather::Step::of(self, cx) {
            Ok(step) => {
                let kind = if step.is_disjoint() { "lines" } else { "gemm" };
                alloc::format!("conv-transpose-{kind}-{}{}", cx.level.vectors(), suffix(self.activation, false))
            }
            Err(_) => String::from("conv-transpose-direct"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::oracle::list;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    /// Adds every input element's contributions; `expect` is the output's spatial shape, given in the case.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, w) = (case.tensor(0), case.tensor(1));
        let (xd, wd) = (x.shape().to_vec(), w.shape().to_vec());
        let n = xd.len() - 2;
        let group = case.int_or("group", 1) as usize;
        let (strides, dilations) = (list(case, "strides", n, 1), list(case, "dilations", n, 1));
        let (mut pads, extra) = (list(case, "pads", 2 * n, 0), list(case, "output_padding", n, 0));
        let mut out = vec![xd[0], wd[1] * group];
        for i in 0..n {
            let full = (xd[i + 2] as i64 - 1) * strides[i] + (wd[i + 2] as i64 - 1) * dilations[i] + 1 + extra[i];
            let auto = case.attributes.string_or("auto_pad", "").unwrap();
            let wanted = match case.attributes.ints("output_shape").unwrap() {
                Some(s) => Some(s[i]),
                None if auto.starts_with("SAME") => Some(xd[i + 2] as i64 * strides[i]),
                None => None,
            };
            if let Some(wanted) = wanted {
                let total = (full - wanted).max(0);
                pads[i] = if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 };
            }
            out.push(wanted.unwrap_or(full - pads[i] - pads[n + i]) as usize);
        }
        let (x, w) = (x.as_slice::<f32>().unwrap(), w.as_slice::<f32>().unwrap());
        let (plane_in, plane_out, taps): (usize, usize, usize) = (xd[2..].iter().product(), out[2..].iter().product(), wd[2..].iter().product());
        let bias = |c: usize| case.optional(2).map_or(0.0, |b| f64::from(b.as_slice::<f32>().unwrap()[c]));
        let mut y: Vec<f64> = (0..out.iter().product()).map(|i: usize| bias(i / plane_out.max(1) % out[1].max(1))).collect();
        for image in 0..xd[0] {
            for c in 0..xd[1] {
                let g = c / (xd[1] / group);
                let outs = wd[1];
                for (p, tap, o) in (0..plane_in).flat_map(|p| (0..taps).flat_map(move |t| (0..outs).map(move |o| (p, t, o)))) {
                    let (mut rest_p, mut rest_t, mut at, mut step, mut inside) = (p, tap, 0, 1, true);
                    for i in (0..n).rev() {
                        let to = (rest_p % xd[i + 2]) as i64 * strides[i] + (rest_t % wd[i + 2]) as i64 * dilations[i] - pads[i];
                        (rest_p, rest_t) = (rest_p / xd[i + 2], rest_t / wd[i + 2]);
                        inside &= (0..out[i + 2] as i64).contains(&to);
                        at += to * step;
                        step *= out[i + 2] as i64;
                    }
                    if inside {
                        let from = f64::from(x[(image * xd[1] + c) * plane_in + p]) * f64::from(w[(c * wd[1] + o) * taps + tap]);
                        y[(image * out[1] + g * wd[1] + o) * plane_out + at as usize] += from;
                    }
                }
            }
        }
        vec![t(&out, &y.iter().map(|&v| v as f32).collect::<Vec<_>>())]
    }

    fn case(x: &[usize], w: &[usize]) -> Case {
        Case::new([random(x, 1), random(w, 2)]).constant(1)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 2e-5 };
        single => case(&[2, 20, 5, 37], &[20, 1, 2, 2]).ints("strides", &[2, 2]).input(random(&[1], 3));
        triple => case(&[1, 7, 4, 3], &[7, 5, 2, 3]).ints("strides", &[2, 3]);
        one_axis_apart => case(&[2, 6, 9], &[6, 5, 4]).ints("strides", &[4]).input(random(&[5], 3));
        apart_dynamic => Case::new([random(&[1, 4, 3, 4], 1), random(&[4, 3, 2, 2], 2)]).ints("strides", &[2, 2]);
        double => case(&[2, 20, 5, 7], &[20, 24, 2, 2]).ints("strides", &[2, 2]).input(random(&[24], 3));
        overlapping => case(&[1, 5, 5, 7], &[5, 19, 3, 3]).ints("strides", &[2, 2]).ints("pads", &[1, 1, 1, 1]).ints("output_padding", &[1, 0]);
        dilated => case(&[1, 5, 5, 4], &[5, 3, 3, 2]).ints("dilations", &[2, 3]).ints("pads", &[0, 1, 2, 0]);
        gaps => case(&[1, 5, 5, 4], &[5, 3, 2, 2]).ints("strides", &[3, 4]);
        groups => case(&[2, 6, 4, 5], &[6, 4, 3, 3]).int("group", 2).ints("strides", &[2, 1]).input(random(&[8], 3));
        depthwise => case(&[1, 6, 4, 5], &[6, 1, 3, 3]).int("group", 6).ints("strides", &[2, 2]);
        one_axis => case(&[2, 6, 9], &[6, 5, 4]).ints("strides", &[3]);
        three_axes => case(&[1, 3, 3, 4, 2], &[3, 5, 2, 2, 3]).ints("strides", &[1, 2, 2]);
        output_shape => case(&[1, 3, 3, 4], &[3, 2, 3, 3]).ints("strides", &[3, 2]).ints("output_shape", &[10, 8]);
        same_upper => case(&[1, 3, 3, 4], &[3, 2, 3, 3]).ints("strides", &[2, 2]).string("auto_pad", "SAME_UPPER");
        same_lower => case(&[1, 3, 3, 4], &[3, 2, 3, 3]).ints("strides", &[2, 2]).string("auto_pad", "SAME_LOWER");
        dynamic_weights => Case::new([random(&[1, 4, 3, 4], 1), random(&[4, 3, 3, 3], 2)]).int("group", 2);
        empty => case(&[0, 3, 3, 4], &[3, 2, 3, 3]);
    }

    #[test]
    fn doubles() {
        let plain = || case(&[1, 4, 3, 4], &[4, 3, 3, 2]).int("group", 2).ints("strides", &[2, 1]).input(random(&[6], 3));
        let wide = |x: &Tensor| t(x.shape(), &x.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
        let c = plain();
        let case = Case { inputs: (0..3).map(|i| Some(wide(c.tensor(i)).into())).collect(), ..plain() };
        let want = |_: &Case| {
            let plain = super::tests::case(&[1, 4, 3, 4], &[4, 3, 3, 2]).int("group", 2).ints("strides", &[2, 1]).input(random(&[6], 3));
            let y = &reference(&plain)[0];
            vec![t(y.shape(), &y.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect::<Vec<f64>>())]
        };
        crate::testing::check(&DEF, want, Tolerance { rel: 1e-5, abs: 1e-5 }, &case);
    }
}
