//! Accumulators: what `$group`, `$bucket`, `$bucketAuto` and `$setWindowFields` gather values by.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope, Value};
use crate::mongod::query::number::{Sum, as_exact_i64, as_f64};
use crate::mongod::query::sort::{SortKey, SortPattern};
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::{DocumentRef, ValueRef};

/// An accumulator with its argument.
#[derive(Clone, Debug)]
pub(super) struct Accumulator {
    kind: Kind,
    argument: Expression,
    /// The `n` of `$firstN` and its kin.
    count: Option<Expression>,
    sort: Option<SortPattern>,
    collation: Collation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    Push,
    AddToSet,
    MergeObjects,
    StdDevPop,
    StdDevSamp,
    FirstN,
    LastN,
    MinN,
    MaxN,
    TopN,
    BottomN,
    Top,
    Bottom,
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl Accumulator {
    /// Parses the accumulator `operator`; `None` if there is none of that name.
    pub(super) fn parse(
        operator: &str,
        argument: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Option<Accumulator>, CommandError> {
        let kind = match operator {
            "$count" => {
                if !argument.as_document().is_some_and(DocumentRef::is_empty) {
                    return fail(error::TYPE_MISMATCH, "$count takes no arguments, i.e. $count:{}");
                }
                return Ok(Some(Accumulator::counting(context.collation)));
            }
            "$sum" => Kind::Sum,
            "$avg" => Kind::Avg,
            "$min" => Kind::Min,
            "$max" => Kind::Max,
            "$first" => Kind::First,
            "$last" => Kind::Last,
            "$push" => Kind::Push,
            "$addToSet" => Kind::AddToSet,
            "$mergeObjects" => Kind::MergeObjects,
            "$stdDevPop" => Kind::StdDevPop,
            "$stdDevSamp" => Kind::StdDevSamp,
            "$firstN" | "$lastN" | "$minN" | "$maxN" => {
                return parse_counted(operator, argument, context).map(Some);
            }
            "$topN" | "$bottomN" | "$top" | "$bottom" => {
                return parse_ordered(operator, argument, context).map(Some);
            }
            _ => return Ok(None),
        };
        let argument = match argument {
            ValueRef::Array(members) => match members.iter().collect::<Vec<_>>().as_slice() {
                [single] => *single,
                _ => {
                    let message = format!("The {operator} accumulator is a unary operator");
                    return fail(40237, message);
                }
            },
            argument => argument,
        };
        Ok(Some(Accumulator {
            kind,
            argument: Expression::parse(argument, context)?,
            count: None,
            sort: None,
            collation: context.collation,
        }))
    }

    /// `{$sum: 1}`.
    pub(super) fn counting(collation: Collation) -> Accumulator {
        let argument = Expression::literal(Bson::Int32(1));
        Accumulator { kind: Kind::Sum, argument, count: None, sort: None, collation }
    }

    /// An accumulator that nothing was added to yet. `group` is the key of the group: what an `n` may
    /// be computed from.
    pub(super) fn start(&self, group: &Bson) -> Result<State, CommandError> {
        let mut state = State { limit: usize::MAX, ..State::default() };
        if let Some(count) = &self.count {
            let empty = Bson::Document(Document::new());
            let root = if matches!(group, Bson::Document(_)) { group } else { &empty };
            state.limit = checked_count(count.evaluate(&Scope::new(root))?)?;
        }
        Ok(state)
    }

    /// Adds what the argument is on a document.
    pub(super) fn add(&self, state: &mut State, scope: &Scope<'_>) -> Result<(), CommandError> {
        let value = self.argument.evaluate(scope)?;
        let key = match (&self.sort, scope.root()) {
            (Some(sort), Bson::Document(document)) => Some(sort.key(document)),
            _ => None,
        };
        self.add_value(state, value, key)
    }

    fn add_value(
        &self,
        state: &mut State,
        value: Value,
        key: Option<SortKey>,
    ) -> Result<(), CommandError> {
        let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), self.collation);
        match self.kind {
            Kind::Sum | Kind::Avg => {
                if let Some(value) = value.filter(|value| ValueRef::from(value).is_number()) {
                    state.sum.add((&value).into());
                    state.count += 1;
                }
            }
            Kind::StdDevPop | Kind::StdDevSamp => {
                let number = value.as_ref().and_then(|value| as_f64(value.into()));
                if let Some(number) = number {
                    state.deviation.add(number);
                }
            }
            Kind::Min | Kind::Max => {
                let Some(value) = value.filter(|value| !ValueRef::from(value).is_nullish()) else {
                    return Ok(());
                };
                let replaces = state.value.as_ref().is_none_or(|best| {
                    let order = order(&value, best);
                    if self.kind == Kind::Min { order.is_lt() } else { order.is_gt() }
                });
                if replaces {
                    state.value = Some(value);
                }
            }
            Kind::First => {
                if state.count == 0 {
                    state.value = value;
                }
                state.count += 1;
            }
            Kind::Last => state.value = value,
            Kind::Push => state.members.extend(value),
            Kind::AddToSet => {
                let Some(value) = value else { return Ok(()) };
                if !state.members.iter().any(|known| order(known, &value).is_eq()) {
                    state.members.push(value);
                }
            }
            Kind::MergeObjects => match value {
                Some(Bson::Document(more)) => match &mut state.value {
                    Some(Bson::Document(merged)) => merged.extend(more),
                    merged => *merged = Some(Bson::Document(more)),
                },
                None | Some(Bson::Null | Bson::Undefined) => {}
                Some(_) => return fail(5_911_200, "$mergeObjects only supports objects"),
            },
            Kind::FirstN => {
                if state.members.len() < state.limit {
                    state.members.push(value.unwrap_or(Bson::Null));
                }
            }
            Kind::LastN => {
                if state.members.len() == state.limit {
                    state.members.remove(0);
                }
                state.members.push(value.unwrap_or(Bson::Null));
            }
            Kind::MinN | Kind::MaxN => {
                let Some(value) = value.filter(|value| !ValueRef::from(value).is_nullish()) else {
                    return Ok(());
                };
                let least = self.kind == Kind::MinN;
                let before = |known: &Bson| {
                    let order = order(known, &value);
                    if least { order.is_le() } else { order.is_ge() }
                };
                let place = state.members.partition_point(before);
                state.members.insert(place, value);
                state.members.truncate(state.limit);
            }
            Kind::TopN | Kind::BottomN | Kind::Top | Kind::Bottom => {
                let Some(key) = key else { return Ok(()) };
                let place = state.sorted.partition_point(|(known, _)| *known <= key);
                state.sorted.insert(place, (key, value.unwrap_or(Bson::Null)));
                if matches!(self.kind, Kind::Top | Kind::TopN) {
                    state.sorted.truncate(state.limit);
                } else if state.sorted.len() > state.limit {
                    state.sorted.remove(0);
                }
            }
        }
        Ok(())
    }

