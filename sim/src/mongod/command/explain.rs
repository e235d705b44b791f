//! `explain`: which plan a command takes, and what it examines on the way.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{document, each_argument, first_value, missing_field, namespace};
use super::catalog::append_all;
use super::context::parse_context_with;
use super::create::one_of;
use super::find_command;
use super::plan::{Access, Examined, IndexScan, Interval, Plan, Query, plan};
use super::read::{Shown, planner_error};
use super::spec::{CommandSpec, Gate};
use super::views::resolve;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::text::value_text;
use crate::mongod::query::value::{ValueRef, to_raw};
use crate::mongod::query::{Matcher, ParseContext, Pipeline};
use crate::mongod::storage::CollectionView;

pub(crate) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    names: &["explain"],
    gate: Gate::Read,
    accepts_write_concern: false,
    retryable_write: false,
    admin_only: false,
    run,
}];

/// What of a command its plan depends on.
#[derive(Default)]
struct Explained {
    filter: Document,
    sort: Option<Document>,
    projection: Option<Document>,
    hint: Option<Bson>,
    skip: i64,
    limit: i64,
    kind: Kind,
    /// Whether one document is enough.
    single: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Find,
    Count,
    Distinct,
    Update,
    Delete,
    Aggregate,
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verbosity {
    Planner,
    Stats,
    All,
}

fn run(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let explained = document("explain.explain", first_value(&op.body)?)?;
    let mut verbosity = Verbosity::All;
    each_argument("explain", &op.body, |field, value| {
        if field != "verbosity" {
            return Ok(false);
        }
        let known = ["queryPlanner", "executionStats", "allPlansExecution"];
        one_of("explain.verbosity", value, &known)?;
        verbosity = match value.as_str() {
            Some("queryPlanner") => Verbosity::Planner,
            Some("executionStats") => Verbosity::Stats,
            _ => Verbosity::All,
        };
        Ok(true)
    })?;
    let name = explained.iter().next().and_then(Result::ok).map(|(name, _)| name.as_str());
    let name = name.unwrap_or_default();
    if find_command(name).is_none() {
        return Err(CommandError::new(
            error::COMMAND_NOT_FOUND,
            format!("Explain failed due to unknown command: {name}"),
        ));
    }
    let mut inner = op.clone();
    inner.name = name.to_owned();
    inner.body = explained.to_owned().into();
    explain(server, now, &inner, verbosity)
}

/// Explains a command.
///
/// # Errors
/// 20 IllegalOperation for one that has no plan, and what is wrong with it.
pub(super) fn explain(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    verbosity: Verbosity,
) -> Result<Outcome, CommandError> {
    let explained = Explained::read(op)?;
    let mut namespace = namespace(op)?;
    let context = parse_context_with(server, now, op)?;
    let mut filter = explained.filter.clone();
    if let Some(resolved) = resolve(&server.storage, &namespace, ReadAt::Newest)? {
        let first = resolved.pipeline.first().and_then(Bson::as_document);
        if let Some(Bson::Document(below)) = first.and_then(|stage| stage.get("$match")) {
            filter = doc! { "$and": [below.clone(), filter] };
        }
        namespace = resolved.namespace;
    }
    let matcher = Matcher::parse(&filter, &context)?;
    let sort = explained.sort.as_ref().filter(|sort| !sort.contains_key("$natural"));
    let sort = sort.map(|sort| SortPattern::parse(sort.into(), context.collation)).transpose()?;
    let view = server.storage.collection(&namespace, ReadAt::Newest);
    let hint = explained.hint.clone().map(|hint| to_raw(&doc! { "hint": hint }));
    let hint = hint.as_ref().and_then(|hint| hint.get("hint").ok().flatten());
    let query =
        Query { matcher: &matcher, sort: sort.as_ref(), hint, collation: context.collation };
    let chosen = match &view {
        Some(view) => Some(plan(view, query).map_err(|error| match error.code {
            error::BAD_VALUE => planner_error(&namespace, Shown::of(&matcher), error),
            _ => error,
        })?),
        None => None,
    };
    let mut examined = Examined::default();
    let mut matched = 0;
    if let (Some(view), Some(plan)) = (&view, &chosen) {
        let wanted = match (explained.single, explained.limit) {
            (true, _) => 1,
            (false, limit) if limit > 0 && plan.sorted => {
                limit.saturating_add(explained.skip) as usize
            }
            _ => usize::MAX,
        };
        matched = plan.run(view, &matcher, wanted, &mut examined)?.len() as i64;
    }
    let returned = explained.returned(matched);
    let stage = explained.stages(view.as_ref(), chosen.as_ref(), &filter, None);
    let mut planner = rawdoc! {
        "namespace": namespace.as_str(),
        "indexFilterSet": false,
        "parsedQuery": to_raw(&parsed_query(&filter)),
    };
    if explained.kind == Kind::Aggregate {
        planner.append(bson::raw::cstr!("optimizedPipeline"), true);
    }
    let winning = rawdoc! {
        "maxIndexedOrSolutionsReached": false,
        "maxIndexedAndSolutionsReached": false,
        "maxScansToExplodeReached": false,
        "winningPlan": to_raw(&stage),
        "rejectedPlans": [],
    };
    append_all(&mut planner, &winning);
    let mut reply = rawdoc! { "explainVersion": "1", "queryPlanner": planner };
    if verbosity != Verbosity::Planner {
        let numbers = Numbers { matched, returned, examined };
        let stages = explained.stages(view.as_ref(), chosen.as_ref(), &filter, Some(numbers));
        let mut stats = rawdoc! {
            "executionSuccess": true,
            "nReturned": returned as i32,
            "executionTimeMillis": 0,
            "totalKeysExamined": examined.keys as i32,
            "totalDocsExamined": explained.documents_examined(chosen.as_ref(), examined),
            "executionStages": to_raw(&stages),
        };
        if verbosity == Verbosity::All {
            stats.append(bson::raw::cstr!("allPlansExecution"), bson::RawArrayBuf::new());
        }
        reply.append(bson::raw::cstr!("executionStats"), stats);
    }
    let mut command = (*op.body).clone();
    if command.get("$db").is_ok_and(|db| db.is_none()) {
        command.append(bson::raw::cstr!("$db"), op.db.as_str());
    }
    reply.append(bson::raw::cstr!("command"), command);
    reply.append(bson::raw::cstr!("serverInfo"), server_info(server));
    reply.append(bson::raw::cstr!("serverParameters"), parameters());
    Ok(Outcome::Reply(reply))
}

fn server_info(server: &Mongod) -> RawDocumentBuf {
    let (host, port) = server.options.host.rsplit_once(':').unwrap_or((&server.options.host, ""));
    rawdoc! {
        "host": host,
        "port": port.parse::<i32>().unwrap_or(27017),
        "version": server.options.version.text(),
        "gitVersion": "0000000000000000000000000000000000000000",
    }
}

fn parameters() -> RawDocumentBuf {
    let bytes = 104_857_600;
    rawdoc! {
        "internalQueryFacetBufferSizeBytes": bytes,
        "internalQueryFacetMaxOutputDocSizeBytes": bytes,
        "internalLookupStageIntermediateDocumentMaxSizeBytes": bytes,
        "internalDocumentSourceGroupMaxMemoryBytes": bytes,
        "internalQueryMaxBlockingSortMemoryUsageBytes": bytes,
        "internalQueryProhibitBlockingMergeOnMongoS": 0,
        "internalQueryMaxAddToSetBytes": bytes,
        "internalDocumentSourceSetWindowFieldsMaxMemoryBytes": bytes,
    }
}

impl Explained {
    fn read(op: &Operation) -> Result<Explained, CommandError> {
        let body = &op.body;
        let document = |field: &str| -> Option<Document> {
            body.get_document(field).ok().and_then(|document| Document::try_from(document).ok())
        };
        let number = |field: &str| match body.get(field) {
            Ok(Some(value)) => crate::mongod::query::number::as_exact_i64(value.into()),
            _ => None,
        };
        let hint = |from: &RawDocument| -> Option<Bson> {
            from.get("hint").ok().flatten().and_then(|hint| Bson::try_from(hint).ok())
        };
        let first = |field: &str| -> Result<Document, CommandError> {
            let statements = body.get_array(field).map_err(|_| missing_field(field))?;
            match statements.into_iter().next() {
                Some(Ok(RawBsonRef::Document(statement))) => {
                    Document::try_from(statement).map_err(super::arguments::malformed)
                }
                _ => Err(missing_field(field)),
            }
        };
        let mut found = Explained {
            hint: hint(body),
            skip: number("skip").unwrap_or(0).max(0),
            limit: number("limit").unwrap_or(0).saturating_abs(),
            ..Explained::default()
        };
        match op.name.as_str() {
            "find" => {
                found.filter = document("filter").unwrap_or_default();
                found.sort = document("sort");
                found.projection = document("projection").filter(|fields| !fields.is_empty());
            }
            "count" => {
                found.kind = Kind::Count;
                found.filter = document("query").unwrap_or_default();
            }
            "distinct" => {
                found.kind = Kind::Distinct;
                found.filter = document("query").unwrap_or_default();
            }
            "update" | "delete" => {
                let update = op.name == "update";
                let statement = first(if update { "updates" } else { "deletes" })?;
                found.kind = if update { Kind::Update } else { Kind::Delete };
                found.filter = statement.get_document("q").cloned().unwrap_or_default();
                found.hint = statement.get("hint").cloned();
                found.single = match update {
                    true => !statement.get_bool("multi").unwrap_or(false),
                    false => statement
                        .get("limit")
                        .is_some_and(|limit| ValueRef::from(limit).is_truthy()),
                };
            }
            "findAndModify" | "findandmodify" => {
                let remove = body.get_bool("remove").unwrap_or(false);
                found.kind = if remove { Kind::Delete } else { Kind::Update };
                found.filter = document("query").unwrap_or_default();
                found.sort = document("sort").filter(|sort| !sort.is_empty());
                found.single = true;
            }
            "aggregate" => found.read_pipeline(body)?,
            name => {
                return Err(CommandError::new(
                    error::ILLEGAL_OPERATION,
                    format!("Explain failed due to command that cannot be explained: {name}"),
                ));
            }
        }
        Ok(found)
    }

