//! Indexes: ordered maps of encoded key and record id.
//!
//! An entry counts the retained versions of its record that have its key, and lives as long as one
//! does; who reads checks that the version it sees has the key.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bson::raw::{CStr, cstr};
use bson::{DateTime, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::record::RecordId;
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;
use crate::mongod::query::Matcher;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::key::{KeyPattern, append_key};
use crate::mongod::query::value::DocumentRef;

/// What `createIndexes` asks for and `listIndexes` shows.
#[derive(Clone, Debug)]
pub struct IndexSpec {
    /// `name`.
    pub name: Arc<str>,
    /// The whole specification, `{v: 2, key: .., name: .., ..}`.
    pub document: Arc<RawDocumentBuf>,
    /// Whether two records may not have the same key.
    pub unique: bool,
    /// Whether records without any of the fields are left out.
    pub sparse: bool,
    /// The parsed `key`.
    pub pattern: KeyPattern,
    collation: Collation,
    /// `partialFilterExpression`: records it does not let through are left out.
    filter: Option<Matcher>,
    /// `hidden`: kept up to date, but no reader's choice.
    pub hidden: bool,
}

impl IndexSpec {
    /// Reads a specification as the oplog has it (checked and completed by the command before).
    ///
    /// # Errors
    /// 67 CannotCreateIndex: no key pattern, no name, or a kind of index that does not exist here.
    pub fn parse(document: Arc<RawDocumentBuf>) -> Result<IndexSpec, CommandError> {
        let bad = |message: &str| CommandError::new(error::CANNOT_CREATE_INDEX, message);
        let name =
            document.get_str("name").map_err(|_| bad("An index specification needs a name"))?;
        let key = document
            .get_document("key")
            .map_err(|_| bad("An index specification needs a key pattern"))?;
        let pattern = KeyPattern::parse(key.into())?;
        let collation = match document.get_document("collation") {
            Ok(collation) => Collation::parse(collation.into())?,
            Err(_) => Collation::Simple,
        };
        let flag = |field: &str| {
            DocumentRef::from(&*document).get(field).is_some_and(|value| value.is_truthy())
        };
        let is_id = is_id_pattern(&pattern);
        let filter = match document.get_document("partialFilterExpression") {
            Ok(filter) => {
                // The filters an index may have ask nothing of the time.
                let epoch = Timestamp { time: 0, increment: 0 };
                let mut context = ParseContext::new(DateTime::from_millis(0), epoch);
                context.collation = collation;
                Some(Matcher::parse(filter, &context)?)
            }
            Err(_) => None,
        };
        Ok(IndexSpec {
            filter,
            hidden: flag("hidden"),
            name: name.into(),
            unique: is_id || flag("unique"),
            sparse: flag("sparse"),
            pattern,
            collation,
            document,
        })
    }

    /// The index on `_id` that every collection has, as a collection of these options shows it. Its keys
    /// are the same whatever the collation.
    pub fn of_id(options: &RawDocument) -> IndexSpec {
        let document = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
        let mut spec = IndexSpec::parse(Arc::new(document.clone())).expect("a good index");
        let mut shown = document;
        match options.get("clusteredIndex") {
            Ok(Some(clustered)) => {
                if let RawBsonRef::Document(clustered) = clustered {
                    shown = clustered.to_owned();
                } else {
                    shown.append(cstr!("unique"), true);
                }
                spec.name = shown.get_str("name").unwrap_or("_id_").into();
                shown.append(cstr!("clustered"), true);
            }
            _ => {
                if let Ok(collation) = options.get_document("collation") {
                    shown.append(cstr!("collation"), collation);
                }
            }
        }
        spec.document = Arc::new(shown);
        spec
    }

    /// `key`: the key pattern.
    pub fn key_pattern(&self) -> &RawDocument {
        self.document.get_document("key").expect("checked when it was read")
    }

    /// Whether this is the index on `_id`.
    pub fn is_id(&self) -> bool {
        is_id_pattern(&self.pattern)
    }

    /// `partialFilterExpression`, if it has one.
    pub fn filter(&self) -> Option<&Matcher> {
        self.filter.as_ref()
    }

    /// How the index compares strings.
    pub fn collation(&self) -> Collation {
        self.collation
    }

    /// The keys of a document, encoded, without repetition; and whether the index is multikey by it.
    ///
    /// # Errors
    /// 171 CannotIndexParallelArrays.
    pub(super) fn keys(&self, document: &RawDocument) -> Result<Keys, CommandError> {
        if self.is_id() {
            let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
            return Ok(Keys { keys: vec![id_key(id)], multikey: false });
        }
        let left_out =
            self.filter.as_ref().is_some_and(|filter| !filter.matches(document).unwrap_or(false));
        if left_out || self.pattern.is_special() {
            return Ok(Keys::default());
        }
        let found = self.pattern.keys(document, self.collation)?;
        let keys = if self.sparse && found.all_missing { Vec::new() } else { found.keys };
        Ok(Keys { keys, multikey: found.multikey })
    }

    /// The error of a second document with a key of this unique index.
    pub(super) fn duplicate_key(
        &self,
        namespace: &str,
        document: &RawDocument,
        key: &[u8],
    ) -> CommandError {
        let mut key_value = RawDocumentBuf::new();
        if let Ok(found) = self.pattern.keys(document, self.collation) {
            let at = found.keys.iter().position(|candidate| candidate.as_slice() == key);
            let values = &found.values[at.unwrap_or(0)];
            for (field, value) in self.pattern.fields().iter().zip(values) {
                let path = <&CStr>::try_from(&*field.path).expect("a key of a document");
                let value = RawBson::try_from(value.clone()).expect("a value of a document");
                key_value.append(path, value);
            }
        }
        let collation = self.document.get_document("collation").ok().filter(|_| !self.is_id());
        let shown = collation.map_or_else(String::new, |collation| {
            format!(" collation: {}", super::text::shell_document(collation))
        });
        let message = format!(
            "E11000 duplicate key error collection: {namespace} index: {}{shown} dup key: {}",
            self.name,
            super::text::shell_document(&key_value)
        );
        let mut extra =
            rawdoc! { "keyPattern": self.key_pattern().to_owned(), "keyValue": key_value };
        if let Some(collation) = collation {
            extra.append(cstr!("collation"), collation);
        }
        CommandError::new(error::DUPLICATE_KEY, message).with_extra(extra)
    }
}

fn is_id_pattern(pattern: &KeyPattern) -> bool {
    !pattern.is_special()
        && matches!(pattern.fields(), [field] if field.path == "_id" && !field.descending)
}

/// The key of an `_id`.
pub(super) fn id_key(id: RawBsonRef<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    append_key(&mut key, id.into(), Collation::Simple, false);
    key
}

/// The keys of one document.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub keys: Vec<Vec<u8>>,
    pub multikey: bool,
}

