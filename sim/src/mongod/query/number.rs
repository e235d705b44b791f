//! Numbers as the server sees them: four types, one order, exact.

use std::cmp::Ordering;

use bson::Bson;

use super::decimal::Decimal;
use super::value::ValueRef;

/// A number written out exactly: what any two of the four types can be compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exact {
    /// Equal to itself, below every other number.
    NaN,
    NegativeInfinity,
    /// `-0.d1d2d3... * 10^point`.
    Negative {
        point: i32,
        digits: Vec<u8>,
    },
    Zero,
    /// `0.d1d2d3... * 10^point`, with neither leading nor trailing zeros.
    Positive {
        point: i32,
        digits: Vec<u8>,
    },
    PositiveInfinity,
}

impl Exact {
    /// The exact number of `value`, which must be one.
    pub(super) fn of(value: ValueRef<'_>) -> Exact {
        match value {
            ValueRef::Int32(value) => {
                Exact::from_integer(value < 0, value.unsigned_abs().into(), 0)
            }
            ValueRef::Int64(value) => {
                Exact::from_integer(value < 0, value.unsigned_abs().into(), 0)
            }
            ValueRef::Double(value) => Exact::from_double(value),
            ValueRef::Decimal128(value) => match Decimal::from_bson(value) {
                Decimal::NaN => Exact::NaN,
                Decimal::Infinity { negative: true } => Exact::NegativeInfinity,
                Decimal::Infinity { negative: false } => Exact::PositiveInfinity,
                Decimal::Finite { negative, coefficient, exponent } => {
                    Exact::from_integer(negative, coefficient, exponent)
                }
            },
            other => unreachable!("{} is no number", other.type_name()),
        }
    }

    fn from_integer(negative: bool, magnitude: u128, exponent: i32) -> Exact {
        if magnitude == 0 {
            return Exact::Zero;
        }
        let mut digits = magnitude.to_string().into_bytes();
        let point = digits.len() as i32 + exponent;
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if negative { Exact::Negative { point, digits } } else { Exact::Positive { point, digits } }
    }

    fn from_double(value: f64) -> Exact {
        if value.is_nan() {
            return Exact::NaN;
        }
        if value.is_infinite() {
            return if value < 0.0 { Exact::NegativeInfinity } else { Exact::PositiveInfinity };
        }
        if value == value.trunc() && value.abs() < 9.0e18 {
            return Exact::from_integer(value < 0.0, (value as i64).unsigned_abs().into(), 0);
        }
        // A double is mantissa * 2^exponent; written in decimal it ends, after as many digits as
        // the power of two below the point asks for.
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i64 - 1075;
        let precision = if exponent < 0 { (17 - exponent).min(770) as usize } else { 310 };
        let text = format!("{:.*e}", precision, value.abs());
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
        let mut digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let point = power.parse::<i32>().unwrap_or(0) + 1;
        if value < 0.0 {
            Exact::Negative { point, digits }
        } else {
            Exact::Positive { point, digits }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Exact::NaN => 0,
            Exact::NegativeInfinity => 1,
            Exact::Negative { .. } => 2,
            Exact::Zero => 3,
            Exact::Positive { .. } => 4,
            Exact::PositiveInfinity => 5,
        }
    }

