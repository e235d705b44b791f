//! The difference of two documents as the oplog carries it, `{$v: 2, diff: {...}}`, and its application.
//!
//! A document's difference has the sections `d` (removed fields), `u` (changed in place), `i` (new, at
//! the end, in this order) and `s<field>` (the difference of what is below). An array's has `a: true`,
//! `l` (the new length, if it shrank), and `u<index>` and `s<index>`.

use bson::{Bson, Document};

use crate::mongod::error::{self, CommandError};

use super::compare::{identical, identical_documents};
use super::path::array_index;

/// The paths an update touched: what a guided difference looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    /// The value here was set as a whole.
    whole: bool,
    below: Vec<(String, Touched)>,
}

impl Touched {
    /// Adds a path.
    pub(super) fn add(&mut self, path: &[String]) {
        let Some((name, rest)) = path.split_first() else {
            self.whole = true;
            return;
        };
        match self.below.iter_mut().find(|(known, _)| known == name) {
            Some((_, below)) => below.add(rest),
            None => {
                let mut below = Touched::default();
                below.add(rest);
                self.below.push((name.clone(), below));
            }
        }
    }
}

/// `{$v: 2, diff: ...}`.
pub fn versioned(diff: Document) -> Document {
    bson::doc! { "$v": 2, "diff": diff }
}

/// The difference that turns `before` into `after`; empty if they are the same bytes.
pub fn diff(before: &Document, after: &Document) -> Document {
    // New fields can only be appended. So the longest head of `after` whose fields come in the order of
    // `before` stays in place, and the rest is inserted, even where `before` has a field of the name.
    let mut staying: Vec<&str> = Vec::new();
    let mut place = 0;
    for name in after.keys() {
        match before.keys().skip(place).position(|known| known == name) {
            Some(further) => {
                place += further + 1;
                staying.push(name);
            }
            None => break,
        }
    }
    let mut sections = Sections::default();
    for name in before.keys() {
        if !after.contains_key(name) {
            sections.removed.insert(name, false);
        }
    }
    for (index, (name, new)) in after.iter().enumerate() {
        match before.get(name) {
            Some(old) if index < staying.len() => {
                if !identical(old, new) {
                    match sub_diff(old, new) {
                        Some(below) => drop(sections.below.insert(format!("s{name}"), below)),
                        None => drop(sections.updated.insert(name, new.clone())),
                    }
                }
            }
            _ => drop(sections.inserted.insert(name, new.clone())),
        }
    }
    sections.into_document()
}

/// The difference at the touched paths alone, in the form in which operators log it.
pub(super) fn guided_diff(before: &Document, after: &Document, touched: &Touched) -> Document {
    let mut sections = Sections::default();
    let mut inserted: Vec<&str> = Vec::new();
    for (name, below) in &touched.below {
        match (before.get(name), after.get(name)) {
            (None, None) => {}
            (Some(_), None) => drop(sections.removed.insert(name, false)),
            (None, Some(_)) => inserted.push(name),
            (Some(old), Some(new)) if !identical(old, new) => {
                match guided_sub_diff(old, new, below) {
                    Some(below) => drop(sections.below.insert(format!("s{name}"), below)),
                    None => drop(sections.updated.insert(name, new.clone())),
                }
            }
            _ => {}
        }
    }
    for (name, value) in after {
        if inserted.contains(&name.as_str()) {
            sections.inserted.insert(name, value.clone());
        }
    }
    sections.into_document()
}

/// Applies a difference.
///
/// # Errors
/// `FailedToParse` for something that is no difference, or none of this document.
pub fn apply_diff(document: &Document, diff: &Document) -> Result<Document, CommandError> {
    let mut result = document.clone();
    for (section, value) in diff {
        match (section.as_str(), value) {
            ("d", Bson::Document(removed)) => {
                for name in removed.keys() {
                    result.remove(name);
                }
            }
            ("u", Bson::Document(updated)) => {
                for (name, value) in updated {
                    result.insert(name, value.clone());
                }
            }
            ("i", Bson::Document(inserted)) => {
                for (name, value) in inserted {
                    result.remove(name);
                    result.insert(name, value.clone());
                }
            }
            (section, Bson::Document(below)) if section.starts_with('s') => {
                let name = &section[1..];
                // A field that is gone was removed by a later entry that is applied already.
                if let Some(value) = result.get_mut(name) {
                    apply_below(value, below)?;
                }
            }
            _ => return Err(malformed(section)),
        }
    }
    Ok(result)
}

fn malformed(section: &str) -> CommandError {
    let message = format!("Expected a diff in the update oplog entry, got the section '{section}'");
    CommandError::new(error::FAILED_TO_PARSE, message)
}

