//! Numbers: arithmetic, rounding, and the accumulators that stand as expressions.

use bson::Bson;

use crate::mongod::error::CommandError;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::decimal::{Decimal, Rounding};
use crate::mongod::query::number::{self, OnOverflow, Sum, as_decimal, as_exact_i64, as_f64};
use crate::mongod::query::value::ValueRef;

use super::operators::Call;
use super::{Value, is_nullish, type_name};

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn null() -> Result<Value, CommandError> {
    Ok(Some(Bson::Null))
}

/// The only argument as a number; `None` if the answer is null.
fn single<'a>(call: &'a Call<'_>) -> Result<Option<ValueRef<'a>>, CommandError> {
    match call.get(0) {
        value if is_nullish(value) => Ok(None),
        Some(value) if ValueRef::from(value).is_number() => Ok(Some(value.into())),
        value => fail(
            28765,
            format!("{} only supports numeric types, not {}", call.name, type_name(value)),
        ),
    }
}

pub(super) fn abs(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(value) = single(call)? else { return null() };
    Ok(Some(match value {
        ValueRef::Int32(value) => match value.checked_abs() {
            Some(value) => Bson::Int32(value),
            None => Bson::Int64(i64::from(value).abs()),
        },
        ValueRef::Int64(value) => match value.checked_abs() {
            Some(value) => Bson::Int64(value),
            None => return fail(28680, "can't take $abs of long long min"),
        },
        ValueRef::Decimal128(value) => {
            let value = Decimal::from_bson(value);
            let value = if value.is_negative() { value.negate() } else { value };
            Bson::Decimal128(value.to_bson())
        }
        value => Bson::Double(as_f64(value).unwrap_or(f64::NAN).abs()),
    }))
}

pub(super) fn add(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut sum = Sum::default();
    let mut date = false;
    for value in call.arguments {
        let Some(value) = value.as_ref().filter(|value| !ValueRef::from(*value).is_nullish())
        else {
            return null();
        };
        match value {
            Bson::DateTime(_) if date => {
                return fail(16612, "only one date allowed in an $add expression");
            }
            Bson::DateTime(value) => {
                date = true;
                sum.add(ValueRef::Int64(value.timestamp_millis()));
            }
            value if ValueRef::from(value).is_number() => sum.add(value.into()),
            value => {
                let message = format!(
                    "$add only supports numeric or date types, not {}",
                    ValueRef::from(value).type_name()
                );
                return fail(16554, message);
            }
        }
    }
    if date { to_date(&sum.value()) } else { Ok(Some(sum.value())) }
}

fn to_date(millis: &Bson) -> Result<Value, CommandError> {
    match as_f64(millis.into()).map(f64::round) {
        Some(rounded) if rounded.abs() < 9.2e18 => {
            let millis = as_exact_i64(millis.into()).unwrap_or(rounded as i64);
            Ok(Some(Bson::DateTime(bson::DateTime::from_millis(millis))))
        }
        _ => fail(15, "date overflow in $add"),
    }
}

pub(super) fn subtract(call: &Call<'_>) -> Result<Value, CommandError> {
    let (Some(a), Some(b)) = (call.get(0), call.get(1)) else { return null() };
    if is_nullish(call.get(0)) || is_nullish(call.get(1)) {
        return null();
    }
    match (a, b) {
        (Bson::DateTime(a), Bson::DateTime(b)) => {
            Ok(Some(Bson::Int64(a.timestamp_millis().saturating_sub(b.timestamp_millis()))))
        }
        (Bson::DateTime(a), b) if ValueRef::from(b).is_number() => {
            let a = ValueRef::Int64(a.timestamp_millis());
            match number::subtract(a, b.into(), OnOverflow::Double) {
                Some(millis) => to_date(&millis),
                None => null(),
            }
        }
        (a, b) => match number::subtract(a.into(), b.into(), OnOverflow::Double) {
            Some(difference) => Ok(Some(difference)),
            None => fail(
                14,
                format!(
                    "can't $subtract {} from {}",
                    ValueRef::from(b).type_name(),
                    ValueRef::from(a).type_name()
                ),
            ),
        },
    }
}

pub(super) fn multiply(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut product = Bson::Int32(1);
    for value in call.arguments {
        let Some(value) = value.as_ref().filter(|value| !ValueRef::from(*value).is_nullish())
        else {
            return null();
        };
        match number::multiply((&product).into(), value.into(), OnOverflow::Double) {
            Some(more) => product = more,
            None => {
                let message = format!(
                    "$multiply only supports numeric types, not {}",
                    ValueRef::from(value).type_name()
                );
                return fail(14, message);
            }
        }
    }
    Ok(Some(product))
}

