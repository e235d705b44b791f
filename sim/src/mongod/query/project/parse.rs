//! From a projection document to what is done with each field.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::Expression;
use crate::mongod::query::matcher::Matcher;
use crate::mongod::query::number::as_exact_i64;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::{Action, Fields, Mode, Projection, ProjectionSyntax};

struct Parser<'a> {
    syntax: ProjectionSyntax,
    context: &'a ParseContext,
    mode: Option<Mode>,
    fields: Fields,
    positional: Option<Vec<String>>,
    /// What the projection says of `_id` itself.
    id: Option<bool>,
}

pub(super) fn parse(
    spec: DocumentRef<'_>,
    syntax: ProjectionSyntax,
    context: &ParseContext,
) -> Result<Projection, CommandError> {
    let mut parser =
        Parser { syntax, context, mode: None, fields: Vec::new(), positional: None, id: None };
    let parsed = parser.parse_fields("", spec);
    if syntax == ProjectionSyntax::Find {
        parsed?;
        return Ok(parser.finish());
    }
    if spec.is_empty() {
        return Err(CommandError::new(
            51272,
            "Invalid $project :: caused by :: projection specification must have at least one field",
        ));
    }
    parsed.map_err(|refused| prefixed("$project", refused))?;
    Ok(parser.finish())
}

fn prefixed(stage: &str, mut refused: CommandError) -> CommandError {
    refused.message = format!("Invalid {stage} :: caused by :: {}", refused.message);
    refused
}

pub(super) fn parse_add_fields(
    stage: &str,
    spec: DocumentRef<'_>,
    context: &ParseContext,
) -> Result<Projection, CommandError> {
    let mut fields = Fields::new();
    add_computed(&mut fields, "", spec, context).map_err(|refused| prefixed(stage, refused))?;
    Ok(Projection { mode: Mode::Add, fields, positional: None, computes: true })
}

fn add_computed(
    fields: &mut Fields,
    prefix: &str,
    spec: DocumentRef<'_>,
    context: &ParseContext,
) -> Result<(), CommandError> {
    for (name, value) in spec.iter() {
        let path = join(prefix, name);
        check_path(&path)?;
        match value {
            ValueRef::Document(below) if is_nested(below) => {
                add_computed(fields, &path, below, context)?;
            }
            value => {
                let expression = Expression::parse(value, context)?;
                insert(fields, &path, Action::Compute(expression))?;
            }
        }
    }
    Ok(())
}

pub(super) fn exclude(paths: &[&str]) -> Result<Projection, CommandError> {
    let mut fields = Fields::new();
    for path in paths {
        check_path(path).map_err(|refused| prefixed("$unset", refused))?;
        insert(&mut fields, path, Action::Exclude)
            .map_err(|refused| prefixed("$unset", refused))?;
    }
    Ok(Projection { mode: Mode::Exclude, fields, positional: None, computes: false })
}

/// Whether a document names fields rather than an operator.
fn is_nested(document: DocumentRef<'_>) -> bool {
    document.iter().next().is_some_and(|(name, _)| !name.starts_with('$'))
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn check_path(path: &str) -> Result<(), CommandError> {
    crate::mongod::query::expression::split_path(path).map(drop)
}

/// Puts an action at a dotted path, refusing paths of which one contains the other.
fn insert(fields: &mut Fields, path: &str, action: Action) -> Result<(), CommandError> {
    insert_at(fields, path, path, action)
}

fn insert_at(
    fields: &mut Fields,
    path: &str,
    whole: &str,
    action: Action,
) -> Result<(), CommandError> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let known = fields.iter_mut().find(|(known, _)| known == name);
    match (known, rest) {
        (None, None) => fields.push((name.to_owned(), action)),
        (None, Some(rest)) => {
            let mut below = Fields::new();
            insert_at(&mut below, rest, whole, action)?;
            fields.push((name.to_owned(), Action::Below(below)));
        }
        (Some((_, Action::Below(below))), Some(rest)) => insert_at(below, rest, whole, action)?,
        (Some(_), Some(rest)) => {
            let message = format!("Path collision at {whole} remaining portion {rest}");
            return Err(CommandError::new(31249, message));
        }
        (Some(_), None) => {
            return Err(CommandError::new(31250, format!("Path collision at {whole}")));
        }
    }
    Ok(())
}

