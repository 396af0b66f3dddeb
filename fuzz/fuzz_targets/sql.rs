//! See `mangrove_fuzz::sql`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::sql(input));
