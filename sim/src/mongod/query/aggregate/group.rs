//! `$group` and `$bucket`: documents gathered by a key, and what accumulates over them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};
use crate::mongod::query::key::append_key;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::accumulator::{Accumulator, State};

/// `$group`. Groups come out in the order in which their first documents came in.
#[derive(Clone, Debug)]
pub(super) struct Group {
    id: Expression,
    fields: Vec<(String, Accumulator)>,
    collation: Collation,
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl Group {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Group, CommandError> {
        let ValueRef::Document(spec) = value else {
            return fail(15947, "a group's fields must be specified in an object");
        };
        let Some(id) = spec.get("_id") else {
            return fail(15955, "a group specification must include an _id");
        };
        let id = Expression::parse(id, context)?;
        let fields = parse_fields(spec, context)?;
        Ok(Group { id, fields, collation: context.collation })
    }

    /// The group by `id` with a `count`.
    pub(super) fn counting(id: Expression, collation: Collation) -> Group {
        Group { id, fields: vec![("count".into(), Accumulator::counting(collation))], collation }
    }

    pub(super) fn run(&self, documents: Vec<Document>) -> Result<Vec<Document>, CommandError> {
        let mut places: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut groups: Vec<(Bson, Vec<State>)> = Vec::new();
        for document in documents {
            let root = Bson::Document(document);
            let scope = Scope::new(&root);
            let id = self.id.evaluate_or_null(&scope)?;
            let mut key = Vec::new();
            append_key(&mut key, (&id).into(), self.collation, false);
            let place = match places.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(free) => {
                    let states = start_all(&self.fields, &id)?;
                    groups.push((id, states));
                    *free.insert(groups.len() - 1)
                }
            };
            for ((_, accumulator), state) in self.fields.iter().zip(&mut groups[place].1) {
                accumulator.add(state, &scope)?;
            }
        }
        Ok(groups.into_iter().map(|(id, states)| self.output(id, states)).collect())
    }

    fn output(&self, id: Bson, states: Vec<State>) -> Document {
        output(&self.fields, id, states)
    }
}

/// The document of a finished group.
pub(super) fn output(fields: &[(String, Accumulator)], id: Bson, states: Vec<State>) -> Document {
    let mut group = Document::new();
    group.insert("_id", id);
    for ((name, accumulator), state) in fields.iter().zip(states) {
        group.insert(name, accumulator.finish(state));
    }
    group
}

/// Fresh states of all accumulators.
pub(super) fn start_all(
    fields: &[(String, Accumulator)],
    id: &Bson,
) -> Result<Vec<State>, CommandError> {
    fields.iter().map(|(_, accumulator)| accumulator.start(id)).collect()
}

pub(super) fn parse_fields(
    spec: DocumentRef<'_>,
    context: &ParseContext,
) -> Result<Vec<(String, Accumulator)>, CommandError> {
    let mut fields: Vec<(String, Accumulator)> = Vec::new();
    for (name, value) in spec.iter().filter(|(name, _)| *name != "_id") {
        if name.contains('.') {
            return fail(40235, format!("The field name '{name}' cannot contain '.'"));
        }
        if name.starts_with('$') {
            return fail(40236, format!("The field name '{name}' cannot be an operator name"));
        }
        let ValueRef::Document(accumulator) = value else {
            return fail(40234, format!("The field '{name}' must be an accumulator object"));
        };
        let parts: Vec<(&str, ValueRef<'_>)> = accumulator.iter().collect();
        let [(operator, argument)] = parts[..] else {
            if parts.is_empty() {
                return fail(40234, format!("The field '{name}' must be an accumulator object"));
            }
            return fail(40238, format!("The field '{name}' must specify one accumulator"));
        };
        let Some(accumulator) = Accumulator::parse(operator, argument, context)? else {
            return fail(15952, format!("unknown group operator '{operator}'"));
        };
        fields.push((name.to_owned(), accumulator));
    }
    Ok(fields)
}

/// `$bucket`. Buckets come out in the order of their boundaries, the default one by its value.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    group: Group,
    boundaries: Vec<Bson>,
    default: Option<Bson>,
}

