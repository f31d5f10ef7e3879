//! [`atrn_fuzz::forged_results`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::forged_results(data));