    /// The filter and the sort that a pipeline begins with: they run where the documents are read.
    fn read_pipeline(&mut self, body: &RawDocument) -> Result<(), CommandError> {
        self.kind = Kind::Aggregate;
        let pipeline =
            body.get_array("pipeline").map_err(|_| missing_field("aggregate.pipeline"))?;
        let mut stages = Vec::new();
        for stage in pipeline {
            let stage = stage.and_then(Bson::try_from).map_err(super::arguments::malformed)?;
            stages.push(stage);
        }
        let epoch = bson::Timestamp { time: 0, increment: 0 };
        let context = ParseContext::new(bson::DateTime::from_millis(0), epoch);
        Pipeline::parse(stages.iter().map(ValueRef::from), &context)?;
        let mut stages = stages.iter().filter_map(Bson::as_document).peekable();
        if let Some(Ok(filter)) = stages.peek().map(|stage| stage.get_document("$match")) {
            self.filter = filter.clone();
            stages.next();
        }
        if let Some(Ok(sort)) = stages.peek().map(|stage| stage.get_document("$sort")) {
            self.sort = Some(sort.clone());
        }
        Ok(())
    }

    fn returned(&self, matched: i64) -> i64 {
        match self.kind {
            Kind::Find | Kind::Aggregate | Kind::Distinct => {
                let left = (matched - self.skip).max(0);
                if self.limit > 0 { left.min(self.limit) } else { left }
            }
            Kind::Count | Kind::Update | Kind::Delete => 0,
        }
    }

