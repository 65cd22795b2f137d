//! What goes into a model and what comes out.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;
use millstream_tensor::DType;

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
}
