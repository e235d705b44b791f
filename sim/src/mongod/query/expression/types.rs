//! Types and conversions.

use bson::oid::ObjectId;
use bson::{Bson, DateTime};

use crate::mongod::error::CommandError;
use crate::mongod::query::number::{as_decimal, as_exact_i64, as_f64};
use crate::mongod::query::text::double_text;
use crate::mongod::query::value::ValueRef;

use super::operators::Call;
use super::{Value, is_nullish};

/// The code of a failed conversion.
const CONVERSION_FAILURE: i32 = 241;

fn fail<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(CONVERSION_FAILURE, message))
}

pub(super) fn is_number(call: &Call<'_>) -> Result<Value, CommandError> {
    let number = call.get(0).as_ref().is_some_and(|value| ValueRef::from(value).is_number());
    Ok(Some(Bson::Boolean(number)))
}

/// `$toInt` and its kin.
pub(super) fn convert_by_name(call: &Call<'_>) -> Result<Value, CommandError> {
    if is_nullish(call.get(0)) {
        return Ok(Some(Bson::Null));
    }
    let to = match call.name {
        "$toBool" => "bool",
        "$toDate" => "date",
        "$toDecimal" => "decimal",
        "$toDouble" => "double",
        "$toInt" => "int",
        "$toLong" => "long",
        "$toObjectId" => "objectId",
        _ => "string",
    };
    convert_to(call.get(0).as_ref().unwrap_or(&Bson::Null), to).map(Some)
}

/// `$convert`.
pub(super) fn convert(arguments: &[Value]) -> Result<Value, CommandError> {
    let [input, to, on_error, on_null] = arguments else {
        unreachable!("$convert has four arguments")
    };
    if is_nullish(input) {
        return Ok(Some(on_null.clone().unwrap_or(Bson::Null)));
    }
    let name = match to {
        value if is_nullish(value) => return Ok(Some(Bson::Null)),
        Some(Bson::String(name)) => name.clone(),
        Some(value) => match as_exact_i64(value.into()) {
            Some(1) => "double".into(),
            Some(2) => "string".into(),
            Some(7) => "objectId".into(),
            Some(8) => "bool".into(),
            Some(9) => "date".into(),
            Some(16) => "int".into(),
            Some(18) => "long".into(),
            Some(19) => "decimal".into(),
            _ => {
                let text = crate::mongod::query::text::value_text(value.into());
                let message = format!(
                    "In $convert, numeric value for 'to' does not correspond to a BSON type: {text}"
                );
                return Err(CommandError::new(9, message));
            }
        },
        None => return Ok(Some(Bson::Null)),
    };
    if !["double", "string", "objectId", "bool", "date", "int", "long", "decimal"]
        .contains(&name.as_str())
    {
        return Err(CommandError::new(2, format!("Unknown type name: {name}")));
    }
    match (convert_to(input.as_ref().unwrap_or(&Bson::Null), &name), on_error) {
        (Err(_), Some(on_error)) => Ok(Some(on_error.clone())),
        (converted, _) => converted.map(Some),
    }
}

