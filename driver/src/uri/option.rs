//! The options of a connection string, each read by the rule of the URI options specification.

use std::str::FromStr;
use std::time::Duration;

use bson::Document;

use super::Warning;
use super::split::Parts;
use crate::error::{Error, Result};
use crate::options::{
    Acknowledgment, AuthMechanism, ClientOptions, Compressor, Credential, MIN_HEARTBEAT_FREQ,
    Proxy, ReadConcern, ReadConcernLevel, ReadPreference, ReadPreferenceMode,
    ReadPreferenceOptions, SelectionCriteria, ServerMonitoringMode, TagSet, Tls, TlsOptions,
    WriteConcern,
};

/// The longest `appname`, in bytes.
const MAX_APP_NAME_BYTES: usize = 128;

/// Options that exclude each other, whatever their values.
const EXCLUSIVE: [(&str, &str); 7] = [
    ("tlsinsecure", "tlsallowinvalidcertificates"),
    ("tlsinsecure", "tlsallowinvalidhostnames"),
    ("tlsinsecure", "tlsdisablecertificaterevocationcheck"),
    ("tlsinsecure", "tlsdisableocspendpointcheck"),
    ("tlsallowinvalidcertificates", "tlsdisablecertificaterevocationcheck"),
    ("tlsallowinvalidcertificates", "tlsdisableocspendpointcheck"),
    ("tlsdisablecertificaterevocationcheck", "tlsdisableocspendpointcheck"),
];

/// Options whose repetition is an error, not a warning.
const NEVER_REPEATED: [&str; 4] = ["proxyhost", "proxyport", "proxyusername", "proxypassword"];

/// Reads `pairs` (the string's own, with those of a TXT record) into options.
pub(super) fn read(
    parts: &Parts,
    pairs: &[(String, String)],
    warnings: &mut Vec<Warning>,
) -> Result<ClientOptions> {
    let mut reader = Reader::default();
    refuse_exclusive(pairs)?;
    for (at, (name, value)) in pairs.iter().enumerate() {
        let repeated = pairs[..at].iter().any(|(earlier, _)| earlier == name);
        if repeated && NEVER_REPEATED.contains(&name.as_str()) {
            return Err(Error::invalid_argument(format!("option \"{name}\" is given twice")));
        }
        let outcome = if repeated && !matches!(name.as_str(), "readpreferencetags" | "tls" | "ssl")
        {
            Err("is given twice; the first value is used".to_owned())
        } else {
            reader.take(name, value)?
        };
        if let Err(message) = outcome {
            warnings.push(Warning { option: name.clone(), message });
        }
    }
    reader.finish(parts)
}

/// An option that was left out, and why.
type Left = std::result::Result<(), String>;

/// Options that have to wait for others.
#[derive(Default)]
struct Reader {
    options: ClientOptions,
    auth_source: Option<String>,
    mechanism: Option<AuthMechanism>,
    mechanism_properties: Option<Document>,
    read_preference_mode: Option<ReadPreferenceMode>,
    read_preference: ReadPreferenceOptions,
    write_concern: WriteConcern,
    deprecated_w_timeout: Option<Duration>,
    deprecated_journal: Option<bool>,
    tls: Option<bool>,
    tls_options: TlsOptions,
    zlib_level: Option<i32>,
    proxy: Option<Proxy>,
}

