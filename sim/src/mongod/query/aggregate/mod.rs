//! Aggregation pipelines: parsed once, then run over documents.

use bson::Document;

use crate::mongod::error::{self, CommandError};

use super::context::ParseContext;
use super::matcher::Matcher;
use super::value::{DocumentRef, ValueRef};

mod accumulator;
mod bucket_auto;
mod graph;
mod group;
mod join;
mod output;
mod redact;
mod stage;
#[cfg(test)]
mod tests;
mod unpack;
mod window;

pub(in crate::mongod::query) use accumulator::{Deviation, checked_count};
pub use output::{Merge, PipelineOutput, Target, WhenMatched, WhenNotMatched};
use stage::Stage;

/// A parsed pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    stages: Vec<Stage>,
    output: Option<PipelineOutput>,
}

/// Where a pipeline stands: what stages it may have depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An `aggregate` command's own.
    Command,
    /// Inside `$facet`.
    Facet,
    /// Inside `$lookup`.
    Lookup,
    /// Inside `$unionWith`.
    UnionWith,
    /// A view's.
    View,
}

/// What stages ask of the world while they run.
pub trait PipelineContext {
    /// The documents of another collection of the same database, as of the command's read.
    ///
    /// # Errors
    /// What reading it says; a collection that does not exist is empty, not an error.
    fn collection(&mut self, name: &str) -> Result<Vec<Document>, CommandError>;

    /// Those of its documents that a filter lets through, if an index finds them; `None` if reading the
    /// whole collection once is as good.
    ///
    /// # Errors
    /// As [`Self::collection`].
    fn find_by_index(
        &mut self,
        _name: &str,
        _filter: &Matcher,
    ) -> Result<Option<Vec<Document>>, CommandError> {
        Ok(None)
    }

    /// A uniform random number below `bound`, for `$sample`.
    fn random_below(&mut self, bound: u64) -> u64;
}

impl Pipeline {
    /// Parses the stages of an `aggregate` command.
    ///
    /// # Errors
    /// 40323 for a stage that is not one field, 40324 for an unknown stage, and what single stages say
    /// about their arguments.
    pub fn parse<'a>(
        stages: impl IntoIterator<Item = ValueRef<'a>>,
        context: &ParseContext,
    ) -> Result<Pipeline, CommandError> {
        Pipeline::parse_in(Place::Command, stages, context)
    }

    /// The same in another place.
    ///
    /// # Errors
    /// As [`Self::parse`], and what must not stand there.
    pub fn parse_in<'a>(
        place: Place,
        stages: impl IntoIterator<Item = ValueRef<'a>>,
        context: &ParseContext,
    ) -> Result<Pipeline, CommandError> {
        let mut pipeline = Pipeline { stages: Vec::new(), output: None };
        let stages: Vec<ValueRef<'a>> = stages.into_iter().collect();
        let count = stages.len();
        for (number, stage) in stages.into_iter().enumerate() {
            let ValueRef::Document(stage) = stage else {
                let message = "Each element of the 'pipeline' array must be an object";
                return Err(CommandError::new(error::TYPE_MISMATCH, message));
            };
            let (name, value) = single_field(stage)?;
            check_place(place, name)?;
            if FIRST_ONLY.contains(&name) && number > 0 {
                return Err(CommandError::new(
                    40602,
                    format!("{name} is only valid as the first stage in a pipeline"),
                ));
            }
            if let Some(output) = PipelineOutput::parse(name, value, context)? {
                if number + 1 < count {
                    return Err(CommandError::new(
                        40601,
                        format!("{name} can only be the final stage in the pipeline"),
                    ));
                }
                pipeline.output = Some(output);
                continue;
            }
            pipeline.stages.push(Stage::parse(name, value, context)?);
        }
        Ok(pipeline)
    }

    /// What it does with its results beside giving them.
    pub fn output(&self) -> Option<&PipelineOutput> {
        self.output.as_ref()
    }

    /// The sort that comes first, or right behind a leading filter: an index may serve it.
    pub fn leading_sort(&self) -> Option<&super::sort::SortPattern> {
        let first = usize::from(matches!(self.stages.first(), Some(Stage::Match(_))));
        match self.stages.get(first) {
            Some(Stage::Sort(sort)) => Some(sort),
            _ => None,
        }
    }

    /// Whether it brings its own documents (`$documents`), so that it may run without a collection.
    pub fn brings_documents(&self) -> bool {
        matches!(self.stages.first(), Some(Stage::Documents(_)))
    }

    /// The filter of a leading `$match`: which documents need be read at all. Running the pipeline
    /// filters again, which changes nothing.
    pub fn leading_match(&self) -> Option<&Matcher> {
        match self.stages.first() {
            Some(Stage::Match(matcher)) => Some(matcher),
            _ => None,
        }
    }

    /// The names of the other collections it reads.
    pub fn foreign_collections(&self) -> Vec<&str> {
        self.stages.iter().flat_map(Stage::foreign_collections).collect()
    }

    /// Runs it over the documents of its collection, in their order.
    ///
    /// # Errors
    /// What stages fail with.
    pub fn run(
        &self,
        documents: Vec<Document>,
        context: &mut dyn PipelineContext,
    ) -> Result<Vec<Document>, CommandError> {
        self.stages.iter().try_fold(documents, |documents, stage| stage.run(documents, context))
    }
}

