#![no_main]

// libfuzzer-sys ends the process at a panic even if it is caught, as the library does with those
// of the `tokenizers` crate. A panic that leaves the target is found without its hook.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |data: &[u8]| { patchlens_fuzz::tokenizer(data); }
);
