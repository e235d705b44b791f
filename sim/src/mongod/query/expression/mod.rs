//! The expression language of aggregation: parsed once, evaluated on a document.
//!
//! An expression gives a value or nothing: `None` is a missing value, which is not null.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};

use super::collation::Collation;
use super::context::ParseContext;
use super::value::{DocumentRef, ValueRef};

mod arithmetic;
mod array;
mod date;
mod forms;
mod object;
mod operators;
mod parts;
mod string;
#[cfg(test)]
mod tests;
mod types;
mod words;

pub(super) use array::SortBy;
use forms::Form;
use operators::Operator;

/// What an expression gives: a value, or nothing.
pub type Value = Option<Bson>;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression(Node);

#[derive(Clone, Debug)]
enum Node {
    Literal(Bson),
    /// A field path from a variable: `$a.b` is `$$CURRENT.a.b`, and `CURRENT` is `ROOT`.
    Path {
        variable: Variable,
        path: Vec<String>,
    },
    Object(Vec<(String, Expression)>),
    Array(Vec<Expression>),
    Call {
        operator: &'static Operator,
        arguments: Vec<Expression>,
        collation: Collation,
    },
    Form(Box<Form>),
}

#[derive(Clone, Debug, PartialEq)]
enum Variable {
    Root,
    Local(String),
    Remove,
}

/// The variables an expression may name while it is parsed: those of the context and the local ones of
/// the expressions around it.
#[derive(Clone, Copy)]
pub(super) struct Bindings<'a> {
    pub context: &'a ParseContext,
    locals: Option<&'a LocalNames<'a>>,
}

struct LocalNames<'a> {
    names: &'a [String],
    next: Option<&'a LocalNames<'a>>,
}

/// The values an expression reads while it is evaluated.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    root: &'a Bson,
    locals: Option<&'a Local<'a>>,
}

struct Local<'a> {
    name: &'a str,
    value: &'a Value,
    next: Option<&'a Local<'a>>,
}

impl<'a> Scope<'a> {
    /// Evaluates on `root`.
    pub fn new(root: &'a Bson) -> Self {
        Scope { root, locals: None }
    }

    /// `$$ROOT`.
    pub fn root(&self) -> &'a Bson {
        self.root
    }

    /// Evaluates `body` with one more variable.
    fn with<T>(&self, name: &str, value: &Value, body: impl FnOnce(&Scope<'_>) -> T) -> T {
        let local = Local { name, value, next: self.locals };
        body(&Scope { root: self.root, locals: Some(&local) })
    }

    fn lookup(&self, name: &str) -> Value {
        let mut local = self.locals;
        while let Some(here) = local {
            if here.name == name {
                return here.value.clone();
            }
            local = here.next;
        }
        unreachable!("variable {name} was bound when it was parsed")
    }
}

impl<'a> Bindings<'a> {
    pub(super) fn new(context: &'a ParseContext) -> Self {
        Bindings { context, locals: None }
    }

    /// Parses `body` with further variables bound.
    fn with<T>(&self, names: &[String], body: impl FnOnce(&Bindings<'_>) -> T) -> T {
        let locals = LocalNames { names, next: self.locals };
        body(&Bindings { context: self.context, locals: Some(&locals) })
    }

    fn is_local(&self, name: &str) -> bool {
        let mut locals = self.locals;
        while let Some(here) = locals {
            if here.names.iter().any(|known| known == name) {
                return true;
            }
            locals = here.next;
        }
        false
    }
}

impl Expression {
    /// Parses an expression: a field path, a literal, an operator, an object or array of expressions.
    ///
    /// # Errors
    /// `InvalidPipelineOperator` (168) for an unknown operator, 17276 for an unbound variable, and what
    /// single operators say about their arguments.
    pub fn parse(value: ValueRef<'_>, context: &ParseContext) -> Result<Expression, CommandError> {
        Expression::parse_bound(value, &Bindings::new(context))
    }

    /// The expression that always gives `value`.
    pub fn literal(value: Bson) -> Expression {
        Expression(Node::Literal(value))
    }

