//! Several models as one: cascades and ensembles, built of branches and joins.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    assembly::StageInfo,
    flow::Flow,
    graph::{Build, Connect, Fan, Feed, Node, Port, Way},
};
use crate::{
    envelope::Envelope,
    error::StageError,
    infer::{ModelHandler, Prediction, RunInference},
    stage::{GatherStage, Group, GroupBy, Lonely, Out, Picked, Rule},
};

impl<T: Send + 'static> Flow<T> {
    /// A cheap model for all records, and a costly one for those of which the gate says so: the results of both make one
    /// flow. The stages are called `NAME.first`, `NAME.gate` and `NAME.second`.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, RunInference, StageError, collect, from_iter, handler};
    ///
    /// let cheap = handler("cheap", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| (**x, 0.5)).collect()));
    /// let costly = handler("costly", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| (**x * 10, 1.0)).collect()));
    /// let (sink, results) = collect();
    /// Pipeline::from(from_iter(0..10u32))
    ///     .cascade("label", RunInference::new(cheap), |p| p.example > 7 && p.inference.1 < 0.9, RunInference::new(costly))
    ///     .map("out", |p| p.inference.0)
    ///     .sink(sink)
    ///     .run()?;
    /// let mut results = results.take();
    /// results.sort();
    /// assert_eq!(results, [0, 1, 2, 3, 4, 5, 6, 7, 80, 90]);
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn cascade<O, A, B>(
        self,
        name: &str,
        first: RunInference<T, A>,
        doubtful: impl FnMut(&Prediction<T, O>) -> bool + Clone + Send + Sync + 'static,
        second: RunInference<T, B>,
    ) -> Flow<Prediction<T, O>>
    where
        O: Send + 'static,
        A: ModelHandler<Output = O>,
        B: ModelHandler<Output = O>,
    {
        let mut doubtful = doubtful;
        let gate = move |prediction: Prediction<T, O>| {
            let again = doubtful(&prediction);
            [if again { Out::Side(prediction.example) } else { Out::Main(prediction) }]
        };
        let (sure, unsure) = self.infer(&format!("{name}.first"), first).fork(&format!("{name}.gate"), gate);
        Flow::merge([sure, unsure.infer(&format!("{name}.second"), second)])
    }

    /// Asks several branches about each record and makes one result of their answers, as soon as enough have come. A
    /// record that too few answer in time goes to the dead letters; a branch that fails on it costs its answer only. The
    /// copies are made by the stage `NAME.copies`.
    ///
    /// ```
    /// use millstream_runtime::{Ensemble, Pipeline, collect, from_iter, ms};
    ///
    /// let ask = Ensemble::new(3, ms(1_000))
    ///     .branch(|flow| flow.map("low", |x: u32| x - 1))
    ///     .branch(|flow| flow.map("exact", |x| x))
    ///     .branch(|flow| flow.map("high", |x| x + 1));
    /// let (sink, means) = collect();
    /// Pipeline::from(from_iter(1..=5u32))
    ///     .ensemble("mean", ask, |asked| asked.answers.iter().map(|(_, x)| x).sum::<u32>() / 3)
    ///     .sink(sink)
    ///     .run()?;
    /// assert_eq!(means.take(), [1, 2, 3, 4, 5]);
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn ensemble<O: Send + 'static, R: Send + 'static>(
        self,
        name: &str,
        ask: Ensemble<T, O>,
        combine: impl Fn(Answers<T, O>) -> R + Send + Sync + 'static,
    ) -> Flow<R>
    where
        T: Clone,
    {
        let Ensemble { enough, within, branches } = ask;
        let (asked, copies) = self.ask(&format!("{name}.copies"), branches.len());
        let answers = branches.into_iter().zip(copies).map(|(branch, flow)| branch(flow)).collect();
        asked.answers(name, answers, (enough, within), combine)
    }

    /// The halves of an [ensemble](Flow::ensemble), for graphs that are known when the program runs: the record itself, which
    /// waits for [answers](Flow::answers), and a copy of it for each of so many who are asked.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, collect, from_iter, ms};
    ///
    /// let (asked, copies) = Pipeline::from(from_iter(1..=5u32)).ask("copies", 2);
    /// let answers = copies.into_iter().enumerate().map(|(n, flow)| flow.map(&format!("answer {n}"), move |x| x + n as u32)).collect();
    /// let (sink, sums) = collect();
    /// asked.answers("sum", answers, (2, ms(1_000)), |asked| asked.answers.iter().map(|(_, x)| x).sum::<u32>()).sink(sink).run()?;
    /// assert_eq!(sums.take(), [3, 5, 7, 9, 11]);
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn ask(self, name: &str, asked: usize) -> (Flow<T>, Vec<Flow<T>>)
    where
        T: Clone,
    {
        let keyed = self.keyed;
        // The record itself waits for the answers: it counts, its copies on the branches do not.
        let ways = std::iter::once(Way::Counts).chain((0..asked).map(|_| Way::Silent)).collect();
        let mut flows = self.copies(name, ways).into_iter();
        let record = flows.next().unwrap_or_else(|| Flow::of(Vec::new(), keyed));
        (record, flows.collect())
    }

    /// Makes one result of a record and of what those say who were [asked](Flow::ask) about it, as soon as so many answers have
    /// come; a record that has too few within the time goes to the dead letters.
    #[must_use]
    pub fn answers<O: Send + 'static, R: Send + 'static>(
        self,
        name: &str,
        answers: Vec<Flow<O>>,
        (enough, within): (usize, Duration),
        combine: impl Fn(Answers<T, O>) -> R + Send + Sync + 'static,
    ) -> Flow<R> {
        let keyed = self.keyed;
        let asked = self.into_feeds();
        let branches: Vec<_> = answers.into_iter().map(Flow::into_feeds).collect();
        let rule = Quorum { enough: enough.min(branches.len()), of: branches.len(), combine };

        let inputs = asked.iter().map(Feed::link).chain(branches.iter().flatten().map(Feed::link)).collect();
        let port = Port::new();
        let out = port.clone();
        let connect: Connect = Box::new(move |assembly, index| {
            let inlet = assembly.edge_into::<Ballot<T, O>>(index);
            let mut producers = 0;
            asked.iter().for_each(|feed| feed.lead(&inlet, &mut producers, Ballot::Asked));
            for (branch, feeds) in branches.iter().enumerate() {
                feeds.iter().for_each(|feed| feed.lead(&inlet, &mut producers, move |answer| Ballot::Answer(branch, answer)));
            }
            let build: Build =
                Box::new(move |assembly| Box::new(GatherStage::new(assembly.shared(index), rule, (GroupBy::Record, within), inlet, out.entrance())));
            build
        });
        let node = Node::new(StageInfo::new(name, keyed), inputs, Fan::Choice(1), connect);
        Flow::of(vec![Feed::new(&node, 0, port)], keyed)
    }
}

