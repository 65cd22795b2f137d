//! Options that models share, and the loading of models under them.

use crate::{Device, DeviceError, Error, Model};
use millstream_compile::{Options, simplify};
use millstream_cpu::{CpuBackend, Files, Level, MappedFile};
use millstream_engine::{Backend, CompileError, WeightSource, Workers};
use millstream_graph::{Graph, Registry};
use millstream_onnx::{Limits, LoadOptions};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Loads models that share a thread pool, a backend and options.
#[derive(Clone)]
pub struct Session {
    backend: Arc<dyn Backend>,
    registry: Arc<Registry>,
    options: Options,
    limits: Limits,
    memory_limit: usize,
    taps: Vec<String>,
}

impl Session {
    /// All cores, the best instructions, no limit on memory.
    pub fn new() -> Session {
        Session::builder().build()
    }

    /// A session with options.
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// Loads and compiles an ONNX file. External data may lie in the file's folder and below it, nowhere else.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Model, Error> {
        self.compile(self.read(path)?.graph)
    }

    /// Loads an ONNX file without compiling it.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<millstream_onnx::Model, Error> {
        let path = path.as_ref();
        let io = |error| Error::Io { path: path.into(), error };
        let source: Arc<dyn WeightSource> = Arc::new(MappedFile::open(path).map_err(io)?);
        let files = Files::beside(path).map_err(io)?;
        let external = |location: &str| files.open(location).map_err(Box::<dyn std::error::Error + Send + Sync>::from);
        let options = LoadOptions { limits: self.limits, external: Some(&external) };
        millstream_onnx::load(source, &self.registry, &options).map_err(|error| Error::Load { path: path.into(), error })
    }

    /// Loads and compiles an ONNX model from memory.
    pub fn from_bytes(&self, bytes: Vec<u8>) -> Result<Model, Error> {
        self.compile(self.read_bytes(bytes)?.graph)
    }

    /// Loads an ONNX model from memory without compiling it: a `Vec<u8>`, or bytes that are part of the program.
    pub fn read_bytes(&self, bytes: impl WeightSource + 'static) -> Result<millstream_onnx::Model, Error> {
        let options = LoadOptions { limits: self.limits, external: None };
        millstream_onnx::load(Arc::new(bytes), &self.registry, &options).map_err(|error| Error::Load { path: PathBuf::from("<memory>"), error })
    }

    /// Compiles a graph that came from elsewhere.
    pub fn compile(&self, mut graph: Graph) -> Result<Model, Error> {
        for name in &self.taps {
            let found = graph.values().find(|(_, v)| &*v.name == name.as_str()).map(|(id, _)| id);
            graph.add_output(found.ok_or_else(|| CompileError::UnknownValue(name.clone()))?);
        }
        simplify(&mut graph, &self.options)?;
        let name = graph.name.clone();
        Ok(Model::new(name, self.backend.compile(graph)?, self.memory_limit))
    }

    /// The operators that models may use.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("backend", &self.backend.name()).field("memory_limit", &self.memory_limit).finish_non_exhaustive()
    }
}

/// Options of a [`Session`].
#[derive(Default)]
pub struct SessionBuilder {
    threads: usize,
    level: Option<Level>,
    workers: Option<Arc<dyn Workers>>,
    backend: Option<Arc<dyn Backend>>,
    registry: Option<Registry>,
    options: Options,
    limits: Limits,
    memory_limit: Option<usize>,
    taps: Vec<String>,
}

impl SessionBuilder {
    /// Threads of a run; 0, the default, is one a core.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The instruction level, instead of the machine's best.
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// A thread pool that other sessions share.
    pub fn workers(mut self, workers: Arc<dyn Workers>) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Another backend than the CPU's; `threads`, `level` and `workers` are the CPU's own.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Where models run: [`Device::Cpu`] unless told otherwise. Workers that were given before are those of nodes that the host
    /// runs for the device.
    ///
    /// # Errors
    /// The device is not there, or the program was built without its kind. Only [`Device::Auto`] takes another one instead.
    pub fn device(mut self, device: &Device) -> Result<Self, DeviceError> {
        // The processor's is made with the threads and the level of this builder.
        self.backend = device.backend(self.workers.clone())?;
        Ok(self)
    }

    /// Other operators than millstream's own.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Rules of the optimiser that do not run.
    pub fn optimizer(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Limits on model files, which are untrusted.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The most bytes that a run's intermediate values may take; a run that needs more fails before it begins.
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// An intermediate value, by its name in the model, that runs give as a further output.
    pub fn tap(mut self, value: impl Into<String>) -> Self {
        self.taps.push(value.into());
        self
    }

    /// The session.
    pub fn build(self) -> Session {
        let cpu = || {
            let backend = match self.workers {
                Some(workers) => CpuBackend::with_workers(workers),
                None => CpuBackend::new(self.threads),
            };
            Arc::new(match self.level {
                Some(level) => backend.on_level(level),
                None => backend,
            }) as Arc<dyn Backend>
        };
        Session {
            backend: self.backend.unwrap_or_else(cpu),
            registry: Arc::new(self.registry.unwrap_or_else(millstream_ops::registry)),
            options: self.options,
            limits: self.limits,
            memory_limit: self.memory_limit.unwrap_or(usize::MAX),
            taps: self.taps,
        }
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("threads", &self.threads).field("memory_limit", &self.memory_limit).finish_non_exhaustive()
    }
}
