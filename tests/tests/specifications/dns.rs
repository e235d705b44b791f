//! A resolver that knows the records the specification's tests assume.

use std::fs;
use std::path::Path;

use serde_json::Value;
use stepdown_driver::transport::SrvRecords;

use crate::json::{list, text};

/// A record the lists leave out although a test (`srv-service-name`) counts on it: name, target, port.
const UNLISTED: (&str, &str, u16) =
    ("_customname._tcp.test22.test.build.10gen.cc", "localhost.test.build.10gen.cc", 27018);

/// DNS records by name.
#[derive(Default)]
pub struct Resolver {
    srv: Vec<(String, String, u16)>,
    txt: Vec<(String, String)>,
}

impl Resolver {
    /// The records listed near `file`: in `dns-records.json`, or in the tables of the folder's
    /// `README.md`, as the specifications repository has them.
    pub fn near(file: &Path) -> Option<Self> {
        let folders = || file.ancestors().skip(1).take(4);
        let listed = folders().find_map(|folder| {
            let text = fs::read_to_string(folder.join("dns-records.json")).ok()?;
            Resolver::from_json(&serde_json::from_str(&text).ok()?)
        });
        let mut resolver = listed.or_else(|| {
            folders().find_map(|folder| {
                Resolver::from_tables(&fs::read_to_string(folder.join("README.md")).ok()?)
            })
        })?;
        let (name, target, port) = UNLISTED;
        if !resolver.srv.iter().any(|(listed, _, at)| listed.starts_with(name) && *at == port) {
            resolver.srv.push((name.to_owned(), target.to_owned(), port));
        }
        Some(resolver)
    }

    /// What DNS says about an SRV name (`_mongodb._tcp.example.com`); the TXT record is that of the
    /// host.
    pub fn resolve(&self, srv_name: &str) -> SrvRecords {
        let same = |record: &str| record.trim_end_matches('.').eq_ignore_ascii_case(srv_name);
        let hosts = self.srv.iter().filter(|(name, ..)| same(name));
        let host = srv_name.splitn(3, '.').nth(2).unwrap_or_default();
        let texts = self
            .txt
            .iter()
            .filter(|(name, _)| name.trim_end_matches('.').eq_ignore_ascii_case(host));
        SrvRecords {
            hosts: hosts.map(|(_, target, port)| (target.clone(), *port)).collect(),
            texts: texts.map(|(_, text)| text.clone()).collect(),
        }
    }

    fn from_json(json: &Value) -> Option<Self> {
        let mut resolver = Resolver::default();
        for record in list(json, "SRV") {
            let port = record.get("port").and_then(Value::as_u64)?;
            resolver.srv.push((
                text(record, "name")?.to_owned(),
                text(record, "target")?.to_owned(),
                u16::try_from(port).ok()?,
            ));
        }
        for record in list(json, "TXT") {
            let strings = list(record, "strings").iter().filter_map(Value::as_str);
            resolver.txt.push((text(record, "name")?.to_owned(), strings.collect()));
        }
        (!resolver.srv.is_empty()).then_some(resolver)
    }

    /// Reads lines like `name. 86400 IN SRV 27017 target.` and `name. 86400 IN TXT "a" "b"`.
    fn from_tables(readme: &str) -> Option<Self> {
        let mut resolver = Resolver::default();
        for line in readme.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [name, _, "IN", "SRV", port, target] => {
                    resolver.srv.push((name.to_owned(), target.to_owned(), port.parse().ok()?));
                }
                [name, _, "IN", "TXT", ..] => {
                    // Every other piece between quotation marks is a string.
                    let strings = line.split('"').skip(1).step_by(2);
                    resolver.txt.push((name.to_owned(), strings.collect()));
                }
                _ => {}
            }
        }
        (!resolver.srv.is_empty()).then_some(resolver)
    }
}
