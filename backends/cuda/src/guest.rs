//! Our kernels on memory and a stream of somebody else's, Candle's for instance: an operator at a time, in order with whatever else
//! goes to that stream. Nothing waits for the device.
//!
//! A device's modules are loaded once a process, when its first guest comes, and stay.

use crate::{
    CudaError, Gpu,
    blas::WORKSPACE,
    call::{Argument, Calls, row_major},
    gpu::{driver_is_new_enough, locked},
    lane::Sent,
    run::tasks,
    select::{copy, launches},
};
use bytemuck::AnyBitPattern;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop};
use millstream_graph::{Fact, Op, Spec};
use millstream_tensor::{DType, Shape};
use std::sync::{Arc, Mutex};

/// Devices by the addresses of their contexts.
static DEVICES: Mutex<Vec<(usize, Gpu)>> = Mutex::new(Vec::new());

/// See the module. Clones are the same.
#[derive(Debug, Clone)]
pub struct Guest {
    gpu: Gpu,
    stream: Arc<CudaStream>,
}

/// Elements that a launch reads.
pub struct Operand<'a> {
    dtype: DType,
    shape: Shape,
    strides: Vec<i64>,
    address: u64,
    _until_sent: SyncOnDrop<'a>,
}

/// Elements that a launch writes, row-major.
pub struct Output<'a> {
    spec: Spec,
    address: u64,
    _until_sent: SyncOnDrop<'a>,
}

impl Guest {
    /// A guest on this stream.
    ///
    /// # Errors
    /// The driver or the device is too old.
    pub fn on(stream: &Arc<CudaStream>) -> Result<Guest, CudaError> {
        let context = stream.context();
        let at = context.cu_ctx() as usize;
        let mut devices = locked(&DEVICES);
        let gpu = match devices.iter().find(|(address, _)| *address == at) {
            Some((_, gpu)) => gpu.clone(),
            None => {
                driver_is_new_enough()?;
                let gpu = Gpu::of(context.clone())?;
                devices.push((at, gpu.clone()));
                gpu
            }
        };
        Ok(Guest { gpu, stream: stream.clone() })
    }

    /// The elements of `slice` from `first` on as a tensor of this type, with these strides in elements.
    ///
    /// # Errors
    /// [`CudaError::Range`] where they end behind the slice.
    pub fn operand<'a, T>(&'a self, slice: &'a CudaSlice<T>, first: usize, dtype: DType, shape: Shape, strides: &[usize]) -> Result<Operand<'a>, CudaError> {
        let last = |n: usize| shape.dims().iter().zip(strides).fold(n, |at, (&dim, &stride)| at.saturating_add(dim.saturating_sub(1).saturating_mul(stride)));
        let end = if shape.elements() == 0 { first } else { last(first).saturating_add(1) };
        let bytes = |elements: usize| elements.saturating_mul(dtype.size());
        if bytes(end) > slice.num_bytes() || strides.len() != shape.dims().len() {
            return Err(CudaError::Range { offset: bytes(first), end: bytes(end), bytes: slice.num_bytes() });
        }
        let (start, until_sent) = slice.device_ptr(&self.stream);
        let strides = strides.iter().map(|&s| i64::try_from(s).unwrap_or(i64::MAX)).collect();
        Ok(Operand { dtype, shape, strides, address: start + bytes(first) as u64, _until_sent: until_sent })
    }

    /// The elements of `slice` as an output of this type and shape.
    ///
    /// # Errors
    /// [`CudaError::Range`] where the slice is too short.
    pub fn output<'a, T>(&'a self, slice: &'a mut CudaSlice<T>, spec: Spec) -> Result<Output<'a>, CudaError> {
        if spec.bytes() > slice.num_bytes() {
            return Err(CudaError::Range { offset: 0, end: spec.bytes(), bytes: slice.num_bytes() });
        }
        let (address, until_sent) = slice.device_ptr_mut(&self.stream);
        Ok(Output { spec, address, _until_sent: until_sent })
    }

    /// Memory for `n` elements, which are whatever they are.
    ///
    /// # Errors
    /// There is none.
    pub fn room<T: DeviceRepr + AnyBitPattern>(&self, n: usize) -> Result<CudaSlice<T>, CudaError> {
        // SAFETY: any bits are an element.
        unsafe { self.stream.alloc(n) }.map_err(|_| CudaError::OutOfMemory(n.saturating_mul(size_of::<T>())))
    }

