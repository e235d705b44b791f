//! From a filter document to the tree.

use bson::Bson;

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::context::{ConstantFailure, ParseContext};
use crate::mongod::query::expression::Expression;
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::path::Path;
use crate::mongod::query::regex::Regex;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::Node;
use super::predicate::{BitTest, Comparison, Operand, Predicate, TypeSet};
use super::schema::Schema;

/// How deep a filter may nest, as in the server.
const MAX_DEPTH: usize = 100;

/// Where a predicate applies.
#[derive(Clone, Copy)]
enum Target<'a> {
    Path(&'a str),
    Value,
}

impl Target<'_> {
    fn path(&self) -> &str {
        match self {
            Target::Path(path) => path,
            Target::Value => "",
        }
    }

    fn node(self, predicate: Predicate) -> Node {
        match self {
            Target::Path(path) => Node::Path { path: Path::new(path), predicate },
            Target::Value => Node::Value(predicate),
        }
    }
}

fn bad_value<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::BAD_VALUE, message))
}

pub(super) fn parse_filter(
    filter: DocumentRef<'_>,
    context: &ParseContext,
) -> Result<Node, CommandError> {
    parse_document(filter, context, 0)
}

/// `{$gte: 5}` on a value, or a whole filter if it names fields.
pub(super) fn parse_value_condition(
    condition: DocumentRef<'_>,
    context: &ParseContext,
) -> Result<Node, CommandError> {
    if is_value_condition(condition) {
        parse_operators(Target::Value, condition, context, 0)
    } else {
        parse_document(condition, context, 0)
    }
}

fn is_value_condition(condition: DocumentRef<'_>) -> bool {
    condition.iter().next().is_some_and(|(name, _)| {
        name.starts_with('$') && !matches!(name, "$and" | "$or" | "$nor" | "$expr" | "$comment")
    })
}

fn check_depth(depth: usize) -> Result<(), CommandError> {
    if depth > MAX_DEPTH {
        let message = format!("exceeded maximum query tree depth of {MAX_DEPTH} at");
        return bad_value(message);
    }
    Ok(())
}

fn parse_document(
    filter: DocumentRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    check_depth(depth)?;
    let mut nodes = Vec::new();
    for (name, value) in filter.iter() {
        if let Some(operator) = name.strip_prefix('$') {
            match operator {
                "and" => nodes.push(Node::All(parse_list(name, value, context, depth)?)),
                "or" => nodes.push(Node::Any(parse_list(name, value, context, depth)?)),
                "nor" => nodes.push(Node::Nor(parse_list(name, value, context, depth)?)),
                "expr" => nodes.push(parse_expr(value, context)?),
                "comment" => {}
                "jsonSchema" => nodes.push(Node::Schema(Box::new(Schema::parse(value)?))),
                "alwaysTrue" | "alwaysFalse" => {
                    if as_exact_i64(value) != Some(1) {
                        return Err(CommandError::new(
                            error::FAILED_TO_PARSE,
                            format!("{name} must be an integer value of 1"),
                        ));
                    }
                    nodes.push(Node::Constant(operator == "alwaysTrue"));
                }
                "where" => return bad_value("no globalScriptEngine in $where parsing"),
                "text" => {
                    return Err(CommandError::new(
                        error::INDEX_NOT_FOUND,
                        "text index required for $text query",
                    ));
                }
                _ if matches!(name, "$ref" | "$id" | "$db") => {
                    nodes.push(parse_field(name, value, context, depth)?);
                }
                _ => {
                    return bad_value(format!(
                        "unknown top level operator: {name}. If you have a field name that starts \
                         with a '$' symbol, consider using $getField or $setField."
                    ));
                }
            }
        } else {
            nodes.push(parse_field(name, value, context, depth)?);
        }
    }
    Ok(Node::All(nodes))
}

fn parse_expr(value: ValueRef<'_>, context: &ParseContext) -> Result<Node, CommandError> {
    let mut inner = context.clone();
    inner.constant_failure = ConstantFailure::default();
    let expression = Expression::parse(value, &inner)?;
    let prefix = "Failed to optimize expression :: caused by :: ";
    if let Err(error) = inner.constant_failure.check(prefix) {
        context.constant_failure.note(error);
    }
    Ok(Node::Expr(Box::new(expression)))
}

