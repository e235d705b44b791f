//! `aggregate`.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{DateTime, Document, RawArray, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    document, each_argument, each_field, first_value, malformed, missing_field, namespace,
    non_negative, safe_boolean,
};
use super::change_stream::open;
use super::context::parse_context_with;
use super::cursor::{self, Cursor, DEFAULT_BATCH_SIZE, Source, first_reply};
use super::explain::Verbosity;
use super::operations::Shown;
use super::plan::{Examined, Query, plan};
use super::read::{Shown as ShownQuery, check_hint, computed_documents, match_documents};
use super::scan::{Found, decode, find_matching};
use super::spec::{CommandSpec, Gate};
use super::statistics::storage_stats;
use super::views::{Resolved, resolve};
use super::{Operation, Outcome, ReadAt, aggregate_output};
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::aggregate::Place;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::value::{ValueRef, to_raw};
use crate::mongod::query::{Matcher, Pipeline, PipelineContext};
use crate::mongod::session::Sessions;
use crate::mongod::storage::Storage;
use crate::mongod::{Mongod, ServerVersion};
use crate::random::RandomStream;

pub(crate) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    names: &["aggregate"],
    gate: Gate::Read,
    // For `$out` and `$merge`; where nothing is written nothing is waited for.
    accepts_write_concern: true,
    retryable_write: false,
    admin_only: false,
    run,
}];

/// The arguments.
#[derive(Default)]
struct Arguments<'a> {
    pipeline: Option<&'a RawArray>,
    batch_size: Option<u64>,
    has_cursor: bool,
    hint: Option<RawBsonRef<'a>>,
    explain: bool,
}

impl<'a> Arguments<'a> {
    fn read(body: &'a RawDocument) -> Result<Self, CommandError> {
        let mut found = Arguments::default();
        each_argument("aggregate", body, |field, value| {
            let full = format!("aggregate.{field}");
            match field {
                "pipeline" => {
                    found.pipeline = Some(value.as_array().ok_or_else(|| {
                        CommandError::new(
                            error::TYPE_MISMATCH,
                            "'pipeline' option must be specified as an array",
                        )
                    })?);
                }
                "cursor" => {
                    found.has_cursor = true;
                    let cursor = value.as_document().ok_or_else(|| {
                        CommandError::new(
                            error::TYPE_MISMATCH,
                            "cursor field must be missing or an object",
                        )
                    })?;
                    each_field("cursor", cursor, |field, value| {
                        if field == "batchSize" {
                            found.batch_size = Some(non_negative("cursor", "batchSize", value)?);
                        }
                        Ok(field == "batchSize")
                    })?;
                }
                "explain" => found.explain = safe_boolean(&full, value)?,
                "allowDiskUse" | "bypassDocumentValidation" | "fromMongos" | "needsMerge" => {
                    safe_boolean(&full, value)?;
                }
                "collation" | "let" => {
                    document(&full, value)?;
                }
                "hint" => found.hint = Some(value),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !found.has_cursor && !found.explain {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "The 'cursor' option is required, except for aggregate with the explain argument",
            ));
        }
        Ok(found)
    }
}

fn run(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let whole_database = match first_value(&op.body)? {
        RawBsonRef::String(_) => false,
        value
            if ValueRef::from(value).is_number()
                && crate::mongod::query::number::as_exact_i64(value.into()) == Some(1) =>
        {
            true
        }
        _ => {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "Invalid command format: the 'aggregate' field must specify a collection name or 1",
            ));
        }
    };
    let namespace = match whole_database {
        true => format!("{}.$cmd.aggregate", op.db),
        false => namespace(op)?,
    };
    let arguments = Arguments::read(&op.body)?;
    let pipeline = arguments.pipeline.ok_or_else(|| missing_field("aggregate.pipeline"))?;
    if arguments.explain {
        return super::explain::explain(server, now, op, Verbosity::Planner);
    }
    let mut stages = Vec::new();
    for stage in pipeline {
        stages.push(stage.map_err(malformed)?);
    }
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let context = parse_context_with(server, now, op)?;
    if let Some(stream) = open(server, now, op, &namespace, whole_database, &stages)? {
        let batch_size = arguments.batch_size.unwrap_or(DEFAULT_BATCH_SIZE);
        return first_reply(server, now, stream, ReadAt::Newest, batch_size, false)
            .map_err(in_executor);
    }
    // Stages that ask the server itself rather than its documents.
    let statistics = match stages.first().and_then(|stage| stage.as_document()) {
        Some(stage) => statistics(server, now, op, &namespace, whole_database, at, stage)?,
        None => None,
    };
    let own = stages.iter().skip(usize::from(statistics.is_some()));
    let parsed = Pipeline::parse(own.map(|stage| ValueRef::from(*stage)), &context)?;
    if whole_database && !parsed.brings_documents() && statistics.is_none() {
        let name = stages
            .first()
            .and_then(|stage| stage.as_document())
            .and_then(|stage| Some(stage.iter_elements().next()?.ok()?.key().as_str().to_owned()));
        return Err(CommandError::new(
            error::INVALID_NAMESPACE,
            match name {
                Some(name) => {
                    format!("{{aggregate: 1}} is not valid for '{name}'; a collection is required.")
                }
                None => "{aggregate: 1} is not valid for an empty pipeline.".to_owned(),
            },
        ));
    }
    if !whole_database && parsed.brings_documents() {
        return Err(CommandError::new(
            error::INVALID_NAMESPACE,
            "'$documents' can only be run with {aggregate: 1}",
        ));
    }
    if parsed.output().is_some() {
        aggregate_output::check(server, op, &parsed)?;
    }
    context.constant_failure.check("Failed to optimize pipeline :: caused by :: ")?;
    let Mongod { storage, sessions, random, .. } = server;
    if let Some(view) = storage.collection(&namespace, at) {
        let everything = Matcher::parse(&Document::new(), &context)?;
        let matcher = parsed.leading_match().unwrap_or(&everything);
        check_hint(&view, arguments.hint, ShownQuery::of(matcher))?;
    }
    let mut world = World { storage, sessions, random, db: &op.db, at, context: &context };
    let results = match statistics {
        Some(documents) => parsed.run(documents, &mut world),
        None if parsed.brings_documents() => parsed.run(Vec::new(), &mut world),
        None => world.run(&namespace, &parsed),
    };
    let mut results = results.map_err(in_executor)?;
    if let Some(output) = parsed.output() {
        aggregate_output::write(server, now, op, output, &results, &context)?;
        results.clear();
    }
    let cursor = Cursor {
        namespace,
        source: Source::Ready {
            documents: results.iter().map(|document| Arc::new(to_raw(document))).collect(),
            limited: false,
        },
        read_concern: op.read_concern,
        at_cluster_time: cursor::at_cluster_time(op, at),
        lsid: op.session.map(|session| session.lsid),
        transaction: op.transaction(),
        tailable: false,
        await_data: false,
        no_timeout: false,
        used: now,
    };
    let batch_size = arguments.batch_size.unwrap_or(DEFAULT_BATCH_SIZE);
    first_reply(server, now, cursor, at, batch_size, false)
}

