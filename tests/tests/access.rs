//! A served set that asks for users, and one that speaks TLS and compresses, seen by our own driver.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use bson::{Document, doc};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use stepdown::serve::{Narrator, ServeOptions, Server, TlsOptions};
use stepdown_driver::Client;

/// The served set's URI with further options, and somebody's name and password.
fn uri(server: &Server, user: &str, options: &str) -> String {
    server.uri().replacen("mongodb://", &format!("mongodb://{user}"), 1) + options
}

/// The code of the error that a command must fail with.
async fn refused(client: &Client, db: &str, command: Document) -> Option<i32> {
    client.database(db).run_command(command).await.err().and_then(|error| error.code())
}

#[tokio::test]
async fn users_do_what_their_roles_grant_and_nothing_else() {
    let options = ServeOptions { auth: true, ..ServeOptions::default() };
    let server = Server::start(options, Narrator::silent()).expect("free ports can be served");

    // Nobody is a user yet: somebody on this machine may make the first one, and do nothing more.
    let nobody = Client::with_uri_str(server.uri()).await.unwrap();
    assert_eq!(refused(&nobody, "app", doc! { "find": "notes" }).await, Some(13));
    let root = doc! { "createUser": "root", "pwd": "secret", "roles": ["root"] };
    nobody.database("admin").run_command(root).await.unwrap();
    assert_eq!(refused(&nobody, "app", doc! { "find": "notes" }).await, Some(13));
    let second = doc! { "createUser": "second", "pwd": "secret", "roles": ["root"] };
    assert_eq!(refused(&nobody, "admin", second).await, Some(13));

    let root = Client::with_uri_str(&uri(&server, "root:secret@", "")).await.unwrap();
    let reader = doc! { "createUser": "reader", "pwd": "r", "roles": ["read"] };
    root.database("app").run_command(reader).await.unwrap();
    let notes = root.database("app").collection::<Document>("notes");
    notes.insert_one(doc! { "_id": 1 }).await.unwrap();

    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let options = format!("&authSource=app&authMechanism={mechanism}");
        let reader = Client::with_uri_str(&uri(&server, "reader:r@", &options)).await.unwrap();
        let read = reader.database("app").collection::<Document>("notes");
        assert!(read.find_one(doc! { "_id": 1 }).await.unwrap().is_some());
        let write = doc! { "insert": "notes", "documents": [{ "_id": 2 }] };
        assert_eq!(refused(&reader, "app", write).await, Some(13));
        assert_eq!(refused(&reader, "other", doc! { "find": "notes" }).await, Some(13));
    }

    let options = "&authSource=app&serverSelectionTimeoutMS=2000";
    let mistaken = Client::with_uri_str(&uri(&server, "reader:wrong@", options)).await.unwrap();
    let refusal = mistaken.database("app").run_command(doc! { "ping": 1 }).await.unwrap_err();
    assert!(refusal.to_string().contains("Authentication failed"), "{refusal}");

    // A role that is taken away is gone at once.
    let options = "&authSource=app";
    let reader = Client::with_uri_str(&uri(&server, "reader:r@", options)).await.unwrap();
    reader.database("app").run_command(doc! { "find": "notes" }).await.unwrap();
    let revoke = doc! { "revokeRolesFromUser": "reader", "roles": ["read"] };
    root.database("app").run_command(revoke).await.unwrap();
    assert_eq!(refused(&reader, "app", doc! { "find": "notes" }).await, Some(13));
}

/// A certificate authority and what it signed, as PEM files.
struct Papers {
    authority: PathBuf,
    server: PathBuf,
    alice: PathBuf,
}

impl Papers {
    fn make(directory: &Path) -> Papers {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let authority_pem = params.self_signed(&key).unwrap().pem();
        let authority = Issuer::new(params, key);
        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        let signed = |address: Option<&str>, name: &str| {
            let names: Vec<String> = address.into_iter().map(str::to_owned).collect();
            let mut params = CertificateParams::new(names).unwrap();
            // The default name would stand before ours.
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "people");
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &authority).unwrap().pem() + &key.serialize_pem()
        };
        Papers {
            server: write("server.pem", signed(Some("127.0.0.1"), "server")),
            alice: write("alice.pem", signed(None, "alice")),
            authority: write("authority.pem", authority_pem),
        }
    }
}

#[tokio::test]
async fn certificates_encrypt_and_authenticate_and_messages_are_compressed() {
    let directory = std::env::temp_dir().join(format!("stepdown-access-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let papers = Papers::make(&directory);
    let options = ServeOptions {
        auth: true,
        tls: Some(TlsOptions {
            certificate: papers.server.clone(),
            key: None,
            authorities: Some(papers.authority.clone()),
        }),
        ..ServeOptions::default()
    };
    let server = Server::start(options, Narrator::silent()).expect("free ports can be served");
    let tls = format!("&tls=true&tlsCAFile={}", papers.authority.display());

    let nobody = Client::with_uri_str(&uri(&server, "", &tls)).await.unwrap();
    let root = doc! { "createUser": "root", "pwd": "secret", "roles": ["root"] };
    nobody.database("admin").run_command(root).await.unwrap();
    let root = Client::with_uri_str(&uri(&server, "root:secret@", &tls)).await.unwrap();
    let alice = doc! {
        "createUser": "CN=alice,O=people", "roles": [{ "role": "readWrite", "db": "app" }],
    };
    root.database("$external").run_command(alice).await.unwrap();

    let with_certificate = format!(
        "{tls}&tlsCertificateKeyFile={}&authMechanism=MONGODB-X509&compressors=zlib",
        papers.alice.display()
    );
    let alice = Client::with_uri_str(&uri(&server, "", &with_certificate)).await.unwrap();
    let notes = alice.database("app").collection::<Document>("notes");
    notes.insert_one(doc! { "_id": 1, "text": "a".repeat(10_000) }).await.unwrap();
    let found = notes.find_one(doc! { "_id": 1 }).await.unwrap().expect("it was inserted");
    assert_eq!(found.get_str("text").ok().map(str::len), Some(10_000));
    assert_eq!(refused(&alice, "other", doc! { "find": "notes" }).await, Some(13));

    // Without TLS nobody is heard.
    let plain = uri(&server, "", "&serverSelectionTimeoutMS=500");
    let plain = Client::with_uri_str(&plain).await.unwrap();
    assert!(plain.database("admin").run_command(doc! { "ping": 1 }).await.is_err());
    drop(server);
    let _ = std::fs::remove_dir_all(&directory);
}
