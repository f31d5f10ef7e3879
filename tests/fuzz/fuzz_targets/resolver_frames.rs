//! [`atrn_fuzz::resolver_frames`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::resolver_frames(data));
