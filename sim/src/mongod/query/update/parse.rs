//! From an update document to its operators.

use std::cmp::Ordering;

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::SortBy;
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::path::array_index;
use crate::mongod::query::text::{document_text, element_text, value_text};
use crate::mongod::query::transform::Transform;
use crate::mongod::query::value::{ArrayRef, DocumentRef, ValueRef};

use super::arrays::{Pull, Push};
use super::operator::{BitOperation, Component, Modification, Operator};
use super::{Kind, fill_empty_timestamps, is_prefix};

/// One of `arrayFilters`.
#[derive(Clone, Debug)]
pub(super) struct ArrayFilter {
    pub identifier: String,
    matcher: Matcher,
}

impl ArrayFilter {
    /// Whether it lets an element through.
    pub(super) fn matches(&self, element: &Bson) -> Result<bool, CommandError> {
        let mut document = Document::new();
        document.insert(&self.identifier, element.clone());
        self.matcher.matches(&document)
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::FAILED_TO_PARSE, message))
}

fn bad_value<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::BAD_VALUE, message))
}

pub(super) fn parse(
    update: ValueRef<'_>,
    array_filters: &[DocumentRef<'_>],
    context: &ParseContext,
) -> Result<Kind, CommandError> {
    let document = match update {
        ValueRef::Document(document) => document,
        ValueRef::Array(stages) => {
            if !array_filters.is_empty() {
                return failed("arrayFilters may not be specified for pipeline-style updates");
            }
            return parse_pipeline(stages, context).map(Kind::Pipeline);
        }
        _ => return failed("Update argument must be either an object or an array"),
    };
    let operators = document.iter().next().is_some_and(|(name, _)| name.starts_with('$'));
    if !operators {
        if !array_filters.is_empty() {
            return failed("arrayFilters may not be specified for replacement-style updates");
        }
        let mut replacement = document.to_document();
        if let Some(name) = replacement.keys().find(|name| name.starts_with('$')) {
            return Err(CommandError::new(
                error::DOLLAR_PREFIXED_FIELD_NAME,
                format!(
                    "The dollar ($) prefixed field '{name}' in '{name}' is not allowed in the \
                     context of an update's replacement document. Consider using an aggregation \
                     pipeline with $replaceWith."
                ),
            ));
        }
        fill_empty_timestamps(&mut replacement, context.cluster_time);
        return Ok(Kind::Replacement(replacement));
    }
    let filters = parse_array_filters(array_filters, context)?;
    let mut modifications = Vec::new();
    for (name, value) in document.iter() {
        parse_operator(name, value, context, &mut modifications)?;
    }
    modifications.sort_by(|a, b| compare_paths(&a.dotted, &b.dotted));
    check_filters(&modifications, &filters, document)?;
    Ok(Kind::Operators { modifications, filters })
}

/// What of a pipeline the command itself is refused for, not only its statement.
///
/// # Errors
/// 14 TypeMismatch, 40323, 40324.
pub fn check_stages(stages: ArrayRef<'_>) -> Result<(), CommandError> {
    for stage in stages.iter() {
        let ValueRef::Document(stage) = stage else {
            let message = "Each element of the 'pipeline' array must be an object";
            return Err(CommandError::new(error::TYPE_MISMATCH, message));
        };
        let mut fields = stage.iter();
        let (Some((name, _)), None) = (fields.next(), fields.next()) else {
            let message = "A pipeline stage specification object must contain exactly one field.";
            return Err(CommandError::new(40323, message));
        };
        if !crate::mongod::query::aggregate::is_stage(name) {
            let message = format!("Unrecognized pipeline stage name: '{name}'");
            return Err(CommandError::new(40324, message));
        }
    }
    Ok(())
}

fn parse_pipeline(
    stages: ArrayRef<'_>,
    context: &ParseContext,
) -> Result<Vec<Transform>, CommandError> {
    let mut transforms = Vec::new();
    for stage in stages.iter() {
        let ValueRef::Document(stage) = stage else {
            let message = "Each element of the 'pipeline' array must be an object";
            return Err(CommandError::new(error::TYPE_MISMATCH, message));
        };
        let fields: Vec<(&str, ValueRef<'_>)> = stage.iter().collect();
        let [(name, value)] = fields[..] else {
            let message = "A pipeline stage specification object must contain exactly one field.";
            return Err(CommandError::new(40323, message));
        };
        match Transform::parse(name, value, context)? {
            Some(transform) => transforms.push(transform),
            None if crate::mongod::query::aggregate::is_stage(name) => {
                return Err(CommandError::new(
                    error::INVALID_OPTIONS,
                    format!("{name} is not allowed to be used within an update"),
                ));
            }
            None => {
                let message = format!("Unrecognized pipeline stage name: '{name}'");
                return Err(CommandError::new(40324, message));
            }
        }
    }
    Ok(transforms)
}

fn parse_array_filters(
    filters: &[DocumentRef<'_>],
    context: &ParseContext,
) -> Result<Vec<ArrayFilter>, CommandError> {
    let mut parsed: Vec<ArrayFilter> = Vec::new();
    for filter in filters {
        let Some(identifier) = first_name(*filter) else {
            return failed(
                "Cannot use an expression without a top-level field name in arrayFilters",
            );
        };
        let valid = identifier.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
            && identifier.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !valid {
            return bad_value(format!(
                "Error parsing array filter :: caused by :: The top-level field name must be an \
                 alphanumeric string beginning with a lowercase letter, found '{identifier}'"
            ));
        }
        if parsed.iter().any(|known| known.identifier == identifier) {
            return failed(format!(
                "Found multiple array filters with the same top-level field name {identifier}"
            ));
        }
        if let Some(other) = other_name(*filter, &identifier) {
            return failed(format!(
                "Error parsing array filter :: caused by :: Expected a single top-level field name, \
                 found '{identifier}' and '{other}'"
            ));
        }
        let matcher = Matcher::parse(*filter, context).map_err(|error| CommandError {
            message: format!("Error parsing array filter :: caused by :: {}", error.message),
            ..error
        })?;
        parsed.push(ArrayFilter { identifier, matcher });
    }
    Ok(parsed)
}

/// The first component of the first path a filter names, inside logical operators too.
fn first_name(filter: DocumentRef<'_>) -> Option<String> {
    for (name, value) in filter.iter() {
        match (name.starts_with('$'), value) {
            (false, _) => return Some(name.split('.').next().unwrap_or(name).to_owned()),
            (true, ValueRef::Array(members)) => {
                for member in members.iter() {
                    let name = member.as_document().and_then(first_name);
                    if name.is_some() {
                        return name;
                    }
                }
            }
            _ => {}
        }
    }
    None
}

/// A first component that is not `identifier`, inside logical operators too.
fn other_name(filter: DocumentRef<'_>, identifier: &str) -> Option<String> {
    for (name, value) in filter.iter() {
        if !name.starts_with('$') {
            let first = name.split('.').next().unwrap_or(name);
            if first != identifier {
                return Some(first.to_owned());
            }
        } else if let ValueRef::Array(members) = value {
            let other = members
                .iter()
                .filter_map(ValueRef::as_document)
                .find_map(|member| other_name(member, identifier));
            if other.is_some() {
                return other;
            }
        }
    }
    None
}

/// Every identifier must have a filter, every filter a use.
fn check_filters(
    modifications: &[Modification],
    filters: &[ArrayFilter],
    update: DocumentRef<'_>,
) -> Result<(), CommandError> {
    let used = |filter: &ArrayFilter| {
        let is_it = |component: &Component| matches!(component, Component::Filtered(name) if *name == filter.identifier);
        modifications.iter().any(|modification| modification.path.iter().any(is_it))
    };
    for modification in modifications {
        for component in &modification.path {
            if let Component::Filtered(name) = component
                && filters.iter().all(|filter| filter.identifier != *name)
            {
                return bad_value(format!(
                    "No array filter found for identifier '{name}' in path '{}'",
                    modification.dotted
                ));
            }
        }
    }
    match filters.iter().find(|filter| !used(filter)) {
        Some(filter) => failed(format!(
            "The array filter for identifier '{}' was not used in the update {}",
            filter.identifier,
            document_text(update)
        )),
        None => Ok(()),
    }
}

/// The order in which an update's paths are applied: by component, numbers as numbers.
fn compare_paths(a: &str, b: &str) -> Ordering {
    let mut left = a.split('.');
    let mut right = b.split('.');
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => {
                let order = match (array_index(a), array_index(b)) {
                    (Some(a), Some(b)) => a.cmp(&b),
                    _ => a.cmp(b),
                };
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
}

fn parse_operator(
    name: &str,
    value: ValueRef<'_>,
    context: &ParseContext,
    modifications: &mut Vec<Modification>,
) -> Result<(), CommandError> {
    const KNOWN: [&str; 15] = [
        "$set",
        "$setOnInsert",
        "$unset",
        "$inc",
        "$mul",
        "$min",
        "$max",
        "$rename",
        "$currentDate",
        "$bit",
        "$push",
        "$addToSet",
        "$pop",
        "$pull",
        "$pullAll",
    ];
    if !KNOWN.contains(&name) {
        return failed(format!(
            "Unknown modifier: {name}. Expected a valid update modifier or pipeline-style update \
             specified as an array"
        ));
    }
    let ValueRef::Document(fields) = value else {
        return failed(format!(
            "Modifiers operate on fields but we found type {} instead. For example: {{$mod: \
             {{<field>: ...}}}} not {{{}}}",
            value.type_name(),
            element_text(name, value)
        ));
    };
    for (dotted, value) in fields.iter() {
        let path = parse_path(dotted)?;
        check_conflict(modifications, dotted)?;
        let operator = match name {
            "$set" => Operator::Set(value.to_bson()),
            "$setOnInsert" => Operator::SetOnInsert(value.to_bson()),
            "$unset" => Operator::Unset,
            "$inc" | "$mul" => {
                if !value.is_number() {
                    let verb = if name == "$inc" { "increment" } else { "multiply" };
                    return Err(CommandError::new(
                        error::TYPE_MISMATCH,
                        format!(
                            "Cannot {verb} with non-numeric argument: {{{}}}",
                            element_text(dotted, value)
                        ),
                    ));
                }
                if name == "$inc" {
                    Operator::Inc(value.to_bson())
                } else {
                    Operator::Mul(value.to_bson())
                }
            }
            "$min" => Operator::Min(value.to_bson()),
            "$max" => Operator::Max(value.to_bson()),
            "$rename" => {
                let Some(to) = value.as_str() else {
                    return bad_value(format!(
                        "The 'to' field for $rename must be a string: {}",
                        element_text(dotted, value)
                    ));
                };
                if to.contains('\0') {
                    return bad_value(
                        "The 'to' field for $rename cannot contain an embedded null byte",
                    );
                }
                let components = parse_path(to)?;
                let dynamic = |path: &[Component]| {
                    path.iter().any(|component| !matches!(component, Component::Name(_)))
                };
                if dynamic(&path) {
                    return bad_value(format!(
                        "The source field for $rename may not be dynamic: {dotted}"
                    ));
                }
                if dynamic(&components) {
                    return bad_value(format!(
                        "The destination field for $rename may not be dynamic: {to}"
                    ));
                }
                if to == dotted || is_prefix(to, dotted) || is_prefix(dotted, to) {
                    return bad_value(format!(
                        "The source and target field for $rename must differ: {}",
                        element_text(dotted, value)
                    ));
                }
                check_conflict(modifications, to)?;
                Operator::Rename(to.split('.').map(str::to_owned).collect())
            }
            "$currentDate" => Operator::CurrentDate(parse_current_date(value, context)?),
            "$bit" => Operator::Bit(parse_bit(value)?),
            "$push" => Operator::Push(parse_push(value, context)?),
            "$addToSet" => Operator::AddToSet(parse_each(value)?),
            "$pop" => {
                if !value.is_number() {
                    return failed(format!(
                        "Expected a number in: {}",
                        element_text(dotted, value)
                    ));
                }
                let Some(number) =
                    as_f64(value).map(f64::trunc).filter(|number| number.abs() == 1.0)
                else {
                    return failed(format!("$pop expects 1 or -1, found: {}", value_text(value)));
                };
                Operator::Pop { first: number < 0.0 }
            }
            "$pull" => Operator::Pull(parse_pull(value, context)?),
            _ => {
                let Some(values) = value.as_array() else {
                    return bad_value(format!(
                        "$pullAll requires an array argument but was given a {}",
                        value.type_name()
                    ));
                };
                Operator::PullAll(values.to_vec())
            }
        };
        modifications.push(Modification {
            path,
            dotted: dotted.to_owned(),
            operator,
            collation: context.collation,
        });
    }
    Ok(())
}

fn parse_path(dotted: &str) -> Result<Vec<Component>, CommandError> {
    const EMPTY_FIELD_NAME: i32 = 56;
    if dotted.is_empty() {
        return Err(CommandError::new(EMPTY_FIELD_NAME, "An empty update path is not valid."));
    }
    let mut path = Vec::new();
    for part in dotted.split('.') {
        path.push(match part {
            "" => {
                return Err(CommandError::new(
                    EMPTY_FIELD_NAME,
                    format!(
                        "The update path '{dotted}' contains an empty field name, which is not \
                         allowed."
                    ),
                ));
            }
            "$" => Component::Positional,
            "$[]" => Component::AllElements,
            part => match part.strip_prefix("$[").and_then(|part| part.strip_suffix(']')) {
                Some(identifier) => Component::Filtered(identifier.to_owned()),
                None if part.starts_with('$') && !matches!(part, "$ref" | "$id" | "$db") => {
                    let message = match path.is_empty() {
                        true => format!(
                            "The dollar ($) prefixed field '{part}' in '{dotted}' is not allowed in the \
                             context of an update's replacement document. Consider using an aggregation \
                             pipeline with $replaceWith."
                        ),
                        false => format!(
                            "The dollar ($) prefixed field '{part}' in '{dotted}' is not valid for \
                             storage."
                        ),
                    };
                    return Err(CommandError::new(error::DOLLAR_PREFIXED_FIELD_NAME, message));
                }
                None => Component::Name(part.to_owned()),
            },
        });
    }
    if !matches!(path[0], Component::Name(_)) {
        return bad_value(format!(
            "Cannot have positional (i.e. '$') element in the first position in path '{dotted}'"
        ));
    }
    let positionals = path.iter().filter(|part| matches!(part, Component::Positional)).count();
    if positionals > 1 {
        return bad_value(format!(
            "Too many positional (i.e. '$') elements found in path '{dotted}'"
        ));
    }
    Ok(path)
}

fn check_conflict(modifications: &[Modification], path: &str) -> Result<(), CommandError> {
    let meets = |known: &str| {
        let conflict = known == path || is_prefix(known, path) || is_prefix(path, known);
        conflict.then(|| if known.len() < path.len() { known } else { path }.to_owned())
    };
    for known in modifications {
        let renamed = match &known.operator {
            Operator::Rename(to) => Some(to.join(".")),
            _ => None,
        };
        let paths = [Some(known.dotted.as_str()), renamed.as_deref()];
        if let Some(at) = paths.into_iter().flatten().find_map(meets) {
            return Err(CommandError::new(
                error::CONFLICTING_UPDATE_OPERATORS,
                format!("Updating the path '{path}' would create a conflict at '{at}'"),
            ));
        }
    }
    Ok(())
}

fn parse_current_date(value: ValueRef<'_>, context: &ParseContext) -> Result<Bson, CommandError> {
    let kind = match value {
        ValueRef::Boolean(_) => "date",
        ValueRef::Document(document) => {
            if let Some((name, _)) = document.iter().find(|(name, _)| *name != "$type") {
                return bad_value(format!("Unrecognized $currentDate option: {name}"));
            }
            document.get("$type").and_then(ValueRef::as_str).unwrap_or_default()
        }
        _ => {
            return bad_value(format!(
                "{} is not valid type for $currentDate. Please use a boolean ('true') or a $type \
                 expression ({{$type: 'timestamp/date'}}).",
                value.type_name()
            ));
        }
    };
    match kind {
        "date" => Ok(Bson::DateTime(context.now)),
        "timestamp" => Ok(Bson::Timestamp(context.cluster_time)),
        _ => bad_value(
            "The '$type' string field is required to be 'date' or 'timestamp': {$currentDate: {field \
             : {$type: 'date'}}}",
        ),
    }
}

fn parse_bit(value: ValueRef<'_>) -> Result<Vec<(BitOperation, Bson)>, CommandError> {
    let ValueRef::Document(document) = value else {
        return bad_value(format!(
            "The $bit modifier is not compatible with a {}. You must pass in an embedded document: \
             {{$bit: {{field: {{and/or/xor: #}}}}",
            value.type_name()
        ));
    };
    let mut operations = Vec::new();
    for (name, operand) in document.iter() {
        let operation = match name {
            "and" => BitOperation::And,
            "or" => BitOperation::Or,
            "xor" => BitOperation::Xor,
            _ => {
                return bad_value(format!(
                    "The $bit modifier only supports 'and', 'or', and 'xor', not '{name}' which is \
                     an unknown operator: {{{}}}",
                    element_text(name, operand)
                ));
            }
        };
        if !matches!(operand, ValueRef::Int32(_) | ValueRef::Int64(_)) {
            return bad_value(format!(
                "The $bit modifier field must be an Integer(32/64 bit); a '{}' is not supported here: \
                 {{{}}}",
                operand.type_name(),
                element_text(name, operand)
            ));
        }
        operations.push((operation, operand.to_bson()));
    }
    if operations.is_empty() {
        return bad_value(
            "You must pass in at least one bitwise operation. The format is: {$bit: {field: \
             {and/or/xor: #}}",
        );
    }
    Ok(operations)
}

fn parse_push(value: ValueRef<'_>, context: &ParseContext) -> Result<Push, CommandError> {
    let mut push = Push { values: Vec::new(), position: None, slice: None, sort: None };
    let modifiers = value.as_document().filter(|document| document.get("$each").is_some());
    let Some(modifiers) = modifiers else {
        push.values.push(value.to_bson());
        return Ok(push);
    };
    let whole = |name: &str, value: ValueRef<'_>| match as_exact_i64(value) {
        Some(number) => Ok(number),
        None => bad_value(format!(
            "The value for {name} must be an integer value but was given type: {}",
            value.type_name()
        )),
    };
    for (name, value) in modifiers.iter() {
        match name {
            "$each" => match value.as_array() {
                Some(values) => push.values = values.to_vec(),
                None => {
                    return bad_value(format!(
                        "The argument to $each in $push must be an array but it was of type: {}",
                        value.type_name()
                    ));
                }
            },
            "$position" if !value.is_number() => {
                return bad_value(format!(
                    "The value for $position must be an integer value, not of type: {}",
                    value.type_name()
                ));
            }
            "$position" => push.position = Some(whole("$position", value)?),
            "$slice" => push.slice = Some(whole("$slice", value)?),
            "$sort" => {
                push.sort = Some(SortBy::parse(value, context.collation).map_err(|_| {
                    let message = match value {
                        ValueRef::Document(pattern) if pattern.is_empty() => {
                            "The sort pattern is empty when it should be a set of fields."
                        }
                        ValueRef::Document(_) => "The sort element value must be either 1 or -1",
                        _ => "The $sort element value must be either 1 or -1",
                    };
                    CommandError::new(error::BAD_VALUE, message)
                })?);
            }
            _ => return bad_value(format!("Unrecognized clause in $push: {name}")),
        }
    }
    Ok(push)
}

fn parse_each(value: ValueRef<'_>) -> Result<Vec<Bson>, CommandError> {
    let Some(document) = value.as_document() else { return Ok(vec![value.to_bson()]) };
    let fields: Vec<(&str, ValueRef<'_>)> = document.iter().collect();
    match fields.as_slice() {
        [("$each", ValueRef::Array(values))] => Ok(values.to_vec()),
        [("$each", other)] => Err(CommandError::new(
            error::TYPE_MISMATCH,
            format!(
                "The argument to $each in $addToSet must be an array but it was of type {}",
                other.type_name()
            ),
        )),
        [("$each", _), ..] => bad_value(format!(
            "Found unexpected fields after $each in $addToSet: {}",
            document_text(document)
        )),
        _ => Ok(vec![value.to_bson()]),
    }
}

fn parse_pull(value: ValueRef<'_>, context: &ParseContext) -> Result<Pull, CommandError> {
    match value {
        ValueRef::Document(condition) => {
            let parsed = Matcher::parse_value_condition(condition, context).map_err(|error| {
                // What is no operator of values is taken for one of filters.
                match error.message.strip_prefix("unknown operator: ") {
                    Some(name) => CommandError::new(
                        error.code,
                        format!(
                            "unknown top level operator: {name}. If you have a field name that starts \
                             with a '$' symbol, consider using $getField or $setField."
                        ),
                    ),
                    None => error,
                }
            });
            let matcher = Box::new(parsed?);
            let operators = condition.iter().next().is_some_and(|(name, _)| name.starts_with('$'));
            Ok(if operators { Pull::Matching(matcher) } else { Pull::Documents(matcher) })
        }
        ValueRef::Regex(..) => {
            let mut condition = Document::new();
            condition.insert("$regex", value.to_bson());
            let matcher = Matcher::parse_value_condition((&condition).into(), context)?;
            Ok(Pull::Matching(Box::new(matcher)))
        }
        value => Ok(Pull::Equal(value.to_bson())),
    }
}
