//! The sending side of a worker: gathers envelopes into chunks, per lane, and waits for credits.
//!
//! A stage knows an [`Entrance`] to what follows, and each of its workers opens an [`Outlet`] there. Behind most
//! entrances is an edge; [`super::branch`] has those that lead to several.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_edge::{Control, Cost, Edge, Limits, MAX_CHUNK, SendError, Sender};

use crate::{
    envelope::Envelope,
    metrics::{StageMetrics, add},
};

/// The edge was closed: the pipeline is being aborted.
#[derive(Debug)]
pub(crate) struct EdgeClosed;

/// What follows a stage.
pub(crate) trait Entrance<U>: Send + Sync {
    /// The way in for the worker of this replica.
    fn open(&self, metrics: &Arc<StageMetrics>, replica: usize) -> Box<dyn Outward<U>>;

    /// The most that may wait behind it.
    fn limits(&self) -> Limits;
}

/// What a worker passes its results to.
pub(crate) trait Outward<U>: Send {
    fn push(&mut self, envelope: Envelope<U>) -> Result<(), EdgeClosed>;

    /// Sends what has been gathered.
    fn flush(&mut self) -> Result<(), EdgeClosed>;

    /// Sends what has been gathered, and a watermark behind it.
    fn control(&mut self, control: Control) -> Result<(), EdgeClosed>;

    /// Sends what has been gathered and says that this worker's stream has ended.
    fn finish(self: Box<Self>) -> Result<(), EdgeClosed>;

    /// The time spent waiting for credits since the last call.
    fn take_waited(&mut self) -> Duration;
}

/// A worker's way out; a sink's leads nowhere.
pub(crate) struct Outlet<U>(Option<Box<dyn Outward<U>>>);

impl<U> Outlet<U> {
    /// A worker's end of what follows; without it, whatever is pushed would be lost, so sinks push nothing.
    pub(crate) fn new(entrance: Option<&Arc<dyn Entrance<U>>>, metrics: &Arc<StageMetrics>, replica: usize) -> Self {
        Outlet(entrance.map(|entrance| entrance.open(metrics, replica)))
    }

    pub(crate) fn push(&mut self, envelope: Envelope<U>) -> Result<(), EdgeClosed> {
        self.0.as_mut().map_or(Ok(()), |way| way.push(envelope))
    }

    /// Sends what has been gathered.
    pub(crate) fn flush(&mut self) -> Result<(), EdgeClosed> {
        self.0.as_mut().map_or(Ok(()), |way| way.flush())
    }

    /// Sends what has been gathered, and a watermark behind it.
    pub(crate) fn control(&mut self, control: Control) -> Result<(), EdgeClosed> {
        self.0.as_mut().map_or(Ok(()), |way| way.control(control))
    }

    /// Sends what has been gathered and says that this worker's stream has ended.
    pub(crate) fn finish(self) -> Result<(), EdgeClosed> {
        self.0.map_or(Ok(()), Outward::finish)
    }

    /// The time spent waiting for credits since the last call.
    pub(crate) fn take_waited(&mut self) -> Duration {
        self.0.as_mut().map_or(Duration::ZERO, |way| way.take_waited())
    }
}

/// What the producer of `U` sees of an edge that carries `V`.
pub(crate) struct EdgeEntrance<V, F> {
    edge: Arc<Edge<Envelope<V>>>,
    /// Turns what is produced into what the edge carries.
    wrap: F,
    /// Which of the edge's producers the stage's first replica is.
    first: usize,
    /// What finds no credits is thrown away rather than waited with.
    lossy: bool,
}

impl<V, F> EdgeEntrance<V, F> {
    pub(crate) fn new(edge: Arc<Edge<Envelope<V>>>, wrap: F, first: usize, lossy: bool) -> Self {
        EdgeEntrance { edge, wrap, first, lossy }
    }
}

