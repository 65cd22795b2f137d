//! Graph passes, lowering and the memory planner of millstream.