/// Whether `name` is a stage this server knows.
pub(super) fn is_stage(name: &str) -> bool {
    STAGES.contains(&name)
}

/// Every stage this server runs.
const STAGES: [&str; 34] = [
    "$addFields",
    "$bucket",
    "$bucketAuto",
    "$changeStream",
    "$collStats",
    "$count",
    "$currentOp",
    "$densify",
    "$documents",
    "$facet",
    "$fill",
    "$graphLookup",
    "$group",
    "$indexStats",
    "$limit",
    "$listLocalSessions",
    "$lookup",
    "$match",
    "$merge",
    "$out",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$set",
    "$setWindowFields",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unionWith",
    "$unset",
    "$unwind",
    "$listSessions",
];

/// Stages that bring their own documents.
const FIRST_ONLY: [&str; 7] = [
    "$changeStream",
    "$collStats",
    "$currentOp",
    "$documents",
    "$indexStats",
    "$listLocalSessions",
    "$listSessions",
];

/// Refuses stages where they must not stand.
fn check_place(place: Place, name: &str) -> Result<(), CommandError> {
    let writes = matches!(name, "$out" | "$merge");
    let (code, message) = match place {
        Place::Command => return Ok(()),
        Place::Facet if writes || FIRST_ONLY.contains(&name) || name == "$facet" => {
            (40600, format!("{name} is not allowed to be used within a $facet stage"))
        }
        Place::Lookup if writes || name == "$changeStream" => {
            (51047, format!("{name} is not allowed within a $lookup's sub-pipeline"))
        }
        Place::UnionWith if writes || name == "$changeStream" => {
            (31441, format!("{name} is not allowed within a $unionWith's sub-pipeline"))
        }
        Place::View if writes || name == "$changeStream" => (
            error::OPTION_NOT_SUPPORTED_ON_VIEW,
            "The aggregation stage ".to_owned() + name + " cannot be used in a view definition",
        ),
        _ => return Ok(()),
    };
    Err(CommandError::new(code, message))
}

fn single_field<'a>(stage: DocumentRef<'a>) -> Result<(&'a str, ValueRef<'a>), CommandError> {
    let mut fields = stage.iter();
    match (fields.next(), fields.next()) {
        (Some(field), None) => Ok(field),
        _ => Err(CommandError::new(
            40323,
            "A pipeline stage specification object must contain exactly one field.",
        )),
    }
}
