//! Whatever DNS answers, a `mongodb+srv://` string is resolved or refused, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stepdown_driver::transport::SrvRecords;
use stepdown_driver::uri::ConnectionString;

fuzz_target!(|input: (Vec<(String, u16)>, Vec<String>, u8, u64)| {
    let (hosts, texts, most, random) = input;
    let records = SrvRecords { hosts, texts };
    for uri in [
        format!("mongodb+srv://a.example.com/?srvMaxHosts={}", most % 4),
        "mongodb+srv://user:password@example.com/db?tls=false".to_owned(),
    ] {
        let parsed = ConnectionString::parse(&uri).expect("the string is good");
        if let Ok(resolved) = parsed.resolve_with(&records, || random) {
            let _ = resolved.into_options();
        }
    }
});
