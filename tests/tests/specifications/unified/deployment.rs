//! What the cases run against: a fresh simulated set, or whatever `STEPDOWN_URI` names.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bson::{Bson, Document, doc};
use serde_json::Value;
use stepdown::Sim;
use stepdown::trace::Record;
use stepdown_driver::Client;
use stepdown_driver::options::{ClientOptions, ReadPreference};
use stepdown_driver::sdam::TopologyType;
use stepdown_driver::transport::Transport;
use stepdown_driver::transport::tcp::TcpTransport;
use stepdown_driver::uri::ConnectionString;

use super::arguments::integer;
use super::requirements::Facts;

/// The environment variable that names a deployment to run the cases on, over TCP.
pub const VARIABLE: &str = "STEPDOWN_URI";

/// Who may do everything where access is controlled.
const USER: &str = "runner";
const PASSWORD: &str = "runs";

/// A deployment, and what drives the tasks that use it.
pub struct Deployment {
    engine: Engine,
    way: Way,
}

enum Engine {
    /// A world of virtual time; tasks end with this handle.
    World(Sim),
    Runtime(tokio::runtime::Runtime),
}

/// The way to a deployment: what tasks need to make clients of it.
#[derive(Clone)]
pub struct Way {
    uri: Arc<str>,
    transport: Transports,
}

#[derive(Clone)]
enum Transports {
    World(Sim),
    Sockets(Arc<TcpTransport>),
}

impl Deployment {
    /// Three members that have elected a primary, in a new world of virtual time. With `auth` they
    /// control access, and their clients are the one user there is, who may do everything.
    ///
    /// # Errors
    /// What making that user fails with.
    pub fn simulated(seed: u64, auth: bool) -> Result<Self, String> {
        let sim = Sim::builder()
            .seed(seed)
            .members(3)
            .auth(auth)
            .record(Record::Nothing)
            .check_invariants(false)
            .build();
        sim.elect();
        let hosts: Vec<String> =
            sim.members().iter().map(|member| member.name.to_string()).collect();
        let (hosts, set_name) = (hosts.join(","), sim.set_name());
        let mut uri = format!("mongodb://{hosts}/?replicaSet={set_name}");
        if auth {
            sim.block_on(make_user(&uri, sim.transport("operator")))
                .map_err(|error| format!("making a user: {error}"))?;
            uri = format!(
                "mongodb://{USER}:{PASSWORD}@{hosts}/?replicaSet={set_name}&authSource=admin\
                 &authMechanism=SCRAM-SHA-1"
            );
        }
        let way = Way { uri: uri.into(), transport: Transports::World(sim.clone()) };
        Ok(Deployment { engine: Engine::World(sim), way })
    }

    /// The deployment at `uri`.
    ///
    /// # Errors
    /// What making a runtime fails with.
    pub fn served(uri: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let transport = Transports::Sockets(Arc::new(TcpTransport::new()));
        let way = Way { uri: uri.into(), transport };
        Ok(Deployment { engine: Engine::Runtime(runtime), way })
    }

    /// The way there.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Runs `future` to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.engine {
            Engine::World(sim) => sim.block_on(future),
            Engine::Runtime(runtime) => runtime.block_on(future),
        }
    }

    /// What requirements can be about.
    ///
    /// # Errors
    /// What asking fails with.
    pub fn facts(&self, client: &Client) -> Result<Facts, String> {
        self.block_on(facts(client, &self.way.uri))
    }
}

impl Way {
    /// The way there of the client called `name`.
    pub fn transport(&self, name: &str) -> Arc<dyn Transport> {
        match &self.transport {
            Transports::World(sim) => sim.transport(name),
            Transports::Sockets(transport) => transport.clone(),
        }
    }

    /// The options of a client with more than the connection string says, and of one host alone if
    /// there is a `host`.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn options(&self, more: &Document, host: Option<&str>) -> Result<ClientOptions, String> {
        let uri = with_options(&self.uri, more, host)?;
        let parsed = ConnectionString::parse(&uri).map_err(|error| error.to_string())?;
        parsed.into_options().map_err(|error| error.to_string())
    }

    /// A client of the runner's own: of one host alone if there is a `host`.
    ///
    /// # Errors
    /// What making a client fails with.
    pub fn client(&self, host: Option<&str>) -> Result<Client, String> {
        let options = self.options(&Document::new(), host)?;
        Client::with_transport(options, self.transport("runner")).map_err(|error| error.to_string())
    }
}

