//! The typed builder: a source, and stages after it.

use std::{hash::Hash, marker::PhantomData, sync::Arc, time::Duration};

use millstream_edge::Edge;

use super::{
    Options, Pipeline,
    assembly::{Assembly, StageInfo},
    graph::{Build, Connect, Fan, Feed, Node, Port},
};
use crate::{
    apart::TimeLimit,
    envelope::{Envelope, Key},
    error::StageError,
    infer::{InferStage, ModelHandler, Prediction, RunInference},
    panics::guard,
    sink::SinkFactory,
    source::Source,
    stage::{
        Entrance, Factory, FilterFn, FlatMapFn, KeyByFn, MapFn, OnError, RecordStage, SinkOptions, SinkStep, SourceStage, Stage, StageOptions, Start,
        Transform, TryMapFn, WithinFn,
    },
};

/// The edge into a stage, and what follows it.
type Inlet<T> = Arc<Edge<Envelope<T>>>;
type Way<U> = Arc<dyn Entrance<U>>;

/// A pipeline that still lacks its sink. Its records are of type `T`.
///
/// Closures given here are cloned: each replica works with a clone of its own, and with a fresh one after a panic.
pub struct Flow<T> {
    feeds: Vec<Feed<T>>,
    pub(super) keyed: bool,
}

