#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (zyven_fuzz_targets::target("view_link").check)(bytes));