impl Bucket {
    pub(super) fn parse(
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Bucket, CommandError> {
        let ValueRef::Document(spec) = value else {
            let message = format!(
                "Argument to $bucket stage must be an object, but found type: {}.",
                value.type_name()
            );
            return fail(40201, message);
        };
        let (mut by, mut boundaries, mut default, mut fields) = (None, None, None, None);
        let constant = |value: ValueRef<'_>, code: i32, what: &str| {
            let expression = Expression::parse(value, context)?;
            match expression.as_literal() {
                Some(value) => Ok(value.clone()),
                None if what == "boundaries" => fail(
                    code,
                    format!(
                        "The $bucket 'boundaries' field must be an array of constant values, but found \
                         value: {}.",
                        value_text(value)
                    ),
                ),
                None => fail(code, format!("The $bucket '{what}' field must be a constant value")),
            }
        };
        for (name, value) in spec.iter() {
            match (name, value) {
                ("groupBy", value) => {
                    let is_path = value.as_str().is_some_and(|text| text.starts_with('$'));
                    if !is_path && value.as_document().is_none() {
                        let message = format!(
                            "The $bucket 'groupBy' field must be defined as a $-prefixed path or an \
                             expression, but found: {}.",
                            value_text(value)
                        );
                        return fail(40202, message);
                    }
                    by = Some(Expression::parse(value, context)?);
                }
                ("boundaries", ValueRef::Array(array)) => {
                    let members: Result<Vec<Bson>, CommandError> =
                        array.iter().map(|member| constant(member, 40191, "boundaries")).collect();
                    boundaries = Some(members?);
                }
                ("boundaries", other) => {
                    let message = format!(
                        "The $bucket 'boundaries' field must be an array, but found type: {}.",
                        other.type_name()
                    );
                    return fail(40200, message);
                }
                ("default", value) => default = Some(constant(value, 40195, "default")?),
                ("output", ValueRef::Document(output)) => {
                    fields = Some(parse_fields(output, context)?);
                }
                ("output", other) => {
                    let message = format!(
                        "The $bucket 'output' field must be an object, but found type: {}.",
                        other.type_name()
                    );
                    return fail(40196, message);
                }
                (name, _) => {
                    return fail(40197, format!("Unrecognized option to $bucket: {name}."));
                }
            }
        }
        let (Some(id), Some(boundaries)) = (by, boundaries) else {
            return fail(40198, "$bucket requires 'groupBy' and 'boundaries' to be specified.");
        };
        if boundaries.len() < 2 {
            let message = format!(
                "The $bucket 'boundaries' field must have at least 2 values, but found {} value(s).",
                boundaries.len()
            );
            return fail(40192, message);
        }
        for (place, pair) in boundaries.windows(2).enumerate() {
            let (low, high) = (ValueRef::from(&pair[0]), ValueRef::from(&pair[1]));
            if low.canonical_type() != high.canonical_type() {
                return fail(
                    40193,
                    format!(
                        "All values in the the 'boundaries' option to $bucket must have the same type. \
                         Found conflicting types {} and {}.",
                        low.type_name(),
                        high.type_name()
                    ),
                );
            }
            if !compare_collated(low, high, context.collation).is_lt() {
                return fail(
                    40194,
                    format!(
                        "The 'boundaries' option to $bucket must be sorted, but elements {place} and {} \
                         are not in ascending order ({} is not less than {}).",
                        place + 1,
                        value_text(low),
                        value_text(high)
                    ),
                );
            }
        }
        if let Some(default) = &default {
            let order = |boundary: &Bson| {
                compare_collated(default.into(), boundary.into(), context.collation)
            };
            if order(&boundaries[0]).is_ge() && order(&boundaries[boundaries.len() - 1]).is_lt() {
                return fail(
                    40199,
                    "The $bucket 'default' field must be less than the lowest boundary or greater than \
                     or equal to the highest boundary.",
                );
            }
        }
        let group = match fields {
            Some(fields) => Group { id, fields, collation: context.collation },
            None => Group::counting(id, context.collation),
        };
        Ok(Bucket { group, boundaries, default })
    }

    pub(super) fn run(&self, documents: Vec<Document>) -> Result<Vec<Document>, CommandError> {
        let group = &self.group;
        let mut buckets: Vec<Option<Vec<State>>> = vec![None; self.boundaries.len()];
        for document in documents {
            let root = Bson::Document(document);
            let scope = Scope::new(&root);
            let value = group.id.evaluate_or_null(&scope)?;
            let at_most = |boundary: &&Bson| {
                compare_collated((*boundary).into(), (&value).into(), group.collation).is_le()
            };
            let below = self.boundaries.iter().filter(at_most).count();
            let last = self.boundaries.len() - 1;
            // The last slot is the default bucket's.
            let place = if (1..=last).contains(&below) {
                below - 1
            } else if self.default.is_some() {
                last
            } else {
                return fail(
                    4_934_200,
                    "$switch could not find a matching branch for an input, and no default was \
                     specified.",
                );
            };
            if buckets[place].is_none() {
                buckets[place] = Some(start_all(&group.fields, &Bson::Null)?);
            }
            let states = buckets[place].as_mut().expect("made just now");
            for ((_, accumulator), state) in group.fields.iter().zip(states) {
                accumulator.add(state, &scope)?;
            }
        }
        let default = self.default.iter();
        let last = self.boundaries.len() - 1;
        let ids = self.boundaries[..last].iter().chain(default);
        let mut output: Vec<(&Bson, Document)> = ids
            .zip(buckets)
            .filter_map(|(id, states)| Some((id, group.output(id.clone(), states?))))
            .collect();
        output
            .sort_by(|(a, _), (b, _)| compare_collated((*a).into(), (*b).into(), group.collation));
        Ok(output.into_iter().map(|(_, document)| document).collect())
    }
}