    /// Appends bytes that sort as the numbers do.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.push(self.rank() + 1);
        let (negative, point, digits) = match self {
            Exact::Negative { point, digits } => (true, point, digits),
            Exact::Positive { point, digits } => (false, point, digits),
            _ => return,
        };
        let start = into.len();
        into.extend_from_slice(&((point + 0x4000) as u16).to_be_bytes());
        for pair in digits.chunks(2) {
            let tens = pair[0] - b'0';
            let ones = pair.get(1).map_or(0, |digit| digit - b'0');
            into.push(tens * 10 + ones + 1);
        }
        into.push(0);
        if negative {
            into[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

impl Ord for Exact {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (
                Exact::Positive { point: p1, digits: d1 },
                Exact::Positive { point: p2, digits: d2 },
            ) => p1.cmp(p2).then_with(|| d1.cmp(d2)),
            (
                Exact::Negative { point: p1, digits: d1 },
                Exact::Negative { point: p2, digits: d2 },
            ) => p2.cmp(p1).then_with(|| d2.cmp(d1)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares two numbers of any type: exactly, NaN equal to itself and below all others, zeros equal.
///
/// # Panics
/// If one of them is no number.
pub fn compare_numbers(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b) {
        (ValueRef::Int32(a), ValueRef::Int32(b)) => a.cmp(&b),
        (ValueRef::Int64(a), ValueRef::Int64(b)) => a.cmp(&b),
        (ValueRef::Int32(a), ValueRef::Int64(b)) => i64::from(a).cmp(&b),
        (ValueRef::Int64(a), ValueRef::Int32(b)) => a.cmp(&i64::from(b)),
        (ValueRef::Double(a), ValueRef::Double(b)) => {
            a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
        }
        (ValueRef::Int32(a), ValueRef::Double(b)) if !b.is_nan() => {
            f64::from(a).partial_cmp(&b).unwrap_or(Ordering::Greater)
        }
        (ValueRef::Double(a), ValueRef::Int32(b)) if !a.is_nan() => {
            a.partial_cmp(&f64::from(b)).unwrap_or(Ordering::Less)
        }
        _ => Exact::of(a).cmp(&Exact::of(b)),
    }
}

/// The number as an `i64` if it is one exactly (integers, and doubles and decimals without a fraction).
pub fn as_exact_i64(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Int32(value) => Some(value.into()),
        ValueRef::Int64(value) => Some(value),
        ValueRef::Double(value) => {
            // Below 2^63 in magnitude, a double without a fraction is an i64.
            let whole = value == value.trunc() && value >= -9_223_372_036_854_775_808.0;
            (whole && value < 9_223_372_036_854_775_808.0).then_some(value as i64)
        }
        ValueRef::Decimal128(value) => {
            let integer = Decimal::from_bson(value).to_i64()?;
            let same = compare_numbers(ValueRef::Decimal128(value), ValueRef::Int64(integer));
            same.is_eq().then_some(integer)
        }
        _ => None,
    }
}

/// The number as a double, rounded; `None` if `value` is no number.
pub fn as_f64(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Int32(value) => Some(value.into()),
        ValueRef::Int64(value) => Some(value as f64),
        ValueRef::Double(value) => Some(value),
        ValueRef::Decimal128(value) => Some(Decimal::from_bson(value).to_f64()),
        _ => None,
    }
}

/// The number as a decimal; `None` if `value` is no number.
pub fn as_decimal(value: ValueRef<'_>) -> Option<Decimal> {
    match value {
        ValueRef::Int32(value) => Some(Decimal::from_i64(value.into())),
        ValueRef::Int64(value) => Some(Decimal::from_i64(value)),
        ValueRef::Double(value) => Some(Decimal::from_f64(value)),
        ValueRef::Decimal128(value) => Some(Decimal::from_bson(value)),
        _ => None,
    }
}

/// The integer of `value` if it is an int or a long.
fn as_integer(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Int32(value) => Some(value.into()),
        ValueRef::Int64(value) => Some(value),
        _ => None,
    }
}

/// An exact integer result in the narrowest type the server would give: an int stays an int while
/// both operands are and the result fits.
fn integer(result: i64, both_int32: bool) -> Bson {
    match i32::try_from(result) {
        Ok(small) if both_int32 => Bson::Int32(small),
        _ => Bson::Int64(result),
    }
}

/// A sum as the server gathers it: integers exactly, doubles with their rounding errors kept, decimals
/// apart; it has the widest type among what was added.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    integers: i128,
    high: f64,
    low: f64,
    decimals: Option<Decimal>,
    has_long: bool,
    has_double: bool,
}

impl Sum {
    /// Adds a number; what is none is passed over.
    pub fn add(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Int32(value) => self.integers += i128::from(value),
            ValueRef::Int64(value) => {
                self.has_long = true;
                self.integers += i128::from(value);
            }
            ValueRef::Double(value) => {
                self.has_double = true;
                self.add_double(value);
            }
            ValueRef::Decimal128(value) => {
                let decimal = Decimal::from_bson(value);
                self.decimals = Some(self.decimals.map_or(decimal, |sum| sum.plus(decimal)));
            }
            _ => {}
        }
    }

    /// Knuth's two-sum: what rounding takes off the high part goes to the low one.
    fn add_double(&mut self, value: f64) {
        let sum = self.high + value;
        let back = sum - self.high;
        let lost = (self.high - (sum - back)) + (value - back);
        self.high = sum;
        if lost.is_finite() {
            self.low += lost;
        }
    }

    /// The sum of all but decimals, as a double.
    fn double(&self) -> f64 {
        let mut all = self.clone();
        // Split so that either part is exact.
        let high = (self.integers >> 40) << 40;
        all.add_double(high as f64);
        all.add_double((self.integers - high) as f64);
        all.high + all.low
    }

    /// The sum.
    pub fn value(&self) -> Bson {
        if let Some(decimals) = self.decimals {
            return Bson::Decimal128(decimals.plus(self.others_as_decimal()).to_bson());
        }
        if self.has_double {
            return Bson::Double(self.double());
        }
        match (i32::try_from(self.integers), i64::try_from(self.integers)) {
            (Ok(int), _) if !self.has_long => Bson::Int32(int),
            (_, Ok(long)) => Bson::Int64(long),
            _ => Bson::Double(self.integers as f64),
        }
    }

    /// The sum divided by a count, never as an integer.
    pub fn mean(&self, count: i64) -> Bson {
        match self.decimals {
            Some(decimals) => {
                let sum = decimals.plus(self.others_as_decimal());
                Bson::Decimal128(sum.divide(Decimal::from_i64(count)).to_bson())
            }
            None => Bson::Double(self.double() / count as f64),
        }
    }

    fn others_as_decimal(&self) -> Decimal {
        let integers = i64::try_from(self.integers)
            .map_or_else(|_| Decimal::from_f64(self.integers as f64), Decimal::from_i64);
        if self.has_double {
            integers.plus(Decimal::from_f64(self.high + self.low))
        } else {
            integers
        }
    }
}

