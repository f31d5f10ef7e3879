//! [`atrn_fuzz::puller_config`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::puller_config(data));