    fn is_covered(&self, plan: Option<&Plan>) -> bool {
        let Some(Plan { access: Access::Index(scan), .. }) = plan else { return false };
        let Some(projection) = &self.projection else { return false };
        let has = |path: &str| scan.spec.pattern.fields().iter().any(|field| field.path == path);
        let id_left_out = projection.get("_id").is_some_and(|id| !ValueRef::from(id).is_truthy());
        let included = |(name, value): (&String, &Bson)| {
            name == "_id" && id_left_out
                || ValueRef::from(value).is_number()
                    && ValueRef::from(value).is_truthy()
                    && has(name)
        };
        !scan.multikey
            && (id_left_out || has("_id"))
            && projection.iter().all(included)
            && self.filter.keys().all(|path| has(path))
    }

    fn documents_examined(&self, plan: Option<&Plan>, examined: Examined) -> i32 {
        let keys_suffice =
            self.is_covered(plan) || self.kind == Kind::Count && self.is_count_scan(plan).is_some();
        if keys_suffice { 0 } else { examined.documents as i32 }
    }

    /// The scan of a count that needs no documents: one range of an index, and no more conditions.
    fn is_count_scan<'a>(&self, plan: Option<&'a Plan>) -> Option<&'a IndexScan> {
        match plan {
            Some(Plan { access: Access::Index(scan), .. })
                if self.filter.len() == 1
                    && self
                        .filter
                        .keys()
                        .all(|path| scan.spec.pattern.fields()[0].path == *path)
                    && scan.bounds[0].len() == 1 =>
            {
                Some(scan)
            }
            _ => None,
        }
    }

    /// The tree of stages, with their numbers if they are wanted.
    fn stages(
        &self,
        view: Option<&CollectionView<'_>>,
        plan: Option<&Plan>,
        filter: &Document,
        numbers: Option<Numbers>,
    ) -> Document {
        let Some(view) = view else { return stage("EOF", numbers, |n| n.matched) };
        let plan = plan.expect("a collection that exists has a plan");
        let whole = self.kind == Kind::Count && filter.is_empty();
        if whole {
            let mut counted = stage("RECORD_STORE_FAST_COUNT", numbers, |_| 0);
            if numbers.is_some() {
                counted.insert("nCounted", view.count() as i32);
                counted.insert("nSkipped", 0);
            }
            return counted;
        }
        let covered = self.is_covered(Some(plan));
        let mut tree = match (&plan.access, self.is_count_scan(Some(plan))) {
            (Access::Index(scan), Some(_)) if self.kind == Kind::Count => count_scan(scan, numbers),
            (Access::Index(scan), _) => {
                let scanned = index_scan(scan, numbers);
                if covered { scanned } else { fetch(scanned, residual(filter, scan), numbers) }
            }
            (Access::Id(_), _) => {
                let mut found = stage("IDHACK", numbers, |n| n.matched);
                if let Some(numbers) = numbers {
                    found.insert("keysExamined", numbers.examined.keys as i32);
                    found.insert("docsExamined", numbers.examined.documents as i32);
                }
                found
            }
            (Access::Union(scans), _) => {
                let mut or = stage("OR", numbers, |n| n.matched);
                let inputs: Vec<Document> =
                    scans.iter().map(|scan| index_scan(scan, numbers)).collect();
                or.insert("inputStages", inputs);
                let mut subplan = stage("SUBPLAN", numbers, |n| n.matched);
                subplan.insert("inputStage", fetch(or, Document::new(), numbers));
                subplan
            }
            (Access::Collection, _) => {
                let mut scan = stage("COLLSCAN", None, |n| n.matched);
                if !filter.is_empty() {
                    scan.insert("filter", parsed_query(filter));
                }
                add_numbers(&mut scan, numbers, |n| n.matched);
                let natural = self.sort.as_ref().and_then(|sort| sort.get("$natural"));
                let backwards = natural.is_some_and(|way| {
                    crate::mongod::query::number::as_exact_i64(way.into()) == Some(-1)
                });
                scan.insert("direction", if backwards { "backward" } else { "forward" });
                if let Some(numbers) = numbers {
                    scan.insert("docsExamined", numbers.examined.documents as i32);
                }
                scan
            }
        };
        if let Some(sort) = self.sort.as_ref().filter(|_| !plan.sorted) {
            let mut sorted = stage("SORT", numbers, |n| n.matched);
            sorted.insert("sortPattern", sort.clone());
            sorted.insert("memLimit", 104_857_600);
            if self.limit > 0 {
                sorted.insert("limitAmount", self.limit.saturating_add(self.skip));
            }
            sorted.insert("type", "simple");
            sorted.insert("inputStage", tree);
            tree = sorted;
        }
        if self.kind == Kind::Find {
            if self.skip > 0 {
                let mut skip = stage("SKIP", numbers, |n| n.returned);
                skip.insert("skipAmount", self.skip as i32);
                skip.insert("inputStage", tree);
                tree = skip;
            }
            if self.limit > 0 && plan.sorted {
                let mut limit = stage("LIMIT", numbers, |n| n.returned);
                limit.insert("limitAmount", self.limit as i32);
                limit.insert("inputStage", tree);
                tree = limit;
            }
        }
        if let Some(projection) = &self.projection {
            let simple = projection.values().all(|value| {
                let value = ValueRef::from(value);
                value.is_number() || matches!(value, ValueRef::Boolean(_))
            });
            let name = match (covered, simple && !projection.keys().any(|path| path.contains('.')))
            {
                (true, _) => "PROJECTION_COVERED",
                (false, true) => "PROJECTION_SIMPLE",
                (false, false) => "PROJECTION_DEFAULT",
            };
            let mut projected = stage(name, numbers, |n| n.returned);
            projected.insert("transformBy", projection.clone());
            projected.insert("inputStage", tree);
            tree = projected;
        }
        let top = match self.kind {
            Kind::Count => "COUNT",
            Kind::Update => "UPDATE",
            Kind::Delete => "DELETE",
            _ => return tree,
        };
        let mut wrapped = stage(top, numbers, |_| 0);
        if let Some(numbers) = numbers {
            let matched = numbers.matched as i32;
            match self.kind {
                Kind::Count => {
                    wrapped.insert("nCounted", matched);
                    wrapped.insert("nSkipped", 0);
                }
                Kind::Update => {
                    wrapped.insert("nMatched", matched);
                    wrapped.insert("nWouldModify", matched);
                    wrapped.insert("nWouldUpsert", 0);
                }
                _ => drop(wrapped.insert("nWouldDelete", matched)),
            }
        }
        wrapped.insert("inputStage", tree);
        wrapped
    }
}

