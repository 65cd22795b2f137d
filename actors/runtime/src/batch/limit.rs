//! The largest batch that memory allows: halved when a batch did not fit, and raised slowly again.

/// So many batches in a row without trouble raise the limit by one.
const CLEAN_BATCHES: u32 = 50;

#[derive(Clone, Debug)]
pub(crate) struct BatchLimit {
    most: usize,
    now: usize,
    clean: u32,
}

impl BatchLimit {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        BatchLimit { most, now: most, clean: 0 }
    }

    pub(crate) fn now(&self) -> usize {
        self.now
    }

    /// A batch of this size did not fit.
    pub(crate) fn out_of_memory(&mut self, size: usize) {
        self.now = self.now.min(size / 2).max(1);
        self.clean = 0;
    }

    /// A batch went well.
    pub(crate) fn went_well(&mut self) {
        self.clean += 1;
        if self.clean == CLEAN_BATCHES {
            self.clean = 0;
            self.now = (self.now + 1).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_recovers() {
        let mut limit = BatchLimit::new(64);
        limit.out_of_memory(64);
        assert_eq!(limit.now(), 32);
        limit.out_of_memory(32);
        limit.out_of_memory(1);
        assert_eq!(limit.now(), 1);
        for _ in 0..CLEAN_BATCHES * 100 {
            limit.went_well();
        }
        assert_eq!(limit.now(), 64);
    }
}
