//! What an oplog entry is to a change stream: its events.

use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, RawBsonRef, RawDocument, Timestamp, Uuid, doc};

use super::token::EventToken;
use super::{FullDocument, Scope, Spec};
use crate::mongod::Mongod;
use crate::mongod::command::ReadAt;
use crate::mongod::command::scan::decode;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::{InnerOperation, OpKind, OplogEntry};
use crate::mongod::optime::Ts;
use crate::mongod::session::UID_OF_NOBODY;
use crate::mongod::storage::inner_operations;

/// One event, as the client may see it.
#[derive(Debug)]
pub(super) struct Event {
    pub document: Document,
    /// `_id._data`.
    pub token: String,
    /// Nothing comes after it.
    pub invalidates: bool,
}

/// One operation of an entry, and where it stands in it.
struct Operation<'a> {
    entry: &'a OplogEntry,
    index: u64,
    kind: OpKind,
    ns: &'a str,
    uuid: Option<Uuid>,
    object: &'a RawDocument,
    object2: Option<&'a RawDocument>,
}

/// The events of one entry in this stream, in order.
///
/// # Errors
/// 47 NoMatchingDocument: an image that must be there is not.
pub(super) fn events_of(
    server: &Mongod,
    spec: &Spec,
    entry: &OplogEntry,
) -> Result<Vec<Event>, CommandError> {
    let mut events = Vec::new();
    if entry.kind == OpKind::Noop || entry.is_partial_transaction() {
        return Ok(events);
    }
    let parts = server.storage.parts_before(entry)?;
    let mut index = 0;
    for part in parts.iter().map(|part| &**part).chain([entry]) {
        match inner_operations(part)? {
            Some(operations) => {
                for inner in operations {
                    let operation = Operation::inner(entry, index, inner);
                    operation.add_events(server, spec, &mut events)?;
                    index += 1;
                }
            }
            None => Operation::whole(entry).add_events(server, spec, &mut events)?,
        }
    }
    Ok(events)
}

impl<'a> Operation<'a> {
    fn whole(entry: &'a OplogEntry) -> Self {
        Operation {
            entry,
            index: 0,
            kind: entry.kind,
            ns: &entry.ns,
            uuid: entry.collection_uuid,
            object: &entry.object,
            object2: entry.object2.as_ref().map(|object2| &***object2),
        }
    }

    fn inner(entry: &'a OplogEntry, index: u64, inner: &'a InnerOperation) -> Self {
        Operation {
            entry,
            index,
            kind: inner.kind,
            ns: &inner.ns,
            uuid: inner.collection_uuid,
            object: &inner.object,
            object2: inner.object2.as_ref().map(|object2| &***object2),
        }
    }

    fn ts(&self) -> Ts {
        self.entry.optime.ts
    }

    fn add_events(
        &self,
        server: &Mongod,
        spec: &Spec,
        events: &mut Vec<Event>,
    ) -> Result<(), CommandError> {
        match self.kind {
            OpKind::Noop => Ok(()),
            OpKind::Command => self.add_command(spec, events),
            OpKind::Insert | OpKind::Update | OpKind::Delete => {
                if spec.scope.has(self.ns) {
                    events.push(self.change(server, spec)?);
                }
                Ok(())
            }
        }
    }

