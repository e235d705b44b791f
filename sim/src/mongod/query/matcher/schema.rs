//! `$jsonSchema`: what a document must look like, and in detail what it does not.

use bson::{Bson, Document, bson, doc};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::compare::{compare, equal};
use crate::mongod::query::number::{as_exact_i64, as_f64};
use crate::mongod::query::regex::Regex;
use crate::mongod::query::value::{DocumentRef, ValueRef};

use super::parse::parse_types;
use super::predicate::TypeSet;

/// A parsed schema.
#[derive(Clone, Debug)]
pub(in crate::mongod::query) struct Schema {
    title: Option<Bson>,
    description: Option<Bson>,
    rules: Vec<Rule>,
}

/// One keyword.
#[derive(Clone, Debug)]
struct Rule {
    keyword: String,
    /// The keyword as it was written.
    specified: Document,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Type(TypeSet),
    Enum(Vec<Bson>),
    Minimum { bound: Bson, exclusive: bool },
    Maximum { bound: Bson, exclusive: bool },
    MultipleOf(Bson),
    MinLength(i64),
    MaxLength(i64),
    Pattern(Box<Regex>),
    MinItems(i64),
    MaxItems(i64),
    UniqueItems,
    Items(Box<Schema>),
    ItemsEach(Vec<Schema>),
    AdditionalItems { after: usize, schema: Option<Box<Schema>> },
    MinProperties(i64),
    MaxProperties(i64),
    Required(Vec<String>),
    Properties(Vec<(String, Schema)>),
    PatternProperties(Vec<(Regex, Schema)>),
    AdditionalProperties { known: Vec<String>, patterns: Vec<Regex>, schema: Option<Box<Schema>> },
    DependsOnFields(String, Vec<String>),
    DependsOnSchema(String, Box<Schema>),
    AllOf(Vec<Schema>),
    AnyOf(Vec<Schema>),
    OneOf(Vec<Schema>),
    Not(Box<Schema>),
}

