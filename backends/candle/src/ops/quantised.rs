//! A linear layer whose weights have 8 or 4 bits and share a scale in blocks of 32: `x · (q · scale)ᵀ + bias`, as ggml's `Q8_0` and
//! `Q4_0` store them. Only the weights are quantised: `x` stays f32, where ggml and Candle round it to 8 bits too.

use super::{
    Epilogue, OpError,
    call::{Arg, Call, dense, level},
    linear::rows_of,
    weight::{Vector, own},
};
use crate::{kernel::bytes_of, workers::workers};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Shape as CandleShape, Storage, Tensor};
use millstream_gemm::{BLOCK, BlockBits, BlockGemm, PackedBlocks};
use millstream_ops::quantize::mat_mul_n_bits::MatMulNBits;
use millstream_tensor::{AlignedBytes, Shape, TensorError, WorkerScratch};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const NAME: &str = "millstream quantised linear";

/// Bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// From -127 to 127.
    Eight,
    /// From -8 to 7.
    Four,
}

/// A linear layer with weights of few bits, packed.
#[derive(Debug, Clone)]
pub struct QuantisedLinear {
    weight: Narrow,
    bias: Option<Vector>,
    activation: Epilogue,
}

/// The weight, where it was made.
#[derive(Debug, Clone)]
enum Narrow {
    /// In the CPU's form.
    Packed(Arc<PackedBlocks>),
    /// On a CUDA device, as `MatMulNBits` has it.
    OnDevice { op: MatMulNBits, codes: Tensor, scales: Tensor },
}

impl QuantisedLinear {
    /// Rows of the weight that share a scale.
    pub const BLOCK: usize = BLOCK;

