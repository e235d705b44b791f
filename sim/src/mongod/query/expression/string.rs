//! Strings.

use bson::{Bson, doc};

use crate::mongod::error::CommandError;
use crate::mongod::query::number::as_exact_i64;
use crate::mongod::query::regex::Regex;
use crate::mongod::query::value::ValueRef;

use super::operators::Call;
use super::{Value, array, is_nullish, type_name};

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn null() -> Result<Value, CommandError> {
    Ok(Some(Bson::Null))
}

fn text(text: impl Into<String>) -> Result<Value, CommandError> {
    Ok(Some(Bson::String(text.into())))
}

pub(super) fn concat(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut all = String::new();
    for value in call.arguments {
        match value {
            Some(Bson::String(part)) => all.push_str(part),
            value if is_nullish(value) => return null(),
            value => {
                let message = format!("$concat only supports strings, not {}", type_name(value));
                return fail(16702, message);
            }
        }
    }
    text(all)
}

/// What the server makes a string of where it wants one: numbers, dates; null is empty.
fn coerced(call: &Call<'_>, index: usize) -> Result<String, CommandError> {
    match call.get(index) {
        value if is_nullish(value) => Ok(String::new()),
        value => match super::types::to_text(value) {
            Some(text) => Ok(text),
            None => {
                fail(16007, format!("can't convert from BSON type {} to String", type_name(value)))
            }
        },
    }
}

pub(super) fn change_case(call: &Call<'_>) -> Result<Value, CommandError> {
    // ASCII only, as in the server.
    let given = coerced(call, 0)?;
    text(if call.name == "$toLower" {
        given.to_ascii_lowercase()
    } else {
        given.to_ascii_uppercase()
    })
}

pub(super) fn strcasecmp(call: &Call<'_>) -> Result<Value, CommandError> {
    let (a, b) = (coerced(call, 0)?.to_ascii_uppercase(), coerced(call, 1)?.to_ascii_uppercase());
    Ok(Some(Bson::Int32(a.cmp(&b) as i32)))
}

pub(super) fn length(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(Bson::String(given)) = call.get(0) else {
        let code = if call.name == "$strLenCP" { 34471 } else { 34473 };
        let message =
            format!("{} requires a string argument, found: {}", call.name, type_name(call.get(0)));
        return fail(code, message);
    };
    let length = if call.name == "$strLenCP" { given.chars().count() } else { given.len() };
    Ok(Some(Bson::Int32(length as i32)))
}

pub(super) fn split(call: &Call<'_>) -> Result<Value, CommandError> {
    match (call.get(0), call.get(1)) {
        (a, b) if is_nullish(a) || is_nullish(b) => null(),
        (Some(Bson::String(_)), Some(Bson::String(by))) if by.is_empty() => {
            fail(40087, "$split requires a non-empty separator")
        }
        (Some(Bson::String(given)), Some(Bson::String(by))) => {
            Ok(Some(Bson::Array(given.split(by.as_str()).map(Bson::from).collect())))
        }
        (Some(Bson::String(_)), b) => fail(
            40086,
            format!(
                "$split requires an expression that evaluates to a string as a second argument, found: {}",
                type_name(b)
            ),
        ),
        (a, _) => fail(
            40085,
            format!(
                "$split requires an expression that evaluates to a string as a first argument, found: {}",
                type_name(a)
            ),
        ),
    }
}

/// `$indexOfBytes` and `$indexOfCP`.
pub(super) fn index_of(call: &Call<'_>) -> Result<Value, CommandError> {
    let given = match call.get(0) {
        Some(Bson::String(given)) => given,
        value if is_nullish(value) => return null(),
        value => {
            let message = format!(
                "{} requires a string as the first argument, found: {}",
                call.name,
                type_name(value)
            );
            return fail(40091, message);
        }
    };
    let Some(Bson::String(wanted)) = call.get(1) else {
        let message = format!(
            "{} requires a string as the second argument, found: {}",
            call.name,
            type_name(call.get(1))
        );
        return fail(40092, message);
    };
    let start = array::bound(call, 2, 0)?;
    let end = array::bound(call, 3, usize::MAX)?;
    let points = call.name == "$indexOfCP";
    let found = given
        .match_indices(wanted.as_str())
        .map(|(at, _)| (at, if points { given[..at].chars().count() } else { at }))
        .find(|(at, place)| {
            let last =
                if points { given[..at + wanted.len()].chars().count() } else { at + wanted.len() };
            *place >= start && last <= end
        });
    let found = if end < start { None } else { found };
    Ok(Some(Bson::Int32(found.map_or(-1, |(_, place)| place as i32))))
}

