//! The driver against a real mongod that asks for users, certificates and compression.
//!
//! Needs the path of a mongod in the environment variable `MONGOD`; without it the tests say
//! that they are skipped. Keys and certificates are made for each run.
#![cfg(all(unix, feature = "auth", feature = "tcp", feature = "tls"))]
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use stepdown_driver::options::ClientOptions;
use stepdown_driver::sdam::{ServerType, TopologyDescription};
use stepdown_driver::{Client, Result};

/// A certificate authority and what it signed, as PEM files.
struct Papers {
    ca: PathBuf,
    server: PathBuf,
    alice: PathBuf,
    nobodys_ca: PathBuf,
}

impl Papers {
    fn make(directory: &Path) -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            (certificate.pem(), Issuer::new(params, key))
        };
        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        let (ca_pem, ca) = authority("stepdown test authority");
        let (nobodys_pem, _) = authority("somebody else's authority");
        let signed = |names: &[&str], common_name: &str, organization: &str| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::OrganizationName, organization);
            params.distinguished_name.push(DnType::CommonName, common_name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            certificate.pem() + &key.serialize_pem()
        };
        Papers {
            server: write("server.pem", signed(&["localhost", "127.0.0.1"], "server", "servers")),
            alice: write("alice.pem", signed(&[], "alice", "people")),
            ca: write("ca.pem", ca_pem),
            nobodys_ca: write("nobodys.pem", nobodys_pem),
        }
    }
}