/// What an arithmetic operator does about integers that overflow 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    /// Go on as a double (aggregation expressions).
    Double,
    /// Fail (`$inc`, `$mul`).
    Fail,
}

/// `a + b` with the server's promotions; `None` if one is no number or it overflows and must not.
pub fn add(a: ValueRef<'_>, b: ValueRef<'_>, overflow: OnOverflow) -> Option<Bson> {
    arithmetic(a, b, overflow, i64::checked_add, |a, b| a + b, Decimal::plus)
}

/// `a - b` with the server's promotions; `None` if one is no number or it overflows and must not.
pub fn subtract(a: ValueRef<'_>, b: ValueRef<'_>, overflow: OnOverflow) -> Option<Bson> {
    let decimal = |a: Decimal, b: Decimal| a.plus(b.negate());
    arithmetic(a, b, overflow, i64::checked_sub, |a, b| a - b, decimal)
}

/// `a * b` with the server's promotions; `None` if one is no number or it overflows and must not.
pub fn multiply(a: ValueRef<'_>, b: ValueRef<'_>, overflow: OnOverflow) -> Option<Bson> {
    arithmetic(a, b, overflow, i64::checked_mul, |a, b| a * b, Decimal::multiply)
}

/// `a / b`, a double unless a decimal is among them; `None` if one is no number or `b` is 0.
pub fn divide(a: ValueRef<'_>, b: ValueRef<'_>) -> Option<Bson> {
    if matches!(a, ValueRef::Decimal128(_)) || matches!(b, ValueRef::Decimal128(_)) {
        let (a, b) = (as_decimal(a)?, as_decimal(b)?);
        return (!b.is_zero()).then(|| Bson::Decimal128(a.divide(b).to_bson()));
    }
    let (a, b) = (as_f64(a)?, as_f64(b)?);
    (b != 0.0).then_some(Bson::Double(a / b))
}

fn arithmetic(
    a: ValueRef<'_>,
    b: ValueRef<'_>,
    overflow: OnOverflow,
    integers: impl Fn(i64, i64) -> Option<i64>,
    doubles: impl Fn(f64, f64) -> f64,
    decimals: impl Fn(Decimal, Decimal) -> Decimal,
) -> Option<Bson> {
    if matches!(a, ValueRef::Decimal128(_)) || matches!(b, ValueRef::Decimal128(_)) {
        return Some(Bson::Decimal128(decimals(as_decimal(a)?, as_decimal(b)?).to_bson()));
    }
    if let (Some(x), Some(y)) = (as_integer(a), as_integer(b)) {
        let both_int32 = matches!((a, b), (ValueRef::Int32(_), ValueRef::Int32(_)));
        if let Some(result) = integers(x, y) {
            return Some(integer(result, both_int32));
        }
        if overflow == OnOverflow::Fail {
            return None;
        }
    }
    Some(Bson::Double(doubles(as_f64(a)?, as_f64(b)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_and_the_decimal_of_its_shortest_digits_are_different_numbers() {
        let tenth = ValueRef::Decimal128("0.1".parse().unwrap());
        assert_eq!(compare_numbers(ValueRef::Double(0.1), tenth), Ordering::Greater);
        let half = ValueRef::Decimal128("0.5".parse().unwrap());
        assert_eq!(compare_numbers(ValueRef::Double(0.5), half), Ordering::Equal);
    }

    #[test]
    fn a_long_is_not_rounded_when_it_meets_a_double() {
        let (long, double) =
            (ValueRef::Int64((1 << 53) + 1), ValueRef::Double((1_u64 << 53) as f64));
        assert_eq!(compare_numbers(long, double), Ordering::Greater);
        let (max, above) =
            (ValueRef::Int64(i64::MAX), ValueRef::Double(9_223_372_036_854_775_808.0));
        assert_eq!(compare_numbers(max, above), Ordering::Less);
    }

    #[test]
    fn an_int_that_overflows_becomes_a_long_and_a_long_fails_or_becomes_a_double() {
        let one = ValueRef::Int32(1);
        let sum = |a, overflow| add(a, one, overflow);
        assert_eq!(sum(ValueRef::Int32(i32::MAX), OnOverflow::Fail), Some(Bson::Int64(1 << 31)));
        assert_eq!(sum(ValueRef::Int64(i64::MAX), OnOverflow::Fail), None);
        let double = Some(Bson::Double(9_223_372_036_854_775_808.0));
        assert_eq!(sum(ValueRef::Int64(i64::MAX), OnOverflow::Double), double);
    }
}
