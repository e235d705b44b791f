//! Sort patterns.

use std::cmp::Ordering;

use bson::RawDocument;

use crate::mongod::error::CommandError;

use super::collation::Collation;
use super::compare::compare_collated;
use super::key::append_key;
use super::number::as_exact_i64;
use super::path::{LeafArray, Path};
use super::value::{DocumentRef, ValueRef};

/// `{field: 1 | -1, ...}`.
#[derive(Clone, Debug, PartialEq)]
pub struct SortPattern {
    fields: Vec<(Path, bool)>,
    collation: Collation,
}

/// What a document is sorted by: compare these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(Vec<u8>);

impl SortPattern {
    /// Parses a sort specification; an empty one sorts nothing.
    ///
    /// # Errors
    /// 15974 for a value that is no number, 15975 for one that is neither 1 nor -1, 40352 and 16410 for
    /// paths that are none.
    pub fn parse(spec: DocumentRef<'_>, collation: Collation) -> Result<SortPattern, CommandError> {
        let mut fields: Vec<(Path, bool)> = Vec::new();
        for (path, value) in spec.iter() {
            if path.is_empty() {
                return Err(CommandError::new(
                    40352,
                    "FieldPath cannot be constructed with empty string",
                ));
            }
            if path.ends_with('.') {
                return Err(CommandError::new(40353, "FieldPath must not end with a '.'."));
            }
            if path.split('.').any(str::is_empty) {
                return Err(CommandError::new(
                    15998,
                    "FieldPath field names may not be empty strings.",
                ));
            }
            if path.starts_with('$') {
                return Err(CommandError::new(
                    16410,
                    "FieldPath field names may not start with '$'. Consider using $getField or \
                         $setField.",
                ));
            }
            if let ValueRef::Document(meta) = value {
                let what = meta.get("$meta").and_then(ValueRef::as_str).unwrap_or_default();
                return Err(CommandError::new(
                    if what.is_empty() { 17312 } else { 31138 },
                    if what.is_empty() {
                        "$meta is the only expression supported by $sort right now".to_owned()
                    } else {
                        format!("Illegal $meta sort: $meta: \"{what}\"")
                    },
                ));
            }
            if !value.is_number() {
                let element = super::text::element_text(path, value);
                let message = format!("Illegal key in $sort specification: {element}");
                return Err(CommandError::new(15974, message));
            }
            let descending = match as_exact_i64(value) {
                Some(1) => false,
                Some(-1) => true,
                _ => {
                    return Err(CommandError::new(
                        15975,
                        "$sort key ordering must be 1 (for ascending) or -1 (for descending)",
                    ));
                }
            };
            if fields.iter().all(|(known, _)| known.dotted() != path) {
                fields.push((Path::new(path), descending));
            }
        }
        Ok(SortPattern { fields, collation })
    }

    /// Whether it sorts nothing.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields in their order: dotted path, and whether the order is descending.
    pub fn fields(&self) -> impl Iterator<Item = (&str, bool)> {
        self.fields.iter().map(|(path, descending)| (path.dotted(), *descending))
    }

    /// What `document` is sorted by: of an array its least element when ascending, its greatest when
    /// descending; a missing field is null, an empty array undefined.
    pub fn key<'a>(&self, document: impl Into<DocumentRef<'a>>) -> SortKey {
        let document = document.into();
        let mut key = Vec::new();
        for (path, descending) in &self.fields {
            let value = self.value_of(document, path, *descending);
            append_key(&mut key, value, self.collation, *descending);
        }
        SortKey(key)
    }

    /// Compares two documents.
    pub fn compare(&self, a: &RawDocument, b: &RawDocument) -> Ordering {
        self.key(a).cmp(&self.key(b))
    }

    /// Sorts stably; `document` reads the document out of an item.
    pub fn sort_by_document<T>(
        &self,
        items: &mut Vec<T>,
        document: impl Fn(&T) -> DocumentRef<'_>,
    ) {
        if self.is_empty() {
            return;
        }
        let mut keyed: Vec<(SortKey, T)> =
            items.drain(..).map(|item| (self.key(document(&item)), item)).collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        items.extend(keyed.into_iter().map(|(_, item)| item));
    }

    fn value_of<'a>(
        &self,
        document: DocumentRef<'a>,
        path: &Path,
        descending: bool,
    ) -> ValueRef<'a> {
        let mut best: Option<ValueRef<'a>> = None;
        let mut consider = |value: ValueRef<'a>| {
            let better = best.is_none_or(|best| {
                let order = compare_collated(value, best, self.collation);
                if descending { order.is_gt() } else { order.is_lt() }
            });
            if better {
                best = Some(value);
            }
        };
        let mut visitor = |value: Option<ValueRef<'a>>, _: Option<usize>| {
            match value {
                None => consider(ValueRef::Null),
                Some(ValueRef::Array(array)) if array.is_empty() => consider(ValueRef::Undefined),
                Some(ValueRef::Array(array)) => array.iter().for_each(&mut consider),
                Some(value) => consider(value),
            }
            Ok::<bool, std::convert::Infallible>(false)
        };
        match path.visit(document, LeafArray::Whole, &mut visitor) {
            Ok(_) => best.unwrap_or(ValueRef::Null),
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn sorted(spec: Document, mut documents: Vec<Document>) -> Vec<i32> {
        let pattern = SortPattern::parse((&spec).into(), Collation::Simple).unwrap();
        pattern.sort_by_document(&mut documents, |document| document.into());
        documents.iter().map(|document| document.get_i32("_id").unwrap()).collect()
    }

    #[test]
    fn equal_documents_keep_their_order_and_later_fields_decide() {
        let documents = vec![
            doc! { "_id": 1, "a": 2, "b": 1 },
            doc! { "_id": 2, "a": 1, "b": 1 },
            doc! { "_id": 3, "a": 1.0, "b": 1 },
            doc! { "_id": 4, "a": 1, "b": 2 },
        ];
        assert_eq!(sorted(doc! { "a": 1, "b": -1 }, documents), [4, 2, 3, 1]);
    }

    #[test]
    fn an_array_sorts_by_its_least_or_greatest_element() {
        let documents = vec![
            doc! { "_id": 1, "a": [2, 9] },
            doc! { "_id": 2, "a": 5 },
            doc! { "_id": 3, "a": [] },
        ];
        assert_eq!(sorted(doc! { "a": 1 }, documents.clone()), [3, 1, 2]);
        assert_eq!(sorted(doc! { "a": -1 }, documents), [1, 2, 3]);
    }

    #[test]
    fn missing_sorts_as_null_before_numbers() {
        let documents = vec![doc! { "_id": 1, "a": 0 }, doc! { "_id": 2 }];
        assert_eq!(sorted(doc! { "a": 1 }, documents), [2, 1]);
    }

    #[test]
    fn a_direction_is_one_or_minus_one() {
        let code = |spec: Document| {
            SortPattern::parse((&spec).into(), Collation::Simple).unwrap_err().code
        };
        assert_eq!((code(doc! { "a": 2 }), code(doc! { "a": "x" })), (15975, 15974));
    }
}
