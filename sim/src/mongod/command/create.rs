//! `create`: collections of all kinds, views, time series.

use bson::raw::{RawArrayBuf, cstr};
use bson::{Bson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::arguments::{
    array, check_writable, document, each_argument, each_field, missing_field, namespace,
    safe_boolean, safe_i64, string,
};
use super::catalog::{append, append_all, create_unchecked, split};
use super::context::parse_context;
use super::views::{view_of, views_namespace};
use super::write::insert::insert_stored;
use super::{Operation, Outcome, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::aggregate::Place;
use crate::mongod::query::value::ValueRef;
use crate::mongod::query::{Collation, Matcher, Pipeline};
use crate::mongod::{Mongod, ServerVersion};

/// A capped collection may be limited to at most so many bytes: one pebibyte.
const CAPPED_SIZE_MAX: i64 = 1 << 50;

/// The options `create` keeps, in the order in which catalogs show them.
pub(crate) const OPTION_ORDER: [&str; 14] = [
    "capped",
    "size",
    "max",
    "autoIndexId",
    "changeStreamPreAndPostImages",
    "storageEngine",
    "indexOptionDefaults",
    "validator",
    "validationLevel",
    "validationAction",
    "collation",
    "clusteredIndex",
    "expireAfterSeconds",
    "timeseries",
];

fn invalid<T>(message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(error::INVALID_OPTIONS, message))
}

/// What `create` asks for beside the options that are only kept.
#[derive(Default)]
struct Asked<'a> {
    capped: bool,
    sized: bool,
    view_on: Option<&'a str>,
    pipeline: Option<RawArrayBuf>,
    collation: Option<RawDocumentBuf>,
    expires: bool,
    clustered: bool,
    timeseries: Option<TimeSeries>,
    noted: bool,
}

/// `timeseries`.
#[derive(Clone, Debug)]
struct TimeSeries {
    time_field: String,
    meta_field: Option<String>,
    granularity: String,
}

/// Refuses what is none of the values a field may have.
pub(super) fn one_of(
    field: &str,
    value: RawBsonRef<'_>,
    known: &[&str],
) -> Result<(), CommandError> {
    let text = string(field, value)?;
    if known.contains(&text) {
        return Ok(());
    }
    Err(CommandError::new(
        error::BAD_VALUE,
        format!("Enumeration value '{text}' for field '{field}' is not a valid value."),
    ))
}

pub(super) const LEVELS: &[&str] = &["off", "strict", "moderate"];
pub(super) const ACTIONS: &[&str] = &["error", "warn"];

pub(super) fn create(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    let namespace = namespace(op)?;
    let mut options = RawDocumentBuf::new();
    let mut asked = Asked::default();
    each_argument("create", &op.body, |field, value| {
        read_option(&namespace, field, value, &mut options, &mut asked)
    })?;
    if asked.capped && options.get("size").is_ok_and(|size| size.is_none()) {
        return invalid("the 'size' field is required when 'capped' is true");
    }
    if !asked.capped && asked.sized {
        return invalid(
            "the 'capped' field needs to be true when either the 'size' or 'max' fields are present",
        );
    }
    if asked.pipeline.is_some() && asked.view_on.is_none() {
        return invalid("'pipeline' requires 'viewOn' to also be specified");
    }
    if asked.timeseries.is_some() {
        for (flag, name) in [(asked.capped, "capped"), (asked.view_on.is_some(), "viewOn")] {
            if flag {
                return invalid(format!("{namespace}: 'timeseries' is not allowed with '{name}'"));
            }
        }
    }
    if asked.expires && asked.timeseries.is_none() && !asked.clustered {
        return invalid(
            "'expireAfterSeconds' is only supported on time-series collections or when the \
             'clusteredIndex' option is specified",
        );
    }
    check_writable(&namespace)?;
    if let Ok(validator) = op.body.get_document("validator") {
        Matcher::parse(validator, &parse_context(server, now, op)?)?;
    }
    let options = in_order(&options);
    let taken = server.storage.collection(&namespace, ReadAt::Newest);
    if let Some(view) = taken.filter(|_| asked.view_on.is_none()) {
        // Since 7.0 the same collection may be created again.
        let same = view.options().as_bytes() == options.as_bytes();
        if same && server.options.version >= ServerVersion::V7_0 {
            return Ok(Outcome::Reply(RawDocumentBuf::new()));
        }
        return Err(CommandError::new(
            error::NAMESPACE_EXISTS,
            format!("Collection {namespace} already exists."),
        ));
    }
    if taken.is_some() {
        return Err(CommandError::new(
            error::NAMESPACE_EXISTS,
            format!("Cannot create collection {namespace} - collection already exists."),
        ));
    }
    if let Some(view) = view_of(&server.storage, &namespace, ReadAt::Newest) {
        let message = match split(&view.on).1.starts_with("system.buckets.") {
            true => format!("A timeseries collection already exists. NS: {namespace}"),
            false => "Namespace already exists".to_owned(),
        };
        return Err(CommandError::new(error::NAMESPACE_EXISTS, message));
    }
    if let Some(series) = &asked.timeseries {
        create_timeseries(server, now, op, &namespace, &options, series)?;
    } else if let Some(view_on) = asked.view_on {
        create_view(server, now, op, &namespace, view_on, asked.pipeline, asked.collation)?;
    } else {
        create_unchecked(server, now, op, &namespace, options)?;
    }
    let mut reply = RawDocumentBuf::new();
    if asked.noted {
        reply.append(
            cstr!("note"),
            "The autoIndexId option is deprecated and will be removed in a future release",
        );
    }
    Ok(Outcome::Reply(reply))
}

