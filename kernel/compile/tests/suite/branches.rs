//! `If` in every nesting: whatever of a condition is known when, the result is that of the branch that is taken.

use crate::model::{Builder, Model, close, floats, noise};
use millstream_compile::Options;
use millstream_engine::{Executable, Workspace};
use millstream_graph::{Attribute, Subgraph, ValueId};
use millstream_tensor::{DType, Shape, Tensor};
use proptest::prelude::*;

/// A program over the values in scope; each has three columns.
#[derive(Debug, Clone)]
enum Expr {
    /// A value in scope.
    Value(usize),
    /// A constant of two rows.
    Constant(u64),
    Tanh(Box<Expr>),
    /// The first, with the second's mean row added to each of its rows.
    Sum(Box<Expr>, Box<Expr>),
    /// Twice as many rows: branches may differ in dims.
    Doubled(Box<Expr>),
    If(Condition, Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone)]
enum Condition {
    /// A constant of the model.
    Known(bool),
    /// An input.
    Given(usize),
    /// Whether a program's elements sum up to more than nothing.
    Computed(Box<Expr>),
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![4 => (0usize..8).prop_map(Expr::Value), 1 => (20u64..24).prop_map(Expr::Constant)];
    leaf.prop_recursive(5, 24, 3, |e| {
        let boxed = || e.clone().prop_map(Box::new);
        let condition =
            prop_oneof![1 => any::<bool>().prop_map(Condition::Known), 2 => (0usize..2).prop_map(Condition::Given), 2 => boxed().prop_map(Condition::Computed)];
        prop_oneof![
            1 => boxed().prop_map(Expr::Tanh),
            2 => (boxed(), boxed()).prop_map(|(a, b)| Expr::Sum(a, b)),
            1 => boxed().prop_map(Expr::Doubled),
            4 => (condition, boxed(), boxed()).prop_map(|(c, a, b)| Expr::If(c, a, b)),
        ]
    })
}

/// Values and conditions that a program may name.
#[derive(Clone)]
struct Scope {
    values: Vec<ValueId>,
    flags: Vec<ValueId>,
}

fn write(b: &mut Builder, scope: &Scope, expr: &Expr) -> ValueId {
    match expr {
        Expr::Value(i) => scope.values[i % scope.values.len()],
        Expr::Constant(seed) => b.constant(noise(&[2, 3], *seed)),
        Expr::Tanh(e) => {
            let x = write(b, scope, e);
            b.op("Tanh", &[x])
        }
        Expr::Sum(x, y) => {
            let (x, y) = (write(b, scope, x), write(b, scope, y));
            let rows = b.constant(crate::model::integers(&[1], &[0]));
            let mean = b.op("ReduceMean", &[y, rows]);
            b.op("Add", &[x, mean])
        }
        Expr::Doubled(e) => {
            let x = write(b, scope, e);
            b.op_with("Concat", &[x, x], &[("axis", Attribute::Int(0))])
        }
        Expr::If(condition, then, other) => {
            let condition = match condition {
                Condition::Known(flag) => b.constant(boolean(*flag)),
                Condition::Given(i) => scope.flags[i % scope.flags.len()],
                Condition::Computed(e) => {
                    let (x, zero) = (write(b, scope, e), b.scalar(0.0));
                    let sum = b.op_with("ReduceSum", &[x], &[("keepdims", Attribute::Int(0))]);
                    b.op("Greater", &[sum, zero])
                }
            };
            let bodies = vec![branch(scope, then), branch(scope, other)];
            b.node(21, "If", vec![Some(condition)], &[], bodies, 1)[0]
        }
    }
}

/// A body that sees all that is in scope.
fn branch(scope: &Scope, expr: &Expr) -> Subgraph {
    let mut b = Builder::default();
    let inner = Scope { values: scope.values.iter().map(|_| b.formal()).collect(), flags: scope.flags.iter().map(|_| b.formal()).collect() };
    let y = write(&mut b, &inner, expr);
    let captures = scope.values.iter().chain(&scope.flags).copied().collect();
    Subgraph { graph: b.outputs(&[y]).graph, captures }
}

fn boolean(flag: bool) -> Tensor {
    Tensor::from_bytes(DType::Bool, &[], &[u8::from(flag)]).expect("one element")
}

/// The program over two inputs, what is computed of them, and two flags.
fn program(expr: &Expr, flags: [bool; 2], declared: bool) -> Model {
    let mut b = Builder::default();
    let mut input = |t: Tensor| if declared { b.input(t) } else { b.dynamic_input(t) };
    let (x, y) = (input(noise(&[2, 3], 1)), input(noise(&[4, 3], 2)));
    let flags = flags.map(|f| b.input(boolean(f))).to_vec();
    let computed = b.op("Neg", &[x]);
    let result = write(&mut b, &Scope { values: vec![x, y, computed], flags }, expr);
    // An output of its own, and something that goes on from the result.
    let after = b.op("Neg", &[result]);
    b.outputs(&[result, after])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_taken_branch_gives_the_result(expr in expr(), declared: bool, rules: bool) {
        let options = if rules { Options::default() } else { Options::none() };
        let compiled = program(&expr, [true, true], declared).compiled(&options);
        let mut workspace = Workspace::new();
        // The same executable and workspace for all conditions, the first once more at the end.
        for flags in [[false, false], [true, false], [false, true], [true, true], [false, false]] {
            let model = program(&expr, flags, declared);
            close(&model.run_in(&mut workspace, &compiled), &model.evaluate(), 1e-5);
        }
    }
}

/// A chain of `n` steps on rows of 1000 elements, none of which can share memory with what it reads.
fn chain(b: &mut Builder, mut x: ValueId, n: usize) -> ValueId {
    for _ in 0..n {
        let turned = b.op("Transpose", &[x]);
        x = b.op("Transpose", &[turned]);
    }
    x
}

/// Branches never run both: the plan takes the memory of the larger one.
#[test]
fn branches_share_memory() {
    let arena = |chains: [usize; 2]| {
        let mut b = Builder::default();
        let (x, flag) = (b.input(noise(&[10, 100], 1)), b.input(boolean(true)));
        let bodies = chains.map(|n| {
            let mut inner = Builder::default();
            let formal = inner.formal();
            let y = chain(&mut inner, formal, n);
            Subgraph { graph: inner.outputs(&[y]).graph, captures: vec![x] }
        });
        let y = b.node(21, "If", vec![Some(flag)], &[], bodies.to_vec(), 1)[0];
        let one = b.constant(floats(&[], &[1.0]));
        let y = b.op("Add", &[y, one]);
        let compiled = b.outputs(&[y]).compiled(&Options::none());
        compiled.plan_bytes(&[Shape::new(&[10, 100]).expect("a shape"), Shape::SCALAR]).expect("dims tell all").arena
    };
    assert_eq!(arena([3, 3]), arena([3, 1]));
    assert_eq!(arena([3, 3]), arena([1, 3]));
}
