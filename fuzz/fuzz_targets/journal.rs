#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    patchlens_fuzz::journal(data);
});
