//! `find`, `count`, `distinct`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bson::raw::{RawArrayBuf, cstr};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use stepdown_driver::Instant;

use super::aggregate::view_documents;
use super::arguments::{
    document, each_argument, missing_field, namespace, non_negative, safe_i64, string, type_name,
};
use super::context::parse_context_with;
use super::cursor::{self, Cursor, DEFAULT_BATCH_SIZE, Source, first_reply, list_reply};
use super::plan::{Examined, Query, plan};
use super::scan::{Found, Output, Scan, Target, find_matching, oplog_start};
use super::spec::{CommandSpec, Gate};
use super::views::view_of;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::context::ParseContext;
use crate::mongod::query::key::append_key;
use crate::mongod::query::matcher::{MatchDetails, Matcher};
use crate::mongod::query::path::{LeafArray, Path};
use crate::mongod::query::project::{Projection, ProjectionSyntax};
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::value::{DocumentRef, ValueRef};
use crate::mongod::session::Sessions;
use crate::mongod::storage::{CollectionView, RecordId, Storage};
use crate::mongod::{Mongod, ServerVersion};

const fn read(
    names: &'static [&'static str],
    run: fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>,
) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Read,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] =
    &[read(&["find"], find), read(&["count"], count), read(&["distinct"], distinct)];

/// The arguments of a find.
#[derive(Default)]
struct Find<'a> {
    filter: Option<&'a RawDocument>,
    projection: Option<&'a RawDocument>,
    sort: Option<&'a RawDocument>,
    hint: Option<RawBsonRef<'a>>,
    skip: u64,
    limit: u64,
    batch_size: Option<u64>,
    single_batch: bool,
    show_record_id: bool,
    tailable: bool,
    await_data: bool,
    no_cursor_timeout: bool,
}

impl<'a> Find<'a> {
    fn read(server: &Mongod, body: &'a RawDocument) -> Result<Self, CommandError> {
        // What 6.0 calls the command in its messages.
        let command = match server.options.version {
            ServerVersion::V6_0 => "FindCommandRequest",
            _ => "find",
        };
        let mut find = Find::default();
        each_argument(command, body, |field, value| {
            let full = format!("{command}.{field}");
            match field {
                "filter" => find.filter = Some(object(field, value)?),
                "projection" => find.projection = Some(object(field, value)?),
                "sort" => find.sort = Some(object(field, value)?),
                "hint" => find.hint = Some(value),
                // Null is as good as nothing for numbers.
                "skip" | "limit" | "batchSize" if value == RawBsonRef::Null => {}
                "skip" => find.skip = non_negative(command, field, value)?,
                "limit" => find.limit = non_negative(command, field, value)?,
                "batchSize" => find.batch_size = Some(non_negative(command, field, value)?),
                "singleBatch" => find.single_batch = flag(field, value)?,
                "showRecordId" => find.show_record_id = flag(field, value)?,
                "tailable" => find.tailable = flag(field, value)?,
                "awaitData" => find.await_data = flag(field, value)?,
                "noCursorTimeout" => find.no_cursor_timeout = flag(field, value)?,
                "allowDiskUse" | "allowPartialResults" | "oplogReplay" | "mirrored" => {
                    flag(field, value)?;
                }
                "collation" | "let" => {
                    document(&full, value)?;
                }
                "term" => {
                    safe_i64(&full, value)?;
                }
                "ntoreturn" => {
                    return Err(CommandError::new(
                        5_746_102,
                        "the ntoreturn find command parameter is not supported when FCV >= 5.1",
                    ));
                }
                "returnKey" if !flag(field, value)? => {}
                "min" | "max" | "returnKey" => {
                    return Err(CommandError::new(
                        error::COMMAND_NOT_SUPPORTED,
                        format!("This simulated server does not support find.{field}"),
                    ));
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if find.await_data && !find.tailable {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "Cannot set 'awaitData' without also setting 'tailable'",
            ));
        }
        if find.tailable && find.single_batch {
            return Err(CommandError::new(
                error::BAD_VALUE,
                "cannot use tailable option with the 'singleBatch' option",
            ));
        }
        Ok(find)
    }

    /// `{$natural: 1 | -1}` as a sort or a hint.
    fn natural(&self) -> Option<i64> {
        let sort = self.sort.and_then(|sort| sort.get("$natural").ok().flatten());
        let hint = self.hint.and_then(RawBsonRef::as_document);
        let hint = hint.and_then(|hint| hint.get("$natural").ok().flatten());
        sort.or(hint).and_then(|value| safe_i64("$natural", value).ok())
    }
}

fn object<'a>(field: &str, value: RawBsonRef<'a>) -> Result<&'a RawDocument, CommandError> {
    value.as_document().ok_or_else(|| {
        // The missing blank is the server's.
        CommandError::new(
            error::TYPE_MISMATCH,
            format!("Expected field {field}to be of type object"),
        )
    })
}

