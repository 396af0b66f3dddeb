//! See `mangrove_fuzz::frames`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::frames(input));