/// What a run of the plan counted.
#[derive(Clone, Copy)]
struct Numbers {
    matched: i64,
    returned: i64,
    examined: Examined,
}

fn stage(name: &str, numbers: Option<Numbers>, returned: fn(Numbers) -> i64) -> Document {
    let mut stage = doc! { "stage": name };
    add_numbers(&mut stage, numbers, returned);
    stage
}

fn add_numbers(stage: &mut Document, numbers: Option<Numbers>, returned: fn(Numbers) -> i64) {
    let Some(numbers) = numbers else { return };
    let count = returned(numbers);
    stage.insert("nReturned", count as i32);
    stage.insert("executionTimeMillisEstimate", 0);
    stage.insert("works", (count + 1) as i32);
    stage.insert("advanced", count as i32);
    for field in ["needTime", "needYield", "saveState", "restoreState"] {
        stage.insert(field, 0);
    }
    stage.insert("isEOF", 1);
}

fn fetch(input: Document, filter: Document, numbers: Option<Numbers>) -> Document {
    let mut fetch = doc! { "stage": "FETCH" };
    if !filter.is_empty() {
        fetch.insert("filter", parsed_query(&filter));
    }
    add_numbers(&mut fetch, numbers, |n| n.matched);
    if let Some(numbers) = numbers {
        fetch.insert("docsExamined", numbers.examined.documents as i32);
        fetch.insert("alreadyHasObj", 0);
    }
    fetch.insert("inputStage", input);
    fetch
}

