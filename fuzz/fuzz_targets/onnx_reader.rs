//! The ONNX reader: any bytes are a model or an error.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| millstream_fuzz::onnx_reader(data));
