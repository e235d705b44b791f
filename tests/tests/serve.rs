//! A served set seen from outside, without a driver: sockets, silence, and the control port.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bson::{Document, RawArrayBuf, RawDocumentBuf, rawdoc};
use serde_json::{Value, json};
use stepdown::serve::{Narrator, ServeOptions, Server};
use stepdown_driver::wire::{FrameReader, Message};

/// Longer than any answer takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to believe that no answer comes.
const SILENCE: Duration = Duration::from_millis(300);

fn serve(options: ServeOptions) -> Server {
    Server::start(options, Narrator::silent()).expect("free ports can be served")
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a command and reads its reply.
fn ask(stream: &mut TcpStream, command: RawDocumentBuf) -> std::io::Result<Document> {
    let mut bytes = Vec::new();
    Message::new(7, 0, command).encode(&mut bytes);
    stream.write_all(&bytes)?;
    let mut frames = FrameReader::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(reply) = frames.next().expect("the server speaks the wire protocol") {
            assert_eq!(reply.response_to, 7);
            return Ok(Document::try_from(&*reply.body).expect("a reply is BSON"));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => frames.feed(&buffer[..count]),
        }
    }
}

fn hello(address: SocketAddr) -> Document {
    let mut stream = connect(address).expect("a living member listens");
    ask(&mut stream, rawdoc! { "hello": 1, "$db": "admin" }).expect("hello is answered")
}

