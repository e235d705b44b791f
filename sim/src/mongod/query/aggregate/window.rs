//! `$setWindowFields`: values computed over the neighbours of each document in its partition.

use std::collections::BTreeMap;

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope, split_path};
use crate::mongod::query::key::append_key;
use crate::mongod::query::number::{self, OnOverflow, as_exact_i64, as_f64};
use crate::mongod::query::sort::{SortKey, SortPattern};
use crate::mongod::query::text::{element_text, value_text};
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::accumulator::Accumulator;
use super::stage::put;

/// `$setWindowFields`.
#[derive(Clone, Debug)]
pub(super) struct SetWindowFields {
    partition: Option<Expression>,
    sort: Option<SortPattern>,
    /// The path of a sort by one field, for ranges.
    sort_path: Option<Vec<String>>,
    fields: Vec<(Vec<String>, Function, Window)>,
    collation: Collation,
}

#[derive(Clone, Debug)]
enum Function {
    Accumulate(Accumulator),
    DocumentNumber,
    Rank { dense: bool },
    Shift { output: Expression, by: i64, default: Bson },
    LinearFill(Expression),
    Locf(Expression),
    ExpMovingAvg { input: Expression, alpha: f64 },
    Derivative { input: Expression, unit_millis: Option<i64> },
    Integral { input: Expression, unit_millis: Option<i64> },
    Covariance { x: Expression, y: Expression, sample: bool },
}

/// The neighbours a function looks at.
#[derive(Clone, Debug)]
enum Window {
    /// By position, relative to the document; `None` is unbounded.
    Documents(Option<i64>, Option<i64>),
    /// By the value of the sort's field; a unit in milliseconds for dates.
    Range(Box<(Edge, Edge)>, Option<i64>),
}

#[derive(Clone, Debug)]
enum Edge {
    Unbounded,
    Current,
    Offset(Bson),
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn failed<T>(message: impl Into<String>) -> Result<T, CommandError> {
    fail(error::FAILED_TO_PARSE, message)
}

/// The milliseconds of a unit of fixed length.
fn unit_millis(value: ValueRef<'_>) -> Result<i64, CommandError> {
    let Some(name) = value.as_str() else {
        return failed("'unit' must be a string");
    };
    Ok(match name {
        "millisecond" => 1,
        "second" => 1_000,
        "minute" => 60_000,
        "hour" => 3_600_000,
        "day" => 86_400_000,
        "week" => 604_800_000,
        "month" | "quarter" | "year" => {
            return fail(5_490_704, format!("unit must be 'week' or smaller: {name}"));
        }
        _ => return failed(format!("unknown time unit value: {name}")),
    })
}

impl SetWindowFields {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<SetWindowFields, CommandError> {
        let ValueRef::Document(spec) = value else {
            let message = format!(
                "the $setWindowFields stage specification must be an object, found {}",
                value.type_name()
            );
            return failed(message);
        };
        let (mut partition, mut sort, mut sort_path, mut output) = (None, None, None, None);
        for (name, value) in spec.iter() {
            match (name, value) {
                ("partitionBy", value) => partition = Some(Expression::parse(value, context)?),
                ("sortBy", ValueRef::Document(pattern)) => {
                    let parsed = SortPattern::parse(pattern, context.collation)?;
                    let mut fields = parsed.fields();
                    sort_path = match (fields.next(), fields.next()) {
                        (Some((path, false)), None) => Some(split_path(path)?),
                        _ => None,
                    };
                    drop(fields);
                    sort = Some(parsed);
                }
                ("output", ValueRef::Document(document)) => output = Some(document),
                ("sortBy" | "output", other) => {
                    return fail(
                        error::TYPE_MISMATCH,
                        format!(
                            "BSON field '$setWindowFields.{name}' is the wrong type '{}', expected type \
                             'object'",
                            other.type_name()
                        ),
                    );
                }
                (name, _) => {
                    return fail(
                        40415,
                        format!("BSON field '$setWindowFields.{name}' is an unknown field."),
                    );
                }
            }
        }
        let Some(output) = output else {
            return fail(
                40414,
                "BSON field '$setWindowFields.output' is missing but a required field",
            );
        };
        let mut fields = Vec::new();
        for (name, value) in output.iter() {
            let path = split_path(name)?;
            let ValueRef::Document(function) = value else {
                return failed(format!("The field '{name}' must be a window function object"));
            };
            let (function, window) =
                parse_function(name, function, sort.as_ref(), sort_path.is_some(), context)?;
            fields.push((path, function, window));
        }
        Ok(SetWindowFields { partition, sort, sort_path, fields, collation: context.collation })
    }

