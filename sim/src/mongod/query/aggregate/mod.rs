//! Aggregation pipelines.

/// Whether `name` is a stage this server knows.
pub(super) fn is_stage(name: &str) -> bool {
    STAGES.contains(&name)
}

/// Every stage this server runs.
const STAGES: [&str; 20] = [
    "$addFields",
    "$bucket",
    "$count",
    "$documents",
    "$facet",
    "$group",
    "$limit",
    "$lookup",
    "$match",
    "$project",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$set",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unionWith",
    "$unset",
    "$unwind",
];
