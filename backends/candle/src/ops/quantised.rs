//! A linear layer whose weights have 8 or 4 bits and share a scale in blocks of 32: `x · (q · scale)ᵀ + bias`, as ggml's `Q8_0` and
//! `Q4_0` store them. Only the weights are quantised: `x` stays f32, where ggml and Candle round it to 8 bits too.

use super::{
    Epilogue, OpError,
    call::{dense, level},
    linear::rows_of,
    weight::own,
};
use crate::{kernel::bytes_of, workers::workers};
use candle_core::{CpuStorage, CustomOp1, Layout, Module, Shape as CandleShape, Storage, Tensor};
use millstream_gemm::{BLOCK, BlockBits, BlockGemm, PackedBlocks};
use millstream_tensor::{AlignedBytes, TensorError, WorkerScratch};
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
    weight: Arc<PackedBlocks>,
    bias: Option<millstream_tensor::Tensor>,
    activation: Epilogue,
}

impl QuantisedLinear {
    /// Rows of the weight that share a scale.
    pub const BLOCK: usize = BLOCK;

    /// Quantises a layer of f32: `weight` is `[outputs, inputs]` as in `candle_nn::Linear`, `bias` `[outputs]`.
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
        let rows = own(NAME, 1, weight)?;
        let rows = rows.as_slice::<f32>().map_err(|error| OpError::Tensor { op: NAME, error })?;
        let packed = PackedBlocks::quantised(level(), bits, rows, inputs, outputs).map_err(|error| OpError::Product { op: NAME, error })?;
        Ok(QuantisedLinear { weight: Arc::new(packed), bias: bias.map(|b| own(NAME, 2, b)).transpose()?, activation })
    }

    /// The layer of `x`, `[.., inputs]` of f32: `[.., outputs]`.
    ///
    /// # Errors
    /// [`OpError::Dims`] and [`OpError::DType`] where `x` does not fit, [`OpError::Device`] if it is elsewhere than on the CPU.
    pub fn run(&self, x: &Tensor) -> Result<Tensor, OpError> {
        let dense = dense(NAME, 0, x)?;
        let (storage, layout) = dense.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { return Err(OpError::Device { op: NAME, input: 0, device: "another device".into() }) };
        let (y, dims) = self.product(storage, layout)?;
        Ok(Tensor::from_vec(y, dims, &candle_core::Device::Cpu)?)
    }

    /// The weight as it is computed with: `[outputs, inputs]` of f32.
    ///
    /// # Errors
    /// [`OpError::Product`] or [`OpError::Candle`] without memory.
    pub fn dequantise(&self) -> Result<Tensor, OpError> {
        let (k, n) = self.weight.dims();
        let mut rows = vec![0.0; k * n];
        self.weight.widened(&mut rows).map_err(|error| OpError::Product { op: NAME, error })?;
        Ok(Tensor::from_vec(rows, (n, k), &candle_core::Device::Cpu)?)
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    fn product(&self, storage: &CpuStorage, layout: &Layout) -> Result<(Vec<f32>, Vec<usize>), OpError> {
        let (k, n) = self.weight.dims();
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
        let (k, n) = self.weight.dims();
        let wrong = |error| OpError::Product { op: NAME, error };
        let bias = self.bias.as_ref().and_then(|b| b.as_slice::<f32>().ok());
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
                .is_some_and(|mut part| job.run_grain(grain, a, &self.weight.blocks(), &tiles, &epilogue, bytemuck::cast_slice_mut(&mut part)).is_ok());
            if !ran {
                failed.store(true, Ordering::Relaxed);
            }
        };
        workers.enter(&mut |parallel| parallel.run(job.grains(), &grain));
        if failed.into_inner() { Err(wrong(millstream_gemm::GemmError::Grain(0))) } else { Ok(()) }
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
}
