//! [`atrn_fuzz::trace_header`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::trace_header(data));
