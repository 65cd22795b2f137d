//! `If`: one of two subgraphs, chosen by a boolean. The executor runs the subgraph; nothing is computed here.

use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Control, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "If",
    since: &[1, 11, 13, 16, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::at_least(1),
    attributes: &[],
    subgraphs: &["then_branch", "else_branch"],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let [then_branch, else_branch] = cx.subgraphs else { return Err(BuildError::MissingAttribute("then_branch or else_branch")) };
        for body in [then_branch, else_branch] {
            Arity::exactly(cx.outputs).check("outputs of a branch", body.graph.outputs().len())?;
        }
        Ok(Box::new(If))
    },
};

/// A choice between two subgraphs.
#[derive(Debug, Clone, Copy)]
pub struct If;

impl Op for If {
    /// Which subgraph's facts hold is known when the condition is: whoever drives the analysis then looks into that one.
    fn infer(&self, _cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Err(InferError::NeedsValue(0))
    }

    fn eval(&self, _cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        Err(EvalError::Invalid("a choice between subgraphs is the executor's to make"))
    }

    fn control(&self) -> Option<Control> {
        Some(Control::If)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use millstream_graph::{Attributes, Declared, Graph, Subgraph};

    #[test]
    fn branches_must_have_the_outputs_of_the_node() {
        let branch = |outputs: usize| {
            let mut graph = Graph::new("branch");
            for _ in 0..outputs {
                let v = graph.add_input("x", Declared::default());
                graph.add_output(v);
            }
            Subgraph { graph, captures: vec![] }
        };
        let build = |bodies: &[Subgraph]| {
            DEF.instantiate(13, BuildCx { version: 13, attributes: &Attributes::default(), inputs: 1, outputs: 1, subgraphs: bodies }).is_ok()
        };
        assert!(build(&[branch(1), branch(1)]));
        assert!(!build(&[branch(1), branch(2)]));
        assert!(!build(&[branch(1)]));
    }
}
