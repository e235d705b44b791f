//! Arrays.

use bson::Bson;

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::number::as_exact_i64;
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::operators::Call;
use super::{Value, is_nullish, truthy, type_name};

/// How an array is sorted: its elements themselves, or the documents in it by a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::mongod::query) struct SortBy {
    order: Order,
    collation: Collation,
}

#[derive(Clone, Debug, PartialEq)]
enum Order {
    Ascending,
    Descending,
    Pattern(SortPattern),
}

impl SortBy {
    /// Parses `1`, `-1` or a sort pattern.
    pub(in crate::mongod::query) fn parse(
        value: ValueRef<'_>,
        collation: Collation,
    ) -> Result<SortBy, CommandError> {
        let order = match value {
            ValueRef::Document(spec) if !spec.is_empty() => {
                Order::Pattern(SortPattern::parse(spec, collation)?)
            }
            value => match as_exact_i64(value) {
                Some(1) => Order::Ascending,
                Some(-1) => Order::Descending,
                _ => {
                    return Err(CommandError::new(
                        2_942_506,
                        "The $sort element value must be either 1 or -1",
                    ));
                }
            },
        };
        Ok(SortBy { order, collation })
    }

    /// Sorts stably; what is no document sorts by a pattern as an empty one.
    pub(in crate::mongod::query) fn sort(&self, array: &mut [Bson]) {
        let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), self.collation);
        match &self.order {
            Order::Ascending => array.sort_by(order),
            Order::Descending => array.sort_by(|a, b| order(b, a)),
            Order::Pattern(pattern) => {
                let empty = bson::Document::new();
                array.sort_by_cached_key(|element| match element {
                    Bson::Document(document) => pattern.key(document),
                    _ => pattern.key(DocumentRef::Decoded(&empty)),
                });
            }
        }
    }
}

fn error(code: i32, message: impl Into<String>) -> CommandError {
    CommandError::new(code, message)
}

fn null() -> Result<Value, CommandError> {
    Ok(Some(Bson::Null))
}

pub(super) fn array_elem_at(call: &Call<'_>) -> Result<Value, CommandError> {
    let (array, index) = (call.get(0), call.get(1));
    if is_nullish(array) || is_nullish(index) {
        return null();
    }
    let Some(Bson::Array(array)) = array else {
        let message =
            format!("$arrayElemAt's first argument must be an array, but is {}", type_name(array));
        return Err(error(28689, message));
    };
    let index = index.as_ref().map(ValueRef::from);
    if !index.is_some_and(ValueRef::is_number) {
        let message = format!(
            "$arrayElemAt's second argument must be a numeric value, but is {}",
            type_name(call.get(1))
        );
        return Err(error(28690, message));
    }
    let Some(index) = index.and_then(as_exact_i64) else {
        return Err(error(
            28691,
            format!(
                "$arrayElemAt's second argument must be representable as a 32-bit integer: {}",
                call.get(1).as_ref().map_or_else(String::new, |value| {
                    crate::mongod::query::text::value_text(value.into())
                })
            ),
        ));
    };
    Ok(place(array.len(), index).and_then(|place| array.get(place).cloned()))
}

/// The place of an index that counts from the end if it is negative.
fn place(length: usize, index: i64) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(index).ok()
}

fn end_element(call: &Call<'_>, index: i64) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Array(array)) => {
            Ok(place(array.len(), index).and_then(|place| array.get(place).cloned()))
        }
        value if is_nullish(value) => null(),
        value => {
            let message =
                format!("{}'s argument must be an array, but is {}", call.name, type_name(value));
            Err(error(28689, message))
        }
    }
}

pub(super) fn first(call: &Call<'_>) -> Result<Value, CommandError> {
    end_element(call, 0)
}

pub(super) fn last(call: &Call<'_>) -> Result<Value, CommandError> {
    end_element(call, -1)
}

