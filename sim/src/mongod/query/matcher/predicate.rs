//! What a filter can ask of one value.

use bson::Bson;

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::regex::Regex;

use super::{Condition, LeafArray, MatchDetails, Node, Subject, ValueRef, compare_collated, equal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// The right-hand side of a comparison.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub value: Bson,
    pub collation: Collation,
}

#[derive(Clone, Debug)]
pub(super) enum Predicate {
    Compare(Comparison, Operand),
    /// `values` ascending, each once.
    In {
        values: Vec<Bson>,
        regexes: Vec<Regex>,
        collation: Collation,
    },
    Regex(Regex),
    Mod {
        divisor: i64,
        remainder: i64,
    },
    Type(TypeSet),
    Size(i64),
    Exists,
    ElemMatchDocument(Box<Node>),
    ElemMatchValue(Box<Node>),
    Bits {
        test: BitTest,
        positions: Vec<u64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitTest {
    AllSet,
    AllClear,
    AnySet,
    AnyClear,
}

/// The types `$type` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mongod::query) struct TypeSet {
    pub numbers: Vec<i32>,
    /// The alias `number`: all four.
    pub any_number: bool,
}

impl TypeSet {
    pub(in crate::mongod::query) fn contains(&self, value: ValueRef<'_>) -> bool {
        self.any_number && value.is_number() || self.numbers.contains(&value.type_number())
    }
}

impl Predicate {
    /// Operator and argument, as messages show them.
    pub(super) fn debug_text(&self) -> String {
        use crate::mongod::query::text::value_text;
        match self {
            Predicate::Compare(comparison, operand) => {
                let name = match comparison {
                    Comparison::Eq => "$eq",
                    Comparison::Gt => "$gt",
                    Comparison::Gte => "$gte",
                    Comparison::Lt => "$lt",
                    Comparison::Lte => "$lte",
                };
                format!("{name} {}", value_text((&operand.value).into()))
            }
            Predicate::In { values, .. } => {
                let values: Vec<String> =
                    values.iter().map(|value| value_text(value.into())).collect();
                format!("$in [ {} ]", values.join(" "))
            }
            Predicate::Regex(regex) => format!("regex /{}/{}", regex.pattern, regex.options),
            Predicate::Mod { divisor, remainder } => format!("mod {divisor} % x == {remainder}"),
            Predicate::Type(_) => "type".to_owned(),
            Predicate::Size(size) => format!("$size : {size}"),
            Predicate::Exists => "exists".to_owned(),
            Predicate::ElemMatchDocument(_) => "$elemMatch (obj)".to_owned(),
            Predicate::ElemMatchValue(_) => "$elemMatch (value)".to_owned(),
            Predicate::Bits { .. } => "bits".to_owned(),
        }
    }

    /// What it asks of its path that an index can be searched by.
    pub(super) fn conditions(&self, found: &mut Vec<Condition>) {
        match self {
            Predicate::Compare(comparison, operand) => {
                let value = operand.value.clone();
                // The ends of the order compare with every type, NaN with itself alone, null with
                // what is missing.
                let special = matches!(value, Bson::MinKey | Bson::MaxKey | Bson::Array(_))
                    || is_nan((&operand.value).into());
                match comparison {
                    Comparison::Eq if matches!(value, Bson::RegularExpression(_)) => {}
                    Comparison::Eq => found.push(Condition::Equal(value)),
                    _ if special || value == Bson::Null => {}
                    Comparison::Gt => found.push(Condition::From(value, false)),
                    Comparison::Gte => found.push(Condition::From(value, true)),
                    Comparison::Lt => found.push(Condition::To(value, false)),
                    Comparison::Lte => found.push(Condition::To(value, true)),
                }
            }
            Predicate::In { values, regexes, .. } if regexes.is_empty() => {
                found.push(Condition::In(values.clone()));
            }
            Predicate::Regex(regex) => found.extend(regex.prefix().map(Condition::Prefix)),
            Predicate::Exists => found.push(Condition::Exists),
            // The elements are the keys.
            Predicate::ElemMatchValue(node) => node.each_conjunct(&mut |node| {
                if let Node::Value(predicate) = node {
                    predicate.conditions(found);
                }
            }),
            _ => {}
        }
    }

    /// What it does about an array at its path's end.
    pub(super) fn leaf(&self) -> LeafArray {
        match self {
            Predicate::Size(_) | Predicate::ElemMatchDocument(_) | Predicate::ElemMatchValue(_) => {
                LeafArray::Whole
            }
            _ => LeafArray::Traverse,
        }
    }

