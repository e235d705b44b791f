//! Read and write concerns, and the documents commands carry for them.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use stepdown_driver::options::{Acknowledgment, ReadConcern, ReadConcernLevel, WriteConcern};

use crate::connection_string::each;
use crate::discovery::TestFile;
use crate::json::{same, text};
use crate::report::Report;

/// The cases of a file of concerns and their documents.
pub fn documents(file: TestFile, report: &Report) -> Vec<Trial> {
    each(&file, report, |_, case| Ok(Box::new(move || run(&case))))
}

fn run(case: &Value) -> Result<(), String> {
    if let Some(expected) = case.get("readConcernDocument") {
        let level = case.get("readConcern").and_then(|concern| text(concern, "level"));
        let concern = level.map(|level| ReadConcern::new(ReadConcernLevel::from(level)));
        check_default(case, concern.is_none())?;
        let found = concern.map(|concern| concern.to_document()).unwrap_or_default();
        return same("readConcernDocument", expected, &json!(found));
    }
    let concern = write_concern(case.get("writeConcern").ok_or("no concern")?)
        .and_then(|concern| concern.validate().map(|()| concern).map_err(|e| e.to_string()));
    if case.get("valid").and_then(Value::as_bool) == Some(false) {
        return match concern {
            Ok(_) => Err("an error was expected".to_owned()),
            Err(_) => Ok(()),
        };
    }
    let concern = concern?;
    check_default(case, concern.is_empty())?;
    if let Some(expected) = case.get("isAcknowledged") {
        same("isAcknowledged", expected, &json!(concern.is_acknowledged()))?;
    }
    let expected = case.get("writeConcernDocument").ok_or("no document")?;
    same("writeConcernDocument", expected, &json!(concern.to_document()))
}

fn check_default(case: &Value, found: bool) -> Result<(), String> {
    match case.get("isServerDefault") {
        Some(expected) => same("isServerDefault", expected, &json!(found)),
        None => Ok(()),
    }
}

/// A write concern as the tests write it.
pub fn write_concern(value: &Value) -> Result<WriteConcern, String> {
    let mut concern = WriteConcern::default();
    for (name, value) in value.as_object().ok_or("the concern is no document")? {
        match name.as_str() {
            "w" => {
                concern.w = Some(match value.as_str() {
                    Some(name) => Acknowledgment::from(name),
                    None => {
                        let nodes = value.as_u64().and_then(|nodes| u32::try_from(nodes).ok());
                        Acknowledgment::Nodes(nodes.ok_or("w is no number from zero")?)
                    }
                });
            }
            "wtimeoutMS" => {
                let millis = value.as_u64().ok_or("wtimeoutMS is no number from zero")?;
                concern.w_timeout = Some(Duration::from_millis(millis));
            }
            "journal" => concern.journal = value.as_bool(),
            other => return Err(format!("unknown property \"{other}\"")),
        }
    }
    Ok(concern)
}
