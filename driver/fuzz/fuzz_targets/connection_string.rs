//! Whatever the text, parsing a connection string never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stepdown_driver::options::ClientOptions;

fuzz_target!(|text: &str| {
    if let Ok(options) = ClientOptions::parse_str(text) {
        let _ = options.validate();
    }
});
