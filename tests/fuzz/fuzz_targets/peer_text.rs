//! [`atrn_fuzz::peer_text`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::peer_text(data));
