//! Inserts into time series: each measurement is a bucket of its own.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::BatchResult;
use super::insert::insert_stored;
use crate::mongod::Mongod;
use crate::mongod::command::catalog::append;
use crate::mongod::command::views::view_of;
use crate::mongod::command::{Operation, ReadAt};
use crate::mongod::error::{self, CommandError};

/// Where a time series keeps its measurements.
pub(super) struct Series {
    buckets: Arc<str>,
    time_field: String,
    meta_field: Option<String>,
}

impl Series {
    /// The time series of a namespace, if it is one.
    pub(super) fn of(server: &Mongod, namespace: &str) -> Option<Series> {
        if server.storage.collection(namespace, ReadAt::Newest).is_some() {
            return None;
        }
        let view = view_of(&server.storage, namespace, ReadAt::Newest)?;
        let buckets = server.storage.collection(&view.on, ReadAt::Newest)?;
        let options = buckets.options().get_document("timeseries").ok()?;
        Some(Series {
            buckets: view.on.into(),
            time_field: options.get_str("timeField").ok()?.to_owned(),
            meta_field: options.get_str("metaField").ok().map(str::to_owned),
        })
    }

    /// Inserts measurements.
    pub(super) fn insert(
        &self,
        server: &mut Mongod,
        now: Instant,
        op: &Operation,
        measurements: &[&RawDocument],
        ordered: bool,
    ) -> BatchResult {
        let mut result = BatchResult::default();
        for (index, measurement) in measurements.iter().enumerate() {
            let inserted = self
                .bucket(server, now, measurement)
                .and_then(|bucket| insert_stored(server, now, op, &self.buckets, bucket));
            match inserted {
                Ok(()) => result.n += 1,
                Err(error) => {
                    result.fail(index, &error);
                    if ordered {
                        break;
                    }
                }
            }
        }
        result
    }

    /// The bucket of one measurement.
    fn bucket(
        &self,
        server: &mut Mongod,
        now: Instant,
        measurement: &RawDocument,
    ) -> Result<RawDocumentBuf, CommandError> {
        let time = match measurement.get(&self.time_field) {
            Ok(Some(time @ RawBsonRef::DateTime(_))) => time,
            _ => {
                return Err(CommandError::new(
                    error::BAD_VALUE,
                    format!(
                        "'{}' must be present and contain a valid BSON UTC datetime value",
                        self.time_field
                    ),
                ));
            }
        };
        let (mut edges, mut data) = (RawDocumentBuf::new(), RawDocumentBuf::new());
        let mut meta = None;
        let mut put = |field: &str, value: RawBsonRef<'_>| {
            append(&mut edges, field, value);
            let mut column = RawDocumentBuf::new();
            column.append(cstr!("0"), value);
            append(&mut data, field, RawBsonRef::Document(&column));
        };
        put(&self.time_field, time);
        if measurement.get("_id").is_ok_and(|id| id.is_none()) {
            put("_id", RawBsonRef::ObjectId(server.new_object_id(now)));
        }
        for (field, value) in measurement.iter().map_while(Result::ok) {
            if Some(field.as_str()) == self.meta_field.as_deref() {
                meta = Some(value);
            } else if field.as_str() != self.time_field {
                put(field.as_str(), value);
            }
        }
        let mut bucket = rawdoc! {
            "_id": server.new_object_id(now),
            "control": { "version": 1, "min": edges.clone(), "max": edges },
        };
        if let Some(meta) = meta {
            bucket.append(cstr!("meta"), meta);
        }
        bucket.append(cstr!("data"), data);
        Ok(bucket)
    }
}