/// How the server words errors that come up while a pipeline runs.
pub(super) fn in_executor(error: CommandError) -> CommandError {
    CommandError {
        message: format!("PlanExecutor error during aggregation :: caused by :: {}", error.message),
        ..error
    }
}

/// The documents of a view, if the namespace is one.
///
/// # Errors
/// 165 ViewDepthLimitExceeded, and what its stages fail with.
pub(crate) fn view_documents(
    server: &mut Mongod,
    op: &Operation,
    namespace: &str,
    at: ReadAt,
    context: &ParseContext,
) -> Result<Option<Vec<Arc<RawDocumentBuf>>>, CommandError> {
    let Some(resolved) = resolve(&server.storage, namespace, at)? else { return Ok(None) };
    let Mongod { storage, sessions, random, .. } = server;
    let mut world = World { storage, sessions, random, db: &op.db, at, context };
    let documents = world.run_view(&resolved)?;
    Ok(Some(documents.iter().map(|document| Arc::new(to_raw(document))).collect()))
}

/// What a running pipeline asks of the server.
struct World<'a> {
    storage: &'a Storage,
    sessions: &'a Sessions,
    random: &'a mut RandomStream,
    db: &'a str,
    at: ReadAt,
    context: &'a ParseContext,
}

impl World<'_> {
    /// Runs a pipeline over a collection or a view.
    fn run(&mut self, namespace: &str, pipeline: &Pipeline) -> Result<Vec<Document>, CommandError> {
        let documents = match resolve(self.storage, namespace, self.at)? {
            Some(resolved) => self.run_view(&resolved)?,
            None => self.read(namespace, pipeline.leading_match(), self.context.collation)?,
        };
        pipeline.run(documents, self)
    }

    fn run_view(&mut self, resolved: &Resolved) -> Result<Vec<Document>, CommandError> {
        let stages = resolved.pipeline.iter().map(ValueRef::from);
        let pipeline = Pipeline::parse_in(Place::View, stages, self.context)?;
        let matcher = pipeline.leading_match();
        let documents = self.read(&resolved.namespace, matcher, self.context.collation)?;
        pipeline.run(documents, self)
    }

    fn read(
        &self,
        namespace: &str,
        matcher: Option<&Matcher>,
        collation: Collation,
    ) -> Result<Vec<Document>, CommandError> {
        read_all(self.storage, self.sessions, namespace, self.at, matcher, collation)
    }
}

