//! `Conv`: each output element is the sum of a window's elements times a filter's, plus a bias; `group` convolutions stand
//! side by side, each on its share of the channels.
//!
//! f32 runs channels-last as a product of matrices (rows are output pixels, columns output channels), or depthwise; other
//! floats run as obvious loops. The fused form adds a residual of the output's shape, then applies an activation. Windows of
//! 3 × 3 run by Winograd's algorithm where [`Conv::with_winograd`] was asked and answered yes.

use super::{
    direct, fast,
    geometry::{Sliding, positive},
    planar,
    weights::{PackedWeights, WeightDims},
    winograd,
};
use crate::matmul::activation::suffix;
use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Activation, Grouped};
use millstream_graph::{
    Arity, BuildCx, BuildError, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx,
};
use millstream_simd::Level;
use millstream_tensor::{DType, Order, TensorError, TensorView, bf16, f16};

/// The attributes of ONNX's operator.
pub(crate) const ATTRIBUTES: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Conv",
    since: &[1, 11, 22],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "floats",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Conv::read(cx)?)),
};

/// A convolution. Inputs: image, weights, bias (may be absent), and the residual where there is one.
#[derive(Debug, Clone)]
pub struct Conv {
    pub(crate) kernel: Vec<usize>,
    pub(crate) sliding: Sliding,
    pub(crate) group: usize,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
    pub(crate) winograd: bool,
}

impl Conv {
    /// Reads the attributes of ONNX's operator.
    pub(crate) fn read(cx: &BuildCx<'_>) -> Result<Conv, BuildError> {
        let group = cx.attributes.int_or("group", 1)?;
        let in_range = |g: &usize| (1..=i32::MAX as usize).contains(g);
        let unsupported = || BuildError::UnsupportedAttribute { name: "group", value: alloc::format!("{group}") };
        Ok(Conv {
            kernel: positive(cx, "kernel_shape", 1)?,
            sliding: Sliding::read(cx)?,
            group: usize::try_from(group).ok().filter(in_range).ok_or_else(unsupported)?,
            activation: Activation::None,
            residual: false,
            winograd: false,
        })
    }

    /// The same convolution followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<Conv> {
        (self.activation == Activation::None).then(|| Conv { activation, ..self.clone() })
    }

    /// The same convolution with input 3, of the output's shape, added before the activation; `None` if it has a residual or
    /// an activation already.
    pub fn with_residual(&self) -> Option<Conv> {
        (!self.residual && self.activation == Activation::None).then(|| Conv { residual: true, ..self.clone() })
    }

    /// The same convolution by Winograd's algorithm, for constant weights of this shape and an output of these spatial dims (`None`
    /// where they are not known); `None` if that does not pay. It costs four times the memory of the weights, and some 1e-6 of the
    /// greatest result in precision.
    pub fn with_winograd(&self, weights: &[usize], output: Option<&[usize]>) -> Option<Conv> {
        let dims = WeightDims::new(weights, self.group)?;
        let pays = !self.winograd && self.suits_winograd(weights) && winograd::pays(dims.channels, dims.out, output);
        pays.then(|| Conv { winograd: true, ..self.clone() })
    }

    /// One group of dense 3 × 3 windows that move by one.
    pub(crate) fn suits_winograd(&self, weights: &[usize]) -> bool {
        let plain = |i| self.sliding.stride(i) == 1 && self.sliding.dilation(i) == 1;
        self.group == 1 && matches!(weights, [_, _, 3, 3]) && plain(0) && plain(1)
    }

    /// Groups of few channels: any depthwise weights, others of at most two spatial axes and without a residual.
    pub(crate) fn suits_grouped(&self, weights: &[usize], level: Level) -> bool {
        let Some(dims) = WeightDims::new(weights, self.group).filter(|_| self.group > 1) else { return false };
        dims.is_depthwise() || !self.residual && weights.len() <= 4 && Grouped::suits(level, dims.dims())
    }

    /// One group of undilated windows over few planes.
    pub(crate) fn suits_planar(&self, weights: &[usize]) -> bool {
        let dense = self.sliding.dilation(0) == 1 && self.sliding.dilation(1) == 1;
        self.group == 1 && dense && matches!(weights, [_, 1..=planar::FEW_CHANNELS, _, _])
    }

    /// The activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// True if input 3 is added.
    pub fn has_residual(&self) -> bool {
        self.residual
    }

    /// Stride, dilation, leading and trailing pad of each spatial axis, for an input and weights of these spatial dims.
    pub fn windows(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<[usize; 4]>, InferError> {
        self.sliding.windows(input, kernel)
    }

    /// Convolutions side by side.
    pub fn group(&self) -> usize {
        self.group
    }
}

