//! [`atrn_fuzz::log_records`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::log_records(data));
