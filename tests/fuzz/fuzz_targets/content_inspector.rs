//! [`atrn_fuzz::content_inspector`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::content_inspector(data));