/// Makes the user all others are, while there is none.
async fn make_user(uri: &str, transport: Arc<dyn Transport>) -> stepdown_driver::Result<()> {
    let client = Client::with_transport(uri, transport)?;
    let user = doc! {
        "createUser": USER, "pwd": PASSWORD, "roles": ["root"], "mechanisms": ["SCRAM-SHA-1"],
        "writeConcern": { "w": "majority" },
    };
    client.database("admin").run_command(user).await?;
    client.close().await;
    Ok(())
}

async fn facts(client: &Client, uri: &str) -> Result<Facts, String> {
    let admin = client.database("admin");
    let ask = async |command: Document| {
        let anybody = ReadPreference::primary_preferred();
        let reply = admin.run_command(command).selection_criteria(anybody).await;
        reply.map_err(|error| error.to_string())
    };
    let build_info = ask(doc! { "buildInfo": 1 }).await?;
    let version = build_info
        .get_array("versionArray")
        .map(|parts| parts.iter().take(3).filter_map(integer).map(i64::unsigned_abs).collect())
        .unwrap_or_default();
    let topology = match client.topology().topology_type {
        TopologyType::Sharded => "sharded",
        TopologyType::LoadBalanced => "load-balanced",
        TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => "replicaset",
        _ => "single",
    };
    let parameters = match ask(doc! { "getParameter": "*" }).await {
        Ok(reply) => reply.into_iter().collect(),
        Err(_) => BTreeMap::new(),
    };
    let parsed = ConnectionString::parse(uri).map_err(|error| error.to_string())?;
    Ok(Facts { version, topology, parameters, auth: parsed.username().is_some() })
}

/// The connection string with options added; these win over those it has.
fn with_options(uri: &str, more: &Document, host: Option<&str>) -> Result<String, String> {
    let (start, rest) = uri.split_once("://").ok_or("not a connection string")?;
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = before.split_once('/').unwrap_or((before, ""));
    let (user, hosts) = match hosts.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), hosts),
    };
    let direct = more.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("directConnection") && value.as_bool() == Some(true)
    });
    let direct = direct || host.is_some();
    let mut options: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .filter(|(name, _)| !(direct && name.eq_ignore_ascii_case("replicaSet")))
        .collect();
    for (name, value) in more {
        options.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        let values = match value {
            Bson::Array(values) => values.iter().map(text).collect(),
            value => vec![text(value)],
        };
        for value in values {
            options.push((name.clone(), encode(&value?)));
        }
    }
    if host.is_some() {
        options.retain(|(known, _)| !known.eq_ignore_ascii_case("directConnection"));
        options.push(("directConnection".to_owned(), "true".to_owned()));
    }
    let hosts = match host {
        Some(host) => host,
        None if direct => hosts.split(',').next().unwrap_or(hosts),
        None => hosts,
    };
    let options: Vec<String> =
        options.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!("{start}://{user}{hosts}/{database}?{}", options.join("&")))
}

/// The value of an option as a connection string has it.
fn text(value: &Bson) -> Result<String, String> {
    Ok(match value {
        Bson::String(text) => text.clone(),
        Bson::Boolean(flag) => flag.to_string(),
        Bson::Document(pairs) if pairs.contains_key("$$placeholder") => {
            return Err("there is nothing to replace a $$placeholder with".to_owned());
        }
        Bson::Document(pairs) => {
            let pairs: Result<Vec<String>, String> =
                pairs.iter().map(|(name, value)| Ok(format!("{name}:{}", text(value)?))).collect();
            pairs?.join(",")
        }
        number => match integer(number) {
            Some(number) => number.to_string(),
            None => return Err(format!("an option cannot be {number}")),
        },
    })
}

/// What a connection string cannot hold as it is.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:,".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Reads extended JSON as BSON.
///
/// # Errors
/// What is malformed.
pub fn bson_of(value: &Value) -> Result<Bson, String> {
    Bson::try_from(value.clone()).map_err(|error| format!("extended JSON: {error}: {value}"))
}
