//! `$bucketAuto`: documents gathered into so many buckets of about the same size.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::ValueRef;

use super::accumulator::Accumulator;
use super::group::{output, parse_fields, start_all};

/// `$bucketAuto`.
#[derive(Clone, Debug)]
pub(super) struct BucketAuto {
    by: Expression,
    buckets: usize,
    fields: Vec<(String, Accumulator)>,
    granularity: Option<&'static Series>,
    collation: Collation,
}

/// A series of preferred numbers: the steps of one decade; none for the powers of two.
#[derive(Debug)]
struct Series {
    name: &'static str,
    steps: &'static [f64],
}

static SERIES: &[Series] = &[
    Series { name: "R5", steps: &[10.0, 16.0, 25.0, 40.0, 63.0] },
    Series {
        name: "R10",
        steps: &[100.0, 125.0, 160.0, 200.0, 250.0, 315.0, 400.0, 500.0, 630.0, 800.0],
    },
    Series {
        name: "R20",
        steps: &[
            100.0, 112.0, 125.0, 140.0, 160.0, 180.0, 200.0, 224.0, 250.0, 280.0, 315.0, 355.0,
            400.0, 450.0, 500.0, 560.0, 630.0, 710.0, 800.0, 900.0,
        ],
    },
    Series { name: "1-2-5", steps: &[10.0, 20.0, 50.0] },
    Series { name: "E6", steps: &[10.0, 15.0, 22.0, 33.0, 47.0, 68.0] },
    Series {
        name: "E12",
        steps: &[10.0, 12.0, 15.0, 18.0, 22.0, 27.0, 33.0, 39.0, 47.0, 56.0, 68.0, 82.0],
    },
    Series {
        name: "E24",
        steps: &[
            10.0, 11.0, 12.0, 13.0, 15.0, 16.0, 18.0, 20.0, 22.0, 24.0, 27.0, 30.0, 33.0, 36.0,
            39.0, 43.0, 47.0, 51.0, 56.0, 62.0, 68.0, 75.0, 82.0, 91.0,
        ],
    },
    Series { name: "POWERSOF2", steps: &[] },
];

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl BucketAuto {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<BucketAuto, CommandError> {
        let ValueRef::Document(spec) = value else {
            let message = format!(
                "The argument to $bucketAuto must be an object, but found type: {}",
                value.type_name()
            );
            return fail(40240, message);
        };
        let (mut by, mut buckets, mut fields, mut granularity) = (None, None, None, None);
        for (name, value) in spec.iter() {
            match (name, value) {
                ("groupBy", value) => {
                    let is_operator = value
                        .as_document()
                        .and_then(|document| document.iter().next())
                        .is_some_and(|(name, _)| name.starts_with('$'));
                    let is_path = value.as_str().is_some_and(|text| text.starts_with('$'));
                    if !is_operator && !is_path {
                        let message = format!(
                            "The $bucketAuto 'groupBy' field must be defined as a $-prefixed path or \
                             an expression object, but found: {}",
                            value_text(value)
                        );
                        return fail(40239, message);
                    }
                    by = Some(Expression::parse(value, context)?);
                }
                ("buckets", value) if !value.is_number() => {
                    let message = format!(
                        "The $bucketAuto 'buckets' field must be a numeric value, but found type: {}",
                        value.type_name()
                    );
                    return fail(40241, message);
                }
                ("buckets", value) => {
                    let number = as_exact_i64(value).and_then(|number| i32::try_from(number).ok());
                    let Some(number) = number else {
                        let message = format!(
                            "The $bucketAuto 'buckets' field must be representable as a 32-bit \
                             integer, but found {}",
                            value_text(value)
                        );
                        return fail(40242, message);
                    };
                    if number <= 0 {
                        let message = format!(
                            "The $bucketAuto 'buckets' field must be greater than 0, but found: \
                             {number}"
                        );
                        return fail(40243, message);
                    }
                    buckets = Some(number as usize);
                }
                ("output", ValueRef::Document(output)) => {
                    fields = Some(parse_fields(output, context)?);
                }
                ("output", other) => {
                    let message = format!(
                        "The $bucketAuto 'output' field must be an object, but found type: {}",
                        other.type_name()
                    );
                    return fail(40244, message);
                }
                ("granularity", ValueRef::String(name)) => {
                    let Some(series) = SERIES.iter().find(|series| series.name == name) else {
                        return fail(40257, format!("Unknown rounding granularity '{name}'"));
                    };
                    granularity = Some(series);
                }
                ("granularity", other) => {
                    let message = format!(
                        "The $bucketAuto 'granularity' field must be a string, but found type: {}",
                        other.type_name()
                    );
                    return fail(40261, message);
                }
                (name, _) => {
                    return fail(40245, format!("Unrecognized option to $bucketAuto: {name}"));
                }
            }
        }
        let (Some(by), Some(buckets)) = (by, buckets) else {
            return fail(40246, "$bucketAuto requires 'groupBy' and 'buckets' to be specified");
        };
        let fields = fields
            .unwrap_or_else(|| vec![("count".into(), Accumulator::counting(context.collation))]);
        Ok(BucketAuto { by, buckets, fields, granularity, collation: context.collation })
    }

    pub(super) fn run(&self, documents: Vec<Document>) -> Result<Vec<Document>, CommandError> {
        let mut sorted: Vec<(Bson, Bson)> = Vec::with_capacity(documents.len());
        for document in documents {
            let root = Bson::Document(document);
            let value = self.by.evaluate_or_null(&Scope::new(&root))?;
            if self.granularity.is_some() {
                match as_f64((&value).into()) {
                    None => {
                        let message = format!(
                            "$bucketAuto can specify a 'granularity' with numeric boundaries only, but \
                             found a value with type: {}",
                            ValueRef::from(&value).type_name()
                        );
                        return fail(40258, message);
                    }
                    Some(number) if number.is_nan() => {
                        return fail(
                            40259,
                            "$bucketAuto can specify a 'granularity' with numeric boundaries only, but \
                             found a NaN",
                        );
                    }
                    Some(number) if number < 0.0 => {
                        return fail(
                            40260,
                            "$bucketAuto can specify a 'granularity' with non-negative numbers only, \
                             but found a negative number",
                        );
                    }
                    Some(_) => {}
                }
            }
            sorted.push((value, root));
        }
        let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), self.collation);
        sorted.sort_by(|a, b| order(&a.0, &b.0));
        // The size of a bucket, rounded to the nearest.
        let size = ((sorted.len() as f64 / self.buckets as f64).round() as usize).max(1);
        let mut results = Vec::new();
        let mut rest = sorted.as_slice();
        let mut lower: Option<Bson> = None;
        while !rest.is_empty() && results.len() < self.buckets {
            let last = results.len() + 1 == self.buckets;
            let mut take = if last { rest.len() } else { size.min(rest.len()) };
            // Equal values stay together.
            while take < rest.len() && order(&rest[take - 1].0, &rest[take].0).is_eq() {
                take += 1;
            }
            let mut min = lower.clone().unwrap_or_else(|| rest[0].0.clone());
            let mut max = rest.get(take).unwrap_or(&rest[take - 1]).0.clone();
            if let Some(series) = self.granularity {
                if lower.is_none() {
                    min = series.round_down(&rest[0].0);
                }
                let edge = series.round_up(&rest[take - 1].0);
                while take < rest.len() && order(&rest[take].0, &edge).is_lt() {
                    take += 1;
                }
                max = edge;
            }
            let mut states = start_all(&self.fields, &Bson::Null)?;
            for (_, root) in &rest[..take] {
                let scope = Scope::new(root);
                for ((_, accumulator), state) in self.fields.iter().zip(&mut states) {
                    accumulator.add(state, &scope)?;
                }
            }
            rest = &rest[take..];
            lower = Some(max.clone());
            let id = bson::doc! { "min": min, "max": max };
            results.push(output(&self.fields, Bson::Document(id), states));
        }
        Ok(results)
    }
}

