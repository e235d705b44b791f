use bson::{RawDocumentBuf, doc};

use super::*;

fn raw(document: bson::Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).unwrap()
}

fn refused(code: i32, message: &str) -> Error {
    Error::from_command_reply(&raw(doc! { "ok": 0, "code": code, "errmsg": message })).unwrap()
}

#[test]
fn errors_are_small_and_can_be_sent_to_other_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Error>();
    assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
}

#[test]
fn the_auto_reconnect_family_is_what_a_failover_throws() {
    let address = ServerAddress::new("a", 27017);
    let family = [
        Error::from(io::Error::from(io::ErrorKind::ConnectionReset)),
        Error::from(io::Error::from(io::ErrorKind::TimedOut)),
        refused(10107, "not primary"),
        refused(189, "stepped down"),
        refused(91, "shutting down"),
        Error::pool_cleared(&address, None),
        Error::server_selection("no primary"),
    ];
    for error in family {
        assert!(error.is_auto_reconnect(), "{error}");
        assert!(error.is_retryable_read() || error.is_server_selection(), "{error}");
    }
    for error in [refused(11000, "dup"), refused(50, "time"), Error::invalid_argument("no")] {
        assert!(!error.is_auto_reconnect(), "{error}");
    }
}

#[test]
fn the_code_decides_and_the_message_only_without_a_code() {
    assert!(!refused(1, "not master").is_state_change());
    assert!(refused(0, "not master").is_not_primary());
    assert!(refused(0, "not master or secondary").is_node_recovering());
    assert!(refused(0, "node is recovering").is_node_recovering());
    assert!(refused(13435, "anything").is_not_primary());
    assert!(refused(11600, "anything").is_shutting_down());
}

#[test]
fn write_errors_never_tell_of_a_state_change_but_write_concern_errors_do() {
    let reply =
        raw(doc! { "ok": 1, "writeErrors": [{ "index": 0, "code": 10107, "errmsg": "x" }] });
    assert!(Error::from_reply_for_sdam(&reply).is_none());
    let errors = IndexedWriteError::all_from_reply(&reply, 1000);
    assert_eq!((errors.len(), errors[0].index, errors[0].code), (1, 1000, 10107));
    let error = Error::new(ErrorKind::InsertMany(InsertManyError {
        write_errors: errors,
        ..InsertManyError::default()
    }));
    assert!(!error.is_state_change());

    let reply = raw(doc! {
        "ok": 1,
        "writeConcernError": { "code": 91, "codeName": "ShutdownInProgress", "errmsg": "bye",
            "errorLabels": ["RetryableWriteError"] },
    });
    let error = Error::from_reply_for_sdam(&reply).unwrap();
    assert!(error.is_shutting_down() && error.may_have_been_applied());
    assert!(error.contains_label("RetryableWriteError") && error.is_retryable());
}

#[test]
fn duplicate_keys_are_found_in_single_and_in_many_writes() {
    let single = ErrorKind::Write(WriteFailure::WriteError(WriteError::new(11000, "dup")));
    assert!(Error::new(single).is_duplicate_key());
    let second = IndexedWriteError::new(1, WriteError::new(11000, "dup"));
    let first = IndexedWriteError::new(0, WriteError::new(121, "invalid"));
    let many = InsertManyError { write_errors: vec![first, second], ..Default::default() };
    let error = Error::new(ErrorKind::InsertMany(many));
    assert!(error.is_duplicate_key());
    assert_eq!(error.code(), Some(121));
}

#[test]
fn an_operation_that_never_left_the_client_was_certainly_not_applied() {
    assert!(!Error::server_selection("none").may_have_been_applied());
    assert!(!Error::pool_cleared(&ServerAddress::default(), None).may_have_been_applied());
    let lost = Error::from(io::Error::from(io::ErrorKind::UnexpectedEof));
    assert!(lost.may_have_been_applied());
    assert!(!lost.clone().with_label(labels::NO_WRITES_PERFORMED).may_have_been_applied());
    // The last try found no server, but the first may have been applied.
    let first = Attempt::new(None, Phase::Exchange, Instant::ZERO, Instant::ZERO, lost);
    assert!(Error::server_selection("none").with_attempts(vec![first]).may_have_been_applied());
}

#[test]
fn an_error_prints_code_server_and_labels() {
    let error = refused(10107, "not primary")
        .at(ServerAddress::new("B", 27018))
        .with_label(labels::RETRYABLE_WRITE_ERROR);
    assert_eq!(
        error.to_string(),
        "command failed: code 10107: not primary (server b:27018) [RetryableWriteError]"
    );
}

#[test]
fn a_reply_without_ok_is_an_invalid_response() {
    let error = Error::from_command_reply(&raw(doc! {})).unwrap();
    assert!(matches!(*error.kind, ErrorKind::InvalidResponse { .. }));
}