impl Parser<'_> {
    fn parse_fields(&mut self, prefix: &str, spec: DocumentRef<'_>) -> Result<(), CommandError> {
        for (name, value) in spec.iter() {
            let path = join(prefix, name);
            match value {
                ValueRef::Document(below) if is_nested(below) => self.parse_fields(&path, below)?,
                ValueRef::Boolean(_) => self.parse_flag(&path, value.is_truthy())?,
                value if value.is_number() => self.parse_flag(&path, value.is_truthy())?,
                value => self.parse_value(&path, value)?,
            }
        }
        Ok(())
    }

    fn parse_flag(&mut self, path: &str, include: bool) -> Result<(), CommandError> {
        if self.syntax == ProjectionSyntax::Find && path.contains(".$.") {
            return Err(CommandError::new(
                31394,
                "As of 4.4, it's illegal to specify positional operator in the middle of a \
                 path.Positional projection may only be used at the end, for example: a.b.$. If the \
                 query previously used a form like a.b.$.d, remove the parts following the '$' and the \
                 results will be equivalent.",
            ));
        }
        if path == "_id" {
            if self.id.is_some() {
                return Err(CommandError::new(31250, "Path collision at _id"));
            }
            self.id = Some(include);
            return Ok(());
        }
        if self.syntax == ProjectionSyntax::Find
            && include
            && let Some(array) = path.strip_suffix(".$")
        {
            if self.positional.is_some() {
                let message = "Cannot specify more than one positional projection per query.";
                return Err(CommandError::new(31276, message));
            }
            check_path(array)?;
            self.positional = Some(array.split('.').map(str::to_owned).collect());
            self.set_mode(Mode::Include, path)?;
            return insert(&mut self.fields, array, Action::Include);
        }
        check_path(path)?;
        self.set_mode(if include { Mode::Include } else { Mode::Exclude }, path)?;
        let action = if include { Action::Include } else { Action::Exclude };
        insert(&mut self.fields, path, action)
    }

    fn set_mode(&mut self, mode: Mode, path: &str) -> Result<(), CommandError> {
        match (*self.mode.get_or_insert(mode), mode) {
            (Mode::Include, Mode::Exclude) => Err(CommandError::new(
                31254,
                format!("Cannot do exclusion on field {path} in inclusion projection"),
            )),
            (Mode::Exclude, Mode::Include) => Err(CommandError::new(
                31253,
                format!("Cannot do inclusion on field {path} in exclusion projection"),
            )),
            _ => Ok(()),
        }
    }

    fn parse_value(&mut self, path: &str, value: ValueRef<'_>) -> Result<(), CommandError> {
        check_path(path)?;
        if self.syntax == ProjectionSyntax::Find
            && let ValueRef::Document(document) = value
            && let Some((operator, argument)) = document.iter().next()
        {
            match operator {
                "$slice" => {
                    if let Some(action) = parse_slice(argument)? {
                        return insert(&mut self.fields, path, action);
                    }
                }
                "$elemMatch" => return self.parse_elem_match(path, argument),
                "$meta" => {
                    let known = ["textScore", "geoNearDistance", "geoNearPoint", "searchScore"];
                    let name = argument.as_str().unwrap_or_default();
                    return Err(match known.contains(&name) {
                        true => CommandError::new(
                            40218,
                            "query requires text score metadata, but it is not available",
                        ),
                        false => CommandError::new(
                            17308,
                            format!("Unsupported argument to $meta: {name}"),
                        ),
                    });
                }
                _ => {}
            }
        }
        if self.mode == Some(Mode::Exclude) {
            let message = format!(
                "Cannot use an expression {} in an exclusion projection",
                crate::mongod::query::text::element_text(path, value)
            );
            return Err(CommandError::new(31252, message));
        }
        self.mode = Some(Mode::Include);
        let expression = Expression::parse(value, self.context).map_err(|error| {
            // A find has words of its own for an operator that stands right at the field.
            let first = value.as_document().and_then(|document| document.iter().next());
            match first {
                Some((name, _)) if error.message == format!("Unrecognized expression '{name}'") => {
                    CommandError::new(31325, format!("Unknown expression {name}"))
                }
                _ => error,
            }
        })?;
        if path == "_id" {
            self.id = Some(false);
        }
        insert(&mut self.fields, path, Action::Compute(expression))
    }

    fn parse_elem_match(&mut self, path: &str, value: ValueRef<'_>) -> Result<(), CommandError> {
        let ValueRef::Document(_) = value else {
            let message = format!(
                "elemMatch: Invalid argument, object required, but got {}",
                value.type_name()
            );
            return Err(CommandError::new(31274, message));
        };
        if path.contains('.') {
            let message = "Cannot use $elemMatch projection on a nested field.";
            return Err(CommandError::new(31275, message));
        }
        self.set_mode(Mode::Include, path)?;
        // The condition is that of a filter on an array of one element.
        let mut elem_match = Document::new();
        elem_match.insert("$elemMatch", value.to_bson());
        let mut filter = Document::new();
        filter.insert("e", Bson::Document(elem_match));
        let matcher = Matcher::parse(&filter, self.context)?;
        insert(&mut self.fields, path, Action::ElemMatch(matcher))
    }

    fn finish(mut self) -> Projection {
        let mode =
            self.mode.unwrap_or(if self.id == Some(true) { Mode::Include } else { Mode::Exclude });
        let named = self.fields.iter().any(|(name, _)| name == "_id");
        match (mode, self.id) {
            (Mode::Include, None | Some(true)) if !named => {
                self.fields.insert(0, ("_id".into(), Action::Include));
            }
            (Mode::Exclude, Some(false)) if !named => {
                self.fields.push(("_id".into(), Action::Exclude));
            }
            _ => {}
        }
        let computes = super::computes(&self.fields);
        Projection { mode, fields: self.fields, positional: self.positional, computes }
    }
}

/// `$slice` as `find` has it; `None` if it can only be the expression of that name.
fn parse_slice(value: ValueRef<'_>) -> Result<Option<Action>, CommandError> {
    let number = |value: ValueRef<'_>| {
        let truncated = crate::mongod::query::number::as_f64(value)?.trunc();
        Some(as_exact_i64(value).unwrap_or(truncated as i64))
    };
    if let Some(limit) = number(value) {
        return Ok(Some(Action::Slice { skip: None, limit }));
    }
    let ValueRef::Array(array) = value else {
        let message = format!(
            "Invalid $slice syntax. The given syntax {} did not match the find() syntax because :: \
             Location31273: $slice only supports numbers and [skip, limit] arrays :: The given syntax \
             did not match the expression $slice syntax. :: caused by :: Expression $slice takes at \
             least 2 arguments, and at most 3, but 1 were passed in.",
            format_args!("{{ $slice: {} }}", value_text(value))
        );
        return Err(CommandError::new(28667, message));
    };
    match array.iter().map(number).collect::<Vec<_>>().as_slice() {
        [Some(skip), Some(limit)] if *limit > 0 => {
            Ok(Some(Action::Slice { skip: Some(*skip), limit: *limit }))
        }
        _ => Ok(None),
    }
}
