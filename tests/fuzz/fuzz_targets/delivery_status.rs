//! [`atrn_fuzz::delivery_status`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::delivery_status(data));