impl PipelineContext for World<'_> {
    fn collection(&mut self, name: &str) -> Result<Vec<Document>, CommandError> {
        let namespace = format!("{}.{name}", self.db);
        match resolve(self.storage, &namespace, self.at)? {
            Some(resolved) => self.run_view(&resolved),
            None => self.read(&namespace, None, Collation::Simple),
        }
    }

    fn find_by_index(
        &mut self,
        name: &str,
        filter: &Matcher,
    ) -> Result<Option<Vec<Document>>, CommandError> {
        let namespace = format!("{}.{name}", self.db);
        let Some(view) = self.storage.collection(&namespace, self.at) else { return Ok(None) };
        let collation = self.context.collation;
        let plan = plan(&view, Query::of(filter, collation))?;
        if !plan.uses_index() {
            return Ok(None);
        }
        let found = plan.run(&view, filter, usize::MAX, &mut Examined::default())?;
        found.iter().map(|found| decode(&found.document)).collect::<Result<_, _>>().map(Some)
    }

    fn random_below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }
}

/// The documents of a collection that a filter lets through, decoded.
fn read_all(
    storage: &Storage,
    sessions: &Sessions,
    namespace: &str,
    at: ReadAt,
    matcher: Option<&Matcher>,
    collation: Collation,
) -> Result<Vec<Document>, CommandError> {
    let found: Vec<Found> = match (computed_documents(storage, sessions, namespace), matcher) {
        (Some(documents), Some(matcher)) => match_documents(documents, matcher)?,
        (Some(documents), None) => {
            return documents.iter().map(|document| decode(document)).collect();
        }
        (None, matcher) => match (storage.collection(namespace, at), matcher) {
            (Some(view), Some(matcher)) => find_matching(&view, matcher, collation, usize::MAX)?,
            (Some(view), None) => {
                return view.scan(None).map(|(_, document)| decode(document)).collect();
            }
            (None, _) => return Ok(Vec::new()),
        },
    };
    found.iter().map(|found| decode(&found.document)).collect()
}

/// `$collStats`, `$indexStats`, `$currentOp` and `$listLocalSessions`; `None` for any other stage.
fn statistics(
    server: &Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    whole_database: bool,
    at: ReadAt,
    stage: &RawDocument,
) -> Result<Option<Vec<Document>>, CommandError> {
    let Some(Ok((name, value))) = stage.iter().next() else { return Ok(None) };
    if whole_database && name.as_str() == "$currentOp" {
        let shown = Shown::read(op, value)?;
        return Ok(Some(server.operations(now, op, shown)));
    }
    if whole_database && name.as_str() == "$listLocalSessions" {
        document("$listLocalSessions", value)?;
        return Ok(Some(super::session::local_sessions(server, now, op)));
    }
    if name.as_str() == "$listSearchIndexes" && server.options.version != ServerVersion::V6_0 {
        return Err(super::search_index::not_enabled());
    }
    if whole_database || !matches!(name.as_str(), "$collStats" | "$indexStats") {
        return Ok(None);
    }
    let arguments = document(name.as_str(), value)?;
    let view = server.storage.collection(namespace, at);
    let wall = DateTime::from_millis(server.wall_millis(now));
    let host = &*server.options.host;
    if name.as_str() == "$indexStats" {
        let mut indexes = Vec::new();
        for (spec, _) in view.iter().flat_map(|view| view.indexes()) {
            let mut shown = rawdoc! { "name": &*spec.name };
            shown.append(cstr!("key"), spec.key_pattern());
            shown.append(cstr!("host"), host);
            // Uses of indexes are not counted.
            shown.append(cstr!("accesses"), rawdoc! { "ops": 0_i64, "since": wall });
            shown.append(cstr!("spec"), &*spec.document);
            indexes.push(decode(&shown)?);
        }
        return Ok(Some(indexes));
    }
    let mut out: RawDocumentBuf = rawdoc! { "ns": namespace, "host": host, "localTime": wall };
    let mut unsupported = None;
    each_field("$collStats", arguments, |field, value| {
        let arguments = document(field, value)?;
        match field {
            "storageStats" => {
                let scale = arguments.get("scale").map_err(malformed)?;
                let scale = scale.map_or(Ok(1), |scale| {
                    super::arguments::safe_i64("storageStats.scale", scale)
                })?;
                out.append(cstr!("storageStats"), storage_stats(view.as_ref(), scale.max(1)));
            }
            "count" => {
                let Some(view) = &view else {
                    return Err(CommandError::new(
                        error::NAMESPACE_NOT_FOUND,
                        format!(
                            "PlanExecutor error during aggregation :: caused by :: Unable to \
                             retrieve count in $collStats stage :: caused by :: Collection \
                             [{namespace}] not found."
                        ),
                    ));
                };
                super::catalog::append_count(&mut out, cstr!("count"), view.count());
            }
            "latencyStats" | "queryExecStats" => unsupported = Some(field),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    match unsupported {
        None => Ok(Some(vec![decode(&out)?])),
        Some(field) => Err(CommandError::new(
            error::COMMAND_NOT_SUPPORTED,
            format!("This simulated server does not support $collStats.{field}"),
        )),
    }
}
