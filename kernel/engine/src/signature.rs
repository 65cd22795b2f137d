//! What goes into a model and what comes out.

use crate::{Given, RunError};
use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::fmt;
use millstream_graph::Fact;
use millstream_tensor::{DType, Shape};
use smallvec::SmallVec;

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The name.
    pub name: Arc<str>,
    /// The element type, where it is known.
    pub dtype: Option<DType>,
    /// The dims as numbers, or as text where only a run tells; `None` where not even the rank is known.
    pub dims: Option<Vec<Result<usize, String>>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.dtype.map_or("?", DType::name))?;
        let Some(dims) = &self.dims else { return f.write_str("[…]") };
        f.write_str("[")?;
        for (i, d) in dims.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match d {
                Ok(n) => write!(f, "{n}")?,
                Err(name) => f.write_str(name)?,
            }
        }
        f.write_str("]")
    }
}

/// The inputs and outputs of a model, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

impl Signature {
    /// The position of the input of this name.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|p| &*p.name == name)
    }

    /// What shapes alone tell of the inputs; an error unless there are as many as ports, with types.
    pub fn facts(&self, shapes: &[Shape]) -> Result<Vec<Fact>, RunError> {
        if self.inputs.len() != shapes.len() {
            return Err(RunError::InputCount { wanted: self.inputs.len(), found: shapes.len() });
        }
        let facts: Option<_> = self.inputs.iter().zip(shapes).map(|(port, shape)| Some(Fact::concrete(port.dtype?, shape))).collect();
        facts.ok_or_else(|| RunError::DataDependent("an input without a type".into()))
    }

    /// An error unless there are as many inputs as ports, of the ports' types and dims. A name stands for the same number in
    /// all of them.
    pub fn check(&self, inputs: Given<'_>) -> Result<(), RunError> {
        if self.inputs.len() != inputs.len() {
            return Err(RunError::InputCount { wanted: self.inputs.len(), found: inputs.len() });
        }
        let mut named: SmallVec<[(&str, usize); 8]> = SmallVec::new();
        for (i, port) in self.inputs.iter().enumerate() {
            let Ok(t) = inputs.tensor(i) else { continue };
            if let Some(wanted) = port.dtype.filter(|&d| d != t.dtype()) {
                return Err(RunError::InputType { name: port.name.clone(), wanted, found: t.dtype() });
            }
            if !port.dims.as_ref().is_none_or(|dims| fits(dims, t.shape(), &mut named)) {
                return Err(RunError::InputShape { name: port.name.clone(), wanted: port.to_string(), found: t.shape().to_string() });
            }
        }
        Ok(())
    }
}

/// True if a shape fits a port: numbers are equal, and a name stands for the same number everywhere.
fn fits<'p>(dims: &'p [Result<usize, String>], shape: &Shape, named: &mut SmallVec<[(&'p str, usize); 8]>) -> bool {
    dims.len() == shape.rank()
        && dims.iter().zip(shape.iter()).all(|(dim, &found)| match dim {
            Ok(n) => *n == found,
            Err(name) => match named.iter().find(|(n, _)| n == name) {
                Some((_, n)) => *n == found,
                None => {
                    named.push((name, found));
                    true
                }
            },
        })
}
