//! Index keys: bytes that sort as the values do, and the keys a document has in an index.

use bson::Bson;
use bson::raw::RawDocument;

use crate::mongod::error::{self, CommandError};

use super::collation::Collation;
use super::number::Exact;
use super::value::{ArrayRef, DocumentRef, ValueRef};

/// The key of one ascending value: `index_key(a).cmp(&index_key(b))` is the server's order of `a`
/// and `b`, and equal keys are equal values.
pub fn index_key(value: &Bson) -> Vec<u8> {
    let mut key = Vec::new();
    append_key(&mut key, value.into(), Collation::Simple, false);
    key
}

/// Appends the key of one value. No key is a prefix of another, so that the keys of a compound index
/// can be strung together; a descending field's bytes are inverted.
pub fn append_key(key: &mut Vec<u8>, value: ValueRef<'_>, collation: Collation, descending: bool) {
    let start = key.len();
    key.push(value.canonical_type());
    append_value(key, value, collation);
    if descending {
        key[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// The kinds of indexes that a field's value may name.
const PLUGINS: [&str; 4] = ["text", "2d", "2dsphere", "hashed"];

/// What an index is made of: `{field: 1 | -1, ...}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    fields: Vec<KeyField>,
    /// Whether it is of a kind that is kept without keys: text, geo, hashed, wildcard.
    special: bool,
}

/// One field of a key pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyField {
    /// The dotted path.
    pub path: String,
    /// Whether the order is descending.
    pub descending: bool,
}

/// The keys one document has in an index.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentKeys {
    /// The encoded keys, ascending, each once.
    pub keys: Vec<Vec<u8>>,
    /// The values of each key, in the same order, for `keyValue` in a duplicate-key error.
    pub values: Vec<Vec<Bson>>,
    /// Whether an array was met on the way: the index is multikey.
    pub multikey: bool,
    /// Whether every field of the index was missing (a sparse index leaves such a document out).
    pub all_missing: bool,
}

impl KeyPattern {
    /// Parses an index's `key`.
    ///
    /// # Errors
    /// `CannotCreateIndex` for an empty pattern, a value that is no nonzero number, or an index type
    /// that is not supported here (text, 2d, 2dsphere, hashed, wildcard).
    pub fn parse(spec: DocumentRef<'_>) -> Result<KeyPattern, CommandError> {
        let refuse = |message: String| Err(CommandError::new(error::CANNOT_CREATE_INDEX, message));
        let mut fields = Vec::new();
        let mut special = false;
        for (path, value) in spec.iter() {
            if path.is_empty() {
                return refuse("Index keys cannot be an empty field.".into());
            }
            if path.split('.').any(str::is_empty) {
                return refuse("Index keys cannot contain an empty field.".into());
            }
            if let Some(plugin) = value.as_str() {
                if !PLUGINS.contains(&plugin) {
                    return refuse(format!("Unknown index plugin '{plugin}'"));
                }
                special = true;
                fields.push(KeyField { path: path.to_owned(), descending: false });
                continue;
            }
            if path == "$**" || path.ends_with(".$**") {
                special = true;
                fields.push(KeyField { path: path.to_owned(), descending: false });
                continue;
            }
            if path.split('.').any(|part| part.starts_with('$')) {
                return refuse(
                    "Index key contains an illegal field name: field name starts with '$'.".into(),
                );
            }
            let Some(direction) = super::number::as_f64(value) else {
                return refuse(
                    "Values in v:2 index key pattern cannot be of type ".to_owned()
                        + value.type_name()
                        + ". Only numbers > 0, numbers < 0, and strings are allowed.",
                );
            };
            if direction == 0.0 || direction.is_nan() {
                return refuse("Values in the index key pattern cannot be 0.".into());
            }
            fields.push(KeyField { path: path.to_owned(), descending: direction < 0.0 });
        }
        if fields.is_empty() {
            return refuse("Index keys cannot be an empty document".into());
        }
        Ok(KeyPattern { fields, special })
    }

    /// Whether it is of a kind that is kept in the catalog without keys: text, geo, hashed, wildcard.
    pub fn is_special(&self) -> bool {
        self.special
    }

    /// The fields in their order.
    pub fn fields(&self) -> &[KeyField] {
        &self.fields
    }

    /// The key of the given values, one per field (or fewer, for a prefix).
    pub fn encode(&self, values: &[Bson], collation: Collation) -> Vec<u8> {
        assert!(values.len() <= self.fields.len(), "more values than the index has fields");
        let mut key = Vec::new();
        for (field, value) in self.fields.iter().zip(values) {
            append_key(&mut key, value.into(), collation, field.descending);
        }
        key
    }

