//! Filters: parsed once into a typed tree, then matched against documents without decoding them.

use bson::Bson;

use crate::mongod::error::CommandError;

use super::compare::{compare_collated, equal};
use super::context::ParseContext;
use super::expression::{Expression, Scope};
use super::path::{LeafArray, Path};
use super::value::{DocumentRef, ValueRef};

pub(crate) mod failure;
mod parse;
mod predicate;
mod schema;
#[cfg(test)]
mod tests;

use predicate::{Comparison, Predicate};
use schema::Schema;

/// A parsed filter.
#[derive(Clone, Debug)]
pub struct Matcher {
    root: Node,
}

/// A condition that an index can be searched by.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Equal to this.
    Equal(Bson),
    /// Equal to one of these, ascending.
    In(Vec<Bson>),
    /// Not less than this (true), or greater (false); of its type.
    From(Bson, bool),
    /// Not greater than this (true), or less (false); of its type.
    To(Bson, bool),
    /// A string that begins with this.
    Prefix(String),
    /// There is something.
    Exists,
}

impl Condition {
    /// Whether whatever satisfies it satisfies `predicate`.
    fn implies(&self, predicate: &Predicate) -> bool {
        let satisfies = |value: &Bson| {
            predicate.matches(Some(value.into()), &mut MatchDetails::default()).unwrap_or(false)
        };
        let bound = |value: &Bson| ValueRef::from(value).canonical_type();
        match (self, predicate) {
            (Condition::Equal(Bson::Null), Predicate::Exists) => false,
            (_, Predicate::Exists) => true,
            (Condition::Equal(value), _) => satisfies(value),
            (Condition::In(values), _) => values.iter().all(satisfies),
            (
                Condition::From(value, included),
                Predicate::Compare(comparison @ (Comparison::Gt | Comparison::Gte), operand),
            ) => {
                let order =
                    compare_collated(value.into(), (&operand.value).into(), operand.collation);
                bound(value) == bound(&operand.value)
                    && (order.is_gt()
                        || order.is_eq() && (*comparison == Comparison::Gte || !included))
            }
            (
                Condition::To(value, included),
                Predicate::Compare(comparison @ (Comparison::Lt | Comparison::Lte), operand),
            ) => {
                let order =
                    compare_collated(value.into(), (&operand.value).into(), operand.collation);
                bound(value) == bound(&operand.value)
                    && (order.is_lt()
                        || order.is_eq() && (*comparison == Comparison::Lte || !included))
            }
            _ => false,
        }
    }
}

/// How a document matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatchDetails {
    /// The index of the array element that matched, in the outermost array of the predicate that was
    /// looked at last: what the positional operator `$` stands for.
    pub array_index: Option<usize>,
}

/// A node of the tree.
#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Nor(Vec<Node>),
    Not(Box<Node>),
    Path {
        path: Path,
        predicate: Predicate,
    },
    /// A predicate on the value at hand, inside `$elemMatch`.
    Value(Predicate),
    Expr(Box<Expression>),
    Schema(Box<Schema>),
    Constant(bool),
}

/// What a node looks at.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Document(DocumentRef<'a>),
    Value(ValueRef<'a>),
}

