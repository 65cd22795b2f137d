//! Whole graphs through the compiler: each rule alone, memory orders, plans, and branches, all held against the evaluation of
//! the graph node by node.

mod branches;
mod channels_last;
mod model;
mod plans;
mod rules;
