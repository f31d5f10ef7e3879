//! [`atrn_fuzz::sasl_client`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::sasl_client(data));
