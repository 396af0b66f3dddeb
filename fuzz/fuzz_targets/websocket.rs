//! See `mangrove_fuzz::websocket`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mangrove_fuzz::websocket(input));
