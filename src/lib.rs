//! millstream: an inference kernel library with an actor runtime.
