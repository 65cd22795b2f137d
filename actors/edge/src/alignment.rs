//! Which producers of an edge have sent a barrier that not all have sent yet.
//!
//! A barrier goes onto the edge when the last open producer has sent it; a producer that was earlier sends nothing more
//! until then. So what lies before a barrier in a lane came before it at every producer, and nothing is held back at the
//! receiving end, where it would hold the credits that the slower producers need.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// The barrier is still to come from it.
    Open,
    /// It has sent the barrier.
    Behind,
    /// It will send nothing more.
    Done,
}

pub(crate) struct Alignment {
    stands: Vec<Stand>,
    /// The barrier that some have sent.
    barrier: Option<u64>,
}

impl Alignment {
    pub(crate) fn new(producers: usize) -> Self {
        Alignment { stands: vec![Stand::Open; producers], barrier: None }
    }

    /// Whether this producer has to wait for others.
    pub(crate) fn is_behind(&self, producer: usize) -> bool {
        self.barrier.is_some() && self.stands.get(producer) == Some(&Stand::Behind)
    }

    /// A producer has sent the barrier; the barrier, if it was the last to.
    pub(crate) fn arrive(&mut self, producer: usize, barrier: u64) -> Option<u64> {
        *self.stands.get_mut(producer)? = Stand::Behind;
        self.barrier = Some(barrier);
        self.complete()
    }

    /// A producer has finished; the barrier, if that was what it waited for.
    pub(crate) fn finish(&mut self, producer: usize) -> Option<u64> {
        *self.stands.get_mut(producer)? = Stand::Done;
        self.complete()
    }

    fn complete(&mut self) -> Option<u64> {
        if self.stands.contains(&Stand::Open) {
            return None;
        }
        for stand in self.stands.iter_mut().filter(|stand| **stand == Stand::Behind) {
            *stand = Stand::Open;
        }
        self.barrier.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_there_when_every_open_producer_has_sent_it() {
        let mut alignment = Alignment::new(3);
        assert_eq!(alignment.arrive(0, 7), None);
        assert!(alignment.is_behind(0) && !alignment.is_behind(1));
        assert_eq!(alignment.finish(0), None, "it has sent it before it finished");
        assert_eq!(alignment.arrive(1, 7), None);
        assert_eq!(alignment.finish(2), Some(7), "nobody else is waited for");
        assert!(!alignment.is_behind(1));
        assert_eq!(alignment.arrive(1, 8), Some(8));
        assert_eq!(alignment.finish(1), None);
    }
}
