//! Operators with a syntax of their own: those that bind variables, take named arguments, or do not
//! evaluate all their arguments.

use bson::Bson;

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::array::{self, SortBy};
use super::{
    Bindings, Expression, Node, Scope, Value, date, is_nullish, object, parts, string, truthy,
    type_name, types,
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

/// Operators with named arguments: name, the arguments (`!` marks those that must be there), the
/// code of the error about a wrong shape.
static NAMED: &[(&str, &[&str], i32, NamedFunction)] = &[
    ("$convert", &["input!", "to!", "onError", "onNull"], 9, types::convert),
    ("$dateFromParts", parts::FROM_PARTS, 40518, parts::date_from_parts),
    ("$dateToParts", &["date!", "timezone", "iso8601"], 40522, parts::date_to_parts),
    ("$firstN", &["n!", "input!"], 5_787_901, parts::first_n),
    ("$lastN", &["n!", "input!"], 5_787_901, parts::last_n),
    ("$maxN", &["n!", "input!"], 5_787_901, parts::max_n),
    ("$minN", &["n!", "input!"], 5_787_901, parts::min_n),
    ("$dateAdd", &["startDate!", "unit!", "amount!", "timezone"], 5_166_400, date::date_add),
    (
        "$dateDiff",
        &["startDate!", "endDate!", "unit!", "timezone", "startOfWeek"],
        5_166_301,
        date::date_diff,
    ),
    (
        "$dateFromString",
        &["dateString!", "format", "timezone", "onError", "onNull"],
        40540,
        date::date_from_string,
    ),
    (
        "$dateSubtract",
        &["startDate!", "unit!", "amount!", "timezone"],
        5_166_400,
        date::date_subtract,
    ),
    ("$dateToString", &["date!", "format", "timezone", "onNull"], 18629, date::date_to_string),
    (
        "$dateTrunc",
        &["date!", "unit!", "binSize", "timezone", "startOfWeek"],
        5_439_007,
        date::date_trunc,
    ),
    ("$getField", &["field!", "input"], 3_041_702, object::get_field),
    ("$ltrim", &["input!", "chars"], 50696, string::ltrim),
    ("$regexFind", &["input!", "regex!", "options"], 51103, string::regex_find),
    ("$regexFindAll", &["input!", "regex!", "options"], 51103, string::regex_find_all),
    ("$regexMatch", &["input!", "regex!", "options"], 51103, string::regex_match),
    ("$replaceAll", &["input!", "find!", "replacement!"], 51751, string::replace_all),
    ("$replaceOne", &["input!", "find!", "replacement!"], 51751, string::replace_one),
    ("$rtrim", &["input!", "chars"], 50696, string::rtrim),
    ("$setField", &["field!", "input!", "value!"], 4_161_100, object::set_field),
    ("$trim", &["input!", "chars"], 50696, string::trim),
    ("$unsetField", &["field!", "input!"], 4_161_100, object::unset_field),
    ("$zip", &["inputs!", "useLongestLength", "defaults"], 34460, array::zip),
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
            let fields = Fields::of(name, value, &["input", "as", "in"], (16878, 16879))?;
            let input = expression(fields.required("input", 16880)?)?;
            let variable = fields.variable("as")?;
            let body = bindings.with(std::slice::from_ref(&variable), |bindings| {
                Expression::parse_bound(fields.required("in", 16882)?, bindings)
            })?;
            Form::Map { input, name: variable, body }
        }
        "$filter" => {
            let fields =
                Fields::of(name, value, &["input", "as", "cond", "limit"], (28646, 28647))?;
            let input = expression(fields.required("input", 28648)?)?;
            let variable = fields.variable("as")?;
            let condition = bindings.with(std::slice::from_ref(&variable), |bindings| {
                Expression::parse_bound(fields.required("cond", 28650)?, bindings)
            })?;
            let limit = fields.optional("limit").map(expression).transpose()?;
            Form::Filter { input, name: variable, condition, limit }
        }
        "$reduce" => {
            let fields = Fields::of(name, value, &["input", "initialValue", "in"], (40075, 40076))?;
            let input = expression(fields.required("input", 40077)?)?;
            let initial = expression(fields.required("initialValue", 40078)?)?;
            let names = ["this".to_owned(), "value".to_owned()];
            let body = bindings.with(&names, |bindings| {
                Expression::parse_bound(fields.required("in", 40079)?, bindings)
            })?;
            Form::Reduce { input, initial, body }
        }
        "$sortArray" => {
            let fields = Fields::of(name, value, &["input", "sortBy"], (2_942_500, 2_942_501))?;
            let input = expression(fields.required("input", 2_942_502)?)?;
            let sort =
                SortBy::parse(fields.required("sortBy", 2_942_503)?, bindings.context.collation)?;
            Form::SortArray { input, sort }
        }
        _ => match NAMED.iter().find(|(known, ..)| *known == name) {
            Some((name, names, code, function)) => {
                parse_named(name, names, *code, *function, value, bindings)?
            }
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
    /// `codes`: of the errors about an argument that is no object, and about an unknown name.
    fn of(
        operator: &'a str,
        value: ValueRef<'a>,
        known: &[&str],
        codes: (i32, i32),
    ) -> Result<Self, CommandError> {
        let ValueRef::Document(document) = value else {
            let message = format!("{operator} only supports an object as its argument");
            return Err(CommandError::new(codes.0, message));
        };
        match document.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => {
                let message = format!("Unrecognized parameter to {operator}: {name}");
                Err(CommandError::new(codes.1, message))
            }
            None => Ok(Fields { operator, document }),
        }
    }

    fn optional(&self, name: &str) -> Option<ValueRef<'a>> {
        self.document.get(name)
    }

    fn required(&self, name: &str, code: i32) -> Result<ValueRef<'a>, CommandError> {
        self.optional(name).ok_or_else(|| {
            CommandError::new(code, format!("Missing '{name}' parameter to {}", self.operator))
        })
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
    code: i32,
    function: NamedFunction,
    value: ValueRef<'_>,
    bindings: &Bindings<'_>,
) -> Result<Form, CommandError> {
    // `$getField: "a"` is short for `{field: "a"}`.
    let shorthand = name == "$getField"
        && value.as_document().is_none_or(|document| document.get("field").is_none());
    if shorthand {
        let field = Expression::parse_bound(value, bindings)?;
        return Ok(Form::Named { function, arguments: vec![Some(field), Some(root())] });
    }
    let known: Vec<&str> = names.iter().map(|name| name.trim_end_matches('!')).collect();
    let fields = Fields::of(name, value, &known, (code, code))?;
    let mut arguments = Vec::new();
    for argument in names {
        let plain = argument.trim_end_matches('!');
        let given = match fields.optional(plain) {
            None if argument.ends_with('!') => {
                let message = format!("Missing '{plain}' parameter to {name}");
                return Err(CommandError::new(code, message));
            }
            None if name == "$getField" => Some(root()),
            given => given.map(|value| Expression::parse_bound(value, bindings)).transpose()?,
        };
        arguments.push(given);
    }
    Ok(Form::Named { function, arguments })
}