fn flag(field: &str, value: RawBsonRef<'_>) -> Result<bool, CommandError> {
    value.as_bool().ok_or_else(|| {
        CommandError::new(
            error::TYPE_MISMATCH,
            format!("Field '{field}' should be a boolean value, but found: {}", type_name(value)),
        )
    })
}

fn find(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let find = Find::read(server, &op.body)?;
    let context = parse_context_with(server, now, op)?;
    let empty = RawDocumentBuf::new();
    let filter = find.filter.unwrap_or(&empty);
    let matcher = Matcher::parse(filter, &context)?;
    if find.tailable && op.transaction().is_some() {
        return Err(CommandError::new(
            error::INVALID_OPTIONS,
            "It is illegal to open a tailable cursor in a transaction",
        ));
    }
    context.constant_failure.check("")?;
    let natural = find.natural();
    let sort = match find.sort.filter(|_| natural.is_none()) {
        Some(sort) => SortPattern::parse(sort.into(), context.collation)?,
        None => SortPattern::parse(empty.as_ref().into(), context.collation)?,
    };
    let unsorted = SortPattern::parse(empty.as_ref().into(), context.collation)?;
    let projection = find
        .projection
        .map(|projection| Projection::parse(projection, ProjectionSyntax::Find, &context))
        .transpose()?
        .filter(|projection| !projection.is_empty());
    context.constant_failure.check("")?;
    let output = Output { projection, show_record_id: find.show_record_id };
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let at_cluster_time = cursor::at_cluster_time(op, at);
    let limit = (find.limit > 0).then_some(find.limit);
    let backwards = natural == Some(-1);
    let scan = |target| {
        Source::Scan(Box::new(Scan {
            target,
            matcher: matcher.clone(),
            output: output.clone(),
            skip: find.skip,
            limit,
            tailable: find.tailable,
        }))
    };
    let mut follows = find.tailable;
    let source = if namespace == "local.oplog.rs" && sort.is_empty() {
        let last = if backwards { Ts::MAX } else { oplog_start(filter) };
        scan(Target::Oplog { last, read: false, backwards })
    } else if let Some(documents) = virtual_documents(server, op, &namespace, at, &context)? {
        let found = match_documents(documents, &matcher).map_err(in_executor)?;
        ready(found, &sort, &output, find.skip, limit).map_err(in_executor)?
    } else {
        let Some(view) = server.storage.collection(&namespace, at) else {
            return Ok(list_reply(&namespace, []));
        };
        if find.tailable && !view.is_capped() {
            return Err(CommandError::new(
                error::BAD_VALUE,
                format!(
                    "error processing query: ns={namespace}Tree: $and\nSort: {{}}\nProj: {{}}\n tailable cursor requested on non capped \
                     collection"
                ),
            ));
        }
        // Measured: there is no end of an empty collection to wait at.
        follows = find.tailable && view.scan(None).next().is_some();
        let shown = Shown {
            matcher: &matcher,
            sort: find.sort,
            projection: find.projection,
            collation: false,
        };
        let query = Query {
            matcher: &matcher,
            sort: Some(&sort),
            hint: find.hint.filter(|_| natural.is_none()),
            collation: context.collation,
        };
        let plan = plan(&view, query).map_err(|error| match error.code {
            error::BAD_VALUE => planner_error(&namespace, shown, error),
            _ => error,
        })?;
        if sort.is_empty() && (find.tailable || natural.is_some() || !plan.uses_index()) {
            let (namespace, uuid) = (namespace.clone(), view.uuid());
            scan(Target::Collection { namespace, uuid, last: None, backwards })
        } else {
            let wanted = match limit {
                Some(limit) if plan.sorted => {
                    usize::try_from(limit.saturating_add(find.skip)).unwrap_or(usize::MAX)
                }
                _ => usize::MAX,
            };
            let found =
                plan.run(&view, &matcher, wanted, &mut Examined::default()).map_err(in_executor)?;
            // What comes sorted stays as it comes.
            let order = if plan.sorted { &unsorted } else { &sort };
            ready(found, order, &output, find.skip, limit).map_err(in_executor)?
        }
    };
    let cursor = Cursor {
        namespace,
        source,
        read_concern: op.read_concern,
        at_cluster_time,
        lsid: op.session.map(|session| session.lsid),
        transaction: op.transaction(),
        tailable: follows,
        await_data: find.await_data,
        no_timeout: find.no_cursor_timeout,
        used: now,
    };
    let batch_size = find.batch_size.unwrap_or(DEFAULT_BATCH_SIZE);
    first_reply(server, now, cursor, at, batch_size, find.single_batch)
}