impl Matcher {
    /// Parses a filter.
    ///
    /// # Errors
    /// `BadValue` and its kin, with the server's messages: unknown operators, malformed arguments.
    pub fn parse<'a>(
        filter: impl Into<DocumentRef<'a>>,
        context: &ParseContext,
    ) -> Result<Matcher, CommandError> {
        Ok(Matcher { root: parse::parse_filter(filter.into(), context)? })
    }

    /// Parses a condition on single values, as `$pull` and `$elemMatch` take it: `{$gte: 5}` looks at
    /// the value itself.
    pub(super) fn parse_value_condition(
        condition: DocumentRef<'_>,
        context: &ParseContext,
    ) -> Result<Matcher, CommandError> {
        Ok(Matcher { root: parse::parse_value_condition(condition, context)? })
    }

    /// Whether `document` matches.
    ///
    /// # Errors
    /// What an expression in `$expr` fails with.
    pub fn matches<'a>(&self, document: impl Into<DocumentRef<'a>>) -> Result<bool, CommandError> {
        self.root.matches(Subject::Document(document.into()), &mut MatchDetails::default())
    }

    /// Whether `document` matches, and where: for the positional operator.
    ///
    /// # Errors
    /// What an expression in `$expr` fails with.
    pub fn match_details<'a>(
        &self,
        document: impl Into<DocumentRef<'a>>,
    ) -> Result<Option<MatchDetails>, CommandError> {
        let mut details = MatchDetails::default();
        let matched = self.root.matches(Subject::Document(document.into()), &mut details)?;
        Ok(matched.then_some(details))
    }

    /// Whether a single value matches a condition of [`Self::parse_value_condition`].
    pub(super) fn matches_value(&self, value: ValueRef<'_>) -> Result<bool, CommandError> {
        self.root.matches(Subject::Value(value), &mut MatchDetails::default())
    }

    /// Whether `element` satisfies the `$elemMatch` condition that was parsed under the field `e`.
    pub(super) fn matches_element(&self, element: &Bson) -> Result<bool, CommandError> {
        let mut document = bson::Document::new();
        document.insert("e", Bson::Array(vec![element.clone()]));
        self.matches(&document)
    }

    /// The filter as the messages of a server's planner show it: a line per condition.
    pub fn debug_text(&self) -> String {
        let mut text = String::new();
        self.root.write_debug(0, &mut text);
        text
    }

    /// Whether the filter is empty: everything matches.
    pub fn is_empty(&self) -> bool {
        matches!(&self.root, Node::All(nodes) if nodes.is_empty())
    }

    /// The value that `path` must be equal to, if that is all the filter asks. Arrays are none, for an
    /// index holds their elements.
    pub fn only_equality(&self, path: &str) -> Option<Bson> {
        let mut conjuncts = 0;
        let mut found = None;
        self.root.each_conjunct(&mut |node| {
            conjuncts += 1;
            if let Node::Path { path: at, predicate: Predicate::Compare(Comparison::Eq, value) } =
                node
                && at.dotted() == path
                && !matches!(value.value, Bson::Array(_) | Bson::RegularExpression(_))
            {
                found = Some(value.value.clone());
            }
        });
        found.filter(|_| conjuncts == 1)
    }

    /// What every match must have at `path`: what an index is searched by.
    pub fn conditions_on(&self, path: &str) -> Vec<Condition> {
        let mut found = Vec::new();
        self.root.each_conjunct(&mut |node| node.conditions_on(path, &mut found));
        found
    }

    /// The branches of an `$or` that is all the filter asks.
    pub fn alternatives(&self) -> Option<Vec<Matcher>> {
        let mut conjuncts = 0;
        let mut found = None;
        self.root.each_conjunct(&mut |node| {
            conjuncts += 1;
            if let Node::Any(branches) = node {
                let branch = |node: &Node| Matcher { root: node.clone() };
                found = Some(branches.iter().map(branch).collect());
            }
        });
        found.filter(|_| conjuncts == 1)
    }

    /// The first part of it, as messages show it, that the filter of a partial index may not have.
    pub fn unfit_for_partial_index(&self) -> Option<String> {
        fn unfit(node: &Node) -> Option<&Node> {
            match node {
                Node::All(nodes) | Node::Any(nodes) => nodes.iter().find_map(unfit),
                Node::Path { predicate, .. } => match predicate {
                    Predicate::Compare(..)
                    | Predicate::In { .. }
                    | Predicate::Exists
                    | Predicate::Type(_) => None,
                    _ => Some(node),
                },
                node => Some(node),
            }
        }
        let node = unfit(&self.root)?;
        let mut text = String::new();
        node.write_debug(0, &mut text);
        Some(text)
    }

    /// Whether everything that matches this filter surely matches `other`: each of its conditions is
    /// one of this filter's, or follows from one.
    pub fn implies(&self, other: &Matcher) -> bool {
        let mut all = true;
        other.root.each_conjunct(&mut |node| {
            let Node::Path { path, predicate } = node else {
                all = false;
                return;
            };
            let own = self.conditions_on(path.dotted());
            all &= own.iter().any(|condition| condition.implies(predicate));
        });
        all
    }

    /// The equalities an upsert builds its new document from, in the order of their paths: those every match
    /// must have, also inside `$and`, `$or` and `$in` of one member and `$all` of one value.
    ///
    /// # Errors
    /// `NotSingleValueField` (54) if a path is given two values.
    pub fn equalities(&self) -> Result<Vec<(String, Bson)>, CommandError> {
        let mut given: Vec<(String, Bson)> = Vec::new();
        self.root.each_conjunct(&mut |node| {
            let Node::Path { path, predicate } = node else { return };
            let value = match predicate {
                Predicate::Compare(Comparison::Eq, value) => &value.value,
                Predicate::In { values, regexes, .. }
                    if values.len() == 1 && regexes.is_empty() =>
                {
                    &values[0]
                }
                _ => return,
            };
            given.push((path.dotted().to_owned(), value.clone()));
        });
        // Measured: in the order of their names, whatever the filter's.
        given.sort_by(|a, b| a.0.cmp(&b.0));
        let mut found: Vec<(String, Bson)> = Vec::new();
        for (path, value) in given {
            for (known, _) in &found {
                if *known == path
                    || super::update::is_prefix(known, &path)
                    || super::update::is_prefix(&path, known)
                {
                    let message = if *known == path {
                        format!("cannot infer query fields to set, path '{path}' is matched twice")
                    } else {
                        format!(
                            "cannot infer query fields to set, both paths '{path}' and '{known}' are \
                             matched"
                        )
                    };
                    return Err(CommandError::new(54, message));
                }
            }
            found.push((path, value));
        }
        Ok(found)
    }
}

