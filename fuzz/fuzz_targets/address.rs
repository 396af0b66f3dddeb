//! See `mangrove_fuzz::address`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::address(input));
