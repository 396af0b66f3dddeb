//! See `mangrove_fuzz::backtrace`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::backtrace(input));