/// How the server words errors that come up while a find runs.
fn in_executor(error: CommandError) -> CommandError {
    let prefix = "Executor error during find command :: caused by :: ";
    if error.message.starts_with(prefix) {
        return error;
    }
    CommandError { message: format!("{prefix}{}", error.message), ..error }
}

/// The documents of what is no stored collection: see [`computed_documents`], and views.
fn virtual_documents(
    server: &mut Mongod,
    op: &Operation,
    namespace: &str,
    at: ReadAt,
    context: &ParseContext,
) -> Result<Option<Vec<Arc<RawDocumentBuf>>>, CommandError> {
    match computed_documents(&server.storage, &server.sessions, namespace) {
        None => view_documents(server, op, namespace, at, context),
        documents => Ok(documents),
    }
}

/// A source of what was found already: sorted, cut, projected.
fn ready(
    mut found: Vec<Found>,
    sort: &SortPattern,
    output: &Output,
    skip: u64,
    limit: Option<u64>,
) -> Result<Source, CommandError> {
    sort.sort_by_document(&mut found, |found| DocumentRef::from(&*found.document));
    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
    let take = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut documents = VecDeque::new();
    for found in found.iter().skip(skip).take(take) {
        documents.push_back(output.of(found)?);
    }
    let limited = documents.len() == take;
    Ok(Source::Ready { documents, limited })
}

/// The documents of a collection that is not stored as one: those of `local`, and
/// `config.transactions`.
pub(crate) fn computed_documents(
    storage: &Storage,
    sessions: &Sessions,
    namespace: &str,
) -> Option<Vec<Arc<RawDocumentBuf>>> {
    if namespace == "local.oplog.rs" {
        return Some(storage.oplog().iter().map(|entry| Arc::new(entry.to_document())).collect());
    }
    if namespace == "config.transactions" {
        let records = sessions.records();
        return Some(records.iter().map(|record| Arc::new(record.to_document())).collect());
    }
    let name = namespace.strip_prefix("local.")?;
    let document = storage.local_document(name);
    Some(document.into_iter().map(|document| Arc::new(document.clone())).collect())
}

pub(crate) fn match_documents(
    documents: Vec<Arc<RawDocumentBuf>>,
    matcher: &Matcher,
) -> Result<Vec<Found>, CommandError> {
    let mut found = Vec::new();
    for (number, document) in documents.into_iter().enumerate() {
        if matcher.matches(&*document)? {
            let record = RecordId(number as u64 + 1);
            found.push(Found { record, document, details: MatchDetails::default() });
        }
    }
    Ok(found)
}