fn parse_list(
    name: &str,
    value: ValueRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Vec<Node>, CommandError> {
    let Some(array) = value.as_array() else {
        return bad_value(format!("{name} must be an array"));
    };
    if array.is_empty() {
        return bad_value("$and/$or/$nor must be a nonempty array");
    }
    array
        .iter()
        .map(|member| match member {
            ValueRef::Document(member) => parse_document(member, context, depth + 1),
            _ => bad_value("$or/$and/$nor entries need to be full objects"),
        })
        .collect()
}

fn parse_field(
    path: &str,
    value: ValueRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    let target = Target::Path(path);
    match value {
        ValueRef::Document(document) if starts_with_operator(document) => {
            parse_operators(target, document, context, depth)
        }
        ValueRef::Regex(pattern, options) => {
            Ok(target.node(Predicate::Regex(Regex::new(pattern, options)?)))
        }
        value => comparison(target, Comparison::Eq, value, context),
    }
}

/// Whether a document is a set of operators rather than a value: DBRefs are values.
fn starts_with_operator(document: DocumentRef<'_>) -> bool {
    document
        .iter()
        .next()
        .is_some_and(|(name, _)| name.starts_with('$') && !matches!(name, "$ref" | "$id" | "$db"))
}

fn comparison(
    target: Target<'_>,
    comparison: Comparison,
    value: ValueRef<'_>,
    context: &ParseContext,
) -> Result<Node, CommandError> {
    match value {
        ValueRef::Undefined => return bad_value("cannot compare to undefined"),
        ValueRef::Regex(..) if comparison != Comparison::Eq => {
            let path = if let Target::Path(path) = target { path } else { "" };
            return bad_value(format!("Can't have RegEx as arg to predicate over field '{path}'."));
        }
        _ => {}
    }
    let operand = Operand { value: value.to_bson(), collation: context.collation };
    Ok(target.node(Predicate::Compare(comparison, operand)))
}

fn parse_operators(
    target: Target<'_>,
    operators: DocumentRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    check_depth(depth)?;
    let mut nodes = Vec::new();
    for (name, value) in operators.iter() {
        let node = match name {
            "$eq" => comparison(target, Comparison::Eq, value, context)?,
            "$gt" => comparison(target, Comparison::Gt, value, context)?,
            "$gte" => comparison(target, Comparison::Gte, value, context)?,
            "$lt" => comparison(target, Comparison::Lt, value, context)?,
            "$lte" => comparison(target, Comparison::Lte, value, context)?,
            "$ne" => {
                if let ValueRef::Regex(..) = value {
                    return bad_value("Can't have regex as arg to $ne.");
                }
                negated(comparison(target, Comparison::Eq, value, context)?)
            }
            "$in" => parse_in(target, "$in", value, context)?,
            "$nin" => negated(parse_in(target, "$nin", value, context)?),
            "$not" => negated(parse_not(target, value, context, depth)?),
            "$exists" => {
                let exists = target.node(Predicate::Exists);
                if value.is_truthy() { exists } else { negated(exists) }
            }
            "$type" => target.node(Predicate::Type(parse_types(value, target.path())?)),
            "$size" => target.node(Predicate::Size(parse_size(value)?)),
            "$mod" => parse_mod(target, value)?,
            "$regex" => parse_regex(target, operators, value)?,
            "$options" => {
                if operators.get("$regex").is_none() {
                    return bad_value("$options needs a $regex");
                }
                continue;
            }
            "$all" => parse_all(target, value, context, depth)?,
            "$elemMatch" => parse_elem_match(target, value, context, depth)?,
            "$bitsAllSet" => parse_bits(target, name, BitTest::AllSet, value)?,
            "$bitsAllClear" => parse_bits(target, name, BitTest::AllClear, value)?,
            "$bitsAnySet" => parse_bits(target, name, BitTest::AnySet, value)?,
            "$bitsAnyClear" => parse_bits(target, name, BitTest::AnyClear, value)?,
            _ => return bad_value(format!("unknown operator: {name}")),
        };
        nodes.push(node);
    }
    Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
}

fn negated(node: Node) -> Node {
    Node::Not(Box::new(node))
}

fn parse_in(
    target: Target<'_>,
    name: &str,
    value: ValueRef<'_>,
    context: &ParseContext,
) -> Result<Node, CommandError> {
    let Some(array) = value.as_array() else {
        return bad_value(format!("{name} needs an array"));
    };
    let (mut values, mut regexes) = (Vec::new(), Vec::new());
    for member in array.iter() {
        match member {
            ValueRef::Document(document) if starts_with_operator(document) => {
                return bad_value(format!("cannot nest $ under {name}"));
            }
            ValueRef::Undefined => {
                return bad_value("InMatchExpression equality cannot be undefined");
            }
            ValueRef::Regex(pattern, options) => {
                regexes.push(Regex::new(pattern, options)?);
            }
            member => values.push(member.to_bson()),
        }
    }
    let collation = context.collation;
    let order = |a: &Bson, b: &Bson| compare_collated(a.into(), b.into(), collation);
    values.sort_by(order);
    values.dedup_by(|a, b| order(a, b).is_eq());
    Ok(target.node(Predicate::In { values, regexes, collation }))
}

fn parse_not(
    target: Target<'_>,
    value: ValueRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    match value {
        ValueRef::Regex(pattern, options) => {
            Ok(target.node(Predicate::Regex(Regex::new(pattern, options)?)))
        }
        ValueRef::Document(document) if document.is_empty() => bad_value("$not cannot be empty"),
        ValueRef::Document(document) => parse_operators(target, document, context, depth + 1),
        _ => bad_value("$not needs a regex or a document"),
    }
}

/// The types of a `$type`: a number, an alias, or an array of these. `path` is what a message names.
pub(in crate::mongod::query) fn parse_types(
    value: ValueRef<'_>,
    path: &str,
) -> Result<TypeSet, CommandError> {
    let mut types = TypeSet { numbers: Vec::new(), any_number: false };
    let mut add = |value: ValueRef<'_>| -> Result<(), CommandError> {
        match value {
            ValueRef::String("number") => types.any_number = true,
            ValueRef::String(alias) => match type_of_alias(alias) {
                Some(number) => types.numbers.push(number),
                None => return bad_value(format!("Unknown type name alias: {alias}")),
            },
            _ if value.is_number() => match as_exact_i64(value) {
                Some(number @ (-1 | 1..=19 | 127)) => types.numbers.push(number as i32),
                _ => {
                    let text = crate::mongod::query::text::value_text(value);
                    return bad_value(format!("Invalid numerical type code: {text}"));
                }
            },
            _ => {
                return Err(CommandError::new(
                    error::TYPE_MISMATCH,
                    "type must be represented as a number or a string",
                ));
            }
        }
        Ok(())
    };
    match value {
        ValueRef::Array(array) => {
            for member in array.iter() {
                add(member)?;
            }
        }
        value => add(value)?,
    }
    if types.numbers.is_empty() && !types.any_number {
        return Err(CommandError::new(
            error::FAILED_TO_PARSE,
            format!("{path} must match at least one type"),
        ));
    }
    Ok(types)
}

