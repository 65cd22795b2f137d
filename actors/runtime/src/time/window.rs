//! Windows: records of one key, gathered by their times.
//!
//! ```text
//! a record comes   → into the windows that its time lies in; if all of them have been given out, it is late
//! the watermark    → windows that it has passed are given out, the earliest end first
//! ```
//!
//! The windows outlive an instance that panics. What they hold is no record any more: a record has ended when it is in its
//! windows, and a window's result is a record of its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Aggregate, micros};
use crate::{
    checkpoint::{Reader, State, Writer},
    envelope::{Key, TraceContext},
    error::StageError,
    spans::LINKS,
    stage::{Context, Emit, Out, Transform},
};

/// Which records of a key belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Windows {
    /// Those of the same stretch of time.
    Tumbling(Duration),
    /// Those of stretches that overlap: so long, and one every so often.
    Sliding {
        /// How long a window is.
        size: Duration,
        /// How far it is from one window's start to the next.
        every: Duration,
    },
    /// Those with a shorter pause than this between them: a session ends that long after its last record, and what comes at its very end
    /// begins another one, whether the session is still open or given out already.
    Session(Duration),
    /// So many, in the order of their coming. What is left at the end of the stream is a window too.
    Count(u64),
}

impl Windows {
    /// What is wrong with it, if anything.
    pub(crate) fn problem(self) -> Option<&'static str> {
        let empty = match self {
            Windows::Tumbling(size) | Windows::Session(size) => micros(size) == 0,
            Windows::Sliding { size, every } => micros(size) == 0 || micros(every) == 0,
            Windows::Count(count) => count == 0,
        };
        empty.then_some("empty windows")
    }
}

/// What a window holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Windowed<O> {
    /// The key of its records.
    pub key: Option<Key>,
    /// Where it begins, in microseconds since 1970; for a window by count, the time of its earliest record.
    pub start: i64,
    /// Where it ends: the first moment that does not belong to it; for a window by count, the moment after its latest record.
    pub end: i64,
    /// How many records it holds.
    pub count: u64,
    /// What the aggregate made of them.
    pub value: O,
}

/// A window that has not been given out. By its end, so that the earliest comes first.
type Place = (i64, i64, Option<Key>);

struct Open<S> {
    state: S,
    count: u64,
    /// The spans of its records that are sampled.
    links: Vec<TraceContext>,
}

impl<S> Open<S> {
    fn new(state: S) -> Self {
        Open { state, count: 0, links: Vec::new() }
    }

    /// Takes a record in.
    fn add<T>(&mut self, aggregate: &impl Aggregate<T, State = S>, record: &Came<'_, T>) {
        aggregate.add(&mut self.state, record.payload);
        self.count += 1;
        self.link(record.span);
    }

    fn link(&mut self, spans: impl IntoIterator<Item = TraceContext>) {
        let room = LINKS.saturating_sub(self.links.len());
        self.links.extend(spans.into_iter().take(room));
    }
}

/// A record that has come.
struct Came<'r, T> {
    key: Option<Key>,
    payload: &'r T,
    span: Option<TraceContext>,
}

/// The windows of one replica.
pub(crate) struct WindowState<S> {
    open: BTreeMap<Place, Open<S>>,
    /// For sessions: each key's windows, by start, with their ends.
    sessions: HashMap<Option<Key>, BTreeMap<i64, i64>>,
    /// For windows by count: the key's window, with its earliest and latest time.
    counted: HashMap<Option<Key>, (i64, i64, Open<S>)>,
    watermark: i64,
}

impl<S> Default for WindowState<S> {
    fn default() -> Self {
        WindowState { open: BTreeMap::new(), sessions: HashMap::new(), counted: HashMap::new(), watermark: i64::MIN }
    }
}

/// Gathers records into windows.
pub(crate) struct WindowFn<T, A: Aggregate<T>> {
    pub(crate) windows: Windows,
    pub(crate) aggregate: Arc<A>,
    pub(crate) state: Arc<Mutex<WindowState<A::State>>>,
}

type Results<T, A> = Out<Windowed<<A as Aggregate<T>>::Output>, T>;

impl<T: Send + 'static, A: Aggregate<T>> Transform<T, Results<T, A>> for WindowFn<T, A> {
    fn apply(&mut self, record: T, context: &Context<'_>, out: &mut Emit<Results<T, A>>) -> Result<(), StageError> {
        let key = context.header.key;
        let came = Came { key, payload: &record, span: context.span };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Windows::Count(most) = self.windows {
            let time = context.header.event_time.unwrap_or(0);
            let (first, last, open) = state.counted.entry(key).or_insert_with(|| (time, time, Open::new(self.aggregate.start())));
            open.add(&*self.aggregate, &came);
            (*first, *last) = ((*first).min(time), (*last).max(time));
            if open.count >= most
                && let Some((first, last, open)) = state.counted.remove(&key)
            {
                self.give_out((last.saturating_add(1), first, key), open, out);
            }
            return Ok(());
        }
        let Some(time) = context.header.event_time else {
            return Err(StageError::permanent("a record without an event time belongs to no window"));
        };
        let added = match self.windows {
            Windows::Tumbling(size) => self.add_to(&mut state, time, micros(size), micros(size), &came),
            Windows::Sliding { size, every } => self.add_to(&mut state, time, micros(size), micros(every), &came),
            Windows::Session(pause) => self.add_to_session(&mut state, time, micros(pause), &came),
            Windows::Count(_) => true,
        };
        if !added {
            out.push(Out::Side(record));
        }
        Ok(())
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }

    fn watermark(&mut self, time: i64, out: &mut Emit<Results<T, A>>) -> Result<(), StageError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.watermark = state.watermark.max(time);
        while let Some(first) = state.open.first_entry().filter(|first| first.key().0 <= time) {
            let (place, open) = first.remove_entry();
            if let Some(sessions) = state.sessions.get_mut(&place.2) {
                sessions.remove(&place.1);
                if sessions.is_empty() {
                    state.sessions.remove(&place.2);
                }
            }
            self.give_out(place, open, out);
        }
        if time == i64::MAX {
            let mut left: Vec<_> = state.counted.drain().collect();
            left.sort_by_key(|(key, (_, last, _))| (*last, *key));
            for (key, (first, last, open)) in left {
                self.give_out((last.saturating_add(1), first, key), open, out);
            }
        }
        Ok(())
    }
}

