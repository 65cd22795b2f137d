//! Memory and bound plans of one run at a time.

use crate::{Plan, RunError};
use alloc::{collections::VecDeque, sync::Arc};
use core::{any::Any, fmt};
use millstream_tensor::{AlignedBytes, arena::Grants};

/// What a plan was bound for, compared by the executable that made it.
pub trait Bindings: Any + Send {
    /// True if `other` would give the same plan.
    fn same(&self, other: &dyn Any) -> bool;
}

/// An executable (by its identity), what it was bound for, and the plan.
type Bound = (usize, alloc::boxed::Box<dyn Bindings>, Arc<Plan>);

/// The memory of a run: an arena that grows to the largest plan it has seen, and the plans themselves, most recent first.
/// One run uses a workspace at a time; make one a thread, or keep a pool of them.
pub struct Workspace {
    pub(crate) arena: AlignedBytes,
    pub(crate) grants: Grants,
    plans: VecDeque<Bound>,
    limit: usize,
    keep: usize,
}

impl Default for Workspace {
    fn default() -> Workspace {
        Workspace::with_limit(usize::MAX)
    }
}

impl Workspace {
    /// How many bound plans a workspace keeps unless told otherwise.
    pub const PLANS: usize = 16;

    /// A workspace without a limit on memory.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// A workspace whose arena never exceeds `bytes`: a run that needs more fails with [`RunError::MemoryLimit`].
    pub fn with_limit(bytes: usize) -> Workspace {
        Workspace { arena: AlignedBytes::default(), grants: Grants::default(), plans: VecDeque::new(), limit: bytes, keep: Workspace::PLANS }
    }

    /// Keeps at most `plans` bound plans (at least one).
    pub fn keep_plans(&mut self, plans: usize) {
        self.keep = plans.max(1);
        self.plans.truncate(self.keep);
    }

    /// Bytes that the arena holds now.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// The most bytes that a run's memory may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many bound plans are kept now.
    pub fn plans(&self) -> usize {
        self.plans.len()
    }

    /// Gives the arena's memory back; the next run takes it anew.
    pub fn release(&mut self) {
        self.arena = AlignedBytes::default();
    }

    /// The plan of `executable` for which `matches` says yes, moved to the front.
    pub fn find_plan(&mut self, executable: usize, matches: impl Fn(&dyn Bindings) -> bool) -> Option<Arc<Plan>> {
        let at = self.plans.iter().position(|(e, b, _)| *e == executable && matches(&**b))?;
        if at > 0 {
            let bound = self.plans.remove(at)?;
            self.plans.push_front(bound);
        }
        self.plans.front().map(|(_, _, p)| p.clone())
    }

    /// Remembers a plan, forgetting the one that was not used for longest if there are too many.
    pub fn keep_plan(&mut self, executable: usize, bindings: alloc::boxed::Box<dyn Bindings>, plan: Arc<Plan>) {
        self.plans.truncate(self.keep.saturating_sub(1));
        self.plans.push_front((executable, bindings, plan));
    }

    /// Makes the arena large enough for a plan.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), RunError> {
        if bytes > self.limit {
            return Err(RunError::MemoryLimit { needed: bytes, limit: self.limit });
        }
        if bytes > self.arena.len() {
            // Nothing in the arena outlives a run: the old memory goes before the new one comes.
            self.arena = AlignedBytes::default();
            self.arena = AlignedBytes::zeroed(bytes)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").field("arena", &self.arena).field("plans", &self.plans.len()).field("limit", &self.limit).finish()
    }
}