fn in_order(options: &RawDocument) -> RawDocumentBuf {
    let mut ordered = RawDocumentBuf::new();
    for name in OPTION_ORDER {
        if let Ok(Some(value)) = options.get(name) {
            append(&mut ordered, name, value);
        }
    }
    ordered
}

fn read_option<'a>(
    namespace: &str,
    field: &'a str,
    value: RawBsonRef<'a>,
    options: &mut RawDocumentBuf,
    asked: &mut Asked<'a>,
) -> Result<bool, CommandError> {
    let full = format!("create.{field}");
    match field {
        "capped" => {
            asked.capped = safe_boolean(&full, value)?;
            if asked.capped {
                options.append(cstr!("capped"), true);
            }
        }
        "size" => {
            asked.sized = true;
            let size = safe_i64(&full, value)?;
            if !(1..=CAPPED_SIZE_MAX).contains(&size) {
                let bound = if size < 1 { ">= 1".into() } else { format!("<= {CAPPED_SIZE_MAX}") };
                return Err(CommandError::new(
                    51_024,
                    format!("BSON field 'size' value must be {bound}, actual value '{size}'"),
                ));
            }
            // Rounded up to a multiple of 256, as the server does.
            append_number(options, "size", (size + 255) / 256 * 256);
        }
        "max" => {
            asked.sized = true;
            append_number(options, "max", safe_i64(&full, value)?);
        }
        "validator" => {
            if document(&full, value)?.iter().next().is_some() {
                append(options, field, value);
            }
        }
        "validationLevel" => {
            one_of(&full, value, LEVELS)?;
            append(options, field, value);
        }
        "validationAction" => {
            one_of(&full, value, ACTIONS)?;
            append(options, field, value);
        }
        "viewOn" => {
            let on = string(&full, value)?;
            if on.is_empty() {
                return Err(CommandError::new(error::BAD_VALUE, "'viewOn' cannot be empty"));
            }
            asked.view_on = Some(on);
        }
        "pipeline" => {
            let mut pipeline = RawArrayBuf::new();
            for (number, stage) in array(&full, value)?.into_iter().enumerate() {
                let stage = stage.map_err(super::arguments::malformed)?;
                document(&format!("{full}.{number}"), stage)?;
                pipeline.push(stage);
            }
            asked.pipeline = Some(pipeline);
        }
        "collation" => {
            let spec = document(&full, value)?;
            if spec.iter().next().is_none() {
                return Err(missing_field("create.collation.locale"));
            }
            if let Some(complete) = Collation::parse(spec.into())?.to_document() {
                options.append(cstr!("collation"), complete.clone());
                asked.collation = Some(complete);
            }
        }
        "timeseries" => {
            let series = TimeSeries::read(document(&full, value)?)?;
            options.append(cstr!("timeseries"), series.to_document());
            asked.timeseries = Some(series);
        }
        "expireAfterSeconds" => {
            asked.expires = true;
            let seconds = safe_i64(&full, value)?;
            options.append(cstr!("expireAfterSeconds"), seconds);
        }
        "clusteredIndex" => {
            options.append(cstr!("clusteredIndex"), read_clustered(value)?);
            asked.clustered = true;
        }
        "changeStreamPreAndPostImages" => {
            let images = document(&full, value)?;
            // Off is as good as not said.
            if images.get_bool("enabled").unwrap_or(false) {
                append(options, field, value);
            }
        }
        "storageEngine" | "indexOptionDefaults" => {
            if document(&full, value)?.iter().next().is_some() {
                append(options, field, value);
            }
        }
        "autoIndexId" => {
            if !safe_boolean(&full, value)? {
                return Err(CommandError::new(
                    50_001,
                    format!(
                        "autoIndexId:false is not allowed for collection {namespace} because it can be \
                         replicated"
                    ),
                ));
            }
            asked.noted = true;
            append(options, field, value);
        }
        "temp" => return invalid("the 'temp' field is an invalid option"),
        "idIndex" | "flags" | "encryptedFields" => {}
        _ => return Ok(false),
    }
    Ok(true)
}

