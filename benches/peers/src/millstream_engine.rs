//! millstream itself.

use crate::{Engine, Result, case::floats, locked};
use millstream::{
    Model, Session, Value,
    cpu::StdClock,
    kernel::engine::{Clock, Profiler, Request, StepRecord},
};
use std::path::Path;

pub(crate) struct Millstream {
    model: Model,
    inputs: Vec<Value>,
}

impl Millstream {
    pub(crate) fn load(path: &Path, inputs: &[(String, millstream::Tensor)], threads: usize) -> Result<Self> {
        let model = Session::builder().threads(threads).build().open(path)?;
        let find = |name: &str| inputs.iter().find(|(n, _)| n == name).map(|(_, t)| Value::Tensor(t.clone())).ok_or("an input is missing");
        let inputs = model.signature().inputs.iter().map(|port| find(&port.name)).collect::<std::result::Result<_, _>>()?;
        Ok(Millstream { model, inputs })
    }
}

impl Engine for Millstream {
    fn version(&self) -> String {
        locked("millstream")
    }

    fn operations(&mut self) -> Result<Option<f64>> {
        let mut sum = Operations::default();
        let request = Request { inputs: &self.inputs, outputs: &mut [], cancel: None, profiler: Some(&mut sum) };
        self.model.with_workspace(|workspace| self.model.executable().run(workspace, request))?;
        Ok(Some(sum.count))
    }

    fn run(&mut self) -> Result<()> {
        self.model.run_values(&self.inputs)?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Vec<f64>>> {
        let outputs = self.model.run_values(&self.inputs)?;
        outputs.iter().map(|(_, value)| floats(value.as_tensor()?)).collect()
    }
}

/// The work of a run's steps: what their results take in the obvious way, whichever algorithm computes them.
#[derive(Default)]
struct Operations {
    clock: StdClock,
    count: f64,
}

impl Profiler for Operations {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn step(&mut self, step: StepRecord<'_>) {
        self.count += step.cost.flops;
    }
}
