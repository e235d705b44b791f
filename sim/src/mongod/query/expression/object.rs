//! Documents.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::to_raw;

use super::operators::Call;
use super::{Value, is_nullish, type_name};

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

pub(super) fn merge_objects(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut merged = Document::new();
    for value in call.spread() {
        match value {
            Some(Bson::Document(more)) => merged.extend(more),
            value if is_nullish(&value) => {}
            value => {
                let text =
                    value.as_ref().map_or_else(String::new, |value| value_text(value.into()));
                let message = format!(
                    "$mergeObjects requires object inputs, but input {text} is of type {}",
                    type_name(&value)
                );
                return fail(40400, message);
            }
        }
    }
    Ok(Some(Bson::Document(merged)))
}

pub(super) fn object_to_array(call: &Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Document(document)) => {
            let pair = |(name, value): (&String, &Bson)| {
                Bson::Document(bson::doc! { "k": name, "v": value.clone() })
            };
            Ok(Some(Bson::Array(document.iter().map(pair).collect())))
        }
        value if is_nullish(value) => Ok(Some(Bson::Null)),
        value => fail(
            40390,
            format!("$objectToArray requires a document input, found: {}", type_name(value)),
        ),
    }
}

pub(super) fn array_to_object(call: &Call<'_>) -> Result<Value, CommandError> {
    let array = match call.get(0) {
        Some(Bson::Array(array)) => array,
        value if is_nullish(value) => return Ok(Some(Bson::Null)),
        value => {
            let message =
                format!("$arrayToObject requires an array input, found: {}", type_name(value));
            return fail(40386, message);
        }
    };
    let mut object = Document::new();
    for element in array {
        let (name, value) = match element {
            Bson::Array(pair) => match pair.as_slice() {
                [Bson::String(name), value] => (name, value),
                [_, _] => {
                    return fail(
                        40395,
                        "$arrayToObject requires an array of key-value pairs, where the key must be of \
                         type string.",
                    );
                }
                pair => {
                    let message = format!(
                        "$arrayToObject requires an array of size 2 arrays,found array of size: {}",
                        pair.len()
                    );
                    return fail(40397, message);
                }
            },
            Bson::Document(pair) => match (pair.get("k"), pair.get("v"), pair.len()) {
                (Some(Bson::String(name)), Some(value), 2) => (name, value),
                (Some(_), Some(_), 2) => {
                    return fail(
                        40394,
                        "$arrayToObject requires an object with keys 'k' and 'v', where the value of 'k' \
                         must be of type string.",
                    );
                }
                _ => {
                    return fail(
                        40393,
                        "$arrayToObject requires an object with keys 'k' and 'v'. Missing either or \
                         both keys",
                    );
                }
            },
            _ => {
                let message = format!(
                    "Unrecognised input type format for $arrayToObject: {}",
                    crate::mongod::query::value::ValueRef::from(element).type_name()
                );
                return fail(40398, message);
            }
        };
        check_name(name)?;
        object.insert(name, value.clone());
    }
    Ok(Some(Bson::Document(object)))
}

pub(super) fn bson_size(call: &Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Document(document)) => {
            Ok(Some(Bson::Int32(to_raw(document).as_bytes().len() as i32)))
        }
        value if is_nullish(value) => Ok(Some(Bson::Null)),
        value => {
            fail(31393, format!("$bsonSize requires a document input, found: {}", type_name(value)))
        }
    }
}

/// A name must fit a C string.
fn check_name(name: &str) -> Result<(), CommandError> {
    if name.contains('\0') {
        return fail(4_940_400, "Key field cannot contain an embedded null byte");
    }
    Ok(())
}

fn field_name<'a>(operator: &str, value: &'a Value) -> Result<&'a str, CommandError> {
    match value {
        Some(Bson::String(name)) => check_name(name).map(|()| name.as_str()),
        value => fail(
            3_041_704,
            format!(
                "{operator} requires 'field' to evaluate to type String, but got {}",
                type_name(value)
            ),
        ),
    }
}

pub(super) fn get_field(arguments: &[Value]) -> Result<Value, CommandError> {
    let name = field_name("$getField", &arguments[0])?;
    match &arguments[1] {
        Some(Bson::Document(document)) => Ok(document.get(name).cloned()),
        Some(Bson::Null | Bson::Undefined) => Ok(Some(Bson::Null)),
        _ => Ok(None),
    }
}

pub(super) fn set_field(arguments: &[Value]) -> Result<Value, CommandError> {
    let name = field_name("$setField", &arguments[0])?;
    match &arguments[1] {
        Some(Bson::Document(document)) => {
            let mut document = document.clone();
            match &arguments[2] {
                Some(value) => drop(document.insert(name, value.clone())),
                None => drop(document.remove(name)),
            }
            Ok(Some(Bson::Document(document)))
        }
        value if is_nullish(value) => Ok(Some(Bson::Null)),
        _ => fail(4_161_105, "$setField requires 'input' to evaluate to type Object"),
    }
}

pub(super) fn unset_field(arguments: &[Value]) -> Result<Value, CommandError> {
    set_field(&[arguments[0].clone(), arguments[1].clone(), None])
}
