//! The arguments of an operation, taken one by one so that none is overlooked.

use std::time::Duration;

use bson::{Bson, Document};
use stepdown_driver::options::{
    Acknowledgment, Hint, ReadConcern, ReadConcernLevel, ReadPreference, ReadPreferenceMode,
    ReadPreferenceOptions, TagSet, UpdateModifications, WriteConcern,
};

use super::Failure;

/// Arguments not taken yet.
#[derive(Debug)]
pub struct Arguments {
    of: String,
    left: Document,
}

/// What taking an argument gives.
pub type Taken<T> = Result<T, Failure>;

impl Arguments {
    /// The arguments of the operation `of`.
    pub fn new(of: &str, arguments: Document) -> Self {
        Arguments { of: of.to_owned(), left: arguments }
    }

    /// Any value.
    pub fn take(&mut self, name: &str) -> Option<Bson> {
        self.left.remove(name)
    }

    /// A value that must be there.
    pub fn required(&mut self, name: &str) -> Taken<Bson> {
        let of = &self.of;
        self.left
            .remove(name)
            .ok_or_else(|| Failure::test(format!("{of} lacks the argument {name}")))
    }

    /// A document.
    pub fn document(&mut self, name: &str) -> Taken<Option<Document>> {
        self.typed(name, "a document", |value| match value {
            Bson::Document(document) => Ok(document),
            other => Err(other),
        })
    }

    /// A document, empty if there is none.
    pub fn filter(&mut self) -> Taken<Document> {
        Ok(self.document("filter")?.unwrap_or_default())
    }

    /// A document that must be there.
    pub fn required_document(&mut self, name: &str) -> Taken<Document> {
        self.document(name)?.ok_or_else(|| self.lacks(name))
    }

    /// An array of documents.
    pub fn documents(&mut self, name: &str) -> Taken<Option<Vec<Document>>> {
        self.typed(name, "an array of documents", |value| documents(&value).ok_or(value))
    }

