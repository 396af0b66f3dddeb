//! See `mangrove_fuzz::upgrade`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::upgrade(input));