fn fail<T>(code: i32, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

fn mismatch<T>(message: impl Into<String>) -> Result<T, CommandError> {
    fail(error::TYPE_MISMATCH, message)
}

fn failed<T>(message: impl Into<String>) -> Result<T, CommandError> {
    fail(error::FAILED_TO_PARSE, message)
}

/// The types JSON knows, by the name of their BSON types.
fn json_type(name: &str) -> Result<TypeSet, CommandError> {
    let numbers = match name {
        "array" => vec![4],
        "boolean" => vec![8],
        "null" => vec![10],
        "object" => vec![3],
        "string" => vec![2],
        "number" => return Ok(TypeSet { numbers: Vec::new(), any_number: true }),
        "integer" => {
            return failed("$jsonSchema type 'integer' is not currently supported.");
        }
        name => return fail(error::BAD_VALUE, format!("Unknown type name alias: {name}")),
    };
    Ok(TypeSet { numbers, any_number: false })
}

impl Schema {
    /// Parses a schema.
    pub(in crate::mongod::query) fn parse(value: ValueRef<'_>) -> Result<Schema, CommandError> {
        match value {
            ValueRef::Document(schema) => Schema::parse_document(schema),
            _ => mismatch("$jsonSchema must be an object"),
        }
    }

    fn parse_document(schema: DocumentRef<'_>) -> Result<Schema, CommandError> {
        let mut parsed = Schema { title: None, description: None, rules: Vec::new() };
        let flag = |name: &str| schema.get(name).is_some_and(ValueRef::is_truthy);
        for (keyword, value) in schema.iter() {
            let element = || crate::mongod::query::text::element_text(keyword, value);
            let number = || match as_exact_i64(value).filter(|_| value.is_number()) {
                Some(number) if number >= 0 => Ok(number),
                Some(_) => failed(format!("Expected a non-negative number in: {}", element())),
                None if value.is_number() => failed(format!("Expected an integer: {}", element())),
                None => failed(format!("Expected a number in: {}", element())),
            };
            let object = |value: ValueRef<'_>| match value {
                ValueRef::Document(schema) => Schema::parse_document(schema),
                _ => mismatch(format!("$jsonSchema keyword '{keyword}' must be an object")),
            };
            let list = || -> Result<Vec<Schema>, CommandError> {
                let Some(members) = value.as_array() else {
                    return mismatch(format!("$jsonSchema keyword '{keyword}' must be an array"));
                };
                if members.is_empty() {
                    return fail(
                        error::BAD_VALUE,
                        format!("$jsonSchema keyword '{keyword}' must be a non-empty array"),
                    );
                }
                members
                    .iter()
                    .map(|member| match member {
                        ValueRef::Document(schema) => Schema::parse_document(schema),
                        other => mismatch(format!(
                            "$jsonSchema keyword '{keyword}' must be an array of objects, but found an \
                             element of type {}",
                            other.type_name()
                        )),
                    })
                    .collect()
            };
            let mut specified = Document::new();
            specified.insert(keyword, value.to_bson());
            let kind = match keyword {
                "title" | "description" => {
                    if value.as_str().is_none() {
                        return mismatch(format!(
                            "$jsonSchema keyword '{keyword}' must be of type string"
                        ));
                    }
                    match keyword {
                        "title" => parsed.title = Some(value.to_bson()),
                        _ => parsed.description = Some(value.to_bson()),
                    }
                    continue;
                }
                "bsonType" => {
                    if !matches!(value, ValueRef::String(_) | ValueRef::Array(_)) {
                        return mismatch(
                            "$jsonSchema keyword 'bsonType' must be either a string or an array of \
                             strings",
                        );
                    }
                    Kind::Type(parse_types(value, keyword)?)
                }
                "type" => {
                    let names: Vec<ValueRef<'_>> = match value {
                        ValueRef::String(_) => vec![value],
                        ValueRef::Array(names) => names.iter().collect(),
                        _ => {
                            return mismatch(
                                "$jsonSchema keyword 'type' must be either a string or an array of \
                                 strings",
                            );
                        }
                    };
                    let mut types = TypeSet { numbers: Vec::new(), any_number: false };
                    for name in names {
                        let Some(name) = name.as_str() else {
                            return mismatch(
                                "$jsonSchema keyword 'type' array elements must be strings",
                            );
                        };
                        let one = json_type(name)?;
                        types.numbers.extend(one.numbers);
                        types.any_number |= one.any_number;
                    }
                    Kind::Type(types)
                }
                "enum" => match value.as_array() {
                    Some(members) if !members.is_empty() => Kind::Enum(members.to_vec()),
                    Some(_) => {
                        return failed("$jsonSchema keyword 'enum' cannot be an empty array");
                    }
                    None => {
                        return mismatch(format!(
                            "$jsonSchema keyword 'enum' must be an array, but found an element of type {}",
                            value.type_name()
                        ));
                    }
                },
                "minimum" | "maximum" => {
                    if !value.is_number() {
                        return mismatch(format!(
                            "$jsonSchema keyword '{keyword}' must be a number"
                        ));
                    }
                    let exclusive_name =
                        if keyword == "minimum" { "exclusiveMinimum" } else { "exclusiveMaximum" };
                    let exclusive = flag(exclusive_name);
                    if exclusive {
                        specified.insert(exclusive_name, true);
                    }
                    match keyword {
                        "minimum" => Kind::Minimum { bound: value.to_bson(), exclusive },
                        _ => Kind::Maximum { bound: value.to_bson(), exclusive },
                    }
                }
                "exclusiveMinimum" | "exclusiveMaximum" => {
                    let of = if keyword == "exclusiveMinimum" { "minimum" } else { "maximum" };
                    if schema.get(of).is_none() {
                        return failed(format!(
                            "$jsonSchema keyword '{of}' must be a present if {keyword} is present"
                        ));
                    }
                    if !matches!(value, ValueRef::Boolean(_)) {
                        return mismatch(format!(
                            "$jsonSchema keyword '{keyword}' must be a boolean"
                        ));
                    }
                    continue;
                }
                "multipleOf" => {
                    if !value.is_number() {
                        return mismatch("$jsonSchema keyword 'multipleOf' must be a number");
                    }
                    if as_f64(value).is_none_or(|number| number <= 0.0) {
                        return failed(
                            "$jsonSchema keyword 'multipleOf' must have a positive value",
                        );
                    }
                    Kind::MultipleOf(value.to_bson())
                }
                "minLength" => Kind::MinLength(number()?),
                "maxLength" => Kind::MaxLength(number()?),
                "minItems" => Kind::MinItems(number()?),
                "maxItems" => Kind::MaxItems(number()?),
                "minProperties" => Kind::MinProperties(number()?),
                "maxProperties" => Kind::MaxProperties(number()?),
                "pattern" => match value {
                    ValueRef::String(pattern) => Kind::Pattern(Box::new(Regex::new(pattern, "")?)),
                    _ => return mismatch("$jsonSchema keyword 'pattern' must be a string"),
                },
                "uniqueItems" => match value {
                    ValueRef::Boolean(true) => Kind::UniqueItems,
                    ValueRef::Boolean(false) => continue,
                    _ => return mismatch("$jsonSchema keyword 'uniqueItems' must be a boolean"),
                },
                "items" => match value {
                    ValueRef::Document(schema) => {
                        Kind::Items(Box::new(Schema::parse_document(schema)?))
                    }
                    ValueRef::Array(schemas) => {
                        let each: Result<Vec<Schema>, CommandError> =
                            schemas.iter().map(object).collect();
                        Kind::ItemsEach(each?)
                    }
                    _ => {
                        return mismatch(format!(
                            "$jsonSchema keyword 'items' must be an array or an object, not {}",
                            value.type_name()
                        ));
                    }
                },
                "additionalItems" => {
                    let after = match schema.get("items") {
                        Some(ValueRef::Array(schemas)) => schemas.iter().count(),
                        _ => continue,
                    };
                    match value {
                        ValueRef::Boolean(true) => continue,
                        ValueRef::Boolean(false) => Kind::AdditionalItems { after, schema: None },
                        value => {
                            Kind::AdditionalItems { after, schema: Some(Box::new(object(value)?)) }
                        }
                    }
                }
                "required" => {
                    let Some(names) = value.as_array() else {
                        return mismatch(format!(
                            "$jsonSchema keyword 'required' must be an array, but found an element of \
                             type {}",
                            value.type_name()
                        ));
                    };
                    let mut required = Vec::new();
                    for name in names.iter() {
                        match name {
                            ValueRef::String(name) => required.push(name.to_owned()),
                            other => {
                                return mismatch(format!(
                                    "$jsonSchema keyword 'required' must be an array of strings, but \
                                     found an element of type: {}",
                                    other.type_name()
                                ));
                            }
                        }
                    }
                    if required.is_empty() {
                        return failed("$jsonSchema keyword 'required' cannot be an empty array");
                    }
                    Kind::Required(required)
                }
                "properties" => {
                    let ValueRef::Document(properties) = value else {
                        return mismatch("$jsonSchema keyword 'properties' must be an object");
                    };
                    let mut all = Vec::new();
                    for (name, value) in properties.iter() {
                        let ValueRef::Document(below) = value else {
                            return mismatch(format!(
                                "Nested schema for $jsonSchema property '{name}' must be an object"
                            ));
                        };
                        all.push((name.to_owned(), Schema::parse_document(below)?));
                    }
                    Kind::Properties(all)
                }
                "patternProperties" => {
                    let ValueRef::Document(properties) = value else {
                        return mismatch(
                            "$jsonSchema keyword 'patternProperties' must be an object",
                        );
                    };
                    let mut all = Vec::new();
                    for (pattern, value) in properties.iter() {
                        all.push((Regex::new(pattern, "")?, object(value)?));
                    }
                    Kind::PatternProperties(all)
                }
                "additionalProperties" => {
                    let names = |name: &str| -> Vec<String> {
                        let names = schema.get(name).and_then(ValueRef::as_document);
                        let names = names.into_iter().flat_map(|names| {
                            names.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
                        });
                        names.collect()
                    };
                    let known = names("properties");
                    let mut patterns = Vec::new();
                    for pattern in names("patternProperties") {
                        patterns.push(Regex::new(&pattern, "")?);
                    }
                    let below = match value {
                        ValueRef::Boolean(true) => continue,
                        ValueRef::Boolean(false) => None,
                        ValueRef::Document(below) => Some(Box::new(Schema::parse_document(below)?)),
                        _ => {
                            return mismatch(
                                "$jsonSchema keyword 'additionalProperties' must be an object or a \
                                 boolean",
                            );
                        }
                    };
                    Kind::AdditionalProperties { known, patterns, schema: below }
                }
                "dependencies" => {
                    let ValueRef::Document(dependencies) = value else {
                        return mismatch("$jsonSchema keyword 'dependencies' must be an object");
                    };
                    for (name, value) in dependencies.iter() {
                        let kind = match value {
                            ValueRef::Array(fields) => Kind::DependsOnFields(
                                name.to_owned(),
                                fields
                                    .iter()
                                    .filter_map(|field| field.as_str().map(str::to_owned))
                                    .collect(),
                            ),
                            value => {
                                Kind::DependsOnSchema(name.to_owned(), Box::new(object(value)?))
                            }
                        };
                        let specified = specified.clone();
                        parsed.rules.push(Rule { keyword: keyword.to_owned(), specified, kind });
                    }
                    continue;
                }
                "allOf" => Kind::AllOf(list()?),
                "anyOf" => Kind::AnyOf(list()?),
                "oneOf" => Kind::OneOf(list()?),
                "not" => match value {
                    ValueRef::Document(schema) => {
                        Kind::Not(Box::new(Schema::parse_document(schema)?))
                    }
                    _ => {
                        return mismatch(format!(
                            "$jsonSchema keyword 'not' must be an object, but found an element of type {}",
                            value.type_name()
                        ));
                    }
                },
                "$ref" | "$schema" | "default" | "definitions" | "format" | "id" => {
                    return failed(format!(
                        "$jsonSchema keyword '{keyword}' is not currently supported"
                    ));
                }
                _ => return failed(format!("Unknown $jsonSchema keyword: {keyword}")),
            };
            parsed.rules.push(Rule { keyword: keyword.to_owned(), specified, kind });
        }
        // The order in which the server looks, and reports.
        parsed.rules.sort_by_key(|rule| rule.kind.rank());
        Ok(parsed)
    }

    /// Whether a value satisfies it.
    pub(in crate::mongod::query) fn matches(&self, value: ValueRef<'_>) -> bool {
        self.rules.iter().all(|rule| rule.failure(value).is_none())
    }

    /// What of it a document does not satisfy, as error replies show it.
    pub(in crate::mongod::query) fn details(&self, value: ValueRef<'_>) -> Document {
        let mut details = doc! { "operatorName": "$jsonSchema" };
        self.describe(&mut details);
        details.insert("schemaRulesNotSatisfied", self.failures(value));
        details
    }

    fn describe(&self, into: &mut Document) {
        if let Some(title) = &self.title {
            into.insert("title", title.clone());
        }
        if let Some(description) = &self.description {
            into.insert("description", description.clone());
        }
    }

    fn failures(&self, value: ValueRef<'_>) -> Vec<Document> {
        self.rules.iter().filter_map(|rule| rule.failure(value)).collect()
    }
}