    pub(super) fn run(&self, documents: Vec<Document>) -> Result<Vec<Document>, CommandError> {
        // Partitions in the order of their keys, as the sort in front of the real stage makes it.
        let mut partitions: BTreeMap<Vec<u8>, Vec<Document>> = BTreeMap::new();
        for document in documents {
            let mut key = Vec::new();
            if let Some(by) = &self.partition {
                let root = Bson::Document(document.clone());
                let value = by.evaluate_or_null(&Scope::new(&root))?;
                if matches!(value, Bson::Array(_)) {
                    return fail(
                        error::TYPE_MISMATCH,
                        "An expression used to partition cannot evaluate to value of type array",
                    );
                }
                append_key(&mut key, (&value).into(), self.collation, false);
            }
            partitions.entry(key).or_default().push(document);
        }
        let mut results = Vec::new();
        for (_, mut documents) in partitions {
            if let Some(sort) = &self.sort {
                sort.sort_by_document(&mut documents, |document| document.into());
            }
            results.extend(self.run_partition(documents)?);
        }
        Ok(results)
    }

    fn run_partition(&self, documents: Vec<Document>) -> Result<Vec<Document>, CommandError> {
        let roots: Vec<Bson> = documents.iter().cloned().map(Bson::Document).collect();
        let keys: Vec<Option<SortKey>> = documents
            .iter()
            .map(|document| self.sort.as_ref().map(|sort| sort.key(document)))
            .collect();
        let partition =
            Partition { roots: &roots, keys: &keys, sort_path: self.sort_path.as_deref() };
        let mut results = documents;
        for (path, function, window) in &self.fields {
            let values = partition.compute(function, window)?;
            for (document, value) in results.iter_mut().zip(values) {
                if let Some(value) = value {
                    put(document, path, value);
                }
            }
        }
        Ok(results)
    }
}

fn parse_function(
    field: &str,
    spec: DocumentRef<'_>,
    sort: Option<&SortPattern>,
    one_ascending: bool,
    context: &ParseContext,
) -> Result<(Function, Window), CommandError> {
    let (mut function, mut window) = (None, None);
    for (name, value) in spec.iter() {
        match name {
            "window" => {
                let ValueRef::Document(bounds) = value else {
                    return failed("'window' field must be an object");
                };
                window = Some(parse_window(bounds, sort, one_ascending)?);
            }
            name if name.starts_with('$') && function.is_some() => {
                return failed(format!(
                    "Cannot specify two functions in window function spec: {}",
                    crate::mongod::query::text::document_text(spec)
                ));
            }
            name if name.starts_with('$') => {
                function = Some((name.to_owned(), value));
            }
            name => {
                return failed(format!("Window function found an unknown argument: {name}"));
            }
        }
    }
    let Some((name, argument)) = function else {
        return failed(format!("Expected a $-prefixed window function, {field}"));
    };
    let no_window = |function: Function| match window {
        None => Ok((function, Window::Documents(None, None))),
        Some(_) => failed(format!("{name} does not accept a 'window' field")),
    };
    let needs_sort = || match sort {
        Some(_) => Ok(()),
        None => {
            fail(5_371_602, format!("{name} must be specified with a top level sortBy expression"))
        }
    };
    let arguments = |known: &[&str]| -> Result<DocumentRef<'_>, CommandError> {
        let ValueRef::Document(arguments) = argument else {
            return failed(format!("Argument to {name} must be an object"));
        };
        match arguments.iter().find(|(argument, _)| !known.contains(argument)) {
            Some((unknown, _)) => failed(format!("{name} got unexpected argument: {unknown}")),
            None => Ok(arguments),
        }
    };
    match name.as_str() {
        "$documentNumber" | "$rank" | "$denseRank" => {
            if !argument.as_document().is_some_and(DocumentRef::is_empty) {
                return fail(
                    5_371_603,
                    format!("{name} must be specified with '{{}}' as the value"),
                );
            }
            needs_sort()?;
            let fields = sort.map_or(0, |sort| sort.fields().count());
            if name != "$documentNumber" && fields != 1 {
                return fail(
                    5_371_602,
                    format!(
                        "{name} must be specified with a top level sortBy expression with exactly one \
                         element"
                    ),
                );
            }
            no_window(match name.as_str() {
                "$documentNumber" => Function::DocumentNumber,
                name => Function::Rank { dense: name == "$denseRank" },
            })
        }
        "$shift" => {
            let spec = arguments(&["output", "by", "default"])?;
            needs_sort()?;
            let (Some(output), Some(by)) = (spec.get("output"), spec.get("by")) else {
                return failed("$shift requires 'output' and 'by'");
            };
            let Some(by) = as_exact_i64(by) else {
                return failed(format!(
                    "'$shift:by' field must be an integer, but found {}",
                    value_text(by)
                ));
            };
            let default = match spec.get("default") {
                None => Bson::Null,
                Some(value) => match Expression::parse(value, context)?.as_literal() {
                    Some(value) => value.clone(),
                    None => {
                        return failed("'$shift:default' expression must yield a constant value");
                    }
                },
            };
            no_window(Function::Shift { output: Expression::parse(output, context)?, by, default })
        }
        "$linearFill" => {
            needs_sort()?;
            no_window(Function::LinearFill(Expression::parse(argument, context)?))
        }
        "$locf" => no_window(Function::Locf(Expression::parse(argument, context)?)),
        "$expMovingAvg" => {
            let spec = arguments(&["input", "N", "alpha"])?;
            needs_sort()?;
            let Some(input) = spec.get("input") else {
                return failed("$expMovingAvg requires an 'input' expression");
            };
            let alpha = match (spec.get("N"), spec.get("alpha")) {
                (Some(count), None) => match as_exact_i64(count) {
                    Some(count) if count > 0 => 2.0 / (count as f64 + 1.0),
                    _ => return failed("'N' must be greater than zero"),
                },
                (None, Some(alpha)) => match as_f64(alpha) {
                    Some(alpha) if alpha > 0.0 && alpha < 1.0 => alpha,
                    _ => {
                        return failed("'alpha' must be between 0 and 1 (exclusive)");
                    }
                },
                _ => {
                    return failed(
                        "$expMovingAvg sub object must have exactly two fields: An 'input' field, and \
                         either an 'N' field or an 'alpha' field",
                    );
                }
            };
            no_window(Function::ExpMovingAvg { input: Expression::parse(input, context)?, alpha })
        }
        "$derivative" | "$integral" => {
            let spec = arguments(&["input", "unit"])?;
            needs_sort()?;
            let Some(input) = spec.get("input") else {
                return failed(format!("{name} requires an 'input' expression"));
            };
            let unit_millis = spec.get("unit").map(unit_millis).transpose()?;
            let input = Expression::parse(input, context)?;
            if name == "$derivative" {
                let Some(window) = window else {
                    return failed("$derivative requires explicit window bounds");
                };
                return Ok((Function::Derivative { input, unit_millis }, window));
            }
            let window = window.unwrap_or(Window::Documents(None, None));
            Ok((Function::Integral { input, unit_millis }, window))
        }
        "$covariancePop" | "$covarianceSamp" => {
            let pair: Vec<ValueRef<'_>> =
                argument.as_array().map(|pair| pair.iter().collect()).unwrap_or_default();
            let [x, y] = pair[..] else {
                return failed(format!("{name} requires an array of two expressions"));
            };
            let function = Function::Covariance {
                x: Expression::parse(x, context)?,
                y: Expression::parse(y, context)?,
                sample: name == "$covarianceSamp",
            };
            Ok((function, window.unwrap_or(Window::Documents(None, None))))
        }
        name => match Accumulator::parse(name, argument, context)? {
            Some(accumulator) => Ok((
                Function::Accumulate(accumulator),
                window.unwrap_or(Window::Documents(None, None)),
            )),
            None => failed(format!("Unrecognized window function, {name}")),
        },
    }
}