    /// Quantises a layer of f32: `weight` is `[outputs, inputs]` as in `candle_nn::Linear`, `bias` `[outputs]`. On a CUDA device the
    /// weight may be of f16 or bf16; scales and `x` are of its type then.
    ///
    /// # Errors
    /// [`OpError::Dims`] and [`OpError::DType`] where the weights do not fit, [`OpError::Product`] without memory.
    pub fn quantise(weight: &Tensor, bias: Option<&Tensor>, bits: Bits, activation: Epilogue) -> Result<QuantisedLinear, OpError> {
        let &[outputs, inputs] = weight.dims() else {
            return Err(OpError::Dims { op: NAME, what: "a weight of two axes is expected", found: weight.dims().to_vec() });
        };
        if let Some(b) = bias.filter(|b| b.dims() != [outputs]) {
            return Err(OpError::Dims { op: NAME, what: "a bias of one element for each output is expected", found: b.dims().to_vec() });
        }
        let bits = match bits {
            Bits::Eight => BlockBits::Eight,
            Bits::Four => BlockBits::Four,
        };
        let bias = bias.map(|b| Vector::new(NAME, 2, b)).transpose()?;
        let here = if weight.device().is_cuda() { weight.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)? } else { weight.clone() };
        let rows = own(NAME, 1, &here)?;
        let rows = rows.as_slice::<f32>().map_err(|error| OpError::Tensor { op: NAME, error })?;
        let packed = PackedBlocks::quantised(level(), bits, rows, inputs, outputs).map_err(|error| OpError::Product { op: NAME, error })?;
        let weight = if weight.device().is_cuda() { Narrow::on_device(&packed, bits, activation, weight)? } else { Narrow::Packed(Arc::new(packed)) };
        Ok(QuantisedLinear { weight, bias, activation })
    }

    /// The layer of `x`, `[.., inputs]` of f32: `[.., outputs]`.
    ///
    /// # Errors
    /// [`OpError::Dims`] and [`OpError::DType`] where `x` does not fit, [`OpError::Device`] if it is on another device than the weight.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, OpError> {
        if let Narrow::OnDevice { op, .. } = &self.weight {
            let [inputs, outputs] = op.dims();
            let (rows, mut dims) = rows_of(NAME, x.dims(), inputs)?;
            dims.push(outputs);
            let shape = Shape::new(&[rows, inputs]).map_err(|error| OpError::Tensor { op: NAME, error })?;
            let mut args = vec![Arg::Reshaped(x, shape)];
            args.extend(self.beside());
            return Ok(Call { name: NAME, op }.run(&args, 1)?.swap_remove(0).reshape(dims)?);
        }
        let dense = dense(NAME, 0, x)?;
        let (storage, layout) = dense.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { return Err(OpError::Device { op: NAME, input: 0, device: "another device".into() }) };
        let (y, dims) = self.product(storage, layout)?;
        Ok(Tensor::from_vec(y, dims, &Device::Cpu)?)
    }

    /// The weight as it is computed with: `[outputs, inputs]` of f32, on the CPU.
    ///
    /// # Errors
    /// [`OpError::Product`] or [`OpError::Candle`] without memory.
    pub fn dequantise(&self) -> Result<Tensor, OpError> {
        match &self.weight {
            Narrow::Packed(packed) => {
                let (k, n) = packed.dims();
                let mut rows = vec![0.0; k * n];
                packed.widened(&mut rows).map_err(|error| OpError::Product { op: NAME, error })?;
                Ok(Tensor::from_vec(rows, (n, k), &Device::Cpu)?)
            }
            Narrow::OnDevice { op, codes, scales } => {
                let [k, n] = op.dims();
                let codes = codes.to_device(&Device::Cpu)?.to_vec1::<u8>()?;
                let scales = scales.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?;
                let blocks = k.div_ceil(BLOCK);
                let code = |at: usize| match op.bits() {
                    BlockBits::Eight => i16::from(codes[at]) - 128,
                    BlockBits::Four => i16::from(codes[at / 2] >> (at % 2 * 4) & 15) - 8,
                };
                let weight = |at: usize| f32::from(code(at / k * blocks * BLOCK + at % k)) * scales[at / k * blocks + at % k / BLOCK];
                Ok(Tensor::from_vec((0..n * k).map(weight).collect(), (n, k), &Device::Cpu)?)
            }
        }
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Narrow::Packed(packed) => packed.bytes(),
            Narrow::OnDevice { codes, scales, .. } => codes.elem_count() + scales.elem_count() * scales.dtype().size_in_bytes(),
        }
    }

    /// The inputs behind the first, where the weight is on a device.
    fn beside(&self) -> Vec<Arg<'_>> {
        let Narrow::OnDevice { codes, scales, .. } = &self.weight else { return vec![] };
        vec![Arg::Tensor(codes), Arg::Tensor(scales), Arg::Absent, Arg::Absent, Vector::arg(self.bias.as_ref())]
    }

    /// The CPU's weight.
    fn packed(&self) -> Result<&PackedBlocks, OpError> {
        match &self.weight {
            Narrow::Packed(packed) => Ok(packed),
            Narrow::OnDevice { .. } => Err(OpError::Device { op: NAME, input: 0, device: "the CPU, and the weight on a CUDA device".into() }),
        }
    }

    fn product(&self, storage: &CpuStorage, layout: &Layout) -> Result<(Vec<f32>, Vec<usize>), OpError> {
        let (k, n) = self.packed()?.dims();
        let (m, mut dims) = rows_of(NAME, layout.dims(), k)?;
        dims.push(n);
        let found = || {
            use candle_core::backend::BackendStorage;
            OpError::DType { op: NAME, input: 0, found: storage.dtype().as_str(), wanted: "f32" }
        };
        let range = layout.contiguous_offsets().ok_or(OpError::Dims { op: NAME, what: "a dense tensor is expected", found: layout.dims().to_vec() })?;
        let (dtype, bytes) = bytes_of(storage, range).ok_or_else(found)?;
        if dtype != millstream_tensor::DType::F32 {
            return Err(found());
        }
        let a: &[f32] = bytemuck::cast_slice(bytes);
        let memory = |bytes: usize| OpError::Tensor { op: NAME, error: TensorError::OutOfMemory(bytes) };
        let mut y = bytemuck::allocation::try_zeroed_vec(m * n).map_err(|()| memory(m * n * size_of::<f32>()))?;
        self.fill(a, m, &mut y)?;
        Ok((y, dims))
    }

    fn fill(&self, a: &[f32], m: usize, y: &mut [f32]) -> Result<(), OpError> {
        let weight = self.packed()?;
        let (k, n) = weight.dims();
        let wrong = |error| OpError::Product { op: NAME, error };
        let bias = if let Some(Vector::Own(b)) = &self.bias { b.as_slice::<f32>().ok() } else { None };
        let epilogue = millstream_gemm::Epilogue { bias_cols: bias, activation: self.activation, ..Default::default() };
        let job = BlockGemm::new(level(), m, k, n);
        let part = (job.scratch_len() * size_of::<f32>()).next_multiple_of(64);
        let workers = workers();
        let mut memory = AlignedBytes::zeroed(part * workers.max()).map_err(|error| OpError::Tensor { op: NAME, error })?;
        let tiles = job.tiles(y).map_err(wrong)?;
        let failed = AtomicBool::new(false);
        let scratch = WorkerScratch::new(memory.as_mut(), part, workers.max());
        let grain = |grain: usize, worker: usize| {
            let ran = scratch
                .claim(worker)
                .is_some_and(|mut part| job.run_grain(grain, a, &weight.blocks(), &tiles, &epilogue, bytemuck::cast_slice_mut(&mut part)).is_ok());
            if !ran {
                failed.store(true, Ordering::Relaxed);
            }
        };
        workers.enter(&mut |parallel| parallel.run(job.grains(), &grain));
        if failed.into_inner() { Err(wrong(millstream_gemm::GemmError::Grain(0))) } else { Ok(()) }
    }
}

