//! Whatever bytes and answers come from outside, nothing panics: the fuzz targets' ideas within `cargo
//! test`, on stable Rust.

use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocumentBuf, doc};
use proptest::prelude::*;
use stepdown_driver::options::ClientOptions;
use stepdown_driver::sdam::{ServerDescription, Topology, TopologyOptions};
use stepdown_driver::transport::SrvRecords;
use stepdown_driver::uri::ConnectionString;
use stepdown_driver::{Instant, ServerAddress};

/// Values of the types and sizes a hello reply has, and of others.
fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<f64>().prop_map(Bson::Double),
        any::<bool>().prop_map(Bson::Boolean),
        "[a-cA-C:0-9.]{0,12}".prop_map(Bson::String),
        any::<i64>().prop_map(|millis| Bson::DateTime(bson::DateTime::from_millis(millis))),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
        Just(Bson::Null),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            proptest::collection::vec((key(), inner), 0..4)
                .prop_map(|pairs| Bson::Document(pairs.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "ok",
        "ismaster",
        "isWritablePrimary",
        "secondary",
        "arbiterOnly",
        "hidden",
        "setName",
        "setVersion",
        "electionId",
        "hosts",
        "passives",
        "arbiters",
        "primary",
        "me",
        "tags",
        "lastWrite",
        "lastWriteDate",
        "opTime",
        "minWireVersion",
        "maxWireVersion",
        "msg",
        "topologyVersion",
        "processId",
        "counter",
        "logicalSessionTimeoutMinutes",
        "isreplicaset",
        "helloOk",
        "errmsg",
        "code",
        "$clusterTime",
        "iscryptd",
        "maxBsonObjectSize",
    ])
    .prop_map(str::to_owned)
}

fn hello() -> impl Strategy<Value = Document> {
    proptest::collection::vec((key(), value()), 0..12).prop_map(|pairs| {
        // Often enough a reply that is believed, with something odd in it.
        let mut reply = doc! {
            "ok": 1, "isWritablePrimary": true, "setName": "foo", "hosts": ["a:27017", "b:27017"],
            "minWireVersion": 0, "maxWireVersion": 21,
        };
        reply.extend(pairs);
        reply
    })
}

proptest! {
    #[test]
    fn whatever_servers_say_of_themselves(replies in proptest::collection::vec((0..3_usize, hello()), 1..6)) {
        let options = ClientOptions::parse_str("mongodb://a,b,c/?replicaSet=foo").unwrap();
        let mut topology =
            Topology::new(ObjectId::from_bytes([0; 12]), TopologyOptions::from(&options));
        let mut effects = Vec::new();
        topology.open(&mut effects);
        for (server, reply) in replies {
            let address = ServerAddress::new(["a", "b", "c"][server], 27017);
            let raw = RawDocumentBuf::try_from(&reply).unwrap();
            let hello = ServerDescription::from_hello(address, Instant::ZERO, &raw);
            topology.on_hello(hello, &mut effects);
            let _ = topology.description().to_string();
        }
    }

    #[test]
    fn whatever_bytes_come_as_a_hello_reply(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(raw) = RawDocumentBuf::from_bytes(bytes) {
            let address = ServerAddress::new("a", 27017);
            let _ = ServerDescription::from_hello(address, Instant::ZERO, &raw);
        }
    }

    #[test]
    fn one_changed_byte_of_a_hello_reply(at in 4_usize..400, to in any::<u8>(), reply in hello()) {
        let mut bytes = bson::serialize_to_vec(&reply).unwrap();
        let last = bytes.len() - 1;
        bytes[4.max(at % last)] = to;
        if let Ok(raw) = RawDocumentBuf::from_bytes(bytes) {
            let address = ServerAddress::new("a", 27017);
            let _ = ServerDescription::from_hello(address, Instant::ZERO, &raw);
        }
    }

    #[test]
    fn whatever_dns_answers(
        hosts in proptest::collection::vec(("[a-c.]{0,8}(\\.example\\.com)?\\.?", any::<u16>()), 0..5),
        texts in proptest::collection::vec("((authSource|replicaSet|loadBalanced|tls)=?[a-z&%=]{0,8}){0,2}|.{0,20}", 0..3),
        most in 0_u32..4,
        random in any::<u64>(),
    ) {
        let records = SrvRecords { hosts, texts };
        for uri in [
            format!("mongodb+srv://a.example.com/?srvMaxHosts={most}"),
            "mongodb+srv://user:password@example.com/db?tls=false".to_owned(),
        ] {
            let parsed = ConnectionString::parse(&uri).unwrap();
            if let Ok(resolved) = parsed.resolve_with(&records, || random) {
                prop_assert!(!resolved.hosts().is_empty());
                let _ = resolved.into_options();
            }
        }
    }

    #[test]
    fn whatever_is_called_a_connection_string(text in "(mongodb(\\+srv)?://)?.{0,60}") {
        let _ = ClientOptions::parse_str(text);
    }
}
