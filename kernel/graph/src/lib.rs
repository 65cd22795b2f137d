//! millstream's graph: operators, symbolic shapes, the Op trait and its registry.