fn convert_to(value: &Bson, to: &str) -> Result<Bson, CommandError> {
    let view = ValueRef::from(value);
    let unsupported = || {
        fail(format!(
            "Unsupported conversion from {} to {to} in $convert with no onError value",
            view.type_name()
        ))
    };
    let unparsable = |text: &str, why: &str| {
        fail(format!(
            "Failed to parse {} '{text}' in $convert with no onError value: {why}",
            match to {
                "objectId" => "objectId",
                _ => "number",
            }
        ))
    };
    match to {
        "bool" => Ok(Bson::Boolean(view.is_truthy())),
        "string" => match to_text(&Some(value.clone())) {
            Some(text) => Ok(Bson::String(text)),
            None => unsupported(),
        },
        "objectId" => match value {
            Bson::ObjectId(_) => Ok(value.clone()),
            Bson::String(text) => match ObjectId::parse_str(text) {
                Ok(id) => Ok(Bson::ObjectId(id)),
                Err(_) if text.len() != 24 => unparsable(
                    text,
                    &format!(
                        "Invalid string length for parsing to OID, expected 24 but found {}",
                        text.len()
                    ),
                ),
                Err(_) => {
                    let odd = text.chars().find(|letter| !letter.is_ascii_hexdigit());
                    let why = format!(
                        "Invalid character found in hex string: {}",
                        odd.unwrap_or_default()
                    );
                    unparsable(text, &why)
                }
            },
            _ => unsupported(),
        },
        "date" => match value {
            Bson::DateTime(_) => Ok(value.clone()),
            Bson::String(text) => super::date::parse_date(text).map(Bson::DateTime),
            Bson::ObjectId(id) => Ok(Bson::DateTime(id.timestamp())),
            Bson::Timestamp(timestamp) => {
                Ok(Bson::DateTime(DateTime::from_millis(i64::from(timestamp.time) * 1_000)))
            }
            Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => match whole(view) {
                Some(millis) => Ok(Bson::DateTime(DateTime::from_millis(millis))),
                None => unsupported(),
            },
            _ => unsupported(),
        },
        "int" | "long" => {
            let integer = match value {
                Bson::Boolean(value) => Some(i64::from(*value)),
                Bson::DateTime(date) if to == "long" => Some(date.timestamp_millis()),
                Bson::String(text) => match text.parse::<i64>() {
                    Ok(integer) if !text.starts_with('+') => Some(integer),
                    _ => return unparsable(text, "Did not consume whole string."),
                },
                _ if view.is_number() => whole(view),
                _ => return unsupported(),
            };
            match (to, integer) {
                ("long", Some(integer)) => Ok(Bson::Int64(integer)),
                ("int", Some(integer)) if i32::try_from(integer).is_ok() => {
                    Ok(Bson::Int32(integer as i32))
                }
                _ => fail(format!(
                    "Conversion would overflow target type in $convert with no onError value: {}",
                    crate::mongod::query::text::value_text(view)
                )),
            }
        }
        "double" => match value {
            Bson::Boolean(value) => Ok(Bson::Double(f64::from(u8::from(*value)))),
            Bson::DateTime(date) => Ok(Bson::Double(date.timestamp_millis() as f64)),
            Bson::String(text) => match text.parse::<f64>() {
                Ok(number) => Ok(Bson::Double(number)),
                Err(_) if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                    unparsable(text, "Did not consume any digits")
                }
                Err(_) => unparsable(text, "Did not consume whole string."),
            },
            _ => match as_f64(view) {
                Some(number) => Ok(Bson::Double(number)),
                None => unsupported(),
            },
        },
        _ => match value {
            Bson::Boolean(value) => convert_to(&Bson::Int32((*value).into()), "decimal"),
            Bson::DateTime(date) => convert_to(&Bson::Int64(date.timestamp_millis()), "decimal"),
            Bson::String(text) => match text.parse() {
                Ok(decimal) => Ok(Bson::Decimal128(decimal)),
                Err(_) => unparsable(text, "Failed to parse string to decimal"),
            },
            _ => match as_decimal(view) {
                Some(decimal) => Ok(Bson::Decimal128(decimal.to_bson())),
                None => unsupported(),
            },
        },
    }
}

/// The integer part of a number that fits.
fn whole(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Double(number) => {
            (number.is_finite() && number.abs() < 9.2e18).then_some(number.trunc() as i64)
        }
        ValueRef::Decimal128(number) => {
            crate::mongod::query::decimal::Decimal::from_bson(number).to_i64()
        }
        _ => as_exact_i64(value),
    }
}

/// The string a value converts to, if it does.
pub(super) fn to_text(value: &Value) -> Option<String> {
    Some(match value.as_ref()? {
        Bson::String(text) => text.clone(),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Double(number) if number.is_nan() => "NaN".into(),
        Bson::Double(number) if number.is_infinite() => {
            if *number < 0.0 { "-Infinity" } else { "Infinity" }.into()
        }
        Bson::Double(number) => double_text(*number).trim_end_matches(".0").to_owned(),
        Bson::Decimal128(number) => number.to_string(),
        Bson::Boolean(value) => value.to_string(),
        Bson::ObjectId(id) => id.to_hex(),
        Bson::DateTime(date) => super::date::iso_text(*date),
        Bson::Symbol(text) => text.clone(),
        _ => return None,
    })
}