    /// Whether a value (`None` is missing) satisfies it.
    pub(super) fn matches(
        &self,
        value: Option<ValueRef<'_>>,
        details: &mut MatchDetails,
    ) -> Result<bool, CommandError> {
        let Some(value) = value else {
            return Ok(match self {
                // The two ends of the order compare with everything, missing fields too.
                Predicate::Compare(comparison, operand) if operand.value == Bson::MinKey => {
                    matches!(comparison, Comparison::Gt | Comparison::Gte)
                }
                Predicate::Compare(comparison, operand) if operand.value == Bson::MaxKey => {
                    matches!(comparison, Comparison::Lt | Comparison::Lte)
                }
                Predicate::Compare(Comparison::Gt | Comparison::Lt, _) => false,
                Predicate::Compare(_, operand) => operand.value == Bson::Null,
                Predicate::In { values, .. } => values.contains(&Bson::Null),
                _ => false,
            });
        };
        Ok(match self {
            Predicate::Compare(comparison, operand) => compares(*comparison, value, operand),
            Predicate::In { values, regexes, collation } => {
                let order = |probe: &Bson| compare_collated(probe.into(), value, *collation);
                values.binary_search_by(order).is_ok()
                    || regexes.iter().any(|regex| regex_matches(regex, value))
            }
            Predicate::Regex(regex) => regex_matches(regex, value),
            Predicate::Mod { divisor, remainder } => {
                let number = match value {
                    ValueRef::Double(double) => truncated(double),
                    ValueRef::Decimal128(_) => as_f64(value).and_then(truncated),
                    _ => as_exact_i64(value),
                };
                // The least long divided by -1 has remainder 0, though the quotient overflows.
                number.is_some_and(|number| number.wrapping_rem(*divisor) == *remainder)
            }
            Predicate::Type(types) => types.contains(value),
            Predicate::Size(size) => {
                value.as_array().is_some_and(|array| array.len() as i64 == *size)
            }
            Predicate::Exists => true,
            Predicate::ElemMatchDocument(node) => {
                let Some(array) = value.as_array() else { return Ok(false) };
                for (index, element) in array.iter().enumerate() {
                    let subject = match element {
                        ValueRef::Document(document) => Subject::Document(document),
                        _ => continue,
                    };
                    if node.matches(subject, &mut MatchDetails::default())? {
                        details.array_index = Some(index);
                        return Ok(true);
                    }
                }
                false
            }
            Predicate::ElemMatchValue(node) => {
                let Some(array) = value.as_array() else { return Ok(false) };
                for (index, element) in array.iter().enumerate() {
                    if node.matches(Subject::Value(element), &mut MatchDetails::default())? {
                        details.array_index = Some(index);
                        return Ok(true);
                    }
                }
                false
            }
            Predicate::Bits { test, positions } => bits_match(*test, positions, value),
        })
    }
}

fn truncated(double: f64) -> Option<i64> {
    (double.is_finite() && double.abs() < 9.2e18).then_some(double.trunc() as i64)
}

fn is_nan(value: ValueRef<'_>) -> bool {
    value.is_number() && as_f64(value).is_some_and(f64::is_nan)
}

fn compares(comparison: Comparison, value: ValueRef<'_>, operand: &Operand) -> bool {
    let right = ValueRef::from(&operand.value);
    if value.canonical_type() != right.canonical_type() {
        // Only the two ends of the order compare with other types.
        return match right {
            ValueRef::MinKey => matches!(comparison, Comparison::Gt | Comparison::Gte),
            ValueRef::MaxKey => matches!(comparison, Comparison::Lt | Comparison::Lte),
            _ => false,
        };
    }
    if is_nan(value) || is_nan(right) {
        let both = is_nan(value) && is_nan(right);
        return both && !matches!(comparison, Comparison::Gt | Comparison::Lt);
    }
    let order = compare_collated(value, right, operand.collation);
    match comparison {
        Comparison::Eq => order.is_eq(),
        Comparison::Gt => order.is_gt(),
        Comparison::Gte => order.is_ge(),
        Comparison::Lt => order.is_lt(),
        Comparison::Lte => order.is_le(),
    }
}

fn regex_matches(regex: &Regex, value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::String(text) | ValueRef::Symbol(text) => regex.is_match(text),
        ValueRef::Regex(..) => {
            let itself = ValueRef::Regex(&regex.pattern, &regex.options);
            equal(value, itself)
        }
        _ => false,
    }
}

fn bits_match(test: BitTest, positions: &[u64], value: ValueRef<'_>) -> bool {
    let bit: Box<dyn Fn(u64) -> bool> = match value {
        ValueRef::Binary(_, bytes) => Box::new(move |position| {
            bytes.get((position / 8) as usize).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
        }),
        _ => match as_exact_i64(value) {
            // Beyond its 64 bits a number goes on with its sign.
            Some(number) => Box::new(move |position| number >> position.min(63) & 1 == 1),
            None => return false,
        },
    };
    let mut set = positions.iter().map(|position| bit(*position));
    match test {
        BitTest::AllSet => set.all(|set| set),
        BitTest::AllClear => set.all(|set| !set),
        BitTest::AnySet => set.any(|set| set),
        BitTest::AnyClear => set.any(|set| !set),
    }
}
