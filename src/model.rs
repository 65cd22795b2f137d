//! A loaded model with the memory of its runs.

use crate::{Error, Session};
use millstream_engine::{Executable, PlanBytes, Request, RunError, Signature, Workspace};
use millstream_tensor::{Shape, Tensor, Value};
use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// A model that runs. Share it between threads: concurrent runs share its weights, each with a workspace of its own.
pub struct Model {
    name: String,
    executable: Arc<dyn Executable>,
    workspaces: Mutex<Vec<Workspace>>,
    memory_limit: usize,
}

impl Model {
    /// Loads an ONNX file with default options: all cores, no limit on memory.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        Session::new().open(path)
    }

    /// Loads an ONNX model from memory. A model with external data needs [`Model::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Model, Error> {
        Session::new().from_bytes(bytes)
    }

    pub(crate) fn new(name: String, executable: Arc<dyn Executable>, memory_limit: usize) -> Model {
        Model { name, executable, workspaces: Mutex::new(Vec::new()), memory_limit }
    }

    /// The name that the model's file gives its graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs and outputs.
    pub fn signature(&self) -> &Signature {
        self.executable.signature()
    }

    /// Runs the model on inputs by name, in any order.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs, Error> {
        let signature = self.signature();
        let mut ordered: Vec<Option<Value>> = vec![None; signature.inputs.len()];
        for (name, tensor) in inputs {
            let index = signature.input_index(name).ok_or_else(|| RunError::InputName((*name).into()))?;
            ordered[index] = Some(Value::Tensor(tensor.clone()));
        }
        let missing = |i: usize| RunError::InputName(signature.inputs[i].name.to_string());
        let ordered = ordered.into_iter().enumerate().map(|(i, v)| v.ok_or_else(|| missing(i))).collect::<Result<Vec<_>, _>>()?;
        self.run_values(&ordered)
    }

    /// Runs the model on values in the order of its signature.
    pub fn run_values(&self, inputs: &[Value]) -> Result<Outputs, Error> {
        let values = self.with_workspace(|workspace| self.executable.run(workspace, Request::new(inputs)))?;
        let names = self.signature().outputs.iter().map(|p| p.name.clone());
        Ok(Outputs(names.zip(values.into_iter().flatten()).collect()))
    }

    /// Calls `f` with a workspace that no other run uses meanwhile; for runs with more wishes, through
    /// [`Model::executable`].
    pub fn with_workspace<T>(&self, f: impl FnOnce(&mut Workspace) -> T) -> T {
        let mut workspace = self.pool().pop().unwrap_or_else(|| Workspace::with_limit(self.memory_limit));
        let result = f(&mut workspace);
        self.pool().push(workspace);
        result
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        // The pool is whole whatever happened to a thread that held it: it is only pushed to and popped from.
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory that a run with inputs of these shapes takes, exactly, without running it.
    pub fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, Error> {
        Ok(self.executable.plan_bytes(inputs)?)
    }

    #[cfg(feature = "runtime")]
    pub(crate) fn memory_limit(&self) -> usize {
        self.memory_limit
    }

    /// The executable behind the model: runs with cancellation, profiles, or buffers of the caller.
    pub fn executable(&self) -> &Arc<dyn Executable> {
        &self.executable
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).field("signature", self.signature()).finish_non_exhaustive()
    }
}

/// What a run gave: values by name, in the order of the model's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs(Vec<(Arc<str>, Value)>);

impl Outputs {
    /// The first output, which must be a tensor.
    pub fn first(&self) -> Result<&Tensor, Error> {
        match self.0.first() {
            Some((_, value)) => Ok(value.as_tensor()?),
            None => Err(Error::UnknownOutput("0".into())),
        }
    }

    /// The output of this name, which must be a tensor.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        let found = self.0.iter().find(|(n, _)| &**n == name);
        Ok(found.ok_or_else(|| Error::UnknownOutput(name.into()))?.1.as_tensor()?)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(n, v)| (&**n, v))
    }
}

impl IntoIterator for Outputs {
    type Item = (Arc<str>, Value);
    type IntoIter = std::vec::IntoIter<(Arc<str>, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