    /// The keys `document` has in this index.
    ///
    /// # Errors
    /// `CannotIndexParallelArrays` if two fields hold arrays side by side.
    pub fn keys(
        &self,
        document: &RawDocument,
        collation: Collation,
    ) -> Result<DocumentKeys, CommandError> {
        let mut fixed = vec![None; self.fields.len()];
        let pending: Vec<_> = self.fields.iter().map(|field| field.path.as_str()).collect();
        let mut found = Found::default();
        expand(&mut fixed, &pending, ValueRef::Document(document.into()), &mut found)?;
        let mut keyed: Vec<(Vec<u8>, Vec<Bson>)> = found
            .keys
            .into_iter()
            .map(|values| {
                let values: Vec<Bson> = values.into_iter().map(ValueRef::to_bson).collect();
                (self.encode(&values, collation), values)
            })
            .collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        keyed.dedup_by(|a, b| a.0 == b.0);
        let (keys, values) = keyed.into_iter().unzip();
        let all_missing = !found.any_present;
        Ok(DocumentKeys { keys, values, multikey: found.multikey, all_missing })
    }
}

#[derive(Default)]
struct Found<'a> {
    keys: Vec<Vec<ValueRef<'a>>>,
    multikey: bool,
    any_present: bool,
}

/// Walks every pending path from `root` until it ends or meets an array; then fans out over that
/// array's elements. An empty pending path means that its value is fixed.
fn expand<'a>(
    fixed: &mut [Option<ValueRef<'a>>],
    pending: &[&str],
    root: ValueRef<'a>,
    found: &mut Found<'a>,
) -> Result<(), CommandError> {
    let mut rest: Vec<&str> = pending.to_vec();
    let mut array: Option<(ArrayRef<'a>, usize)> = None;
    let mut waiting: Vec<usize> = Vec::new();
    for (slot, path) in pending.iter().enumerate() {
        if fixed[slot].is_some() {
            continue;
        }
        let (value, left, consumed) = walk(root, path);
        match value {
            Some(ValueRef::Array(met)) => {
                if let Some((first, at)) = array {
                    let same = std::ptr::eq(first_byte(first), first_byte(met))
                        && pending[at][..pending[at].len() - rest[at].len()].trim_end_matches('.')
                            == path[..consumed].trim_end_matches('.');
                    if !same {
                        let name = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
                        return Err(CommandError::new(
                            error::CANNOT_INDEX_PARALLEL_ARRAYS,
                            format!(
                                "cannot index parallel arrays [{}] [{}]",
                                name(path),
                                name(pending[at])
                            ),
                        ));
                    }
                }
                rest[slot] = left;
                array.get_or_insert((met, slot));
                waiting.push(slot);
            }
            Some(value) => {
                found.any_present = true;
                fixed[slot] = Some(value);
            }
            None => fixed[slot] = Some(ValueRef::Null),
        }
    }
    let Some((elements, _)) = array else {
        found.keys.push(fixed.iter().map(|value| value.unwrap_or(ValueRef::Null)).collect());
        return Ok(());
    };
    found.multikey = true;
    found.any_present = true;
    if elements.is_empty() {
        let mut key = fixed.to_vec();
        for slot in waiting {
            // An empty array at the path's end is undefined; before its end there is nothing.
            let value = if rest[slot].is_empty() { ValueRef::Undefined } else { ValueRef::Null };
            key[slot] = Some(value);
        }
        found.keys.push(key.into_iter().map(|value| value.unwrap_or(ValueRef::Null)).collect());
        return Ok(());
    }
    for element in elements.iter() {
        let mut branch = fixed.to_vec();
        let mut deeper = false;
        for slot in waiting.iter().copied() {
            if rest[slot].is_empty() {
                branch[slot] = Some(element);
                continue;
            }
            let (index, after) = rest[slot].split_once('.').unwrap_or((rest[slot], ""));
            match (element, index.parse::<usize>()) {
                (ValueRef::Document(_), Err(_)) => deeper = true,
                (_, Ok(index)) => {
                    // A number in the path names a place in the array, for every element alike.
                    let at = elements.get(index);
                    let value = match (at, after.is_empty()) {
                        (Some(value), true) => value,
                        (Some(value), false) => walk(value, after).0.unwrap_or(ValueRef::Null),
                        (None, _) => ValueRef::Null,
                    };
                    branch[slot] = Some(value);
                }
                _ => branch[slot] = Some(ValueRef::Null),
            }
        }
        if deeper {
            expand(&mut branch, &rest, element, found)?;
        } else {
            found.keys.push(branch.iter().map(|value| value.unwrap_or(ValueRef::Null)).collect());
        }
    }
    Ok(())
}

/// Goes down `path` from `root` until it ends or meets an array: the value, what is left of the path,
/// how many bytes of it were used.
fn walk<'a, 'p>(root: ValueRef<'a>, path: &'p str) -> (Option<ValueRef<'a>>, &'p str, usize) {
    let (mut value, mut left) = (root, path);
    while !left.is_empty() {
        let ValueRef::Document(document) = value else {
            let value = matches!(value, ValueRef::Array(_)).then_some(value);
            return (value, left, path.len() - left.len());
        };
        let (name, after) = left.split_once('.').unwrap_or((left, ""));
        let Some(next) = document.get(name) else { return (None, left, path.len() - left.len()) };
        (value, left) = (next, after);
    }
    (Some(value), left, path.len())
}

fn first_byte(array: ArrayRef<'_>) -> *const u8 {
    match array {
        ArrayRef::Raw(array) => array.as_bytes().as_ptr(),
        ArrayRef::Decoded(array) => array.as_ptr().cast(),
    }
}

fn append_value(key: &mut Vec<u8>, value: ValueRef<'_>, collation: Collation) {
    use ValueRef as V;
    match value {
        V::MinKey | V::MaxKey | V::Null | V::Undefined => {}
        V::Int32(_) | V::Int64(_) | V::Double(_) | V::Decimal128(_) => Exact::of(value).encode(key),
        V::String(text) | V::Symbol(text) => append_bytes(key, &collation.key(text)),
        V::Document(document) => append_document(key, document, collation),
        V::Array(array) => {
            for element in array.iter() {
                append_key(key, element, collation, false);
            }
            key.push(0);
        }
        V::Binary(subtype, bytes) => {
            key.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            key.push(subtype);
            key.extend_from_slice(bytes);
        }
        V::ObjectId(id) => key.extend_from_slice(&id.bytes()),
        V::Boolean(value) => key.push(value.into()),
        // Flipping the sign bit puts negative numbers first.
        V::DateTime(millis) => key.extend_from_slice(&((millis as u64) ^ (1 << 63)).to_be_bytes()),
        V::Timestamp(value) => {
            key.extend_from_slice(&value.time.to_be_bytes());
            key.extend_from_slice(&value.increment.to_be_bytes());
        }
        V::Regex(pattern, options) => {
            append_text(key, pattern);
            append_text(key, options);
        }
        V::DbPointer(pointer) => append_bytes(key, &pointer.to_bytes()),
        V::JavaScript(code) => append_text(key, code),
        V::JavaScriptWithScope(code, scope) => {
            append_text(key, code);
            append_document(key, scope, collation);
        }
    }
}

fn append_document(key: &mut Vec<u8>, document: DocumentRef<'_>, collation: Collation) {
    for (name, value) in document.iter() {
        key.push(value.canonical_type());
        append_text(key, name);
        append_value(key, value, collation);
    }
    key.push(0);
}

fn append_text(key: &mut Vec<u8>, text: &str) {
    append_bytes(key, text.as_bytes());
}

/// Zero bytes are escaped and the end is two of them: shorter sorts first, and nothing is a prefix.
fn append_bytes(key: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use bson::{bson, doc};
    use proptest::prelude::*;

    use super::super::compare::{compare, tests::any_bson};
    use super::super::value::to_raw;
    use super::*;

    fn keys(pattern: bson::Document, document: bson::Document) -> DocumentKeys {
        let pattern = KeyPattern::parse((&pattern).into()).unwrap();
        pattern.keys(&to_raw(&document), Collation::Simple).unwrap()
    }

    #[test]
    fn an_array_has_one_key_per_distinct_element() {
        let keys = keys(doc! { "a": 1 }, doc! { "a": [3, 1, 3] });
        assert_eq!(keys.values, [[bson!(1)], [bson!(3)]]);
        assert!(keys.multikey);
    }

    #[test]
    fn fields_under_one_array_of_documents_stay_together() {
        let document = doc! { "a": [{ "b": 1, "c": 2 }, { "b": 3 }], "d": 9 };
        let keys = keys(doc! { "a.b": 1, "d": 1, "a.c": -1 }, document);
        let expected =
            [[bson!(1), bson!(9), bson!(2)], [bson!(3), bson!(9), Bson::Null]].map(Vec::from);
        assert_eq!(keys.values, expected);
    }

    #[test]
    fn parallel_arrays_are_refused() {
        let pattern = KeyPattern::parse((&doc! { "a": 1, "b": 1 }).into()).unwrap();
        let document = to_raw(&doc! { "a": [1], "b": [2] });
        let refused = pattern.keys(&document, Collation::Simple).unwrap_err();
        assert_eq!(refused.message, "cannot index parallel arrays [b] [a]");
    }

    #[test]
    fn a_missing_field_is_null_and_an_empty_array_undefined() {
        let missing = keys(doc! { "a": 1 }, doc! { "b": 1 });
        assert_eq!((missing.values, missing.all_missing), (vec![vec![Bson::Null]], true));
        let empty = keys(doc! { "a": 1 }, doc! { "a": [] });
        assert_eq!((empty.values, empty.all_missing), (vec![vec![Bson::Undefined]], false));
    }

    proptest! {
        #[test]
        fn keys_sort_as_the_values_do(a in any_bson(), b in any_bson()) {
            prop_assert_eq!(index_key(&a).cmp(&index_key(&b)), compare(&a, &b));
        }

        #[test]
        fn compound_keys_sort_field_by_field(
            a in (any_bson(), any_bson()),
            b in (any_bson(), any_bson()),
        ) {
            let pattern = KeyPattern::parse((&doc! { "x": -1, "y": 1 }).into()).unwrap();
            let key = |(x, y): &(Bson, Bson)| {
                pattern.encode(&[x.clone(), y.clone()], Collation::Simple)
            };
            let expected = compare(&b.0, &a.0).then_with(|| compare(&a.1, &b.1));
            prop_assert_eq!(key(&a).cmp(&key(&b)), expected);
        }
    }
}