    /// An insert, update, replace or delete.
    fn change(&self, server: &Mongod, spec: &Spec) -> Result<Event, CommandError> {
        let diff = self.object.get_document("diff").ok();
        let diff = diff.filter(|_| {
            self.kind == OpKind::Update && self.object.get("$v").is_ok_and(|v| v.is_some())
        });
        let kind = match self.kind {
            OpKind::Insert => "insert",
            OpKind::Delete => "delete",
            _ if diff.is_some() => "update",
            _ => "replace",
        };
        let key = decode(match self.kind {
            OpKind::Insert => self.object2.unwrap_or(self.object),
            OpKind::Delete => self.object,
            _ => self.object2.unwrap_or(self.object),
        })?;
        let key: Document =
            if self.kind == OpKind::Insert && self.object2.is_none() { only_id(key) } else { key };
        let identified;
        let identifier = match spec.token_version {
            1 => &key,
            _ => {
                identified = doc! { "operationType": kind, "documentKey": key.clone() };
                &identified
            }
        };
        let before = || server.storage.pre_image(self.ts(), self.index);
        let full = match (kind, diff) {
            ("insert" | "replace", _) => Some(Bson::Document(decode(self.object)?)),
            ("update", Some(diff)) => match spec.full_document {
                FullDocument::Default => None,
                FullDocument::UpdateLookup => Some(self.look_up(server, &key)?),
                FullDocument::WhenAvailable | FullDocument::Required => match before() {
                    Some(before) => {
                        let after =
                            crate::mongod::query::apply_diff(&decode(before)?, &decode(diff)?)?;
                        Some(Bson::Document(after))
                    }
                    None if spec.full_document == FullDocument::Required => {
                        return Err(self.image_missing("post-image for all update", kind));
                    }
                    None => Some(Bson::Null),
                },
            },
            _ => None,
        };
        let image = match (kind, spec.before_change) {
            ("insert", _) | (_, FullDocument::Default) => None,
            (_, wanted) => match before() {
                Some(before) => Some(Bson::Document(decode(before)?)),
                None if wanted == FullDocument::Required => {
                    return Err(
                        self.image_missing("pre-image for all update, delete and replace", kind)
                    );
                }
                None => Some(Bson::Null),
            },
        };
        let mut event = self.begin(spec, kind, Some(identifier), None);
        if let Some(full) = full {
            event.document.insert("fullDocument", full);
        }
        event.document.insert("ns", namespace(self.ns));
        event.document.insert("documentKey", key);
        if let Some(diff) = diff {
            let described = describe_update(&decode(diff)?, spec.disambiguates);
            event.document.insert("updateDescription", described);
        }
        if let Some(image) = image {
            event.document.insert("fullDocumentBeforeChange", image);
        }
        Ok(event)
    }

    fn image_missing(&self, what: &str, kind: &str) -> CommandError {
        let (db, collection) = self.ns.split_once('.').unwrap_or((self.ns, ""));
        CommandError::new(
            error::NO_MATCHING_DOCUMENT,
            format!(
                "Change stream was configured to require a {what} events, but the {} was not found \
                 for event: {{operationType: \"{kind}\", ns: {{db: \"{db}\", coll: \"{collection}\"}}, \
                 clusterTime: Timestamp({}, {})}}",
                if what.starts_with("post") { "post-image" } else { "pre-image" },
                self.ts().seconds(),
                self.ts().increment()
            ),
        )
    }

    /// The document as a majority has it now.
    fn look_up(&self, server: &Mongod, key: &Document) -> Result<Bson, CommandError> {
        let at = ReadAt::Timestamp(server.repl.commit.optime.ts);
        let view = server.storage.collection(self.ns, at);
        let view = view.filter(|view| self.uuid.is_none_or(|uuid| view.uuid() == uuid));
        let Some(view) = view else { return Ok(Bson::Null) };
        let key = crate::mongod::query::value::to_raw(key);
        let Ok(Some(id)) = key.get("_id") else { return Ok(Bson::Null) };
        match view.find_id(id) {
            Some((_, document)) => Ok(Bson::Document(decode(document)?)),
            None => Ok(Bson::Null),
        }
    }

    /// The fields that every event begins with.
    fn begin(
        &self,
        spec: &Spec,
        kind: &str,
        identifier: Option<&Document>,
        to: Option<&str>,
    ) -> Event {
        let token = EventToken {
            ts: self.ts(),
            operation: self.index,
            invalidate: kind == "invalidate",
            collection: self.uuid,
            event: identifier,
            version: spec.token_version,
        }
        .text();
        let mut document = Document::new();
        if let Some(session) = &self.entry.session
            && self.entry.is_of_transaction()
        {
            let uid = Binary { subtype: BinarySubtype::Generic, bytes: UID_OF_NOBODY.to_vec() };
            document.insert("txnNumber", session.txn_number);
            document.insert("lsid", doc! { "id": Binary::from_uuid(session.lsid), "uid": uid });
        }
        if let Some(to) = to {
            document.insert("to", namespace(to));
        }
        document.insert("_id", doc! { "_data": &token });
        document.insert("operationType", kind);
        document.insert("clusterTime", Timestamp::from(self.ts()));
        if let Some(uuid) = self.uuid.filter(|_| spec.expanded && kind != "invalidate") {
            document.insert("collectionUUID", Binary::from_uuid(uuid));
        }
        document.insert("wallTime", DateTime::from_millis(self.entry.wall_millis));
        Event { document, token, invalidates: false }
    }

