//! One operator on one path.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::diff::Touched;
use crate::mongod::query::number::{self, OnOverflow};
use crate::mongod::query::path::array_index;
use crate::mongod::query::text::{element_text, value_text};
use crate::mongod::query::value::ValueRef;

use super::arrays::{Pull, Push};
use super::parse::ArrayFilter;
use super::{id_text, place};

/// A component of a path in an update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Component {
    /// A field's name or an array index.
    Name(String),
    /// `$`: where the filter matched.
    Positional,
    /// `$[]`: every element.
    AllElements,
    /// `$[identifier]`: the elements an array filter lets through.
    Filtered(String),
}

/// An operator at a path.
#[derive(Clone, Debug)]
pub(super) struct Modification {
    pub path: Vec<Component>,
    pub dotted: String,
    pub operator: Operator,
    pub collation: Collation,
}

#[derive(Clone, Debug)]
pub(super) enum Operator {
    Set(Bson),
    SetOnInsert(Bson),
    Unset,
    Inc(Bson),
    Mul(Bson),
    Min(Bson),
    Max(Bson),
    /// The path it goes to.
    Rename(Vec<String>),
    CurrentDate(Bson),
    Bit(Vec<(BitOperation, Bson)>),
    Push(Push),
    AddToSet(Vec<Bson>),
    Pop {
        first: bool,
    },
    Pull(Pull),
    PullAll(Vec<Bson>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitOperation {
    And,
    Or,
    Xor,
}

/// What an operator does to the value at its path.
enum Change {
    None,
    Set(Bson),
    /// The array grew at its end from this length on.
    Appended(Bson, usize),
    Remove,
}

impl Modification {
    /// Applies it, noting the paths it touched.
    pub(super) fn apply(
        &self,
        document: &mut Document,
        filters: &[ArrayFilter],
        is_insert: bool,
        position: Option<usize>,
        touched: &mut Touched,
    ) -> Result<(), CommandError> {
        if matches!(self.operator, Operator::SetOnInsert(_)) && !is_insert {
            return Ok(());
        }
        if let Operator::Rename(to) = &self.operator {
            return self.rename(document, to, touched);
        }
        for path in self.resolve(document, filters, position)? {
            let takes_out = matches!(
                self.operator,
                Operator::Pop { .. } | Operator::Pull(_) | Operator::PullAll(_)
            );
            if takes_out && let Some((part, name, value)) = place::blocked(document, &path) {
                return Err(CommandError::new(
                    error::PATH_NOT_VIABLE,
                    format!(
                        "Cannot use the part ({part}) of ({}) to traverse the element ({{{}}})",
                        path.join("."),
                        element_text(name, value.into())
                    ),
                ));
            }
            let change = self.change(place::get(document, &path), document)?;
            match change {
                Change::None => {}
                Change::Set(value) => {
                    place::set(document, &path, value)?;
                    touched.add(&path);
                }
                Change::Appended(value, from) => {
                    let length = if let Bson::Array(array) = &value { array.len() } else { 0 };
                    place::set(document, &path, value)?;
                    for index in from..length {
                        let mut element = path.clone();
                        element.push(index.to_string());
                        touched.add(&element);
                    }
                }
                Change::Remove => {
                    if place::unset(document, &path) {
                        touched.add(&path);
                    }
                }
            }
        }
        Ok(())
    }

    /// The concrete paths the path stands for in this document.
    fn resolve(
        &self,
        document: &Document,
        filters: &[ArrayFilter],
        position: Option<usize>,
    ) -> Result<Vec<Vec<String>>, CommandError> {
        let mut paths: Vec<Vec<String>> = vec![Vec::new()];
        for component in &self.path {
            let mut further = Vec::with_capacity(paths.len());
            for mut path in paths {
                match component {
                    Component::Name(name) => {
                        path.push(name.clone());
                        further.push(path);
                    }
                    Component::Positional => {
                        let Some(position) = position else {
                            return Err(CommandError::new(
                                error::BAD_VALUE,
                                "The positional operator did not find the match needed from the query.",
                            ));
                        };
                        path.push(position.to_string());
                        further.push(path);
                    }
                    Component::AllElements | Component::Filtered(_) => {
                        let filter = match component {
                            Component::Filtered(identifier) => {
                                filters.iter().find(|filter| filter.identifier == *identifier)
                            }
                            _ => None,
                        };
                        let elements = self.elements_at(document, &path)?;
                        for (index, element) in elements.iter().enumerate() {
                            if let Some(filter) = filter
                                && !filter.matches(element)?
                            {
                                continue;
                            }
                            let mut path = path.clone();
                            path.push(index.to_string());
                            further.push(path);
                        }
                    }
                }
            }
            paths = further;
        }
        Ok(paths)
    }

    fn elements_at<'a>(
        &self,
        document: &'a Document,
        path: &[String],
    ) -> Result<&'a [Bson], CommandError> {
        match place::get(document, path) {
            Some(Bson::Array(array)) => Ok(array),
            Some(other) => {
                let name = path.last().map_or("", String::as_str);
                let element = element_text(name, other.into());
                let message = format!("Cannot apply array updates to non-array element {element}");
                Err(CommandError::new(error::BAD_VALUE, message))
            }
            None => Err(CommandError::new(
                error::BAD_VALUE,
                format!(
                    "The path '{}' must exist in the document in order to apply array updates.",
                    path.join(".")
                ),
            )),
        }
    }

