//! `$v: 2` update diffs: how an oplog entry says what changed in a document.
//!
//! A document diff has the sections `d` (removed fields), `u` (changed in place), `i` (inserted at the
//! end) and `s<field>` (a diff of a subdocument or an array); an array diff begins with `a: true` and
//! has `l` (new length), `u<index>` and `s<index>`.

use std::collections::BTreeMap;

use bson::raw::{CStr, RawArrayBuf};
use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::mongod::error::{self, CommandError};

/// The document that `diff` makes of `before`.
///
/// # Errors
/// 9 FailedToParse: not a diff, or not one of this document.
pub fn apply(before: &RawDocument, diff: &RawDocument) -> Result<RawDocumentBuf, CommandError> {
    let diff = DocumentDiff::parse(diff)?;
    let mut after = RawDocumentBuf::new();
    for element in before {
        let (key, value) = element.map_err(malformed)?;
        let name = key.as_str();
        if diff.removed.contains_key(name) || diff.inserted.iter().any(|(field, _)| *field == key) {
            continue;
        }
        match (diff.changed.get(name), diff.inner.get(name)) {
            (Some(changed), _) => after.append(key, *changed),
            (None, Some(inner)) => append_inner(&mut after, key, Some(value), inner)?,
            (None, None) => after.append(key, value),
        }
    }
    // A field changed "in place" that is not there comes at the end, like an inserted one.
    for (name, value) in &diff.changed {
        if before.get(name).map_err(malformed)?.is_none() {
            after.append(<&CStr>::try_from(*name).map_err(malformed)?, *value);
        }
    }
    for (key, value) in diff.inserted {
        after.append(key, value);
    }
    Ok(after)
}

fn append_inner(
    after: &mut RawDocumentBuf,
    key: &CStr,
    before: Option<RawBsonRef<'_>>,
    diff: &RawDocument,
) -> Result<(), CommandError> {
    match (before, is_array_diff(diff)) {
        (Some(RawBsonRef::Document(inner)), false) => after.append(key, apply(inner, diff)?),
        (Some(RawBsonRef::Array(array)), true) => after.append(key, apply_array(array, diff)?),
        // The server leaves a value of another shape as it is: a later entry will change it.
        (Some(other), _) => after.append(key, other),
        (None, _) => {}
    }
    Ok(())
}

fn is_array_diff(diff: &RawDocument) -> bool {
    diff.get_bool("a").unwrap_or(false)
}

fn apply_array(before: &RawArray, diff: &RawDocument) -> Result<RawArrayBuf, CommandError> {
    let mut length = None;
    let mut changed: BTreeMap<usize, RawBsonRef<'_>> = BTreeMap::new();
    let mut inner: BTreeMap<usize, &RawDocument> = BTreeMap::new();
    for element in diff {
        let (key, value) = element.map_err(malformed)?;
        match (key.as_str(), value) {
            ("a", _) => {}
            ("l", value) => length = Some(as_length(value)?),
            (name, value) => match (name.split_at_checked(1), value) {
                (Some(("u", index)), value) => {
                    changed.insert(as_index(index)?, value);
                }
                (Some(("s", index)), RawBsonRef::Document(diff)) => {
                    inner.insert(as_index(index)?, diff);
                }
                _ => return Err(not_a_diff(name)),
            },
        }
    }
    let mut old = Vec::new();
    for element in before {
        old.push(element.map_err(malformed)?);
    }
    let grown = changed.keys().next_back().map_or(0, |last| last + 1).max(old.len());
    let length = length.unwrap_or(grown);
    let mut after = RawArrayBuf::new();
    for index in 0..length {
        match (changed.get(&index), inner.get(&index), old.get(index)) {
            (Some(value), ..) => after.push(*value),
            (None, Some(diff), Some(RawBsonRef::Document(document))) if !is_array_diff(diff) => {
                after.push(apply(document, diff)?);
            }
            (None, Some(diff), Some(RawBsonRef::Array(array))) if is_array_diff(diff) => {
                after.push(apply_array(array, diff)?);
            }
            (None, _, Some(value)) => after.push(*value),
            (None, _, None) => after.push(RawBsonRef::Null),
        }
    }
    Ok(after)
}

