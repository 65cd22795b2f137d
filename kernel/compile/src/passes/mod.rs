//! Rules that rewrite a graph: what every backend gets.

use millstream_graph::{Graph, analyse};

/// Which passes run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Compute what depends on constants alone.
    pub fold_constants: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { fold_constants: true }
    }
}

/// Simplifies a graph.
pub fn simplify(graph: &mut Graph, _options: &Options) {
    analyse(graph);
    graph.prune();
}