/// A set of one member with users; killed when dropped.
struct Secured {
    port: u16,
    directory: PathBuf,
    papers: Papers,
    tls: bool,
    process: Child,
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Secured {
    /// Starts it, initiates it and makes its users.
    async fn start(name: &str, tls: bool) -> Option<Self> {
        let Some(program) = std::env::var_os("MONGOD") else {
            eprintln!("skipped: MONGOD is not set to the path of a mongod");
            return None;
        };
        // Paths of sockets have to be short.
        let directory = std::env::temp_dir().join(format!("sd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let papers = Papers::make(&directory);
        let key_file = directory.join("key");
        std::fs::write(&key_file, "a".repeat(64)).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let mut command = Command::new(program);
        command
            .args(["--replSet", "foo", "--bind_ip", "127.0.0.1,127.0.0.2", "--auth"])
            .args(["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "enableTestCommands=1"])
            .args(["--setParameter", "scramSHA256IterationCount=5000"])
            .args(["--networkMessageCompressors", "snappy,zlib,zstd"])
            .args(["--port", &port.to_string()])
            .args([Path::new("--keyFile"), &key_file, Path::new("--dbpath"), &directory])
            .args([Path::new("--unixSocketPrefix"), &directory]);
        if tls {
            command
                .args(["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"])
                .args([Path::new("--tlsCertificateKeyFile"), &papers.server])
                .args([Path::new("--tlsCAFile"), &papers.ca]);
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let secured = Secured { port, directory, papers, tls, process };
        let began = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "mongod starts");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        secured.initiate().await;
        Some(secured)
    }

    /// Until there is a user, a connection from this machine may do this.
    async fn initiate(&self) {
        let client = Client::with_uri_str(self.uri("", "&directConnection=true")).await.unwrap();
        let admin = client.database("admin");
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", self.port) };
        let config = doc! { "_id": "foo", "members": [member] };
        admin.run_command(doc! { "replSetInitiate": config }).await.unwrap();
        let is_primary =
            |topology: &TopologyDescription| topology.of_type(ServerType::RsPrimary).count() == 1;
        client.wait_for_topology(Duration::from_secs(30), is_primary).await.unwrap();
        let root = doc! { "createUser": "root", "pwd": "rootpw", "roles": ["root"] };
        admin.run_command(root).await.unwrap();
        client.close().await;

        let client = self.client("root:rootpw@", "").await.unwrap();
        let admin = client.database("admin");
        let read_write = doc! { "role": "readWriteAnyDatabase", "db": "admin" };
        for (user, password, mechanisms) in [
            ("old", "pencil", vec!["SCRAM-SHA-1"]),
            ("new", "pencil", vec!["SCRAM-SHA-256"]),
            ("both", "pencil", vec!["SCRAM-SHA-1", "SCRAM-SHA-256"]),
            ("odd=name,", "IX", vec!["SCRAM-SHA-256"]),
        ] {
            admin
                .run_command(doc! {
                    "createUser": user, "pwd": password, "mechanisms": mechanisms,
                    "roles": [read_write.clone()],
                })
                .await
                .unwrap();
        }
        let alice = doc! { "createUser": "O=people,CN=alice", "roles": [read_write] };
        client.database("$external").run_command(alice).await.unwrap();
        client.close().await;
    }

    fn uri_to(&self, host: &str, who: &str, more: &str) -> String {
        let tls = if self.tls && !more.contains("tls=") {
            format!("&tls=true{}", file("tlsCAFile", &self.papers.ca))
        } else {
            String::new()
        };
        format!("mongodb://{who}{host}:{}/?serverSelectionTimeoutMS=5000{tls}{more}", self.port)
    }

    fn uri(&self, who: &str, more: &str) -> String {
        self.uri_to("127.0.0.1", who, more)
    }

    async fn client(&self, who: &str, more: &str) -> Result<Client> {
        Client::with_uri_str(self.uri(who, &format!("&replicaSet=foo{more}"))).await
    }

    /// Connects, writes and reads: the error if that cannot be.
    async fn try_as(&self, who: &str, more: &str) -> Result<()> {
        use_it(self.client(who, more).await?).await
    }
}

async fn use_it(client: Client) -> Result<()> {
    let notes = client.database("app").collection::<Document>("notes");
    let id = notes.insert_one(doc! { "text": "seen" }).await?.inserted_id;
    let found = notes.find_one(doc! { "_id": id }).await?;
    assert_eq!(found.unwrap().get_str("text").unwrap(), "seen");
    client.close().await;
    Ok(())
}

/// An option whose value is a path.
fn file(option: &str, path: &Path) -> String {
    format!("&{option}={}", path.to_str().unwrap().replace('/', "%2F"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_both_scrams_are_authenticated_and_others_are_not() {
    let Some(secured) = Secured::start("scram", false).await else { return };
    for (who, more) in [
        ("old:pencil@", ""),
        ("new:pencil@", ""),
        ("both:pencil@", ""),
        ("old:pencil@", "&authMechanism=SCRAM-SHA-1"),
        ("both:pencil@", "&authMechanism=SCRAM-SHA-1"),
        ("both:pencil@", "&authMechanism=SCRAM-SHA-256&authSource=admin"),
        // SASLprep makes one password of all of these.
        ("odd%3Dname%2C:IX@", ""),
        ("odd%3Dname%2C:I%C2%ADX@", ""),
        ("odd%3Dname%2C:%E2%85%A8@", ""),
    ] {
        secured.try_as(who, more).await.unwrap_or_else(|error| panic!("{who} {more}: {error}"));
    }
    for (who, more) in [
        ("new:wrong@", ""),
        ("old:wrong@", ""),
        ("nobody:pencil@", ""),
        ("old:pencil@", "&authMechanism=SCRAM-SHA-256"),
        ("both:pencil@", "&authSource=app"),
    ] {
        let error = secured.try_as(who, more).await.unwrap_err();
        assert!(error.is_authentication(), "{who} {more}: {error}");
        assert!(!format!("{error:?}").contains("pencil"), "{error:?}");
    }
    let error = secured.try_as("", "").await.unwrap_err();
    assert_eq!(error.code(), Some(13), "nobody in particular may not write: {error}");

    // Most of them needed no round trip of their own for the first step.
    let client = secured.client("root:rootpw@", "").await.unwrap();
    let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await.unwrap();
    let mechanisms = status.get_document("security").unwrap();
    let mechanisms = mechanisms.get_document("authentication").unwrap();
    let mechanisms = mechanisms.get_document("mechanisms").unwrap();
    let speculated = mechanisms.get_document("SCRAM-SHA-256").unwrap();
    let speculated = speculated.get_document("speculativeAuthenticate").unwrap();
    assert!(speculated.get_i64("successful").unwrap() >= 6, "{speculated}");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_verified_and_may_stand_for_a_user() {
    let Some(secured) = Secured::start("tls", true).await else { return };
    let papers = &secured.papers;
    secured.try_as("both:pencil@", "").await.unwrap();

    // The client's certificate is its user.
    let certificate = file("tlsCertificateKeyFile", &papers.alice);
    let x509 = format!("{certificate}&authMechanism=MONGODB-X509");
    secured.try_as("", &x509).await.unwrap();
    secured.try_as("O%3Dpeople%2CCN%3Dalice@", &x509).await.unwrap();
    let error = secured.try_as("O%3Dpeople%2CCN%3Dbob@", &x509).await.unwrap_err();
    assert!(error.is_authentication(), "{error}");

    // Nobody in between is trusted.
    let wrong_ca = format!("&tls=true{}", file("tlsCAFile", &papers.nobodys_ca));
    let error = secured.try_as("both:pencil@", &wrong_ca).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = secured.try_as("both:pencil@", "&tls=true").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let plain = secured.try_as("both:pencil@", "&tls=false").await.unwrap_err();
    assert!(plain.is_server_selection(), "{plain}");

    // The certificate is for 127.0.0.1, not for 127.0.0.2.
    let elsewhere = |more: &str| {
        let more = format!("&directConnection=true{more}");
        let uri = secured.uri_to("127.0.0.2", "both:pencil@", &more);
        async move { use_it(Client::with_uri_str(uri).await?).await }
    };
    let error = elsewhere("").await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
    elsewhere("&tlsAllowInvalidHostnames=true").await.unwrap();
    let trusting = format!("{wrong_ca}&tlsAllowInvalidCertificates=true");
    secured.try_as("both:pencil@", &trusting).await.unwrap();
    elsewhere("&tls=true&tlsInsecure=true").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_compressed_as_agreed_and_a_file_may_be_the_socket() {
    let Some(secured) = Secured::start("zip", false).await else { return };
    let bytes_in = async |name: &str| -> i64 {
        let client = secured.client("root:rootpw@", "").await.unwrap();
        let admin = client.database("admin");
        let status = admin.run_command(doc! { "serverStatus": 1 }).await.unwrap();
        client.close().await;
        let network = status.get_document("network").unwrap();
        let compressor = network.get_document("compression").unwrap().get_document(name).unwrap();
        compressor.get_document("decompressor").unwrap().get_i64("bytesIn").unwrap()
    };
    for (feature, name) in [
        (cfg!(feature = "snappy"), "snappy"),
        (cfg!(feature = "zlib"), "zlib"),
        (cfg!(feature = "zstd"), "zstd"),
    ] {
        let more = format!("&compressors={name}");
        if !feature {
            let error = secured.try_as("both:pencil@", &more).await.unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            continue;
        }
        let before = bytes_in(name).await;
        let client = secured.client("both:pencil@", &more).await.unwrap();
        let texts = client.database("app").collection::<Document>(name);
        let long = "again and ".repeat(1000);
        let many: Vec<_> = (0..300).map(|n| doc! { "_id": n, "text": &long }).collect();
        texts.insert_many(many).await.unwrap();
        let mut cursor = texts.find(doc! {}).batch_size(50).await.unwrap();
        let mut count = 0;
        while let Some(text) = cursor.try_next().await.unwrap() {
            assert_eq!(text.get_str("text").unwrap(), long);
            count += 1;
        }
        assert_eq!(count, 300);
        client.close().await;
        let sent = bytes_in(name).await - before;
        assert!(sent > 0 && sent < 1_000_000, "{sent} bytes went through {name} for three million");
    }

    let path = secured.directory.join(format!("mongodb-{}.sock", secured.port));
    let path = path.to_str().unwrap().replace('/', "%2F");
    let uri = format!("mongodb://both:pencil@{path}/?directConnection=true");
    use_it(Client::with_uri_str(uri).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_connected() {
    for (uri, word) in [
        ("mongodb://u:p@h/?authMechanism=GSSAPI", "GSSAPI"),
        ("mongodb://u@h/?authMechanism=SCRAM-SHA-256", "password"),
        ("mongodb://u@h/", "password"),
        ("mongodb://h/?tls=true&tlsCAFile=%2Fnonexistent.pem", "/nonexistent.pem"),
    ] {
        let error = Client::with_uri_str(uri).await.unwrap_err();
        assert!(error.to_string().contains(word), "{uri}: {error}");
    }
    assert!(ClientOptions::parse_str("mongodb://h/?compressors=zstd").is_ok());
}
