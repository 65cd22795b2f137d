//! One call of an operator of ours on Candle's tensors or storages: checks, dense views, memory for the outputs.

use super::OpError;
use crate::{
    kernel::{Run, Wanted, bytes_of},
    memory::Memory,
    workers::workers,
};
use candle_core::{CpuStorage, Storage, StorageRef, Tensor};
use millstream_engine::describe;
use millstream_graph::{Fact, InferCx, Input, Op, Packed, Spec};
use millstream_simd::Level;
use millstream_tensor::{Bool, Layout, Shape, TensorView, Value};
use std::{borrow::Cow, sync::OnceLock};

/// The level that all operators run on: the best of this machine, or that of `MILLSTREAM_LEVEL`.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(millstream_cpu::level)
}

/// An input of an operator.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// An optional input that is not given.
    Absent,
    /// A tensor of Candle's.
    Tensor(&'a Tensor),
    /// The same, seen under other dims of as many elements.
    Reshaped(&'a Tensor, Shape),
    /// A tensor of u8 as booleans.
    Truth(&'a Tensor),
    /// A tensor of ours.
    Own(&'a millstream_tensor::Tensor),
    /// A weight in its operator's form, with the type and shape that it had.
    Packed(&'a dyn Packed, &'a Spec),
}

impl<'a> Arg<'a> {
    pub(crate) fn optional(t: Option<&'a Tensor>) -> Arg<'a> {
        t.map_or(Arg::Absent, Arg::Tensor)
    }

    /// Candle's tensor, if it is one.
    #[cfg(feature = "cuda")]
    pub(crate) fn tensor(&self) -> Option<&'a Tensor> {
        match self {
            Arg::Tensor(t) | Arg::Reshaped(t, _) | Arg::Truth(t) => Some(t),
            _ => None,
        }
    }
}

/// An input as the kernel gets it.
enum Dense<'a> {
    Absent,
    Tensor(StorageRef<'a>, (usize, usize), Shape),
    Own(&'a millstream_tensor::Tensor),
    Packed(&'a dyn Packed, &'a Spec),
}

/// An operator with its name for messages.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    pub(crate) op: &'a dyn Op,
}

impl Call<'_> {
    /// Runs on tensors and gives the operator's first `outputs` outputs.
    pub(crate) fn run(&self, args: &[Arg<'_>], outputs: usize) -> Result<Vec<Tensor>, OpError> {
        #[cfg(feature = "cuda")]
        if let Some(device) = super::cuda::device_of(args) {
            return self.run_on_cuda(&device, args, outputs);
        }
        let mut truths = Vec::with_capacity(args.len());
        for (input, arg) in args.iter().enumerate() {
            truths.push(if let Arg::Truth(t) = arg { Some(self.truth(input, t)?) } else { None });
        }
        let mut held: Vec<Option<Cow<'_, Tensor>>> = Vec::with_capacity(args.len());
        for (input, arg) in args.iter().enumerate() {
            held.push(match arg {
                Arg::Tensor(t) | Arg::Reshaped(t, _) => Some(dense(self.name, input, t)?),
                _ => None,
            });
        }
        let mut inputs = Vec::with_capacity(args.len());
        for (input, (arg, held)) in args.iter().zip(&held).enumerate() {
            if let Some(t) = &truths[input] {
                inputs.push(Dense::Own(t));
                continue;
            }
            inputs.push(match (arg, held) {
                (Arg::Tensor(_), Some(t)) => self.borrowed(t, Shape::new(t.dims()))?,
                (Arg::Reshaped(_, shape), Some(t)) if shape.elements() == t.elem_count() => self.borrowed(t, Ok(*shape))?,
                (Arg::Own(t), _) => Dense::Own(t),
                (Arg::Packed(p, spec), _) => Dense::Packed(*p, spec),
                (Arg::Absent, _) => Dense::Absent,
                (_, held) => {
                    return Err(OpError::Dims {
                        op: self.name,
                        what: "another number of elements is expected",
                        found: vec![input, held.as_ref().map_or(0, |t| t.elem_count())],
                    });
                }
            });
        }
        let mut views = Vec::with_capacity(inputs.len());
        for (input, dense) in inputs.iter().enumerate() {
            views.push(match dense {
                Dense::Absent => View::Absent,
                Dense::Own(t) => View::Own(t),
                Dense::Packed(p, spec) => View::Packed(*p, spec),
                Dense::Tensor(storage, range, shape) => {
                    let Storage::Cpu(storage) = &**storage else { return Err(self.device(input, "another device".into())) };
                    View::Stored(storage, *range, *shape)
                }
            });
        }
        let made = self.eval(&views, outputs)?;
        made.into_iter().map(|(memory, shape)| Ok(memory.into_tensor(shape.dims())?)).collect()
    }

    /// Runs on storages, as Candle hands them to custom operators, and gives the first output.
    pub(crate) fn run_stored(&self, args: &[(&CpuStorage, &candle_core::Layout)]) -> Result<(CpuStorage, candle_core::Shape), OpError> {
        let mut copies = Vec::with_capacity(args.len());
        for (storage, layout) in args {
            copies.push(match layout.contiguous_offsets() {
                Some(_) => None,
                None => Some(gathered(storage, layout)?),
            });
        }
        let mut views = Vec::with_capacity(args.len());
        for ((storage, layout), copy) in args.iter().zip(&copies) {
            let shape = Shape::new(layout.dims()).map_err(|error| OpError::Tensor { op: self.name, error })?;
            views.push(match copy {
                Some(copy) => View::Stored(copy, (0, shape.elements()), shape),
                None => View::Stored(storage, layout.contiguous_offsets().unwrap_or_default(), shape),
            });
        }
        let (memory, shape) = self.eval(&views, 1)?.swap_remove(0);
        Ok((memory.into_storage()?, candle_core::Shape::from(shape.dims())))
    }

    /// Runs on a storage as input 0, seen under a shape, with weights behind it, and gives the first output's elements.
    pub(crate) fn run_beside(&self, (storage, layout, shape): (&CpuStorage, &candle_core::Layout, Shape), others: &[Arg<'_>]) -> Result<CpuStorage, OpError> {
        let copy = if layout.contiguous_offsets().is_none() { Some(gathered(storage, layout)?) } else { None };
        let mut views = vec![match &copy {
            Some(copy) => View::Stored(copy, (0, shape.elements()), shape),
            None => View::Stored(storage, layout.contiguous_offsets().unwrap_or_default(), shape),
        }];
        for arg in others {
            views.push(match arg {
                Arg::Own(t) => View::Own(t),
                Arg::Packed(p, spec) => View::Packed(*p, spec),
                _ => View::Absent,
            });
        }
        Ok(self.eval(&views, 1)?.swap_remove(0).0.into_storage()?)
    }

    /// Bytes as booleans.
    fn truth(&self, input: usize, t: &Tensor) -> Result<millstream_tensor::Tensor, OpError> {
        let seen: Vec<Bool> = dense(self.name, input, t)?.flatten_all()?.to_vec1::<u8>()?.into_iter().map(|x| Bool::from(x != 0)).collect();
        millstream_tensor::Tensor::from_slice(t.dims(), &seen).map_err(|error| OpError::Tensor { op: self.name, error })
    }

    fn borrowed<'t>(&self, t: &'t Tensor, shape: Result<Shape, millstream_tensor::TensorError>) -> Result<Dense<'t>, OpError> {
        let shape = shape.map_err(|error| OpError::Tensor { op: self.name, error })?;
        let (storage, layout) = t.storage_and_layout();
        let range = layout.contiguous_offsets().ok_or(OpError::Dims { op: self.name, what: "a dense tensor is expected", found: t.dims().to_vec() })?;
        Ok(Dense::Tensor(storage, range, shape))
    }

    fn device(&self, input: usize, device: String) -> OpError {
        OpError::Device { op: self.name, input, device }
    }

    fn eval(&self, views: &[View<'_>], outputs: usize) -> Result<Vec<(Memory, Shape)>, OpError> {
        let mut specs = Vec::with_capacity(views.len());
        let mut layouts = Vec::with_capacity(views.len());
        for (input, view) in views.iter().enumerate() {
            let spec = match view {
                View::Absent => None,
                View::Own(t) => Some(Spec::row_major(t.dtype(), *t.shape())),
                View::Packed(_, spec) => Some(**spec),
                View::Stored(storage, range, shape) => {
                    let (dtype, _) = bytes_of(storage, *range).ok_or_else(|| {
                        use candle_core::backend::BackendStorage;
                        OpError::DType { op: self.name, input, found: storage.dtype().as_str(), wanted: "a type that millstream has" }
                    })?;
                    Some(Spec::row_major(dtype, *shape))
                }
            };
            layouts.push(spec.map(|s| s.layout));
            specs.push(spec);
        }
        let wanted = self.infer(&specs, outputs)?;
        let text = || describe(specs.iter().copied());
        let kernel = |error| OpError::Kernel { op: self.name, inputs: text(), error };
        let given = views.iter().zip(&layouts).map(|(view, layout)| view.input(layout.as_ref())).collect::<Result<Vec<_>, _>>().map_err(kernel)?;
        let packed: Vec<bool> = views.iter().map(|v| matches!(v, View::Packed(..))).collect();
        let mut memory = Vec::with_capacity(wanted.len());
        for w in &wanted {
            let Wanted::Planned(s) = w else { continue };
            let made = Memory::vector(s.dtype, s.shape().elements());
            memory.push(made.unwrap_or_else(|| Memory::of(s)).map_err(|error| OpError::Tensor { op: self.name, error })?);
        }
        let mut slots: Vec<Option<Value>> = vec![None; wanted.len()];
        let workers = workers();
        let run = Run { op: self.op, level: level(), workers: &*workers, inputs: &specs, packed: &packed };
        run.eval(&given, &wanted, &mut memory, &mut slots).map_err(kernel)?;
        let shapes = wanted.iter().filter_map(|w| if let Wanted::Planned(s) = w { Some(*s.shape()) } else { None });
        Ok(memory.into_iter().zip(shapes).collect())
    }

    /// The outputs' types and shapes, or what does not fit.
    pub(crate) fn infer(&self, specs: &[Option<Spec>], outputs: usize) -> Result<Vec<Wanted>, OpError> {
        let refuse = |error| OpError::Shapes { op: self.name, inputs: describe(specs.iter().copied()), error };
        let facts: Vec<Option<Fact>> = specs.iter().map(|s| s.map(|s| Fact::concrete(s.dtype, s.shape()))).collect();
        let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let made = self.op.infer(&InferCx { path: self.name, inputs: &facts, outputs }).map_err(refuse)?;
        let plan = |f: &Fact| match f.shape() {
            Some(Ok(shape)) => Ok(Wanted::Planned(Spec::row_major(f.dtype, shape))),
            _ => Err(refuse(millstream_graph::InferError::NeedsDims(0))),
        };
        made.iter().take(outputs).map(plan).collect()
    }
}

/// An input with its elements in reach.
enum View<'a> {
    Absent,
    Own(&'a millstream_tensor::Tensor),
    Packed(&'a dyn Packed, &'a Spec),
    Stored(&'a CpuStorage, (usize, usize), Shape),
}

impl<'a> View<'a> {
    fn input(&self, layout: Option<&'a Layout>) -> Result<Input<'a>, millstream_graph::EvalError> {
        Ok(match (self, layout) {
            (View::Own(t), _) => Input::Tensor(t.view()),
            (View::Packed(p, spec), _) => Input::Packed(*p, spec),
            (View::Stored(storage, range, _), Some(layout)) => match bytes_of(storage, *range) {
                Some((dtype, bytes)) => Input::Tensor(TensorView::new(dtype, layout, bytes)?),
                None => Input::Absent,
            },
            _ => Input::Absent,
        })
    }
}

/// The tensor, dense and on the CPU; an error if it is elsewhere.
pub(crate) fn dense<'t>(op: &'static str, input: usize, t: &'t Tensor) -> Result<Cow<'t, Tensor>, OpError> {
    if !t.device().is_cpu() {
        return Err(OpError::Device { op, input, device: format!("{:?}", t.device().location()) });
    }
    Ok(if t.is_contiguous() { Cow::Borrowed(t) } else { Cow::Owned(t.contiguous()?) })
}

/// A dense copy of what a layout shows of a storage.
pub(crate) fn gathered(storage: &CpuStorage, layout: &candle_core::Layout) -> candle_core::Result<CpuStorage> {
    let shape = Shape::new(layout.dims()).map_err(candle_core::Error::wrap)?;
    let strides = Layout::strided(shape, layout.stride()).map_err(candle_core::Error::wrap)?;
    let start = layout.start_offset();
    macro_rules! copy {
        ($($variant:ident),*) => {
            match storage {
                $( CpuStorage::$variant(v) => Ok(CpuStorage::$variant(strides.offsets().filter_map(|i| v.get(start + i).copied()).collect())), )*
                _ => Err(candle_core::Error::Msg("an element type that millstream lacks".into())),
            }
        };
    }
    copy!(U8, U32, I16, I32, I64, BF16, F16, F32, F64)
}
