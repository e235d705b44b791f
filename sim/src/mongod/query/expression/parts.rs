//! Dates taken apart and put together: `$dateToParts`, `$dateFromParts`, the ISO week.

use bson::{Bson, DateTime, doc};

use crate::mongod::error::CommandError;
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::ValueRef;

use super::date::{Civil, DAY, days_from_civil, millis_of, offset_millis};
use super::{Value, is_nullish, type_name};

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn null() -> Result<Value, CommandError> {
    Ok(Some(Bson::Null))
}

/// Year, week and day of the week (1 is Monday) of ISO 8601.
pub(super) fn iso_parts(civil: Civil) -> (i64, i64, i64) {
    let days = civil.days();
    // The epoch was a Thursday.
    let day = (days + 3).rem_euclid(7) + 1;
    // A week belongs to the year of its Thursday.
    let thursday = days + 4 - day;
    let year = Civil::of(thursday * DAY).year;
    let week = (thursday - days_from_civil(year, 1, 1)) / 7 + 1;
    (year, week, day)
}

/// `$dateToParts`.
pub(super) fn date_to_parts(arguments: &[Value]) -> Result<Value, CommandError> {
    let [date, timezone, iso] = arguments else { unreachable!("three arguments") };
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let iso = match iso {
        None => false,
        value if is_nullish(value) => return null(),
        Some(Bson::Boolean(iso)) => *iso,
        value => {
            return fail(
                40521,
                format!("iso8601 must evaluate to a bool, found {}", type_name(value)),
            );
        }
    };
    if is_nullish(date) {
        return null();
    }
    let Some(millis) = date.as_ref().and_then(millis_of) else {
        return fail(16006, format!("can't convert from BSON type {} to Date", type_name(date)));
    };
    let local = Civil::of(millis.saturating_add(offset));
    let mut parts = if iso {
        let (year, week, day) = iso_parts(local);
        doc! { "isoWeekYear": year as i32, "isoWeek": week as i32, "isoDayOfWeek": day as i32 }
    } else {
        doc! { "year": local.year as i32, "month": local.month as i32, "day": local.day as i32 }
    };
    parts.insert("hour", (local.millis / 3_600_000) as i32);
    parts.insert("minute", (local.millis / 60_000 % 60) as i32);
    parts.insert("second", (local.millis / 1_000 % 60) as i32);
    parts.insert("millisecond", (local.millis % 1_000) as i32);
    Ok(Some(Bson::Document(parts)))
}

/// The names of the arguments of `$dateFromParts`, in the order the values come in.
pub(super) const FROM_PARTS: &[&str] = &[
    "year",
    "month",
    "day",
    "isoWeekYear",
    "isoWeek",
    "isoDayOfWeek",
    "hour",
    "minute",
    "second",
    "millisecond",
    "timezone",
];

/// `$dateFromParts`.
pub(super) fn date_from_parts(arguments: &[Value]) -> Result<Value, CommandError> {
    let given = |name: &str| {
        let place = FROM_PARTS.iter().position(|known| *known == name);
        &arguments[place.expect("a known argument")]
    };
    let part = |name: &str, default: i64, null_answers: &mut bool| -> Result<i64, CommandError> {
        match given(name) {
            None => Ok(default),
            value if is_nullish(value) => {
                *null_answers = true;
                Ok(default)
            }
            Some(value) => match as_exact_i64(value.into()) {
                Some(number) => Ok(number),
                None => fail(
                    40515,
                    format!(
                        "'{name}' must evaluate to an integer, found {} with value {}",
                        ValueRef::from(value).type_name(),
                        value_text(value.into())
                    ),
                ),
            },
        }
    };
    let mut nulls = false;
    let hour = part("hour", 0, &mut nulls)?;
    let minute = part("minute", 0, &mut nulls)?;
    let second = part("second", 0, &mut nulls)?;
    let millisecond = part("millisecond", 0, &mut nulls)?;
    let zone = offset_millis(given("timezone"))?;
    let in_year = |name: &str, year: i64| match (1..=9999).contains(&year) {
        true => Ok(()),
        false => fail(
            40523,
            format!("'{name}' must evaluate to an integer in the range 1 to 9999, found {year}"),
        ),
    };
    let small = |name: &str, value: i64| match (-32_768..=32_767).contains(&value) {
        true => Ok(()),
        false => fail(
            31034,
            format!(
                "'{name}' must evaluate to a value in the range [-32768, 32767]; value {value} is not in range"
            ),
        ),
    };
    let days = if given("isoWeekYear").is_some() {
        let year = part("isoWeekYear", 1970, &mut nulls)?;
        let week = part("isoWeek", 1, &mut nulls)?;
        let day = part("isoDayOfWeek", 1, &mut nulls)?;
        if nulls {
            return null();
        }
        in_year("isoWeekYear", year)?;
        small("isoWeek", week)?;
        small("isoDayOfWeek", day)?;
        // The week of January 4 is the first.
        let fourth = days_from_civil(year, 1, 4);
        let monday = fourth - (fourth + 3).rem_euclid(7);
        monday + (week - 1) * 7 + day - 1
    } else {
        let year = part("year", 1970, &mut nulls)?;
        let month = part("month", 1, &mut nulls)?;
        let day = part("day", 1, &mut nulls)?;
        if nulls {
            return null();
        }
        in_year("year", year)?;
        small("month", month)?;
        small("day", day)?;
        let months = year * 12 + month - 1;
        days_from_civil(months.div_euclid(12), months.rem_euclid(12) + 1, 1) + day - 1
    };
    for (name, value) in [("hour", hour), ("minute", minute)] {
        small(name, value)?;
    }
    let Some(offset) = zone else { return null() };
    let clock = hour
        .checked_mul(3_600_000)
        .and_then(|sum| sum.checked_add(minute.checked_mul(60_000)?))
        .and_then(|sum| sum.checked_add(second.checked_mul(1_000)?))
        .and_then(|sum| sum.checked_add(millisecond));
    match clock.and_then(|clock| days.checked_mul(DAY)?.checked_add(clock)?.checked_sub(offset)) {
        Some(millis) => Ok(Some(Bson::DateTime(DateTime::from_millis(millis)))),
        None => fail(40523, "the date does not fit"),
    }
}

