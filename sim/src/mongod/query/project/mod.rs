//! Projections: of `find` and findAndModify, and the stages `$project`, `$addFields` and `$unset`.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;

use super::context::ParseContext;
use super::expression::{Expression, Scope};
use super::matcher::{MatchDetails, Matcher};
use super::value::DocumentRef;

mod parse;
#[cfg(test)]
mod tests;

/// A parsed projection.
#[derive(Clone, Debug)]
pub struct Projection {
    mode: Mode,
    fields: Fields,
    /// The path before `.$`.
    positional: Option<Vec<String>>,
    computes: bool,
}

/// Which language a projection is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectionSyntax {
    /// That of `find`: also `$slice`, `$elemMatch` and the positional `$`.
    Find,
    /// That of `$project`.
    Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Only what is named stays.
    Include,
    /// What is named goes.
    Exclude,
    /// Everything stays, what is named is computed (`$addFields`).
    Add,
}

type Fields = Vec<(String, Action)>;

#[derive(Clone, Debug)]
enum Action {
    Include,
    Exclude,
    Compute(Expression),
    Slice { skip: Option<i64>, limit: i64 },
    ElemMatch(Matcher),
    Below(Fields),
}

impl Projection {
    /// Parses a projection; an empty one of `find` keeps everything.
    ///
    /// # Errors
    /// 31253 and 31254 for inclusion and exclusion mixed, 31249 and 31250 for paths that collide, and
    /// what expressions say.
    pub fn parse<'a>(
        spec: impl Into<DocumentRef<'a>>,
        syntax: ProjectionSyntax,
        context: &ParseContext,
    ) -> Result<Projection, CommandError> {
        parse::parse(spec.into(), syntax, context)
    }

    /// Parses `$addFields` (`$set`): every value is an expression.
    ///
    /// # Errors
    /// As [`Self::parse`]. The stage's name stands in the messages.
    pub fn parse_add_fields(
        stage: &str,
        spec: DocumentRef<'_>,
        context: &ParseContext,
    ) -> Result<Projection, CommandError> {
        parse::parse_add_fields(stage, spec, context)
    }

    /// An exclusion of these paths (`$unset`).
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn exclude(paths: &[&str]) -> Result<Projection, CommandError> {
        parse::exclude(paths)
    }

    /// Whether every document passes unchanged.
    pub fn is_empty(&self) -> bool {
        self.mode != Mode::Include && self.fields.is_empty()
    }

    /// Whether [`Self::apply`] wants to know where the filter matched.
    pub fn needs_position(&self) -> bool {
        self.positional.is_some()
    }

    /// The projected document. `details` says where the filter matched, for the positional operator.
    ///
    /// # Errors
    /// What expressions fail with; 51246 if the positional operator has no position.
    pub fn apply(
        &self,
        document: &Document,
        details: Option<MatchDetails>,
    ) -> Result<Document, CommandError> {
        let mut projected = match self.mode {
            Mode::Include => include(&self.fields, document)?,
            Mode::Exclude => exclude(&self.fields, document),
            Mode::Add => document.clone(),
        };
        if self.computes {
            let root = Bson::Document(document.clone());
            compute(&self.fields, &mut projected, document, &Scope::new(&root))?;
        }
        if let Some(path) = &self.positional {
            let index = details.and_then(|details| details.array_index);
            keep_matched(&mut projected, path, index)?;
        }
        Ok(projected)
    }
}

fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a Action> {
    fields.iter().find(|(known, _)| known == name).map(|(_, action)| action)
}

fn include(fields: &Fields, document: &Document) -> Result<Document, CommandError> {
    let mut kept = Document::new();
    for (name, value) in document {
        match find(fields, name) {
            Some(Action::Include) => drop(kept.insert(name, value.clone())),
            Some(Action::Slice { skip, limit }) => {
                drop(kept.insert(name, slice(value, *skip, *limit)))
            }
            Some(Action::Below(below)) => {
                if let Some(value) = include_below(below, value)? {
                    kept.insert(name, value);
                }
            }
            Some(Action::Exclude | Action::Compute(_) | Action::ElemMatch(_)) | None => {}
        }
    }
    Ok(kept)
}

fn include_below(fields: &Fields, value: &Bson) -> Result<Option<Bson>, CommandError> {
    Ok(match value {
        Bson::Document(document) => Some(Bson::Document(include(fields, document)?)),
        Bson::Array(array) => {
            let mut kept = Vec::new();
            for element in array {
                kept.extend(include_below(fields, element)?);
            }
            Some(Bson::Array(kept))
        }
        _ => None,
    })
}