/// The two arguments as numbers; `None` if the answer is null.
fn pair<'a>(
    call: &'a Call<'_>,
    code: i32,
) -> Result<Option<(ValueRef<'a>, ValueRef<'a>)>, CommandError> {
    let (Some(a), Some(b)) = (call.get(0), call.get(1)) else { return Ok(None) };
    let (a, b) = (ValueRef::from(a), ValueRef::from(b));
    if a.is_nullish() || b.is_nullish() {
        return Ok(None);
    }
    if !a.is_number() || !b.is_number() {
        let message = format!(
            "{} only supports numeric types, not {} and {}",
            call.name,
            a.type_name(),
            b.type_name()
        );
        return fail(code, message);
    }
    Ok(Some((a, b)))
}

pub(super) fn divide(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some((a, b)) = pair(call, 14)? else { return null() };
    match number::divide(a, b) {
        Some(quotient) => Ok(Some(quotient)),
        None => fail(2, "can't $divide by zero"),
    }
}

pub(super) fn modulo(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some((a, b)) = pair(call, 16611)? else { return null() };
    if as_f64(b) == Some(0.0) {
        return fail(16610, "can't $mod by zero");
    }
    Ok(Some(match (a, b) {
        (ValueRef::Int32(a), ValueRef::Int32(b)) => Bson::Int32(a.wrapping_rem(b)),
        (ValueRef::Int32(_) | ValueRef::Int64(_), ValueRef::Int32(_) | ValueRef::Int64(_)) => {
            let integer = |value| as_exact_i64(value).unwrap_or_default();
            Bson::Int64(integer(a).wrapping_rem(integer(b)))
        }
        (ValueRef::Decimal128(_), _) | (_, ValueRef::Decimal128(_)) => {
            let decimal = |value| as_decimal(value).unwrap_or(Decimal::NaN);
            Bson::Decimal128(decimal(a).remainder(decimal(b)).to_bson())
        }
        (a, b) => Bson::Double(as_f64(a).unwrap_or(f64::NAN) % as_f64(b).unwrap_or(f64::NAN)),
    }))
}

pub(super) fn pow(call: &Call<'_>) -> Result<Value, CommandError> {
    for (place, what, code) in [(0, "base", 28762), (1, "exponent", 28763)] {
        let value = call.get(place);
        if !is_nullish(value)
            && !value.as_ref().is_some_and(|value| ValueRef::from(value).is_number())
            && !call.arguments.iter().any(is_nullish)
        {
            return fail(code, format!("$pow's {what} must be numeric, not {}", type_name(value)));
        }
    }
    let Some((base, exponent)) = pair(call, 28762)? else { return null() };
    let integers = |value| match value {
        ValueRef::Int32(_) | ValueRef::Int64(_) => as_exact_i64(value),
        _ => None,
    };
    if let (Some(whole), Some(power)) = (integers(base), integers(exponent)) {
        if whole == 0 && power < 0 {
            return fail(28764, "$pow cannot take a base of 0 and a negative exponent");
        }
        let result = u32::try_from(power).ok().and_then(|power| whole.checked_pow(power));
        if let Some(result) = result {
            let both = matches!((base, exponent), (ValueRef::Int32(_), ValueRef::Int32(_)));
            return Ok(Some(match i32::try_from(result) {
                Ok(small) if both => Bson::Int32(small),
                _ => Bson::Int64(result),
            }));
        }
    }
    let double = |value| as_f64(value).unwrap_or(f64::NAN);
    Ok(Some(Bson::Double(double(base).powf(double(exponent)))))
}

/// `$exp`, `$ln`, `$log10`.
pub(super) fn real(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(value) = single(call)? else { return null() };
    let number = as_f64(value).unwrap_or(f64::NAN);
    let code = match call.name {
        "$exp" => return Ok(Some(Bson::Double(number.exp()))),
        "$ln" => 28766,
        _ => 28761,
    };
    if number <= 0.0 {
        let text = crate::mongod::query::text::value_text(value);
        return fail(
            code,
            format!("{}'s argument must be a positive number, but is {text}", call.name),
        );
    }
    Ok(Some(Bson::Double(if code == 28766 { number.ln() } else { number.log10() })))
}

pub(super) fn log(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some((value, base)) = pair(call, 28756)? else { return null() };
    let (number, base_number) =
        (as_f64(value).unwrap_or(f64::NAN), as_f64(base).unwrap_or(f64::NAN));
    let text = crate::mongod::query::text::value_text;
    if number <= 0.0 {
        return fail(
            28758,
            format!("$log's argument must be a positive number, but is {}", text(value)),
        );
    }
    if base_number <= 0.0 || base_number == 1.0 {
        let message =
            format!("$log's base must be a positive number not equal to 1, but is {}", text(base));
        return fail(28759, message);
    }
    Ok(Some(Bson::Double(number.ln() / base_number.ln())))
}

pub(super) fn sqrt(call: &Call<'_>) -> Result<Value, CommandError> {
    let Some(value) = single(call)? else { return null() };
    let number = as_f64(value).unwrap_or(f64::NAN);
    if number < 0.0 {
        return fail(28714, "$sqrt's argument must be greater than or equal to 0");
    }
    Ok(Some(Bson::Double(number.sqrt())))
}

pub(super) fn ceil(call: &Call<'_>) -> Result<Value, CommandError> {
    whole(call, f64::ceil)
}

