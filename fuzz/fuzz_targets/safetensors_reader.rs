//! The safetensors reader: any bytes are tensors or an error.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| millstream_fuzz::safetensors_reader(data));
