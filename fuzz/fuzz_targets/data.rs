//! See `mangrove_fuzz::data`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::data(input));
