//! Graph to executable on a Candle device.

use crate::{
    body::Body,
    error::backend,
    held::Held,
    ledger::Ledger,
    walk::{Engine, Walk},
    workers::workers,
};
use candle_core::Device;
use millstream_compile::walkable;
use millstream_engine::{Backend, CompileError, Executable, Given, PlanBytes, Request, RunError, Signature, Workers, Workspace, hand_over};
use millstream_graph::{Fact, Graph, Spec};
use millstream_simd::Level;
use millstream_tensor::{Shape, Value};
use std::sync::Arc;

/// Runs graphs on Candle tensors; what Candle lacks, on our kernels.
#[derive(Clone)]
pub struct CandleBackend {
    device: Device,
    level: Level,
    workers: Arc<dyn Workers>,
}

impl CandleBackend {
    /// Candle's CPU device.
    pub fn new() -> CandleBackend {
        CandleBackend::on(Device::Cpu)
    }

    /// A device of Candle's.
    pub fn on(device: Device) -> CandleBackend {
        CandleBackend { device, level: millstream_cpu::level(), workers: workers() }
    }

    /// The same backend, its kernels on these workers.
    pub fn with_workers(self, workers: Arc<dyn Workers>) -> CandleBackend {
        CandleBackend { workers, ..self }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Default for CandleBackend {
    fn default() -> CandleBackend {
        CandleBackend::new()
    }
}

impl Backend for CandleBackend {
    fn name(&self) -> &str {
        "candle"
    }

    fn compile(&self, graph: Graph) -> Result<Arc<dyn Executable>, CompileError> {
        let signature = walkable(&graph)?;
        let body = Body::new(graph, &self.device)?;
        let weights = body.weight_bytes();
        Ok(Arc::new(CandleModel { engine: Engine { device: self.device.clone(), level: self.level, workers: self.workers.clone() }, signature, body, weights }))
    }
}

/// A graph with its constants on the device.
struct CandleModel {
    engine: Engine,
    signature: Signature,
    body: Body,
    weights: usize,
}

impl CandleModel {
    /// A walk over facts alone.
    fn dry(&self, inputs: &[Shape], log: &mut Vec<String>) -> Result<PlanBytes, RunError> {
        let facts = self.signature.facts(inputs)?;
        let mut ledger = Ledger::new(usize::MAX);
        let bytes = |f: &Fact| f.shape().and_then(Result::ok).map_or(0, |s| Spec::row_major(f.dtype, s).bytes());
        let taken: usize = facts.iter().map(bytes).sum();
        let outputs = Walk::dry(&self.engine, &mut ledger, log, &self.body, facts)?;
        let io = taken + outputs.iter().map(bytes).sum::<usize>();
        Ok(PlanBytes::new(self.weights, ledger.peak(), ledger.scratch(), io))
    }
}

impl Executable for CandleModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let Request { inputs, outputs, cancel, profiler } = request;
        self.signature.check(Given::Values(inputs))?;
        let mut held = Vec::with_capacity(inputs.len());
        for value in inputs {
            held.push(Held::from_value(value, &self.engine.device).map_err(backend)?);
        }
        let mut ledger = Ledger::new(workspace.limit());
        let made = Walk::new(&self.engine, &mut ledger, cancel, profiler).run(&self.body, held)?;
        let mut buffers = outputs.iter_mut();
        made.into_iter().enumerate().map(|(index, held)| hand_over(index, held.to_value().map_err(backend)?, buffers.next().and_then(Option::as_mut))).collect()
    }

    /// An upper bound: Candle allocates as it goes, and each node is charged the most that it may take.
    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        self.dry(inputs, &mut Vec::new())
    }

    fn describe(&self, inputs: &[Shape]) -> Result<Vec<String>, RunError> {
        let mut log = Vec::new();
        match self.dry(inputs, &mut log) {
            // The nodes up to the first whose shape only a run can tell.
            Ok(_) | Err(RunError::DataDependent(_)) => Ok(log),
            Err(e) => Err(e),
        }
    }
}
