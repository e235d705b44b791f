//! Change streams: `$changeStream`, and what its cursors give.
//!
//! A stream reads the oplog up to the commit point, so that no event is ever taken back, and turns
//! entries into events. It remembers how far it is by a token; a stream opened with that token goes on
//! there, on whatever member.

use std::collections::VecDeque;
use std::sync::Arc;

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use stepdown_driver::Instant;

use super::Operation;
use super::arguments::{each_field, type_name, wrong_type};
use super::context::parse_context_with;
use super::cursor::{Batch, Cursor, Source};
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;
use crate::mongod::query::text::element_text;
use crate::mongod::query::value::{ValueRef, to_raw};
use crate::mongod::query::{Pipeline, PipelineContext};
use crate::mongod::storage::text::shell_document;
use crate::mongod::{Mongod, ServerVersion};

mod event;
mod token;

use event::{Event, events_of, is_first_ever};
use token::high_water_mark;

/// The stages that may follow `$changeStream`.
const ALLOWED: [&str; 9] = [
    "$addFields",
    "$changeStreamSplitLargeEvent",
    "$match",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$set",
    "$unset",
];

/// The stages there are beside, and what they are made of.
const REFUSED: [(&str, &str); 24] = [
    ("$bucket", "$group"),
    ("$bucketAuto", "$bucketAuto"),
    ("$collStats", "$collStats"),
    ("$count", "$group"),
    ("$currentOp", "$currentOp"),
    ("$densify", "$densify"),
    ("$facet", "$facet"),
    ("$fill", "$fill"),
    ("$geoNear", "$geoNear"),
    ("$graphLookup", "$graphLookup"),
    ("$group", "$group"),
    ("$indexStats", "$indexStats"),
    ("$limit", "$limit"),
    ("$listLocalSessions", "$listLocalSessions"),
    ("$lookup", "$lookup"),
    ("$merge", "$merge"),
    ("$out", "$out"),
    ("$sample", "$sample"),
    ("$setWindowFields", "$setWindowFields"),
    ("$skip", "$skip"),
    ("$sort", "$sort"),
    ("$sortByCount", "$group"),
    ("$unionWith", "$unionWith"),
    ("$unwind", "$unwind"),
];

/// What a stream watches.
#[derive(Clone, Debug)]
enum Scope {
    Collection(String),
    Database(String),
    Cluster,
}

/// `fullDocument`, `fullDocumentBeforeChange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FullDocument {
    /// `default`, `off`.
    Default,
    UpdateLookup,
    WhenAvailable,
    Required,
}

