//! Drops nodes that give what they get.

use super::{Rewrite, Rule};
use millstream_graph::{Fact, Node, NodeId};
use millstream_ops::elementwise::cast::Cast;

/// Readers of a node whose output 0 is its input 0 read that input instead.
pub(crate) struct DropIdentity;

impl Rule for DropIdentity {
    fn name(&self) -> &'static str {
        "drop-identity"
    }

    fn apply(&self, _: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some(node) = rewrite.node() else { return false };
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return false };
        let unchanged = match (rewrite.graph().fact(input), rewrite.graph().fact(output)) {
            (Some(a), Some(b)) => is_identity(node, a, b),
            _ => false,
        };
        // An output of the graph needs a producer that can take its name.
        let outputs = rewrite.graph().outputs();
        let is_output = outputs.contains(&output) && (outputs.contains(&input) || rewrite.graph().producer(input).is_none());
        if !unchanged || is_output {
            return false;
        }
        rewrite.replace(output, input);
        true
    }
}

/// True if the operator passes its elements through and neither type nor dims change.
fn is_identity(node: &Node, input: &Fact, output: &Fact) -> bool {
    input.dtype == output.dtype && input.dims == output.dims && (node.op.is_alias() || node.op.downcast_ref::<Cast>().is_some())
}
