//! `$out` and `$merge`: where a pipeline writes its results.

use bson::Bson;

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::Expression;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::ValueRef;

/// The last stage of a pipeline that writes.
#[derive(Clone, Debug)]
pub enum PipelineOutput {
    /// `$out`: the results replace a collection.
    Out(Target),
    /// `$merge`: each result is merged into a collection.
    Merge(Box<Merge>),
}

/// A collection by its database (that of the command without one) and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The database, if it is named.
    pub database: Option<String>,
    /// The collection.
    pub collection: String,
}

/// `$merge`.
#[derive(Clone, Debug)]
pub struct Merge {
    /// `into`.
    pub target: Target,
    /// `on`: the fields that identify a document; `_id` without it.
    pub on: Option<Vec<String>>,
    /// `whenMatched`.
    pub when_matched: WhenMatched,
    /// `whenNotMatched`.
    pub when_not_matched: WhenNotMatched,
}

/// What happens to a document that exists.
#[derive(Clone, Debug)]
pub enum WhenMatched {
    /// It is replaced.
    Replace,
    /// It stays as it is.
    KeepExisting,
    /// It gets the result's fields.
    Merge,
    /// The command fails.
    Fail,
    /// An update pipeline, with the variables it may use (`$$new` is the result).
    Pipeline {
        /// The stages.
        stages: Vec<Bson>,
        /// `let`.
        variables: Vec<(String, Expression)>,
    },
}

