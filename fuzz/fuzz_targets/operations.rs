//! See `mangrove_fuzz::operations`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::operations(input));