impl Kind {
    fn rank(&self) -> u8 {
        match self {
            Kind::Type(_) => 0,
            Kind::Maximum { .. } => 1,
            Kind::Minimum { .. } => 2,
            Kind::MaxLength(_) => 3,
            Kind::MinLength(_) => 4,
            Kind::Pattern(_) => 5,
            Kind::MultipleOf(_) => 6,
            Kind::MaxItems(_) => 7,
            Kind::MinItems(_) => 8,
            Kind::UniqueItems => 9,
            Kind::Items(_) | Kind::ItemsEach(_) => 10,
            Kind::AdditionalItems { .. } => 11,
            Kind::MaxProperties(_) => 12,
            Kind::MinProperties(_) => 13,
            Kind::Properties(_) => 14,
            Kind::AdditionalProperties { .. } => 15,
            Kind::PatternProperties(_) => 16,
            Kind::Required(_) => 17,
            Kind::DependsOnFields(..) | Kind::DependsOnSchema(..) => 18,
            Kind::AllOf(_) => 19,
            Kind::AnyOf(_) => 20,
            Kind::OneOf(_) => 21,
            Kind::Not(_) => 22,
            Kind::Enum(_) => 23,
        }
    }
}

impl Rule {
    /// What is wrong with a value; `None` if nothing is, or the keyword does not speak of its type.
    fn failure(&self, value: ValueRef<'_>) -> Option<Document> {
        let failure = |reason: &str| {
            let mut failure = doc! { "operatorName": self.keyword.as_str() };
            failure.insert("specifiedAs", self.specified.clone());
            if !reason.is_empty() {
                failure.insert("reason", reason);
            }
            failure
        };
        let considered = |reason: &str| {
            let mut failure = failure(reason);
            failure.insert("consideredValue", value.to_bson());
            failure
        };
        let named = || doc! { "operatorName": self.keyword.as_str() };
        let text = value.as_str().map(|text| text.chars().count() as i64);
        let items = value.as_array().map(|array| array.iter().count() as i64);
        let fields = value.as_document().map(|document| document.iter().count() as i64);
        let length = "specified string length was not satisfied";
        let size = "array did not match specified length";
        let count = "specified number of properties was not satisfied";
        let beyond = |bound: &Bson, exclusive: bool, low: bool| {
            value.is_number() && {
                let order = compare(value, bound);
                let order = if low { order } else { order.reverse() };
                if exclusive { order.is_le() } else { order.is_lt() }
            }
        };
        let schemas = |schemas: &[Schema]| {
            let failing = schemas.iter().enumerate().filter_map(|(index, schema)| {
                let details = schema.failures(value);
                let shown = doc! { "index": index as i32, "details": details.clone() };
                (!details.is_empty()).then_some(shown)
            });
            failing.collect::<Vec<Document>>()
        };
        match &self.kind {
            Kind::Type(types) => (!types.contains(value)).then(|| {
                let mut failure = considered("type did not match");
                failure.insert("consideredType", value.type_name());
                failure
            }),
            Kind::Enum(members) => {
                let known = members.iter().any(|member| equal(member, value));
                (!known).then(|| considered("value was not found in enum"))
            }
            Kind::Minimum { bound, exclusive } => {
                beyond(bound, *exclusive, true).then(|| considered("comparison failed"))
            }
            Kind::Maximum { bound, exclusive } => {
                beyond(bound, *exclusive, false).then(|| considered("comparison failed"))
            }
            Kind::MultipleOf(by) => {
                let (number, by) = (as_f64(value)?, as_f64(by.into())?);
                (number % by != 0.0).then(|| {
                    considered("considered value is not a multiple of the specified value")
                })
            }
            Kind::MinLength(least) => (text? < *least).then(|| considered(length)),
            Kind::MaxLength(most) => (text? > *most).then(|| considered(length)),
            Kind::Pattern(pattern) => (!pattern.is_match(value.as_str()?))
                .then(|| considered("regular expression did not match")),
            Kind::MinItems(least) if items? < *least => {
                let mut failure = considered(size);
                failure.insert("numberOfItems", items? as i32);
                Some(failure)
            }
            Kind::MaxItems(most) if items? > *most => {
                let mut failure = considered(size);
                failure.insert("numberOfItems", items? as i32);
                Some(failure)
            }
            Kind::MinItems(_) | Kind::MaxItems(_) => None,
            Kind::UniqueItems => {
                let elements: Vec<ValueRef<'_>> = value.as_array()?.iter().collect();
                let twice = elements.iter().enumerate().find(|(index, element)| {
                    elements[..*index].iter().any(|other| equal(*other, **element))
                });
                let (_, element) = twice?;
                let mut failure = considered("found a duplicate item");
                failure.insert("duplicatedValue", element.to_bson());
                Some(failure)
            }
            Kind::Items(schema) => {
                let elements = value.as_array()?;
                let (index, details) =
                    elements.iter().enumerate().find_map(|(index, element)| {
                        let details = schema.failures(element);
                        (!details.is_empty()).then_some((index, details))
                    })?;
                let mut failure = named();
                failure.insert("reason", "At least one item did not match the sub-schema");
                failure.insert("itemIndex", index as i32);
                failure.insert("details", details);
                Some(failure)
            }
            Kind::ItemsEach(schemas) => {
                let pairs = value.as_array()?.iter().zip(schemas).enumerate();
                let failing: Vec<Document> = pairs
                    .filter_map(|(index, (element, schema))| {
                        let details = schema.failures(element);
                        let shown = doc! { "itemIndex": index as i32, "details": details.clone() };
                        (!details.is_empty()).then_some(shown)
                    })
                    .collect();
                (!failing.is_empty()).then(|| {
                    let mut failure = named();
                    failure.insert("details", failing);
                    failure
                })
            }
            Kind::AdditionalItems { after, schema } => {
                let rest: Vec<ValueRef<'_>> = value.as_array()?.iter().skip(*after).collect();
                match schema {
                    None if rest.is_empty() => None,
                    None => {
                        let mut failure = failure("");
                        let rest: Vec<Bson> = rest.into_iter().map(ValueRef::to_bson).collect();
                        failure.insert("additionalItems", rest);
                        Some(failure)
                    }
                    Some(schema) => {
                        let found = rest.iter().enumerate().find_map(|(index, element)| {
                            let details = schema.failures(*element);
                            (!details.is_empty()).then_some((index, details))
                        });
                        let (index, details) = found?;
                        let mut failure = named();
                        failure.insert(
                            "reason",
                            "At least one additional item did not match the sub-schema",
                        );
                        failure.insert("itemIndex", (index + after) as i32);
                        failure.insert("details", details);
                        Some(failure)
                    }
                }
            }
            Kind::MinProperties(least) if fields? < *least => {
                let mut failure = failure(count);
                failure.insert("numberOfProperties", fields? as i32);
                Some(failure)
            }
            Kind::MaxProperties(most) if fields? > *most => {
                let mut failure = failure(count);
                failure.insert("numberOfProperties", fields? as i32);
                Some(failure)
            }
            Kind::MinProperties(_) | Kind::MaxProperties(_) => None,
            Kind::Required(names) => {
                let document = value.as_document()?;
                let mut missing: Vec<&String> =
                    names.iter().filter(|name| document.get(name).is_none()).collect();
                missing.sort();
                (!missing.is_empty()).then(|| {
                    let mut failure = failure("");
                    let missing: Vec<Bson> = missing.into_iter().map(|name| bson!(name)).collect();
                    failure.insert("missingProperties", missing);
                    failure
                })
            }
            Kind::Properties(properties) => {
                let document = value.as_document()?;
                let failing: Vec<Document> = properties
                    .iter()
                    .filter_map(|(name, schema)| {
                        let details = schema.failures(document.get(name)?);
                        if details.is_empty() {
                            return None;
                        }
                        let mut shown = doc! { "propertyName": name };
                        schema.describe(&mut shown);
                        shown.insert("details", details);
                        Some(shown)
                    })
                    .collect();
                (!failing.is_empty()).then(|| {
                    let mut failure = named();
                    failure.insert("propertiesNotSatisfied", failing);
                    failure
                })
            }
            Kind::PatternProperties(patterns) => {
                let mut failing = Vec::new();
                for (name, field) in value.as_document()?.iter() {
                    for (pattern, schema) in patterns.iter().filter(|(p, _)| p.is_match(name)) {
                        let details = schema.failures(field);
                        if !details.is_empty() {
                            failing.push(doc! {
                                "propertyName": name, "regexMatched": pattern.pattern.as_str(),
                                "details": details,
                            });
                        }
                    }
                }
                (!failing.is_empty()).then(|| {
                    let mut failure = named();
                    failure.insert("details", failing);
                    failure
                })
            }
            Kind::AdditionalProperties { known, patterns, schema } => {
                let document = value.as_document()?;
                let additional = document.iter().filter(|(name, _)| {
                    !known.iter().any(|known| known == name)
                        && !patterns.iter().any(|pattern| pattern.is_match(name))
                });
                match schema {
                    None => {
                        let names: Vec<Bson> =
                            additional.map(|(name, _)| Bson::from(name)).collect();
                        (!names.is_empty()).then(|| {
                            let mut failure = failure("");
                            failure.insert("additionalProperties", names);
                            failure
                        })
                    }
                    Some(schema) => {
                        let mut additional = additional;
                        let (name, details) = additional.find_map(|(name, field)| {
                            let details = schema.failures(field);
                            (!details.is_empty()).then_some((name, details))
                        })?;
                        let mut failure = named();
                        failure.insert(
                            "reason",
                            "at least one additional property did not match the subschema",
                        );
                        failure.insert("failingProperty", name);
                        failure.insert("details", details);
                        Some(failure)
                    }
                }
            }
            Kind::DependsOnFields(name, fields) => {
                let document = value.as_document()?;
                document.get(name)?;
                let missing: Vec<Bson> = fields
                    .iter()
                    .filter(|field| document.get(field).is_none())
                    .map(|field| bson!(field))
                    .collect();
                (!missing.is_empty()).then(|| {
                    let mut failure = named();
                    let shown = doc! { "conditionalProperty": name, "missingProperties": missing };
                    failure.insert("failingDependencies", vec![shown]);
                    failure
                })
            }
            Kind::DependsOnSchema(name, schema) => {
                value.as_document()?.get(name)?;
                let details = schema.failures(value);
                (!details.is_empty()).then(|| {
                    let mut failure = named();
                    let shown = doc! { "conditionalProperty": name, "details": details };
                    failure.insert("failingDependencies", vec![shown]);
                    failure
                })
            }
            Kind::AllOf(all) => {
                let failing = schemas(all);
                (!failing.is_empty()).then(|| {
                    let mut failure = named();
                    failure.insert("schemasNotSatisfied", failing);
                    failure
                })
            }
            Kind::AnyOf(any) => {
                let failing = schemas(any);
                (failing.len() == any.len()).then(|| {
                    let mut failure = named();
                    failure.insert("schemasNotSatisfied", failing);
                    failure
                })
            }
            Kind::OneOf(one) => {
                let failing = schemas(one);
                if failing.len() + 1 == one.len() {
                    return None;
                }
                let mut failure = named();
                if failing.len() == one.len() {
                    failure.insert("schemasNotSatisfied", failing);
                    return Some(failure);
                }
                let matching: Vec<Bson> = one
                    .iter()
                    .enumerate()
                    .filter(|(_, schema)| schema.matches(value))
                    .map(|(index, _)| Bson::Int32(index as i32))
                    .collect();
                failure.insert("reason", "more than one subschema matched");
                failure.insert("matchingSchemaIndexes", matching);
                Some(failure)
            }
            Kind::Not(schema) => schema.matches(value).then(|| {
                let mut failure = named();
                failure.insert("reason", "child expression matched");
                failure
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_what_is_missing_and_what_is_of_the_wrong_type() {
        let schema = bson!({
            "required": ["a", "b"], "properties": { "a": { "bsonType": "int" } }
        });
        let schema = Schema::parse((&schema).into()).unwrap();
        assert!(schema.matches((&bson!({ "a": 1, "b": 1 })).into()));
        let details = schema.details((&bson!({ "a": "x" })).into());
        let expected = doc! {
            "operatorName": "$jsonSchema",
            "schemaRulesNotSatisfied": [
                { "operatorName": "properties", "propertiesNotSatisfied": [
                    { "propertyName": "a", "details": [
                        { "operatorName": "bsonType", "specifiedAs": { "bsonType": "int" },
                          "reason": "type did not match", "consideredValue": "x",
                          "consideredType": "string" },
                    ] },
                ] },
                { "operatorName": "required", "specifiedAs": { "required": ["a", "b"] },
                  "missingProperties": ["b"] },
            ],
        };
        assert_eq!(details, expected);
    }
}