type Branch<T, O> = Box<dyn FnOnce(Flow<T>) -> Flow<O>>;

/// Who is asked, how many answers are enough, and until when.
pub struct Ensemble<T, O> {
    enough: usize,
    within: Duration,
    branches: Vec<Branch<T, O>>,
}

impl<T, O> Ensemble<T, O> {
    /// So many answers are enough, if they come within this time.
    pub fn new(enough: usize, within: Duration) -> Self {
        Ensemble { enough, within, branches: Vec::new() }
    }

    /// One more who is asked. Of several answers of one branch the first counts.
    #[must_use]
    pub fn branch(mut self, build: impl FnOnce(Flow<T>) -> Flow<O> + 'static) -> Self {
        self.branches.push(Box::new(build));
        self
    }
}

/// A record and what was answered about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers<T, O> {
    /// The record.
    pub example: T,
    /// The answers, each with the number of its branch, in the order of the branches.
    pub answers: Vec<(usize, O)>,
}

enum Ballot<T, O> {
    Asked(T),
    Answer(usize, O),
}

struct Quorum<F> {
    enough: usize,
    of: usize,
    combine: F,
}

impl<T, O, R, F> Rule<Ballot<T, O>, R> for Quorum<F>
where
    T: Send + 'static,
    O: Send + 'static,
    R: Send + 'static,
    F: Fn(Answers<T, O>) -> R + Send + Sync + 'static,
{
    fn pick(&self, group: &mut Group<Ballot<T, O>>, _over: bool) -> Option<Picked<Ballot<T, O>>> {
        if group.done {
            group.spare.extend(group.waiting.drain(..).map(|(_, envelope)| envelope));
            return None;
        }
        // Several answers of one branch: the first counts.
        let mut answered = vec![false; self.of];
        let spare = |(_, envelope): &(Instant, Envelope<Ballot<T, O>>)| match envelope.payload {
            Ballot::Asked(_) => false,
            Ballot::Answer(branch, _) => std::mem::replace(&mut answered[branch], true),
        };
        let (spare, waiting): (VecDeque<_>, _) = std::mem::take(&mut group.waiting).into_iter().partition(spare);
        group.waiting = waiting;
        group.spare.extend(spare.into_iter().map(|(_, envelope)| envelope));
        let asked = group.waiting.iter().position(|(_, envelope)| matches!(envelope.payload, Ballot::Asked(_)))?;
        if group.waiting.len() - 1 < self.enough {
            return None;
        }
        let (_, asked) = group.waiting.remove(asked)?;
        group.done = true;
        let mut picked = vec![asked];
        picked.extend(group.waiting.drain(..).map(|(_, envelope)| envelope));
        picked[1..].sort_by_key(|envelope| match envelope.payload {
            Ballot::Asked(_) => 0,
            Ballot::Answer(branch, _) => branch,
        });
        Some(picked)
    }

    fn is_over(&self, group: &Group<Ballot<T, O>>) -> bool {
        group.done && group.seen > self.of
    }

    fn join(&self, members: Vec<Ballot<T, O>>) -> Result<R, StageError> {
        let (mut example, mut answers) = (None, Vec::with_capacity(members.len()));
        for member in members {
            match member {
                Ballot::Asked(record) => example = Some(record),
                Ballot::Answer(branch, answer) => answers.push((branch, answer)),
            }
        }
        let example = example.ok_or_else(|| StageError::permanent("answers without a question"))?;
        Ok((self.combine)(Answers { example, answers }))
    }

    fn alone(&self, member: Ballot<T, O>) -> Lonely<R> {
        match member {
            Ballot::Asked(_) => Lonely::Letter(StageError::permanent("too few answers came in time")),
            Ballot::Answer(..) => Lonely::Forget,
        }
    }
}
