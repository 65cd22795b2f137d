//! Flows that branch and merge.
//!
//! A branching is a stage of its own. What holds over branches:
//!
//! - A record has ended when all its copies have; the worst of their ends is its own. Shadows are no part of it.
//! - The entry budget reserves the sum over the ways that copies take at once, and the largest of those that exclude
//!   each other.
//! - Records of one key keep their order along one way. Behind a merge they keep it if all of the key took the same way
//!   (a choice by key, [`Flow::ab`]); of two that took different ways, either may be first.

use std::sync::Arc;

use super::{
    assembly::StageInfo,
    flow::Flow,
    graph::{Fan, Feed, Port, Way},
};
use crate::{
    envelope::Header,
    error::StageError,
    stage::{Context, CopyFn, CopyKind, Entrance, Factory, Out, RecordStage, RouteFn, Scatter, Siding, SortFn, StageOptions, Start, Switch, Transform},
};

impl<T: Send + 'static> Flow<T> {
    /// Copies each record to every branch. Put the payload into an `Arc` first where copying costs much.
    #[must_use]
    pub fn tee<const N: usize>(self, name: &str) -> [Flow<T>; N]
    where
        T: Clone,
    {
        array(self.tee_to(name, N))
    }

    /// As [`Flow::tee`], where the number of branches is known when the program runs.
    #[must_use]
    pub fn tee_to(self, name: &str, branches: usize) -> Vec<Flow<T>>
    where
        T: Clone,
    {
        self.copies(name, vec![Way::Counts; branches])
    }

    /// The flow itself, and a shadow of it: copies that never hold up a record, are thrown away first where memory or
    /// time is short, and whose end is nobody's business. A quarter of the memory for records is theirs.
    #[must_use]
    pub fn shadow(self, name: &str) -> (Flow<T>, Flow<T>)
    where
        T: Clone,
    {
        let mut flows = self.copies(name, vec![Way::Counts, Way::Shadow]).into_iter();
        (flows.next().expect("there are two ways"), flows.next().expect("there are two ways"))
    }

    /// Copies to so many ways. Those that count come first.
    pub(super) fn copies(self, name: &str, ways: Vec<Way>) -> Vec<Flow<T>>
    where
        T: Clone,
    {
        let keyed = self.keyed;
        let info = StageInfo::new(name, keyed);
        let ports: Vec<_> = ways.iter().map(|_| Port::new()).collect();
        let (outs, kinds, count) = (ports.clone(), ways.clone(), ways.len());
        let node = self.node(info, Fan::All(ways.clone()), move |assembly, index, inlet| {
            let kind = |way: usize| match kinds[way] {
                Way::Counts => CopyKind::Counts,
                Way::Silent => CopyKind::Silent,
                Way::Shadow => CopyKind::Shadow(assembly.peak_behind(index, way)),
            };
            assembly.takes_part(index, None);
            let ways = outs.iter().enumerate().map(|(way, port)| (kind(way), port.entrance())).collect();
            let factory: Factory<CopyFn> = Arc::new(move |_| Ok(CopyFn(count)));
            Box::new(RecordStage::new(assembly.shared(index), StageOptions::new(), factory, inlet, Some(Arc::new(Scatter(ways)))))
        });
        let feeds = ports.into_iter().enumerate().map(|(way, port)| Feed::new(&node, way, port));
        feeds.zip(ways).map(|(feed, way)| Flow::of(vec![if way == Way::Shadow { feed.lossy() } else { feed }], keyed)).collect()
    }

    /// Sends each record to the branch whose number the closure gives. A number that is too large sends it to the dead
    /// letters.
    #[must_use]
    pub fn split<const N: usize>(self, name: &str, f: impl FnMut(&T) -> usize + Clone + Send + Sync + 'static) -> [Flow<T>; N] {
        array(self.split_to(name, N, f))
    }

    /// As [`Flow::split`], where the number of branches is known when the program runs.
    #[must_use]
    pub fn split_to(self, name: &str, branches: usize, f: impl FnMut(&T) -> usize + Clone + Send + Sync + 'static) -> Vec<Flow<T>> {
        let f = move || {
            let mut f = f.clone();
            move |record: &T, _: &Context<'_>| f(record)
        };
        self.route(name, branches, f)
    }

    /// Sends each record to a branch by a hash of its key (without one, of its number) and the salt. The same key always
    /// goes the same way, for as long as salt and weights stay; another salt divides anew. Branch `i` gets its weight's
    /// share.
    #[must_use]
    pub fn ab<const N: usize>(self, name: &str, salt: u64, weights: [u32; N]) -> [Flow<T>; N] {
        array(self.ab_to(name, salt, &weights))
    }

    /// As [`Flow::ab`], where the number of branches is known when the program runs.
    #[must_use]
    pub fn ab_to(self, name: &str, salt: u64, weights: &[u32]) -> Vec<Flow<T>> {
        let weights: Arc<[u32]> = weights.into();
        self.route(name, weights.len(), move || {
            let weights = weights.clone();
            move |_: &T, context: &Context<'_>| chosen(context.header, salt, &weights)
        })
    }

    fn route<F, G>(self, name: &str, branches: usize, make: G) -> Vec<Flow<T>>
    where
        F: FnMut(&T, &Context<'_>) -> usize + Send + 'static,
        G: Fn() -> F + Send + Sync + 'static,
    {
        let keyed = self.keyed;
        let info = StageInfo::new(name, keyed);
        let ports: Vec<_> = (0..branches).map(|_| Port::new()).collect();
        let outs = ports.clone();
        let node = self.node(info, Fan::Choice(branches), move |assembly, index, inlet| {
            assembly.takes_part(index, None);
            let ways: Vec<Arc<dyn Entrance<T>>> = outs.iter().map(|port| port.entrance()).collect();
            let factory: Factory<RouteFn<F>> = Arc::new(move |_| Ok(RouteFn(branches, make())));
            Box::new(RecordStage::new(assembly.shared(index), StageOptions::new(), factory, inlet, Some(Arc::new(Switch(ways)))))
        });
        ports.into_iter().enumerate().map(|(way, port)| Flow::of(vec![Feed::new(&node, way, port)], keyed)).collect()
    }

    /// Turns each record into any number of results, each for the main flow or for the side.
    #[must_use]
    pub fn fork<U: Send + 'static, V: Send + 'static, I>(self, name: &str, f: impl FnMut(T) -> I + Clone + Send + Sync + 'static) -> (Flow<U>, Flow<V>)
    where
        I: IntoIterator<Item = Out<U, V>> + 'static,
    {
        self.fork_with(name, StageOptions::new(), move |_| Ok(SortFn(f.clone())))
    }

    /// As [`Flow::fork`], for any stage that takes one record at a time, with options. The declared expansion is that of
    /// all its results together.
    #[must_use]
    pub fn fork_with<U: Send + 'static, V: Send + 'static, S: Transform<T, Out<U, V>> + 'static>(
        self,
        name: &str,
        options: StageOptions<T, Out<U, V>>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> (Flow<U>, Flow<V>) {
        let info = StageInfo::new(name, self.keyed).with(&options);
        self.siding(info, options, factory)
    }

    /// As [`Flow::fork_with`], for a stage in which records begin.
    pub(super) fn fork_bearing<U: Send + 'static, V: Send + 'static, S: Transform<T, Out<U, V>> + 'static>(
        self,
        name: &str,
        problem: Option<&'static str>,
        unstored: Option<&'static str>,
        options: StageOptions<T, Out<U, V>>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> (Flow<U>, Flow<V>) {
        let mut info = StageInfo::new(name, self.keyed).with(&options);
        (info.bears, info.problem, info.unstored) = (true, problem, unstored);
        self.siding(info, options, factory)
    }

    fn siding<U: Send + 'static, V: Send + 'static, S: Transform<T, Out<U, V>> + 'static>(
        self,
        info: StageInfo,
        options: StageOptions<T, Out<U, V>>,
        factory: impl Fn(&Start) -> Result<S, StageError> + Send + Sync + 'static,
    ) -> (Flow<U>, Flow<V>) {
        let keyed = self.keyed;
        let (main, side) = (Port::new(), Port::new());
        let (to_main, to_side) = (main.clone(), side.clone());
        let factory: Factory<S> = Arc::new(factory);
        let node = self.node(info, Fan::Choice(2), move |assembly, index, inlet| {
            assembly.takes_part(index, None);
            let ways = Arc::new(Siding(to_main.entrance(), Some(to_side.entrance())));
            Box::new(RecordStage::new(assembly.shared(index), options, factory, inlet, Some(ways)))
        });
        (Flow::of(vec![Feed::new(&node, 0, main)], keyed), Flow::of(vec![Feed::new(&node, 1, side)], keyed))
    }

    /// The records of several flows as one. It costs nothing: they meet on the edge into the next stage.
    #[must_use]
    pub fn merge(flows: impl IntoIterator<Item = Flow<T>>) -> Flow<T> {
        let (mut feeds, mut keyed) = (Vec::new(), false);
        for flow in flows {
            keyed |= flow.keyed;
            feeds.extend(flow.into_feeds());
        }
        Flow::of(feeds, keyed)
    }
}

/// As many flows as were asked for.
fn array<T, const N: usize>(flows: Vec<Flow<T>>) -> [Flow<T>; N] {
    let mut flows = flows.into_iter();
    std::array::from_fn(|_| flows.next().expect("there are N ways"))
}

/// The branch of a record. The hash is our own, so that it is the same in every version of the program.
fn chosen(header: &Header, salt: u64, weights: &[u32]) -> usize {
    let mut mixed = header.key.map_or(header.id, |key| key.0) ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for factor in [0xBF58_476D_1CE4_E5B9u64, 0x94D0_49BB_1331_11EB] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(factor);
    }
    mixed ^= mixed >> 31;
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut point = ((u128::from(mixed) * u128::from(total)) >> 64) as u64;
    weights
        .iter()
        .position(|weight| {
            let inside = point < u64::from(*weight);
            point = point.saturating_sub(u64::from(*weight));
            inside
        })
        .unwrap_or(0)
}
