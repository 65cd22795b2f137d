//! The graph behind a description: nodes that know the nodes before them.
//!
//! A node is made after the nodes that it takes from and owns its way to them, and a way out can be taken once because a
//! flow is used up by what is put behind it: so there are no cycles and no forgotten copies by construction. What can
//! still be wrong (a way out that leads nowhere) is found when the pipeline is built.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use millstream_edge::Edge;

use super::assembly::{Assembly, StageInfo};
use crate::{
    envelope::Envelope,
    stage::{EdgeEntrance, Entrance, Stage},
};

/// Makes a stage, once all edges are there.
pub(super) type Build = Box<dyn FnOnce(&mut Assembly) -> Box<dyn Stage>>;
/// Makes the edge into a stage.
pub(super) type Connect = Box<dyn FnOnce(&mut Assembly, usize) -> Build + Send>;

/// Which ways out the results of one record take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fan {
    /// One of so many (a sink has none).
    Choice(usize),
    /// All of them; those that are shadows have memory of their own.
    All(Vec<Way>),
}

/// What kind of way out it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Counts,
    Silent,
    Shadow,
}

impl Fan {
    fn ways(&self) -> usize {
        match self {
            Fan::Choice(ways) => *ways,
            Fan::All(ways) => ways.len(),
        }
    }
}

/// A stage of the graph.
pub(crate) struct Node {
    pub(super) info: StageInfo,
    inputs: Vec<Link>,
    fan: Fan,
    connect: Mutex<Option<Connect>>,
}

impl Node {
    pub(super) fn new(info: StageInfo, inputs: Vec<Link>, fan: Fan, connect: Connect) -> Arc<Self> {
        Arc::new(Node { info, inputs, fan, connect: Mutex::new(Some(connect)) })
    }

    pub(super) fn connect(&self) -> Option<Connect> {
        self.connect.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its ways out.
    pub(super) fn fan(&self) -> &Fan {
        &self.fan
    }
}

/// One way out of a node.
#[derive(Clone)]
pub(crate) struct Link {
    node: Arc<Node>,
    way: usize,
}

/// Where the records of a way out go: known once what follows has its edge.
pub(crate) struct Port<T>(OnceLock<Arc<dyn Entrance<T>>>);

impl<T> Port<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Port(OnceLock::new()))
    }

    pub(super) fn entrance(&self) -> Arc<dyn Entrance<T>> {
        self.0.get().expect("edges are made before stages, and ways out that lead nowhere are refused before that").clone()
    }
}

/// A way out, with its type.
pub(crate) struct Feed<T> {
    link: Link,
    port: Arc<Port<T>>,
    /// What finds no room is thrown away.
    lossy: bool,
}

impl<T: Send + 'static> Feed<T> {
    pub(super) fn new(node: &Arc<Node>, way: usize, port: Arc<Port<T>>) -> Self {
        Feed { link: Link { node: node.clone(), way }, port, lossy: false }
    }

    pub(super) fn lossy(mut self) -> Self {
        self.lossy = true;
        self
    }

    pub(super) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Leads it onto an edge, on which `producers` are before it.
    pub(super) fn lead<V: Send + 'static>(&self, edge: &Arc<Edge<Envelope<V>>>, producers: &mut usize, wrap: impl Fn(T) -> V + Clone + Send + Sync + 'static) {
        // A feed is led somewhere once: it belongs to the one node behind it.
        let _ = self.port.0.set(Arc::new(EdgeEntrance::new(edge.clone(), wrap, *producers, self.lossy)));
        *producers += self.link.node.info.replicas;
    }
}

/// The nodes in the order of the stream, and what follows what.
pub(super) struct Wiring {
    pub(super) nodes: Vec<Arc<Node>>,
    /// For each node, the nodes before it, once for each way.
    pub(super) before: Vec<Vec<usize>>,
    /// For each node and way out, the node behind it.
    pub(super) behind: Vec<Vec<Option<usize>>>,
    /// For each node, the largest that a record which comes to it gets from there on, with all copies, as a multiple of
    /// what it weighs there.
    pub(super) peaks: Vec<f64>,
}

impl Wiring {
    /// Finds everything that leads to the sinks.
    pub(super) fn of(sinks: &[Arc<Node>]) -> Self {
        let mut wiring = Wiring { nodes: Vec::new(), before: Vec::new(), behind: Vec::new(), peaks: Vec::new() };
        let mut seen = HashMap::new();
        for sink in sinks {
            wiring.visit(sink, &mut seen);
        }
        wiring.peaks = vec![1.0; wiring.nodes.len()];
        for node in (0..wiring.nodes.len()).rev() {
            let expansion = wiring.nodes[node].info.expansion;
            let on = wiring.nodes[node].fan.clone();
            let peak = |way: &Option<usize>| way.map_or(1.0, |behind| wiring.peaks[behind]);
            let behind = match &on {
                Fan::Choice(_) => wiring.behind[node].iter().map(peak).fold(1.0, f64::max),
                Fan::All(ways) => ways.iter().zip(&wiring.behind[node]).filter(|(way, _)| **way != Way::Shadow).map(|(_, behind)| peak(behind)).sum(),
            };
            wiring.peaks[node] = (expansion * behind).max(1.0);
        }
        wiring
    }

    fn visit(&mut self, node: &Arc<Node>, seen: &mut HashMap<*const Node, usize>) -> usize {
        if let Some(index) = seen.get(&Arc::as_ptr(node)) {
            return *index;
        }
        let before: Vec<_> = node.inputs.iter().map(|link| (self.visit(&link.node, seen), link.way)).collect();
        let index = self.nodes.len();
        seen.insert(Arc::as_ptr(node), index);
        for (before, way) in &before {
            self.behind[*before][*way] = Some(index);
        }
        self.nodes.push(node.clone());
        self.before.push(before.into_iter().map(|(before, _)| before).collect());
        self.behind.push(vec![None; node.fan.ways()]);
        index
    }
}