    /// The value the expression always gives, if it is a literal.
    pub fn as_literal(&self) -> Option<&Bson> {
        match &self.0 {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn parse_bound(
        value: ValueRef<'_>,
        bindings: &Bindings<'_>,
    ) -> Result<Expression, CommandError> {
        match value {
            ValueRef::String(text) if text.starts_with('$') => parse_path(text, bindings),
            ValueRef::Document(document) => parse_document(document, bindings),
            ValueRef::Array(array) => {
                let members: Result<Vec<_>, _> =
                    array.iter().map(|member| Expression::parse_bound(member, bindings)).collect();
                Ok(Expression(Node::Array(members?)).folded(bindings))
            }
            value => Ok(Expression(Node::Literal(value.to_bson()))),
        }
    }

    /// Whether its value is the same on every document.
    fn is_constant(&self) -> bool {
        match &self.0 {
            Node::Literal(_) => true,
            Node::Array(members) => members.iter().all(Expression::is_constant),
            Node::Object(fields) => fields.iter().all(|(_, value)| value.is_constant()),
            Node::Call { operator, arguments, .. } => {
                operator.name != "$rand" && arguments.iter().all(Expression::is_constant)
            }
            Node::Form(form) => form.is_constant(),
            Node::Path { .. } => false,
        }
    }

    /// A constant in place of what always gives one, as the server's optimizer puts it; a failure is
    /// noted for who runs the command.
    fn folded(self, bindings: &Bindings<'_>) -> Expression {
        if matches!(self.0, Node::Literal(_)) || !self.is_constant() {
            return self;
        }
        let root = Bson::Document(Document::new());
        match self.evaluate(&Scope::new(&root)) {
            Ok(Some(value)) => Expression::literal(value),
            Ok(None) => self,
            Err(error) => {
                bindings.context.constant_failure.note(error);
                self
            }
        }
    }

    /// The expression's value on the scope's document.
    ///
    /// # Errors
    /// What the operators say about values they cannot take.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, CommandError> {
        match &self.0 {
            Node::Literal(value) => Ok(Some(value.clone())),
            Node::Path { variable, path } => Ok(match variable {
                Variable::Root => get_path(scope.root, path),
                Variable::Remove => None,
                Variable::Local(name) if path.is_empty() => scope.lookup(name),
                Variable::Local(name) => {
                    scope.lookup(name).and_then(|value| get_path(&value, path))
                }
            }),
            Node::Object(fields) => {
                let mut object = Document::new();
                for (name, expression) in fields {
                    if let Some(value) = expression.evaluate(scope)? {
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Some(Bson::Document(object)))
            }
            Node::Array(members) => {
                let mut array = Vec::with_capacity(members.len());
                for member in members {
                    array.push(member.evaluate(scope)?.unwrap_or(Bson::Null));
                }
                Ok(Some(Bson::Array(array)))
            }
            Node::Call { operator, arguments, collation } => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(argument.evaluate(scope)?);
                }
                (operator.function)(&operators::Call {
                    name: operator.name,
                    arguments: &values,
                    collation: *collation,
                })
            }
            Node::Form(form) => form.evaluate(scope),
        }
    }

    /// The value on a document, missing as null where a value must be.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_or_null(&self, scope: &Scope<'_>) -> Result<Bson, CommandError> {
        Ok(self.evaluate(scope)?.unwrap_or(Bson::Null))
    }
}

/// The value at `path`: of an array on the way, the array of what its documents have there.
pub(crate) fn get_path(value: &Bson, path: &[String]) -> Value {
    let Some((name, rest)) = path.split_first() else { return Some(value.clone()) };
    match value {
        Bson::Document(document) => get_path(document.get(name)?, rest),
        Bson::Array(array) => Some(Bson::Array(
            array
                .iter()
                .filter_map(|element| match element {
                    Bson::Document(_) | Bson::Array(_) => get_path(element, path),
                    _ => None,
                })
                .collect(),
        )),
        _ => None,
    }
}

/// Splits and checks a field path.
pub(super) fn split_path(path: &str) -> Result<Vec<String>, CommandError> {
    if path.is_empty() {
        return Err(CommandError::new(40352, "FieldPath cannot be constructed with empty string"));
    }
    if path.ends_with('.') {
        return Err(CommandError::new(40353, "FieldPath must not end with a '.'."));
    }
    path.split('.')
        .map(|name| {
            if name.is_empty() {
                let message = "FieldPath field names may not be empty strings.";
                return Err(CommandError::new(15998, message));
            }
            if name.contains('\0') {
                return Err(CommandError::new(
                    16411,
                    "FieldPath field names may not contain '\\0'.",
                ));
            }
            if name.starts_with('$') {
                let message = "FieldPath field names may not start with '$'. Consider using \
                               $getField or $setField.";
                return Err(CommandError::new(16410, message));
            }
            Ok(name.to_owned())
        })
        .collect()
}