/// What a message about a hint shows of the query.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub matcher: &'a Matcher,
    pub sort: Option<&'a RawDocument>,
    pub projection: Option<&'a RawDocument>,
    /// Whether the collation stands there although it is simple, as it does for updates.
    pub collation: bool,
}

impl<'a> Shown<'a> {
    /// A filter alone.
    pub(crate) fn of(matcher: &'a Matcher) -> Self {
        Shown { matcher, sort: None, projection: None, collation: false }
    }
}

/// A hint must name an index that exists.
///
/// # Errors
/// 2 BadValue.
pub(crate) fn check_hint(
    view: &CollectionView<'_>,
    hint: Option<RawBsonRef<'_>>,
    shown: Shown<'_>,
) -> Result<(), CommandError> {
    if hint.is_none() {
        return Ok(());
    }
    let query = Query { hint, ..Query::of(shown.matcher, Collation::Simple) };
    plan(view, query).map(|_| ()).map_err(|error| match error.code {
        error::BAD_VALUE => planner_error(view.namespace(), shown, error),
        _ => error,
    })
}

/// The planner's refusal, with the query it refuses.
pub(crate) fn planner_error(
    namespace: &str,
    shown: Shown<'_>,
    error: CommandError,
) -> CommandError {
    let text = |document: Option<&RawDocument>| {
        document.map_or_else(|| "{}".to_owned(), crate::mongod::storage::text::shell_document)
    };
    let collation = if shown.collation { "Collation: { locale: \"simple\" }\n" } else { "" };
    CommandError {
        message: format!(
            "error processing query: ns={namespace}Tree: {}Sort: {}\nProj: {}\n{collation} planner \
             returned error :: caused by :: {}",
            shown.matcher.debug_text(),
            text(shown.sort),
            text(shown.projection),
            error.message
        ),
        ..error
    }
}

/// The documents a filter finds in any namespace.
fn find_all(
    server: &mut Mongod,
    op: &Operation,
    namespace: &str,
    at: ReadAt,
    matcher: &Matcher,
    context: &ParseContext,
    limit: usize,
) -> Result<Vec<Found>, CommandError> {
    if let Some(documents) = virtual_documents(server, op, namespace, at, context)? {
        return match_documents(documents, matcher);
    }
    match server.storage.collection(namespace, at) {
        Some(view) => find_matching(&view, matcher, context.collation, limit),
        None => Ok(Vec::new()),
    }
}

/// A reply's `ok` as that of the aggregation that a command on a view becomes: an integer.
fn append_ok_of_view(server: &Mongod, namespace: &str, at: ReadAt, reply: &mut RawDocumentBuf) {
    if server.storage.collection(namespace, at).is_none()
        && view_of(&server.storage, namespace, at).is_some()
    {
        reply.append(cstr!("ok"), 1);
    }
}