    fn change(&self, old: Option<&Bson>, document: &Document) -> Result<Change, CommandError> {
        let set = |value: &Bson| Ok(Change::Set(value.clone()));
        match &self.operator {
            Operator::Set(value) | Operator::SetOnInsert(value) | Operator::CurrentDate(value) => {
                set(value)
            }
            Operator::Unset => Ok(Change::Remove),
            Operator::Inc(by) => match old {
                None => set(by),
                Some(old) => self.arithmetic("$inc", old, by, document).map(Change::Set),
            },
            Operator::Mul(by) => {
                let zero = Bson::Int32(0);
                self.arithmetic("$mul", old.unwrap_or(&zero), by, document).map(Change::Set)
            }
            Operator::Min(value) | Operator::Max(value) => {
                let Some(old) = old else { return set(value) };
                let order = compare_collated(value.into(), old.into(), self.collation);
                let replaces = match self.operator {
                    Operator::Min(_) => order.is_lt(),
                    _ => order.is_gt(),
                };
                if replaces { set(value) } else { Ok(Change::None) }
            }
            Operator::Bit(operations) => self.bit(old, operations, document).map(Change::Set),
            Operator::Push(push) => {
                let array = self.array(old, |old| {
                    format!(
                        "The field '{}' must be an array but is of type {} in document {}",
                        self.dotted,
                        ValueRef::from(old).type_name(),
                        id_text(document)
                    )
                })?;
                let (after, appended) = push.apply(array);
                Ok(match (old, appended) {
                    (Some(_), true) => {
                        Change::Appended(Bson::Array(after), array.map_or(0, <[Bson]>::len))
                    }
                    _ => Change::Set(Bson::Array(after)),
                })
            }
            Operator::AddToSet(values) => {
                let array = self.array(old, |old| {
                    format!(
                        "Cannot apply $addToSet to non-array field. Field named '{}' has non-array \
                         type {}",
                        self.last_name(),
                        ValueRef::from(old).type_name()
                    )
                })?;
                let before = array.map_or(0, <[Bson]>::len);
                let mut after = array.unwrap_or_default().to_vec();
                for value in values {
                    let same = |known: &Bson| {
                        compare_collated(known.into(), value.into(), self.collation).is_eq()
                    };
                    if !after.iter().any(same) {
                        after.push(value.clone());
                    }
                }
                Ok(match old {
                    None => Change::Set(Bson::Array(after)),
                    Some(_) if after.len() == before => Change::None,
                    Some(_) => Change::Appended(Bson::Array(after), before),
                })
            }
            Operator::Pop { first } => match old {
                None => Ok(Change::None),
                Some(Bson::Array(array)) if array.is_empty() => Ok(Change::None),
                Some(Bson::Array(array)) => {
                    let left = if *first { &array[1..] } else { &array[..array.len() - 1] };
                    Ok(Change::Set(Bson::Array(left.to_vec())))
                }
                Some(old) => Err(CommandError::new(
                    error::TYPE_MISMATCH,
                    format!(
                        "Path '{}' contains an element of non-array type '{}'",
                        self.dotted,
                        ValueRef::from(old).type_name()
                    ),
                )),
            },
            Operator::Pull(pull) => {
                let message = "Cannot apply $pull to a non-array value";
                let Some(array) = self.array(old, |_| message.to_owned())? else {
                    return Ok(Change::None);
                };
                let mut left = Vec::with_capacity(array.len());
                for element in array {
                    if !pull.takes(element, self.collation)? {
                        left.push(element.clone());
                    }
                }
                Ok(shrunk(array, left))
            }
            Operator::PullAll(values) => {
                let message = "Cannot apply $pull to a non-array value";
                let Some(array) = self.array(old, |_| message.to_owned())? else {
                    return Ok(Change::None);
                };
                let taken = |element: &&Bson| {
                    let same = |value: &Bson| {
                        compare_collated(value.into(), (*element).into(), self.collation).is_eq()
                    };
                    !values.iter().any(same)
                };
                Ok(shrunk(array, array.iter().filter(taken).cloned().collect()))
            }
            Operator::Rename(_) => unreachable!("a rename has two paths"),
        }
    }

