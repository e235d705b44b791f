//! Decimal floating point of 34 digits (IEEE 754-2008 decimal128): parts, sums, products.

use std::cmp::Ordering;

use bson::Decimal128;

/// Which way a number is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, halves to even.
    HalfEven,
    /// Towards zero.
    ToZero,
    /// Towards positive infinity.
    Up,
    /// Towards negative infinity.
    Down,
}

/// A decimal128 taken apart: `(-1)^negative * coefficient * 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimal {
    /// Not a number.
    NaN,
    /// An infinity.
    Infinity {
        /// Whether it is below everything.
        negative: bool,
    },
    /// A finite number.
    Finite {
        /// The sign.
        negative: bool,
        /// At most 34 decimal digits.
        coefficient: u128,
        /// The power of ten, -6176 to 6111.
        exponent: i32,
    },
}

const EXPONENT_BIAS: i32 = 6176;
const MAX_EXPONENT: i32 = 6111;
/// The greatest coefficient plus one: 10^34.
const COEFFICIENT_LIMIT: u128 = 10_u128.pow(34);

impl Decimal {
    /// Zero.
    pub const ZERO: Decimal = Decimal::Finite { negative: false, coefficient: 0, exponent: 0 };

    /// Takes a decimal128 apart (binary integer significand format). Coefficients that are not
    /// canonical count as zero, as the format says.
    pub fn from_bson(value: Decimal128) -> Decimal {
        let bits = u128::from_le_bytes(value.bytes());
        let negative = bits >> 127 == 1;
        let combination = (bits >> 122) & 0x1f;
        if combination == 0x1f {
            return Decimal::NaN;
        }
        if combination == 0x1e {
            return Decimal::Infinity { negative };
        }
        let (exponent, coefficient) = if (bits >> 125) & 0b11 == 0b11 {
            // The large form: its coefficients exceed 34 digits, all of them not canonical.
            (((bits >> 111) & 0x3fff) as i32, 0)
        } else {
            (((bits >> 113) & 0x3fff) as i32, bits & ((1 << 113) - 1))
        };
        let coefficient = if coefficient < COEFFICIENT_LIMIT { coefficient } else { 0 };
        Decimal::Finite { negative, coefficient, exponent: exponent - EXPONENT_BIAS }
    }

    /// Puts a decimal128 together, rounding half to even what does not fit into 34 digits; beyond
    /// the greatest exponent it is an infinity, below the least it is rounded towards zero.
    pub fn to_bson(self) -> Decimal128 {
        let sign = |negative: bool| u128::from(negative) << 127;
        let bits = match self {
            Decimal::NaN => 0x1f_u128 << 122,
            Decimal::Infinity { negative } => sign(negative) | 0x1e_u128 << 122,
            Decimal::Finite { negative, mut coefficient, mut exponent } => {
                // All surplus digits at once: rounding twice could round twice up.
                let digits = coefficient.checked_ilog10().map_or(0, |log| log as i32 + 1);
                let surplus = (digits - 34).max(-EXPONENT_BIAS - exponent).max(0);
                if surplus > 0 {
                    let divisor = 10_u128.checked_pow(surplus as u32);
                    coefficient = divisor.map_or(0, |by| divide_half_even(coefficient, by));
                    exponent += surplus;
                }
                if coefficient == COEFFICIENT_LIMIT {
                    (coefficient, exponent) = (coefficient / 10, exponent + 1);
                }
                while exponent > MAX_EXPONENT && coefficient < COEFFICIENT_LIMIT / 10 {
                    coefficient *= 10;
                    exponent -= 1;
                    if coefficient == 0 {
                        exponent = exponent.min(MAX_EXPONENT);
                    }
                }
                if exponent > MAX_EXPONENT {
                    sign(negative) | 0x1e_u128 << 122
                } else {
                    let biased = (exponent + EXPONENT_BIAS) as u128;
                    sign(negative) | biased << 113 | coefficient
                }
            }
        };
        Decimal128::from_bytes(bits.to_le_bytes())
    }

    /// The decimal of an integer.
    pub fn from_i64(value: i64) -> Decimal {
        Decimal::Finite {
            negative: value < 0,
            coefficient: u128::from(value.unsigned_abs()),
            exponent: 0,
        }
    }

    /// The decimal of a double as the server converts it: rounded to 15 significant digits.
    pub fn from_f64(value: f64) -> Decimal {
        if value.is_nan() {
            return Decimal::NaN;
        }
        if value.is_infinite() {
            return Decimal::Infinity { negative: value < 0.0 };
        }
        parse_scientific(&format!("{value:.14e}"))
    }