impl Reader {
    /// Takes one option. The outer error refuses the whole string, the inner one is a warning.
    fn take(&mut self, name: &str, value: &str) -> Result<Left> {
        let options = &mut self.options;
        Ok(match name {
            "appname" if value.len() > MAX_APP_NAME_BYTES => {
                Err(format!("is longer than {MAX_APP_NAME_BYTES} bytes"))
            }
            "appname" => text(value, &mut options.app_name),
            "authmechanism" => parsed(value, &mut self.mechanism),
            "authmechanismproperties" => properties(value, &mut self.mechanism_properties),
            "authsource" if value.is_empty() => {
                return Err(Error::invalid_argument("authSource is empty"));
            }
            "authsource" => text(value, &mut self.auth_source),
            "compressors" => self.take_compressors(value),
            "connecttimeoutms" => millis(value, 0, &mut options.connect_timeout),
            "directconnection" => boolean(value, &mut options.direct_connection),
            "enableoverloadretargeting" => boolean(value, &mut options.enable_overload_retargeting),
            "heartbeatfrequencyms" => {
                millis(value, MIN_HEARTBEAT_FREQ.as_millis() as i64, &mut options.heartbeat_freq)
            }
            "j" => boolean(value, &mut self.deprecated_journal)
                .and(Err("is deprecated: use journal".to_owned())),
            "journal" => boolean(value, &mut self.write_concern.journal),
            "loadbalanced" => boolean(value, &mut options.load_balanced),
            "localthresholdms" => millis(value, 0, &mut options.local_threshold),
            "maxadaptiveretries" => count(value, 0, &mut options.max_adaptive_retries),
            "maxconnecting" => count(value, 1, &mut options.max_connecting),
            "maxidletimems" => millis(value, 0, &mut options.max_idle_time),
            "maxpoolsize" => count(value, 0, &mut options.max_pool_size),
            "maxstalenessseconds" => self.take_max_staleness(value),
            "minpoolsize" => count(value, 0, &mut options.min_pool_size),
            "proxyhost" => self.take_proxy(value, |proxy, value| proxy.host = value),
            "proxyport" => match value.parse::<u16>() {
                Ok(port) if port > 0 => {
                    self.proxy.get_or_insert_default().port = Some(port);
                    Ok(())
                }
                _ => Err("takes a number from 1 to 65535".to_owned()),
            },
            "proxyusername" => self.take_proxy(value, |proxy, value| proxy.username = Some(value)),
            "proxypassword" => self.take_proxy(value, |proxy, value| proxy.password = Some(value)),
            "readconcernlevel" if value.is_empty() => Err("is empty".to_owned()),
            "readconcernlevel" => {
                options.read_concern = Some(ReadConcern::new(ReadConcernLevel::from(value)));
                Ok(())
            }
            "readpreference" => parsed(value, &mut self.read_preference_mode),
            "readpreferencetags" => self.take_tag_set(value),
            "replicaset" => text(value, &mut options.repl_set_name),
            "retryreads" => boolean(value, &mut options.retry_reads),
            "retrywrites" => boolean(value, &mut options.retry_writes),
            "servermonitoringmode" => match value {
                "auto" => set(&mut options.server_monitoring_mode, ServerMonitoringMode::Auto),
                "stream" => set(&mut options.server_monitoring_mode, ServerMonitoringMode::Stream),
                "poll" => set(&mut options.server_monitoring_mode, ServerMonitoringMode::Poll),
                _ => Err("is one of auto, stream and poll".to_owned()),
            },
            "serverselectiontimeoutms" => millis(value, 0, &mut options.server_selection_timeout),
            "serverselectiontryonce" => boolean(value, &mut options.server_selection_try_once),
            "sockettimeoutms" => millis(value, 0, &mut options.socket_timeout),
            "srvmaxhosts" => count(value, 0, &mut options.srv_max_hosts),
            "srvservicename" => text(value, &mut options.srv_service_name),
            "timeoutms" => millis(value, 0, &mut options.timeout),
            "tls" | "ssl" => self.take_tls(value)?,
            "tlsallowinvalidcertificates" => {
                boolean(value, &mut self.tls_options.allow_invalid_certificates)
            }
            "tlsallowinvalidhostnames" => {
                boolean(value, &mut self.tls_options.allow_invalid_hostnames)
            }
            "tlscafile" => text(value, &mut self.tls_options.ca_file_path),
            "tlscertificatekeyfile" => text(value, &mut self.tls_options.cert_key_file_path),
            "tlscertificatekeyfilepassword" => {
                text(value, &mut self.tls_options.tls_certificate_key_file_password)
            }
            "tlsdisablecertificaterevocationcheck" => {
                boolean(value, &mut self.tls_options.disable_certificate_revocation_check)
            }
            "tlsdisableocspendpointcheck" => {
                boolean(value, &mut self.tls_options.disable_ocsp_endpoint_check)
            }
            "tlsinsecure" => boolean(value, &mut self.tls_options.insecure),
            "w" => self.take_w(value),
            "waitqueuetimeoutms" => millis(value, 0, &mut options.wait_queue_timeout),
            "wtimeout" => millis(value, 0, &mut self.deprecated_w_timeout)
                .and(Err("is deprecated: use wTimeoutMS".to_owned())),
            "wtimeoutms" => millis(value, 0, &mut self.write_concern.w_timeout),
            "zlibcompressionlevel" => match value.parse::<i32>() {
                Ok(level @ -1..=9) => set(&mut self.zlib_level, level),
                _ => Err("takes a number from -1 to 9".to_owned()),
            },
            _ => Err("is not known".to_owned()),
        })
    }