fn place(call: &Call<'_>, index: usize, what: &str, code: i32) -> Result<i64, CommandError> {
    call.get(index).as_ref().map(ValueRef::from).and_then(as_exact_i64).ok_or_else(|| {
        let message = format!(
            "{}:  {what} must be a numeric type (is BSON type {})",
            call.name,
            type_name(call.get(index))
        );
        CommandError::new(code, message)
    })
}

/// `$substrBytes`, also as `$substr`.
pub(super) fn substr(call: &Call<'_>) -> Result<Value, CommandError> {
    let given = coerced(call, 0)?;
    let start = place(call, 1, "starting index", 16034)?;
    let length = place(call, 2, "length", 16035)?;
    if start < 0 {
        return fail(
            50752,
            format!("{}: starting index must be non-negative (got: {start})", call.name),
        );
    }
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(given.len());
    let end = match usize::try_from(length) {
        Ok(length) => start.saturating_add(length).min(given.len()),
        Err(_) => given.len(),
    };
    if !given.is_char_boundary(start) {
        let message = "Invalid range, starting index is a UTF-8 continuation byte.";
        return fail(28656, format!("{}:  {message}", call.name));
    }
    if !given.is_char_boundary(end) {
        let message = "Invalid range, ending index is in the middle of a UTF-8 character.";
        return fail(28657, format!("{}:  {message}", call.name));
    }
    text(&given[start..end])
}

pub(super) fn substr_cp(call: &Call<'_>) -> Result<Value, CommandError> {
    let given = coerced(call, 0)?;
    let start = place(call, 1, "starting index", 34450)?;
    let length = place(call, 2, "length", 34452)?;
    let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(length)) else {
        return match start < 0 {
            true => fail(34455, "$substrCP: the starting index must be nonnegative integer."),
            false => fail(34454, "$substrCP: length must be a nonnegative integer."),
        };
    };
    text(given.chars().skip(start).take(length).collect::<String>())
}

/// The characters `$trim` takes off when it is not told.
const WHITESPACE: [char; 20] = [
    '\0', ' ', '\t', '\n', '\u{b}', '\u{c}', '\r', '\u{a0}', '\u{1680}', '\u{2000}', '\u{2001}',
    '\u{2002}', '\u{2003}', '\u{2004}', '\u{2005}', '\u{2006}', '\u{2007}', '\u{2008}', '\u{2009}',
    '\u{200a}',
];

fn trimmed(
    arguments: &[Value],
    trim: impl Fn(&str, &[char]) -> String,
) -> Result<Value, CommandError> {
    let given = match &arguments[0] {
        Some(Bson::String(given)) => given,
        value if is_nullish(value) => return null(),
        value => {
            let message = format!(
                "$trim requires its input to be a string, got {} (of type {}) instead.",
                value.as_ref().map_or_else(String::new, |value| {
                    crate::mongod::query::text::value_text(value.into())
                }),
                type_name(value)
            );
            return fail(50699, message);
        }
    };
    match &arguments[1] {
        None => text(trim(given, &WHITESPACE)),
        Some(Bson::String(chars)) => text(trim(given, &chars.chars().collect::<Vec<char>>())),
        value if is_nullish(value) => null(),
        value => {
            fail(50700, format!(" $trim requires 'chars' to be a string, got {}", type_name(value)))
        }
    }
}

pub(super) fn trim(arguments: &[Value]) -> Result<Value, CommandError> {
    trimmed(arguments, |given, chars| given.trim_matches(chars).to_owned())
}

pub(super) fn ltrim(arguments: &[Value]) -> Result<Value, CommandError> {
    trimmed(arguments, |given, chars| given.trim_start_matches(chars).to_owned())
}

pub(super) fn rtrim(arguments: &[Value]) -> Result<Value, CommandError> {
    trimmed(arguments, |given, chars| given.trim_end_matches(chars).to_owned())
}

