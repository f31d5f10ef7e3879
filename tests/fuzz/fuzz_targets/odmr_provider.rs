//! [`atrn_fuzz::odmr_provider`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::odmr_provider(data));
