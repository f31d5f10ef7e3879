//! [`atrn_fuzz::command_lines`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::command_lines(data));