    /// The value of everything that was added.
    pub(super) fn finish(&self, state: State) -> Bson {
        match self.kind {
            Kind::Sum => state.sum.value(),
            Kind::Avg => match state.count {
                0 => Bson::Null,
                count => state.sum.mean(count),
            },
            Kind::StdDevPop => state.deviation.value(0),
            Kind::StdDevSamp => state.deviation.value(1),
            Kind::Push | Kind::AddToSet | Kind::FirstN | Kind::LastN | Kind::MinN | Kind::MaxN => {
                Bson::Array(state.members)
            }
            Kind::TopN | Kind::BottomN => {
                Bson::Array(state.sorted.into_iter().map(|(_, value)| value).collect())
            }
            Kind::Top | Kind::Bottom => {
                state.sorted.into_iter().next().map_or(Bson::Null, |(_, value)| value)
            }
            Kind::MergeObjects => state.value.unwrap_or_else(|| Bson::Document(Document::new())),
            _ => state.value.unwrap_or(Bson::Null),
        }
    }
}

/// `{n: .., input: ..}`.
fn parse_counted(
    operator: &str,
    argument: ValueRef<'_>,
    context: &ParseContext,
) -> Result<Accumulator, CommandError> {
    let kind = match operator {
        "$firstN" => Kind::FirstN,
        "$lastN" => Kind::LastN,
        "$minN" => Kind::MinN,
        _ => Kind::MaxN,
    };
    let ValueRef::Document(spec) = argument else {
        let message =
            format!("specification must be an object; found {operator}: {}", value_text(argument));
        let code = if matches!(kind, Kind::FirstN | Kind::LastN) { 5_787_801 } else { 5_787_900 };
        return fail(code, message);
    };
    let (mut count, mut input) = (None, None);
    for (name, value) in spec.iter() {
        match name {
            "n" => count = Some(Expression::parse(value, context)?),
            "input" => input = Some(Expression::parse(value, context)?),
            name => {
                let message = format!("Unknown argument for 'n' operator: {name}");
                return fail(5_787_901, message);
            }
        }
    }
    let Some(count) = count else { return fail(5_787_906, "Missing value for 'n'") };
    let Some(argument) = input else { return fail(5_787_907, "Missing value for 'input'") };
    let collation = context.collation;
    Ok(Accumulator { kind, argument, count: Some(count), sort: None, collation })
}

