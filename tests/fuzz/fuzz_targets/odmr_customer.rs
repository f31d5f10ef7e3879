//! [`atrn_fuzz::odmr_customer`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atrn_fuzz::odmr_customer(data));