    /// Rounded to so many decimal places, which may be negative.
    pub fn round_to(self, places: i32, way: Rounding) -> Decimal {
        let Decimal::Finite { negative, coefficient, exponent } = self else { return self };
        let surplus = -places - exponent;
        if surplus <= 0 {
            return self;
        }
        let Some(unit) = 10_u128.checked_pow(surplus as u32) else {
            return Decimal::Finite { negative, coefficient: 0, exponent: -places };
        };
        let (quotient, rest) = (coefficient / unit, coefficient % unit);
        let away = match way {
            Rounding::HalfEven => {
                rest > unit / 2 || (rest == unit / 2 && unit % 2 == 0 && quotient % 2 == 1)
            }
            Rounding::ToZero => false,
            Rounding::Up => rest > 0 && !negative,
            Rounding::Down => rest > 0 && negative,
        };
        Decimal::Finite { negative, coefficient: quotient + u128::from(away), exponent: -places }
    }

    /// What is left of it when the divisor is taken off as often as it goes in, towards zero.
    pub fn remainder(self, divisor: Decimal) -> Decimal {
        match (self, divisor) {
            (
                Decimal::Finite { negative, mut coefficient, mut exponent },
                Decimal::Finite { coefficient: mut by, exponent: mut scale, .. },
            ) if by != 0 => {
                // Brought to the same power of ten, as far as the digits allow.
                while exponent > scale && coefficient <= u128::MAX / 10 {
                    (coefficient, exponent) = (coefficient * 10, exponent - 1);
                }
                while scale > exponent && by <= u128::MAX / 10 {
                    (by, scale) = (by * 10, scale - 1);
                }
                if scale != exponent {
                    return if scale > exponent { self } else { Decimal::NaN };
                }
                Decimal::Finite { negative, coefficient: coefficient % by, exponent }
            }
            (Decimal::Finite { .. }, Decimal::Infinity { .. }) => self,
            _ => Decimal::NaN,
        }
    }

    /// Whether it is a zero of either sign.
    pub fn is_zero(self) -> bool {
        matches!(self, Decimal::Finite { coefficient: 0, .. })
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        match self {
            Decimal::NaN => f64::NAN,
            Decimal::Infinity { negative: true } => f64::NEG_INFINITY,
            Decimal::Infinity { negative: false } => f64::INFINITY,
            Decimal::Finite { negative, coefficient, exponent } => {
                let sign = if negative { "-" } else { "" };
                format!("{sign}{coefficient}e{exponent}").parse().unwrap_or(f64::NAN)
            }
        }
    }

    /// The integer part, if it fits.
    pub fn to_i64(self) -> Option<i64> {
        let Decimal::Finite { negative, mut coefficient, mut exponent } = self else { return None };
        while exponent < 0 && coefficient != 0 {
            coefficient /= 10;
            exponent += 1;
        }
        while exponent > 0 && coefficient != 0 {
            coefficient = coefficient.checked_mul(10)?;
            exponent -= 1;
        }
        let magnitude = i128::try_from(coefficient).ok()?;
        i64::try_from(if negative { -magnitude } else { magnitude }).ok()
    }

