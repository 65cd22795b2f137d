//! Stages with several ways out: copies to all of them, a choice of one, a main way and a side way.

use std::{sync::Arc, time::Duration};

use millstream_edge::{Control, Limits};

use super::{Context, Emit, Entrance, Outward, Transform, outlet::EdgeClosed};
use crate::{
    envelope::{CopyMark, Envelope},
    error::StageError,
    metrics::StageMetrics,
    metrics::add,
};

/// What a stage with a side way emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Out<U, V> {
    /// A result for the main way.
    Main(U),
    /// A result for the side way.
    Side(V),
}

/// Copies of one record, one for each way.
pub(crate) struct Copies<T>(Vec<T>);

/// A record and the number of the way that it takes.
pub(crate) struct Routed<T>(usize, T);

/// Makes the copies.
pub(crate) struct CopyFn(pub(crate) usize);

impl<T: Clone> Transform<T, Copies<T>> for CopyFn {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<Copies<T>>) -> Result<(), StageError> {
        let mut copies = Vec::with_capacity(self.0);
        copies.resize(self.0.saturating_sub(1), record.clone());
        copies.push(record);
        out.push(Copies(copies));
        Ok(())
    }
}

/// Chooses among so many ways.
pub(crate) struct RouteFn<F>(pub(crate) usize, pub(crate) F);

impl<T, F: FnMut(&T, &Context<'_>) -> usize + Send> Transform<T, Routed<T>> for RouteFn<F> {
    fn apply(&mut self, record: T, context: &Context<'_>, out: &mut Emit<Routed<T>>) -> Result<(), StageError> {
        let way = (self.1)(&record, context);
        if way >= self.0 {
            return Err(StageError::permanent(format!("branch {way} was chosen, there are {}", self.0)));
        }
        out.push(Routed(way, record));
        Ok(())
    }
}

/// Makes any number of results from each record, each for one of two ways.
pub(crate) struct SortFn<F>(pub(crate) F);

impl<T, U, V, I: IntoIterator<Item = Out<U, V>>, F: FnMut(T) -> I + Send> Transform<T, Out<U, V>> for SortFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<Out<U, V>>) -> Result<(), StageError> {
        out.items.extend((self.0)(record));
        Ok(())
    }
}

/// What a copy is to the record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CopyKind {
    /// A part of it: the record has ended when this has.
    Counts,
    /// Its end does not matter.
    Silent,
    /// Its end does not matter, and it takes memory from what shadows have, this many times what it weighs here.
    Shadow(f64),
}

type Ways<T> = Vec<Box<dyn Outward<T>>>;
type Entrances<T> = Vec<Arc<dyn Entrance<T>>>;

fn open<T>(entrances: &Entrances<T>, metrics: &Arc<StageMetrics>, replica: usize) -> Ways<T> {
    entrances.iter().map(|entrance| entrance.open(metrics, replica)).collect()
}

fn tightest<'a>(limits: impl Iterator<Item = Limits> + 'a) -> Limits {
    limits.fold(Limits { records: u32::MAX, bytes: u64::MAX }, |a, b| Limits { records: a.records.min(b.records), bytes: a.bytes.min(b.bytes) })
}

/// Finishes all ways, whatever becomes of one.
fn finish_all<T>(ways: Ways<T>) -> Result<(), EdgeClosed> {
    let mut result = Ok(());
    for way in ways {
        result = result.and(way.finish());
    }
    result
}

/// Leads copies to all ways.
pub(crate) struct Scatter<T>(pub(crate) Vec<(CopyKind, Arc<dyn Entrance<T>>)>);

struct ScatterOutlet<T> {
    kinds: Vec<CopyKind>,
    ways: Ways<T>,
    metrics: Arc<StageMetrics>,
}

impl<T: Send + 'static> Entrance<Copies<T>> for Scatter<T> {
    fn open(&self, metrics: &Arc<StageMetrics>, replica: usize) -> Box<dyn Outward<Copies<T>>> {
        let kinds = self.0.iter().map(|(kind, _)| *kind).collect();
        let ways = self.0.iter().map(|(_, entrance)| entrance.open(metrics, replica)).collect();
        Box::new(ScatterOutlet { kinds, ways, metrics: metrics.clone() })
    }

    fn limits(&self) -> Limits {
        tightest(self.0.iter().map(|(_, entrance)| entrance.limits()))
    }
}