/// `$dateFromString` by a format.
pub(super) fn parse_by_format(text: &str, format: &str) -> Result<i64, CommandError> {
    let refused =
        |why: &str| CommandError::new(241, format!("Error parsing date string '{text}'; {why}"));
    let mut rest = text;
    let (mut year, mut month, mut day) = (None, None, None);
    let (mut hour, mut minute, mut second, mut milli) = (0, 0, 0, 0);
    let mut offset = 0;
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            rest = rest.strip_prefix(letter).ok_or_else(|| refused("unexpected text"))?;
            continue;
        }
        let Some(kind) = letters.next() else {
            return fail(18535, "Unmatched '%' at end of format string");
        };
        let mut number = |width: usize| -> Result<i64, CommandError> {
            let digits = rest.bytes().take(width).take_while(u8::is_ascii_digit).count();
            let (digits, after) = rest.split_at(digits);
            rest = after;
            digits.parse().map_err(|_| refused("a number was expected"))
        };
        match kind {
            'Y' => year = Some(number(4)?),
            'm' => month = Some(number(2)?),
            'd' => day = Some(number(2)?),
            'H' => hour = number(2)?,
            'M' => minute = number(2)?,
            'S' => second = number(2)?,
            'L' => milli = number(3)?,
            'z' => {
                let end = rest.find(|c: char| !matches!(c, '+' | '-' | ':' | '0'..='9' | 'Z'));
                let (zone, after) = rest.split_at(end.unwrap_or(rest.len()));
                rest = after;
                offset = offset_millis(&Some(Bson::String(zone.to_owned())))?.unwrap_or(0);
            }
            '%' => rest = rest.strip_prefix('%').ok_or_else(|| refused("unexpected text"))?,
            other => {
                return fail(
                    18536,
                    format!("Invalid format character '%{other}' in format string"),
                );
            }
        }
    }
    if !rest.is_empty() {
        return Err(refused("trailing data"));
    }
    let (Some(year), Some(month), Some(day)) = (year, month, day) else {
        return Err(refused("an incomplete date"));
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return Err(refused("out of range"));
    }
    let clock = ((hour * 60 + minute) * 60 + second) * 1_000 + milli;
    Ok(days_from_civil(year, month, day) * DAY + clock - offset)
}

/// `$firstN` and its kin as expressions: `n` and `input`.
fn counted(arguments: &[Value]) -> Result<(usize, Vec<Bson>), CommandError> {
    let [count, input] = arguments else { unreachable!("two arguments") };
    let count = crate::mongod::query::aggregate::checked_count(count.clone())?;
    match input {
        Some(Bson::Array(array)) => Ok((count, array.clone())),
        _ => fail(5_788_200, "Input must be an array"),
    }
}

pub(super) fn first_n(arguments: &[Value]) -> Result<Value, CommandError> {
    let (count, mut array) = counted(arguments)?;
    array.truncate(count);
    Ok(Some(Bson::Array(array)))
}

