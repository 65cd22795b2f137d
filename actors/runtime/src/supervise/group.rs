//! Which stages stand and fall together.

use std::time::{Duration, Instant};

use super::{Exceeded, Strategy, Supervision, intensity::Intensity};

/// The stages of a pipeline in groups. Stages that nobody has grouped are one group, or, where each is restarted for itself,
/// a group each.
pub(crate) struct Groups {
    /// For each stage, its group.
    of: Vec<usize>,
    groups: Vec<Intensity>,
    /// For each stage, whether records of that one come to this one.
    behind: Vec<Vec<bool>>,
    in_quarantine: Vec<bool>,
}

/// How a crash is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The worker is restarted after the pause; these stages are recalled.
    Restart { pause: Duration, along: Vec<usize> },
    /// The stage gets no more user code.
    Quarantine,
    /// The pipeline fails, after so many restarts.
    Escalate { restarts: u32 },
}

impl Groups {
    /// `ways` are, for each stage, the stages right behind it, which have greater numbers.
    pub(crate) fn new(rest: Supervision, named: &[(Vec<usize>, Supervision)], ways: &[Vec<Option<usize>>]) -> Self {
        let stages = ways.len();
        let mut groups: Vec<_> = named.iter().map(|(_, supervision)| Intensity::new(*supervision)).collect();
        let together = (rest.strategy != Strategy::OneForOne).then(|| {
            groups.push(Intensity::new(rest));
            groups.len() - 1
        });
        let of = (0..stages)
            .map(|stage| {
                let named = named.iter().position(|(members, _)| members.contains(&stage));
                named.or(together).unwrap_or_else(|| {
                    groups.push(Intensity::new(rest));
                    groups.len() - 1
                })
            })
            .collect();
        let mut behind = vec![vec![false; stages]; stages];
        for stage in (0..stages).rev() {
            for next in ways[stage].iter().flatten() {
                behind[stage][*next] = true;
                for far in 0..stages {
                    behind[stage][far] |= behind[*next][far];
                }
            }
        }
        Groups { of, groups, behind, in_quarantine: vec![false; stages] }
    }

    /// A worker of this stage has crashed.
    pub(super) fn crash(&mut self, stage: usize, now: Instant) -> Verdict {
        let group = &mut self.groups[self.of[stage]];
        let rules = group.rules();
        match group.crash(now) {
            Some(pause) => {
                let goes_along = |other: &usize| {
                    let concerned = match rules.strategy {
                        Strategy::OneForOne => false,
                        Strategy::RestForOne => *other == stage || self.behind[stage][*other],
                        Strategy::OneForAll => true,
                    };
                    concerned && self.of[*other] == self.of[stage] && !self.in_quarantine[*other]
                };
                Verdict::Restart { pause, along: (0..self.of.len()).filter(goes_along).collect() }
            }
            None if rules.exceeded == Exceeded::Quarantine => {
                self.in_quarantine[stage] = true;
                Verdict::Quarantine
            }
            None => Verdict::Escalate { restarts: rules.restarts },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 → 1 → 2 → 4, 1 → 3.
    fn ways() -> Vec<Vec<Option<usize>>> {
        vec![vec![Some(1)], vec![Some(2), Some(3)], vec![Some(4)], vec![], vec![]]
    }

    fn rules(strategy: Strategy, exceeded: Exceeded) -> Supervision {
        Supervision { strategy, exceeded, ..Supervision::default() }
    }

    fn along(groups: &mut Groups, stage: usize) -> Vec<usize> {
        match groups.crash(stage, Instant::now()) {
            Verdict::Restart { along, .. } => along,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn strategies_say_who_begins_afresh() {
        let escalate = |strategy| rules(strategy, Exceeded::Escalate);
        let of = |strategy, stage| along(&mut Groups::new(escalate(strategy), &[], &ways()), stage);
        assert!(of(Strategy::OneForOne, 1).is_empty());
        assert_eq!(of(Strategy::RestForOne, 1), [1, 2, 3, 4]);
        assert_eq!(of(Strategy::RestForOne, 2), [2, 4]);
        assert_eq!(of(Strategy::OneForAll, 3), [0, 1, 2, 3, 4]);
        // A group ends where it ends.
        let named = [(vec![1, 2], escalate(Strategy::RestForOne)), (vec![3, 4], escalate(Strategy::OneForAll))];
        let mut groups = Groups::new(escalate(Strategy::OneForOne), &named, &ways());
        assert_eq!(along(&mut groups, 1), [1, 2]);
        assert_eq!(along(&mut groups, 3), [3, 4]);
        assert!(along(&mut groups, 0).is_empty());
    }

    #[test]
    fn a_group_counts_its_crashes_together() {
        let escalate = rules(Strategy::OneForOne, Exceeded::Escalate);
        let named = [(vec![1, 2], rules(Strategy::OneForAll, Exceeded::Quarantine))];
        let mut groups = Groups::new(escalate, &named, &ways());
        for stage in [1, 2, 1] {
            assert_eq!(along(&mut groups, stage), [1, 2]);
        }
        assert_eq!(groups.crash(2, Instant::now()), Verdict::Quarantine);
        // The others count for themselves.
        for _ in 0..3 {
            assert!(along(&mut groups, 3).is_empty() && along(&mut groups, 4).is_empty());
        }
        assert_eq!(groups.crash(3, Instant::now()), Verdict::Escalate { restarts: 3 });
    }

    #[test]
    fn what_is_in_quarantine_does_not_begin_afresh() {
        let mut rules = rules(Strategy::OneForAll, Exceeded::Quarantine);
        rules.within = Duration::ZERO;
        rules.restarts = 1;
        let mut groups = Groups::new(rules, &[], &ways());
        let now = Instant::now();
        assert!(matches!(groups.crash(2, now), Verdict::Restart { .. }));
        assert_eq!(groups.crash(2, now), Verdict::Quarantine);
        let Verdict::Restart { along, .. } = groups.crash(0, now + Duration::from_secs(1)) else { panic!("the window is over") };
        assert_eq!(along, [0, 1, 3, 4]);
    }
}