impl<T: Send + 'static, A: Aggregate<T>> WindowFn<T, A> {
    fn give_out(&self, (end, start, key): Place, open: Open<A::State>, out: &mut Emit<Results<T, A>>) {
        let windowed = Windowed { key, start, end, count: open.count, value: self.aggregate.finish(open.state) };
        out.begin_of(key, Some(end.saturating_sub(1)), Out::Main(windowed), open.links);
    }

    /// Adds a record to all windows that its time lies in and that were not given out; whether it came in
    /// time. (A moment between windows belongs to none.)
    fn add_to(&self, state: &mut WindowState<A::State>, time: i64, size: i64, every: i64, came: &Came<'_, T>) -> bool {
        let mut start = time.saturating_sub(time.rem_euclid(every));
        let (mut added, mut late) = (false, false);
        while start > time.saturating_sub(size) {
            let end = start.saturating_add(size);
            if end <= state.watermark {
                late = true;
                break;
            }
            let open = state.open.entry((end, start, came.key)).or_insert_with(|| Open::new(self.aggregate.start()));
            open.add(&*self.aggregate, came);
            added = true;
            let Some(before) = start.checked_sub(every) else { break };
            start = before;
        }
        added || !late
    }

    /// Adds a record to its key's session, which may join others; whether the session was not given out.
    fn add_to_session(&self, state: &mut WindowState<A::State>, time: i64, pause: i64, came: &Came<'_, T>) -> bool {
        let key = came.key;
        let (mut start, mut end) = (time, time.saturating_add(pause));
        let sessions = state.sessions.entry(key).or_default();
        let near: Vec<_> = sessions.range(..end).rev().take_while(|(_, until)| **until > start).map(|(from, until)| (*from, *until)).collect();
        if near.is_empty() && end <= state.watermark {
            if sessions.is_empty() {
                state.sessions.remove(&key);
            }
            return false;
        }
        let mut all: Option<Open<A::State>> = None;
        for (from, until) in near.into_iter().rev() {
            (start, end) = (start.min(from), end.max(until));
            sessions.remove(&from);
            if let Some(open) = state.open.remove(&(until, from, key)) {
                match &mut all {
                    None => all = Some(open),
                    Some(all) => {
                        self.aggregate.merge(&mut all.state, open.state);
                        all.count += open.count;
                        all.link(open.links);
                    }
                }
            }
        }
        sessions.insert(start, end);
        let open = state.open.entry((end, start, key)).or_insert(all.unwrap_or_else(|| Open::new(self.aggregate.start())));
        open.add(&*self.aggregate, came);
        true
    }
}

impl<T: Send + 'static, A: Aggregate<T>> State for WindowFn<T, A> {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Writer::default();
        out.bytes(self.kind().as_bytes());
        let mut write = |(end, start, key): Place, open: &Open<A::State>| {
            let bytes = self.aggregate.encode(&open.state).ok_or_else(|| StageError::fatal("a window that cannot be stored"))?;
            out.time(end);
            out.time(start);
            out.option(key, |out, key| out.number(key.0));
            out.number(open.count);
            out.bytes(&bytes);
            Ok::<_, StageError>(())
        };
        state.open.iter().try_for_each(|(place, open)| write(*place, open))?;
        state.counted.iter().try_for_each(|(key, (first, last, open))| write((*last, *first, *key), open))?;
        out.time(state.watermark);
        Ok(out.0)
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let restored = self.read(snapshot).ok_or_else(|| StageError::fatal("the checkpoint holds no such windows"))?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        Ok(())
    }

    fn outlives_instances(&self) -> bool {
        true
    }
}

impl<T: Send + 'static, A: Aggregate<T>> WindowFn<T, A> {
    /// Which windows a snapshot holds: those of others are refused.
    fn kind(&self) -> String {
        format!("{:?}", self.windows)
    }

    fn read(&self, snapshot: &[u8]) -> Option<WindowState<A::State>> {
        let mut state = WindowState::default();
        let mut input = Reader::new(snapshot);
        if input.bytes()? != self.kind().as_bytes() {
            return None;
        }
        loop {
            let end = input.time()?;
            if input.is_empty() {
                state.watermark = end;
                return Some(state);
            }
            let start = input.time()?;
            let key = input.option(Reader::number)?.map(Key);
            let count = input.number()?;
            let open = Open { count, ..Open::new(self.aggregate.decode(input.bytes()?)?) };
            match self.windows {
                Windows::Count(_) => drop(state.counted.insert(key, (start, end, open))),
                Windows::Session(_) => {
                    state.sessions.entry(key).or_default().insert(start, end);
                    state.open.insert((end, start, key), open);
                }
                Windows::Tumbling(_) | Windows::Sliding { .. } => drop(state.open.insert((end, start, key), open)),
            }
        }
    }
}