fn type_of_alias(alias: &str) -> Option<i32> {
    let aliases = [
        ("double", 1),
        ("string", 2),
        ("object", 3),
        ("array", 4),
        ("binData", 5),
        ("undefined", 6),
        ("objectId", 7),
        ("bool", 8),
        ("date", 9),
        ("null", 10),
        ("regex", 11),
        ("dbPointer", 12),
        ("javascript", 13),
        ("symbol", 14),
        ("javascriptWithScope", 15),
        ("int", 16),
        ("timestamp", 17),
        ("long", 18),
        ("decimal", 19),
        ("minKey", -1),
        ("maxKey", 127),
    ];
    aliases.into_iter().find(|(name, _)| *name == alias).map(|(_, number)| number)
}

fn parse_size(value: ValueRef<'_>) -> Result<i64, CommandError> {
    let element = || crate::mongod::query::text::element_text("$size", value);
    let failed = |message: String| Err(CommandError::new(error::BAD_VALUE, message));
    if !value.is_number() {
        return failed(format!("Failed to parse $size. Expected a number in: {}", element()));
    }
    match as_exact_i64(value) {
        Some(size) if size < 0 => failed(format!(
            "Failed to parse $size. Expected a non-negative number in: {}",
            element()
        )),
        Some(size) => Ok(size),
        None => failed(format!("Failed to parse $size. Expected an integer: {}", element())),
    }
}

fn parse_mod(target: Target<'_>, value: ValueRef<'_>) -> Result<Node, CommandError> {
    let Some(array) = value.as_array() else {
        return bad_value("malformed mod, needs to be an array");
    };
    let members: Vec<ValueRef<'_>> = array.iter().collect();
    let whole = |value: ValueRef<'_>, what: &str| -> Result<i64, CommandError> {
        match as_f64(value) {
            None => bad_value(format!("malformed mod, {what} not a number")),
            Some(number) if !number.is_finite() => {
                bad_value(format!("malformed mod, {what} value is invalid"))
            }
            Some(number) => Ok(as_exact_i64(value).unwrap_or(number.trunc() as i64)),
        }
    };
    match members.as_slice() {
        [] | [_] => bad_value("malformed mod, not enough elements"),
        [divisor, remainder] => {
            let divisor = whole(*divisor, "divisor")?;
            let remainder = whole(*remainder, "remainder")?;
            if divisor == 0 {
                return bad_value("divisor cannot be 0");
            }
            Ok(target.node(Predicate::Mod { divisor, remainder }))
        }
        _ => bad_value("malformed mod, too many elements"),
    }
}

