//! See `mangrove_fuzz::native`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::native(input));