impl Series {
    /// The preferred number below a value.
    fn round_down(&self, value: &Bson) -> Bson {
        let number = as_f64(value.into()).unwrap_or(0.0);
        if number == 0.0 {
            return value.clone();
        }
        if self.steps.is_empty() {
            let power = number.log2().ceil() - 1.0;
            return whole_like(value, power.exp2());
        }
        let (mut scale, steps) = (1.0, self.steps);
        while steps[0] * scale >= number {
            scale /= 10.0;
        }
        while steps[0] * scale * 10.0 < number {
            scale *= 10.0;
        }
        let below = steps.iter().rev().find(|step| **step * scale < number);
        Bson::Double(below.map_or(steps[0] * scale, |step| step * scale))
    }

    /// The preferred number above a value.
    fn round_up(&self, value: &Bson) -> Bson {
        let number = as_f64(value.into()).unwrap_or(0.0);
        if number == 0.0 {
            return value.clone();
        }
        if self.steps.is_empty() {
            let power = number.log2().floor() + 1.0;
            return whole_like(value, power.exp2());
        }
        let (mut scale, steps) = (1.0, self.steps);
        while steps[0] * scale > number {
            scale /= 10.0;
        }
        while steps[0] * scale * 10.0 <= number {
            scale *= 10.0;
        }
        let above = steps.iter().find(|step| **step * scale > number);
        Bson::Double(above.map_or(steps[0] * scale * 10.0, |step| step * scale))
    }
}

/// A power of two in the type of the value it came from.
fn whole_like(value: &Bson, number: f64) -> Bson {
    match value {
        Bson::Int32(_) | Bson::Int64(_) if number >= 1.0 => match number < f64::from(i32::MAX) {
            true => Bson::Int32(number as i32),
            false => Bson::Int64(number as i64),
        },
        _ => Bson::Double(number),
    }
}