fn parse_path(text: &str, bindings: &Bindings<'_>) -> Result<Expression, CommandError> {
    let Some(named) = text.strip_prefix("$$") else {
        let field = &text[1..];
        if field.is_empty() {
            return Err(CommandError::new(16872, "'$' by itself is not a valid FieldPath"));
        }
        let path = split_path(field)?;
        let variable = if bindings.is_local("CURRENT") {
            Variable::Local("CURRENT".into())
        } else {
            Variable::Root
        };
        return Ok(Expression(Node::Path { variable, path }));
    };
    let (name, rest) = named.split_once('.').unwrap_or((named, ""));
    if name.is_empty() {
        return Err(CommandError::new(
            error::FAILED_TO_PARSE,
            "empty variable names are not allowed",
        ));
    }
    let path = if named.contains('.') { split_path(rest)? } else { Vec::new() };
    if bindings.is_local(name) {
        return Ok(Expression(Node::Path { variable: Variable::Local(name.to_owned()), path }));
    }
    let constant = match name {
        "ROOT" | "CURRENT" => return Ok(Expression(Node::Path { variable: Variable::Root, path })),
        "REMOVE" => return Ok(Expression(Node::Path { variable: Variable::Remove, path })),
        "NOW" => Bson::DateTime(bindings.context.now),
        "CLUSTER_TIME" => Bson::Timestamp(bindings.context.cluster_time),
        _ => match bindings.context.variables.iter().find(|(known, _)| known == name) {
            Some((_, value)) => value.clone(),
            None => {
                return Err(CommandError::new(17276, format!("Use of undefined variable: {name}")));
            }
        },
    };
    Ok(Expression(match get_path(&constant, &path) {
        Some(value) => Node::Literal(value),
        None => Node::Path { variable: Variable::Remove, path: Vec::new() },
    }))
}

fn parse_document(
    document: DocumentRef<'_>,
    bindings: &Bindings<'_>,
) -> Result<Expression, CommandError> {
    let mut fields: Vec<(String, Expression)> = Vec::new();
    for (name, value) in document.iter() {
        if name.starts_with('$') {
            if document.iter().count() != 1 {
                return Err(CommandError::new(
                    15983,
                    format!(
                        "an object representing an expression must have exactly one field: {}",
                        super::text::document_text(document)
                    ),
                ));
            }
            return parse_operator(name, value, bindings);
        }
        if name.is_empty() {
            return Err(CommandError::new(
                15998,
                "FieldPath field names may not be empty strings.",
            ));
        }
        if name.contains('.') {
            let message =
                "FieldPath field names may not contain '.'. Consider using $getField or $setField.";
            return Err(CommandError::new(16412, message));
        }
        fields.push((name.to_owned(), Expression::parse_bound(value, bindings)?));
    }
    Ok(Expression(Node::Object(fields)).folded(bindings))
}

fn parse_operator(
    name: &str,
    value: ValueRef<'_>,
    bindings: &Bindings<'_>,
) -> Result<Expression, CommandError> {
    if let Some(form) = forms::parse(name, value, bindings)? {
        return Ok(form.folded(bindings));
    }
    let Some(operator) = operators::find(name) else {
        return Err(CommandError::new(
            error::INVALID_PIPELINE_OPERATOR,
            format!("Unrecognized expression '{name}'"),
        ));
    };
    let arguments = match value {
        ValueRef::Array(array) => array
            .iter()
            .map(|member| Expression::parse_bound(member, bindings))
            .collect::<Result<Vec<_>, _>>()?,
        value => vec![Expression::parse_bound(value, bindings)?],
    };
    operator.check_arity(arguments.len())?;
    let collation = bindings.context.collation;
    Ok(Expression(Node::Call { operator, arguments, collation }).folded(bindings))
}

/// `type_name` of what may be missing.
fn type_name(value: &Value) -> &'static str {
    value.as_ref().map_or("missing", |value| ValueRef::from(value).type_name())
}

/// Whether a value is missing, null or undefined: what most operators answer null to.
fn is_nullish(value: &Value) -> bool {
    value.as_ref().is_none_or(|value| ValueRef::from(value).is_nullish())
}

fn truthy(value: &Value) -> bool {
    value.as_ref().is_some_and(|value| ValueRef::from(value).is_truthy())
}
