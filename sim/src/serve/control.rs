//! The control port: a small HTTP and JSON API for what a person does to a set.
//!
//! `GET /members`; `POST /members/{name}/kill`, `shutdown`, `restart` (`{"empty": true}` empties its
//! dbpath first), `pause`, `resume`; `POST /partition` (`{"groups": [["primary"], ["1", "2"]]}`);
//! `POST /heal`; `POST /time/advance` (`{"seconds": 60}`). A name is an address, an index, `primary`
//! or `secondary`. Errors are `{"error": ".."}` with 400 (cannot be understood), 404 (no such
//! member, no such path) or 409 (not possible now).

use std::sync::mpsc::Sender;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::engine::Input;
use crate::trace::MemberState;
use crate::world::Member;

/// The longest jump in time.
const ADVANCE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What the control port asks of the engine.
#[derive(Debug)]
pub(crate) enum Request {
    Members,
    Kill(String),
    Shutdown(String),
    Restart { member: String, empty: bool },
    Pause(String),
    Resume(String),
    Partition(Vec<Vec<String>>),
    Heal,
    Advance(Duration),
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Response {
    Members(Vec<Member>),
    Member { name: String, message: String },
    Done { message: String },
}

/// Why it is refused.
#[derive(Debug)]
pub(crate) struct ControlError {
    status: StatusCode,
    message: String,
}

impl ControlError {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        ControlError { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        ControlError { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        ControlError { status: StatusCode::CONFLICT, message: message.into() }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> HttpResponse {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> HttpResponse {
        let body = match self {
            Response::Members(members) => {
                let members: Vec<Value> = members.iter().enumerate().map(describe).collect();
                json!({ "members": members })
            }
            Response::Member { name, message } => json!({ "member": name, "message": message }),
            Response::Done { message } => json!({ "message": message }),
        };
        Json(body).into_response()
    }
}

fn describe((index, member): (usize, &Member)) -> Value {
    let status = member.status.as_ref();
    let state = member.state().unwrap_or(MemberState::Down);
    json!({
        "index": index,
        "name": &*member.name,
        "alive": member.alive,
        "paused": member.paused,
        "state": state.name(),
        "writable": status.is_some_and(|status| status.writable),
        "term": status.map(|status| status.term),
    })
}

type Answer = Result<Response, ControlError>;

#[derive(Clone)]
struct Engine {
    input: Sender<Input>,
}

impl Engine {
    async fn ask(&self, request: Request) -> Answer {
        let stopping = || ControlError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: "the server is stopping".into(),
        };
        let (reply, answer) = oneshot::channel();
        self.input.send(Input::Control { request, reply }).map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// The routes, talking to the engine behind `input`.
pub(crate) fn router(input: Sender<Input>) -> Router {
    Router::new()
        .route("/members", get(members))
        .route("/members/{name}/{verb}", post(member_verb))
        .route("/partition", post(partition))
        .route("/heal", post(heal))
        .route("/time/advance", post(advance))
        .fallback(async || ControlError::not_found("no such path; GET /members lists the set"))
        .with_state(Engine { input })
}

async fn members(State(engine): State<Engine>) -> Answer {
    engine.ask(Request::Members).await
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartBody {
    #[serde(default)]
    empty: bool,
}

async fn member_verb(
    State(engine): State<Engine>,
    Path((member, verb)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let request = match verb.as_str() {
        "kill" => Request::Kill(member),
        "shutdown" => Request::Shutdown(member),
        "restart" => {
            let RestartBody { empty } =
                if body.is_empty() { RestartBody::default() } else { read(&body)? };
            Request::Restart { member, empty }
        }
        "pause" => Request::Pause(member),
        "resume" => Request::Resume(member),
        _ => {
            return Err(ControlError::not_found(format!(
                "no verb `{verb}`: kill, shutdown, restart, pause, resume"
            )));
        }
    };
    engine.ask(request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionBody {
    groups: Vec<Vec<String>>,
}

async fn partition(State(engine): State<Engine>, body: Bytes) -> Answer {
    let PartitionBody { groups } = read(&body)?;
    engine.ask(Request::Partition(groups)).await
}

async fn heal(State(engine): State<Engine>) -> Answer {
    engine.ask(Request::Heal).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceBody {
    seconds: f64,
}

async fn advance(State(engine): State<Engine>, body: Bytes) -> Answer {
    let AdvanceBody { seconds } = read(&body)?;
    let duration = Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= ADVANCE_MAX)
        .ok_or_else(|| ControlError::bad_request("`seconds` is from 0 to one year"))?;
    engine.ask(Request::Advance(duration)).await
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body)
        .map_err(|error| ControlError::bad_request(format!("the body: {error}")))
}