pub(super) fn floor(call: &Call<'_>) -> Result<Value, CommandError> {
    whole(call, f64::floor)
}

fn whole(call: &Call<'_>, round: fn(f64) -> f64) -> Result<Value, CommandError> {
    let Some(value) = single(call)? else { return null() };
    Ok(Some(match value {
        ValueRef::Double(value) => Bson::Double(round(value)),
        ValueRef::Decimal128(value) => {
            let way = if call.name == "$ceil" { Rounding::Up } else { Rounding::Down };
            Bson::Decimal128(Decimal::from_bson(value).round_to(0, way).to_bson())
        }
        value => value.to_bson(),
    }))
}

/// `$round` (half to even) and `$trunc`, to so many places.
pub(super) fn round(call: &Call<'_>) -> Result<Value, CommandError> {
    let places = match call.get(1) {
        None if call.arguments.len() < 2 => 0,
        value if is_nullish(value) => return null(),
        Some(places) => match as_exact_i64(places.into()) {
            Some(places @ -20..=100) => places as i32,
            Some(places) => {
                let message = format!(
                    "cannot apply {} with precision value {places} value must be in [-20, 100]",
                    call.name
                );
                return fail(51083, message);
            }
            None => {
                return fail(
                    51082,
                    format!("precision argument to  {} must be a integral value", call.name),
                );
            }
        },
        None => return null(),
    };
    let value = match call.get(0) {
        value if is_nullish(value) => return null(),
        Some(value) if ValueRef::from(value).is_number() => ValueRef::from(value),
        value => {
            let message =
                format!("{} only supports numeric types, not {}", call.name, type_name(value));
            return fail(51081, message);
        }
    };
    let even = call.name == "$round";
    Ok(Some(match value {
        ValueRef::Double(number) if number.is_finite() => {
            // By its decimal digits: multiplying by a power of ten would round a second time.
            let Some(number) = round_double(number, places, even) else { return null() };
            Bson::Double(number)
        }
        ValueRef::Int32(_) | ValueRef::Int64(_) if places < 0 => {
            let integer = i128::from(as_exact_i64(value).unwrap_or_default());
            let rounded = round_integer(integer, places.unsigned_abs(), even);
            match (value, i32::try_from(rounded), i64::try_from(rounded)) {
                (ValueRef::Int32(_), Ok(small), _) => Bson::Int32(small),
                (_, _, Ok(long)) => Bson::Int64(long),
                _ => {
                    return fail(
                        51080,
                        format!(
                            "invalid conversion from Decimal128 result in {} resulting from arguments",
                            call.name
                        ),
                    );
                }
            }
        }
        ValueRef::Decimal128(value) => {
            let way = if even { Rounding::HalfEven } else { Rounding::ToZero };
            Bson::Decimal128(Decimal::from_bson(value).round_to(places, way).to_bson())
        }
        value => value.to_bson(),
    }))
}

fn round_integer(integer: i128, places: u32, even: bool) -> i128 {
    let unit = 10_i128.pow(places);
    let (quotient, remainder) = (integer / unit, integer % unit);
    let up =
        even && (remainder.abs() * 2 > unit || remainder.abs() * 2 == unit && quotient % 2 != 0);
    (quotient + if up { integer.signum() } else { 0 }) * unit
}

fn round_double(number: f64, places: i32, even: bool) -> Option<f64> {
    if places <= 0 {
        let unit = 10_f64.powi(-places);
        let scaled = number / unit;
        return Some(if even { scaled.round_ties_even() } else { scaled.trunc() } * unit);
    }
    if even {
        return format!("{number:.*}", places as usize).parse().ok();
    }
    let text = format!("{number}");
    let end = text.find('.').map_or(text.len(), |point| point + 1 + places as usize);
    text.get(..end.min(text.len()))?.parse().ok()
}

pub(super) fn sum(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut sum = Sum::default();
    call.spread().iter().flatten().for_each(|value| sum.add(value.into()));
    Ok(Some(sum.value()))
}

pub(super) fn avg(call: &Call<'_>) -> Result<Value, CommandError> {
    let mut sum = Sum::default();
    let mut count = 0;
    for value in call.spread().iter().flatten() {
        if ValueRef::from(value).is_number() {
            sum.add(value.into());
            count += 1;
        }
    }
    Ok(Some(if count == 0 { Bson::Null } else { sum.mean(count) }))
}

/// `$max` and `$min`, which pass over null.
pub(super) fn extreme(call: &Call<'_>) -> Result<Value, CommandError> {
    let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), call.collation);
    let values =
        call.spread().into_iter().flatten().filter(|value| !ValueRef::from(value).is_nullish());
    let found = if call.name == "$max" {
        values.reduce(|best, value| if order(&value, &best).is_gt() { value } else { best })
    } else {
        values.reduce(|best, value| if order(&value, &best).is_lt() { value } else { best })
    };
    Ok(Some(found.unwrap_or(Bson::Null)))
}
