//! Operators with a syntax of their own: those that bind variables, take named arguments, or do not
//! evaluate all their arguments.

use bson::Bson;

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::array::{self, SortBy};
use super::{
    Bindings, Expression, Node, Scope, Value, date, is_nullish, object, parts, string, truthy,
    type_name, types, words,
};

#[derive(Clone, Debug)]
pub(super) enum Form {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Cond {
        condition: Expression,
        then: Expression,
        otherwise: Expression,
    },
    IfNull(Vec<Expression>),
    Switch {
        branches: Vec<(Expression, Expression)>,
        default: Option<Expression>,
    },
    Let {
        variables: Vec<(String, Expression)>,
        body: Expression,
    },
    Map {
        input: Expression,
        name: String,
        body: Expression,
    },
    Filter {
        input: Expression,
        name: String,
        condition: Expression,
        limit: Option<Expression>,
    },
    Reduce {
        input: Expression,
        initial: Expression,
        body: Expression,
    },
    SortArray {
        input: Expression,
        sort: SortBy,
    },
    /// Operators with named arguments that are all evaluated: the arguments in the order of the names.
    Named {
        function: NamedFunction,
        arguments: Vec<Option<Expression>>,
    },
}

type NamedFunction = fn(&[Value]) -> Result<Value, CommandError>;

/// Operators with named arguments: name, the arguments (`!` marks those that must be
/// there), what computes it.
static NAMED: &[(&str, &[&str], NamedFunction)] = &[
    ("$convert", &["input!", "to!", "onError", "onNull"], types::convert),
    ("$dateFromParts", parts::FROM_PARTS, parts::date_from_parts),
    ("$dateToParts", &["date!", "timezone", "iso8601"], parts::date_to_parts),
    ("$firstN", &["n!", "input!"], parts::first_n),
    ("$lastN", &["n!", "input!"], parts::last_n),
    ("$maxN", &["n!", "input!"], parts::max_n),
    ("$minN", &["n!", "input!"], parts::min_n),
    ("$dateAdd", &["startDate!", "unit!", "amount!", "timezone"], date::date_add),
    ("$dateDiff", &["startDate!", "endDate!", "unit!", "timezone", "startOfWeek"], date::date_diff),
    (
        "$dateFromString",
        &["dateString!", "format", "timezone", "onError", "onNull"],
        date::date_from_string,
    ),
    ("$dateSubtract", &["startDate!", "unit!", "amount!", "timezone"], date::date_subtract),
    ("$dateToString", &["date!", "format", "timezone", "onNull"], date::date_to_string),
    ("$dateTrunc", &["date!", "unit!", "binSize", "timezone", "startOfWeek"], date::date_trunc),
    ("$getField", &["field!", "input!"], object::get_field),
    ("$ltrim", &["input!", "chars"], string::ltrim),
    ("$regexFind", &["input!", "regex!", "options"], string::regex_find),
    ("$regexFindAll", &["input!", "regex!", "options"], string::regex_find_all),
    ("$regexMatch", &["input!", "regex!", "options"], string::regex_match),
    ("$replaceAll", &["input!", "find!", "replacement!"], string::replace_all),
    ("$replaceOne", &["input!", "find!", "replacement!"], string::replace_one),
    ("$rtrim", &["input!", "chars"], string::rtrim),
    ("$setField", &["field!", "input!", "value!"], object::set_field),
    ("$trim", &["input!", "chars"], string::trim),
    ("$unsetField", &["field!", "input!"], object::unset_field),
    ("$zip", &["inputs!", "useLongestLength", "defaults"], array::zip),
];

