//! Dates, in UTC. (Time zones other than UTC and fixed offsets need the zone database, which the server
//! has and this simulator has not.)

use bson::{Bson, DateTime};

use crate::mongod::error::CommandError;
use crate::mongod::query::number::as_exact_i64;
use crate::mongod::query::value::ValueRef;

use super::operators::Call;
use super::parts::{iso_parts, parse_by_format};
use super::{Value, is_nullish, type_name};

pub(super) const DAY: i64 = 86_400_000;

/// A point of the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    /// Milliseconds since midnight.
    pub millis: i64,
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn null() -> Result<Value, CommandError> {
    Ok(Some(Bson::Null))
}

/// Days since the epoch of a civil date: years are counted from March, so that leap days come last.
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Civil {
    pub(super) fn of(millis: i64) -> Civil {
        let days = millis.div_euclid(DAY) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Civil { year, month, day, millis: millis.rem_euclid(DAY) }
    }

    pub(super) fn days(self) -> i64 {
        days_from_civil(self.year, self.month, self.day)
    }

    fn to_millis(self) -> Option<i64> {
        self.days().checked_mul(DAY)?.checked_add(self.millis)
    }

    fn day_of_year(self) -> i64 {
        self.days() - days_from_civil(self.year, 1, 1) + 1
    }

    /// 1 is Sunday.
    fn day_of_week(self) -> i64 {
        (self.days() + 4).rem_euclid(7) + 1
    }

    /// So many months on, on the last day where there is no such day.
    fn plus_months(self, months: i64) -> Civil {
        let total = self.year * 12 + self.month - 1 + months;
        let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
        let next = if month == 12 {
            days_from_civil(year + 1, 1, 1)
        } else {
            days_from_civil(year, month + 1, 1)
        };
        let length = next - days_from_civil(year, month, 1);
        Civil { year, month, day: self.day.min(length), millis: self.millis }
    }
}

/// The milliseconds of what counts as a date: dates, timestamps, ObjectIds.
pub(super) fn millis_of(value: &Bson) -> Option<i64> {
    match value {
        Bson::DateTime(date) => Some(date.timestamp_millis()),
        Bson::Timestamp(timestamp) => Some(i64::from(timestamp.time) * 1_000),
        Bson::ObjectId(id) => Some(id.timestamp().timestamp_millis()),
        _ => None,
    }
}

/// Minutes east of UTC of a `timezone` argument.
pub(super) fn offset_millis(timezone: &Value) -> Result<Option<i64>, CommandError> {
    let text = match timezone {
        None => return Ok(Some(0)),
        value if is_nullish(value) => return Ok(None),
        Some(Bson::String(text)) => text.as_str(),
        value => {
            let message = format!("timezone must evaluate to a string, found {}", type_name(value));
            return fail(40517, message);
        }
    };
    if matches!(text, "UTC" | "GMT" | "Z" | "Etc/UTC") {
        return Ok(Some(0));
    }
    let unknown = || fail(40485, format!("unrecognized time zone identifier: \"{text}\""));
    let sign = match text.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return unknown(),
    };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<i64>().ok());
    match (digits.len(), number(digits.get(..2)), number(digits.get(2..4))) {
        (2, Some(hours), _) => Ok(Some(sign * hours * 3_600_000)),
        (4, Some(hours), Some(minutes)) => Ok(Some(sign * (hours * 60 + minutes) * 60_000)),
        _ => unknown(),
    }
}

/// `$year`, `$hour` and their kin, of a date or of `{date, timezone}`.
pub(super) fn part(call: &Call<'_>) -> Result<Value, CommandError> {
    let (date, offset) = match call.get(0) {
        Some(Bson::Document(options)) => {
            if let Some(unknown) =
                options.keys().find(|name| !matches!(name.as_str(), "date" | "timezone"))
            {
                let message = format!("unrecognized option to {}: \"{unknown}\"", call.name);
                return fail(40535, message);
            }
            let Some(offset) = offset_millis(&options.get("timezone").cloned())? else {
                return null();
            };
            (options.get("date").cloned(), offset)
        }
        value => (value.clone(), 0),
    };
    let millis = match &date {
        value if is_nullish(value) => return null(),
        Some(value) => millis_of(value),
        None => None,
    };
    let Some(millis) = millis else {
        let message = format!("can't convert from BSON type {} to Date", type_name(&date));
        return fail(16006, message);
    };
    let civil = Civil::of(millis.saturating_add(offset));
    let number = match call.name {
        "$year" => civil.year,
        "$month" => civil.month,
        "$dayOfMonth" => civil.day,
        "$dayOfYear" => civil.day_of_year(),
        "$dayOfWeek" => civil.day_of_week(),
        "$hour" => civil.millis / 3_600_000,
        "$minute" => civil.millis / 60_000 % 60,
        "$second" => civil.millis / 1_000 % 60,
        // Weeks of the year begin on Sundays; what is before the first one is week 0.
        "$week" => (civil.day_of_year() + 7 - civil.day_of_week()) / 7,
        "$isoWeek" => iso_parts(civil).1,
        "$isoDayOfWeek" => iso_parts(civil).2,
        "$isoWeekYear" => return Ok(Some(Bson::Int64(iso_parts(civil).0))),
        _ => civil.millis % 1_000,
    };
    Ok(Some(Bson::Int32(number as i32)))
}

