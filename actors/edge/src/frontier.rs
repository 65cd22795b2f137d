//! How far event time has come, for a consumer of several producers: the least of what they say.
//!
//! An idle producer is not waited for, nor one that has finished. What a consumer was told never goes back: a producer that
//! was idle and returns with earlier times is late.

use crate::edge::Control;

/// What a producer says of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing earlier than this will come from it.
    At(i64),
    /// It does not know at present.
    Idle,
    /// Nothing will come from it.
    Done,
}

pub(crate) struct Frontier {
    marks: Vec<Mark>,
    told: i64,
    idle: bool,
}

impl Frontier {
    pub(crate) fn new(producers: usize) -> Self {
        Frontier { marks: vec![Mark::At(i64::MIN); producers], told: i64::MIN, idle: false }
    }

    /// Takes note of a mark; what the consumer is to be told, if that is news.
    pub(crate) fn note(&mut self, producer: usize, mark: Mark) -> Option<Control> {
        *self.marks.get_mut(producer)? = mark;
        let least = self.marks.iter().filter_map(|mark| if let Mark::At(time) = mark { Some(*time) } else { None }).min();
        match least {
            Some(least) => {
                let returned = std::mem::replace(&mut self.idle, false);
                let news = least > self.told;
                self.told = self.told.max(least);
                // Who was told of idleness must hear that time goes on, even where it has not moved.
                (news || (returned && self.told > i64::MIN)).then_some(Control::Watermark(self.told))
            }
            None => {
                let news = !self.idle && self.marks.contains(&Mark::Idle);
                self.idle |= news;
                news.then_some(Control::Idle)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_the_producers_counts_and_never_goes_back() {
        let mut frontier = Frontier::new(2);
        assert_eq!(frontier.note(0, Mark::At(10)), None, "the other has said nothing yet");
        assert_eq!(frontier.note(1, Mark::At(5)), Some(Control::Watermark(5)));
        assert_eq!(frontier.note(1, Mark::At(20)), Some(Control::Watermark(10)));
        assert_eq!(frontier.note(0, Mark::At(10)), None);
        assert_eq!(frontier.note(0, Mark::Idle), Some(Control::Watermark(20)));
        assert_eq!(frontier.note(0, Mark::At(1)), None, "it returns with earlier times");
        assert_eq!(frontier.note(0, Mark::Done), None);
        assert_eq!(frontier.note(1, Mark::Idle), Some(Control::Idle));
        assert_eq!(frontier.note(1, Mark::At(3)), Some(Control::Watermark(20)));
        assert_eq!(frontier.note(1, Mark::At(30)), Some(Control::Watermark(30)));
        assert_eq!(frontier.note(1, Mark::Done), None);
    }
}
