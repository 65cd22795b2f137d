//! Plans of random graphs: deterministic, without live buffers that overlap, of exactly the bytes that a run takes, and right.

use crate::model::{Builder, Model, close, integers, ints, noise};
use millstream_compile::{CompiledModel, Options};
use millstream_engine::{Argument, Executable, Place, Plan, Step, Target, Workspace};
use millstream_graph::{Attribute, Fact, Subgraph, ValueId};
use millstream_tensor::{DType, Shape, Tensor};
use proptest::prelude::*;
use std::ops::Range;

/// Larger values are not computed on any further.
const MOST_ELEMENTS: usize = 4000;

/// One operator, chosen by numbers that any graph can make sense of.
#[derive(Debug, Clone, Copy)]
struct Choice {
    op: usize,
    /// Which values it reads, counted from the newest.
    reads: [usize; 2],
    /// What is left to choose: an axis, a width.
    detail: usize,
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let one = (0usize..14, [0usize..6, 0usize..6], 0usize..24).prop_map(|(op, reads, detail)| Choice { op, reads, detail });
    proptest::collection::vec(one, 1..14)
}

/// A graph while it grows: its values and their dims.
struct Growing {
    b: Builder,
    values: Vec<(ValueId, Vec<usize>)>,
    flag: ValueId,
}

impl Growing {
    fn grow(&mut self, choice: Choice) {
        let at = |i: usize| self.values[self.values.len() - 1 - i % self.values.len()].clone();
        let [(x, dims), (y, other)] = choice.reads.map(at);
        if dims.iter().product::<usize>() > MOST_ELEMENTS {
            return;
        }
        let (b, detail, rank) = (&mut self.b, choice.detail, dims.len());
        let (axis, last) = (detail % rank, dims[rank - 1]);
        let mut out = dims.clone();
        let value = match choice.op {
            0 => b.op(["Relu", "Neg", "Tanh", "Sigmoid"][detail % 4], &[x]),
            1 | 2 if dims == other => b.op(["Add", "Sub", "Mul"][detail % 3], &[x, y]),
            1 => {
                let row = b.constant(noise(&[last], detail as u64));
                b.op(["Add", "Mul"][detail % 2], &[x, row])
            }
            3 | 4 => {
                out[rank - 1] = 1 + detail;
                let w = b.constant(noise(&[last, 1 + detail], 5));
                b.op("MatMul", &[x, w])
            }
            5 | 6 if rank == 4 => {
                out[1] = 1 + detail % 9;
                let w = b.constant(noise(&[out[1], dims[1], 3, 3], 6));
                b.op_with("Conv", &[x, w], &[("pads", ints(&[1; 4]))])
            }
            7 => {
                let same = rank == other.len() && (0..rank).all(|i| i == axis || dims[i] == other[i]);
                out[axis] += if same { other[axis] } else { dims[axis] };
                b.op_with("Concat", &[x, if same { y } else { x }], &[("axis", Attribute::Int(axis as i64))])
            }
            8 => {
                out[axis] = dims[axis].div_ceil(2);
                let [start, end, axes] = [0, out[axis] as i64, axis as i64].map(|n| b.constant(integers(&[1], &[n])));
                b.op("Slice", &[x, start, end, axes])
            }
            9 => {
                out = if rank == 2 { vec![1, dims[0], dims[1], 1] } else { vec![dims[0] * dims[1], dims[2..].iter().product()] };
                let shape = b.constant(integers(&[out.len()], &out.iter().map(|&d| d as i64).collect::<Vec<_>>()));
                b.op("Reshape", &[x, shape])
            }
            10 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.rotate_left(axis);
                perm.swap(0, detail / rank % rank);
                out = perm.iter().map(|&p| dims[p]).collect();
                b.op_with("Transpose", &[x], &[("perm", ints(&perm.iter().map(|&p| p as i64).collect::<Vec<_>>()))])
            }
            11 => b.op_with("Softmax", &[x], &[("axis", Attribute::Int(axis as i64))]),
            12 | 13 => self.branch(x, y, choice),
            _ => return,
        };
        self.values.push((value, out));
    }

    /// An `If` with the dims of `x`: in one branch a chain on it, in the other a copy of it scaled by the mean of `y`.
    fn branch(&mut self, x: ValueId, y: ValueId, choice: Choice) -> ValueId {
        let b = &mut self.b;
        let condition = if choice.op == 12 {
            self.flag
        } else {
            let (zero, sum) = (b.scalar(0.0), b.op_with("ReduceSum", &[y], &[("keepdims", Attribute::Int(0))]));
            b.op("Greater", &[sum, zero])
        };
        let mut then = Builder::default();
        let mut inner = then.formal();
        for _ in 0..1 + choice.detail % 3 {
            inner = then.op("Tanh", &[inner]);
        }
        let then = Subgraph { graph: then.outputs(&[inner]).graph, captures: vec![x] };
        let mut other = Builder::default();
        let (inner, factor) = (other.formal(), other.formal());
        let mean = other.op_with("ReduceMean", &[factor], &[("keepdims", Attribute::Int(0))]);
        let scaled = other.op("Mul", &[inner, mean]);
        let other = Subgraph { graph: other.outputs(&[scaled]).graph, captures: vec![x, y] };
        b.node(21, "If", vec![Some(condition)], &[], vec![then, other], 1)[0]
    }
}

