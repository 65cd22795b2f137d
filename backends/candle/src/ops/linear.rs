//! A linear layer with what follows it: `activation(x · Wᵀ + bias + residual)`, with the weight packed once for the machine's
//! microkernel and everything behind the product done while its tile is in registers (Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008).

use super::{
    Epilogue, OpError,
    call::{Arg, Call},
    weight::{Vector, Weight},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Module, Shape as CandleShape, Tensor};
use millstream_ops::matmul::mat_mul::MatMul;
use millstream_tensor::Shape;

const NAME: &str = "millstream linear";

/// A linear layer whose weight is packed.
#[derive(Debug, Clone)]
pub struct PackedLinear {
    op: MatMul,
    with_residual: MatMul,
    weight: Weight,
    bias: Option<Vector>,
    inputs: usize,
    outputs: usize,
}

impl PackedLinear {
    /// Packs a layer of f32: `weight` is `[outputs, inputs]` as in `candle_nn::Linear`, `bias` `[outputs]`. `activation` is
    /// [`Epilogue::None`] for the layer alone. A weight on a CUDA device stays there as it is, and may be of f16 or bf16.
    ///
    /// # Errors
    /// [`OpError::Dims`] and [`OpError::DType`] where the weights do not fit, [`OpError::Tensor`] without memory.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, activation: Epilogue) -> Result<PackedLinear, OpError> {
        let &[outputs, inputs] = weight.dims() else {
            return Err(OpError::Dims { op: NAME, what: "a weight of two axes is expected", found: weight.dims().to_vec() });
        };
        if let Some(b) = bias.filter(|b| b.dims() != [outputs]) {
            return Err(OpError::Dims { op: NAME, what: "a bias of one element for each output is expected", found: b.dims().to_vec() });
        }
        let unfit = || OpError::Dims { op: NAME, what: "a weight of two axes is expected", found: vec![outputs, inputs] };
        let plain = MatMul::default().with_transposed_input(1, &[1, 0]).ok_or_else(unfit)?;
        let op = plain.with_activation(activation).ok_or_else(unfit)?;
        let with_residual = plain.with_residual().and_then(|op| op.with_activation(activation)).ok_or_else(unfit)?;
        let bias = bias.map(|b| Vector::new(NAME, 2, b)).transpose()?;
        Ok(PackedLinear { weight: Weight::new(NAME, &op, weight)?, op, with_residual, bias, inputs, outputs })
    }

    /// The layer of `x`, `[.., inputs]` of f32: `[.., outputs]`.
    ///
    /// # Errors
    /// [`OpError::Dims`] and [`OpError::Shapes`] where `x` does not fit, [`OpError::Device`] if it is on another device than the weight.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, OpError> {
        self.product(x, None)
    }

    /// The same with `residual`, of the result's shape, added before the activation.
    ///
    /// # Errors
    /// As [`PackedLinear::run`].
    pub fn run_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, OpError> {
        self.product(x, Some(residual))
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    fn product(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor, OpError> {
        let (rows, mut dims) = rows_of(NAME, x.dims(), self.inputs)?;
        dims.push(self.outputs);
        if let Some(r) = residual.filter(|r| r.dims() != dims) {
            return Err(OpError::Dims { op: NAME, what: "a residual of the result's dims is expected", found: r.dims().to_vec() });
        }
        let shape = |dims: &[usize]| Shape::new(dims).map_err(|error| OpError::Tensor { op: NAME, error });
        let mut args = vec![Arg::Reshaped(x, shape(&[rows, self.inputs])?), self.weight.arg(), Vector::arg(self.bias.as_ref())];
        let op = match residual {
            Some(r) => {
                args.push(Arg::Reshaped(r, shape(&[rows, self.outputs])?));
                &self.with_residual
            }
            None => &self.op,
        };
        Ok(Call { name: NAME, op }.run(&args, 1)?.swap_remove(0).reshape(dims)?)
    }
}

/// How many rows of `inputs` elements these dims are, and the dims before the last.
pub(crate) fn rows_of(op: &'static str, dims: &[usize], inputs: usize) -> Result<(usize, Vec<usize>), OpError> {
    match dims.split_last() {
        Some((&last, outer)) if last == inputs => Ok((outer.iter().product(), outer.to_vec())),
        _ => Err(OpError::Dims { op, what: "a last axis as long as the layer has inputs is expected", found: dims.to_vec() }),
    }
}

impl Module for PackedLinear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.run(x)?)
    }
}

impl CustomOp1 for PackedLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, CandleShape)> {
        let (rows, mut dims) = rows_of(NAME, layout.dims(), self.inputs)?;
        dims.push(self.outputs);
        let shape = Shape::new(&[rows, self.inputs]).map_err(|error| OpError::Tensor { op: NAME, error })?;
        let call = Call { name: NAME, op: &self.op };
        let made = call.run_beside((x, layout, shape), &[self.weight.arg(), Vector::arg(self.bias.as_ref())])?;
        Ok((made, CandleShape::from(dims)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, CandleShape)> {
        let (rows, mut dims) = rows_of(NAME, layout.dims(), self.inputs)?;
        dims.push(self.outputs);
        let shape = Shape::new(&[rows, self.inputs]).map_err(|error| OpError::Tensor { op: NAME, error })?;
        let call = Call { name: NAME, op: &self.op };
        let made = call.run_beside_on_cuda((x, layout, shape), &[self.weight.arg(), Vector::arg(self.bias.as_ref())])?;
        Ok((made, CandleShape::from(dims)))
    }
}