fn exclude(fields: &Fields, document: &Document) -> Document {
    let mut kept = Document::new();
    for (name, value) in document {
        match find(fields, name) {
            Some(Action::Exclude) => {}
            Some(Action::Slice { skip, limit }) => {
                kept.insert(name, slice(value, *skip, *limit));
            }
            Some(Action::Below(below)) => {
                kept.insert(name, exclude_below(below, value));
            }
            _ => {
                kept.insert(name, value.clone());
            }
        }
    }
    kept
}

fn exclude_below(fields: &Fields, value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => Bson::Document(exclude(fields, document)),
        Bson::Array(array) => {
            Bson::Array(array.iter().map(|element| exclude_below(fields, element)).collect())
        }
        value => value.clone(),
    }
}

fn compute(
    fields: &Fields,
    into: &mut Document,
    original: &Document,
    scope: &Scope<'_>,
) -> Result<(), CommandError> {
    for (name, action) in fields {
        match action {
            Action::Compute(expression) => match expression.evaluate(scope)? {
                Some(value) => drop(into.insert(name, value)),
                None => drop(into.remove(name)),
            },
            Action::ElemMatch(matcher) => {
                if let Some(Bson::Array(array)) = original.get(name) {
                    for element in array {
                        if matcher.matches_element(element)? {
                            into.insert(name, Bson::Array(vec![element.clone()]));
                            break;
                        }
                    }
                }
            }
            Action::Below(below) if computes(below) => {
                let old = into.get(name).or_else(|| {
                    // An inclusion drops scalars, but a computed field may stand in an array of them.
                    original.get(name).filter(|value| matches!(value, Bson::Array(_)))
                });
                let value = compute_below(below, old.cloned(), scope)?;
                into.insert(name, value);
            }
            _ => {}
        }
    }
    Ok(())
}

fn compute_below(
    fields: &Fields,
    old: Option<Bson>,
    scope: &Scope<'_>,
) -> Result<Bson, CommandError> {
    match old {
        Some(Bson::Document(mut document)) => {
            let original = document.clone();
            compute(fields, &mut document, &original, scope)?;
            Ok(Bson::Document(document))
        }
        Some(Bson::Array(array)) => {
            let elements: Result<Vec<Bson>, _> = array
                .into_iter()
                .map(|element| compute_below(fields, Some(element), scope))
                .collect();
            Ok(Bson::Array(elements?))
        }
        _ => {
            let mut document = Document::new();
            compute(fields, &mut document, &Document::new(), scope)?;
            Ok(Bson::Document(document))
        }
    }
}

fn computes(fields: &Fields) -> bool {
    fields.iter().any(|(_, action)| match action {
        Action::Compute(_) | Action::ElemMatch(_) => true,
        Action::Below(below) => computes(below),
        _ => false,
    })
}

/// `$slice` of `find`: so many from the front, from the end if negative, or after a skip.
fn slice(value: &Bson, skip: Option<i64>, limit: i64) -> Bson {
    let Bson::Array(array) = value else { return value.clone() };
    let length = array.len() as i64;
    let (from, count) = match skip {
        None if limit < 0 => ((length.saturating_add(limit)).max(0), limit.saturating_neg()),
        None => (0, limit),
        Some(skip) if skip < 0 => ((length.saturating_add(skip)).max(0), limit),
        Some(skip) => (skip.min(length), limit),
    };
    Bson::Array(array.iter().skip(from as usize).take(count.max(0) as usize).cloned().collect())
}

/// Leaves the matched element alone in the first array on `path`.
fn keep_matched(
    document: &mut Document,
    path: &[String],
    index: Option<usize>,
) -> Result<(), CommandError> {
    let missing = || {
        CommandError::new(
            51246,
            "Executor error during find command :: caused by :: positional operator '.$' couldn't \
             find a matching element in the array",
        )
    };
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    match document.get_mut(name) {
        Some(Bson::Document(below)) => keep_matched(below, rest, index),
        Some(Bson::Array(array)) => {
            let index = index.filter(|index| *index < array.len()).ok_or_else(missing)?;
            *array = vec![array.swap_remove(index)];
            Ok(())
        }
        _ => Ok(()),
    }
}
