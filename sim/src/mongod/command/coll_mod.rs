//! `collMod`: what may change about a collection, an index or a view.

use bson::raw::cstr;
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    array, document, each_argument, each_field, namespace, safe_boolean, safe_i64, string,
};
use super::catalog::{append, append_all, command_entry, log, split};
use super::context::parse_context;
use super::create::{ACTIONS, LEVELS, check_view, one_of};
use super::views::{view_of, views_namespace};
use super::{Operation, OplogDraft, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::oplog_entry::OpKind;
use crate::mongod::query::Matcher;
use crate::mongod::query::value::{DocumentRef, ValueRef};
use crate::mongod::storage::CollectionView;

fn invalid<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::INVALID_OPTIONS, message))
}

/// `index`.
#[derive(Default)]
struct IndexChange<'a> {
    name: Option<&'a str>,
    key: Option<&'a RawDocument>,
    expire_after_seconds: Option<i64>,
    hidden: Option<bool>,
    unique: Option<bool>,
    prepare_unique: Option<bool>,
}

pub(super) fn coll_mod(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut changes = RawDocumentBuf::new();
    let (mut index, mut view_on, mut pipeline) = (None, None, None);
    let (mut capped, mut expire) = (None, None);
    each_argument("collMod", &op.body, |field, value| {
        let full = format!("collMod.{field}");
        match field {
            "validator" | "changeStreamPreAndPostImages" => {
                document(&full, value)?;
                append(&mut changes, field, value);
            }
            "validationLevel" => {
                one_of(&full, value, LEVELS)?;
                append(&mut changes, field, value);
            }
            "validationAction" => {
                one_of(&full, value, ACTIONS)?;
                append(&mut changes, field, value);
            }
            "index" => index = Some(IndexChange::read(document(&full, value)?)?),
            "viewOn" => view_on = Some(string(&full, value)?),
            "pipeline" => pipeline = Some(array(&full, value)?),
            "cappedSize" => capped = Some(("size", safe_i64(&full, value)?)),
            "cappedMax" => capped = Some(("max", safe_i64(&full, value)?)),
            "expireAfterSeconds" => expire = Some(value),
            "dryRun" => {
                safe_boolean(&full, value)?;
            }
            "timeseries" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if let Ok(validator) = op.body.get_document("validator") {
        Matcher::parse(validator, &parse_context(server, now, op)?)?;
    }
    let Some(view) = server.storage.collection(&namespace, ReadAt::Newest) else {
        return modify_view(server, now, op, &namespace, view_on, pipeline);
    };
    if pipeline.is_some() || view_on.is_some() {
        let which = if pipeline.is_some() { "pipeline" } else { "viewOn" };
        return invalid(format!("option only supported on a view: {which}"));
    }
    if let Some((field, size)) = capped {
        if !view.is_capped() {
            return invalid("Collection must be capped.");
        }
        append(&mut changes, field, RawBsonRef::Int64(size));
    }
    if let Some(expire) = expire {
        if view.options().get("clusteredIndex").is_ok_and(|clustered| clustered.is_none()) {
            return invalid(
                "'expireAfterSeconds' option is only supported on collections clustered by _id",
            );
        }
        append(&mut changes, "expireAfterSeconds", expire);
    }
    let mut reply = RawDocumentBuf::new();
    let mut index_change = None;
    if let Some(index) = &index {
        index_change = index.check(&view, &mut reply)?;
    }
    let uuid = view.uuid();
    let (db, collection) = split(&namespace);
    let mut old = rawdoc! { "uuid": Binary::from_uuid(uuid) };
    append_all(&mut old, view.options());
    let object2 = rawdoc! { "collectionOptions_old": old };
    let mut object = rawdoc! { "collMod": collection };
    append_all(&mut object, &changes);
    if let Some(change) = index_change {
        object.append(cstr!("index"), change);
    }
    log(server, now, op, command_entry(db, Some(uuid), object, Some(object2)))?;
    Ok(Outcome::Reply(reply))
}

impl<'a> IndexChange<'a> {
    fn read(spec: &'a RawDocument) -> Result<Self, CommandError> {
        let mut change = IndexChange::default();
        each_field("collMod.index", spec, |field, value| {
            let full = format!("collMod.index.{field}");
            match field {
                "name" => change.name = Some(string(&full, value)?),
                "keyPattern" => change.key = Some(document(&full, value)?),
                "expireAfterSeconds" => change.expire_after_seconds = Some(safe_i64(&full, value)?),
                "hidden" => change.hidden = Some(safe_boolean(&full, value)?),
                "unique" => change.unique = Some(safe_boolean(&full, value)?),
                "prepareUnique" => change.prepare_unique = Some(safe_boolean(&full, value)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(change)
    }

    /// What is to change, for the entry; the reply is told what was and what is.
    fn check(
        &self,
        view: &CollectionView<'_>,
        reply: &mut RawDocumentBuf,
    ) -> Result<Option<RawDocumentBuf>, CommandError> {
        if self.name.is_none() && self.key.is_none() {
            return invalid("Must specify either index name or key pattern.");
        }
        if self.name.is_some() && self.key.is_some() {
            return invalid("Cannot specify both key pattern and name.");
        }
        if self.expire_after_seconds.is_none()
            && self.hidden.is_none()
            && self.unique.is_none()
            && self.prepare_unique.is_none()
        {
            return invalid("no expireAfterSeconds, hidden, unique, or prepareUnique field");
        }
        let found = view.indexes().map(|(spec, _)| spec).find(|spec| match (self.name, self.key) {
            (Some(name), _) => &*spec.name == name,
            (None, Some(key)) => spec.key_pattern().as_bytes() == key.as_bytes(),
            (None, None) => false,
        });
        let Some(spec) = found else {
            let what = match (self.name, self.key) {
                (Some(name), _) => name.to_owned(),
                (None, key) => key.map_or_else(String::new, |key| {
                    crate::mongod::storage::text::shell_document(key)
                }),
            };
            return Err(CommandError::new(
                error::INDEX_NOT_FOUND,
                format!("cannot find index {what} for ns {}", view.namespace()),
            ));
        };
        if self.hidden == Some(true) && spec.is_id() {
            return Err(CommandError::new(error::BAD_VALUE, "can't hide _id index"));
        }
        let known = DocumentRef::from(&*spec.document);
        let flag = |field: &str| known.get(field).is_some_and(ValueRef::is_truthy);
        let mut change = rawdoc! { "name": &*spec.name };
        let mut changed = false;
        if let Some(seconds) = self.expire_after_seconds {
            if let Ok(Some(old)) = spec.document.get("expireAfterSeconds") {
                append_seconds(reply, "expireAfterSeconds_old", safe_i64("", old)?);
            }
            append_seconds(reply, "expireAfterSeconds_new", seconds);
            match i32::try_from(seconds) {
                Ok(seconds) => change.append(cstr!("expireAfterSeconds"), seconds),
                Err(_) => change.append(cstr!("expireAfterSeconds"), seconds),
            }
            changed = true;
        }
        for (field, wanted) in [("hidden", self.hidden), ("prepareUnique", self.prepare_unique)] {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != flag(field)) {
                append(reply, &format!("{field}_old"), RawBsonRef::Boolean(!wanted));
                append(reply, &format!("{field}_new"), RawBsonRef::Boolean(wanted));
                append(&mut change, field, RawBsonRef::Boolean(wanted));
                changed = true;
            }
        }
        if self.unique == Some(true) && !spec.unique {
            if !flag("prepareUnique") {
                return invalid(
                    "Cannot make index unique with 'prepareUnique=false'. Run collMod to set it first.",
                );
            }
            check_convertible(view, &spec.name)?;
            reply.append(cstr!("unique_new"), true);
            change.append(cstr!("unique"), true);
            changed = true;
        }
        Ok(changed.then_some(change))
    }
}

/// Whether no two documents have the same key in an index.
///
/// # Errors
/// 359 CannotConvertIndexToUnique.
fn check_convertible(view: &CollectionView<'_>, index: &str) -> Result<(), CommandError> {
    let groups = view.duplicates(index);
    if groups.is_empty() {
        return Ok(());
    }
    let mut violations = bson::RawArrayBuf::new();
    for group in groups {
        let mut ids = bson::RawArrayBuf::new();
        for document in group {
            let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
            ids.push(id);
        }
        violations.push(rawdoc! { "ids": ids });
    }
    Err(CommandError::new(
        error::CANNOT_CONVERT_INDEX_TO_UNIQUE,
        "Cannot convert the index to unique. Please resolve conflicting documents before running \
         collMod again.",
    )
    .with_extra(rawdoc! { "violations": violations }))
}

fn append_seconds(to: &mut RawDocumentBuf, field: &str, seconds: i64) {
    append(to, field, RawBsonRef::Int64(seconds));
}

/// `viewOn` and `pipeline`.
fn modify_view(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    view_on: Option<&str>,
    pipeline: Option<&bson::RawArray>,
) -> Result<Outcome, CommandError> {
    let Some(view) = view_of(&server.storage, namespace, ReadAt::Newest) else {
        return Err(CommandError::new(error::NAMESPACE_NOT_FOUND, "ns does not exist"));
    };
    let own: bson::RawArrayBuf =
        view.pipeline.into_iter().filter_map(|stage| bson::RawBson::try_from(stage).ok()).collect();
    let view_on = view_on.unwrap_or_else(|| split(&view.on).1);
    let pipeline = pipeline.unwrap_or(&own);
    check_view(server, now, op, namespace, view_on, pipeline)?;
    let views = views_namespace(namespace);
    let uuid = server.storage.collection(&views, ReadAt::Newest).map(|views| views.uuid());
    let mut object = rawdoc! { "_id": namespace, "viewOn": view_on };
    object.append(cstr!("pipeline"), pipeline.to_owned());
    let draft = OplogDraft {
        kind: OpKind::Update,
        ns: views.into(),
        collection_uuid: uuid,
        object: object.into(),
        object2: Some(rawdoc! { "_id": namespace }.into()),
        upsert: false,
        session: None,
    };
    log(server, now, op, draft)?;
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}