    /// An array of documents that must be there.
    pub fn required_documents(&mut self, name: &str) -> Taken<Vec<Document>> {
        self.documents(name)?.ok_or_else(|| self.lacks(name))
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Taken<Option<String>> {
        self.typed(name, "a string", |value| match value {
            Bson::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// A string that must be there.
    pub fn required_text(&mut self, name: &str) -> Taken<String> {
        self.text(name)?.ok_or_else(|| self.lacks(name))
    }

    /// A boolean.
    pub fn boolean(&mut self, name: &str) -> Taken<Option<bool>> {
        self.typed(name, "a boolean", |value| value.as_bool().ok_or(value))
    }

    /// A whole number.
    pub fn integer(&mut self, name: &str) -> Taken<Option<i64>> {
        self.typed(name, "a whole number", |value| integer(&value).ok_or(value))
    }

    /// A whole number from zero.
    pub fn count(&mut self, name: &str) -> Taken<Option<u64>> {
        let counted = |value: Bson| {
            integer(&value).and_then(|number| u64::try_from(number).ok()).ok_or(value)
        };
        self.typed(name, "a whole number from zero", counted)
    }

    /// A size of a batch.
    pub fn size(&mut self, name: &str) -> Taken<Option<u32>> {
        Ok(self.count(name)?.map(|size| u32::try_from(size).unwrap_or(u32::MAX)))
    }

    /// A time in milliseconds.
    pub fn millis(&mut self, name: &str) -> Taken<Option<Duration>> {
        Ok(self.count(name)?.map(Duration::from_millis))
    }

    /// An index, by its name or its keys.
    pub fn hint(&mut self) -> Taken<Option<Hint>> {
        self.typed("hint", "an index", |value| match value {
            Bson::String(name) => Ok(Hint::Name(name)),
            Bson::Document(keys) => Ok(Hint::Keys(keys)),
            other => Err(other),
        })
    }

    /// A change of documents: operators, or a pipeline.
    pub fn update(&mut self) -> Taken<UpdateModifications> {
        let value = self.required("update")?;
        update(&value).ok_or_else(|| self.wrong("update", "an update", &value))
    }

    /// `readConcern`.
    pub fn read_concern(&mut self) -> Taken<Option<ReadConcern>> {
        Ok(self.document("readConcern")?.as_ref().and_then(read_concern))
    }

    /// `writeConcern`.
    pub fn write_concern(&mut self) -> Taken<Option<WriteConcern>> {
        self.document("writeConcern")?.as_ref().map(write_concern).transpose()
    }

    /// `readPreference`.
    pub fn read_preference(&mut self) -> Taken<Option<ReadPreference>> {
        self.document("readPreference")?.as_ref().map(read_preference).transpose()
    }

    /// Adds an argument.
    pub fn put(&mut self, name: String, value: Bson) {
        self.left.insert(name, value);
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Document {
        std::mem::take(&mut self.left)
    }

    /// The name of the operation.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// An argument is left: it is not known, or not supported.
    pub fn finish(self) -> Taken<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(Failure::test(format!(
                "the argument {name} of {} is not supported by the driver yet",
                self.of
            ))),
        }
    }

    fn typed<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(Bson) -> Result<T, Bson>,
    ) -> Taken<Option<T>> {
        match self.left.remove(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).map_err(|value| self.wrong(name, what, &value)),
        }
    }

    fn lacks(&self, name: &str) -> Failure {
        Failure::test(format!("{} lacks the argument {name}", self.of))
    }

    fn wrong(&self, name: &str, what: &str, value: &Bson) -> Failure {
        Failure::test(format!("the argument {name} of {} is not {what}: {value}", self.of))
    }
}

/// A whole number of any numeric type.
pub fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

/// An array of documents.
pub fn documents(value: &Bson) -> Option<Vec<Document>> {
    value.as_array()?.iter().map(|element| element.as_document().cloned()).collect()
}

/// Operators, or a pipeline.
pub fn update(value: &Bson) -> Option<UpdateModifications> {
    match value {
        Bson::Document(update) => Some(UpdateModifications::Document(update.clone())),
        pipeline => documents(pipeline).map(UpdateModifications::Pipeline),
    }
}

/// A read concern; none if it says nothing.
pub fn read_concern(concern: &Document) -> Option<ReadConcern> {
    concern.get_str("level").ok().map(|level| ReadConcern::new(ReadConcernLevel::from(level)))
}

/// A write concern.
///
/// # Errors
/// If it has fields that are not known.
pub fn write_concern(concern: &Document) -> Taken<WriteConcern> {
    let mut found = WriteConcern::default();
    for (name, value) in concern {
        let millis = || integer(value).and_then(|n| u64::try_from(n).ok());
        match (name.as_str(), value) {
            ("w", Bson::String(name)) => found.w = Some(Acknowledgment::from(name.as_str())),
            ("w", value) => {
                let nodes = integer(value).and_then(|nodes| u32::try_from(nodes).ok());
                found.w = nodes.map(Acknowledgment::Nodes);
            }
            ("journal", value) => found.journal = value.as_bool(),
            ("wtimeoutMS" | "wTimeoutMS", _) => {
                found.w_timeout = millis().map(Duration::from_millis);
            }
            (other, _) => return Err(Failure::test(format!("write concern: unknown {other}"))),
        }
    }
    Ok(found)
}

/// A read preference.
///
/// # Errors
/// If it is not one.
pub fn read_preference(preference: &Document) -> Taken<ReadPreference> {
    let mode = preference.get_str("mode").unwrap_or("primary");
    let modes = [
        ReadPreferenceMode::Primary,
        ReadPreferenceMode::PrimaryPreferred,
        ReadPreferenceMode::Secondary,
        ReadPreferenceMode::SecondaryPreferred,
        ReadPreferenceMode::Nearest,
    ];
    let known = modes.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(mode));
    let mode = known.ok_or_else(|| Failure::test(format!("{mode} is no read preference")))?;
    let mut options = ReadPreferenceOptions::default();
    if let Ok(sets) = preference.get_array("tagSets") {
        let read = |set: &Bson| -> TagSet {
            let tags = set.as_document().into_iter().flatten();
            tags.map(|(tag, value)| (tag.clone(), value.as_str().unwrap_or("").to_owned()))
                .collect()
        };
        options.tag_sets = Some(sets.iter().map(read).collect());
    }
    if let Some(seconds) = preference.get("maxStalenessSeconds").and_then(integer) {
        let seconds = u64::try_from(seconds).ok();
        options.max_staleness = seconds.map(Duration::from_secs);
    }
    ReadPreference::from_parts(mode, options).map_err(Failure::Driver)
}
