//! Aggregation pipelines: parsed once, then run over documents.

use bson::Document;

use crate::mongod::error::{self, CommandError};

use super::context::ParseContext;
use super::matcher::Matcher;
use super::value::{DocumentRef, ValueRef};

mod group;
mod join;
mod stage;
#[cfg(test)]
mod tests;

use stage::Stage;

/// A parsed pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    stages: Vec<Stage>,
}

/// What stages ask of the world while they run.
pub trait PipelineContext {
    /// The documents of another collection of the same database, as of the command's read.
    ///
    /// # Errors
    /// What reading it says; a collection that does not exist is empty, not an error.
    fn collection(&mut self, name: &str) -> Result<Vec<Document>, CommandError>;

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
        let mut parsed = Vec::new();
        for stage in stages {
            let ValueRef::Document(stage) = stage else {
                let message = "Each element of the 'pipeline' array must be an object";
                return Err(CommandError::new(error::TYPE_MISMATCH, message));
            };
            let (name, value) = single_field(stage)?;
            let stage = Stage::parse(name, value, context)?;
            if matches!(stage, Stage::Documents(_)) && !parsed.is_empty() {
                return Err(CommandError::new(
                    40602,
                    "$documents is only valid as the first stage in a pipeline",
                ));
            }
            parsed.push(stage);
        }
        Ok(Pipeline { stages: parsed })
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