pub(super) fn concat_arrays(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut all = Vec::new();
    for value in call.arguments {
        match value {
            Some(Bson::Array(array)) => all.extend(array.iter().cloned()),
            value if is_nullish(value) => return null(),
            value => {
                let message =
                    format!("$concatArrays only supports arrays, not {}", type_name(value));
                return Err(error(28664, message));
            }
        }
    }
    Ok(Some(Bson::Array(all)))
}

pub(super) fn is_array(call: &Call<'_>) -> Result<Value, CommandError> {
    Ok(Some(Bson::Boolean(matches!(call.get(0), Some(Bson::Array(_))))))
}

pub(super) fn is_in(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(Bson::Array(array)) = call.get(1) else {
        let message = format!(
            "$in requires an array as a second argument, found: {}",
            type_name(call.get(1))
        );
        return Err(error(40081, message));
    };
    let found = call.get(0).as_ref().is_some_and(|value| {
        array
            .iter()
            .any(|member| compare_collated(member.into(), value.into(), call.collation).is_eq())
    });
    Ok(Some(Bson::Boolean(found)))
}

/// A bound of a search: a non-negative integer.
pub(super) fn bound(call: &Call<'_>, index: usize, default: usize) -> Result<usize, CommandError> {
    let Some(value) = call.get(index) else { return Ok(default) };
    let integer = as_exact_i64(value.into());
    match integer {
        Some(integer) if integer >= 0 => Ok(integer as usize),
        Some(integer) => {
            let which = if index == 2 { "starting" } else { "ending" };
            Err(error(
                40097,
                format!("{} requires a nonnegative {which} index, found: {integer}", call.name),
            ))
        }
        None => Err(error(
            40096,
            format!(
                "{} requires an integral starting index, found a value of type: {}",
                call.name,
                type_name(call.get(index))
            ),
        )),
    }
}

pub(super) fn index_of_array(call: &Call<'_>) -> Result<Value, CommandError> {
    let array = match call.get(0) {
        Some(Bson::Array(array)) => array,
        value if is_nullish(value) => return null(),
        value => {
            let message = format!(
                "$indexOfArray requires an array as a first argument, found: {}",
                type_name(value)
            );
            return Err(error(40090, message));
        }
    };
    let start = bound(call, 2, 0)?;
    let end = bound(call, 3, array.len())?.min(array.len());
    let found = call.get(1).as_ref().and_then(|value| {
        (start..end).find(|index| {
            compare_collated((&array[*index]).into(), value.into(), call.collation).is_eq()
        })
    });
    Ok(Some(Bson::Int32(found.map_or(-1, |index| index as i32))))
}

/// The longest array `$range` makes: beyond it the server runs into its memory limit.
const MAX_RANGE: i64 = 5_000_000;

pub(super) fn range(call: &Call<'_>) -> Result<Value, CommandError> {
    let integer = |index: usize, what: &str, code: i32| match call.get(index) {
        Some(value) if ValueRef::from(value).is_number() => as_exact_i64(value.into())
            .and_then(|value| i32::try_from(value).ok())
            .map(i64::from)
            .ok_or_else(|| {
                let article = if what == "ending" { "an" } else { "a" };
                let message = format!(
                    "$range requires {article} {what} value that can be represented as a 32-bit \
                     integer, found value: {}",
                    crate::mongod::query::text::value_text(value.into())
                );
                error(code + 1, message)
            }),
        value => {
            let message = format!(
                "$range requires a numeric {what} value, found value of type: {}",
                type_name(value)
            );
            Err(error(code, message))
        }
    };
    let start = integer(0, "starting", 34443)?;
    let end = integer(1, "ending", 34445)?;
    let step = if call.arguments.len() > 2 { integer(2, "step", 34447)? } else { 1 };
    if step == 0 {
        return Err(error(34449, "$range requires a non-zero step value"));
    }
    if (end - start) / step > MAX_RANGE {
        return Err(error(146, "$range would use too much memory and cannot spill"));
    }
    let mut numbers = Vec::new();
    let mut number = start;
    while if step > 0 { number < end } else { number > end } {
        numbers.push(Bson::Int32(number as i32));
        number += step;
    }
    Ok(Some(Bson::Array(numbers)))
}