/// Parses one of the forms; `None` if `name` is none.
pub(super) fn parse(
    name: &str,
    value: ValueRef<'_>,
    bindings: &Bindings<'_>,
) -> Result<Option<Expression>, CommandError> {
    let expression = |value| Expression::parse_bound(value, bindings);
    let form = match name {
        "$literal" => return Ok(Some(Expression::literal(value.to_bson()))),
        // The accumulator-like `$const` is what the server writes `$literal` as.
        "$const" => return Ok(Some(Expression::literal(value.to_bson()))),
        "$and" => Form::And(list(value, bindings)?),
        "$or" => Form::Or(list(value, bindings)?),
        "$ifNull" => {
            let members = list(value, bindings)?;
            if members.len() < 2 {
                let message =
                    format!("$ifNull needs at least two arguments, had: {}", members.len());
                return Err(CommandError::new(1_257_300, message));
            }
            Form::IfNull(members)
        }
        "$cond" => parse_cond(value, bindings)?,
        "$switch" => parse_switch(value, bindings)?,
        "$let" => parse_let(value, bindings)?,
        "$map" => {
            let fields = Fields::of(name, value, &["input", "as", "in"])?;
            let input = expression(fields.required("input")?)?;
            let variable = fields.variable("as")?;
            let body = bindings.with(std::slice::from_ref(&variable), |bindings| {
                Expression::parse_bound(fields.required("in")?, bindings)
            })?;
            Form::Map { input, name: variable, body }
        }
        "$filter" => {
            let fields = Fields::of(name, value, &["input", "as", "cond", "limit"])?;
            let input = expression(fields.required("input")?)?;
            let variable = fields.variable("as")?;
            let condition = bindings.with(std::slice::from_ref(&variable), |bindings| {
                Expression::parse_bound(fields.required("cond")?, bindings)
            })?;
            let limit = fields.optional("limit").map(expression).transpose()?;
            Form::Filter { input, name: variable, condition, limit }
        }
        "$reduce" => {
            let fields = Fields::of(name, value, &["input", "initialValue", "in"])?;
            let input = expression(fields.required("input")?)?;
            let initial = expression(fields.required("initialValue")?)?;
            let names = ["this".to_owned(), "value".to_owned()];
            let body = bindings.with(&names, |bindings| {
                Expression::parse_bound(fields.required("in")?, bindings)
            })?;
            Form::Reduce { input, initial, body }
        }
        "$sortArray" => {
            let fields = Fields::of(name, value, &["input", "sortBy"])?;
            let input = expression(fields.required("input")?)?;
            let sort = SortBy::parse(fields.required("sortBy")?, bindings.context.collation)?;
            Form::SortArray { input, sort }
        }
        _ => match NAMED.iter().find(|(known, ..)| *known == name) {
            Some((name, names, function)) => parse_named(name, names, *function, value, bindings)?,
            None => return Ok(None),
        },
    };
    Ok(Some(Expression(Node::Form(Box::new(form)))))
}

fn list(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Vec<Expression>, CommandError> {
    match value {
        ValueRef::Array(array) => {
            array.iter().map(|member| Expression::parse_bound(member, bindings)).collect()
        }
        value => Ok(vec![Expression::parse_bound(value, bindings)?]),
    }
}

/// The named arguments of an operator.
struct Fields<'a> {
    operator: &'a str,
    document: DocumentRef<'a>,
}

impl<'a> Fields<'a> {
    fn of(operator: &'a str, value: ValueRef<'a>, known: &[&str]) -> Result<Self, CommandError> {
        let ValueRef::Document(document) = value else {
            return Err(words::no_object(operator, value));
        };
        match document.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(words::unknown(operator, name)),
            None => Ok(Fields { operator, document }),
        }
    }

    /// A branch of `$switch`.
    fn of_branch(value: ValueRef<'a>) -> Result<Self, CommandError> {
        let fields = value
            .as_document()
            .filter(|branch| branch.iter().all(|(name, _)| matches!(name, "case" | "then")));
        match (fields, value) {
            (Some(document), _) => Ok(Fields { operator: "$switch", document }),
            (None, ValueRef::Document(document)) => {
                let unknown = document.iter().map(|(name, _)| name);
                let mut unknown = unknown.filter(|name| !matches!(*name, "case" | "then"));
                let name = unknown.next().unwrap_or_default();
                let message = format!("$switch found an unknown argument to a branch: {name}");
                Err(CommandError::new(40063, message))
            }
            (None, other) => Err(CommandError::new(
                40062,
                format!(
                    "$switch expected each branch to be an object, found: {}",
                    other.type_name()
                ),
            )),
        }
    }

    fn optional(&self, name: &str) -> Option<ValueRef<'a>> {
        self.document.get(name)
    }

    fn required(&self, name: &str) -> Result<ValueRef<'a>, CommandError> {
        self.optional(name).ok_or_else(|| words::missing(self.operator, name))
    }

    /// The variable an `as` names; `this` without one.
    fn variable(&self, name: &str) -> Result<String, CommandError> {
        match self.optional(name) {
            None => Ok("this".to_owned()),
            Some(ValueRef::String(name)) => {
                check_variable_name(name)?;
                Ok(name.to_owned())
            }
            Some(_) => {
                Err(CommandError::new(error::TYPE_MISMATCH, format!("'{name}' must be a string")))
            }
        }
    }
}

