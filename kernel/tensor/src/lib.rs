//! Element types, shapes, strided views, owned tensors and arenas of millstream.
