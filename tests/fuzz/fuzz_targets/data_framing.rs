//! [`atrn_fuzz::data_framing`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::data_framing(data));