/// One request to the control port: its status and its JSON.
fn control(server: &Server, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut stream = connect(server.control_address()).expect("the control port listens");
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("the request can be written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer can be read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status.expect("an answer has a status"), body)
}

/// The index and the address of a member in this state.
fn member_in(server: &Server, state: &str) -> (usize, SocketAddr) {
    let (_, answer) = control(server, "GET", "/members", None);
    let members = answer["members"].as_array().expect("members are listed");
    let index = members
        .iter()
        .position(|member| member["state"] == state)
        .unwrap_or_else(|| panic!("nobody is {state}: {answer}"));
    (index, server.members()[index])
}

#[test]
fn a_served_set_has_a_primary_when_it_is_ready_and_names_its_members_as_they_can_be_reached() {
    let server = serve(ServeOptions::default());
    let reply = hello(server.members()[0]);
    let hosts: Vec<String> = reply
        .get_array("hosts")
        .unwrap()
        .iter()
        .map(|host| host.as_str().unwrap().into())
        .collect();
    let addresses: Vec<String> = server.members().iter().map(ToString::to_string).collect();
    assert_eq!(hosts, addresses);
    assert_eq!(server.uri(), format!("mongodb://{}/?replicaSet=foo", addresses.join(",")));
    let (_, primary) = member_in(&server, "PRIMARY");
    assert_eq!(reply.get_str("primary").unwrap(), primary.to_string());
    assert!(hello(primary).get_bool("isWritablePrimary").unwrap());
}

#[test]
fn a_request_is_answered_at_once() {
    let server = serve(ServeOptions::default());
    let mut stream = connect(server.members()[0]).unwrap();
    let mut least = PATIENCE;
    for _ in 0..200 {
        let began = Instant::now();
        ask(&mut stream, rawdoc! { "ping": 1, "$db": "admin" }).unwrap();
        least = least.min(began.elapsed());
    }
    // The least of many: what a busy machine adds is not ours.
    assert!(least < Duration::from_millis(1), "the fastest of 200 pings took {least:?}");
}

#[test]
fn a_killed_member_refuses_connections_until_it_is_restarted() {
    let server = serve(ServeOptions::default());
    let (index, address) = member_in(&server, "SECONDARY");
    let mut open = connect(address).unwrap();
    ask(&mut open, rawdoc! { "ping": 1, "$db": "admin" }).unwrap();

    let (status, answer) = control(&server, "POST", &format!("/members/{index}/kill"), None);
    assert_eq!((status, &answer["message"]), (200, &json!(format!("{address} killed"))));
    assert_eq!(connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let broken = ask(&mut open, rawdoc! { "ping": 1, "$db": "admin" }).unwrap_err();
    assert_ne!(broken.kind(), ErrorKind::WouldBlock, "the connection is closed, not silent");

    let (status, answer) = control(&server, "POST", &format!("/members/{address}/kill"), None);
    assert_eq!(status, 409, "{answer}");
    let (status, _) =
        control(&server, "POST", &format!("/members/{index}/restart"), Some(json!({})));
    assert_eq!(status, 200);
    assert_eq!(hello(address).get_f64("ok").unwrap(), 1.0);
}

#[test]
fn a_paused_member_accepts_and_is_silent_until_it_is_resumed() {
    let server = serve(ServeOptions::default());
    let (index, address) = member_in(&server, "SECONDARY");
    control(&server, "POST", &format!("/members/{index}/pause"), None);
    let mut stream = connect(address).expect("the kernel of a paused process accepts");
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let silent = ask(&mut stream, rawdoc! { "ping": 1, "$db": "admin" }).unwrap_err();
    assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");

    control(&server, "POST", &format!("/members/{index}/resume"), None);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("what was asked meanwhile is answered");
}

#[test]
fn a_silent_member_does_not_take_in_more_than_buffers_hold() {
    let server = serve(ServeOptions::default());
    control(&server, "POST", "/members/0/pause", None);
    let mut stream = connect(server.members()[0]).unwrap();
    stream.set_write_timeout(Some(SILENCE)).unwrap();
    // The header of a large OP_MSG, and then its bytes: more than any kernel buffers.
    for field in [40 << 20, 1, 0, 2013_i32] {
        stream.write_all(&field.to_le_bytes()).unwrap();
    }
    let stuck = stream.write_all(&vec![0; 40 << 20]).unwrap_err();
    assert!(matches!(stuck.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stuck}");
}

#[test]
fn a_client_that_asks_and_does_not_read_is_disconnected() {
    let server = serve(ServeOptions::default());
    let (_, address) = member_in(&server, "PRIMARY");
    let mut stream = connect(address).unwrap();
    let mut documents = RawArrayBuf::new();
    documents.push(rawdoc! { "_id": 1, "text": "x".repeat(8 << 20) });
    let insert = rawdoc! { "insert": "large", "documents": documents, "$db": "test" };
    let reply = ask(&mut stream, insert).unwrap();
    assert_eq!(reply.get_i32("n").unwrap(), 1, "{reply}");

    let mut bytes = Vec::new();
    let asked = 30;
    for id in 0..asked {
        Message::new(id, 0, rawdoc! { "find": "large", "$db": "test" }).encode(&mut bytes);
    }
    stream.write_all(&bytes).unwrap();
    // Others are served meanwhile.
    assert_eq!(hello(address).get_f64("ok").unwrap(), 1.0);
    std::thread::sleep(SILENCE);
    let mut buffer = vec![0; 1 << 20];
    let mut read: usize = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        read += count;
    }
    assert!(read < (asked as usize) * (8 << 20), "all {read} bytes were kept for it");
}

#[test]
fn a_partitioned_primary_is_silent_and_the_others_elect_another_one() {
    let server = serve(ServeOptions { speed: "50".parse().unwrap(), ..ServeOptions::default() });
    let (old, address) = member_in(&server, "PRIMARY");
    let others: Vec<String> = (0..3).filter(|i| *i != old).map(|i| i.to_string()).collect();
    let groups = json!({ "groups": [["primary"], others] });
    let (status, answer) = control(&server, "POST", "/partition", Some(groups));
    assert_eq!(status, 200, "{answer}");

    let mut stream = connect(address).expect("a partitioned member's port accepts");
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask(&mut stream, rawdoc! { "ping": 1, "$db": "admin" }).is_err());

    control(&server, "POST", "/time/advance", Some(json!({ "seconds": 60 })));
    let (new, _) = member_in(&server, "PRIMARY");
    assert_ne!(new, old);
    let (status, _) = control(&server, "POST", "/heal", None);
    assert_eq!(status, 200);
    control(&server, "POST", "/time/advance", Some(json!({ "seconds": 60 })));
    assert!(hello(address).get_bool("secondary").unwrap());
}

#[test]
fn the_control_port_refuses_in_json() {
    let server = serve(ServeOptions::default());
    let post = |path: &str, body: Value| control(&server, "POST", path, Some(body));
    for (status, (seen, answer)) in [
        (404, post("/members/nobody/kill", json!({}))),
        (404, post("/members/0/dance", json!({}))),
        (404, control(&server, "GET", "/", None)),
        (409, post("/members/0/restart", json!({}))),
        (400, post("/partition", json!({ "groups": [["0"]] }))),
        (400, post("/partition", json!({ "groups": [["0"], ["0"]] }))),
        (400, post("/time/advance", json!({ "seconds": -1 }))),
        (400, post("/time/advance", json!({ "minutes": 1 }))),
    ] {
        assert_eq!(seen, status, "{answer}");
        assert!(answer["error"].is_string(), "{answer}");
    }
}

#[test]
fn an_uninitiated_set_listens_and_has_no_primary() {
    let server = serve(ServeOptions { uninitiated: true, ..ServeOptions::default() });
    let reply = hello(server.members()[1]);
    assert!(!reply.get_bool("isWritablePrimary").unwrap());
    assert!(reply.get_bool("isreplicaset").unwrap());
}

#[test]
fn a_stopped_server_leaves_its_ports() {
    let server = serve(ServeOptions::default());
    let members = server.members().to_vec();
    let control = server.control_address();
    server.stop();
    for address in members.into_iter().chain([control]) {
        assert_eq!(connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn bytes_that_are_no_message_close_the_connection_and_harm_nobody() {
    let server = serve(ServeOptions::default());
    let mut stream = connect(server.members()[0]).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: mongod\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    // Closed by the server, with or without a reset.
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(hello(server.members()[0]).get_f64("ok").unwrap(), 1.0);
}