    fn take_compressors(&mut self, value: &str) -> Left {
        let mut compressors = Vec::new();
        let mut unknown = Vec::new();
        for name in value.split(',') {
            match name {
                "snappy" => compressors.push(Compressor::Snappy),
                "zlib" => compressors.push(Compressor::Zlib { level: None }),
                "zstd" => compressors.push(Compressor::Zstd { level: None }),
                other => unknown.push(other),
            }
        }
        if !compressors.is_empty() {
            self.options.compressors = Some(compressors);
        }
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(format!("names compressors that are not known: {}", unknown.join(", ")))
        }
    }

    fn take_max_staleness(&mut self, value: &str) -> Left {
        match value.parse::<i64>() {
            Ok(-1) => Ok(()),
            Ok(seconds @ 0..=0x7fff_ffff) => {
                set(&mut self.read_preference.max_staleness, Duration::from_secs(seconds as u64))
            }
            _ => Err("takes -1 (no limit) or a number of seconds".to_owned()),
        }
    }

    fn take_tag_set(&mut self, value: &str) -> Left {
        let mut tags = TagSet::new();
        for pair in value.split(',').filter(|_| !value.is_empty()) {
            let Some((name, value)) = pair.split_once(':') else {
                return Err("takes pairs of name:value".to_owned());
            };
            tags.insert(name.to_owned(), value.to_owned());
        }
        self.read_preference.tag_sets.get_or_insert_default().push(tags);
        Ok(())
    }

    fn take_proxy(&mut self, value: &str, set: impl FnOnce(&mut Proxy, String)) -> Left {
        set(self.proxy.get_or_insert_default(), value.to_owned());
        Ok(())
    }

    /// `tls`, or its older name `ssl`: saying it twice is fine, contradicting oneself is not.
    fn take_tls(&mut self, value: &str) -> Result<Left> {
        let mut tls = None;
        let left = boolean(value, &mut tls);
        if let (Some(earlier), Some(now)) = (self.tls, tls)
            && earlier != now
        {
            return Err(Error::invalid_argument("tls and ssl contradict each other"));
        }
        self.tls = self.tls.or(tls);
        Ok(left)
    }

    fn take_w(&mut self, value: &str) -> Left {
        let w = match value.parse::<i64>() {
            Ok(nodes) => match u32::try_from(nodes) {
                Ok(nodes) if i32::try_from(nodes).is_ok() => Acknowledgment::Nodes(nodes),
                _ => return Err("takes a number of members from zero, or a name".to_owned()),
            },
            Err(_) if value.is_empty() => return Err("is empty".to_owned()),
            Err(_) => Acknowledgment::from(value),
        };
        set(&mut self.write_concern.w, w)
    }

    /// Puts together what waited, and refuses options that exclude each other.
    fn finish(mut self, parts: &Parts) -> Result<ClientOptions> {
        self.options.hosts.clone_from(&parts.hosts);
        self.options.srv_host.clone_from(&parts.srv_host);
        self.options.default_database.clone_from(&parts.database);
        self.options.credential = self.credential(parts);

        self.write_concern.w_timeout = self.write_concern.w_timeout.or(self.deprecated_w_timeout);
        self.write_concern.journal = self.write_concern.journal.or(self.deprecated_journal);
        if !self.write_concern.is_empty() {
            self.options.write_concern = Some(self.write_concern);
        }
        let mode = self.read_preference_mode;
        if mode.is_some() || self.read_preference != ReadPreferenceOptions::default() {
            let preference =
                ReadPreference::from_parts(mode.unwrap_or_default(), self.read_preference)?;
            self.options.selection_criteria = Some(SelectionCriteria::ReadPreference(preference));
        }
        let by_default = parts.srv_host.is_some() || self.tls_options != TlsOptions::default();
        self.options.tls = match self.tls {
            Some(true) => Some(Tls::Enabled(self.tls_options)),
            None if by_default => Some(Tls::Enabled(self.tls_options)),
            Some(false) => Some(Tls::Disabled),
            None => None,
        };
        if let Some(level) = self.zlib_level {
            for compressor in self.options.compressors.iter_mut().flatten() {
                if let Compressor::Zlib { level: slot } = compressor {
                    *slot = Some(level);
                }
            }
        }
        self.options.proxy = self.proxy;

        if parts.srv_host.is_none() {
            if self.options.srv_max_hosts.is_some() || self.options.srv_service_name.is_some() {
                return Err(Error::invalid_argument(
                    "srvMaxHosts and srvServiceName belong to mongodb+srv://",
                ));
            }
        } else if self.options.direct_connection == Some(true) {
            return Err(Error::invalid_argument(
                "directConnection=true and mongodb+srv:// exclude each other",
            ));
        }
        self.options.validate_combinations()?;
        Ok(self.options)
    }

    /// A credential, if the string names a user or a mechanism that can do without one.
    fn credential(&self, parts: &Parts) -> Option<Credential> {
        if parts.username.is_none() && self.mechanism.is_none() {
            return None;
        }
        let mut credential = Credential::default();
        credential.username.clone_from(&parts.username);
        credential.password.clone_from(&parts.password);
        credential.mechanism = self.mechanism;
        credential.source = Some(self.auth_source.clone().unwrap_or_else(|| {
            AuthMechanism::default_source(self.mechanism, parts.database.as_deref())
        }));
        credential.mechanism_properties.clone_from(&self.mechanism_properties);
        if self.mechanism == Some(AuthMechanism::Gssapi) {
            let properties = credential.mechanism_properties.get_or_insert_default();
            if !properties.contains_key("SERVICE_NAME") {
                properties.insert("SERVICE_NAME", "mongodb");
            }
        }
        Some(credential)
    }
}