impl<T: Send + 'static> Flow<T> {
    pub(super) fn from_source(mut source: Box<dyn Source<T>>) -> Self {
        let keyed = source.keyed();
        let mut info = StageInfo::new(source.name(), keyed);
        (info.named, info.on_error) = (false, OnError::Fail);
        let port = Port::new();
        let out = port.clone();
        let connect: Connect = Box::new(move |_, index| {
            Box::new(move |assembly| {
                let committer = guard(|| source.committer()).unwrap_or_else(|fault| Err(StageError::fatal(fault.to_string())));
                assembly.takes_part(index, None);
                assembly.check_position(index, || source.snapshot());
                let admission = assembly.admission(index, committer);
                Box::new(SourceStage::new(assembly.shared(index), source, out.entrance(), admission))
            })
        });
        let node = Node::new(info, Vec::new(), Fan::Choice(1), connect);
        Flow::of(vec![Feed::new(&node, 0, port)], keyed)
    }

    pub(super) fn of(feeds: Vec<Feed<T>>, keyed: bool) -> Self {
        Flow { feeds, keyed }
    }

    pub(super) fn into_feeds(self) -> Vec<Feed<T>> {
        self.feeds
    }

    /// A node that takes this flow's records. `make` gets the edge into it.
    pub(super) fn node<F>(self, info: StageInfo, fan: Fan, make: F) -> Arc<Node>
    where
        F: FnOnce(&mut Assembly, usize, Inlet<T>) -> Box<dyn Stage> + Send + 'static,
    {
        let feeds = self.feeds;
        let inputs = feeds.iter().map(Feed::link).collect();
        let connect: Connect = Box::new(move |assembly, index| {
            let inlet = assembly.edge_into(index);
            let mut producers = 0;
            feeds.iter().for_each(|feed| feed.lead(&inlet, &mut producers, |record| record));
            let build: Build = Box::new(move |assembly| make(assembly, index, inlet));
            build
        });
        Node::new(info, inputs, fan, connect)
    }

    /// As [`Flow::node`], with one way out, which `make` gets too.
    pub(super) fn then<U: Send + 'static, F>(self, info: StageInfo, make: F) -> Flow<U>
    where
        F: FnOnce(&mut Assembly, usize, Inlet<T>, Way<U>) -> Box<dyn Stage> + Send + 'static,
    {
        let (keyed, port) = (self.keyed, Port::new());
        let out = port.clone();
        let node = self.node(info, Fan::Choice(1), move |assembly, index, inlet| make(assembly, index, inlet, out.entrance()));
        Flow::of(vec![Feed::new(&node, 0, port)], keyed)
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
        let info = StageInfo::new(name, self.keyed).with(&options);
        self.transform(info, options, factory)
    }

    /// As [`Flow::map_with`], where no record may take longer than this; see [`Flow::stage_within`].
    #[must_use]
    pub fn map_within<U: Send + 'static>(
        self,
        name: &str,
        limit: Duration,
        options: StageOptions<T, U>,
        f: impl FnMut(T) -> U + Clone + Send + Sync + 'static,
    ) -> Flow<U> {
        self.stage_within(name, limit, options, move |_| Ok(MapFn(f.clone())))
    }

    /// As [`Flow::stage`], where no record may take longer than this. One that does goes to the dead letters; the thread that
    /// works on it is left behind with it, and a fresh instance goes on. A thread that comes back ends. Two may be away at a
    /// time, a third ends the pipeline, as does an instance whose state would be lost with it.
    ///
    /// A record costs a hop to that thread and back.
    #[must_use]
    pub fn stage_within<U: Send + 'static, S: Transform<T, U> + 'static>(
        self,
        name: &str,
        limit: Duration,
        options: StageOptions<T, U>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> Flow<U> {
        let (factory, limit): (Factory<S>, _) = (Arc::new(factory), TimeLimit::new(limit));
        self.stage(name, options, move |start| WithinFn::new(factory.clone(), *start, limit.clone()))
    }

    /// As [`Flow::stage`], where watermarks begin.
    pub(super) fn timed<U: Send + 'static, S: Transform<T, U> + 'static>(
        self,
        name: &str,
        options: StageOptions<T, U>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> Flow<U> {
        let mut info = StageInfo::new(name, self.keyed).with(&options);
        info.keeps_time = true;
        self.transform(info, options, factory)
    }

    fn transform<U: Send + 'static, S: Transform<T, U> + 'static>(
        self,
        info: StageInfo,
        options: StageOptions<T, U>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> Flow<U> {
        let factory: Factory<S> = Arc::new(factory);
        self.then(info, move |assembly, index, inlet, way| {
            assembly.takes_part(index, None);
            Box::new(RecordStage::new(assembly.shared(index), options, factory, inlet, Some(way)))
        })
    }

    /// Runs a model.
    #[must_use]
    pub fn infer<H: ModelHandler>(self, name: &str, run: RunInference<T, H>) -> Flow<Prediction<T, H::Output>> {
        let mut info = StageInfo::new(name, self.keyed).with(&run.stage);
        info.batch = Some((*run.batch.items.start(), (*run.batch.items.end()).max(run.batch.hold_until)));
        info.model = Some(Arc::new(run.handler.id()));
        info.memory = run.memory;
        if let Some(remembers) = &run.remembers {
            info.remembers = Some(remembers.options.bytes);
            info.unstored = (!remembers.stored).then_some("holds states of sequences that have no codec");
            info.problem = match () {
                () if !self.keyed => Some("sequences of records without keys"),
                () if remembers.options.most < info.replicas => Some("fewer places for sequences than replicas"),
                () => None,
            };
        }
        self.then(info, move |assembly, index, inlet, way| {
            let memory = assembly.run_bytes(index);
            if run.remembers.is_some() {
                assembly.takes_part(index, None);
            }
            Box::new(InferStage::new(assembly.shared(index), run, memory, inlet, way))
        })
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
        let options = options.into_inner();
        let mut info = StageInfo::new(sink.name(), self.keyed).with(&options);
        info.named = false;
        info.unstored = (!sink.takes_back()).then_some("cannot take back what it wrote");
        let factory: Factory<SinkStep<F::Sink, T>> = Arc::new(move |start| Ok(SinkStep(sink.open(start)?, PhantomData)));
        let node = self.node(info, Fan::Choice(0), move |assembly, index, inlet| {
            let door = assembly.door(&inlet);
            assembly.takes_part(index, Some(inlet.clone()));
            Box::new(RecordStage::new(assembly.shared(index), options, factory, inlet, None).behind(door))
        });
        Pipeline { sinks: vec![node], options: Options::default() }
    }
}