pub(super) fn last_n(arguments: &[Value]) -> Result<Value, CommandError> {
    let (count, array) = counted(arguments)?;
    let skip = array.len().saturating_sub(count);
    Ok(Some(Bson::Array(array.into_iter().skip(skip).collect())))
}

pub(super) fn min_n(arguments: &[Value]) -> Result<Value, CommandError> {
    extremes(arguments, false)
}

pub(super) fn max_n(arguments: &[Value]) -> Result<Value, CommandError> {
    extremes(arguments, true)
}

fn extremes(arguments: &[Value], greatest: bool) -> Result<Value, CommandError> {
    let (count, mut array) = counted(arguments)?;
    array.retain(|value| !ValueRef::from(value).is_nullish());
    array.sort_by(|a, b| {
        let order = crate::mongod::query::compare::compare(a, b);
        if greatest { order.reverse() } else { order }
    });
    array.truncate(count);
    Ok(Some(Bson::Array(array)))
}

/// `$stdDevPop` and `$stdDevSamp` as expressions.
pub(super) fn deviation(call: &super::operators::Call<'_>) -> Result<Value, CommandError> {
    let mut deviation = crate::mongod::query::aggregate::Deviation::default();
    for value in call.spread().iter().flatten() {
        if let Some(number) = as_f64(value.into()) {
            deviation.add(number);
        }
    }
    Ok(Some(deviation.value(i64::from(call.name == "$stdDevSamp"))))
}

/// The trigonometric functions.
pub(super) fn trigonometry(call: &super::operators::Call<'_>) -> Result<Value, CommandError> {
    let value = match call.get(0) {
        value if is_nullish(value) => return null(),
        Some(value) if ValueRef::from(value).is_number() => value,
        value => {
            return fail(
                28765,
                format!("{} only supports numeric types, not {}", call.name, type_name(value)),
            );
        }
    };
    let number = as_f64(value.into()).unwrap_or(f64::NAN);
    let within = |low: f64, high: f64, shown: &str| match number.is_nan()
        || (low..=high).contains(&number)
    {
        true => Ok(()),
        false => fail(
            50989,
            format!(
                "cannot apply {} to {}, value must be in {shown}",
                call.name,
                bounds_text(number)
            ),
        ),
    };
    let infinite = f64::INFINITY;
    Ok(Some(Bson::Double(match call.name {
        "$sin" | "$cos" | "$tan" => {
            if number.is_infinite() {
                within(-f64::MAX, f64::MAX, "(-inf,inf)")?;
            }
            match call.name {
                "$sin" => number.sin(),
                "$cos" => number.cos(),
                _ => number.tan(),
            }
        }
        "$asin" => {
            within(-1.0, 1.0, "[-1,1]")?;
            number.asin()
        }
        "$acos" => {
            within(-1.0, 1.0, "[-1,1]")?;
            number.acos()
        }
        "$atan" => number.atan(),
        "$sinh" => number.sinh(),
        "$cosh" => number.cosh(),
        "$tanh" => number.tanh(),
        "$asinh" => number.asinh(),
        "$acosh" => {
            within(1.0, infinite, "[1,inf]")?;
            number.acosh()
        }
        "$atanh" => {
            within(-1.0, 1.0, "[-1,1]")?;
            number.atanh()
        }
        "$degreesToRadians" => number * (std::f64::consts::PI / 180.0),
        _ => number * (180.0 / std::f64::consts::PI),
    })))
}

fn bounds_text(number: f64) -> String {
    if number.is_infinite() {
        if number < 0.0 { "-inf" } else { "inf" }.to_owned()
    } else {
        format!("{number}")
    }
}

pub(super) fn atan2(call: &super::operators::Call<'_>) -> Result<Value, CommandError> {
    let (y, x) = (call.get(0), call.get(1));
    if is_nullish(y) || is_nullish(x) {
        return null();
    }
    let number = |value: &Value| value.as_ref().and_then(|value| as_f64(value.into()));
    match (number(y), number(x)) {
        (Some(y), Some(x)) => Ok(Some(Bson::Double(y.atan2(x)))),
        _ => fail(
            51044,
            format!(
                "$atan2 only supports numeric types, not {} and {}",
                type_name(y),
                type_name(x)
            ),
        ),
    }
}

/// `$binarySize`.
pub(super) fn binary_size(call: &super::operators::Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        value if is_nullish(value) => null(),
        Some(Bson::String(text)) => Ok(Some(Bson::Int32(text.len() as i32))),
        Some(Bson::Binary(binary)) => Ok(Some(Bson::Int32(binary.bytes.len() as i32))),
        value => fail(
            51276,
            format!(
                "$binarySize requires a string or BinData argument, found: {}",
                type_name(value)
            ),
        ),
    }
}