fn grown(choices: &[Choice], flag: bool) -> Model {
    let mut b = Builder::default();
    let values = [vec![2, 3, 4, 5], vec![6, 7]].into_iter().enumerate().map(|(i, dims)| (b.input(noise(&dims, i as u64 + 1)), dims)).collect();
    let flag = b.input(Tensor::from_bytes(DType::Bool, &[], &[u8::from(flag)]).expect("one element"));
    let mut growing = Growing { b, values, flag };
    choices.iter().for_each(|&c| growing.grow(c));
    // The newest value and one from the middle: others die, or live on beside the outputs.
    let n = growing.values.len();
    let outputs = [growing.values[n - 1].0, growing.values[2 + (n - 2) / 2 - usize::from(n == 2)].0];
    growing.b.outputs(&outputs)
}

fn plan(compiled: &CompiledModel, model: &Model) -> Plan {
    let facts: Vec<Fact> = model.inputs.iter().map(|t| Fact::concrete(t.dtype(), t.shape())).collect();
    compiled.template().bind(&facts).expect("it binds").plan
}

/// All of a plan but the constants' memory, as text.
fn text(plan: &Plan) -> String {
    let argument = |a: &Argument| match a {
        Argument::Value(place, spec) => format!("{place:?} {spec:?}"),
        Argument::InPlace(o) => format!("in place of {o}"),
        Argument::Packed(_, spec) => format!("packed {spec:?}"),
        Argument::Weight(w) => format!("weight {}", w.shape()),
        Argument::Constant(t) => format!("{t:?}"),
        Argument::Absent => "absent".into(),
    };
    let step = |s: &Step| {
        let inputs: Vec<String> = s.inputs.iter().map(argument).collect();
        format!("{s} {inputs:?} {:?} {:?} {:?} {:?}", s.outputs, s.shared, s.per_worker, s.guard)
    };
    let steps: Vec<String> = plan.steps.iter().map(step).collect();
    format!("{} {:?} {:?} {:?}", steps.join("\n"), plan.guards, plan.outputs, (plan.arena_bytes, plan.scratch_bytes))
}

/// The arena's ranges that a step writes: its outputs and its scratch memory.
fn written(step: &Step, workers: usize) -> Vec<Range<usize>> {
    let outputs = step.outputs.iter().filter_map(|t| match t {
        Target::Value(Place::Arena(at), spec) => Some(*at..*at + spec.bytes()),
        _ => None,
    });
    let scratch = [step.shared, (step.per_worker.0, step.per_worker.1 * workers)].map(|(at, n)| at..at + n);
    outputs.chain(scratch).filter(|r| !r.is_empty()).collect()
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What a step reads lies where some step wrote it, and nothing was written over it since, nor is while the step runs.
fn reads_find_what_was_written(plan: &Plan) -> Result<(), TestCaseError> {
    for (now, step) in plan.steps.iter().enumerate() {
        let writes = written(step, plan.workers);
        for (i, a) in writes.iter().enumerate() {
            prop_assert!(a.end <= plan.arena_bytes, "{step} writes past the arena");
            prop_assert!(writes[i + 1..].iter().all(|b| !overlap(a, b)), "{step} writes one place twice");
        }
        for argument in &step.inputs {
            let Argument::Value(Place::Arena(at), spec) = argument else { continue };
            let read = *at..*at + spec.bytes();
            prop_assert!(writes.iter().all(|w| !overlap(w, &read)), "{step} writes over what it reads");
            let writer = (0..now).rev().find(|&s| written(&plan.steps[s], plan.workers).iter().any(|w| w.start == read.start && w.end >= read.end));
            let Some(writer) = writer else { return Err(TestCaseError::fail(format!("{step} reads what nobody wrote"))) };
            let over = plan.steps[writer + 1..now].iter().find(|s| written(s, plan.workers).iter().any(|w| overlap(w, &read)));
            prop_assert!(over.is_none(), "{} writes over what {step} reads", over.map_or(String::new(), Step::to_string));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_of_random_graphs_hold(choices in choices(), rules: bool) {
        let options = if rules { Options::default() } else { Options::none() };
        let model = grown(&choices, true);
        let compiled = model.compiled(&options);
        let plan_of_first = plan(&compiled, &model);
        prop_assert_eq!(text(&plan_of_first), text(&plan(&compiled, &model)), "bound twice");
        prop_assert_eq!(text(&plan_of_first), text(&plan(&model.compiled(&options), &model)), "compiled twice");
        reads_find_what_was_written(&plan_of_first)?;

        let shapes: Vec<Shape> = model.inputs.iter().map(|t| *t.shape()).collect();
        let told = compiled.plan_bytes(&shapes).expect("dims tell all");
        let mut workspace = Workspace::with_limit(told.arena);
        let first = model.run_in(&mut workspace, &compiled);
        prop_assert_eq!(workspace.arena_bytes(), told.arena);
        prop_assert!(told.scratch <= told.arena);
        close(&first, &model.evaluate(), 1e-4);
        // Once more, with what the run before left in the arena.
        close(&model.run_in(&mut workspace, &compiled), &first, 0.0);
        let other = grown(&choices, false);
        close(&other.run_in(&mut workspace, &compiled), &other.evaluate(), 1e-4);
    }
}
