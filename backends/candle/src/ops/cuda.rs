//! Operators on Candle's CUDA devices: our kernels, launched on Candle's memory into the device's own stream, in order with whatever
//! Candle sends there. Nothing waits for the device.

use super::{
    OpError,
    call::{Arg, Call},
};
use crate::{held::by_shared_type, kernel::Wanted};
use candle_core::{CudaDevice, CudaStorage, Device, Storage, Tensor, backend::BackendStorage, op::BackpropOp};
use millstream_cuda::{CudaError, Guest, Operand, cudarc::driver::CudaSlice};
use millstream_engine::describe;
use millstream_graph::Spec;
use millstream_tensor::{DType, Layout, Shape, bf16, f16};

/// Elements on a device: Candle's, or a copy of ours.
enum Memory<'a> {
    Candle(&'a CudaStorage),
    Own(CudaSlice<u8>),
}

/// An input of a launch.
struct Given<'a> {
    memory: Memory<'a>,
    dtype: DType,
    first: usize,
    shape: Shape,
    strides: Vec<usize>,
}

/// The device that an operator of these arguments runs on, if it is CUDA's: that of the first tensor.
pub(crate) fn device_of(args: &[Arg<'_>]) -> Option<CudaDevice> {
    match args.iter().find_map(|arg| arg.tensor())?.device() {
        Device::Cuda(device) => Some(device.clone()),
        _ => None,
    }
}

impl Call<'_> {
    /// [`Call::run`] on a CUDA device.
    pub(crate) fn run_on_cuda(&self, device: &CudaDevice, args: &[Arg<'_>], outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let held: Vec<_> = args.iter().map(|arg| arg.tensor().map(Tensor::storage_and_layout)).collect();
        let mut given = Vec::with_capacity(args.len());
        for (input, (arg, held)) in args.iter().zip(&held).enumerate() {
            given.push(match (arg, held) {
                (_, Some((storage, layout))) => match &**storage {
                    Storage::Cuda(storage) => Some(self.given(input, arg, storage, layout)?),
                    _ => return Err(self.elsewhere(input, "another device than input 0")),
                },
                (Arg::Own(t), _) => Some(self.copied(device, t)?),
                (Arg::Absent, _) => None,
                (_, None) => return Err(self.elsewhere(input, "the CPU, packed for its kernels")),
            });
        }
        let made = self.launched(device, given, outputs)?;
        let tensor = |(storage, shape): (CudaStorage, Shape)| Tensor::from_storage(Storage::Cuda(storage), shape.dims(), BackpropOp::none(), false);
        Ok(made.into_iter().map(tensor).collect())
    }

    /// [`Call::run_stored`] on a CUDA device.
    pub(crate) fn run_stored_on_cuda(&self, args: &[(&CudaStorage, &candle_core::Layout)]) -> Result<(CudaStorage, candle_core::Shape), OpError> {
        let Some((first, _)) = args.first() else { return Err(self.elsewhere(0, "no device")) };
        let given = args.iter().enumerate().map(|(input, (storage, layout))| Ok(Some(self.stored(input, storage, layout)?))).collect::<Result<_, OpError>>()?;
        let (storage, shape) = self.launched(first.device(), given, 1)?.swap_remove(0);
        Ok((storage, candle_core::Shape::from(shape.dims())))
    }

    /// [`Call::run_beside`] on a CUDA device.
    pub(crate) fn run_beside_on_cuda(
        &self,
        (x, layout, shape): (&CudaStorage, &candle_core::Layout, Shape),
        others: &[Arg<'_>],
    ) -> Result<CudaStorage, OpError> {
        let seen = self.reshaped(self.stored(0, x, layout)?, layout.is_contiguous(), x.device(), &shape)?;
        let mut given = vec![Some(seen)];
        let held: Vec<_> = others.iter().map(|arg| arg.tensor().map(Tensor::storage_and_layout)).collect();
        for (input, (arg, held)) in (1..).zip(others.iter().zip(&held)) {
            given.push(match held.as_ref().map(|(storage, layout)| (&**storage, layout)) {
                Some((Storage::Cuda(storage), layout)) => Some(self.given(input, arg, storage, layout)?),
                None if matches!(arg, Arg::Absent) => None,
                _ => return Err(self.elsewhere(input, "the CPU")),
            });
        }
        Ok(self.launched(x.device(), given, 1)?.swap_remove(0).0)
    }

    fn elsewhere(&self, input: usize, device: &str) -> OpError {
        OpError::Device { op: self.name, input, device: device.into() }
    }

    fn failed(&self, error: CudaError) -> OpError {
        OpError::Cuda { op: self.name, error }
    }

    /// An argument's elements.
    fn given<'s>(&self, input: usize, arg: &Arg<'_>, storage: &'s CudaStorage, layout: &candle_core::Layout) -> Result<Given<'s>, OpError> {
        let seen = self.stored(input, storage, layout)?;
        match arg {
            Arg::Truth(_) => Ok(Given { dtype: DType::Bool, ..seen }),
            Arg::Reshaped(_, shape) => self.reshaped(seen, layout.is_contiguous(), storage.device(), shape),
            _ => Ok(seen),
        }
    }

    fn stored<'s>(&self, input: usize, storage: &'s CudaStorage, layout: &candle_core::Layout) -> Result<Given<'s>, OpError> {
        let wanted = "a type that millstream has";
        let dtype = crate::held::shared_dtype(storage.dtype()).ok_or(OpError::DType { op: self.name, input, found: storage.dtype().as_str(), wanted })?;
        let shape = Shape::new(layout.dims()).map_err(|error| OpError::Tensor { op: self.name, error })?;
        Ok(Given { memory: Memory::Candle(storage), dtype, first: layout.start_offset(), shape, strides: layout.stride().to_vec() })
    }

    /// A tensor of ours, copied to the device.
    fn copied(&self, device: &CudaDevice, t: &millstream_tensor::Tensor) -> Result<Given<'static>, OpError> {
        let view = t.view();
        let bytes = view.bytes().map_err(|error| OpError::Tensor { op: self.name, error })?;
        let memory = Memory::Own(device.clone_htod(bytes)?);
        Ok(Given { memory, dtype: t.dtype(), first: 0, shape: *t.shape(), strides: row_major(t.shape()) })
    }

    /// The same elements under another shape: a copy, if they do not lie one behind the other.
    fn reshaped<'s>(&self, seen: Given<'s>, is_dense: bool, device: &CudaDevice, shape: &Shape) -> Result<Given<'s>, OpError> {
        if shape.elements() != seen.shape.elements() {
            return Err(OpError::Dims { op: self.name, what: "another number of elements is expected", found: seen.shape.dims().to_vec() });
        }
        let seen = Given { strides: row_major(shape), shape: *shape, ..if is_dense { seen } else { self.dense(&seen, device)? } };
        Ok(seen)
    }

    /// A dense copy.
    fn dense(&self, seen: &Given<'_>, device: &CudaDevice) -> Result<Given<'static>, OpError> {
        let copy = || {
            let guest = Guest::on(&device.cuda_stream())?;
            guest.dense(&seen.operand(&guest)?)
        };
        match copy().map_err(|e| self.failed(e))? {
            Some(bytes) => Ok(Given { memory: Memory::Own(bytes), dtype: seen.dtype, first: 0, shape: seen.shape, strides: row_major(&seen.shape) }),
            None => Err(OpError::NoKernel { op: self.name, inputs: describe([Some(Spec::row_major(seen.dtype, seen.shape))].into_iter()) }),
        }
    }

    fn launched(&self, device: &CudaDevice, given: Vec<Option<Given<'_>>>, outputs: usize) -> Result<Vec<(CudaStorage, Shape)>, OpError> {
        let specs: Vec<Option<Spec>> = given.iter().map(|g| g.as_ref().map(|g| Spec::row_major(g.dtype, g.shape))).collect();
        let guest = Guest::on(&device.cuda_stream()).map_err(|e| self.failed(e))?;
        let mut made = Vec::with_capacity(outputs);
        for spec in self.results(&specs, outputs)? {
            made.push((self.room(&guest, device, &spec)?, spec));
        }
        let mut inputs = Vec::with_capacity(given.len());
        for g in &given {
            inputs.push(g.as_ref().map(|g| g.operand(&guest)).transpose().map_err(|e| self.failed(e))?);
        }
        let mut places = Vec::with_capacity(made.len());
        for (storage, spec) in &mut made {
            places.push(by_shared_type!(spec.dtype, T => Some(guest.output(storage.as_cuda_slice_mut::<T>()?, *spec).map_err(|e| self.failed(e))?), _ => None));
        }
        if !guest.launch(self.op, &inputs, &places).map_err(|e| self.failed(e))? {
            return Err(OpError::NoKernel { op: self.name, inputs: describe(specs.iter().copied()) });
        }
        drop((places, inputs));
        Ok(made.into_iter().map(|(storage, spec)| (storage, *spec.shape())).collect())
    }

    /// The outputs' types and shapes. Where all floats are halves of one type, as if they were f32: the device has kernels where the CPU
    /// has none.
    fn results(&self, specs: &[Option<Spec>], outputs: usize) -> Result<Vec<Spec>, OpError> {
        let floats = || specs.iter().flatten().map(|s| s.dtype).filter(|d| d.is_float());
        let half = floats().next().filter(|d| matches!(d, DType::F16 | DType::BF16) && floats().all(|other| other == *d));
        let exchanged = |dtype, from, to| if Some(dtype) == from { to } else { dtype };
        let wide: Vec<Option<Spec>> = specs.iter().map(|s| s.map(|s| Spec { dtype: exchanged(s.dtype, half, DType::F32), ..s })).collect();
        let planned = |w: Wanted| if let Wanted::Planned(spec) = w { Some(spec) } else { None };
        let made = self.infer(&wide, outputs)?.into_iter().filter_map(planned);
        Ok(made.map(|s| Spec { dtype: half.map_or(s.dtype, |half| exchanged(s.dtype, Some(DType::F32), half)), ..s }).collect())
    }

    /// Memory of Candle's for an output.
    fn room(&self, guest: &Guest, device: &CudaDevice, spec: &Spec) -> Result<CudaStorage, OpError> {
        by_shared_type!(spec.dtype, T => {
            let slice = guest.room::<T>(spec.shape().elements().max(1)).map_err(|e| self.failed(e))?;
            Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
        }, _ => Err(self.elsewhere(0, "CUDA, where Candle lacks the result's element type")))
    }
}

impl Given<'_> {
    fn operand<'a>(&'a self, guest: &'a Guest) -> Result<Operand<'a>, CudaError> {
        match &self.memory {
            Memory::Own(bytes) => guest.operand(bytes, self.first, self.dtype, self.shape, &self.strides),
            Memory::Candle(storage) => {
                // Booleans are Candle's bytes.
                let dtype = if self.dtype == DType::Bool { DType::U8 } else { self.dtype };
                by_shared_type!(dtype, T => match storage.as_cuda_slice::<T>() {
                    Ok(slice) => guest.operand(slice, self.first, self.dtype, self.shape, &self.strides),
                    Err(_) => Err(CudaError::Range { offset: 0, end: 0, bytes: 0 }),
                }, _ => Err(CudaError::Range { offset: 0, end: 0, bytes: 0 }))
            }
        }
    }
}

fn row_major(shape: &Shape) -> Vec<usize> {
    Layout::row_major(*shape).strides().to_vec()
}