    /// The array at the path; `None` if there is nothing.
    fn array<'a>(
        &self,
        old: Option<&'a Bson>,
        message: impl FnOnce(&Bson) -> String,
    ) -> Result<Option<&'a [Bson]>, CommandError> {
        match old {
            None => Ok(None),
            Some(Bson::Array(array)) => Ok(Some(array)),
            Some(old) => Err(CommandError::new(error::BAD_VALUE, message(old))),
        }
    }

    fn last_name(&self) -> &str {
        self.dotted.rsplit('.').next().unwrap_or(&self.dotted)
    }

    fn arithmetic(
        &self,
        name: &str,
        old: &Bson,
        by: &Bson,
        document: &Document,
    ) -> Result<Bson, CommandError> {
        if !ValueRef::from(old).is_number() {
            return Err(CommandError::new(
                error::TYPE_MISMATCH,
                format!(
                    "Cannot apply {name} to a value of non-numeric type. {} has the field '{}' of \
                     non-numeric type {}",
                    id_text(document),
                    self.last_name(),
                    ValueRef::from(old).type_name()
                ),
            ));
        }
        let operation = if name == "$inc" { number::add } else { number::multiply };
        operation(old.into(), by.into(), OnOverflow::Fail).ok_or_else(|| {
            CommandError::new(
                error::BAD_VALUE,
                format!(
                    "Failed to apply {name} operations to current value ({}) for document {}",
                    number_with_type(old),
                    id_text(document)
                ),
            )
        })
    }

    fn bit(
        &self,
        old: Option<&Bson>,
        operations: &[(BitOperation, Bson)],
        document: &Document,
    ) -> Result<Bson, CommandError> {
        let mut value = old.cloned().unwrap_or(Bson::Int32(0));
        for (operation, operand) in operations {
            let combine = |a: i64, b: i64| match operation {
                BitOperation::And => a & b,
                BitOperation::Or => a | b,
                BitOperation::Xor => a ^ b,
            };
            value = match (&value, operand) {
                (Bson::Int32(a), Bson::Int32(b)) => {
                    Bson::Int32(combine((*a).into(), (*b).into()) as i32)
                }
                (Bson::Int32(_) | Bson::Int64(_), _) => {
                    let integer = |value: &Bson| number::as_exact_i64(value.into()).unwrap_or(0);
                    Bson::Int64(combine(integer(&value), integer(operand)))
                }
                (other, _) => {
                    return Err(CommandError::new(
                        error::BAD_VALUE,
                        format!(
                            "Cannot apply $bit to a value of non-integral type.{} has the field {} \
                             of non-integer type {}",
                            id_text(document).trim_matches(['{', '}']),
                            self.last_name(),
                            ValueRef::from(other).type_name()
                        ),
                    ));
                }
            };
        }
        Ok(value)
    }

    fn rename(
        &self,
        document: &mut Document,
        to: &[String],
        touched: &mut Touched,
    ) -> Result<(), CommandError> {
        let from: Vec<String> = self.dotted.split('.').map(str::to_owned).collect();
        for (role, path) in [("source", &from[..]), ("destination", to)] {
            for end in 1..path.len() {
                if let Some(Bson::Array(_)) = place::get(document, &path[..end])
                    && array_index(&path[end]).is_some()
                {
                    return Err(CommandError::new(
                        error::BAD_VALUE,
                        format!(
                            "The {role} field cannot be an array element, '{}' in doc with {} has an \
                             array field called '{}'",
                            path.join("."),
                            id_text(document).trim_matches(['{', '}']),
                            path[end - 1]
                        ),
                    ));
                }
            }
        }
        if let Some((_, name, value)) = place::blocked(document, &from) {
            return Err(CommandError::new(
                error::PATH_NOT_VIABLE,
                format!(
                    "cannot use the part ({name} of {}) to traverse the element ({{{}}})",
                    self.dotted,
                    element_text(name, value.into())
                ),
            ));
        }
        let Some(value) = place::get(document, &from).cloned() else { return Ok(()) };
        if to == ["_id"] || from == ["_id"] {
            return Err(CommandError::new(
                error::IMMUTABLE_FIELD,
                "Performing an update on the path '_id' would modify the immutable field '_id'",
            ));
        }
        place::unset(document, &from);
        place::set(document, to, value)?;
        touched.add(&from);
        touched.add(to);
        Ok(())
    }
}

fn shrunk(before: &[Bson], left: Vec<Bson>) -> Change {
    if left.len() == before.len() { Change::None } else { Change::Set(Bson::Array(left)) }
}

/// `(NumberLong)5`: how messages about overflow show a number.
fn number_with_type(value: &Bson) -> String {
    let text = value_text(value.into());
    match value {
        Bson::Int32(_) => format!("(NumberInt){text}"),
        Bson::Int64(_) => format!("(NumberLong){text}"),
        Bson::Double(_) => format!("(NumberDouble){text}"),
        _ => format!("(NumberDecimal){text}"),
    }
}
