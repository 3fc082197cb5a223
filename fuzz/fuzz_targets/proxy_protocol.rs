#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kylin_lb::fuzzing::proxy_protocol(data));
