//! See `mangrove_fuzz::greeting`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::greeting(input));
