//! See `mangrove_fuzz::manifest`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::manifest(input));
