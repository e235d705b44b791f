use proptest::prelude::*;

use super::*;
use crate::options::{ReadPreferenceMode, Tls};

fn options(uri: &str) -> ClientOptions {
    ConnectionString::parse(uri).unwrap().into_options().unwrap()
}

#[test]
fn a_whole_string_becomes_options() {
    let options = options(
        "mongodb://al%40ice:s%3Aecret@A.example,b.example:27018,[::1]/shop?replicaSet=rs0\
         &w=majority&wTimeoutMS=500&readPreference=secondaryPreferred&readPreferenceTags=dc:ny\
         &maxStalenessSeconds=120&appName=till",
    );
    let hosts: Vec<_> = options.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.example:27017", "b.example:27018", "[::1]:27017"]);
    let credential = options.credential.as_ref().unwrap();
    assert_eq!(credential.username.as_deref(), Some("al@ice"));
    assert_eq!(credential.source.as_deref(), Some("shop"));
    assert_eq!(options.read_preference().mode(), ReadPreferenceMode::SecondaryPreferred);
    assert_eq!(options.repl_set_name.as_deref(), Some("rs0"));
    let shown = format!("{options:?}");
    assert!(!shown.contains("s:ecret"), "a password is never shown: {shown}");
}

#[test]
fn unknown_options_are_left_out_with_a_warning() {
    let parsed = ConnectionString::parse("mongodb://a/?speed=fast&retryWrites=maybe").unwrap();
    let warnings: Vec<_> = parsed.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["option \"speed\" is not known", "option \"retrywrites\" is either true or false"]
    );
}

#[test]
fn read_preference_primary_takes_no_tags_and_no_staleness() {
    for option in ["readPreferenceTags=dc:ny", "maxStalenessSeconds=120"] {
        assert!(ConnectionString::parse(&format!("mongodb://a/?{option}")).is_err());
    }
    assert!(ConnectionString::parse("mongodb://a/?maxStalenessSeconds=-1").is_ok());
}

#[test]
fn an_srv_string_takes_its_hosts_and_some_options_from_dns() {
    let parsed =
        ConnectionString::parse("mongodb+srv://Cluster.shop.example/?authSource=x").unwrap();
    assert_eq!(parsed.srv_name().unwrap(), "_mongodb._tcp.cluster.shop.example");
    let records = SrvRecords {
        hosts: vec![("n1.shop.example.".to_owned(), 27017), ("n2.shop.example".to_owned(), 27018)],
        texts: vec!["replicaSet=rs0&authSource=y".to_owned()],
    };
    let options = parsed.clone().resolve_with(&records, || 0).unwrap().into_options().unwrap();
    assert_eq!(options.hosts.len(), 2);
    assert_eq!(options.repl_set_name.as_deref(), Some("rs0"));
    assert!(matches!(options.tls, Some(Tls::Enabled(_))));

    let foreign = SrvRecords { hosts: vec![("n1.evil.example".to_owned(), 1)], texts: vec![] };
    assert!(parsed.resolve_with(&foreign, || 0).is_err());
}

#[test]
fn a_short_srv_name_wants_its_records_below_itself() {
    let record = |host: &str| [(host.to_owned(), 27017)];
    assert!(srv_addresses("shop.example", &record("n1.shop.example")).is_ok());
    assert!(srv_addresses("shop.example", &record("shop.example")).is_err());
    assert!(srv_addresses("shop.example", &record("n1.example")).is_err());
    assert!(srv_addresses("localhost", &record("n1.localhost")).is_ok());
}

#[test]
fn srv_max_hosts_keeps_that_many_different_hosts() {
    let hosts: Vec<_> = (0..9).map(|n| (format!("n{n}.shop.example"), 27017)).collect();
    let records = SrvRecords { hosts, texts: vec![] };
    let parsed = ConnectionString::parse("mongodb+srv://c.shop.example/?srvMaxHosts=4").unwrap();
    let mut state = 7_u64;
    let random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    let mut hosts = parsed.resolve_with(&records, random).unwrap().into_options().unwrap().hosts;
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 4);
}

/// Everything that must hold of any text at all.
fn take_apart(uri: &str) {
    if let Ok(parsed) = ConnectionString::parse(uri) {
        assert_eq!(parsed.srv_name().is_some(), parsed.hosts().is_empty());
        for host in parsed.hosts() {
            assert_eq!(ServerAddress::parse(&host.to_string()).unwrap(), *host);
        }
        let _ = format!("{parsed:?}");
        let _ = parsed.into_options();
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(uri in "\\PC*") {
        take_apart(&uri);
    }

    #[test]
    fn nothing_after_the_scheme_makes_it_panic(rest in "[a-c0-9:/?@,%&=.\\[\\]é+-]{0,60}") {
        take_apart(&format!("mongodb://{rest}"));
        take_apart(&format!("mongodb+srv://{rest}"));
    }

    #[test]
    fn no_value_of_a_known_option_makes_it_panic(
        name in prop::sample::select(vec![
            "w", "readPreference", "readPreferenceTags", "maxStalenessSeconds", "compressors",
            "authMechanism", "authMechanismProperties", "authSource", "tls", "ssl", "proxyPort",
            "heartbeatFrequencyMS", "srvMaxHosts", "zlibCompressionLevel", "wTimeoutMS", "appname",
        ]),
        value in "[-a-zA-Z0-9:,%é]{0,24}",
    ) {
        take_apart(&format!("mongodb://a/?{name}={value}"));
    }

    #[test]
    fn no_text_makes_an_address_panic(text in "\\PC*") {
        let _ = ServerAddress::parse(&text);
    }

    #[test]
    fn what_is_escaped_comes_back(user in "\\PC{1,20}", password in "\\PC{0,20}") {
        let escape = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let uri = format!("mongodb://{}:{}@a/", escape(&user), escape(&password));
        let parsed = ConnectionString::parse(&uri).unwrap();
        prop_assert_eq!(parsed.username(), Some(user.as_str()));
        prop_assert_eq!(parsed.password(), Some(password.as_str()));
    }
}