impl<T: Send> Outward<Copies<T>> for ScatterOutlet<T> {
    fn push(&mut self, envelope: Envelope<Copies<T>>) -> Result<(), EdgeClosed> {
        let Envelope { mut head, ticket, payload: Copies(copies) } = envelope;
        head.copy = Some(CopyMark::new(head.copy.take()));
        let mut ticket = Some(ticket);
        let counting = self.kinds.iter().filter(|kind| matches!(kind, CopyKind::Counts)).count();
        let mut counted = 0;
        // All tickets first: a copy that ends while others are made must not be taken for the last.
        let mut tickets = Vec::with_capacity(copies.len());
        for kind in self.kinds.iter().rev() {
            let next = match kind {
                CopyKind::Counts => {
                    counted += 1;
                    if counted == counting { ticket.take() } else { ticket.as_mut().map(|ticket| ticket.fork()) }
                }
                // Silent ways come behind those that count, so the ticket is still here.
                CopyKind::Silent => ticket.as_mut().map(|ticket| ticket.fork_silently()),
                CopyKind::Shadow(factor) => ticket.as_ref().and_then(|ticket| ticket.shadow((head.bytes as f64 * factor) as u64)),
            };
            tickets.push(next);
        }
        for ((way, payload), ticket) in self.ways.iter_mut().zip(copies).zip(tickets.into_iter().rev()) {
            match ticket {
                Some(ticket) => way.push(Envelope { head: head.clone(), ticket, payload })?,
                None => add(&self.metrics.shed, 1),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EdgeClosed> {
        self.ways.iter_mut().try_for_each(|way| way.flush())
    }

    fn control(&mut self, control: Control) -> Result<(), EdgeClosed> {
        self.ways.iter_mut().try_for_each(|way| way.control(control))
    }

    fn finish(self: Box<Self>) -> Result<(), EdgeClosed> {
        finish_all(self.ways)
    }

    fn take_waited(&mut self) -> Duration {
        self.ways.iter_mut().map(|way| way.take_waited()).sum()
    }
}

/// Leads each record to the way that was chosen for it.
pub(crate) struct Switch<T>(pub(crate) Entrances<T>);

struct SwitchOutlet<T>(Ways<T>);

impl<T: Send + 'static> Entrance<Routed<T>> for Switch<T> {
    fn open(&self, metrics: &Arc<StageMetrics>, replica: usize) -> Box<dyn Outward<Routed<T>>> {
        Box::new(SwitchOutlet(open(&self.0, metrics, replica)))
    }

    fn limits(&self) -> Limits {
        tightest(self.0.iter().map(|entrance| entrance.limits()))
    }
}

impl<T: Send> Outward<Routed<T>> for SwitchOutlet<T> {
    fn push(&mut self, envelope: Envelope<Routed<T>>) -> Result<(), EdgeClosed> {
        let Envelope { head, ticket, payload: Routed(way, payload) } = envelope;
        self.0[way].push(Envelope { head, ticket, payload })
    }

    fn flush(&mut self) -> Result<(), EdgeClosed> {
        self.0.iter_mut().try_for_each(|way| way.flush())
    }

    fn control(&mut self, control: Control) -> Result<(), EdgeClosed> {
        self.0.iter_mut().try_for_each(|way| way.control(control))
    }

    fn finish(self: Box<Self>) -> Result<(), EdgeClosed> {
        finish_all(self.0)
    }

    fn take_waited(&mut self) -> Duration {
        self.0.iter_mut().map(|way| way.take_waited()).sum()
    }
}

/// A main way and a side way. Without the side way nothing may be sent there: it would end as cancelled.
pub(crate) struct Siding<U, V>(pub(crate) Arc<dyn Entrance<U>>, pub(crate) Option<Arc<dyn Entrance<V>>>);

struct SidingOutlet<U, V>(Box<dyn Outward<U>>, Option<Box<dyn Outward<V>>>);

impl<U: Send + 'static, V: Send + 'static> Entrance<Out<U, V>> for Siding<U, V> {
    fn open(&self, metrics: &Arc<StageMetrics>, replica: usize) -> Box<dyn Outward<Out<U, V>>> {
        Box::new(SidingOutlet(self.0.open(metrics, replica), self.1.as_ref().map(|side| side.open(metrics, replica))))
    }

    fn limits(&self) -> Limits {
        tightest(std::iter::once(self.0.limits()).chain(self.1.as_ref().map(|side| side.limits())))
    }
}

impl<U: Send, V: Send> Outward<Out<U, V>> for SidingOutlet<U, V> {
    fn push(&mut self, envelope: Envelope<Out<U, V>>) -> Result<(), EdgeClosed> {
        let Envelope { head, ticket, payload } = envelope;
        match (payload, &mut self.1) {
            (Out::Main(payload), _) => self.0.push(Envelope { head, ticket, payload }),
            (Out::Side(payload), Some(side)) => side.push(Envelope { head, ticket, payload }),
            (Out::Side(_), None) => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), EdgeClosed> {
        self.0.flush()?;
        self.1.as_mut().map_or(Ok(()), |side| side.flush())
    }

    fn control(&mut self, control: Control) -> Result<(), EdgeClosed> {
        self.0.control(control)?;
        self.1.as_mut().map_or(Ok(()), |side| side.control(control))
    }

    fn finish(self: Box<Self>) -> Result<(), EdgeClosed> {
        let main = self.0.finish();
        self.1.map_or(Ok(()), Outward::finish).and(main)
    }

    fn take_waited(&mut self) -> Duration {
        self.0.take_waited() + self.1.as_mut().map_or(Duration::ZERO, |side| side.take_waited())
    }
}