fn root() -> Expression {
    Expression(Node::Path { variable: super::Variable::Root, path: Vec::new() })
}

fn parse_cond(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Form, CommandError> {
    let expression = |value| Expression::parse_bound(value, bindings);
    if let ValueRef::Document(_) = value {
        let fields = Fields::of("$cond", value, &["if", "then", "else"], (17083, 17083))?;
        return Ok(Form::Cond {
            condition: expression(fields.required("if", 17080)?)?,
            then: expression(fields.required("then", 17081)?)?,
            otherwise: expression(fields.required("else", 17082)?)?,
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
    let fields = Fields::of("$switch", value, &["branches", "default"], (40060, 40067))?;
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
                let branch = Fields::of("$switch", branch, &["case", "then"], (40062, 40063))?;
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
        return Err(CommandError::new(40068, "$switch requires at least one branch."));
    }
    let default = fields.optional("default").map(expression).transpose()?;
    Ok(Form::Switch { branches, default })
}

fn parse_let(value: ValueRef<'_>, bindings: &Bindings<'_>) -> Result<Form, CommandError> {
    let fields = Fields::of("$let", value, &["vars", "in"], (16874, 16875))?;
    let vars = match fields.required("vars", 16876)? {
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
    let body = bindings.with(&names, |bindings| {
        Expression::parse_bound(fields.required("in", 16877)?, bindings)
    })?;
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
                                "$filter: limit must be greater than 0",
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
        value => Err(CommandError::new(
            code,
            format!("input to {operator} must be an array not {}", type_name(&value)),
        )),
    }
}