/// The arguments of `$changeStream`.
#[derive(Debug)]
struct Spec {
    scope: Scope,
    full_document: FullDocument,
    before_change: FullDocument,
    /// `showExpandedEvents`.
    expanded: bool,
    /// Events tell what ambiguous paths mean: with `showExpandedEvents`, since 6.1.
    disambiguates: bool,
    token_version: i64,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct ChangeStream {
    spec: Spec,
    pipeline: Pipeline,
    /// Everything up to here was looked at.
    read_to: Ts,
    /// The token it was opened with: what does not come after it was seen before.
    after: Option<Resume>,
    /// Events that did not fit into a batch.
    waiting: VecDeque<Waiting>,
    /// `postBatchResumeToken`.
    resume_token: String,
    invalidated: bool,
}

#[derive(Debug)]
struct Waiting {
    /// What the pipeline made of it; nothing if it was filtered out.
    document: Option<Arc<RawDocumentBuf>>,
    token: String,
    invalidates: bool,
}

#[derive(Debug)]
struct Resume {
    token: String,
    /// It is an event's, which has to be there.
    find: bool,
}

/// Opens a stream, if the first stage asks for one.
///
/// # Errors
/// What is wrong with the stage, with those behind it, or with the place.
pub(crate) fn open(
    server: &Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    whole_database: bool,
    stages: &[RawBsonRef<'_>],
) -> Result<Option<Cursor>, CommandError> {
    let named = |stage: &RawBsonRef<'_>| -> Option<String> {
        let (name, _) = stage.as_document()?.iter().next()?.ok()?;
        Some(name.as_str().to_owned())
    };
    let is_watch =
        |stage: &RawBsonRef<'_>| named(stage).is_some_and(|name| name == "$changeStream");
    let Some(first) = stages.first().filter(|stage| is_watch(stage)) else {
        if stages.iter().any(is_watch) {
            let name = match server.options.version {
                ServerVersion::V6_0 => "$_internalChangeStreamOplogMatch",
                _ => "$changeStream",
            };
            return Err(CommandError::new(
                40_602,
                format!("{name} is only valid as the first stage in a pipeline"),
            ));
        }
        return Ok(None);
    };
    if server.repl.set_name.is_none() {
        return Err(CommandError::new(
            40_573,
            "The $changeStream stage is only supported on replica sets",
        ));
    }
    let given = first.as_document().and_then(|stage| stage.get("$changeStream").ok().flatten());
    let arguments = match given {
        Some(RawBsonRef::Document(arguments)) => arguments,
        other => {
            let value = ValueRef::from(other.unwrap_or(RawBsonRef::Null));
            let element = element_text("$changeStream", value);
            return Err(CommandError::new(
                6_188_500,
                format!("$changeStream must take a nested object but found: {element}"),
            ));
        }
    };
    let read = Arguments::read(arguments)?;
    let scope = scope_of(op, namespace, whole_database, read.all_changes)?;
    check_read_concern(op)?;
    let mut own: Vec<&RawBsonRef<'_>> = Vec::new();
    for stage in &stages[1..] {
        let name = named(stage).unwrap_or_default();
        let splits = name == "$changeStreamSplitLargeEvent";
        let since_7 = server.options.version >= ServerVersion::V7_0;
        if !ALLOWED.contains(&name.as_str()) {
            let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
            if let Some((_, made_of)) = refused {
                return Err(CommandError::new(
                    error::ILLEGAL_OPERATION,
                    format!("{made_of} is not permitted in a $changeStream pipeline"),
                ));
            }
        }
        // No event is larger than a message may be: nothing has to be split.
        if !splits || !since_7 {
            own.push(stage);
        }
    }
    let context = parse_context_with(server, now, op)?;
    let pipeline = Pipeline::parse(own.into_iter().map(|stage| ValueRef::from(*stage)), &context)?;
    let token_version = if server.options.version >= ServerVersion::V7_0 { 2 } else { 1 };
    let spec = Spec {
        scope,
        full_document: read.full_document,
        before_change: read.before_change,
        expanded: read.expanded,
        disambiguates: read.expanded && server.options.version > ServerVersion::V6_0,
        token_version,
    };
    let stream = read.start(server, spec, pipeline)?;
    Ok(Some(Cursor {
        namespace: namespace.to_owned(),
        source: Source::Changes(Box::new(stream)),
        read_concern: super::operation::ReadConcern {
            level: super::operation::ReadConcernLevel::Majority,
            ..Default::default()
        },
        at_cluster_time: None,
        lsid: op.session.map(|session| session.lsid),
        transaction: None,
        tailable: false,
        await_data: true,
        no_timeout: false,
        used: now,
    }))
}

/// The stage's arguments as they were given.
struct Arguments {
    full_document: FullDocument,
    before_change: FullDocument,
    expanded: bool,
    all_changes: bool,
    resume_after: Option<token::Parsed>,
    start_after: Option<token::Parsed>,
    start_at: Option<Ts>,
}

impl Arguments {
    fn read(given: &RawDocument) -> Result<Self, CommandError> {
        let mut found = Arguments {
            full_document: FullDocument::Default,
            before_change: FullDocument::Default,
            expanded: false,
            all_changes: false,
            resume_after: None,
            start_after: None,
            start_at: None,
        };
        each_field("$changeStream", given, |field, value| {
            match field {
                "fullDocument" => found.full_document = image(field, "default", value)?,
                "fullDocumentBeforeChange" => found.before_change = image(field, "off", value)?,
                "resumeAfter" => found.resume_after = Some(resume_token(field, value)?),
                "startAfter" => found.start_after = Some(resume_token(field, value)?),
                "startAtOperationTime" => {
                    let RawBsonRef::Timestamp(ts) = value else {
                        let field = format!("$changeStream.{field}");
                        return Err(wrong_type(&field, value, "'timestamp'"));
                    };
                    found.start_at = Some(ts.into());
                }
                "showExpandedEvents" => found.expanded = flag(field, value)?,
                "allChangesForCluster" => found.all_changes = flag(field, value)?,
                "showMigrationEvents" | "showSystemEvents" | "showRawUpdateDescription" => {
                    flag(field, value)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let tokens =
            usize::from(found.resume_after.is_some()) + usize::from(found.start_after.is_some());
        if tokens == 2 {
            return Err(CommandError::new(
                50_865,
                "Do not specify both 'resumeAfter' and 'startAfter' in a $changeStream stage",
            ));
        }
        if tokens == 1 && found.start_at.is_some() {
            return Err(CommandError::new(
                40_674,
                "Only one type of resume option is allowed, but multiple were found",
            ));
        }
        if found.resume_after.as_ref().is_some_and(|token| token.invalidate) {
            return Err(CommandError::new(
                error::INVALID_RESUME_TOKEN,
                "Attempting to resume a change stream using 'resumeAfter' is not allowed from an \
                 invalidate notification",
            ));
        }
        Ok(found)
    }

    /// Where the stream begins.
    fn start(
        self,
        server: &Mongod,
        spec: Spec,
        pipeline: Pipeline,
    ) -> Result<ChangeStream, CommandError> {
        let token = self.resume_after.or(self.start_after);
        // Without a wish it begins behind everything there is.
        let newest = Ts(server.repl.applied.optime.ts.0 + 1);
        let begins = token.as_ref().map(|token| token.ts).or(self.start_at).unwrap_or(newest);
        let resume_token = match &token {
            Some(token) => token.text.clone(),
            None => high_water_mark(begins, spec.token_version),
        };
        Ok(ChangeStream {
            spec,
            pipeline,
            read_to: Ts(begins.0.saturating_sub(1)),
            after: token.map(|token| Resume { token: token.text, find: token.is_event }),
            waiting: VecDeque::new(),
            resume_token,
            invalidated: false,
        })
    }
}

fn flag(field: &str, value: RawBsonRef<'_>) -> Result<bool, CommandError> {
    value.as_bool().ok_or_else(|| {
        CommandError::new(
            error::TYPE_MISMATCH,
            format!("Field '{field}' should be a boolean value, but found: {}", type_name(value)),
        )
    })
}

fn image(field: &str, none: &str, value: RawBsonRef<'_>) -> Result<FullDocument, CommandError> {
    let full = format!("$changeStream.{field}");
    let RawBsonRef::String(name) = value else {
        return Err(wrong_type(&full, value, "'string'"));
    };
    match name {
        "updateLookup" if none == "default" => Ok(FullDocument::UpdateLookup),
        "whenAvailable" => Ok(FullDocument::WhenAvailable),
        "required" => Ok(FullDocument::Required),
        name if name == none => Ok(FullDocument::Default),
        other => Err(CommandError::new(
            error::BAD_VALUE,
            format!("Enumeration value '{other}' for field '{full}' is not a valid value."),
        )),
    }
}

fn resume_token(field: &str, value: RawBsonRef<'_>) -> Result<token::Parsed, CommandError> {
    let RawBsonRef::Document(given) = value else {
        return Err(wrong_type(&format!("$changeStream.{field}"), value, "'object'"));
    };
    match given.get_str("_data") {
        Ok(text) => token::parse(text),
        Err(_) => Err(CommandError::new(
            40_647,
            format!(
                "Bad resume token: _data of missing or of wrong type. Expected string, got {}",
                shell_document(given).replace("{ ", "{").replace(" }", "}")
            ),
        )),
    }
}

fn scope_of(
    op: &Operation,
    namespace: &str,
    whole_database: bool,
    all_changes: bool,
) -> Result<Scope, CommandError> {
    if all_changes {
        if op.db == "admin" && whole_database {
            return Ok(Scope::Cluster);
        }
        return Err(CommandError::new(
            error::INVALID_OPTIONS,
            format!(
                "A $changeStream with 'allChangesForCluster:true' may only be opened on the 'admin' \
                 database, and with no collection name; found {namespace}"
            ),
        ));
    }
    let internal = |what: String| {
        Err(CommandError::new(
            error::INVALID_NAMESPACE,
            format!("$changeStream may not be opened on the internal {what}"),
        ))
    };
    if matches!(op.db.as_str(), "admin" | "config" | "local") {
        return internal(format!("{} database", op.db));
    }
    if whole_database {
        return Ok(Scope::Database(op.db.clone()));
    }
    if namespace.split_once('.').is_some_and(|(_, name)| name.starts_with("system.")) {
        return internal(format!("{namespace} collection"));
    }
    Ok(Scope::Collection(namespace.to_owned()))
}

fn check_read_concern(op: &Operation) -> Result<(), CommandError> {
    let given = op.body.get_document("readConcern").ok();
    let level = given.and_then(|given| given.get_str("level").ok());
    match level {
        None | Some("majority") => Ok(()),
        Some(level) => Err(CommandError::new(
            error::INVALID_OPTIONS,
            format!(
                "Command aggregate does not support {{ readConcern: {{ level: \"{level}\", \
                 provenance: \"clientSupplied\" }} }} :: caused by :: Aggregation stage \
                 $changeStream cannot run with a readConcern other than 'majority'. Current \
                 readConcern: {level}"
            ),
        )),
    }
}

impl ChangeStream {
    /// `postBatchResumeToken`, and whether the stream is over.
    pub(crate) fn resume_point(&self) -> (RawDocumentBuf, bool) {
        (to_raw(&doc! { "_data": &self.resume_token }), self.invalidated)
    }

    /// Fills a batch with what a majority has; true if nothing can come any more.
    ///
    /// # Errors
    /// 286 ChangeStreamHistoryLost, 280 ChangeStreamFatalError, and what the pipeline fails with.
    pub(crate) fn fill(
        &mut self,
        server: &Mongod,
        batch: &mut Batch,
    ) -> Result<bool, CommandError> {
        if batch.is_full() {
            return Ok(false);
        }
        self.check_history(server)?;
        let committed = server.repl.commit.optime.ts;
        loop {
            while let Some(next) = self.waiting.front() {
                if let Some(document) = &next.document
                    && (batch.is_full() || !batch.push(document))
                {
                    return Ok(false);
                }
                let next = self.waiting.pop_front().expect("looked at just now");
                self.resume_token = next.token;
                if next.invalidates {
                    self.invalidated = true;
                    return Ok(true);
                }
            }
            if batch.is_full() {
                return Ok(false);
            }
            let entry = server.storage.oplog().iter_after(self.read_to).next();
            let Some(entry) = entry.filter(|entry| entry.optime.ts <= committed) else { break };
            self.read_to = entry.optime.ts;
            for event in events_of(server, &self.spec, entry)? {
                if self.is_new(&event)? {
                    let waiting = self.through_pipeline(event)?;
                    self.waiting.push_back(waiting);
                }
            }
        }
        if let Some(resume) = self.after.as_ref().filter(|resume| resume.find)
            && resume.token < high_water_mark(self.read_to, self.spec.token_version)
        {
            return Err(token_not_found(&resume.token));
        }
        // All was looked at: whoever comes back need not look again.
        let seen = high_water_mark(self.read_to, self.spec.token_version);
        if self.resume_token < seen {
            self.resume_token = seen;
        }
        Ok(false)
    }

    /// The oplog must reach back to where the stream is.
    fn check_history(&self, server: &Mongod) -> Result<(), CommandError> {
        let Some(oldest) = server.storage.oplog().oldest() else { return Ok(()) };
        if self.read_to.0 + 1 >= oldest.optime.ts.0 || is_first_ever(oldest) {
            return Ok(());
        }
        Err(CommandError::new(
            error::CHANGE_STREAM_HISTORY_LOST,
            "Resume of change stream was not possible, as the resume point may no longer be in the \
             oplog.",
        ))
    }

    /// Whether an event comes behind the token the stream was opened with.
    fn is_new(&mut self, event: &Event) -> Result<bool, CommandError> {
        let Some(resume) = &mut self.after else { return Ok(true) };
        if event.token < resume.token {
            return Ok(false);
        }
        if event.token == resume.token {
            self.after = None;
            return Ok(false);
        }
        if resume.find {
            return Err(token_not_found(&resume.token));
        }
        self.after = None;
        Ok(true)
    }

    fn through_pipeline(&self, event: Event) -> Result<Waiting, CommandError> {
        let Event { document, token, invalidates } = event;
        let made = self.pipeline.run(vec![document], &mut Nothing)?;
        let document = match made.into_iter().next() {
            None => None,
            Some(document) => {
                check_token(&document, &token)?;
                Some(Arc::new(to_raw(&document)))
            }
        };
        Ok(Waiting { document, token, invalidates })
    }
}

/// The event must keep the token it is resumed by.
fn check_token(document: &Document, token: &str) -> Result<(), CommandError> {
    let expected = Bson::Document(doc! { "_data": token });
    if document.get("_id") == Some(&expected) {
        return Ok(());
    }
    let mut found = Document::new();
    if let Some(id) = document.get("_id") {
        found.insert("_id", id.clone());
    }
    Err(CommandError::new(
        error::CHANGE_STREAM_FATAL_ERROR,
        format!(
            "Encountered an event whose _id field, which contains the resume token, was modified by \
             the pipeline. Modifying the _id field of an event makes it impossible to resume the \
             stream from that point. Only transformations that retain the unmodified _id field are \
             allowed. Expected: {} but found: {}",
            shell_document(&to_raw(&doc! { "_id": expected })),
            shell_document(&to_raw(&found))
        ),
    ))
}

fn token_not_found(token: &str) -> CommandError {
    CommandError::new(
        error::CHANGE_STREAM_FATAL_ERROR,
        format!("cannot resume stream; the resume token was not found. {{_data: \"{token}\"}}"),
    )
}

/// The stages that may follow ask nothing of the server.
struct Nothing;

impl PipelineContext for Nothing {
    fn collection(&mut self, _name: &str) -> Result<Vec<Document>, CommandError> {
        Ok(Vec::new())
    }

    fn random_below(&mut self, _bound: u64) -> u64 {
        0
    }
}

/// Whether an `aggregate` opens a stream: what its errors are labelled by.
pub(crate) fn is_opened_by(op: &Operation) -> bool {
    let Ok(pipeline) = op.body.get_array("pipeline") else { return false };
    let first = pipeline.into_iter().next().and_then(Result::ok);
    let stage = first.and_then(RawBsonRef::as_document);
    op.name == "aggregate"
        && stage.is_some_and(|stage| stage.get("$changeStream").is_ok_and(|it| it.is_some()))
}
