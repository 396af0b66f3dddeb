//! See `mangrove_fuzz::control`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::control(input));