    /// Sends an operator's launches. False, and nothing is sent, if no kernel takes these types, shapes and strides. `outputs` has a
    /// place for each output of the operator, `None` where nobody reads it.
    ///
    /// Elements that index others are the caller's to keep in range: what lies outside is left out, and nobody is told.
    ///
    /// # Errors
    /// What the driver says.
    pub fn launch(&self, op: &dyn Op, inputs: &[Option<Operand<'_>>], outputs: &[Option<Output<'_>>]) -> Result<bool, CudaError> {
        if outputs.iter().flatten().all(|o| o.spec.bytes() == 0) {
            return Ok(true);
        }
        let facts: Vec<Option<Fact>> = inputs.iter().map(|i| i.as_ref().map(|i| Fact::concrete(i.dtype, &i.shape))).collect();
        let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let Some(first) = outputs.iter().flatten().next() else { return Ok(true) };
        // Nobody reads the type of an output that nobody reads.
        let specs: Vec<Spec> = outputs.iter().map(|o| o.as_ref().map_or(first.spec, |o| o.spec)).collect();
        let wanted: Vec<bool> = outputs.iter().map(Option::is_some).collect();
        let Some(calls) = launches(op, &wanted, &facts, &specs, &|_| false) else { return Ok(false) };
        let dense: Option<Vec<Dense>> = inputs.iter().map(|i| Dense::of(i.as_ref())).collect();
        let Some(dense) = dense else { return Ok(false) };
        let mut copies = Vec::with_capacity(dense.len());
        for (input, dense) in inputs.iter().zip(&dense) {
            copies.push(match (input, dense) {
                (Some(input), Dense::After(calls)) => Some(self.gathered(input, calls)?),
                _ => None,
            });
        }
        let places: Vec<Option<u64>> = inputs
            .iter()
            .zip(&copies)
            .map(|(input, copy)| match copy {
                Some(copy) => Some(copy.device_ptr(&self.stream).0),
                None => input.as_ref().map(|i| i.address),
            })
            .collect();
        let written: Vec<Option<u64>> = outputs.iter().map(|o| o.as_ref().map(|o| o.address)).collect();
        self.send(if self.gpu.has_cublas() { calls } else { calls.by_kernels() }, &places, &written)?;
        Ok(true)
    }

    /// A row-major copy; `None` if no kernel takes so many strides.
    ///
    /// # Errors
    /// What the driver says.
    pub fn dense(&self, from: &Operand<'_>) -> Result<Option<CudaSlice<u8>>, CudaError> {
        let dims = from.shape.dims();
        let calls = copy(Calls::new(), from.dtype, dims, (Argument::Input(0, 0), &from.strides), (Argument::Output(0, 0), &row_major(dims)));
        calls.map(|calls| self.gathered(from, &calls)).transpose()
    }

    /// What these launches copy of an operand.
    fn gathered(&self, from: &Operand<'_>, calls: &Calls) -> Result<CudaSlice<u8>, CudaError> {
        let mut made = self.room::<u8>(Spec::row_major(from.dtype, from.shape).bytes())?;
        let (address, until_sent) = made.device_ptr_mut(&self.stream);
        self.send(calls.clone(), &[Some(from.address)], &[Some(address)])?;
        drop(until_sent);
        Ok(made)
    }

    /// Sends calls with these addresses of inputs and outputs.
    fn send(&self, calls: Calls, inputs: &[Option<u64>], outputs: &[Option<u64>]) -> Result<(), CudaError> {
        let scratch = calls.scratch.iter().map(|&bytes| self.room::<u8>(bytes.max(1))).collect::<Result<Vec<_>, _>>()?;
        let workspace = calls.has_products().then(|| self.room::<u8>(WORKSPACE)).transpose()?;
        let fault = calls.may_fault().then(|| self.stream.alloc_zeros::<u8>(4).map_err(CudaError::of("allocating memory"))).transpose()?;
        let start = |memory: &CudaSlice<u8>| memory.device_ptr(&self.stream).0;
        let place = |places: &[Option<u64>], i: usize, offset: usize| Some(places.get(i).copied().flatten()? + offset as u64);
        let pointer = |argument: &Argument| match argument {
            Argument::Input(i, offset) => place(inputs, *i, *offset),
            Argument::Output(i, offset) => place(outputs, *i, *offset),
            Argument::Scratch(i, offset) => scratch.get(*i).map(|m| start(m) + *offset as u64),
            Argument::Workspace => workspace.as_ref().map(start),
            Argument::Fault => fault.as_ref().map(start),
            _ => None,
        };
        self.gpu.context().bind_to_thread().map_err(CudaError::of("using a device"))?;
        tasks(&self.gpu, &calls, pointer)?.iter_mut().try_for_each(|task| task.send(self.stream.cu_stream()))
    }
}

/// How an operand becomes row-major.
enum Dense {
    /// It is.
    Already,
    /// By these launches.
    After(Calls),
}

impl Dense {
    /// `None` if it has more strides than a kernel takes.
    fn of(operand: Option<&Operand<'_>>) -> Option<Dense> {
        let Some(Operand { dtype, shape, strides, .. }) = operand else { return Some(Dense::Already) };
        let own = row_major(shape.dims());
        // Along an axis of one element any stride is as good.
        if shape.elements() == 0 || (0..own.len()).all(|axis| shape[axis] == 1 || strides[axis] == own[axis]) {
            return Some(Dense::Already);
        }
        copy(Calls::new(), *dtype, shape.dims(), (Argument::Input(0, 0), strides), (Argument::Output(0, 0), &own)).map(Dense::After)
    }
}