    /// The sum, rounded half to even to 34 digits.
    pub fn plus(self, other: Decimal) -> Decimal {
        match (self, other) {
            (Decimal::NaN, _) | (_, Decimal::NaN) => Decimal::NaN,
            (Decimal::Infinity { negative: a }, Decimal::Infinity { negative: b }) if a != b => {
                Decimal::NaN
            }
            (infinity @ Decimal::Infinity { .. }, _) | (_, infinity @ Decimal::Infinity { .. }) => {
                infinity
            }
            (
                Decimal::Finite { negative: n1, coefficient: mut c1, exponent: mut e1 },
                Decimal::Finite { negative: n2, coefficient: mut c2, exponent: mut e2 },
            ) => {
                if c1 == 0 || c2 == 0 {
                    // The other one, at the smaller exponent where that loses nothing.
                    let (negative, mut coefficient, mut exponent) =
                        if c1 == 0 { (n2, c2, e2) } else { (n1, c1, e1) };
                    let floor = e1.min(e2);
                    while exponent > floor && coefficient < COEFFICIENT_LIMIT / 10 {
                        coefficient *= 10;
                        exponent -= 1;
                        if coefficient == 0 {
                            exponent = floor;
                        }
                    }
                    let negative = negative && (coefficient != 0 || (n1 && n2));
                    return Decimal::Finite { negative, coefficient, exponent };
                }
                // Scale the one of the greater exponent up (three guard digits fit into 128 bits),
                // then the other one down; a sticky digit keeps the rounding honest.
                let headroom = u128::MAX / 40;
                while e1 > e2 && c1 < headroom {
                    (c1, e1) = (c1 * 10, e1 - 1);
                }
                while e2 > e1 && c2 < headroom {
                    (c2, e2) = (c2 * 10, e2 - 1);
                }
                while e1 < e2 {
                    (c1, e1) = (drop_digit_sticky(c1), e1 + 1);
                    if c1 <= 1 {
                        e1 = e2;
                    }
                }
                while e2 < e1 {
                    (c2, e2) = (drop_digit_sticky(c2), e2 + 1);
                    if c2 <= 1 {
                        e2 = e1;
                    }
                }
                let (negative, coefficient) = if n1 == n2 {
                    (n1, c1 + c2)
                } else if c1 >= c2 {
                    (n1 && c1 != c2, c1 - c2)
                } else {
                    (n2, c2 - c1)
                };
                Decimal::Finite { negative, coefficient, exponent: e1 }.rounded()
            }
        }
    }

    /// The product, rounded half to even to 34 digits.
    pub fn multiply(self, other: Decimal) -> Decimal {
        match (self, other) {
            (Decimal::NaN, _) | (_, Decimal::NaN) => Decimal::NaN,
            (Decimal::Infinity { negative: n1 }, x) | (x, Decimal::Infinity { negative: n1 }) => {
                if x.is_zero() {
                    Decimal::NaN
                } else {
                    Decimal::Infinity { negative: n1 != x.is_negative() }
                }
            }
            (
                Decimal::Finite { negative: n1, coefficient: c1, exponent: e1 },
                Decimal::Finite { negative: n2, coefficient: c2, exponent: e2 },
            ) => {
                let (coefficient, dropped) = multiply_wide(c1, c2);
                Decimal::Finite { negative: n1 != n2, coefficient, exponent: e1 + e2 + dropped }
                    .rounded()
            }
        }
    }

    /// The quotient, rounded half to even to 34 digits; by zero it is an infinity, or no number.
    pub fn divide(self, other: Decimal) -> Decimal {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Decimal::NaN, _) | (_, Decimal::NaN) => Decimal::NaN,
            (Decimal::Infinity { .. }, Decimal::Infinity { .. }) => Decimal::NaN,
            (Decimal::Infinity { .. }, _) => Decimal::Infinity { negative },
            (_, Decimal::Infinity { .. }) => {
                Decimal::Finite { negative, coefficient: 0, exponent: -EXPONENT_BIAS }
            }
            (
                Decimal::Finite { coefficient: c1, exponent: e1, .. },
                Decimal::Finite { coefficient: c2, exponent: e2, .. },
            ) => {
                if c2 == 0 {
                    return if c1 == 0 { Decimal::NaN } else { Decimal::Infinity { negative } };
                }
                // Long division: digits until it comes out even or there are 36, the last one sticky.
                let (mut quotient, mut remainder, mut exponent) = (c1 / c2, c1 % c2, e1 - e2);
                while remainder != 0 && quotient < COEFFICIENT_LIMIT * 10 {
                    remainder *= 10;
                    quotient = quotient * 10 + remainder / c2;
                    remainder %= c2;
                    exponent -= 1;
                }
                if remainder != 0 && quotient.is_multiple_of(5) {
                    quotient += 1;
                }
                Decimal::Finite { negative, coefficient: quotient, exponent }.rounded()
            }
        }
    }

    /// The same number with the other sign.
    pub fn negate(self) -> Decimal {
        match self {
            Decimal::NaN => Decimal::NaN,
            Decimal::Infinity { negative } => Decimal::Infinity { negative: !negative },
            Decimal::Finite { negative, coefficient, exponent } => {
                Decimal::Finite { negative: !negative, coefficient, exponent }
            }
        }
    }

    /// Whether its sign is minus.
    pub fn is_negative(self) -> bool {
        match self {
            Decimal::NaN => false,
            Decimal::Infinity { negative } | Decimal::Finite { negative, .. } => negative,
        }
    }

    fn rounded(self) -> Decimal {
        Decimal::from_bson(self.to_bson())
    }
}

