//! The sending side of a worker: gathers envelopes into chunks, per lane, and waits for credits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_edge::{Cost, Edge, MAX_CHUNK, SendError, Sender};

use crate::{
    envelope::Envelope,
    metrics::{StageMetrics, add},
};

/// The edge was closed: the pipeline is being aborted.
#[derive(Debug)]
pub(crate) struct EdgeClosed;

pub(crate) struct Outlet<U> {
    sender: Option<Sender<Envelope<U>>>,
    lanes: Vec<Gathering<U>>,
    /// A chunk is sent once it holds this many bytes.
    chunk_bytes: u64,
    metrics: Arc<StageMetrics>,
    waited: Duration,
}

struct Gathering<U> {
    items: Vec<Envelope<U>>,
    cost: Cost,
}

impl<U: Send> Outlet<U> {
    /// A worker's end of the edge; without one, whatever is pushed would be lost, so sinks push nothing.
    pub(crate) fn new(edge: Option<&Arc<Edge<Envelope<U>>>>, metrics: Arc<StageMetrics>) -> Self {
        let lanes = edge.map_or(0, |edge| edge.lanes());
        Outlet {
            sender: edge.map(Edge::sender),
            lanes: (0..lanes).map(|_| Gathering { items: Vec::new(), cost: Cost::default() }).collect(),
            // Several chunks fit on an edge, so that both sides work at once.
            chunk_bytes: edge.map_or(u64::MAX, |edge| (edge.limits().bytes / 4).max(1)),
            metrics,
            waited: Duration::ZERO,
        }
    }

    pub(crate) fn push(&mut self, envelope: Envelope<U>) -> Result<(), EdgeClosed> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let lane = match envelope.head.key {
            _ if self.lanes.len() == 1 => 0,
            Some(key) => key.lane(self.lanes.len()),
            None => sender.shallowest_lane(),
        };
        let cost = envelope.head.cost;
        // An envelope that would make the chunk too large starts the next one: it may need the edge for itself.
        if self.lanes[lane].cost.bytes + cost.bytes > self.chunk_bytes && !self.lanes[lane].items.is_empty() {
            self.send(lane)?;
        }
        let gathering = &mut self.lanes[lane];
        if gathering.items.is_empty() {
            gathering.items.reserve(MAX_CHUNK);
        }
        gathering.cost = gathering.cost.plus(cost);
        gathering.items.push(envelope);
        if gathering.items.len() >= MAX_CHUNK || gathering.cost.bytes >= self.chunk_bytes {
            self.send(lane)?;
        }
        Ok(())
    }

    /// Sends what has been gathered.
    pub(crate) fn flush(&mut self) -> Result<(), EdgeClosed> {
        (0..self.lanes.len()).try_for_each(|lane| self.send(lane))
    }

    /// Sends what has been gathered and says that this worker's stream has ended.
    pub(crate) fn finish(mut self) -> Result<(), EdgeClosed> {
        let flushed = self.flush();
        if let Some(sender) = self.sender.take() {
            sender.finish();
        }
        flushed
    }

    /// The time spent waiting for credits since the last call.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    fn send(&mut self, lane: usize) -> Result<(), EdgeClosed> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let gathering = &mut self.lanes[lane];
        if gathering.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut gathering.items);
        let cost = std::mem::take(&mut gathering.cost);
        let records = items.len() as u64;
        match sender.try_send(lane, items, cost) {
            Ok(()) => {}
            Err(SendError(items)) => {
                let start = Instant::now();
                let sent = sender.send(lane, items, cost);
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