/// `{n: .., sortBy: .., output: ..}`; `$top` and `$bottom` without `n`.
fn parse_ordered(
    operator: &str,
    argument: ValueRef<'_>,
    context: &ParseContext,
) -> Result<Accumulator, CommandError> {
    let kind = match operator {
        "$topN" => Kind::TopN,
        "$bottomN" => Kind::BottomN,
        "$top" => Kind::Top,
        _ => Kind::Bottom,
    };
    let counted = matches!(kind, Kind::TopN | Kind::BottomN);
    let ValueRef::Document(spec) = argument else {
        let message =
            format!("specification must be an object; found {operator}: {}", value_text(argument));
        return fail(5_788_001, message);
    };
    let (mut count, mut output, mut sort) = (None, None, None);
    for (name, value) in spec.iter() {
        match name {
            "n" if counted => count = Some(Expression::parse(value, context)?),
            "n" => return fail(5_788_002, format!("Unknown argument to {operator} 'n'")),
            "output" => output = Some(Expression::parse(value, context)?),
            "sortBy" => {
                let ValueRef::Document(pattern) = value else {
                    return fail(10_065, "invalid parameter: expected an object (sortBy)");
                };
                sort = Some(SortPattern::parse(pattern, context.collation)?);
            }
            name => return fail(5_788_002, format!("Unknown argument to {operator} '{name}'")),
        }
    }
    if counted && count.is_none() {
        return fail(5_788_003, "Missing value for 'n'");
    }
    let Some(argument) = output else { return fail(5_788_004, "Missing value for 'output'") };
    if sort.is_none() {
        return fail(5_788_005, "Missing value for 'sortBy'");
    }
    let count = count.unwrap_or_else(|| Expression::literal(Bson::Int32(1)));
    Ok(Accumulator { kind, argument, count: Some(count), sort, collation: context.collation })
}

/// An `n`: a positive integer.
pub(in crate::mongod::query) fn checked_count(value: Value) -> Result<usize, CommandError> {
    let shown = value.as_ref().map_or(ValueRef::Null, ValueRef::from);
    if !shown.is_number() {
        let message =
            format!("Value for 'n' must be of integral type, but found {}", value_text(shown));
        return fail(5_787_902, message);
    }
    match as_exact_i64(shown) {
        None => {
            let message =
                format!("Value for 'n' must be of integral type, but found {}", value_text(shown));
            fail(5_787_903, message)
        }
        Some(count) if count <= 0 => {
            fail(5_787_908, format!("'n' must be greater than 0, found {count}"))
        }
        Some(count) => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
    }
}

/// What accumulated so far.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    value: Option<Bson>,
    members: Vec<Bson>,
    sorted: Vec<(SortKey, Bson)>,
    sum: Sum,
    deviation: Deviation,
    count: i64,
    limit: usize,
}

/// Standard deviation by Welford's method, as the server computes it.
#[derive(Clone, Debug, Default)]
pub(in crate::mongod::query) struct Deviation {
    count: i64,
    mean: f64,
    squares: f64,
}

impl Deviation {
    pub(in crate::mongod::query) fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
    }

    /// The deviation; `correction` is 1 for that of a sample.
    pub(in crate::mongod::query) fn value(&self, correction: i64) -> Bson {
        if self.count <= correction {
            return Bson::Null;
        }
        Bson::Double((self.squares / (self.count - correction) as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use bson::bson;

    use super::*;

    #[test]
    fn sums_of_doubles_do_not_gather_rounding_errors() {
        let mut sum = Sum::default();
        for value in [0.1, 0.2, 0.3] {
            sum.add(ValueRef::Double(value));
        }
        assert_eq!(sum.value(), bson!(0.6));
    }

    #[test]
    fn an_n_is_a_positive_integer() {
        assert_eq!(checked_count(Some(bson!(2.0))), Ok(2));
        assert_eq!(checked_count(Some(bson!(0))).unwrap_err().code, 5_787_908);
        assert_eq!(checked_count(Some(bson!("x"))).unwrap_err().code, 5_787_902);
    }
}