impl<U, V, F> Entrance<U> for EdgeEntrance<V, F>
where
    V: Send + 'static,
    F: Fn(U) -> V + Clone + Send + Sync + 'static,
{
    fn open(&self, metrics: &Arc<StageMetrics>, replica: usize) -> Box<dyn Outward<U>> {
        let limits = self.edge.limits();
        Box::new(EdgeOutlet {
            sender: self.edge.sender_of(self.first + replica),
            lanes: (0..self.edge.lanes()).map(|_| Gathering { items: Vec::new(), cost: Cost::default() }).collect(),
            // Several chunks fit on an edge, so that both sides work at once.
            chunk_bytes: (limits.bytes / 4).max(1),
            metrics: metrics.clone(),
            waited: Duration::ZERO,
            wrap: self.wrap.clone(),
            lossy: self.lossy,
        })
    }

    fn limits(&self) -> Limits {
        self.edge.limits()
    }
}

struct EdgeOutlet<V, F> {
    sender: Sender<Envelope<V>>,
    lanes: Vec<Gathering<V>>,
    /// A chunk is sent once it holds this many bytes.
    chunk_bytes: u64,
    metrics: Arc<StageMetrics>,
    waited: Duration,
    wrap: F,
    lossy: bool,
}

struct Gathering<V> {
    items: Vec<Envelope<V>>,
    cost: Cost,
}

impl<U, V: Send, F: Fn(U) -> V + Send> Outward<U> for EdgeOutlet<V, F> {
    fn push(&mut self, envelope: Envelope<U>) -> Result<(), EdgeClosed> {
        let lane = match envelope.head.key {
            _ if self.lanes.len() == 1 => 0,
            Some(key) => key.lane(self.lanes.len()),
            None => self.sender.shallowest_lane(),
        };
        let cost = envelope.head.cost();
        // An envelope that would make the chunk too large starts the next one: it may need the edge for itself.
        if self.lanes[lane].cost.bytes + cost.bytes > self.chunk_bytes && !self.lanes[lane].items.is_empty() {
            self.send(lane)?;
        }
        let gathering = &mut self.lanes[lane];
        if gathering.items.is_empty() {
            gathering.items.reserve(MAX_CHUNK);
        }
        gathering.cost = gathering.cost.plus(cost);
        let Envelope { head, ticket, payload } = envelope;
        gathering.items.push(Envelope { head, ticket, payload: (self.wrap)(payload) });
        if gathering.items.len() >= MAX_CHUNK || gathering.cost.bytes >= self.chunk_bytes {
            self.send(lane)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EdgeClosed> {
        (0..self.lanes.len()).try_for_each(|lane| self.send(lane))
    }

    fn control(&mut self, control: Control) -> Result<(), EdgeClosed> {
        (0..self.lanes.len()).try_for_each(|lane| self.send(lane))?;
        if self.lossy && !matches!(control, Control::Barrier(_)) {
            // A later one says as much.
            self.sender.try_control(control);
            return Ok(());
        }
        self.sender.control(control).map_err(|_| EdgeClosed)
    }

    fn finish(mut self: Box<Self>) -> Result<(), EdgeClosed> {
        let flushed = (0..self.lanes.len()).try_for_each(|lane| self.send(lane));
        self.sender.finish();
        flushed
    }

    fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl<V: Send, F> EdgeOutlet<V, F> {
    fn send(&mut self, lane: usize) -> Result<(), EdgeClosed> {
        let gathering = &mut self.lanes[lane];
        if gathering.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut gathering.items);
        let cost = std::mem::take(&mut gathering.cost);
        let records = items.len() as u64;
        match self.sender.try_send(lane, items, cost) {
            Ok(()) => {}
            Err(SendError(items)) if self.lossy => {
                add(&self.metrics.shed, items.len() as u64);
                return Ok(());
            }
            Err(SendError(items)) => {
                let start = Instant::now();
                let sent = self.sender.send(lane, items, cost);
                let waited = start.elapsed();
                self.waited += waited;
                self.metrics.waited(waited);
                // The envelopes end as cancelled here.
                sent.map_err(|_| EdgeClosed)?;
            }
        }
        add(&self.metrics.records_out, records);
        Ok(())
    }
}
