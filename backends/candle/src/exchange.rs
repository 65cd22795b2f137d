//! Candle's tensors as inputs and outputs of any executable: inputs are read where they lie, outputs are written into memory that
//! Candle takes over.

use crate::{
    error::backend,
    held::{Held, is_shared},
    kernel::bytes_of,
    memory::Memory,
};
use candle_core::{Device, Storage, Tensor};
use millstream_engine::{Executable, RunError, Workspace};
use millstream_tensor::{Layout, Shape, TensorView, TensorViewMut, Value};

/// An output of [`run_candle`].
#[derive(Debug, Clone)]
pub enum Output {
    /// A tensor on Candle's CPU.
    Candle(Tensor),
    /// A value of a type that Candle lacks: tensors of strings, booleans or narrow integers, empty tensors, sequences.
    Own(Value),
}

impl Output {
    /// The tensor of Candle's, if it is one.
    pub fn candle(self) -> Option<Tensor> {
        match self {
            Output::Candle(t) => Some(t),
            Output::Own(_) => None,
        }
    }
}

/// Runs an executable on tensors of Candle's by the inputs' names, in any order, and gives its outputs by name, in order.
///
/// Dense tensors on the CPU are read where they lie, others copied there first. Outputs whose shape is known before the run are
/// written straight into vectors that Candle takes over.
///
/// # Errors
/// [`RunError`]: an input that is missing, unknown or does not fit, or whatever the run fails by.
pub fn run_candle(model: &dyn Executable, workspace: &mut Workspace, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Output)>, RunError> {
    let ports = &model.signature().inputs;
    if ports.len() != inputs.len() {
        return Err(RunError::InputCount { wanted: ports.len(), found: inputs.len() });
    }
    let unknown = |name: &str| RunError::Backend(format!("no tensor was given for input `{name}`"));
    let mut dense = Vec::with_capacity(inputs.len());
    for port in ports {
        let (_, t) = inputs.iter().find(|(name, _)| *name == &*port.name).ok_or_else(|| unknown(&port.name))?;
        dense.push(t.to_device(&Device::Cpu).and_then(|t| t.contiguous()).map_err(backend)?);
    }
    let storages: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
    let layouts = dense.iter().map(|t| Shape::new(t.dims()).map(Layout::row_major)).collect::<Result<Vec<_>, _>>()?;
    let mut views = Vec::with_capacity(dense.len());
    for (((storage, place), layout), port) in storages.iter().zip(&layouts).zip(ports) {
        let foreign = || RunError::Backend(format!("input `{}` has an element type that millstream lacks", port.name));
        let (Storage::Cpu(storage), Some(range)) = (&**storage, place.contiguous_offsets()) else { return Err(foreign()) };
        let (dtype, bytes) = bytes_of(storage, range).ok_or_else(foreign)?;
        views.push(TensorView::new(dtype, layout, bytes)?);
    }
    let specs = model.output_specs(workspace, &views)?;
    let shared = |s: &&millstream_graph::Spec| is_shared(s.dtype, s.shape().elements()) && s.layout.is_row_major();
    let mut memory = specs.iter().map(|s| s.as_ref().filter(shared).map(Memory::of).transpose()).collect::<Result<Vec<_>, _>>()?;
    let mut buffers: Vec<Option<TensorViewMut<'_>>> = Vec::with_capacity(memory.len());
    for (memory, spec) in memory.iter_mut().zip(&specs) {
        buffers.push(match (memory, spec) {
            (Some(m), Some(s)) => Some(TensorViewMut::new(s.dtype, &s.layout, m.bytes())?),
            _ => None,
        });
    }
    let mut values = model.run_views(workspace, &views, &mut buffers)?.into_iter();
    drop(buffers);
    let mut out = Vec::with_capacity(specs.len());
    for ((port, memory), spec) in model.signature().outputs.iter().zip(memory).zip(&specs) {
        let given = match (memory, spec, values.next().flatten()) {
            (_, _, Some(value)) => match Held::from_value(&value, &Device::Cpu).map_err(backend)? {
                Held::Candle(t) => Output::Candle(t),
                Held::Own(value) => Output::Own(value),
            },
            (Some(memory), Some(s), None) => Output::Candle(memory.into_tensor(s.shape().dims()).map_err(backend)?),
            _ => return Err(RunError::Backend(format!("output `{}` was not made", port.name))),
        };
        out.push((port.name.to_string(), given));
    }
    Ok(out)
}