/// What happens where there is no such document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenNotMatched {
    /// The result is inserted.
    Insert,
    /// It is passed over.
    Discard,
    /// The command fails.
    Fail,
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl PipelineOutput {
    /// Parses `$out` or `$merge`; `None` for any other stage.
    pub(super) fn parse(
        name: &str,
        value: ValueRef<'_>,
        context: &ParseContext,
    ) -> Result<Option<PipelineOutput>, CommandError> {
        match name {
            "$out" => parse_out(value).map(PipelineOutput::Out).map(Some),
            "$merge" => {
                parse_merge(value, context).map(Box::new).map(PipelineOutput::Merge).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The collection it writes to.
    pub fn target(&self) -> &Target {
        match self {
            PipelineOutput::Out(target) => target,
            PipelineOutput::Merge(merge) => &merge.target,
        }
    }
}

fn parse_out(value: ValueRef<'_>) -> Result<Target, CommandError> {
    match value {
        ValueRef::String(name) => Ok(Target { database: None, collection: name.to_owned() }),
        ValueRef::Document(spec) => {
            let (mut database, mut collection) = (None, None);
            let both = spec.get("db").is_some() && spec.get("coll").is_some();
            if !both || spec.iter().count() != 2 {
                return fail(
                    16994,
                    "If an object is passed to $out it must have exactly 2 fields: 'db' and 'coll'",
                );
            }
            for (name, value) in spec.iter() {
                let field = format!("$out.{name}");
                match (name, value) {
                    ("db", ValueRef::String(text)) => database = Some(text.to_owned()),
                    ("coll", ValueRef::String(text)) => collection = Some(text.to_owned()),
                    ("db" | "coll", other) => {
                        return fail(
                            error::TYPE_MISMATCH,
                            format!(
                                "BSON field '{field}' is the wrong type '{}', expected type 'string'",
                                other.type_name()
                            ),
                        );
                    }
                    _ => return fail(40415, format!("BSON field '{field}' is an unknown field.")),
                }
            }
            let missing = |field: &str| {
                CommandError::new(
                    40414,
                    format!("BSON field '$out.{field}' is missing but a required field"),
                )
            };
            Ok(Target {
                database: Some(database.ok_or_else(|| missing("db"))?),
                collection: collection.ok_or_else(|| missing("coll"))?,
            })
        }
        other => fail(
            16990,
            format!(
                "$out only supports a string or object argument, but found {}",
                other.type_name()
            ),
        ),
    }
}

fn parse_merge(value: ValueRef<'_>, context: &ParseContext) -> Result<Merge, CommandError> {
    let wrong = |field: &str, value: ValueRef<'_>, expected: &str| {
        CommandError::new(
            error::TYPE_MISMATCH,
            format!(
                "BSON field '$merge.{field}' is the wrong type '{}', expected type{} '{expected}'",
                value.type_name(),
                if expected.starts_with('[') { "s" } else { "" },
            ),
        )
    };
    let mut merge = Merge {
        target: Target { database: None, collection: String::new() },
        on: None,
        when_matched: WhenMatched::Merge,
        when_not_matched: WhenNotMatched::Insert,
    };
    let spec = match value {
        ValueRef::String(name) => {
            merge.target.collection = name.to_owned();
            return Ok(merge);
        }
        ValueRef::Document(spec) => spec,
        other => {
            return fail(
                51182,
                format!(
                    "$merge only supports a string or object argument, not {}",
                    other.type_name()
                ),
            );
        }
    };
    let (mut into, mut variables, mut matched) = (false, None, None);
    for (name, value) in spec.iter() {
        match name {
            "into" => {
                into = true;
                merge.target = parse_into(value)?;
            }
            "on" => merge.on = Some(parse_on(value)?),
            "let" => {
                let ValueRef::Document(vars) = value else {
                    return Err(wrong("let", value, "object"));
                };
                let mut parsed = Vec::new();
                for (name, value) in vars.iter() {
                    parsed.push((name.to_owned(), Expression::parse(value, context)?));
                }
                variables = Some(parsed);
            }
            "whenMatched" => matched = Some(value),
            "whenNotMatched" => {
                merge.when_not_matched = match value {
                    ValueRef::String("insert") => WhenNotMatched::Insert,
                    ValueRef::String("discard") => WhenNotMatched::Discard,
                    ValueRef::String("fail") => WhenNotMatched::Fail,
                    ValueRef::String(other) => {
                        return fail(
                            error::BAD_VALUE,
                            format!(
                                "Enumeration value '{other}' for field '$merge.whenNotMatched' is not a \
                                 valid value."
                            ),
                        );
                    }
                    other => return Err(wrong("whenNotMatched", other, "string")),
                };
            }
            name => return fail(40415, format!("BSON field '$merge.{name}' is an unknown field.")),
        }
    }
    if !into {
        return fail(40414, "BSON field '$merge.into' is missing but a required field");
    }
    merge.when_matched = match matched {
        None | Some(ValueRef::String("merge")) => WhenMatched::Merge,
        Some(ValueRef::String("replace")) => WhenMatched::Replace,
        Some(ValueRef::String("keepExisting")) => WhenMatched::KeepExisting,
        Some(ValueRef::String("fail")) => WhenMatched::Fail,
        Some(ValueRef::String(other)) => {
            return fail(
                error::BAD_VALUE,
                format!(
                    "Enumeration value '{other}' for field '$merge.whenMatched' is not a valid value."
                ),
            );
        }
        Some(ValueRef::Array(stages)) => {
            let named = variables.take();
            let variables = named.unwrap_or_else(|| {
                let root = Expression::parse(ValueRef::String("$$ROOT"), context);
                vec![("new".to_owned(), root.expect("a variable that always is"))]
            });
            WhenMatched::Pipeline { stages: stages.to_vec(), variables }
        }
        Some(other) => {
            return fail(
                51191,
                format!(
                    "$merge 'whenMatched' field  must be either a string or an array, but found {}",
                    other.type_name()
                ),
            );
        }
    };
    if variables.is_some() {
        return fail(
            51199,
            "Cannot use 'let' variables with 'whenMatched: merge' mode; a pipeline is needed",
        );
    }
    use WhenNotMatched as N;
    let supported = match (&merge.when_matched, merge.when_not_matched) {
        (WhenMatched::KeepExisting, not) => not == N::Insert,
        (WhenMatched::Fail, not) => not == N::Insert,
        _ => true,
    };
    if !supported {
        let name = |value: Option<ValueRef<'_>>| {
            value.map_or_else(String::new, |value| match value {
                ValueRef::String(text) => text.to_owned(),
                value => value_text(value),
            })
        };
        return fail(
            51181,
            format!(
                "Combination of whenMatched: '{}' and whenNotMatched: '{}' modes is not supported",
                name(matched),
                name(spec.get("whenNotMatched"))
            ),
        );
    }
    Ok(merge)
}

fn parse_into(value: ValueRef<'_>) -> Result<Target, CommandError> {
    match value {
        ValueRef::String(name) => Ok(Target { database: None, collection: name.to_owned() }),
        ValueRef::Document(spec) => {
            let text = |name: &str| spec.get(name).and_then(ValueRef::as_str).map(str::to_owned);
            if let Some((unknown, _)) =
                spec.iter().find(|(name, _)| !matches!(*name, "db" | "coll"))
            {
                return fail(40415, format!("BSON field 'into.{unknown}' is an unknown field."));
            }
            match text("coll") {
                Some(collection) => Ok(Target { database: text("db"), collection }),
                None => fail(
                    51178,
                    "$merge 'into' field must specify a 'coll' that is not empty, null or undefined",
                ),
            }
        }
        other => fail(
            51178,
            format!(
                "$merge 'into' field  must be either a string or an object, but found {}",
                other.type_name()
            ),
        ),
    }
}

fn parse_on(value: ValueRef<'_>) -> Result<Vec<String>, CommandError> {
    match value {
        ValueRef::String(field) => Ok(vec![field.to_owned()]),
        ValueRef::Array(fields) if fields.is_empty() => {
            fail(51187, "If explicitly specifying $merge 'on', must include at least one field")
        }
        ValueRef::Array(fields) => fields
            .iter()
            .map(|field| match field {
                ValueRef::String(field) => Ok(field.to_owned()),
                other => fail(
                    51134,
                    format!(
                        "$merge 'on' array elements must be strings, but found {}",
                        other.type_name()
                    ),
                ),
            })
            .collect(),
        other => fail(
            51186,
            format!(
                "$merge 'on' field  must be either a string or an array of strings, but found {}",
                other.type_name()
            ),
        ),
    }
}