fn describe_index(scan: &IndexScan, into: &mut Document) {
    let key = Document::try_from(scan.spec.key_pattern()).unwrap_or_default();
    let paths: Document = key.keys().map(|path| (path.clone(), Bson::Array(Vec::new()))).collect();
    into.insert("keyPattern", key);
    into.insert("indexName", &*scan.spec.name);
    if let Ok(collation) = scan.spec.document.get_document("collation") {
        into.insert("collation", Document::try_from(collation).unwrap_or_default());
    }
    into.insert("isMultiKey", scan.multikey);
    into.insert("multiKeyPaths", paths);
    into.insert("isUnique", scan.spec.unique);
    into.insert("isSparse", scan.spec.sparse);
    into.insert("isPartial", scan.spec.filter().is_some());
    into.insert("indexVersion", 2);
}

fn index_scan(scan: &IndexScan, numbers: Option<Numbers>) -> Document {
    let mut stage = doc! { "stage": "IXSCAN" };
    add_numbers(&mut stage, numbers, |n| n.examined.documents as i64);
    describe_index(scan, &mut stage);
    stage.insert("direction", if scan.backwards { "backward" } else { "forward" });
    let mut bounds = Document::new();
    for (field, intervals) in scan.spec.pattern.fields().iter().zip(&scan.bounds) {
        let shown: Vec<Bson> =
            intervals.iter().map(|interval| Bson::String(interval_text(interval))).collect();
        bounds.insert(&field.path, shown);
    }
    stage.insert("indexBounds", bounds);
    if let Some(numbers) = numbers {
        stage.insert("keysExamined", numbers.examined.keys as i32);
        stage.insert("seeks", scan.bounds.iter().map(Vec::len).max().unwrap_or(1) as i32);
        stage.insert("dupsTested", 0);
        stage.insert("dupsDropped", 0);
    }
    stage
}

