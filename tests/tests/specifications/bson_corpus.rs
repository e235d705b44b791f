//! The BSON corpus, by the crate the driver uses: bytes, Extended JSON, and what is neither.

use bson::binary::Vector;
use bson::{Binary, Bson, Document, RawDocumentBuf};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::connection_string::Run;
use crate::discovery::TestFile;
use crate::json::{list, text};
use crate::report::Report;

/// Types a program does not make any more, which the corpus has beside what they stand for now.
const DEPRECATED: [&str; 3] = ["0x06", "0x0C", "0x0E"];

/// The cases of a file of the corpus.
pub fn corpus(file: TestFile, report: &Report) -> Vec<Trial> {
    let json = file.json();
    let bson_type = text(&json, "bson_type").unwrap_or_default().to_owned();
    let mut cases: Vec<(String, Run)> = Vec::new();
    for case in list(&json, "valid") {
        let (case, bson_type) = (case.clone(), bson_type.clone());
        cases.push((name("valid", &case), Box::new(move || valid(&case, &bson_type))));
    }
    for case in list(&json, "decodeErrors") {
        let case = case.clone();
        cases.push((name("decode error", &case), Box::new(move || decode_error(&case))));
    }
    for case in list(&json, "parseErrors") {
        let (case, bson_type) = (case.clone(), bson_type.clone());
        cases.push((name("parse error", &case), Box::new(move || parse_error(&case, &bson_type))));
    }
    trials(&file, report, cases)
}

/// The cases of a file of vectors.
pub fn vectors(file: TestFile, report: &Report) -> Vec<Trial> {
    let json = file.json();
    let key = text(&json, "test_key").unwrap_or_default().to_owned();
    let cases = list(&json, "tests").iter().map(|case| {
        let (owned, key) = (case.clone(), key.clone());
        let run: Run = Box::new(move || vector(&owned, &key));
        (name("vector", case), run)
    });
    trials(&file, report, cases.collect())
}

fn name(kind: &str, case: &Value) -> String {
    format!("{kind}: {}", text(case, "description").unwrap_or("without description"))
}

fn trials(file: &TestFile, report: &Report, cases: Vec<(String, Run)>) -> Vec<Trial> {
    let mut seen: Vec<String> = Vec::new();
    let mut trials = Vec::new();
    for (number, (name, run)) in cases.into_iter().enumerate() {
        let name = if seen.contains(&name) { format!("{name} #{number}") } else { name };
        seen.push(name.clone());
        trials.push(crate::case(file, &name, report, run));
    }
    trials
}

/// A document in all its encodings: each is read as the others.
fn valid(case: &Value, bson_type: &str) -> Result<(), String> {
    let canonical = bytes(case, "canonical_bson")?;
    let document = read(&canonical)?;
    if write(&document)? != canonical {
        return Err("the canonical bytes are not written as they were read".to_owned());
    }
    if let Some(json) = text(case, "canonical_extjson") {
        let expected = parse(json)?;
        let found = Bson::Document(document.clone()).into_canonical_extjson();
        if numbers(found.clone()) != numbers(expected.clone()) {
            return Err(format!("canonical Extended JSON: expected {expected}, found {found}"));
        }
        let lossy = case.get("lossy").and_then(Value::as_bool).unwrap_or(false);
        if !lossy && write(&document_of(json)?)? != canonical {
            return Err("canonical Extended JSON is not read as the canonical bytes".to_owned());
        }
    }
    if let Some(json) = text(case, "relaxed_extjson") {
        let expected = parse(json)?;
        let found = Bson::Document(document.clone()).into_relaxed_extjson();
        if found != expected {
            return Err(format!("relaxed Extended JSON: expected {expected}, found {found}"));
        }
        let again = Bson::Document(document_of(json)?).into_relaxed_extjson();
        if again != expected {
            return Err(format!("relaxed Extended JSON does not come back: {again}"));
        }
    }
    if case.get("degenerate_bson").is_some() {
        let degenerate = read(&bytes(case, "degenerate_bson")?)?;
        if write(&degenerate)? != canonical {
            return Err("the degenerate bytes are not written as the canonical ones".to_owned());
        }
    }
    if let Some(json) = text(case, "degenerate_extjson") {
        let degenerate = Bson::Document(document_of(json)?).into_canonical_extjson();
        let expected = Bson::Document(document).into_canonical_extjson();
        if degenerate != expected {
            return Err(format!(
                "degenerate Extended JSON: expected {expected}, found {degenerate}"
            ));
        }
    }
    // What deprecated values are converted to is left to each driver: here they stay what they are.
    let converted = case.get("converted_bson").is_some();
    if converted && !DEPRECATED.contains(&bson_type) && bson_type != "0x00" {
        return Err(format!("the type {bson_type} is not one of those that are converted"));
    }
    Ok(())
}

/// Bytes that are no document.
fn decode_error(case: &Value) -> Result<(), String> {
    match read(&bytes(case, "bson")?) {
        Ok(document) => Err(format!("it was read as {document}")),
        Err(_) => Ok(()),
    }
}

