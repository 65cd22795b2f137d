//! Graph to executable for this machine.

use crate::{Pool, huge_pages};
use millstream_compile::{CompiledModel, Template};
use millstream_engine::{Backend, CompileError, Executable, SerialWorkers, Workers};
use millstream_graph::Graph;
use millstream_simd::Level;
use std::{env, sync::Arc};

/// The variable that clamps the instruction level, for tests and for bug reports.
const LEVEL_VARIABLE: &str = "MILLSTREAM_LEVEL";

/// The best level of this machine, or the one that `MILLSTREAM_LEVEL` names (`scalar`, `avx2`, `avx512`, `amx`, `neon`,
/// `simd128`). A name that is unknown or that this machine lacks is ignored: the best level never crashes.
pub fn level() -> Level {
    env::var(LEVEL_VARIABLE).ok().and_then(|name| Level::named(&name)).unwrap_or_else(Level::detect)
}

/// Runs graphs on this machine's CPU.
#[derive(Clone)]
pub struct CpuBackend {
    level: Level,
    workers: Arc<dyn Workers>,
}

impl CpuBackend {
    /// A backend of its own pool of `threads` threads; 0 means one a core.
    pub fn new(threads: usize) -> CpuBackend {
        match threads {
            1 => CpuBackend::with_workers(Arc::new(SerialWorkers)),
            n => CpuBackend::with_workers(Arc::new(Pool::new(n))),
        }
    }

    /// A backend that shares workers with others.
    pub fn with_workers(workers: Arc<dyn Workers>) -> CpuBackend {
        huge_pages::ask_for();
        CpuBackend { level: level(), workers }
    }

    /// The same backend on another level.
    pub fn on_level(self, level: Level) -> CpuBackend {
        CpuBackend { level, ..self }
    }

    /// The level that kernels run on.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        "cpu"
    }

    fn compile(&self, graph: Graph) -> Result<Arc<dyn Executable>, CompileError> {
        let template = Template::new(graph, self.level, self.workers.max())?;
        Ok(Arc::new(CompiledModel::new(template, self.workers.clone())))
    }
}
