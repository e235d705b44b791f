//! `$_internalUnpackBucket`: the measurements of a time series' buckets.

use bson::{Bson, Document};

use crate::mongod::error::CommandError;
use crate::mongod::query::value::ValueRef;

/// `$_internalUnpackBucket`.
#[derive(Clone, Debug)]
pub(super) struct Unpack {
    time_field: String,
    meta_field: Option<String>,
}

impl Unpack {
    pub(super) fn parse(value: ValueRef<'_>) -> Result<Unpack, CommandError> {
        let text = |name: &str| {
            let value = value.as_document().and_then(|spec| spec.get(name));
            value.and_then(ValueRef::as_str).map(str::to_owned)
        };
        match text("timeField") {
            Some(time_field) => Ok(Unpack { time_field, meta_field: text("metaField") }),
            None => Err(CommandError::new(
                5_346_508,
                "The $_internalUnpackBucket stage requires a timeField parameter",
            )),
        }
    }

    pub(super) fn run(&self, buckets: Vec<Document>) -> Vec<Document> {
        let mut measurements = Vec::new();
        for bucket in buckets {
            let Ok(data) = bucket.get_document("data") else { continue };
            let Ok(times) = data.get_document(&self.time_field) else { continue };
            for place in times.keys() {
                let mut measurement = Document::new();
                // The time first, then the meta field, then everything else.
                let cell =
                    |field: &str| data.get(field).and_then(Bson::as_document)?.get(place).cloned();
                measurement.insert(&self.time_field, cell(&self.time_field));
                if let (Some(name), Some(meta)) = (&self.meta_field, bucket.get("meta")) {
                    measurement.insert(name, meta.clone());
                }
                for field in data.keys().filter(|field| **field != self.time_field) {
                    if let Some(value) = cell(field) {
                        measurement.insert(field, value);
                    }
                }
                measurements.push(measurement);
            }
        }
        measurements
    }
}