impl Node {
    fn write_debug(&self, depth: usize, text: &mut String) {
        let indent = "    ".repeat(depth);
        let mut line = |content: &str| {
            text.push_str(&indent);
            text.push_str(content);
            text.push('\n');
        };
        let nodes = match self {
            Node::All(nodes) if nodes.len() == 1 => return nodes[0].write_debug(depth, text),
            Node::All(nodes) => {
                line("$and");
                nodes.as_slice()
            }
            Node::Any(nodes) => {
                line("$or");
                nodes.as_slice()
            }
            Node::Nor(nodes) => {
                line("$nor");
                nodes.as_slice()
            }
            Node::Not(node) => {
                line("$not");
                std::slice::from_ref(&**node)
            }
            Node::Path { path, predicate } => {
                line(&format!("{} {}", path.dotted(), predicate.debug_text()));
                &[]
            }
            Node::Value(predicate) => {
                line(&predicate.debug_text());
                &[]
            }
            Node::Expr(_) => {
                line("$expr");
                &[]
            }
            Node::Schema(_) => {
                line("$jsonSchema");
                &[]
            }
            Node::Constant(value) => {
                line(if *value { "$alwaysTrue" } else { "$alwaysFalse" });
                &[]
            }
        };
        nodes.iter().for_each(|node| node.write_debug(depth + 1, text));
    }

    /// What this node asks of `path`.
    fn conditions_on(&self, wanted: &str, found: &mut Vec<Condition>) {
        let Node::Path { path, predicate } = self else { return };
        let path = path.dotted();
        if path == wanted {
            predicate.conditions(found);
            return;
        }
        // One element must satisfy all of an `$elemMatch`: each of its conditions holds of some element.
        if let Predicate::ElemMatchDocument(inner) = predicate
            && let Some(below) = wanted.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'))
        {
            inner.each_conjunct(&mut |node| node.conditions_on(below, found));
        }
    }

    fn each_conjunct(&self, visitor: &mut impl FnMut(&Node)) {
        match self {
            Node::All(nodes) => nodes.iter().for_each(|node| node.each_conjunct(visitor)),
            Node::Any(nodes) if nodes.len() == 1 => nodes[0].each_conjunct(visitor),
            node => visitor(node),
        }
    }

    fn matches(
        &self,
        subject: Subject<'_>,
        details: &mut MatchDetails,
    ) -> Result<bool, CommandError> {
        match self {
            Node::All(nodes) => {
                for node in nodes {
                    if !node.matches(subject, details)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Any(nodes) => {
                for node in nodes {
                    if node.matches(subject, details)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Nor(nodes) => {
                for node in nodes {
                    if node.matches(subject, &mut MatchDetails::default())? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Not(node) => Ok(!node.matches(subject, &mut MatchDetails::default())?),
            Node::Path { path, predicate } => {
                let document = match subject {
                    Subject::Document(document) | Subject::Value(ValueRef::Document(document)) => {
                        document
                    }
                    Subject::Value(_) => return Ok(false),
                };
                path.visit(document, predicate.leaf(), &mut |value, outer| {
                    let mut inner = MatchDetails::default();
                    let matched = predicate.matches(value, &mut inner)?;
                    if matched && let Some(index) = outer.or(inner.array_index) {
                        details.array_index = Some(index);
                    }
                    Ok(matched)
                })
            }
            Node::Value(predicate) => match subject {
                Subject::Value(value) => predicate.matches(Some(value), details),
                Subject::Document(document) => {
                    predicate.matches(Some(ValueRef::Document(document)), details)
                }
            },
            Node::Expr(expression) => {
                let root = match subject {
                    Subject::Document(document) => Bson::Document(document.to_document()),
                    Subject::Value(value) => value.to_bson(),
                };
                let value = expression.evaluate(&Scope::new(&root))?;
                Ok(value.is_some_and(|value| ValueRef::from(&value).is_truthy()))
            }
            Node::Schema(schema) => Ok(schema.matches(match subject {
                Subject::Document(document) => ValueRef::Document(document),
                Subject::Value(value) => value,
            })),
            Node::Constant(value) => Ok(*value),
        }
    }
}
