//! Records that are worked on at once, in the lines in which their results leave.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::envelope::Key;

/// Whose order results keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Line {
    All,
    Key(Key),
}

struct Place<M, R> {
    /// None for who may leave at any time.
    line: Option<Line>,
    member: M,
    result: Option<R>,
}

/// Members by number, each in a line or in none, with their results once they have them.
pub(super) struct Lines<M, R> {
    in_order: bool,
    next: u64,
    places: BTreeMap<u64, Place<M, R>>,
    lines: HashMap<Line, VecDeque<u64>>,
}

impl<M, R> Lines<M, R> {
    /// One line for all, or one for each key.
    pub(super) fn new(in_order: bool) -> Self {
        Lines { in_order, next: 0, places: BTreeMap::new(), lines: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &M> {
        self.places.values().map(|place| &place.member)
    }

    /// Puts a member at the end of its line. Its number.
    pub(super) fn join(&mut self, key: Option<Key>, member: M) -> u64 {
        let line = if self.in_order { Some(Line::All) } else { key.map(Line::Key) };
        let number = self.next;
        self.next += 1;
        if let Some(line) = line {
            self.lines.entry(line).or_default().push_back(number);
        }
        self.places.insert(number, Place { line, member, result: None });
        number
    }

    /// A member has its result. All who leave by that, in their order: itself, if nobody before it has none yet, and who has waited
    /// behind it.
    pub(super) fn done(&mut self, number: u64, result: R) -> Vec<(M, R)> {
        let Some(place) = self.places.get_mut(&number) else { return Vec::new() };
        place.result = Some(result);
        let Some(line) = place.line else {
            return self.take(number).into_iter().collect();
        };
        let mut leaving = Vec::new();
        let Some(mut queue) = self.lines.remove(&line) else { return leaving };
        while let Some(gone) = queue.front().and_then(|first| self.take(*first)) {
            queue.pop_front();
            leaving.push(gone);
        }
        if !queue.is_empty() {
            self.lines.insert(line, queue);
        }
        leaving
    }

    /// Takes a member out that has its result.
    fn take(&mut self, number: u64) -> Option<(M, R)> {
        let result = self.places.get_mut(&number)?.result.take()?;
        self.places.remove(&number).map(|place| (place.member, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_leave_in_their_lines() {
        let mut lines = Lines::new(false);
        let [a, b] = [Some(Key(1)), Some(Key(2))];
        let numbers = [a, b, a, None, a].map(|key| lines.join(key, ()));
        let mut done = |at: usize| lines.done(numbers[at], at).into_iter().map(|(_, at)| at).collect::<Vec<_>>();
        assert!(done(2).is_empty());
        assert_eq!(done(3), [3]);
        assert_eq!(done(1), [1]);
        assert_eq!(done(0), [0, 2]);
        assert_eq!(done(4), [4]);
        assert_eq!((lines.len(), lines.lines.len()), (0, 0));
        let mut lines = Lines::new(true);
        let numbers = [a, b, None].map(|key| lines.join(key, ()));
        assert!(lines.done(numbers[2], 2).is_empty() && lines.done(numbers[1], 1).is_empty());
        assert_eq!(lines.done(numbers[0], 0).into_iter().map(|(_, at)| at).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