#[derive(Default)]
struct DocumentDiff<'a> {
    removed: BTreeMap<&'a str, ()>,
    changed: BTreeMap<&'a str, RawBsonRef<'a>>,
    inserted: Vec<(&'a CStr, RawBsonRef<'a>)>,
    inner: BTreeMap<&'a str, &'a RawDocument>,
}

impl<'a> DocumentDiff<'a> {
    fn parse(diff: &'a RawDocument) -> Result<Self, CommandError> {
        let mut parsed = DocumentDiff::default();
        for element in diff {
            let (key, value) = element.map_err(malformed)?;
            match (key.as_str(), value) {
                ("d", RawBsonRef::Document(fields)) => {
                    for field in fields {
                        parsed.removed.insert(field.map_err(malformed)?.0.as_str(), ());
                    }
                }
                ("u", RawBsonRef::Document(fields)) => {
                    for field in fields {
                        let (name, value) = field.map_err(malformed)?;
                        parsed.changed.insert(name.as_str(), value);
                    }
                }
                ("i", RawBsonRef::Document(fields)) => {
                    for field in fields {
                        parsed.inserted.push(field.map_err(malformed)?);
                    }
                }
                (name, RawBsonRef::Document(inner)) if name.starts_with('s') => {
                    parsed.inner.insert(&name[1..], inner);
                }
                (name, _) => return Err(not_a_diff(name)),
            }
        }
        Ok(parsed)
    }
}

/// Longer than any array of a 16 MB document.
const MAX_ARRAY_LENGTH: usize = 8 << 20;

fn as_length(value: RawBsonRef<'_>) -> Result<usize, CommandError> {
    let length = match value {
        RawBsonRef::Int32(length) => usize::try_from(length).ok(),
        RawBsonRef::Int64(length) => usize::try_from(length).ok(),
        _ => None,
    };
    length.filter(|length| *length <= MAX_ARRAY_LENGTH).ok_or_else(|| not_a_diff("l"))
}

fn as_index(text: &str) -> Result<usize, CommandError> {
    let index = text.parse::<usize>().ok().filter(|index| *index < MAX_ARRAY_LENGTH);
    index.ok_or_else(|| not_a_diff(text))
}

fn not_a_diff(section: &str) -> CommandError {
    CommandError::new(error::FAILED_TO_PARSE, format!("not a section of an update diff: {section}"))
}

fn malformed(error: bson::error::Error) -> CommandError {
    CommandError::new(error::INVALID_BSON, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_diff_removes_changes_and_inserts_fields_of_a_document() {
        let before = rawdoc! { "_id": 1, "a": 1, "b": 2, "c": { "x": 1, "y": 2 } };
        let diff = rawdoc! {
            "d": { "a": false }, "u": { "b": 3 }, "i": { "n": "new" }, "sc": { "u": { "y": 5 } },
        };
        let after = rawdoc! { "_id": 1, "b": 3, "c": { "x": 1, "y": 5 }, "n": "new" };
        assert_eq!(apply(&before, &diff).unwrap(), after);
    }

    #[test]
    fn a_diff_of_an_array_truncates_grows_and_changes_elements() {
        let before = rawdoc! { "_id": 1, "a": [1, 2, { "x": 1 }], "b": [1, 2, 3] };
        let diff = rawdoc! {
            "sa": { "a": true, "u1": 7, "s2": { "u": { "x": 2 } }, "u4": 9 },
            "sb": { "a": true, "l": 1 },
        };
        let after = rawdoc! { "_id": 1, "a": [1, 7, { "x": 2 }, null, 9], "b": [1] };
        assert_eq!(apply(&before, &diff).unwrap(), after);
    }
}
