//! [`atrn_fuzz::bdat_framing`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::bdat_framing(data));
