//! The typed builder: a source, and stages after it.

use std::{hash::Hash, marker::PhantomData, sync::Arc};

use millstream_edge::Edge;

use super::{
    Options, Pipeline,
    assembly::{Assembly, StageInfo},
};
use crate::{
    envelope::{Envelope, Key},
    error::StageError,
    infer::{InferStage, ModelHandler, Prediction, RunInference},
    sink::SinkFactory,
    source::Source,
    stage::{Factory, FilterFn, FlatMapFn, KeyByFn, MapFn, OnError, RecordStage, SinkOptions, SinkStep, SourceStage, StageOptions, Start, Transform, TryMapFn},
};

type Connect<T> = Box<dyn FnOnce(&mut Assembly, Arc<Edge<Envelope<T>>>) + Send>;

/// A pipeline that still lacks its sink. Its records are of type `T`.
///
/// Closures given here are cloned: each replica works with a clone of its own, and with a fresh one after a panic.
pub struct Flow<T> {
    stages: Vec<StageInfo>,
    connect: Connect<T>,
    keyed: bool,
}

impl<T: Send + 'static> Flow<T> {
    pub(super) fn from_source(source: Box<dyn Source<T>>) -> Self {
        let keyed = source.keyed();
        let info = StageInfo { name: source.name(), replicas: 1, batch: None, expansion: 1.0, keyed, on_error: OnError::Fail, model: None, memory: None };
        let connect: Connect<T> = Box::new(move |assembly, outlet| {
            let (stop, expansion, budget) = (assembly.stop.clone(), assembly.expansion, assembly.entry_bytes);
            let stage = SourceStage::new(assembly.shared(0), source, outlet, stop, expansion, budget);
            assembly.stages.push(Box::new(stage));
        });
        Flow { stages: vec![info], connect, keyed }
    }

    /// Turns each record into another.
    #[must_use]
    pub fn map<U: Send + 'static>(self, name: &str, f: impl FnMut(T) -> U + Clone + Send + Sync + 'static) -> Flow<U> {
        self.map_with(name, StageOptions::new(), f)
    }

    /// As [`Flow::map`], with options.
    #[must_use]
    pub fn map_with<U: Send + 'static>(self, name: &str, options: StageOptions<T, U>, f: impl FnMut(T) -> U + Clone + Send + Sync + 'static) -> Flow<U> {
        self.stage(name, options, move |_| Ok(MapFn(f.clone())))
    }

    /// Turns each record into another, or fails on it.
    #[must_use]
    pub fn try_map<U: Send + 'static, E: Into<StageError> + 'static>(
        self,
        name: &str,
        f: impl FnMut(T) -> Result<U, E> + Clone + Send + Sync + 'static,
    ) -> Flow<U> {
        self.try_map_with(name, StageOptions::new(), f)
    }

    /// As [`Flow::try_map`], with options.
    #[must_use]
    pub fn try_map_with<U: Send + 'static, E: Into<StageError> + 'static>(
        self,
        name: &str,
        options: StageOptions<T, U>,
        f: impl FnMut(T) -> Result<U, E> + Clone + Send + Sync + 'static,
    ) -> Flow<U> {
        self.stage(name, options, move |_| Ok(TryMapFn(f.clone())))
    }

    /// Keeps the records for which the closure holds. The others end in good order.
    #[must_use]
    pub fn filter(self, name: &str, f: impl FnMut(&T) -> bool + Clone + Send + Sync + 'static) -> Flow<T> {
        self.stage(name, StageOptions::new(), move |_| Ok(FilterFn(f.clone())))
    }

    /// Turns each record into any number of others. It has ended when all of them have.
    #[must_use]
    pub fn flat_map<U: Send + 'static, I: IntoIterator<Item = U> + 'static>(
        self,
        name: &str,
        f: impl FnMut(T) -> I + Clone + Send + Sync + 'static,
    ) -> Flow<U> {
        self.stage(name, StageOptions::new(), move |_| Ok(FlatMapFn(f.clone())))
    }

    /// Gives each record a key: from here on, records of one key stay in order.
    #[must_use]
    pub fn key_by<K: Hash>(self, name: &str, f: impl FnMut(&T) -> K + Clone + Send + Sync + 'static) -> Flow<T> {
        let mut flow = self.stage(name, StageOptions::new(), move |_| {
            let mut f = f.clone();
            Ok(KeyByFn(move |record: &T| Key::of(&f(record))))
        });
        flow.keyed = true;
        flow
    }

    /// Any stage that takes one record at a time. The factory is called for each replica, and after each panic.
    #[must_use]
    pub fn stage<U: Send + 'static, S: Transform<T, U> + 'static>(
        self,
        name: &str,
        options: StageOptions<T, U>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> Flow<U> {
        let Flow { mut stages, connect, keyed } = self;
        let index = stages.len();
        stages.push(StageInfo {
            name: name.into(),
            replicas: options.replicas,
            batch: None,
            expansion: options.expansion,
            keyed,
            on_error: options.on_error,
            model: None,
            memory: None,
        });
        let factory: Factory<S> = Arc::new(factory);
        let connect: Connect<U> = Box::new(move |assembly, outlet| {
            let inlet = assembly.edge_into(index);
            let stage = RecordStage::new(assembly.shared(index), options, factory, inlet.clone(), Some(outlet));
            assembly.stages.push(Box::new(stage));
            connect(assembly, inlet);
        });
        Flow { stages, connect, keyed }
    }

    /// Runs a model.
    #[must_use]
    pub fn infer<H: ModelHandler>(self, name: &str, run: RunInference<T, H>) -> Flow<Prediction<T, H::Output>> {
        let Flow { mut stages, connect, keyed } = self;
        let index = stages.len();
        stages.push(StageInfo {
            name: name.into(),
            replicas: run.stage.replicas,
            batch: Some((*run.batch.items.start(), (*run.batch.items.end()).max(run.batch.hold_until))),
            expansion: run.stage.expansion,
            keyed,
            on_error: run.stage.on_error,
            model: Some(Arc::new(run.handler.id())),
            memory: run.memory,
        });
        let connect: Connect<Prediction<T, H::Output>> = Box::new(move |assembly, outlet| {
            let inlet = assembly.edge_into(index);
            let memory = assembly.run_bytes(index);
            let stage = InferStage::new(assembly.shared(index), run, memory, inlet.clone(), outlet);
            assembly.stages.push(Box::new(stage));
            connect(assembly, inlet);
        });
        Flow { stages, connect, keyed }
    }

    /// Ends the pipeline in a sink.
    #[must_use]
    pub fn sink<F: SinkFactory<T>>(self, sink: F) -> Pipeline
    where
        F::Sink: 'static,
    {
        self.sink_with(sink, SinkOptions::new())
    }

    /// As [`Flow::sink`], with options.
    #[must_use]
    pub fn sink_with<F: SinkFactory<T>>(self, sink: F, options: SinkOptions<T>) -> Pipeline
    where
        F::Sink: 'static,
    {
        let Flow { mut stages, connect, keyed } = self;
        let index = stages.len();
        let options = options.into_inner();
        stages.push(StageInfo {
            name: sink.name(),
            replicas: options.replicas,
            batch: None,
            expansion: 1.0,
            keyed,
            on_error: options.on_error,
            model: None,
            memory: None,
        });
        let factory: Factory<SinkStep<F::Sink, T>> = Arc::new(move |start| Ok(SinkStep(sink.open(start)?, PhantomData)));
        let connect = Box::new(move |assembly: &mut Assembly| {
            let inlet = assembly.edge_into(index);
            let stage = RecordStage::new(assembly.shared(index), options, factory, inlet.clone(), None);
            assembly.stages.push(Box::new(stage));
            connect(assembly, inlet);
        });
        Pipeline { stages, connect, options: Options::default() }
    }
}