fn parse_window(
    spec: DocumentRef<'_>,
    sort: Option<&SortPattern>,
    one_ascending: bool,
) -> Result<Window, CommandError> {
    let (mut documents, mut range, mut unit) = (None, None, None);
    for (name, value) in spec.iter() {
        match name {
            "documents" => documents = Some(value),
            "range" => range = Some(value),
            "unit" => unit = Some(value),
            name => return failed(format!("'window' field contains an unknown argument: {name}")),
        }
    }
    let pair = |name: &str, value: ValueRef<'_>| -> Result<[Edge; 2], CommandError> {
        let members: Vec<ValueRef<'_>> =
            value.as_array().map(|pair| pair.iter().collect()).unwrap_or_default();
        let [low, high] = members[..] else {
            return failed(format!(
                "Window bounds must be a 2-element array: {}",
                element_text(name, value)
            ));
        };
        let edge = |value: ValueRef<'_>| match value {
            ValueRef::String("unbounded") => Ok(Edge::Unbounded),
            ValueRef::String("current") => Ok(Edge::Current),
            value if value.is_number() => Ok(Edge::Offset(value.to_bson())),
            value => failed(format!(
                "Window bounds must be 'unbounded', 'current', or a number: {}",
                value_text(value)
            )),
        };
        Ok([edge(low)?, edge(high)?])
    };
    match (documents, range) {
        (Some(_), Some(_)) => {
            failed("Window bounds can specify either 'documents' or 'unit', not both.")
        }
        (Some(bounds), None) => {
            if unit.is_some() {
                return failed("Window bounds can specify either 'documents' or 'unit', not both.");
            }
            let [low, high] = pair("documents", bounds)?;
            let offset = |edge: &Edge| match edge {
                Edge::Unbounded => Ok(None),
                Edge::Current => Ok(Some(0)),
                Edge::Offset(value) => match as_exact_i64(value.into()) {
                    Some(offset) => Ok(Some(offset)),
                    None => failed("Numeric document-based bounds must be an integer"),
                },
            };
            let (low, high) = (offset(&low)?, offset(&high)?);
            if sort.is_none() && (low, high) != (None, None) {
                return fail(5_339_901, "Document-based bounds require a sortBy");
            }
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                return fail(
                    5_339_900,
                    format!("Lower bound must not exceed upper bound: [{low}, {high}]"),
                );
            }
            Ok(Window::Documents(low, high))
        }
        (None, Some(bounds)) => {
            let [low, high] = pair("range", bounds)?;
            let unit = unit.map(unit_millis).transpose()?;
            if !one_ascending {
                return fail(5_339_902, "Range-based bounds require sortBy a single field");
            }
            Ok(Window::Range(Box::new((low, high)), unit))
        }
        (None, None) => failed("'window' field must contain either 'documents' or 'range'"),
    }
}

