#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aluco_fuzz::machine_tuned(data));