fn apply_below(value: &mut Bson, diff: &Document) -> Result<(), CommandError> {
    match (diff.get("a"), value) {
        (Some(Bson::Boolean(true)), Bson::Array(array)) => apply_array(array, diff),
        (Some(Bson::Boolean(true)), _) => Ok(()),
        (_, Bson::Document(document)) => {
            *document = apply_diff(document, diff)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The longest array a difference may make by naming an index, as the server limits it.
const MAX_ARRAY_PADDING: usize = 1_500_000;

fn apply_array(array: &mut Vec<Bson>, diff: &Document) -> Result<(), CommandError> {
    for (section, value) in diff {
        match section.split_at_checked(1) {
            Some(("a", "")) => {}
            Some(("l", "")) => {
                let length = super::number::as_exact_i64(value.into()).unwrap_or(-1);
                let length = usize::try_from(length).map_err(|_| malformed(section))?;
                array.truncate(length);
            }
            Some((kind @ ("u" | "s"), index)) => {
                let index = array_index(index)
                    .filter(|index| *index <= array.len() + MAX_ARRAY_PADDING)
                    .ok_or_else(|| malformed(section))?;
                if kind == "u" {
                    if index >= array.len() {
                        array.resize(index + 1, Bson::Null);
                    }
                    array[index] = value.clone();
                } else if let (Some(element), Bson::Document(below)) = (array.get_mut(index), value)
                {
                    apply_below(element, below)?;
                }
            }
            _ => return Err(malformed(section)),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Sections {
    removed: Document,
    updated: Document,
    inserted: Document,
    below: Document,
}

impl Sections {
    fn into_document(self) -> Document {
        let mut diff = Document::new();
        for (name, section) in [("d", self.removed), ("u", self.updated), ("i", self.inserted)] {
            if !section.is_empty() {
                diff.insert(name, section);
            }
        }
        diff.extend(self.below);
        diff
    }
}

/// The difference below a field, where both values are documents or both arrays.
fn sub_diff(old: &Bson, new: &Bson) -> Option<Document> {
    match (old, new) {
        (Bson::Document(old), Bson::Document(new)) => {
            let below = diff(old, new);
            // An empty difference would say nothing of documents that differ.
            assert!(!below.is_empty() || identical_documents(old, new), "a difference is lost");
            Some(below)
        }
        (Bson::Array(old), Bson::Array(new)) => {
            let mut sections = bson::doc! { "a": true };
            if new.len() < old.len() {
                sections.insert("l", new.len() as i32);
            }
            for (index, value) in new.iter().enumerate() {
                match old.get(index) {
                    Some(old) if identical(old, value) => {}
                    Some(old) => match sub_diff(old, value) {
                        Some(below) => drop(sections.insert(format!("s{index}"), below)),
                        None => drop(sections.insert(format!("u{index}"), value.clone())),
                    },
                    None => drop(sections.insert(format!("u{index}"), value.clone())),
                }
            }
            Some(sections)
        }
        _ => None,
    }
}

fn guided_sub_diff(old: &Bson, new: &Bson, touched: &Touched) -> Option<Document> {
    if touched.whole {
        return None;
    }
    match (old, new) {
        (Bson::Document(old), Bson::Document(new)) => Some(guided_diff(old, new, touched)),
        (Bson::Array(old), Bson::Array(new)) if new.len() >= old.len() => {
            let mut indexes: Vec<(usize, &Touched)> = touched
                .below
                .iter()
                .map(|(name, below)| array_index(name).map(|index| (index, below)))
                .collect::<Option<_>>()?;
            indexes.sort_by_key(|(index, _)| *index);
            let mut sections = bson::doc! { "a": true };
            for (index, below) in indexes {
                let value = new.get(index)?;
                match old.get(index) {
                    Some(old) if identical(old, value) => {}
                    Some(old) => match guided_sub_diff(old, value, below) {
                        Some(below) => drop(sections.insert(format!("s{index}"), below)),
                        None => drop(sections.insert(format!("u{index}"), value.clone())),
                    },
                    None => drop(sections.insert(format!("u{index}"), value.clone())),
                }
            }
            Some(sections)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use proptest::prelude::*;

    use super::super::compare::tests::any_bson;
    use super::*;

    fn any_document() -> impl Strategy<Value = Document> {
        prop::collection::vec(("[a-e]", any_bson()), 0..5)
            .prop_map(|fields| fields.into_iter().collect())
    }

    #[test]
    fn each_kind_of_change_has_its_section() {
        let before = doc! { "_id": 1, "a": 1, "b": 2, "c": { "x": 1 }, "d": [1, 2, 3] };
        let after = doc! { "_id": 1, "a": 9, "c": { "x": 1, "y": 2 }, "d": [1, 5], "e": 7 };
        let expected = doc! {
            "d": { "b": false },
            "u": { "a": 9 },
            "i": { "e": 7 },
            "sc": { "i": { "y": 2 } },
            "sd": { "a": true, "l": 2, "u1": 5 },
        };
        let found = diff(&before, &after);
        assert!(identical_documents(&found, &expected), "{found}");
    }

    #[test]
    fn a_field_that_moved_is_inserted_again() {
        let (before, after) = (doc! { "a": 1, "b": 2 }, doc! { "b": 2, "a": 1 });
        assert_eq!(diff(&before, &after), doc! { "i": { "a": 1 } });
    }

    #[test]
    fn something_else_is_no_difference() {
        assert_eq!(apply_diff(&doc! {}, &doc! { "x": 1 }).unwrap_err().code, 9);
    }

    proptest! {
        #[test]
        fn applying_a_difference_gives_the_other_document(a in any_document(), b in any_document()) {
            let applied = apply_diff(&a, &diff(&a, &b)).unwrap();
            prop_assert!(identical_documents(&applied, &b), "{} -> {}: {}", a, b, diff(&a, &b));
        }

        #[test]
        fn the_same_documents_have_no_difference(a in any_document()) {
            prop_assert_eq!(diff(&a, &a), doc! {});
        }
    }
}