fn refuse_exclusive(pairs: &[(String, String)]) -> Result<()> {
    let given = |name: &str| pairs.iter().any(|(other, _)| other == name);
    match EXCLUSIVE.iter().find(|(one, other)| given(one) && given(other)) {
        Some((one, other)) => {
            Err(Error::invalid_argument(format!("options {one} and {other} exclude each other")))
        }
        None => Ok(()),
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Left {
    *slot = Some(value);
    Ok(())
}

fn text(value: &str, slot: &mut Option<String>) -> Left {
    if value.is_empty() {
        return Err("is empty".to_owned());
    }
    set(slot, value.to_owned())
}

fn boolean(value: &str, slot: &mut Option<bool>) -> Left {
    match value {
        "true" => set(slot, true),
        "false" => set(slot, false),
        _ => Err("is either true or false".to_owned()),
    }
}

fn parsed<T: FromStr<Err = Error>>(value: &str, slot: &mut Option<T>) -> Left {
    match value.parse() {
        Ok(value) => set(slot, value),
        Err(_) => Err(format!("has the unknown value \"{value}\"")),
    }
}

/// A number of 32 bits, the sign among them, of at least `least`.
fn number(value: &str, least: i64) -> std::result::Result<i64, String> {
    match value.parse::<i64>() {
        Ok(number) if number >= least && i32::try_from(number).is_ok() => Ok(number),
        _ => Err(format!("takes a number of at least {least}")),
    }
}

fn millis(value: &str, least: i64, slot: &mut Option<Duration>) -> Left {
    let millis = number(value, least)?;
    set(slot, Duration::from_millis(millis.unsigned_abs()))
}

fn count(value: &str, least: i64, slot: &mut Option<u32>) -> Left {
    let count = number(value, least)?;
    set(slot, u32::try_from(count).unwrap_or(u32::MAX))
}

fn properties(value: &str, slot: &mut Option<Document>) -> Left {
    let mut properties = Document::new();
    for pair in value.split(',') {
        match pair.split_once(':') {
            Some((name, value)) if !name.is_empty() => {
                properties.insert(name, value);
            }
            _ => return Err("takes pairs of name:value".to_owned()),
        }
    }
    set(slot, properties)
}