fn check_variable_name(name: &str) -> Result<(), CommandError> {
    let failed = |message: String| Err(CommandError::new(error::FAILED_TO_PARSE, message));
    let Some(first) = name.chars().next() else {
        return failed("empty variable names are not allowed".into());
    };
    if name == "CURRENT" {
        return Ok(());
    }
    if first.is_ascii() && !first.is_ascii_lowercase() {
        return failed(format!(
            "'{name}' starts with an invalid character for a user variable name"
        ));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
    match name.chars().find(|c| !valid(*c)) {
        Some(c) => {
            failed(format!("'{name}' contains an invalid character for a variable name: '{c}'"))
        }
        None => Ok(()),
    }
}

fn parse_named(
    name: &'static str,
    names: &'static [&'static str],
    function: NamedFunction,
    value: ValueRef<'_>,
    bindings: &Bindings<'_>,
) -> Result<Form, CommandError> {
    // `$getField: "a"` is short for `{field: "a"}`.
    let is_short = |document: DocumentRef<'_>| {
        document.is_empty() || document.iter().next().is_some_and(|(name, _)| name.starts_with('$'))
    };
    let shorthand = name == "$getField" && value.as_document().is_none_or(is_short);
    if shorthand {
        let field = Expression::parse_bound(value, bindings)?;
        return Ok(Form::Named { function, arguments: vec![Some(field), Some(root())] });
    }
    let known: Vec<&str> = names.iter().map(|name| name.trim_end_matches('!')).collect();
    let fields = Fields::of(name, value, &known)?;
    let mut arguments = Vec::new();
    for argument in names {
        let plain = argument.trim_end_matches('!');
        let given = match fields.optional(plain) {
            None if argument.ends_with('!') => return Err(words::missing(name, plain)),
            given => given.map(|value| Expression::parse_bound(value, bindings)).transpose()?,
        };
        arguments.push(given);
    }
    check_named(name, names, &arguments)?;
    Ok(Form::Named { function, arguments })
}

/// What some operators refuse before they are ever evaluated.
fn check_named(
    name: &str,
    names: &[&str],
    arguments: &[Option<Expression>],
) -> Result<(), CommandError> {
    let given = |argument: &str| {
        let place = names.iter().position(|known| known.trim_end_matches('!') == argument);
        place.and_then(|place| arguments[place].as_ref())
    };
    match name {
        "$getField" => match given("field").and_then(Expression::as_literal) {
            Some(Bson::String(_)) | None => Ok(()),
            Some(other) => Err(CommandError::new(
                5_654_602,
                format!(
                    "$getField requires 'field' to evaluate to type String, but got {}",
                    ValueRef::from(other).type_name()
                ),
            )),
        },
        "$zip" => {
            match given("inputs").map(|inputs| &inputs.0) {
                Some(Node::Literal(Bson::Array(_)) | Node::Array(_)) | None => {}
                Some(Node::Literal(other)) => {
                    return Err(CommandError::new(
                        34461,
                        format!(
                            "inputs must be an array of expressions, found {}",
                            ValueRef::from(other).type_name()
                        ),
                    ));
                }
                Some(_) => {
                    return Err(CommandError::new(
                        34461,
                        "inputs must be an array of expressions, found string",
                    ));
                }
            }
            let longest = given("useLongestLength").and_then(Expression::as_literal);
            if given("defaults").is_some() && longest != Some(&Bson::Boolean(true)) {
                return Err(CommandError::new(
                    34466,
                    "cannot specify defaults unless useLongestLength is true",
                ));
            }
            Ok(())
        }
        "$dateFromParts" => {
            let iso = ["isoWeekYear", "isoWeek", "isoDayOfWeek"];
            let natural = ["year", "month", "day"];
            let any = |names: [&str; 3]| names.into_iter().any(|name| given(name).is_some());
            if any(iso) && any(natural) {
                return Err(CommandError::new(
                    40489,
                    "$dateFromParts does not allow mixing natural dates with ISO dates",
                ));
            }
            match given("year").or(given("isoWeekYear")) {
                Some(_) => Ok(()),
                None => Err(words::missing(name, "year")),
            }
        }
        _ => Ok(()),
    }
}

fn root() -> Expression {
    Expression(Node::Path { variable: super::Variable::Root, path: Vec::new() })
}

