//! Joins: records of two flows become one, if both come in time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    assembly::StageInfo,
    flow::Flow,
    graph::{Build, Connect, Fan, Feed, Node, Port},
};
use crate::{
    envelope::Envelope,
    error::StageError,
    stage::{Entrance, GatherStage, Group, GroupBy, Lonely, Out, Picked, Rule, Siding},
};

/// Which records are joined, and how long one waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Join {
    by: GroupBy,
    within: Duration,
}

impl Join {
    /// The copies of one record, on two branches of a [`Flow::tee`].
    pub fn by_record(within: Duration) -> Self {
        Join { by: GroupBy::Record, within }
    }

    /// Records of equal keys, each with the first that still waits on the other side. A record without a key goes to the
    /// dead letters. Mind the memory budget: a record that waits holds its share of it, and while no other is let in,
    /// only time ends the waiting.
    pub fn by_key(within: Duration) -> Self {
        Join { by: GroupBy::Key, within }
    }
}

/// A record that waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lone<T, U> {
    /// Of the flow that was joined.
    Left(T),
    /// Of the flow that it was joined with.
    Right(U),
}

impl<T: Send + 'static> Flow<T> {
    /// Pairs the records of two flows. One whose partner does not come in time goes to the dead letters.
    #[must_use]
    pub fn join<U: Send + 'static>(self, name: &str, other: Flow<U>, join: Join) -> Flow<(T, U)> {
        let keyed = self.keyed;
        let port = Port::new();
        let out = port.clone();
        let rule = Pairs { side: false };
        let node = pairing(name, self, other, join, rule, Fan::Choice(1), move || {
            // Nothing takes the side way.
            let entrance: Arc<dyn Entrance<Out<(T, U), Lone<T, U>>>> = Arc::new(Siding(out.entrance(), None));
            entrance
        });
        Flow::of(vec![Feed::new(&node, 0, port)], keyed)
    }

    /// As [`Flow::join`]; records whose partner does not come in time make the second flow.
    #[must_use]
    pub fn join_or<U: Send + 'static>(self, name: &str, other: Flow<U>, join: Join) -> (Flow<(T, U)>, Flow<Lone<T, U>>) {
        let keyed = self.keyed;
        let (main, side) = (Port::new(), Port::new());
        let (to_main, to_side) = (main.clone(), side.clone());
        let rule = Pairs { side: true };
        let node = pairing(name, self, other, join, rule, Fan::Choice(2), move || {
            let entrance: Arc<dyn Entrance<Out<(T, U), Lone<T, U>>>> = Arc::new(Siding(to_main.entrance(), Some(to_side.entrance())));
            entrance
        });
        (Flow::of(vec![Feed::new(&node, 0, main)], keyed), Flow::of(vec![Feed::new(&node, 1, side)], keyed))
    }
}

type Pairing<T, U> = Out<(T, U), Lone<T, U>>;

fn pairing<T: Send + 'static, U: Send + 'static>(
    name: &str,
    left: Flow<T>,
    right: Flow<U>,
    join: Join,
    rule: Pairs,
    fan: Fan,
    way: impl FnOnce() -> Arc<dyn Entrance<Pairing<T, U>>> + Send + 'static,
) -> Arc<Node> {
    let mut info = StageInfo::new(name, left.keyed || right.keyed);
    info.unstored = (join.by == GroupBy::Key).then_some("waits for partners of records, by their keys");
    let (left, right) = (left.into_feeds(), right.into_feeds());
    let inputs = left.iter().map(Feed::link).chain(right.iter().map(Feed::link)).collect();
    let connect: Connect = Box::new(move |assembly, index| {
        let inlet = assembly.edge_into::<Lone<T, U>>(index);
        let mut producers = 0;
        left.iter().for_each(|feed| feed.lead(&inlet, &mut producers, Lone::Left));
        right.iter().for_each(|feed| feed.lead(&inlet, &mut producers, Lone::Right));
        let build: Build = Box::new(move |assembly| Box::new(GatherStage::new(assembly.shared(index), rule, (join.by, join.within), inlet, way())));
        build
    });
    Node::new(info, inputs, fan, connect)
}

/// One of the left with one of the right, in the order of their coming.
struct Pairs {
    /// Those who stay alone have a way of their own.
    side: bool,
}

impl<T: Send + 'static, U: Send + 'static> Rule<Lone<T, U>, Pairing<T, U>> for Pairs {
    fn pick(&self, group: &mut Group<Lone<T, U>>, _over: bool) -> Option<Picked<Lone<T, U>>> {
        // Those who wait are all of one side, but for the one who has just come.
        let is_left = |record: Option<&(Instant, Envelope<Lone<T, U>>)>| matches!(record, Some((_, Envelope { payload: Lone::Left(_), .. })));
        let (first, last) = (is_left(group.waiting.front()), is_left(group.waiting.back()));
        if first == last {
            return None;
        }
        let (_, earlier) = group.waiting.pop_front()?;
        let (_, later) = group.waiting.pop_back()?;
        Some(if first { vec![earlier, later] } else { vec![later, earlier] })
    }

    fn is_over(&self, group: &Group<Lone<T, U>>) -> bool {
        group.waiting.is_empty()
    }

    fn join(&self, members: Vec<Lone<T, U>>) -> Result<Pairing<T, U>, StageError> {
        let mut members = members.into_iter();
        match (members.next(), members.next()) {
            (Some(Lone::Left(left)), Some(Lone::Right(right))) => Ok(Out::Main((left, right))),
            _ => Err(StageError::permanent("a pair needs a left and a right")),
        }
    }

    fn alone(&self, member: Lone<T, U>) -> Lonely<Pairing<T, U>> {
        match self.side {
            true => Lonely::Emit(Out::Side(member)),
            false => Lonely::Letter(StageError::permanent("no partner came in time")),
        }
    }
}
