//! Convolution of images with any number of groups, and what follows it: `activation(conv(x, weight) + bias)`. One call whatever the
//! number of groups: depthwise windows have a kernel of their own, dense ones of 3 × 3 run by Winograd's algorithm where that pays
//! (Lavin and Gray, arXiv 1509.09308; with packed weights), the others as products of windows without an im2col.

use super::{
    Epilogue, OpError,
    build::Build,
    call::{Arg, Call},
    weight::{Vector, Weight},
};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Module, Shape as CandleShape, Tensor};
use millstream_ops::conv::conv::{self, Conv};

const NAME: &str = "millstream conv2d";

/// A convolution's parameters, the same for both axes as in Candle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2d {
    /// Zeros around the image.
    pub padding: usize,
    /// From one window to the next.
    pub stride: usize,
    /// From one element of a window to the next.
    pub dilation: usize,
    /// Convolutions side by side, each on its share of the channels.
    pub groups: usize,
    /// What follows the convolution and its bias.
    pub activation: Epilogue,
}

impl Default for Conv2d {
    fn default() -> Conv2d {
        Conv2d { padding: 0, stride: 1, dilation: 1, groups: 1, activation: Epilogue::None }
    }
}

impl Conv2d {
    fn op(&self) -> Result<Conv, OpError> {
        let build = Build::default().ints("pads", &[self.padding; 4]).ints("strides", &[self.stride; 2]).ints("dilations", &[self.dilation; 2]);
        let op = build.int("group", self.groups).make(NAME, &conv::DEF)?;
        let made = op.downcast_ref::<Conv>().and_then(|c| c.with_activation(self.activation));
        made.ok_or(OpError::Dims { op: NAME, what: "a convolution is expected", found: vec![] })
    }
}

/// Convolves `x`, `[batch, channels, height, width]`, with `weight`, `[outputs, channels / groups, height, width]`, and adds `bias`,
/// `[outputs]`. All are of f32; without an activation of f64, f16 or bf16 too.
///
/// The weight is packed in each call: where it stays the same, use [`PackedConv2d`].
///
/// # Errors
/// [`OpError::Shapes`] and [`OpError::Parameter`] where types, shapes or parameters do not fit, [`OpError::Device`] for tensors on
/// other devices than the CPU and CUDA's.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv2d) -> Result<Tensor, OpError> {
    let op = conv.op()?;
    images(x.dims())?;
    Ok(Call { name: NAME, op: &op }.run(&[Arg::Tensor(x), Arg::Tensor(weight), Arg::optional(bias)], 1)?.swap_remove(0))
}

fn images(dims: &[usize]) -> Result<(), OpError> {
    if dims.len() == 4 { Ok(()) } else { Err(OpError::Dims { op: NAME, what: "images of four axes are expected", found: dims.to_vec() }) }
}

/// A convolution whose weight is packed.
#[derive(Debug, Clone)]
pub struct PackedConv2d {
    op: Conv,
    weight: Weight,
    bias: Option<Vector>,
}

impl PackedConv2d {
    /// Packs a convolution of f32; shapes as for [`conv2d`]. A weight on a CUDA device stays there as it is, and may be of f16 or bf16.
    ///
    /// # Errors
    /// [`OpError::Dims`], [`OpError::DType`] and [`OpError::Parameter`] where the weights do not fit, [`OpError::Tensor`] without
    /// memory.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, conv: Conv2d) -> Result<PackedConv2d, OpError> {
        images(weight.dims())?;
        if weight.dim(0)? % conv.groups.max(1) != 0 {
            return Err(OpError::Dims { op: NAME, what: "outputs that divide into groups are expected", found: weight.dims().to_vec() });
        }
        let op = conv.op()?;
        let op = op.with_winograd(weight.dims(), None).unwrap_or(op);
        Ok(PackedConv2d { weight: Weight::new(NAME, &op, weight)?, bias: bias.map(|b| Vector::new(NAME, 2, b)).transpose()?, op })
    }

    /// Convolves `x`, `[batch, channels, height, width]` of f32.
    ///
    /// # Errors
    /// [`OpError::Shapes`] where `x` does not fit, [`OpError::Device`] if it is on another device than the weight.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, OpError> {
        images(x.dims())?;
        let args = [Arg::Tensor(x), self.weight.arg(), Vector::arg(self.bias.as_ref())];
        Ok(Call { name: NAME, op: &self.op }.run(&args, 1)?.swap_remove(0))
    }
}

impl Module for PackedConv2d {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.run(x)?)
    }
}

/// `x.apply_op2_no_bwd(&weight, &conv)`: without a bias.
impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, CandleShape)> {
        images(lx.dims())?;
        Ok(Call { name: NAME, op: &self.op()? }.run_stored(&[(x, lx), (w, lw)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> candle_core::Result<(CudaStorage, CandleShape)> {
        images(lx.dims())?;
        Ok(Call { name: NAME, op: &self.op()? }.run_stored_on_cuda(&[(x, lx), (w, lw)])?)
    }
}

/// `x.apply_op3_no_bwd(&weight, &bias, &conv)`.
impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> candle_core::Result<(CpuStorage, CandleShape)> {
        images(lx.dims())?;
        Ok(Call { name: NAME, op: &self.op()? }.run_stored(&[(x, lx), (w, lw), (b, lb)])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CudaStorage, CandleShape)> {
        images(lx.dims())?;
        Ok(Call { name: NAME, op: &self.op()? }.run_stored_on_cuda(&[(x, lx), (w, lw), (b, lb)])?)
    }
}
