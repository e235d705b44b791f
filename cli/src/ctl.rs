//! `stepdown ctl`: speaks to the control port of a set being served.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::serve::CONTROL_ABOVE;

/// Patience with the control port; a long `advance` takes a while.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CtlArguments {
    /// The control port: a port of 127.0.0.1, host:port, or a URL
    #[arg(long, env = "STEPDOWN_CONTROL", default_value_t = default_control())]
    control: String,
    #[command(subcommand)]
    verb: Verb,
}

fn default_control() -> String {
    (27017 + CONTROL_ABOVE).to_string()
}

const EXAMPLES: &str = "\
A member is named by its address, its index from 0, or its role: `primary`, `secondary`.
Exit code 1: refused, and stderr says why.

Examples:
  stepdown ctl members
  stepdown ctl kill primary
  stepdown ctl restart 0 --empty
  stepdown ctl partition primary 1,2     the clients stay with the larger group
  stepdown ctl partition primary,clients 1,2
  stepdown ctl heal
  stepdown ctl advance 60";

#[derive(Subcommand)]
enum Verb {
    /// List the members and their states
    Members,
    /// Kill a member (kill -9)
    Kill { member: String },
    /// Start a member again
    Restart {
        member: String,
        /// With an emptied dbpath
        #[arg(long)]
        empty: bool,
    },
    /// Shut a member down cleanly (SIGTERM)
    Shutdown { member: String },
    /// Stop a member in its tracks (SIGSTOP): it accepts connections and never answers
    Pause { member: String },
    /// Let a paused member go on (SIGCONT)
    Resume { member: String },
    /// Cut groups of members from each other: `a,b c`; `clients` may be in a group
    Partition {
        #[arg(required = true, num_args = 2.., value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// End every fault of the network
    Heal,
    /// Let time pass at once
    Advance {
        /// Virtual seconds
        seconds: f64,
    },
}

pub(crate) fn ctl(arguments: CtlArguments) -> ExitCode {
    match ask(&base_url(&arguments.control), &arguments.verb) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("stepdown ctl: {message}");
            ExitCode::FAILURE
        }
    }
}

fn base_url(control: &str) -> String {
    let control = control.trim_end_matches('/');
    if control.contains("://") {
        control.to_string()
    } else if control.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("http://127.0.0.1:{control}")
    } else {
        format!("http://{control}")
    }
}

/// The line to print, or why not.
fn ask(base: &str, verb: &Verb) -> Result<String, String> {
    let member_verb = |member: &str, verb: &str, body| {
        let path = format!("/members/{}/{verb}", member.replace('/', "%2F"));
        post(base, &path, body)
    };
    match verb {
        Verb::Members => {
            let answer = read(agent().get(format!("{base}/members")).call())?;
            return Ok(table(&answer));
        }
        Verb::Kill { member } => member_verb(member, "kill", json!({})),
        Verb::Restart { member, empty } => {
            member_verb(member, "restart", json!({ "empty": empty }))
        }
        Verb::Shutdown { member } => member_verb(member, "shutdown", json!({})),
        Verb::Pause { member } => member_verb(member, "pause", json!({})),
        Verb::Resume { member } => member_verb(member, "resume", json!({})),
        Verb::Partition { groups } => {
            let groups: Vec<Vec<&str>> =
                groups.iter().map(|group| group.split(',').collect()).collect();
            post(base, "/partition", json!({ "groups": groups }))
        }
        Verb::Heal => post(base, "/heal", json!({})),
        Verb::Advance { seconds } => post(base, "/time/advance", json!({ "seconds": seconds })),
    }
    .map(|answer| answer["message"].as_str().unwrap_or("done").to_string())
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // The control port is on this machine, whatever the environment says of proxies.
        .proxy(None)
        .build()
        .into()
}

fn post(base: &str, path: &str, body: Value) -> Result<Value, String> {
    read(agent().post(format!("{base}{path}")).send_json(body))
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, String> {
    let mut answer = answer.map_err(|error| format!("the control port: {error}"))?;
    let succeeded = answer.status().is_success();
    let body: Value =
        answer.body_mut().read_json().map_err(|error| format!("no control port: {error}"))?;
    match succeeded {
        true => Ok(body),
        false => Err(body["error"].as_str().unwrap_or("refused").to_string()),
    }
}

/// One line per member: index, name, state, and what is unusual about it.
fn table(answer: &Value) -> String {
    let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |member: &Value| member["name"].as_str().unwrap_or("?").to_string();
    let width = members.iter().map(|member| name(member).len()).max().unwrap_or(0);
    let line = |member: &Value| {
        let state = match member["alive"].as_bool() {
            Some(false) => "not running",
            _ => member["state"].as_str().unwrap_or("?"),
        };
        let paused = if member["paused"] == true { " (paused)" } else { "" };
        let writable = if member["writable"] == true { " (writable)" } else { "" };
        format!("{}  {:<width$}  {state}{paused}{writable}", member["index"], name(member))
    };
    members.iter().map(line).collect::<Vec<_>>().join("\n")
}
