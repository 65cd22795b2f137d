//! Zero-copy ONNX reader: bytes to a millstream graph.
