//! What DNS adds to a `mongodb+srv://` string (initial DNS seedlist discovery specification).

use super::ServerAddress;
use crate::error::{Error, ErrorKind, Result};

/// The options a TXT record may hold, in lower case.
const ALLOWED_IN_TXT: [&str; 3] = ["authsource", "replicaset", "loadbalanced"];

/// The servers behind the SRV records of `srv_host`, each checked to be of its domain.
///
/// A host name of three or more parts lends its records all parts but the first; a shorter one all of
/// it, and its records must then be below it.
///
/// # Errors
/// `DnsResolve` if there are none, or one is of a foreign domain.
pub fn srv_addresses(srv_host: &str, records: &[(String, u16)]) -> Result<Vec<ServerAddress>> {
    if records.is_empty() {
        return Err(dns(format!("there are no SRV records for {srv_host}")));
    }
    let srv_host = srv_host.trim_end_matches('.').to_ascii_lowercase();
    let domain = match srv_host.split_once('.') {
        Some((_, parent)) if parent.contains('.') => parent,
        _ => &srv_host,
    };
    let suffix = format!(".{domain}");
    let mut addresses: Vec<ServerAddress> = Vec::new();
    for (host, port) in records {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if !host.ends_with(&suffix) {
            return Err(dns(format!("the SRV record names {host}, which is not within {domain}")));
        }
        let address = ServerAddress::new(host, *port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The options of the TXT record, names in lower case.
pub(super) fn txt_options(texts: &[String]) -> Result<Vec<(String, String)>> {
    let text = match texts {
        [] => return Ok(Vec::new()),
        [text] => text,
        _ => return Err(dns("there is more than one TXT record".to_owned())),
    };
    let mut options = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(dns(format!("option \"{pair}\" of the TXT record has no value")));
        };
        let name = name.to_ascii_lowercase();
        if !ALLOWED_IN_TXT.contains(&name.as_str()) || value.is_empty() {
            return Err(dns(format!(
                "a TXT record holds authSource, replicaSet and loadBalanced alone, not \"{pair}\""
            )));
        }
        options.push((name, value.to_owned()));
    }
    Ok(options)
}

/// Keeps `most` of the hosts, chosen at random; all if there are no more.
pub(crate) fn choose(
    hosts: &mut Vec<ServerAddress>,
    most: usize,
    random: &mut impl FnMut() -> u64,
) {
    if hosts.len() <= most {
        return;
    }
    for at in 0..most {
        let left = (hosts.len() - at) as u64;
        hosts.swap(at, at + (random() % left) as usize);
    }
    hosts.truncate(most);
}

fn dns(message: String) -> Error {
    Error::new(ErrorKind::DnsResolve { message })
}