/// `$tsSecond` and `$tsIncrement`.
pub(super) fn timestamp_part(call: &Call<'_>) -> Result<Value, CommandError> {
    match call.get(0) {
        Some(Bson::Timestamp(timestamp)) => {
            let part = if call.name == "$tsSecond" { timestamp.time } else { timestamp.increment };
            Ok(Some(Bson::Int64(part.into())))
        }
        value if is_nullish(value) => null(),
        value => {
            let code = if call.name == "$tsSecond" { 5_687_301 } else { 5_687_302 };
            let message = format!(
                " Argument to {} must be a timestamp, but is {}",
                call.name,
                type_name(value)
            );
            fail(code, message)
        }
    }
}

/// `2026-01-31T12:00:00.000Z`.
pub(super) fn iso_text(date: DateTime) -> String {
    format_date(date.timestamp_millis(), 0, "%Y-%m-%dT%H:%M:%S.%LZ").unwrap_or_default()
}

/// Reads an ISO 8601 date: a day, with or without a time, with or without an offset.
pub(super) fn parse_date(text: &str) -> Result<DateTime, CommandError> {
    let wrong = || {
        let message = format!("Error parsing date string '{text}'");
        CommandError::new(241, message)
    };
    let (day, time) =
        text.split_once(['T', ' ']).map_or((text, None), |(day, time)| (day, Some(time)));
    let mut parts = day.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (Some(Some(year @ 0..=9999)), Some(Some(month @ 1..=12)), Some(Some(day @ 1..=31))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let mut millis = days_from_civil(year, month, day) * DAY;
    if let Some(time) = time {
        let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
        let (clock, zone) = time.split_at(zone);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
        let (Some(Some(hours @ 0..=23)), Some(Some(minutes @ 0..=59))) =
            (parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let seconds =
            parts.next().unwrap_or(Some(0)).filter(|s| (0..60).contains(s)).ok_or_else(wrong)?;
        let padded = format!("{fraction:0<3}");
        let fraction =
            padded.get(..3).and_then(|part| part.parse::<i64>().ok()).ok_or_else(wrong)?;
        millis += ((hours * 60 + minutes) * 60 + seconds) * 1_000 + fraction;
        if !zone.is_empty() {
            let zone = offset_millis(&Some(Bson::String(zone.to_owned()))).map_err(|_| wrong())?;
            millis -= zone.unwrap_or(0);
        }
    }
    Ok(DateTime::from_millis(millis))
}

fn format_date(millis: i64, offset: i64, format: &str) -> Result<String, CommandError> {
    let local = Civil::of(millis.saturating_add(offset));
    let clock = local.millis;
    let minutes = offset / 60_000;
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let part = match letters.next() {
            Some('Y') => format!("{:04}", local.year),
            Some('m') => format!("{:02}", local.month),
            Some('d') => format!("{:02}", local.day),
            Some('j') => format!("{:03}", local.day_of_year()),
            Some('H') => format!("{:02}", clock / 3_600_000),
            Some('M') => format!("{:02}", clock / 60_000 % 60),
            Some('S') => format!("{:02}", clock / 1_000 % 60),
            Some('L') => format!("{:03}", clock % 1_000),
            Some('w') => local.day_of_week().to_string(),
            Some('G') => format!("{:04}", iso_parts(local).0),
            Some('V') => format!("{:02}", iso_parts(local).1),
            Some('U') => {
                format!("{:02}", (local.day_of_year() + 7 - local.day_of_week()) / 7)
            }
            Some('u') => ((local.day_of_week() + 5) % 7 + 1).to_string(),
            Some('z') => {
                let sign = if minutes < 0 { '-' } else { '+' };
                format!("{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            Some('Z') => minutes.to_string(),
            Some('%') => "%".to_owned(),
            Some(other) => {
                let message = format!("Invalid format character '%{other}' in format string");
                return fail(18536, message);
            }
            None => return fail(18535, "Unmatched '%' at end of format string"),
        };
        text.push_str(&part);
    }
    Ok(text)
}

pub(super) fn date_to_string(arguments: &[Value]) -> Result<Value, CommandError> {
    let [date, format, timezone, on_null] = arguments else { unreachable!("four arguments") };
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let format = match format {
        None if timezone.is_none() => "%Y-%m-%dT%H:%M:%S.%LZ",
        None => "%Y-%m-%dT%H:%M:%S.%L%z",
        Some(Bson::String(format)) => format,
        value if is_nullish(value) => return null(),
        value => {
            let message = format!(
                "$dateToString requires that 'format' be a string, found: {}",
                type_name(value)
            );
            return fail(18533, message);
        }
    };
    if is_nullish(date) {
        return Ok(Some(on_null.clone().unwrap_or(Bson::Null)));
    }
    match date.as_ref().and_then(millis_of) {
        Some(millis) => Ok(Some(Bson::String(format_date(millis, offset, format)?))),
        None => fail(16006, format!("can't convert from BSON type {} to Date", type_name(date))),
    }
}

pub(super) fn date_from_string(arguments: &[Value]) -> Result<Value, CommandError> {
    let [text, format, timezone, on_error, on_null] = arguments else {
        unreachable!("five arguments")
    };
    let format = match format {
        None => None,
        Some(Bson::String(format)) => Some(format),
        value if is_nullish(value) => return null(),
        value => {
            return fail(
                40684,
                format!(
                    "$dateFromString requires that 'format' be a string, found: {}",
                    type_name(value)
                ),
            );
        }
    };
    if is_nullish(text) {
        return Ok(Some(on_null.clone().unwrap_or(Bson::Null)));
    }
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let parsed = match text {
        Some(Bson::String(text)) => match format {
            Some(format) => parse_by_format(text, format).map(DateTime::from_millis),
            None => parse_date(text),
        },
        value => fail(
            241,
            format!(
                "$dateFromString requires that 'dateString' be a string, found: {} with value {}",
                type_name(value),
                value.as_ref().map_or_else(String::new, |value| {
                    crate::mongod::query::text::value_text(value.into())
                })
            ),
        ),
    };
    match (parsed, on_error) {
        (Ok(date), _) => {
            let millis = date.timestamp_millis().saturating_sub(offset);
            Ok(Some(Bson::DateTime(DateTime::from_millis(millis))))
        }
        (Err(_), Some(on_error)) => Ok(Some(on_error.clone())),
        (Err(refused), None) => Err(refused),
    }
}

/// A unit of `$dateAdd` and its kin: so many months, or so many milliseconds.
enum Unit {
    Months(i64),
    Millis(i64),
}

fn unit(value: &Value) -> Result<Unit, CommandError> {
    let Some(Bson::String(name)) = value else {
        let message = format!("unit must be a string, found: {}", type_name(value));
        return fail(5_439_013, message);
    };
    Ok(match name.as_str() {
        "year" => Unit::Months(12),
        "quarter" => Unit::Months(3),
        "month" => Unit::Months(1),
        "week" => Unit::Millis(7 * DAY),
        "day" => Unit::Millis(DAY),
        "hour" => Unit::Millis(3_600_000),
        "minute" => Unit::Millis(60_000),
        "second" => Unit::Millis(1_000),
        "millisecond" => Unit::Millis(1),
        _ => return fail(9, format!("unknown time unit value: {name}")),
    })
}

fn date_argument(operator: &str, field: &str, value: &Value) -> Result<i64, CommandError> {
    value.as_ref().and_then(millis_of).ok_or_else(|| match operator {
        "$dateDiff" | "$dateTrunc" => CommandError::new(
            if operator == "$dateDiff" { 5_166_307 } else { 5_439_012 },
            format!("{operator} requires '{field}' to be a date, but got {}", type_name(value)),
        ),
        _ => CommandError::new(
            5_166_403,
            format!("{operator} requires startDate to be convertible to a date"),
        ),
    })
}

fn shifted(operator: &str, arguments: &[Value], sign: i64) -> Result<Value, CommandError> {
    let [start, by, amount, timezone] = arguments else { unreachable!("four arguments") };
    if [start, by, amount].into_iter().any(is_nullish) {
        return null();
    }
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let start = date_argument(operator, "startDate", start)?;
    let unit = unit(by)?;
    let Some(amount) = amount.as_ref().map(ValueRef::from).and_then(as_exact_i64) else {
        let message = format!("{operator} expects integer amount of time units");
        return fail(5_166_405, message);
    };
    let overflow = || CommandError::new(5_166_406, format!("{operator} overflowed"));
    let amount = amount.checked_mul(sign).ok_or_else(overflow)?;
    let millis = match unit {
        Unit::Millis(unit) => unit.checked_mul(amount).and_then(|by| start.checked_add(by)),
        Unit::Months(unit) => {
            unit.checked_mul(amount).filter(|months| months.abs() < 12_000_000).and_then(|months| {
                let local = Civil::of(start.saturating_add(offset)).plus_months(months);
                local.to_millis()?.checked_sub(offset)
            })
        }
    };
    Ok(Some(Bson::DateTime(DateTime::from_millis(millis.ok_or_else(overflow)?))))
}

pub(super) fn date_add(arguments: &[Value]) -> Result<Value, CommandError> {
    shifted("$dateAdd", arguments, 1)
}

pub(super) fn date_subtract(arguments: &[Value]) -> Result<Value, CommandError> {
    shifted("$dateSubtract", arguments, -1)
}

/// The number of the unit a point lies in, counted from the epoch; what `$dateDiff` subtracts.
fn bin(millis: i64, unit: &Unit, week_start: i64) -> i64 {
    match unit {
        Unit::Months(months) => {
            let civil = Civil::of(millis);
            (civil.year * 12 + civil.month - 1).div_euclid(*months)
        }
        Unit::Millis(unit) if *unit == 7 * DAY => {
            // The epoch was a Thursday, day 5 of a week that starts on Sunday.
            (millis.div_euclid(DAY) + 5 - week_start).div_euclid(7)
        }
        Unit::Millis(unit) => millis.div_euclid(*unit),
    }
}

/// The day a week starts on: 1 is Sunday.
fn week_start(value: &Value) -> Result<i64, CommandError> {
    let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    match value {
        None => Ok(1),
        Some(Bson::String(name)) => {
            let short = name.to_ascii_lowercase();
            match days.iter().position(|day| short.starts_with(day)) {
                Some(place) => Ok(place as i64 + 1),
                None => fail(
                    5_439_016,
                    format!(
                        "$dateDiff parameter 'startOfWeek' value cannot be recognized as a day of a \
                         week: {name}"
                    ),
                ),
            }
        }
        value => {
            let message = format!("startOfWeek must be a string, found: {}", type_name(value));
            fail(5_439_015, message)
        }
    }
}

pub(super) fn date_diff(arguments: &[Value]) -> Result<Value, CommandError> {
    let [start, end, by, timezone, start_of_week] = arguments else {
        unreachable!("five arguments")
    };
    if [start, end, by].into_iter().any(is_nullish) {
        return null();
    }
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let (start, end) = (
        date_argument("$dateDiff", "startDate", start)?,
        date_argument("$dateDiff", "endDate", end)?,
    );
    let (unit, week) = (unit(by)?, week_start(start_of_week)?);
    let place = |millis: i64| bin(millis.saturating_add(offset), &unit, week);
    Ok(Some(Bson::Int64(place(end).saturating_sub(place(start)))))
}

/// The month-based bins count from this year, as the server's do.
const TRUNC_REFERENCE_YEAR: i64 = 2_000;

pub(super) fn date_trunc(arguments: &[Value]) -> Result<Value, CommandError> {
    let [date, by, size, timezone, start_of_week] = arguments else {
        unreachable!("five arguments")
    };
    if is_nullish(date) || is_nullish(by) {
        return null();
    }
    let Some(offset) = offset_millis(timezone)? else { return null() };
    let size = match size {
        None => 1,
        value if is_nullish(value) => return null(),
        value => match value.as_ref().map(ValueRef::from).and_then(as_exact_i64) {
            Some(size @ 1..=100_000_000_000) => size,
            Some(size) if size <= 0 => {
                return fail(
                    5_439_018,
                    format!(
                        "$dateTrunc requires 'binSize' to be greater than 0, but got value {size}"
                    ),
                );
            }
            _ => {
                return fail(
                    5_439_017,
                    "$dateTrunc requires 'binSize' to be a 64-bit integer greater than 0",
                );
            }
        },
    };
    let local = date_argument("$dateTrunc", "date", date)?.saturating_add(offset);
    let (unit, week) = (unit(by)?, week_start(start_of_week)?);
    let origin = days_from_civil(TRUNC_REFERENCE_YEAR, 1, 1);
    let start = match unit {
        Unit::Months(months) => {
            let civil = Civil::of(local);
            let width = months * size;
            let place = (civil.year - TRUNC_REFERENCE_YEAR) * 12 + civil.month - 1;
            let place = place.div_euclid(width) * width + TRUNC_REFERENCE_YEAR * 12;
            days_from_civil(place.div_euclid(12), place.rem_euclid(12) + 1, 1).checked_mul(DAY)
        }
        Unit::Millis(unit) => {
            // Weeks count from the first such day on or after the reference date, a Saturday.
            let days = if unit == 7 * DAY { origin + (week - 7).rem_euclid(7) } else { origin };
            let (reference, width) = (days * DAY, unit.saturating_mul(size));
            local.checked_sub(reference).and_then(|since| {
                since.div_euclid(width).checked_mul(width)?.checked_add(reference)
            })
        }
    };
    match start.and_then(|start| start.checked_sub(offset)) {
        Some(start) => Ok(Some(Bson::DateTime(DateTime::from_millis(start)))),
        None => fail(5_439_020, "$dateTrunc: the result does not fit into a date"),
    }
}
