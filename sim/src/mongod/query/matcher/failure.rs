//! Why a document does not satisfy a filter, in the words of a failed validation.

use bson::{Bson, Document, bson, doc};

use crate::mongod::error::CommandError;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::expression::{Expression, Scope};
use crate::mongod::query::path::{LeafArray, Path};
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::Matcher;
use super::schema::Schema;

/// A filter's clauses, each on its own: `{a: {$gt: 1, $lt: 5}}` has two.
enum Clause<'a> {
    Logical(&'a str, Vec<DocumentRef<'a>>),
    Schema(ValueRef<'a>),
    Expr(ValueRef<'a>),
    Field { path: &'a str, operator: Option<&'a str>, argument: ValueRef<'a> },
}

fn clauses(filter: DocumentRef<'_>) -> Vec<Clause<'_>> {
    let mut found = Vec::new();
    for (name, value) in filter.iter() {
        match (name, value) {
            ("$and" | "$or" | "$nor", ValueRef::Array(members)) => {
                let members = members.iter().filter_map(ValueRef::as_document).collect();
                found.push(Clause::Logical(name, members));
            }
            ("$jsonSchema", schema) => found.push(Clause::Schema(schema)),
            ("$expr", expression) => found.push(Clause::Expr(expression)),
            ("$comment", _) => {}
            (path, ValueRef::Document(operators))
                if operators.iter().next().is_some_and(|(name, _)| name.starts_with('$')) =>
            {
                for (operator, argument) in operators.iter() {
                    if !matches!(operator, "$options" | "$comment") {
                        found.push(Clause::Field { path, operator: Some(operator), argument });
                    }
                }
            }
            (path, argument) => found.push(Clause::Field { path, operator: None, argument }),
        }
    }
    found
}

/// What of a filter a document does not satisfy; nothing if it does.
///
/// # Errors
/// What the filter or its expressions fail with.
pub(crate) fn details(
    filter: DocumentRef<'_>,
    document: &Document,
    context: &ParseContext,
) -> Result<Option<Document>, CommandError> {
    let all = clauses(filter);
    if let [only] = all.as_slice() {
        return clause_details(only, document, context, false);
    }
    let mut failing = Vec::new();
    for (index, clause) in all.iter().enumerate() {
        if let Some(details) = clause_details(clause, document, context, false)? {
            failing.push(doc! { "index": index as i32, "details": details });
        }
    }
    if failing.is_empty() {
        return Ok(None);
    }
    Ok(Some(doc! { "operatorName": "$and", "clausesNotSatisfied": failing }))
}

/// Why a clause is not satisfied, or (`inverted`) why it is although it should not be.
fn clause_details(
    clause: &Clause<'_>,
    document: &Document,
    context: &ParseContext,
    inverted: bool,
) -> Result<Option<Document>, CommandError> {
    match clause {
        Clause::Schema(schema) => {
            let schema = Schema::parse(*schema)?;
            let document = ValueRef::Document(document.into());
            Ok((!schema.matches(document)).then(|| schema.details(document)))
        }
        Clause::Expr(expression) => {
            let root = Bson::Document(document.clone());
            let parsed = Expression::parse(*expression, context)?;
            let result = parsed.evaluate_or_null(&Scope::new(&root))?;
            if ValueRef::from(&result).is_truthy() {
                return Ok(None);
            }
            Ok(Some(doc! {
                "operatorName": "$expr",
                "specifiedAs": { "$expr": expression.to_bson() },
                "reason": "expression did not match",
                "expressionResult": result,
            }))
        }
        Clause::Logical(name, members) => logical(name, members, document, context),
        Clause::Field { path, operator: Some("$not"), argument } => {
            let ValueRef::Document(inner) = argument else {
                return field_details(path, Some("$not"), *argument, document, context, inverted);
            };
            let mut inside = Vec::new();
            for (operator, argument) in inner.iter() {
                let found = field_details(path, Some(operator), argument, document, context, true)?;
                inside.extend(found);
            }
            let Some(details) = inside.into_iter().next() else { return Ok(None) };
            Ok(Some(doc! { "operatorName": "$not", "details": details }))
        }
        Clause::Field { path, operator, argument } => {
            field_details(path, *operator, *argument, document, context, inverted)
        }
    }
}

fn logical(
    name: &str,
    members: &[DocumentRef<'_>],
    document: &Document,
    context: &ParseContext,
) -> Result<Option<Document>, CommandError> {
    let mut listed = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let found = match name {
            "$nor" => {
                if !Matcher::parse(*member, context)?.matches(document)? {
                    continue;
                }
                match clauses(*member).as_slice() {
                    [only] => clause_details(only, document, context, true)?,
                    _ => None,
                }
            }
            _ => details(*member, document, context)?,
        };
        if let Some(details) = found {
            listed.push(doc! { "index": index as i32, "details": details });
        }
    }
    let failed = match name {
        "$or" => listed.len() == members.len(),
        _ => !listed.is_empty(),
    };
    if !failed {
        return Ok(None);
    }
    let list = if name == "$nor" { "clausesSatisfied" } else { "clausesNotSatisfied" };
    let mut shown = doc! { "operatorName": name };
    shown.insert(list, listed);
    Ok(Some(shown))
}

fn field_details(
    path: &str,
    operator: Option<&str>,
    argument: ValueRef<'_>,
    document: &Document,
    context: &ParseContext,
    inverted: bool,
) -> Result<Option<Document>, CommandError> {
    let mut specified = Document::new();
    match operator {
        None => specified.insert(path, argument.to_bson()),
        Some(operator) => {
            let mut inner = Document::new();
            inner.insert(operator, argument.to_bson());
            specified.insert(path, inner)
        }
    };
    if Matcher::parse(&specified, context)?.matches(document)? != inverted {
        return Ok(None);
    }
    let plain = if let ValueRef::Regex(..) = argument { "$regex" } else { "$eq" };
    let name = operator.unwrap_or(plain);
    let mut shown = doc! { "operatorName": name, "specifiedAs": specified };
    if name == "$exists" {
        let wanted = argument.is_truthy() != inverted;
        shown.insert("reason", if wanted { "path does not exist" } else { "path does exist" });
        return Ok(Some(shown));
    }
    let whole = matches!(name, "$size" | "$elemMatch" | "$all");
    let leaf = if whole { LeafArray::Whole } else { LeafArray::Traverse };
    let mut values = Vec::new();
    Path::new(path).visit(document.into(), leaf, &mut |value, _| {
        values.extend(value.map(ValueRef::to_bson));
        Ok::<bool, CommandError>(false)
    })?;
    if values.len() > 1 && matches!(values.last(), Some(Bson::Array(_))) {
        values.pop();
    }
    if values.is_empty() {
        shown.insert("reason", "field was missing");
        return Ok(Some(shown));
    }
    shown.insert("reason", reason(name, inverted));
    let is_type = name == "$type";
    match <[Bson; 1]>::try_from(values) {
        Ok([value]) => {
            let kind = ValueRef::from(&value).type_name();
            shown.insert("consideredValue", value);
            if is_type {
                shown.insert("consideredType", kind);
            }
        }
        Err(values) => {
            if is_type {
                let kinds: Vec<Bson> =
                    values.iter().map(|value| bson!(ValueRef::from(value).type_name())).collect();
                shown.insert("consideredValues", values);
                shown.insert("consideredTypes", kinds);
            } else {
                shown.insert("consideredValues", values);
            }
        }
    }
    Ok(Some(shown))
}

fn reason(operator: &str, inverted: bool) -> &'static str {
    match (operator, inverted) {
        ("$ne", false) => "comparison succeeded",
        ("$ne", true) => "comparison failed",
        ("$in", false) | ("$nin", true) => "no matching value found in array",
        ("$in", true) | ("$nin", false) => "matching value found in array",
        ("$elemMatch", false) => "array did not satisfy the child predicate",
        ("$elemMatch", true) => "array did satisfy the child predicate",
        ("$size", false) => "array length was not equal to given size",
        ("$size", true) => "array length was equal to given size",
        ("$mod", false) => "$mod did not evaluate to expected remainder",
        ("$mod", true) => "$mod did evaluate to expected remainder",
        ("$regex", false) => "regular expression did not match",
        ("$regex", true) => "regular expression did match",
        ("$type", false) => "type did not match",
        ("$type", true) => "type did match",
        ("$all", false) => "array did not contain all specified values",
        ("$all", true) => "array did contain all specified values",
        ("$bitsAllSet" | "$bitsAnySet" | "$bitsAllClear" | "$bitsAnyClear", false) => {
            "bitwise operator failed to match"
        }
        ("$bitsAllSet" | "$bitsAnySet" | "$bitsAllClear" | "$bitsAnyClear", true) => {
            "bitwise operator matched successfully"
        }
        (_, false) => "comparison failed",
        (_, true) => "comparison succeeded",
    }
}
