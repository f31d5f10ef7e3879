//! [`atrn_fuzz::smtp_server`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::smtp_server(data));