/// The documents of one partition, sorted.
struct Partition<'a> {
    roots: &'a [Bson],
    keys: &'a [Option<SortKey>],
    sort_path: Option<&'a [String]>,
}

impl Partition<'_> {
    fn compute(
        &self,
        function: &Function,
        window: &Window,
    ) -> Result<Vec<Option<Bson>>, CommandError> {
        let length = self.roots.len();
        let at = |expression: &Expression, place: usize| {
            expression.evaluate(&Scope::new(&self.roots[place]))
        };
        let mut values = Vec::with_capacity(length);
        match function {
            Function::DocumentNumber => {
                values.extend((0..length).map(|place| Some(count(place + 1))));
            }
            Function::Rank { dense } => {
                let (mut rank, mut distinct) = (0, 0);
                for place in 0..length {
                    if place == 0 || self.keys[place] != self.keys[place - 1] {
                        rank = place + 1;
                        distinct += 1;
                    }
                    values.push(Some(count(if *dense { distinct } else { rank })));
                }
            }
            Function::Shift { output, by, default } => {
                for place in 0..length {
                    let from =
                        (place as i64).checked_add(*by).and_then(|at| usize::try_from(at).ok());
                    values.push(match from.filter(|from| *from < length) {
                        Some(from) => Some(at(output, from)?.unwrap_or(Bson::Null)),
                        None => Some(default.clone()),
                    });
                }
            }
            Function::Locf(input) => {
                let mut last = Bson::Null;
                for place in 0..length {
                    if let Some(value) = at(input, place)?.filter(|value| *value != Bson::Null) {
                        last = value;
                    }
                    values.push(Some(last.clone()));
                }
            }
            Function::LinearFill(input) => return self.linear_fill(input),
            Function::ExpMovingAvg { input, alpha } => {
                let mut average: Option<f64> = None;
                for place in 0..length {
                    let value = at(input, place)?.as_ref().and_then(|value| as_f64(value.into()));
                    if let Some(value) = value {
                        average = Some(match average {
                            None => value,
                            Some(average) => value * alpha + average * (1.0 - alpha),
                        });
                    }
                    values.push(Some(average.map_or(Bson::Null, Bson::Double)));
                }
            }
            _ => {
                for place in 0..length {
                    let (from, to) = self.bounds(window, place)?;
                    values.push(Some(self.over(function, from, to)?));
                }
            }
        }
        Ok(values)
    }

    /// What a function over a window is between two places, the second left out.
    fn over(&self, function: &Function, from: usize, to: usize) -> Result<Bson, CommandError> {
        let places = from..to.max(from);
        match function {
            Function::Accumulate(accumulator) => {
                let mut state = accumulator.start(&Bson::Null)?;
                for place in places {
                    accumulator.add(&mut state, &Scope::new(&self.roots[place]))?;
                }
                Ok(accumulator.finish(state))
            }
            Function::Covariance { x, y, sample } => {
                let mut pairs = Vec::new();
                for place in places {
                    let scope = Scope::new(&self.roots[place]);
                    let number =
                        |value: Option<Bson>| value.and_then(|value| as_f64((&value).into()));
                    if let (Some(x), Some(y)) =
                        (number(x.evaluate(&scope)?), number(y.evaluate(&scope)?))
                    {
                        pairs.push((x, y));
                    }
                }
                let (mut mean_x, mut mean_y, mut sum) = (0.0, 0.0, 0.0);
                for (count, (x, y)) in pairs.iter().enumerate() {
                    let delta = x - mean_x;
                    mean_x += delta / (count as f64 + 1.0);
                    mean_y += (y - mean_y) / (count as f64 + 1.0);
                    sum += delta * (y - mean_y);
                }
                let divisor = pairs.len() as f64 - f64::from(u8::from(*sample));
                Ok(if divisor > 0.0 { Bson::Double(sum / divisor) } else { Bson::Null })
            }
            Function::Derivative { input, unit_millis } => {
                if places.len() < 2 {
                    return Ok(Bson::Null);
                }
                let (first, last) = (places.start, places.end - 1);
                let (Some(x0), Some(x1)) = (self.position(first)?, self.position(last)?) else {
                    return Ok(Bson::Null);
                };
                let value = |place: usize| -> Result<Option<f64>, CommandError> {
                    let value = input.evaluate(&Scope::new(&self.roots[place]))?;
                    Ok(value.and_then(|value| as_f64((&value).into())))
                };
                let (Some(y0), Some(y1)) = (value(first)?, value(last)?) else {
                    return Ok(Bson::Null);
                };
                let run = (x1 - x0) / unit_millis.map_or(1.0, |unit| unit as f64);
                Ok(if run == 0.0 { Bson::Null } else { Bson::Double((y1 - y0) / run) })
            }
            Function::Integral { input, unit_millis } => {
                let mut area = 0.0;
                let mut before: Option<(f64, f64)> = None;
                for place in places {
                    let value = input.evaluate(&Scope::new(&self.roots[place]))?;
                    let value = value.and_then(|value| as_f64((&value).into()));
                    let (Some(x), Some(y)) = (self.position(place)?, value) else { continue };
                    if let Some((x0, y0)) = before {
                        area += (x - x0) * (y + y0) / 2.0;
                    }
                    before = Some((x, y));
                }
                Ok(Bson::Double(area / unit_millis.map_or(1.0, |unit| unit as f64)))
            }
            _ => unreachable!("functions without a window are computed elsewhere"),
        }
    }

    /// The value of the sort's field as a number: dates by their milliseconds.
    fn position(&self, place: usize) -> Result<Option<f64>, CommandError> {
        Ok(match self.sort_value(place) {
            Some(Bson::DateTime(date)) => Some(date.timestamp_millis() as f64),
            Some(value) => as_f64((&value).into()),
            None => None,
        })
    }

    fn sort_value(&self, place: usize) -> Option<Bson> {
        crate::mongod::query::expression::get_path(&self.roots[place], self.sort_path?)
    }

    fn bounds(&self, window: &Window, place: usize) -> Result<(usize, usize), CommandError> {
        let length = self.roots.len() as i64;
        match window {
            Window::Documents(low, high) => {
                let here = place as i64;
                let low = low.map_or(0, |low| here.saturating_add(low).clamp(0, length));
                let high = high.map_or(length, |high| {
                    here.saturating_add(high).saturating_add(1).clamp(0, length)
                });
                Ok((low as usize, high as usize))
            }
            Window::Range(edges, unit) => {
                let (low, high) = edges.as_ref();
                let Some(here) = self.sort_value(place) else {
                    return fail(
                        5_429_414,
                        "Missing value for sortBy field in a range-based window",
                    );
                };
                let shifted = |edge: &Edge| -> Result<Option<Bson>, CommandError> {
                    let offset = match edge {
                        Edge::Unbounded => return Ok(None),
                        Edge::Current => return Ok(Some(here.clone())),
                        Edge::Offset(offset) => offset,
                    };
                    match (&here, unit) {
                        (Bson::DateTime(date), Some(unit)) => {
                            let by = as_exact_i64(offset.into()).unwrap_or(0).saturating_mul(*unit);
                            let millis = date.timestamp_millis().saturating_add(by);
                            Ok(Some(Bson::DateTime(bson::DateTime::from_millis(millis))))
                        }
                        (_, Some(_)) => fail(
                            5_429_513,
                            "Invalid range: Expected the sortBy field to be a Date, but it was not",
                        ),
                        (here, None) => {
                            match number::add(here.into(), offset.into(), OnOverflow::Double) {
                                Some(value) => Ok(Some(value)),
                                None => fail(
                                    5_429_414,
                                    format!(
                                        "Invalid range: Expected the sortBy field to be a number, but \
                                         it was {}",
                                        ValueRef::from(here).type_name()
                                    ),
                                ),
                            }
                        }
                    }
                };
                let (low, high) = (shifted(low)?, shifted(high)?);
                let compare = |place: usize, edge: &Bson| {
                    let value = self.sort_value(place).unwrap_or(Bson::Null);
                    crate::mongod::query::compare::compare(&value, edge)
                };
                let places = 0..self.roots.len();
                let from = low.map_or(0, |low| {
                    places.clone().filter(|at| compare(*at, &low).is_lt()).count()
                });
                let to = high.map_or(self.roots.len(), |high| {
                    places.filter(|at| compare(*at, &high).is_le()).count()
                });
                Ok((from, to))
            }
        }
    }

    /// Nulls between two numbers lie on the line between them.
    fn linear_fill(&self, input: &Expression) -> Result<Vec<Option<Bson>>, CommandError> {
        let mut values = Vec::new();
        for root in self.roots {
            values.push(input.evaluate(&Scope::new(root))?.unwrap_or(Bson::Null));
        }
        let mut last: Option<usize> = None;
        for place in 0..values.len() {
            let Some(after) = as_f64((&values[place]).into()) else {
                if values[place] != Bson::Null {
                    return fail(6_050_201, "Value to be filled must be numeric or nullish");
                }
                continue;
            };
            if let Some(last) = last
                && place - last > 1
                && let (Some(x0), Some(x1)) = (self.position(last)?, self.position(place)?)
            {
                let before = as_f64((&values[last]).into()).unwrap_or(0.0);
                for (between, value) in (last + 1..place).zip(&mut values[last + 1..place]) {
                    if let Some(x) = self.position(between)? {
                        *value = Bson::Double(before + (after - before) * (x - x0) / (x1 - x0));
                    }
                }
            }
            last = Some(place);
        }
        Ok(values.into_iter().map(Some).collect())
    }
}

fn count(number: usize) -> Bson {
    super::stage::count(number)
}