impl Op for Conv {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        if !x.dtype.is_float() || (self.residual || self.activation != Activation::None) && x.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        for i in 1..4 {
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
        self.sliding.check_rank(x.rank() - 2)?;
        let mismatch = |what, left: &dyn core::fmt::Display, right: &dyn core::fmt::Display| InferError::Mismatch {
            what,
            left: alloc::format!("{left}"),
            right: alloc::format!("{right}"),
        };
        if let (Some(c), Some(per_group)) = (x.dims[1].as_extent(), w.dims[1].as_extent())
            && per_group.checked_mul(self.group) != Some(c)
        {
            return Err(mismatch("channels against weights times groups", &c, &per_group));
        }
        if let Some(out) = w.dims[0].as_extent().filter(|out| out % self.group != 0) {
            return Err(mismatch("output channels do not divide into groups", &out, &self.group));
        }
        let known: Option<Vec<usize>> = w.dims[2..].iter().map(|d| d.as_extent()).collect();
        if let Some(known) = known.filter(|k| !self.kernel.is_empty() && *k != self.kernel) {
            return Err(mismatch("weights against kernel_shape", &alloc::format!("{known:?}"), &alloc::format!("{:?}", self.kernel)));
        }
        if let Some(b) = cx.optional(2)
            && (b.rank() != 1 || b.dims[0].as_extent().zip(w.dims[0].as_extent()).is_some_and(|(a, b)| a != b))
        {
            return Err(InferError::Invalid("the bias has not one element for each output channel"));
        }
        let mut dims = vec![x.dims[0].clone(), w.dims[0].clone()];
        for (i, (d, k)) in x.dims[2..].iter().zip(&w.dims[2..]).enumerate() {
            dims.push(self.sliding.output_dim(i, d, k)?);
        }
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::F32 => fast::run(self, cx),
            DType::F64 => direct::run::<f64>(self, cx),
            DType::F16 => direct::run::<f16>(self, cx),
            DType::BF16 => direct::run::<bf16>(self, cx),
            other => Err(EvalError::DType(other)),
        }
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        fast::Step::of(self, cx).map(|s| s.scratch()).unwrap_or_default()
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 1 || weight.dtype() != DType::F32 {
            return Ok(None);
        }
        let Some(dims) = WeightDims::new(weight.shape(), self.group) else { return Ok(None) };
        let view = weight.typed::<f32>()?;
        let weights = view.as_slice().ok_or(TensorError::Strided)?;
        Ok(Some(Arc::new(match weight.shape()[..] {
            [_, _, _, width] if self.suits_planar(weight.shape()) => PackedWeights::planar(cx.level, weights, dims, width)?,
            _ if self.winograd && self.suits_winograd(weight.shape()) => PackedWeights::winograd(cx.level, weights, dims)?,
            _ if self.suits_grouped(weight.shape(), cx.level) => PackedWeights::grouped(cx.level, weights, dims)?,
            _ => PackedWeights::new(cx.level, weights, dims)?,
        })))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let x = cx.inputs.first()?.as_ref()?;
        if x.dtype != DType::F32 {
            return None;
        }
        let rank = x.shape().rank();
        let last = Order::channels_last(rank);
        // A picture of a few planes is read as it is.
        let given = inputs.first().copied()?.filter(|o| o.is_row_major() && x.shape().get(1).is_some_and(|&c| c <= planar::FEW_CHANNELS));
        let mut wanted = vec![Some(given.unwrap_or(last)), Some(Order::row_major(rank)), None, Some(last)];
        wanted.truncate(inputs.len());
        Some(Permutation { inputs: wanted, outputs: vec![last] })
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        let per_output: usize = cx.input_shape(1).map_or(1, |w| w[1..].iter().product());
        Cost { flops: 2.0 * base.flops * per_output as f64, ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        let Ok(step) = fast::Step::of(self, cx) else { return String::from("conv-direct") };
        alloc::format!("{}-{}{}", step.name(), cx.level.vectors(), suffix(self.activation, self.residual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::oracle::reference;
    use crate::testing::{Case, Tolerance, random};

    fn case(x: &[usize], w: &[usize]) -> Case {
        Case::new([random(x, 1), random(w, 2)]).constant(1)
    }

    /// Sums of up to a thousand products of values below one.
    const TOLERANCE: Tolerance = Tolerance { rel: 1e-5, abs: 2e-5 };

    op_tests! { DEF, reference, TOLERANCE;
        pointwise => case(&[2, 20, 5, 7], &[33, 20, 1, 1]).input(random(&[33], 3));
        three_by_three => case(&[2, 9, 8, 7], &[40, 9, 3, 3]).ints("pads", &[1, 1, 1, 1]).input(random(&[40], 3));
        strided => case(&[1, 16, 9, 11], &[17, 16, 1, 1]).ints("strides", &[2, 2]);
        stem_of_planes => case(&[2, 4, 30, 45], &[40, 4, 3, 5]).ints("strides", &[1, 3]).ints("pads", &[0, 2, 2, 5]);
        stem_dynamic => Case::new([random(&[1, 3, 9, 8], 1), random(&[10, 3, 3, 3], 2)]);
        stem => case(&[2, 3, 17, 16], &[24, 3, 7, 7]).ints("strides", &[2, 2]).ints("pads", &[3, 3, 3, 3]).input(random(&[24], 3));
        asymmetric => case(&[1, 5, 6, 7], &[8, 5, 3, 2]).ints("pads", &[0, 2, 1, 3]).ints("strides", &[1, 2]);
        dilated => case(&[1, 6, 12, 11], &[7, 6, 3, 3]).ints("dilations", &[2, 3]).ints("pads", &[2, 3, 2, 3]);
        stride_beyond_kernel => case(&[1, 6, 12, 11], &[7, 6, 2, 2]).ints("strides", &[3, 4]);
        groups => case(&[2, 12, 6, 5], &[9, 4, 3, 3]).int("group", 3).ints("pads", &[1, 1, 1, 1]).input(random(&[9], 3));
        depthwise => case(&[2, 70, 6, 5], &[70, 1, 3, 3]).int("group", 70).ints("pads", &[1, 1, 1, 1]).input(random(&[70], 3));
        depthwise_strided => case(&[1, 19, 9, 10], &[19, 1, 5, 5]).int("group", 19).ints("pads", &[2, 2, 2, 2]).ints("strides", &[2, 2]);
        depthwise_many_taps => case(&[1, 5, 11, 12], &[5, 1, 9, 9]).int("group", 5).ints("pads", &[4, 4, 4, 4]);
        depthwise_multiplier => case(&[1, 6, 5, 5], &[12, 1, 3, 3]).int("group", 6);
        groups_of_four => case(&[2, 20, 6, 11], &[20, 4, 3, 3]).int("group", 5).ints("pads", &[1, 1, 1, 1]).input(random(&[20], 3));
        groups_of_two => case(&[1, 20, 6, 11], &[20, 2, 3, 3]).int("group", 10).ints("strides", &[2, 2]);
        groups_of_sixteen => case(&[1, 48, 6, 11], &[48, 16, 3, 3]).int("group", 3).ints("pads", &[1, 1, 1, 1]).input(random(&[48], 3));
        groups_of_many => case(&[1, 96, 3, 4], &[96, 48, 3, 3]).int("group", 2);
        dynamic_groups_of_four => Case::new([random(&[1, 12, 5, 5], 1), random(&[12, 4, 3, 3], 2)]).int("group", 3);
        one_axis => case(&[2, 7, 33], &[18, 7, 5]).ints("strides", &[2]).ints("pads", &[3, 1]).input(random(&[18], 3));
        one_axis_depthwise => case(&[2, 7, 33], &[7, 1, 5]).int("group", 7).ints("dilations", &[2]);
        three_axes => case(&[2, 4, 5, 6, 7], &[9, 4, 2, 3, 3]).ints("strides", &[1, 2, 1]).ints("pads", &[1, 0, 1, 0, 2, 1]);
        three_axes_groups => case(&[1, 4, 4, 4, 4], &[6, 2, 3, 3, 3]).int("group", 2).ints("pads", &[1, 1, 1, 1, 1, 1]);
        same_upper => case(&[1, 3, 6, 7], &[4, 3, 3, 2]).string("auto_pad", "SAME_UPPER").ints("strides", &[2, 3]);
        same_lower => case(&[1, 3, 6, 7], &[4, 3, 3, 2]).string("auto_pad", "SAME_LOWER").ints("strides", &[2, 1]);
        valid => case(&[1, 3, 6, 7], &[4, 3, 3, 2]).string("auto_pad", "VALID").ints("kernel_shape", &[3, 2]);
        dynamic_weights => Case::new([random(&[1, 6, 5, 5], 1), random(&[10, 3, 3, 3], 2)]).int("group", 2);
        dynamic_depthwise => Case::new([random(&[1, 6, 5, 5], 1), random(&[6, 1, 3, 3], 2)]).int("group", 6);
        deep => case(&[1, 300, 4, 4], &[20, 300, 3, 3]).ints("pads", &[1, 1, 1, 1]);
        no_batch => case(&[0, 3, 6, 7], &[4, 3, 3, 2]);
        no_outputs => case(&[1, 3, 6, 7], &[0, 3, 3, 2]);
        no_inputs => case(&[1, 0, 6, 7], &[4, 0, 3, 2]).input(random(&[4], 3));
        no_space => case(&[2, 3], &[4, 3]);
    }

    #[test]
    fn other_floats() {
        use crate::testing::t;
        macro_rules! same {
            ($ty:ty, $to:expr, $rel:expr) => {{
                fn round(x: &millstream_tensor::Tensor) -> millstream_tensor::Tensor {
                    t(x.shape(), &x.as_slice::<f32>().unwrap().iter().map($to).collect::<Vec<$ty>>())
                }
                let plain = || case(&[1, 4, 6, 5], &[6, 2, 3, 2]).int("group", 2).ints("pads", &[1, 1, 0, 1]).input(random(&[6], 3));
                let c = plain();
                let narrow = Case { inputs: (0..3).map(|i| Some(round(c.tensor(i)).into())).collect(), ..plain() };
                let want = |_: &Case| {
                    vec![round(&reference(&case(&[1, 4, 6, 5], &[6, 2, 3, 2]).int("group", 2).ints("pads", &[1, 1, 0, 1]).input(random(&[6], 3)))[0])]
                };
                crate::testing::check(&DEF, want, Tolerance { rel: $rel, abs: $rel }, &narrow);
            }};
        }
        same!(f64, |&x| f64::from(x), 1e-5);
        same!(f16, |&x| f16::from_f32(x), 1e-2);
        same!(bf16, |&x| bf16::from_f32(x), 6e-2);
    }

    #[test]
    fn contradictions_are_errors() {
        let op = DEF
            .instantiate(22, BuildCx { version: 22, attributes: &case(&[1], &[1]).int("group", 2).attributes, inputs: 2, outputs: 1, subgraphs: &[] })
            .unwrap();
        let infer = |x: &[usize], w: &[usize]| {
            let (x, w) = (Fact::concrete(DType::F32, x), Fact::concrete(DType::F32, w));
            op.infer(&InferCx { path: "", inputs: &[Some(&x), Some(&w)], outputs: 1 })
        };
        assert!(infer(&[1, 4, 5, 5], &[6, 2, 3, 3]).is_ok());
        assert!(infer(&[1, 4, 5, 5], &[6, 4, 3, 3]).is_err(), "channels");
        assert!(infer(&[1, 4, 5, 5], &[5, 2, 3, 3]).is_err(), "groups");
        assert!(infer(&[1, 4, 5], &[6, 2, 3, 3]).is_err(), "rank");
        assert!(infer(&[1, 4, 5, 5], &[6, 2, 7, 3]).is_err(), "the window does not fit");
        assert!(infer(&[1], &[6]).is_err(), "no channels");
    }
}