impl Keys {
    pub(super) fn contain(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|candidate| candidate.as_slice() == key)
    }
}

/// An index of one collection.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub spec: Arc<IndexSpec>,
    pub created: Ts,
    pub dropped: Option<Ts>,
    /// Encoded key and record id -> how many retained versions of the record have the key.
    entries: BTreeMap<Box<[u8]>, u32>,
    /// Whether some record ever had several keys.
    pub multikey: bool,
    /// What the specification was before each change that may still be undone.
    pub before: Vec<Arc<IndexSpec>>,
}

impl Index {
    pub(super) fn new(spec: Arc<IndexSpec>, created: Ts) -> Self {
        Index {
            spec,
            created,
            dropped: None,
            entries: BTreeMap::new(),
            multikey: false,
            before: Vec::new(),
        }
    }

    pub(super) fn exists_at(&self, at: Ts) -> bool {
        self.created <= at && self.dropped.is_none_or(|dropped| dropped > at)
    }

    pub(super) fn is_live(&self) -> bool {
        self.dropped.is_none()
    }

    pub(super) fn add(&mut self, keys: Keys, record: RecordId) {
        self.multikey |= keys.multikey;
        for key in keys.keys {
            *self.entries.entry(entry_bytes(key, record)).or_insert(0) += 1;
        }
    }

    pub(super) fn remove(&mut self, keys: Keys, record: RecordId) {
        for key in keys.keys {
            let entry = entry_bytes(key, record);
            let count = self.entries.get_mut(&entry).expect("every version's keys are indexed");
            *count -= 1;
            if *count == 0 {
                self.entries.remove(&entry);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries = BTreeMap::new();
    }

    /// The records with exactly this key in some version.
    pub(super) fn records_with(&self, key: &[u8]) -> impl Iterator<Item = RecordId> {
        let mut low = Vec::with_capacity(key.len() + 8);
        low.extend_from_slice(key);
        low.extend_from_slice(&[0; 8]);
        let mut high = Vec::with_capacity(key.len() + 8);
        high.extend_from_slice(key);
        high.extend_from_slice(&[0xff; 8]);
        self.entries
            .range::<[u8], _>((Bound::Included(&*low), Bound::Included(&*high)))
            .filter(move |(entry, _)| entry.len() == low.len())
            .map(|(entry, _)| record_of(entry))
    }

    /// Key and record of every entry whose key lies within the bounds, in the order of keys. The
    /// bounds are beginnings of keys: an included upper bound admits every key that begins with it.
    pub(super) fn range<'a>(
        &'a self,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], RecordId)> + use<'a> {
        let low = match low {
            Bound::Included(key) => Bound::Included(key.to_vec()),
            Bound::Excluded(key) => successor(key).map_or(Bound::Unbounded, Bound::Included),
            Bound::Unbounded => Bound::Unbounded,
        };
        let high = match high {
            Bound::Included(key) => successor(key).map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Excluded(key) => Bound::Excluded(key.to_vec()),
            Bound::Unbounded => Bound::Unbounded,
        };
        let empty = match (&low, &high) {
            (Bound::Included(low), Bound::Excluded(high)) => low >= high,
            _ => false,
        };
        let range = (!empty).then(|| {
            let low = low.as_ref().map(Vec::as_slice);
            let high = high.as_ref().map(Vec::as_slice);
            self.entries.range::<[u8], _>((low, high))
        });
        range.into_iter().flatten().map(|(entry, _)| (&entry[..entry.len() - 8], record_of(entry)))
    }
}

/// The first byte string after everything that begins with `prefix`; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut next = prefix[..=end].to_vec();
    next[end] += 1;
    Some(next)
}

fn entry_bytes(mut key: Vec<u8>, record: RecordId) -> Box<[u8]> {
    key.reserve_exact(8);
    key.extend_from_slice(&record.0.to_be_bytes());
    key.into_boxed_slice()
}

fn record_of(entry: &[u8]) -> RecordId {
    let bytes = entry[entry.len() - 8..].try_into().expect("entries end with a record id");
    RecordId(u64::from_be_bytes(bytes))
}
