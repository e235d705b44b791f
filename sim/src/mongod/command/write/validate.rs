//! Validators: what a collection demands of its documents.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocumentBuf, rawdoc};
use stepdown_driver::Instant;

use super::insert::id_document;
use crate::mongod::Mongod;
use crate::mongod::command::context::parse_context;
use crate::mongod::command::scan::decode;
use crate::mongod::command::{Operation, ReadAt};
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::matcher::failure::details;
use crate::mongod::query::value::{ValueRef, to_raw};
use crate::mongod::query::{Matcher, ParseContext};

/// A collection's `validator`, where documents are to be refused by it.
pub(crate) struct Validator {
    matcher: Option<Matcher>,
    /// What it was parsed from.
    filter: Option<(Arc<RawDocumentBuf>, ParseContext)>,
    /// `validationLevel: "moderate"`: documents that were wrong before may stay so.
    moderate: bool,
}

impl Validator {
    /// The validator of a collection; nothing is refused if it has none, if its level is `off` or its
    /// action not `error`, or if the client bypasses it.
    pub(crate) fn of(
        server: &Mongod,
        now: Instant,
        op: &Operation,
        namespace: &str,
    ) -> Result<Validator, CommandError> {
        let mut validator = Validator { matcher: None, filter: None, moderate: false };
        let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else {
            return Ok(validator);
        };
        let options = view.options();
        let Ok(filter) = options.get_document("validator") else { return Ok(validator) };
        let bypass = op.body.get("bypassDocumentValidation").ok().flatten();
        let level = options.get_str("validationLevel").unwrap_or("strict");
        let action = options.get_str("validationAction").unwrap_or("error");
        let bypass = bypass.is_some_and(|bypass| ValueRef::from(bypass).is_truthy());
        if !bypass && level != "off" && action == "error" && !filter.is_empty() {
            let context = parse_context(server, now, op)?;
            validator.matcher = Some(Matcher::parse(filter, &context)?);
            validator.filter = Some((options.clone(), context));
            validator.moderate = level == "moderate";
        }
        Ok(validator)
    }

    /// Checks a document about to be written, in place of `before`.
    ///
    /// # Errors
    /// 121 DocumentValidationFailure.
    pub(crate) fn check(
        &self,
        document: &RawDocumentBuf,
        before: Option<&RawDocumentBuf>,
    ) -> Result<(), CommandError> {
        let Some(matcher) = &self.matcher else { return Ok(()) };
        if matcher.matches(document)? {
            return Ok(());
        }
        if let Some(before) = before.filter(|_| self.moderate)
            && !matcher.matches(before)?
        {
            return Ok(());
        }
        let id = id_document(document);
        let id = id.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
        let mut info = RawDocumentBuf::new();
        info.append(bson::raw::cstr!("failingDocumentId"), id);
        if let Some((options, context)) = &self.filter
            && let Ok(filter) = options.get_document("validator")
            && let Some(details) = details(filter.into(), &decode(document)?, context)?
        {
            info.append(bson::raw::cstr!("details"), to_raw(&details));
        }
        Err(CommandError::new(error::DOCUMENT_VALIDATION_FAILURE, "Document failed validation")
            .with_extra(rawdoc! { "errInfo": info }))
    }
}