    /// What a command on a collection or a database is to the stream.
    fn add_command(&self, spec: &Spec, events: &mut Vec<Event>) -> Result<(), CommandError> {
        let Some(Ok((name, value))) = self.object.iter().next() else { return Ok(()) };
        let (name, db) = (name.as_str(), self.ns.split_once('.').map_or(self.ns, |(db, _)| db));
        let on = |value: RawBsonRef<'_>| format!("{db}.{}", value.as_str().unwrap_or_default());
        match name {
            "drop" if spec.scope.has(&on(value)) => {
                let target = on(value);
                let mut event = self.begin_command(spec, "drop", Document::new(), None);
                event.document.insert("ns", namespace(&target));
                events.push(event);
                if spec.scope.is_collection() {
                    events.push(self.invalidate(spec));
                }
            }
            "renameCollection" => {
                let from = value.as_str().unwrap_or_default();
                let to = self.object.get_str("to").unwrap_or_default();
                if !spec.scope.has(from) && !spec.scope.has(to) {
                    return Ok(());
                }
                let mut description = doc! { "to": namespace(to) };
                if let Ok(Some(RawBsonRef::Binary(dropped))) = self.object.get("dropTarget") {
                    let bytes = dropped.bytes.to_vec();
                    let target = Binary { subtype: BinarySubtype::Uuid, bytes };
                    description.insert("dropTarget", target);
                }
                let mut event = self.begin_command(spec, "rename", description.clone(), Some(to));
                event.document.insert("ns", namespace(from));
                if spec.expanded {
                    event.document.insert("operationDescription", description);
                }
                events.push(event);
                if spec.scope.is_collection() {
                    events.push(self.invalidate(spec));
                }
            }
            "dropDatabase" if spec.scope.has_database(db) => {
                let mut event = self.begin_command(spec, "dropDatabase", Document::new(), None);
                event.document.insert("ns", doc! { "db": db });
                events.push(event);
                if !spec.scope.is_cluster() {
                    events.push(self.invalidate(spec));
                }
            }
            "create" | "createIndexes" | "commitIndexBuild" | "dropIndexes" | "deleteIndexes"
            | "collMod"
                if spec.expanded && spec.scope.has(&on(value)) =>
            {
                let mut rest = decode(self.object)?;
                rest.remove(name);
                let (kind, description) = match name {
                    "create" => ("create", rest),
                    "createIndexes" => ("createIndexes", doc! { "indexes": [rest] }),
                    "commitIndexBuild" => {
                        let indexes = rest.remove("indexes").unwrap_or(Bson::Array(Vec::new()));
                        ("createIndexes", doc! { "indexes": indexes })
                    }
                    "collMod" => ("modify", rest),
                    _ => {
                        let spec = self.object2.map(decode).transpose()?.unwrap_or_default();
                        ("dropIndexes", doc! { "indexes": [spec] })
                    }
                };
                let target = on(value);
                let mut event = self.begin_command(spec, kind, description.clone(), None);
                event.document.insert("ns", namespace(&target));
                event.document.insert("operationDescription", description);
                if let Some(old) =
                    self.object2.filter(|_| kind == "modify").map(decode).transpose()?
                {
                    let options = old.get("collectionOptions_old").cloned();
                    let options = options.unwrap_or(Bson::Document(Document::new()));
                    event
                        .document
                        .insert("stateBeforeChange", doc! { "collectionOptions": options });
                }
                events.push(event);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_command(
        &self,
        spec: &Spec,
        kind: &str,
        description: Document,
        to: Option<&str>,
    ) -> Event {
        // Before 7.0 what has always been an event is known by its collection alone.
        let plain = matches!(kind, "drop" | "rename" | "dropDatabase") && spec.token_version < 2;
        let identifier = doc! { "operationType": kind, "operationDescription": description };
        self.begin(spec, kind, (!plain).then_some(&identifier), to)
    }

    fn invalidate(&self, spec: &Spec) -> Event {
        let identifier = (spec.token_version >= 2).then(|| doc! { "operationType": "invalidate" });
        let event = self.begin(spec, "invalidate", identifier.as_ref(), None);
        Event { invalidates: true, ..event }
    }
}

fn only_id(document: Document) -> Document {
    document.into_iter().filter(|(name, _)| name == "_id").collect()
}

/// `{db, coll}`.
fn namespace(ns: &str) -> Document {
    let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
    doc! { "db": db, "coll": collection }
}

/// `updateDescription` of a diff.
fn describe_update(diff: &Document, disambiguates: bool) -> Document {
    let mut described = Description::default();
    described.walk(diff, &mut Vec::new());
    let mut shown = doc! {
        "updatedFields": described.updated,
        "removedFields": described.removed,
        "truncatedArrays": described.truncated,
    };
    if disambiguates && !described.ambiguous.is_empty() {
        shown.insert("disambiguatedPaths", described.ambiguous);
    }
    shown
}

/// One step of a path into a document.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Index(i32),
}

#[derive(Default)]
struct Description {
    updated: Document,
    removed: Vec<Bson>,
    truncated: Vec<Bson>,
    /// Paths that do not tell by themselves what their parts are.
    ambiguous: Document,
}

impl Description {
    fn walk(&mut self, diff: &Document, path: &mut Vec<Step>) {
        let is_array = diff.get_bool("a").unwrap_or(false);
        for (name, value) in diff {
            match (name.as_str(), value) {
                ("a", Bson::Boolean(_)) if is_array => {}
                ("l", size) if is_array => {
                    let field = self.note(path);
                    let size = match size {
                        Bson::Int64(size) => i32::try_from(*size).unwrap_or(i32::MAX),
                        other => other.as_i32().unwrap_or_default(),
                    };
                    self.truncated.push(doc! { "field": field, "newSize": size }.into());
                }
                ("d", Bson::Document(fields)) if !is_array => {
                    for field in fields.keys() {
                        path.push(Step::Field(field.clone()));
                        let field = self.note(path);
                        self.removed.push(field.into());
                        path.pop();
                    }
                }
                ("u" | "i", Bson::Document(fields)) if !is_array => {
                    for (field, value) in fields {
                        path.push(Step::Field(field.clone()));
                        let field = self.note(path);
                        self.updated.insert(field, value.clone());
                        path.pop();
                    }
                }
                (name, value) => {
                    let Some(kind) = name.chars().next() else { continue };
                    let rest = &name[kind.len_utf8()..];
                    path.push(match rest.parse() {
                        Ok(index) if is_array => Step::Index(index),
                        _ => Step::Field(rest.to_owned()),
                    });
                    match (kind, value) {
                        ('s', Bson::Document(below)) => self.walk(below, path),
                        _ => {
                            let field = self.note(path);
                            self.updated.insert(field, value.clone());
                        }
                    }
                    path.pop();
                }
            }
        }
    }

    /// The path as text; one that is ambiguous is taken down.
    fn note(&mut self, path: &[Step]) -> String {
        let text: Vec<String> = path
            .iter()
            .map(|step| match step {
                Step::Field(name) => name.clone(),
                Step::Index(index) => index.to_string(),
            })
            .collect();
        let text = text.join(".");
        let ambiguous = path.iter().any(|step| match step {
            Step::Field(name) => {
                name.contains('.')
                    || (path.len() > 1
                        && !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_digit()))
            }
            Step::Index(_) => false,
        });
        if ambiguous {
            let steps: Vec<Bson> = path
                .iter()
                .map(|step| match step {
                    Step::Field(name) => name.as_str().into(),
                    Step::Index(index) => (*index).into(),
                })
                .collect();
            self.ambiguous.insert(&text, steps);
        }
        text
    }
}

impl Scope {
    /// Whether the stream watches this collection.
    pub(super) fn has(&self, ns: &str) -> bool {
        let Some((db, collection)) = ns.split_once('.') else { return false };
        match self {
            Scope::Collection(own) => **own == *ns,
            Scope::Database(own) => **own == *db && !collection.starts_with("system."),
            Scope::Cluster => {
                !matches!(db, "admin" | "config" | "local") && !collection.starts_with("system.")
            }
        }
    }

    fn has_database(&self, db: &str) -> bool {
        match self {
            Scope::Collection(own) => own.split_once('.').is_some_and(|(own, _)| own == db),
            Scope::Database(own) => **own == *db,
            Scope::Cluster => !matches!(db, "admin" | "config" | "local"),
        }
    }

    fn is_collection(&self) -> bool {
        matches!(self, Scope::Collection(_))
    }

    fn is_cluster(&self) -> bool {
        matches!(self, Scope::Cluster)
    }
}

/// The position of the first entry of a set's life: before it nothing can be missing.
pub(super) fn is_first_ever(entry: &Arc<OplogEntry>) -> bool {
    entry.kind == OpKind::Noop
        && entry.object.get_str("msg").is_ok_and(|msg| msg == "initiating set")
}