impl Narrow {
    /// The bytes of a packed weight on the device of another tensor, scales in its type.
    fn on_device(packed: &PackedBlocks, bits: BlockBits, activation: Epilogue, like: &Tensor) -> Result<Narrow, OpError> {
        let ((k, n), blocks) = (packed.dims(), packed.blocks());
        let op = MatMulNBits::new(k, n, bits, BLOCK).and_then(|op| if activation == Epilogue::None { Some(op) } else { op.with_activation(activation) });
        let op = op.ok_or(OpError::Dims { op: NAME, what: "a weight of at least one element is expected", found: vec![n, k] })?;
        let groups = k.div_ceil(BLOCK);
        // What lies past the last column is multiplied by nothing.
        let code = |j: usize, i: usize| if i < k { blocks.codes.code(i, j) } else { 0 };
        let row = |j: usize| (0..groups * BLOCK).map(move |i| (j, i));
        let codes: Vec<u8> = match bits {
            BlockBits::Eight => (0..n).flat_map(row).map(|(j, i)| code(j, i) as u8 ^ 128).collect(),
            BlockBits::Four => (0..n).flat_map(row).step_by(2).map(|(j, i)| code(j, i) as u8 | (code(j, i + 1) as u8) << 4).collect(),
        };
        let scales: Vec<f32> = (0..n * groups).map(|at| blocks.scales.at(at % groups * BLOCK, at / groups)).collect();
        let scales = Tensor::from_vec(scales, n * groups, &Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())?;
        Ok(Narrow::OnDevice { op, codes: Tensor::from_vec(codes, n * groups * bits.bytes_of_block(), like.device())?, scales })
    }
}

impl Module for QuantisedLinear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.run(x)?)
    }
}

impl CustomOp1 for QuantisedLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, CandleShape)> {
        let (y, dims) = match layout.contiguous_offsets() {
            Some(_) => self.product(x, layout)?,
            None => self.product(&super::call::gathered(x, layout)?, &Layout::contiguous(layout.shape()))?,
        };
        Ok((CpuStorage::F32(y), CandleShape::from(dims)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, CandleShape)> {
        let Narrow::OnDevice { op, .. } = &self.weight else {
            return Err(OpError::Device { op: NAME, input: 0, device: "CUDA, and the weight on the CPU".into() }.into());
        };
        let [inputs, outputs] = op.dims();
        let (rows, mut dims) = rows_of(NAME, layout.dims(), inputs)?;
        dims.push(outputs);
        let shape = Shape::new(&[rows, inputs]).map_err(|error| OpError::Tensor { op: NAME, error })?;
        Ok((Call { name: NAME, op }.run_beside_on_cuda((x, layout, shape), &self.beside())?, CandleShape::from(dims)))
    }
}