/// Drops the last digit, remembering in the new last digit that something was lost.
fn drop_digit_sticky(coefficient: u128) -> u128 {
    let (quotient, remainder) = (coefficient / 10, coefficient % 10);
    if remainder != 0 && quotient % 5 == 0 { quotient + 1 } else { quotient }
}

fn divide_half_even(dividend: u128, divisor: u128) -> u128 {
    let (quotient, remainder) = (dividend / divisor, dividend % divisor);
    match remainder.cmp(&(divisor - remainder)) {
        Ordering::Less => quotient,
        Ordering::Greater => quotient + 1,
        Ordering::Equal => quotient + quotient % 2,
    }
}

/// `a * b` as a coefficient that fits and the number of digits that were dropped to make it so, the
/// last one sticky.
fn multiply_wide(a: u128, b: u128) -> (u128, i32) {
    if let Some(product) = a.checked_mul(b) {
        return (product, 0);
    }
    // Schoolbook with limbs of nine digits, most of it for coefficients that fill 34 digits.
    const LIMB: u128 = 1_000_000_000;
    let limbs = |mut value: u128| {
        let mut limbs = Vec::with_capacity(5);
        while value != 0 {
            limbs.push(value % LIMB);
            value /= LIMB;
        }
        limbs
    };
    let (a, b) = (limbs(a), limbs(b));
    let mut product = vec![0_u128; a.len() + b.len()];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            product[i + j] += x * y;
        }
    }
    let mut digits = Vec::new();
    let mut carry = 0;
    for limb in product {
        let mut value = limb + carry;
        carry = value / LIMB;
        value %= LIMB;
        for _ in 0..9 {
            digits.push(value % 10);
            value /= 10;
        }
    }
    assert_eq!(carry, 0, "the product of two coefficients fits its limbs");
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let dropped = digits.len().saturating_sub(37);
    let sticky = digits[..dropped].iter().any(|digit| *digit != 0);
    let mut coefficient =
        digits[dropped..].iter().rev().fold(0_u128, |sum, digit| sum * 10 + digit);
    if sticky && coefficient % 5 == 0 {
        coefficient += 1;
    }
    (coefficient, dropped as i32)
}

/// Reads what `{:e}` writes.
fn parse_scientific(text: &str) -> Decimal {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let negative = mantissa.starts_with('-');
    let mut exponent: i32 = exponent.parse().unwrap_or(0);
    let mut coefficient = 0_u128;
    let mut after_point = false;
    for digit in mantissa.bytes() {
        match digit {
            b'.' => after_point = true,
            b'0'..=b'9' => {
                coefficient = coefficient * 10 + u128::from(digit - b'0');
                exponent -= i32::from(after_point);
            }
            _ => {}
        }
    }
    while exponent < 0 && coefficient != 0 && coefficient.is_multiple_of(10) {
        (coefficient, exponent) = (coefficient / 10, exponent + 1);
    }
    if coefficient == 0 {
        exponent = 0;
    }
    Decimal::Finite { negative, coefficient, exponent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::from_bson(text.parse().unwrap())
    }

    #[test]
    fn a_decimal_survives_being_taken_apart() {
        for text in [
            "0",
            "-0",
            "1.50",
            "-12345.678",
            "9.999999999999999999999999999999999E+6144",
            "1E-6176",
            "Infinity",
            "-Infinity",
            "NaN",
        ] {
            assert_eq!(decimal(text).to_bson().to_string(), text);
        }
    }

    #[test]
    fn decimals_add_and_multiply_as_on_paper() {
        for (a, b, sum, product) in [
            ("0.1", "0.2", "0.3", "0.02"),
            ("1.50", "-1.5", "0.00", "-2.250"),
            ("1E+40", "1", "1.000000000000000000000000000000000E+40", "1E+40"),
            (
                "9999999999999999999999999999999999",
                "1",
                "1.000000000000000000000000000000000E+34",
                "9999999999999999999999999999999999",
            ),
            (
                "9999999999999999999999999999999999",
                "9999999999999999999999999999999999",
                "2.000000000000000000000000000000000E+34",
                "9.999999999999999999999999999999998E+67",
            ),
        ] {
            let sum_of = |a: &str, b: &str| decimal(a).plus(decimal(b)).to_bson().to_string();
            assert_eq!(sum_of(a, b), sum, "{a} + {b}");
            let product_of = decimal(a).multiply(decimal(b)).to_bson().to_string();
            assert_eq!(product_of, product, "{a} * {b}");
        }
    }
}