pub(super) fn reverse_array(call: &Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Array(array)) => Ok(Some(Bson::Array(array.iter().rev().cloned().collect()))),
        value if is_nullish(value) => null(),
        value => {
            let message = format!(
                "The argument to $reverseArray must be an array, but was of type: {}",
                type_name(value)
            );
            Err(error(34435, message))
        }
    }
}

pub(super) fn size(call: &Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Array(array)) => Ok(Some(Bson::Int32(array.len() as i32))),
        value => {
            let message = format!(
                "The argument to $size must be an array, but was of type: {}",
                type_name(value)
            );
            Err(error(17124, message))
        }
    }
}

pub(super) fn slice(call: &Call<'_>) -> Result<Value, CommandError> {
    if call.arguments.iter().any(is_nullish) {
        return null();
    }
    let Some(Bson::Array(array)) = call.get(0) else {
        let message = format!(
            "First argument to $slice must be an array, but is of type: {}",
            type_name(call.get(0))
        );
        return Err(error(28724, message));
    };
    let integer = |index: usize, which: &str, code: i32| {
        let value = call.get(index).as_ref().map(ValueRef::from);
        value.and_then(as_exact_i64).ok_or_else(|| {
            let message = format!(
                "{which} argument to $slice must be a numeric value that can be represented as a \
                 32-bit integer, but is of type: {}",
                type_name(call.get(index))
            );
            error(code, message)
        })
    };
    let length = array.len() as i64;
    let second = integer(1, "Second", 28725)?;
    let (from, count) = if call.arguments.len() == 2 {
        if second < 0 {
            ((length + second.max(-length)).max(0), second.saturating_neg())
        } else {
            (0, second)
        }
    } else {
        let count = integer(2, "Third", 28727)?;
        if count <= 0 {
            let message = format!("Third argument to $slice must be positive: {count}");
            return Err(error(28729, message));
        }
        (if second < 0 { (length + second.max(-length)).max(0) } else { second.min(length) }, count)
    };
    let part = array.iter().skip(from as usize).take(count as usize).cloned().collect();
    Ok(Some(Bson::Array(part)))
}

pub(super) fn zip(arguments: &[Value]) -> Result<Value, CommandError> {
    let inputs = match &arguments[0] {
        Some(Bson::Array(inputs)) => inputs,
        value if is_nullish(value) => return null(),
        value => {
            let message =
                format!("inputs must be an array of expressions, found {}", type_name(value));
            return Err(error(34461, message));
        }
    };
    let mut arrays: Vec<&[Bson]> = Vec::new();
    for input in inputs {
        match input {
            Bson::Array(array) => arrays.push(array),
            value if ValueRef::from(value).is_nullish() => return null(),
            value => {
                let message = format!(
                    "$zip found a non-array expression in input: {}",
                    crate::mongod::query::text::value_text(value.into())
                );
                return Err(error(34468, message));
            }
        }
    }
    let longest = truthy(&arguments[1]);
    let defaults = match &arguments[2] {
        Some(Bson::Array(defaults)) => defaults.as_slice(),
        _ => &[],
    };
    let lengths = arrays.iter().map(|array| array.len());
    let length = if longest { lengths.max() } else { lengths.min() }.unwrap_or(0);
    let row = |index: usize| {
        let cell = |(column, array): (usize, &&[Bson])| {
            array.get(index).or(defaults.get(column)).cloned().unwrap_or(Bson::Null)
        };
        Bson::Array(arrays.iter().enumerate().map(cell).collect())
    };
    Ok(Some(Bson::Array((0..length).map(row).collect())))
}