fn parse_regex(
    target: Target<'_>,
    operators: DocumentRef<'_>,
    value: ValueRef<'_>,
) -> Result<Node, CommandError> {
    let given = match operators.get("$options") {
        None => None,
        Some(ValueRef::String(options)) => Some(options),
        Some(_) => return bad_value("$options has to be a string"),
    };
    let (pattern, options) = match value {
        ValueRef::String(pattern) => (pattern, given.unwrap_or_default()),
        ValueRef::Regex(pattern, own) => {
            if given.is_some() && !own.is_empty() {
                return Err(CommandError::new(51075, "options set in both $regex and $options"));
            }
            (pattern, given.unwrap_or(own))
        }
        _ => return bad_value("$regex has to be a string"),
    };
    Ok(target.node(Predicate::Regex(Regex::new(pattern, options)?)))
}

fn parse_all(
    target: Target<'_>,
    value: ValueRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    let Some(array) = value.as_array() else { return bad_value("$all needs an array") };
    if array.is_empty() {
        return Ok(Node::Constant(false));
    }
    let first_operator = |value: ValueRef<'_>| {
        let document = value.as_document()?;
        document.iter().next().map(|(name, _)| name == "$elemMatch")
    };
    let elem_match = array.iter().next().and_then(first_operator) == Some(true);
    let mut nodes = Vec::new();
    for member in array.iter() {
        let node = match member {
            ValueRef::Document(document) if elem_match => {
                match (document.get("$elemMatch"), document.iter().count()) {
                    (Some(condition), 1) => parse_elem_match(target, condition, context, depth)?,
                    _ => return bad_value("$all/$elemMatch has to be consistent"),
                }
            }
            _ if elem_match => return bad_value("$all/$elemMatch has to be consistent"),
            ValueRef::Document(document) if starts_with_operator(document) => {
                return bad_value("no $ expressions in $all");
            }
            ValueRef::Regex(pattern, options) => {
                target.node(Predicate::Regex(Regex::new(pattern, options)?))
            }
            member => comparison(target, Comparison::Eq, member, context)?,
        };
        nodes.push(node);
    }
    Ok(Node::All(nodes))
}

fn parse_elem_match(
    target: Target<'_>,
    value: ValueRef<'_>,
    context: &ParseContext,
    depth: usize,
) -> Result<Node, CommandError> {
    let ValueRef::Document(condition) = value else {
        return bad_value("$elemMatch needs an Object");
    };
    Ok(target.node(if is_value_condition(condition) {
        let node = parse_operators(Target::Value, condition, context, depth + 1)?;
        Predicate::ElemMatchValue(Box::new(node))
    } else {
        Predicate::ElemMatchDocument(Box::new(parse_document(condition, context, depth + 1)?))
    }))
}

fn parse_bits(
    target: Target<'_>,
    name: &str,
    test: BitTest,
    value: ValueRef<'_>,
) -> Result<Node, CommandError> {
    let element = || crate::mongod::query::text::element_text(name, value);
    let mut positions = Vec::new();
    match value {
        ValueRef::Array(array) => {
            for (place, member) in array.iter().enumerate() {
                match as_exact_i64(member) {
                    Some(position) if position >= 0 => positions.push(position as u64),
                    _ => {
                        return bad_value(format!(
                            "Failed to parse bit position. Expected a non-negative number in: {}",
                            crate::mongod::query::text::element_text(&place.to_string(), member)
                        ));
                    }
                }
            }
        }
        ValueRef::Binary(_, bytes) => {
            for (place, byte) in bytes.iter().enumerate() {
                let place = place as u64;
                positions
                    .extend((0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| place * 8 + bit));
            }
        }
        value if value.is_number() => match as_exact_i64(value) {
            Some(mask) if mask >= 0 => {
                positions.extend((0..64_u64).filter(|bit| mask >> bit & 1 == 1));
            }
            None => {
                return Err(CommandError::new(
                    error::FAILED_TO_PARSE,
                    format!("Expected an integer: {}", element()),
                ));
            }
            Some(_) => {
                return Err(CommandError::new(
                    error::FAILED_TO_PARSE,
                    format!("Expected a non-negative number in: {}", element()),
                ));
            }
        },
        _ => {
            return bad_value(format!(
                "{} takes an Array, a number, or a BinData but received: {}",
                target.path(),
                element()
            ));
        }
    }
    positions.sort_unstable();
    positions.dedup();
    Ok(target.node(Predicate::Bits { test, positions }))
}
