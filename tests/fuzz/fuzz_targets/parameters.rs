//! [`atrn_fuzz::parameters`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::parameters(data));