fn count(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace =
        namespace(op).map_err(|error| CommandError { code: error::INVALID_NAMESPACE, ..error })?;
    let (mut query, mut skip, mut limit, mut hint) = (None, 0, 0_u64, None);
    each_argument("count", &op.body, |field, value| {
        let full = format!("count.{field}");
        match field {
            "query" => query = Some(document(&full, value)?),
            "skip" => skip = non_negative("count", "skip", value)?,
            // A negative limit is its absolute value.
            "limit" => limit = safe_i64(&full, value)?.unsigned_abs(),
            "hint" => hint = Some(value),
            "collation" => {
                document(&full, value)?;
            }
            "fields" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let context = parse_context_with(server, now, op)?;
    let empty = RawDocumentBuf::new();
    let matcher = Matcher::parse(query.unwrap_or(&empty), &context)?;
    context.constant_failure.check("")?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    let view = server.storage.collection(&namespace, at);
    if let Some(view) = &view {
        check_hint(view, hint, Shown::of(&matcher))?;
    }
    let all = if let Some(view) = view.filter(|_| matcher.is_empty()) {
        view.count()
    } else {
        let wanted = if limit == 0 { u64::MAX } else { limit.saturating_add(skip) };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        find_all(server, op, &namespace, at, &matcher, &context, wanted)?.len() as u64
    };
    let mut n = all.saturating_sub(skip);
    if limit > 0 {
        n = n.min(limit);
    }
    let mut reply = RawDocumentBuf::new();
    super::catalog::append_count(&mut reply, cstr!("n"), n);
    append_ok_of_view(server, &namespace, at, &mut reply);
    Ok(Outcome::Reply(reply))
}

/// The values of a distinct may take this many bytes.
const MAX_DISTINCT_BYTES: usize = 16 << 20;

fn distinct(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let (mut key, mut query) = (None, None);
    each_argument("distinct", &op.body, |field, value| {
        let full = format!("distinct.{field}");
        match field {
            "key" => key = Some(string(&full, value)?),
            "query" if value == RawBsonRef::Null => {}
            "query" => query = Some(document(&full, value)?),
            "collation" => {
                document(&full, value)?;
            }
            "hint" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let key = key.ok_or_else(|| missing_field("distinct.key"))?;
    if key.is_empty() {
        return Err(CommandError::new(40_352, "FieldPath cannot be constructed with empty string"));
    }
    if key.contains('\0') {
        return Err(CommandError::new(31_032, "Key field cannot contain an embedded null byte"));
    }
    let context = parse_context_with(server, now, op)?;
    let empty = RawDocumentBuf::new();
    let matcher = Matcher::parse(query.unwrap_or(&empty), &context)?;
    let at = cursor::read_at(server, op, op.read_concern, None)?;
    context.constant_failure.check("")?;
    let found =
        find_all(server, op, &namespace, at, &matcher, &context, usize::MAX).map_err(|error| {
            CommandError {
                message: format!(
                    "Executor error during distinct command :: caused by :: {}",
                    error.message
                ),
                ..error
            }
        })?;
    let path = Path::new(key);
    let by_keys = matcher.is_empty()
        && server.storage.collection(&namespace, at).is_some_and(|view| {
            view.indexes().any(|(spec, multikey)| {
                let plain = !multikey && !spec.sparse && !spec.hidden && spec.filter().is_none();
                plain
                    && !spec.pattern.is_special()
                    && spec.pattern.fields()[0].path == key
                    && spec.collation() == context.collation
            })
        });
    // Measured: distinct values come in the order of comparison.
    let mut distinct: BTreeMap<Vec<u8>, RawBson> = BTreeMap::new();
    let mut bytes = 0;
    for found in &found {
        let document = DocumentRef::from(&*found.document);
        path.visit(document, LeafArray::Whole, &mut |value, _| {
            // Measured: an index gives its keys, and that of what is missing is null.
            let missing = by_keys.then_some(ValueRef::Null);
            let Some(value) = value.or(missing) else { return Ok(false) };
            // An array at the end stands for its elements.
            let elements: Vec<ValueRef<'_>> = match value.as_array() {
                Some(array) => array.iter().collect(),
                None => vec![value],
            };
            for element in elements {
                let mut encoded = Vec::new();
                append_key(&mut encoded, element, context.collation, false);
                if let Entry::Vacant(place) = distinct.entry(encoded) {
                    let element = RawBson::try_from(element.to_bson())
                        .map_err(super::arguments::malformed)?;
                    bytes += place.key().len();
                    place.insert(element);
                }
            }
            Ok::<bool, CommandError>(bytes > MAX_DISTINCT_BYTES)
        })?;
        if bytes > MAX_DISTINCT_BYTES {
            return Err(CommandError::new(17_217, "distinct too big, 16mb cap"));
        }
    }
    let mut values = RawArrayBuf::new();
    for value in distinct.into_values() {
        values.push(value);
    }
    if values.as_bytes().len() > MAX_DISTINCT_BYTES {
        return Err(CommandError::new(17_217, "distinct too big, 16mb cap"));
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("values"), values);
    if let Some(ts) = cursor::at_cluster_time(op, at) {
        reply.append(cstr!("atClusterTime"), Timestamp::from(ts));
    }
    append_ok_of_view(server, &namespace, at, &mut reply);
    Ok(Outcome::Reply(reply))
}