fn append_number(options: &mut RawDocumentBuf, field: &str, number: i64) {
    match i32::try_from(number) {
        Ok(number) => append(options, field, RawBsonRef::Int32(number)),
        Err(_) => append(options, field, RawBsonRef::Int64(number)),
    }
}

fn read_clustered(value: RawBsonRef<'_>) -> Result<RawDocumentBuf, CommandError> {
    let RawBsonRef::Document(spec) = value else {
        return Err(CommandError::new(
            5_979_703,
            "The 'clusteredIndex' legacy format {clusteredIndex: <bool>} is only supported for specific \
             internal collections and vice versa",
        ));
    };
    let (mut key, mut unique, mut name) = (None, None, "_id_");
    each_field("create", spec, |field, value| {
        let full = format!("create.{field}");
        match field {
            "v" => {}
            "key" => key = Some(document(&full, value)?),
            "unique" => unique = Some(safe_boolean(&full, value)?),
            "name" => name = string(&full, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let key = key.ok_or_else(|| missing_field("create.key"))?;
    let unique = unique.ok_or_else(|| missing_field("create.unique"))?;
    let of_id = key.iter().count() == 1 && key.get("_id").is_ok_and(|id| id.is_some());
    if !of_id {
        return Err(CommandError::new(
            error::INVALID_INDEX_SPECIFICATION_OPTION,
            "The clusteredIndex option is only supported for key: {_id: 1}",
        ));
    }
    if !unique {
        return Err(CommandError::new(
            5_979_700,
            "The clusteredIndex option requires unique: true to be specified",
        ));
    }
    Ok(rawdoc! { "v": 2, "key": { "_id": 1 }, "name": name, "unique": true })
}

// ---- views

/// Creates a view: a document of `system.views`.
fn create_view(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    on: &str,
    pipeline: Option<RawArrayBuf>,
    collation: Option<RawDocumentBuf>,
) -> Result<(), CommandError> {
    let pipeline = pipeline.unwrap_or_default();
    check_view(server, now, op, namespace, on, &pipeline)?;
    let mut view = rawdoc! { "_id": namespace, "viewOn": on };
    view.append(cstr!("pipeline"), pipeline);
    if let Some(collation) = collation {
        view.append(cstr!("collation"), collation);
    }
    store_view(server, now, op, namespace, view)
}

/// Whether a view may have this definition.
///
/// # Errors
/// 5 GraphContainsCycle, 165 ViewDepthLimitExceeded, 167 OptionNotSupportedOnView, and what the stages
/// say.
pub(super) fn check_view(
    server: &Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    on: &str,
    pipeline: &bson::RawArray,
) -> Result<(), CommandError> {
    let db = split(namespace).0;
    let mut stages = Vec::new();
    for (number, stage) in pipeline.into_iter().enumerate() {
        let stage: Bson = stage.and_then(Bson::try_from).map_err(super::arguments::malformed)?;
        let name = stage.as_document().and_then(|stage| stage.keys().next());
        if let Some(name) = name.filter(|name| matches!(name.as_str(), "$out" | "$merge")) {
            return Err(CommandError::new(
                error::OPTION_NOT_SUPPORTED_ON_VIEW,
                format!(
                    "Invalid pipeline for view {namespace} :: caused by :: The aggregation stage {name} \
                     in location {number} of the pipeline cannot be used in the view definition of \
                     {namespace} because it writes to disk"
                ),
            ));
        }
        stages.push(stage);
    }
    let context = parse_context(server, now, op)?;
    Pipeline::parse_in(Place::View, stages.iter().map(ValueRef::from), &context).map_err(
        |error| match error.code {
            // What is no stage at all is found sooner.
            40_323 | 40_324 => error,
            _ => CommandError {
                message: format!(
                    "Invalid pipeline for view {namespace} :: caused by :: {}",
                    error.message
                ),
                ..error
            },
        },
    )?;
    let mut below = format!("{db}.{on}");
    let mut way = vec![below.clone(), namespace.to_owned()];
    for _ in 0..20 {
        if below == namespace {
            way.insert(0, namespace.to_owned());
            if way.len() == 3 {
                way.rotate_left(1);
            }
            return Err(CommandError::new(
                error::GRAPH_CONTAINS_CYCLE,
                format!("View cycle detected: {}", way.join(" => ")),
            ));
        }
        match view_of(&server.storage, &below, ReadAt::Newest) {
            Some(view) => {
                below = view.on;
                way.insert(0, below.clone());
            }
            None => return Ok(()),
        }
    }
    Err(CommandError::new(
        error::VIEW_DEPTH_LIMIT_EXCEEDED,
        "View depth limit exceeded; maximum depth is 20",
    ))
}

fn store_view(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    view: RawDocumentBuf,
) -> Result<(), CommandError> {
    let views = views_namespace(namespace);
    if server.storage.collection(&views, ReadAt::Newest).is_none() {
        create_unchecked(server, now, op, &views, RawDocumentBuf::new())?;
    }
    insert_stored(server, now, op, &views.into(), view)
}

// ---- time series

impl TimeSeries {
    fn read(spec: &RawDocument) -> Result<TimeSeries, CommandError> {
        let (mut time_field, mut meta_field, mut granularity) = (None, None, "seconds".to_owned());
        each_field("create.timeseries", spec, |field, value| {
            let full = format!("create.timeseries.{field}");
            match field {
                "timeField" => time_field = Some(string(&full, value)?.to_owned()),
                "metaField" => meta_field = Some(string(&full, value)?.to_owned()),
                "granularity" => {
                    one_of(&full, value, &["seconds", "minutes", "hours"])?;
                    granularity = string(&full, value)?.to_owned();
                }
                "bucketMaxSpanSeconds" | "bucketRoundingSeconds" => {
                    safe_i64(&full, value)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let time_field = time_field.ok_or_else(|| missing_field("create.timeseries.timeField"))?;
        if meta_field.as_ref() == Some(&time_field) {
            return invalid("'metaField' cannot be the same as 'timeField'");
        }
        if meta_field.as_deref() == Some("_id") {
            return invalid("'metaField' cannot be \"_id\"");
        }
        for (name, field) in [("timeField", Some(&time_field)), ("metaField", meta_field.as_ref())]
        {
            if field.is_some_and(|field| field.contains('.')) {
                return invalid(format!("'{name}' cannot contain '.'"));
            }
        }
        Ok(TimeSeries { time_field, meta_field, granularity })
    }

    fn span_seconds(&self) -> i32 {
        match self.granularity.as_str() {
            "hours" => 2_592_000,
            "minutes" => 86_400,
            _ => 3_600,
        }
    }

    fn to_document(&self) -> RawDocumentBuf {
        let mut out = rawdoc! { "timeField": self.time_field.as_str() };
        if let Some(meta) = &self.meta_field {
            out.append(cstr!("metaField"), meta.as_str());
        }
        out.append(cstr!("granularity"), self.granularity.as_str());
        out.append(cstr!("bucketMaxSpanSeconds"), self.span_seconds());
        out
    }
}

/// A time series is a collection of buckets and a view that unpacks them.
fn create_timeseries(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    asked: &RawDocument,
    series: &TimeSeries,
) -> Result<(), CommandError> {
    let (db, collection) = split(namespace);
    let time = series.time_field.as_str();
    let edge = || {
        let mut properties = RawDocumentBuf::new();
        let date = rawdoc! { "bsonType": "date" };
        append(&mut properties, time, RawBsonRef::Document(&date));
        rawdoc! { "bsonType": "object", "required": [time], "properties": properties }
    };
    let control = rawdoc! {
        "bsonType": "object",
        "required": ["version", "min", "max"],
        "properties": {
            "version": { "bsonType": "number" }, "min": edge(), "max": edge(),
            "closed": { "bsonType": "bool" },
        },
    };
    let schema = rawdoc! {
        "bsonType": "object",
        "required": ["_id", "control", "data"],
        "properties": {
            "_id": { "bsonType": "objectId" }, "control": control,
            "data": { "bsonType": "object" }, "meta": {},
        },
        "additionalProperties": false,
    };
    let mut options = rawdoc! { "validator": { "$jsonSchema": schema }, "clusteredIndex": true };
    append_all(&mut options, asked);
    let buckets = format!("system.buckets.{collection}");
    create_unchecked(server, now, op, &format!("{db}.{buckets}"), options)?;
    let mut unpack = rawdoc! { "timeField": time };
    if let Some(meta) = &series.meta_field {
        unpack.append(cstr!("metaField"), meta.as_str());
    }
    unpack.append(cstr!("bucketMaxSpanSeconds"), series.span_seconds());
    let mut view = rawdoc! { "_id": namespace, "viewOn": buckets };
    view.append(
        cstr!("pipeline"),
        [rawdoc! { "$_internalUnpackBucket": unpack }].into_iter().collect::<RawArrayBuf>(),
    );
    store_view(server, now, op, namespace, view)
}