fn count_scan(scan: &IndexScan, numbers: Option<Numbers>) -> Document {
    let mut stage = doc! { "stage": "COUNT_SCAN" };
    add_numbers(&mut stage, numbers, |n| n.matched);
    if let Some(numbers) = numbers {
        stage.insert("keysExamined", numbers.examined.keys as i32);
    }
    describe_index(scan, &mut stage);
    let path = &scan.spec.pattern.fields()[0].path;
    let interval = &scan.bounds[0][0];
    let key = |value: &Bson| {
        let mut key = Document::new();
        key.insert(path, value.clone());
        key
    };
    stage.insert(
        "indexBounds",
        doc! {
            "startKey": key(&interval.low), "startKeyInclusive": interval.low_included,
            "endKey": key(&interval.high), "endKeyInclusive": interval.high_included,
        },
    );
    stage
}

/// `[1, 5)`.
fn interval_text(interval: &Interval) -> String {
    format!(
        "{}{}, {}{}",
        if interval.low_included { '[' } else { '(' },
        value_text((&interval.low).into()),
        value_text((&interval.high).into()),
        if interval.high_included { ']' } else { ')' }
    )
}

/// What of a filter the bounds of an index do not say.
fn residual(filter: &Document, scan: &IndexScan) -> Document {
    let bounded = |path: &str| {
        let fields = scan.spec.pattern.fields().iter().zip(&scan.bounds);
        fields.into_iter().any(|(field, bounds)| {
            field.path == path && !bounds.iter().any(|bound| bound.low == Bson::MinKey)
        })
    };
    filter
        .iter()
        .filter(|(path, _)| !bounded(path))
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect()
}

/// A filter as plans show it: each condition with its operator.
fn parsed_query(filter: &Document) -> Document {
    let mut conditions: Vec<Document> = Vec::new();
    for (path, value) in filter {
        match (path.as_str(), value) {
            ("$and", Bson::Array(members)) => {
                for member in members.iter().filter_map(Bson::as_document) {
                    match parsed_query(member) {
                        inner if inner.contains_key("$and") => {
                            let inner = inner.get_array("$and").cloned().unwrap_or_default();
                            conditions.extend(
                                inner.into_iter().filter_map(|one| one.as_document().cloned()),
                            );
                        }
                        inner => conditions.push(inner),
                    }
                }
            }
            ("$or" | "$nor", Bson::Array(members)) => {
                let members: Vec<Document> =
                    members.iter().filter_map(Bson::as_document).map(parsed_query).collect();
                conditions.push(doc! { path: members });
            }
            (name, value) if name.starts_with('$') => conditions.push(doc! { name: value.clone() }),
            (path, Bson::Document(operators))
                if operators.keys().next().is_some_and(|name| name.starts_with('$')) =>
            {
                for (name, value) in operators {
                    conditions.push(doc! { path: { name: value.clone() } });
                }
            }
            (path, regex @ Bson::RegularExpression(_)) => {
                conditions.push(doc! { path: { "$regex": regex.clone() } });
            }
            (path, value) => conditions.push(doc! { path: { "$eq": value.clone() } }),
        }
    }
    match conditions.len() {
        0 => Document::new(),
        1 => conditions.remove(0),
        _ => doc! { "$and": conditions },
    }
}