fn parse_cond(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Form, CommandError> {
    let expression = |value| Expression::parse_bound(value, bindings);
    if let ValueRef::Document(_) = value {
        let fields = Fields::of("$cond", value, &["if", "then", "else"])?;
        return Ok(Form::Cond {
            condition: expression(fields.required("if")?)?,
            then: expression(fields.required("then")?)?,
            otherwise: expression(fields.required("else")?)?,
        });
    }
    let members = list(value, bindings)?;
    match <[Expression; 3]>::try_from(members) {
        Ok([condition, then, otherwise]) => Ok(Form::Cond { condition, then, otherwise }),
        Err(members) => Err(CommandError::new(
            16020,
            format!(
                "Expression $cond takes exactly 3 arguments. {} were passed in.",
                members.len()
            ),
        )),
    }
}

fn parse_switch(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Form, CommandError> {
    let expression = |value| Expression::parse_bound(value, bindings);
    let fields = Fields::of("$switch", value, &["branches", "default"])?;
    let mut branches = Vec::new();
    match fields.optional("branches") {
        Some(ValueRef::Array(array)) => {
            for branch in array.iter() {
                if !matches!(branch, ValueRef::Document(_)) {
                    let message = format!(
                        "$switch expected each branch to be an object, found: {}",
                        branch.type_name()
                    );
                    return Err(CommandError::new(40062, message));
                }
                let branch = Fields::of_branch(branch)?;
                let case = branch.optional("case").ok_or_else(|| {
                    CommandError::new(
                        40064,
                        "$switch requires each branch have a 'case' expression",
                    )
                })?;
                let then = branch.optional("then").ok_or_else(|| {
                    CommandError::new(
                        40065,
                        "$switch requires each branch have a 'then' expression.",
                    )
                })?;
                branches.push((expression(case)?, expression(then)?));
            }
        }
        Some(other) => {
            let message =
                format!("$switch expected an array for 'branches', found: {}", other.type_name());
            return Err(CommandError::new(40061, message));
        }
        None => {}
    }
    if branches.is_empty() {
        return Err(CommandError::new(40068, "$switch requires at least one branch"));
    }
    let default = fields.optional("default").map(expression).transpose()?;
    Ok(Form::Switch { branches, default })
}

fn parse_let(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Form, CommandError> {
    let fields = Fields::of("$let", value, &["vars", "in"])?;
    let vars = match fields.required("vars")? {
        ValueRef::Document(vars) => vars,
        _ => return Err(CommandError::new(10065, "invalid parameter: expected an object (vars)")),
    };
    let mut variables = Vec::new();
    let mut names = Vec::new();
    for (name, value) in vars.iter() {
        check_variable_name(name)?;
        variables.push((name.to_owned(), Expression::parse_bound(value, bindings)?));
        names.push(name.to_owned());
    }
    let body = bindings
        .with(&names, |bindings| Expression::parse_bound(fields.required("in")?, bindings))?;
    Ok(Form::Let { variables, body })
}

impl Form {
    /// Whether all it is made of are constants; what binds variables never is.
    pub(super) fn is_constant(&self) -> bool {
        let all = |members: &[Expression]| members.iter().all(Expression::is_constant);
        match self {
            Form::And(members) | Form::Or(members) | Form::IfNull(members) => all(members),
            Form::Cond { condition, then, otherwise } => {
                condition.is_constant() && then.is_constant() && otherwise.is_constant()
            }
            Form::SortArray { input, .. } => input.is_constant(),
            Form::Named { arguments, .. } => {
                arguments.iter().flatten().all(Expression::is_constant)
            }
            Form::Switch { .. }
            | Form::Let { .. }
            | Form::Map { .. }
            | Form::Filter { .. }
            | Form::Reduce { .. } => false,
        }
    }

    pub(super) fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, CommandError> {
        match self {
            Form::And(members) => {
                for member in members {
                    if !truthy(&member.evaluate(scope)?) {
                        return Ok(Some(Bson::Boolean(false)));
                    }
                }
                Ok(Some(Bson::Boolean(true)))
            }
            Form::Or(members) => {
                for member in members {
                    if truthy(&member.evaluate(scope)?) {
                        return Ok(Some(Bson::Boolean(true)));
                    }
                }
                Ok(Some(Bson::Boolean(false)))
            }
            Form::Cond { condition, then, otherwise } => {
                if truthy(&condition.evaluate(scope)?) {
                    then.evaluate(scope)
                } else {
                    otherwise.evaluate(scope)
                }
            }
            Form::IfNull(members) => {
                let mut last = None;
                for member in members {
                    last = member.evaluate(scope)?;
                    if !is_nullish(&last) {
                        break;
                    }
                }
                Ok(last)
            }
            Form::Switch { branches, default } => {
                for (case, then) in branches {
                    if truthy(&case.evaluate(scope)?) {
                        return then.evaluate(scope);
                    }
                }
                match default {
                    Some(default) => default.evaluate(scope),
                    None => Err(CommandError::new(
                        40066,
                        "$switch could not find a matching branch for an input, and no default was \
                         specified.",
                    )),
                }
            }
            Form::Let { variables, body } => {
                let mut values = Vec::with_capacity(variables.len());
                for (name, expression) in variables {
                    values.push((name.as_str(), expression.evaluate(scope)?));
                }
                with_all(scope, &values, body)
            }
            Form::Map { input, name, body } => {
                let Some(array) = input_array("$map", 16883, input.evaluate(scope)?)? else {
                    return Ok(Some(Bson::Null));
                };
                let mut mapped = Vec::with_capacity(array.len());
                for element in array {
                    let value = scope.with(name, &Some(element), |scope| body.evaluate(scope))?;
                    mapped.push(value.unwrap_or(Bson::Null));
                }
                Ok(Some(Bson::Array(mapped)))
            }
            Form::Filter { input, name, condition, limit } => {
                let Some(array) = input_array("$filter", 28651, input.evaluate(scope)?)? else {
                    return Ok(Some(Bson::Null));
                };
                let limit =
                    limit.as_ref().map(|limit| limit.evaluate(scope)).transpose()?.flatten();
                let limit = match limit.as_ref().map(ValueRef::from) {
                    None | Some(ValueRef::Null) => usize::MAX,
                    Some(value) => match crate::mongod::query::number::as_exact_i64(value) {
                        Some(limit) if limit > 0 => limit as usize,
                        _ => {
                            return Err(CommandError::new(
                                327_392,
                                format!(
                                    "$filter: limit must be greater than 0: {}",
                                    crate::mongod::query::text::value_text(value)
                                ),
                            ));
                        }
                    },
                };
                let mut kept = Vec::new();
                for element in array {
                    if kept.len() >= limit {
                        break;
                    }
                    let element = Some(element);
                    let keep = scope.with(name, &element, |scope| condition.evaluate(scope))?;
                    if truthy(&keep) {
                        kept.extend(element);
                    }
                }
                Ok(Some(Bson::Array(kept)))
            }
            Form::Reduce { input, initial, body } => {
                let Some(array) = input_array("$reduce", 40080, input.evaluate(scope)?)? else {
                    return Ok(Some(Bson::Null));
                };
                let mut accumulated = initial.evaluate(scope)?;
                for element in array {
                    let values = [("this", Some(element)), ("value", accumulated)];
                    accumulated = with_all(scope, &values, body)?;
                }
                Ok(accumulated)
            }
            Form::SortArray { input, sort } => {
                let Some(mut array) = input_array("$sortArray", 2_942_504, input.evaluate(scope)?)?
                else {
                    return Ok(Some(Bson::Null));
                };
                sort.sort(&mut array);
                Ok(Some(Bson::Array(array)))
            }
            Form::Named { function, arguments } => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(match argument {
                        Some(argument) => argument.evaluate(scope)?,
                        None => None,
                    });
                }
                function(&values)
            }
        }
    }
}

fn with_all(
    scope: &Scope<'_>,
    values: &[(&str, Value)],
    body: &Expression,
) -> Result<Value, CommandError> {
    match values.split_first() {
        None => body.evaluate(scope),
        Some(((name, value), rest)) => scope.with(name, value, |scope| with_all(scope, rest, body)),
    }
}

/// The array an operator goes over; `None` for null.
fn input_array(operator: &str, code: i32, value: Value) -> Result<Option<Vec<Bson>>, CommandError> {
    match value {
        Some(Bson::Array(array)) => Ok(Some(array)),
        value if is_nullish(&value) => Ok(None),
        value => {
            let message = match operator {
                "$reduce" => format!(
                    "$reduce requires that 'input' be an array, found: {}",
                    value.as_ref().map_or_else(String::new, |value| {
                        crate::mongod::query::text::value_text(value.into())
                    })
                ),
                "$sortArray" => format!(
                    "The input argument to $sortArray must be an array, but was of type: {}",
                    type_name(&value)
                ),
                _ => format!("input to {operator} must be an array not {}", type_name(&value)),
            };
            Err(CommandError::new(code, message))
        }
    }
}
