//! [`atrn_fuzz::relay_config`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::relay_config(data));