/// A text that is no document; in files about decimals, no decimal.
fn parse_error(case: &Value, bson_type: &str) -> Result<(), String> {
    let string = text(case, "string").ok_or("no string")?;
    if bson_type == "0x13" {
        return match string.parse::<bson::Decimal128>() {
            Ok(decimal) => Err(format!("it was read as {decimal}")),
            Err(_) => Ok(()),
        };
    }
    match document_of(string).and_then(|document| write(&document)) {
        Ok(_) => Err(format!("it was read as {}", document_of(string)?)),
        Err(_) => Ok(()),
    }
}

/// A vector and its bytes.
fn vector(case: &Value, key: &str) -> Result<(), String> {
    let expected = made_vector(case);
    let is_valid = case.get("valid").and_then(Value::as_bool).unwrap_or(false);
    if !is_valid {
        // Either the vector cannot be made, or its bytes cannot be read.
        if let Some(Ok(vector)) = &expected {
            return Err(format!("it was made as {vector:?}"));
        }
        if case.get("canonical_bson").is_some() {
            return match read_vector(&bytes(case, "canonical_bson")?, key) {
                Ok(vector) => Err(format!("it was read as {vector:?}")),
                Err(_) => Ok(()),
            };
        }
        return Ok(());
    }
    let canonical = bytes(case, "canonical_bson")?;
    let found = read_vector(&canonical, key)?;
    let expected = expected.ok_or("no vector")??;
    if found != expected {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    let document: Document =
        [(key.to_owned(), Bson::Binary(Binary::from(&expected)))].into_iter().collect();
    match write(&document)? == canonical {
        true => Ok(()),
        false => Err("it is not written as the canonical bytes".to_owned()),
    }
}

/// The vector a case describes, if it can be said in numbers.
fn made_vector(case: &Value) -> Option<Result<Vector, String>> {
    let elements = case.get("vector")?.as_array()?;
    let padding = case.get("padding").and_then(Value::as_i64).unwrap_or(0);
    let whole =
        |element: &Value| element.as_i64().ok_or_else(|| format!("{element} is no whole number"));
    let unpadded = |vector: Result<Vector, String>| match padding {
        0 => vector,
        _ => Err("only packed bits have padding".to_owned()),
    };
    Some(match text(case, "dtype_alias")? {
        "INT8" => unpadded(
            elements
                .iter()
                .map(|element| i8::try_from(whole(element)?).map_err(|e| e.to_string()))
                .collect::<Result<Vec<i8>, String>>()
                .map(Vector::Int8),
        ),
        "FLOAT32" => unpadded(
            elements
                .iter()
                .map(|element| match Bson::try_from(element.clone()) {
                    Ok(Bson::Double(number)) => Ok(number as f32),
                    Ok(Bson::Int32(number)) => Ok(number as f32),
                    other => Err(format!("{other:?} is no number")),
                })
                .collect::<Result<Vec<f32>, String>>()
                .map(Vector::Float32),
        ),
        "PACKED_BIT" => elements
            .iter()
            .map(|element| u8::try_from(whole(element)?).map_err(|e| e.to_string()))
            .collect::<Result<Vec<u8>, String>>()
            .and_then(|bytes| {
                let padding = u8::try_from(padding).map_err(|error| error.to_string())?;
                let bits = bson::binary::PackedBitVector::new(bytes, padding);
                bits.map(Vector::PackedBit).map_err(|error| error.to_string())
            }),
        other => Err(format!("the type {other} is not known")),
    })
}

/// The same value with each double written in one way: the specification leaves open which.
fn numbers(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| match value.as_str() {
                Some(number) if key == "$numberDouble" => {
                    let number = number.parse::<f64>().map(|number| number.to_bits().to_string());
                    (key, number.map_or(value, Value::String))
                }
                _ => (key, numbers(value)),
            });
            Value::Object(fields.collect())
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(numbers).collect()),
        other => other,
    }
}

fn read_vector(bytes: &[u8], key: &str) -> Result<Vector, String> {
    match read(bytes)?.get(key) {
        Some(Bson::Binary(binary)) => Vector::try_from(binary).map_err(|error| error.to_string()),
        other => Err(format!("{other:?} is no binary")),
    }
}

fn bytes(case: &Value, key: &str) -> Result<Vec<u8>, String> {
    let hex = text(case, key).ok_or_else(|| format!("no {key}"))?;
    crate::unified::hex_bytes(hex).ok_or_else(|| format!("{key} is not hexadecimal"))
}

/// Reads bytes as strictly as the crate does anywhere.
fn read(bytes: &[u8]) -> Result<Document, String> {
    let raw = RawDocumentBuf::from_bytes(bytes.to_vec()).map_err(|error| error.to_string())?;
    Document::try_from(raw).map_err(|error| error.to_string())
}

fn write(document: &Document) -> Result<Vec<u8>, String> {
    bson::serialize_to_vec(document).map_err(|error| error.to_string())
}

fn parse(json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|error| format!("{error}: {json}"))
}

fn document_of(json: &str) -> Result<Document, String> {
    match Bson::try_from(parse(json)?).map_err(|error| error.to_string())? {
        Bson::Document(document) => Ok(document),
        other => Err(format!("{other} is no document")),
    }
}
