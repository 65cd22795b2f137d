//! The reader of ONNX's tensor files: any bytes are a tensor or an error.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| millstream_fuzz::tensor_pb(data));
