//! Reading and writing at a concrete path: field names and array indexes only.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::path::array_index;
use crate::mongod::query::text::element_text;

/// The longest run of nulls that setting one element may make, as in the server.
const MAX_ARRAY_PADDING: usize = 1_500_000;

/// The value at `path`.
pub(super) fn get<'a>(document: &'a Document, path: &[String]) -> Option<&'a Bson> {
    let (name, rest) = path.split_first()?;
    rest.iter().try_fold(document.get(name)?, |value, name| match value {
        Bson::Document(document) => document.get(name),
        Bson::Array(array) => array.get(array_index(name)?),
        _ => None,
    })
}

/// Where a path runs against a scalar: the part that cannot be followed, and the name and value of the
/// scalar before it.
pub(super) fn blocked<'a, 'p>(
    document: &'a Document,
    path: &'p [String],
) -> Option<(&'p str, &'p str, &'a Bson)> {
    let mut value = document.get(&path[0])?;
    for (before, name) in path.iter().zip(&path[1..]) {
        value = match value {
            Bson::Document(document) => document.get(name)?,
            Bson::Array(array) => array.get(array_index(name)?)?,
            scalar => return Some((name, before, scalar)),
        };
    }
    None
}

/// Puts `value` at `path`, making the documents that are missing on the way.
pub(super) fn set(
    document: &mut Document,
    path: &[String],
    value: Bson,
) -> Result<(), CommandError> {
    let (name, rest) = path.split_first().expect("a path has a component");
    match document.get_mut(name) {
        Some(slot) => set_below(slot, name, rest, value),
        None => {
            document.insert(name, nested(rest, value));
            Ok(())
        }
    }
}

fn set_below(
    slot: &mut Bson,
    name: &str,
    path: &[String],
    value: Bson,
) -> Result<(), CommandError> {
    let Some((next, rest)) = path.split_first() else {
        *slot = value;
        return Ok(());
    };
    match slot {
        Bson::Document(document) => set(document, path, value),
        Bson::Array(array) => {
            let Some(index) = array_index(next) else {
                return Err(not_viable(next, name, slot));
            };
            if let Some(element) = array.get_mut(index) {
                return set_below(element, next, rest, value);
            }
            if index > array.len() + MAX_ARRAY_PADDING {
                return Err(CommandError::new(
                    30,
                    format!(
                        "can't backfill more than {MAX_ARRAY_PADDING} elements: asked for {index}"
                    ),
                ));
            }
            array.resize(index, Bson::Null);
            array.push(nested(rest, value));
            Ok(())
        }
        _ => Err(not_viable(next, name, slot)),
    }
}

/// The error about a field that cannot be made below a scalar (or below an array, for want of an index).
fn not_viable(field: &str, name: &str, value: &Bson) -> CommandError {
    CommandError::new(
        error::PATH_NOT_VIABLE,
        format!(
            "Cannot create field '{field}' in element {{{}}}",
            element_text(name, value.into())
        ),
    )
}

fn nested(path: &[String], value: Bson) -> Bson {
    path.iter().rev().fold(value, |value, name| {
        let mut document = Document::new();
        document.insert(name, value);
        Bson::Document(document)
    })
}

/// Removes what is at `path`; an array's element becomes null. Answers whether there was something.
pub(super) fn unset(document: &mut Document, path: &[String]) -> bool {
    let (name, rest) = path.split_first().expect("a path has a component");
    if rest.is_empty() {
        return document.remove(name).is_some();
    }
    let Some(mut slot) = document.get_mut(name) else { return false };
    let (last, way) = rest.split_last().expect("checked above");
    for name in way {
        let next = match slot {
            Bson::Document(document) => document.get_mut(name),
            Bson::Array(array) => array_index(name).and_then(|index| array.get_mut(index)),
            _ => None,
        };
        match next {
            Some(next) => slot = next,
            None => return false,
        }
    }
    match slot {
        Bson::Document(document) => document.remove(last).is_some(),
        Bson::Array(array) => match array_index(last).and_then(|index| array.get_mut(index)) {
            Some(element) => {
                *element = Bson::Null;
                true
            }
            None => false,
        },
        _ => false,
    }
}