fn replaced(
    name: &str,
    arguments: &[Value],
    replace: impl Fn(&str, &str, &str) -> String,
) -> Result<Value, CommandError> {
    let mut parts: [&str; 3] = [""; 3];
    let mut missing = false;
    for ((part, value), (what, code)) in parts.iter_mut().zip(arguments).zip([
        ("input", 51746),
        ("find", 51745),
        ("replacement", 51744),
    ]) {
        match value {
            Some(Bson::String(text)) => *part = text,
            value if is_nullish(value) => missing = true,
            value => {
                let message = format!(
                    "{name} requires that '{what}' be a string, found: {}",
                    value.as_ref().map_or_else(String::new, |value| {
                        crate::mongod::query::text::value_text(value.into())
                    })
                );
                return fail(code, message);
            }
        }
    }
    if missing { null() } else { text(replace(parts[0], parts[1], parts[2])) }
}

pub(super) fn replace_one(arguments: &[Value]) -> Result<Value, CommandError> {
    replaced("$replaceOne", arguments, |input, find, by| input.replacen(find, by, 1))
}

pub(super) fn replace_all(arguments: &[Value]) -> Result<Value, CommandError> {
    replaced("$replaceAll", arguments, |input, find, by| input.replace(find, by))
}

/// The regular expression and the string of `$regexMatch` and its kin; `None` if one is null.
fn regex(name: &str, arguments: &[Value]) -> Result<Option<(Regex, String)>, CommandError> {
    let options = match &arguments[2] {
        Some(Bson::String(options)) => Some(options.as_str()),
        value if is_nullish(value) => None,
        _ => return fail(51106, format!("{name} needs 'options' to be of type string")),
    };
    let regex = match &arguments[1] {
        value if is_nullish(value) => return Ok(None),
        Some(Bson::String(pattern)) => Regex::new(pattern, options.unwrap_or_default())?,
        Some(Bson::RegularExpression(regex)) => {
            let own = regex.options.as_str();
            if options.is_some() && !own.is_empty() {
                let message = format!(
                    "{name}: found regex option(s) specified in both 'regex' and 'option' fields"
                );
                return fail(51107, message);
            }
            Regex::new(regex.pattern.as_str(), options.unwrap_or(own))?
        }
        _ => return fail(51105, format!("{name} needs 'regex' to be of type string or regex")),
    };
    match &arguments[0] {
        Some(Bson::String(input)) => Ok(Some((regex, input.clone()))),
        value if is_nullish(value) => Ok(None),
        _ => fail(51104, format!("{name} needs 'input' to be of type string")),
    }
}

/// `{match, idx, captures}` of the first match from byte `start`, and where to go on.
fn find_match(regex: &Regex, input: &str, start: usize) -> Option<(Bson, usize)> {
    let groups = regex.captures_at(input, start)?;
    let (from, to) = groups.first().copied().flatten()?;
    let capture = |group: &Option<(usize, usize)>| {
        group.map_or(Bson::Null, |(from, to)| Bson::String(input[from..to].to_owned()))
    };
    let captures: Vec<Bson> = groups[1..].iter().map(capture).collect();
    let place = input[..from].chars().count() as i32;
    let found = doc! { "match": &input[from..to], "idx": place, "captures": captures };
    // An empty match must not be found again.
    let step = input[to..].chars().next().map_or(1, char::len_utf8);
    Some((Bson::Document(found), if from == to { to + step } else { to }))
}

pub(super) fn regex_match(arguments: &[Value]) -> Result<Value, CommandError> {
    let found =
        regex("$regexMatch", arguments)?.is_some_and(|(regex, input)| regex.is_match(&input));
    Ok(Some(Bson::Boolean(found)))
}

pub(super) fn regex_find(arguments: &[Value]) -> Result<Value, CommandError> {
    let found =
        regex("$regexFind", arguments)?.and_then(|(regex, input)| find_match(&regex, &input, 0));
    Ok(Some(found.map_or(Bson::Null, |(found, _)| found)))
}

pub(super) fn regex_find_all(arguments: &[Value]) -> Result<Value, CommandError> {
    let mut all = Vec::new();
    if let Some((regex, input)) = regex("$regexFindAll", arguments)? {
        let mut start = 0;
        while start <= input.len()
            && let Some((found, next)) = find_match(&regex, &input, start)
        {
            all.push(found);
            start = next;
        }
    }
    Ok(Some(Bson::Array(all)))
}
