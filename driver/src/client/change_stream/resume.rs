//! Where a change stream goes on after an error: pure rules of the change streams specification,
//! "Resume process" and "Updating the cached resume token".

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp};

use crate::error::{Error, ErrorKind, Result, labels};
use crate::options::ChangeStreamOptions;

/// CursorNotFound
const CURSOR_NOT_FOUND: i32 = 43;

/// What a change stream remembers of where it stands.
#[derive(Clone, Debug)]
pub(super) struct Resumption {
    token: Option<RawDocumentBuf>,
    operation_time: Option<Timestamp>,
    /// It was started with `startAfter` and has returned nothing yet.
    start_after: bool,
    /// Somebody said where to start.
    started_somewhere: bool,
}

impl Resumption {
    /// A stream that has not begun.
    pub(super) fn new(options: &ChangeStreamOptions) -> Self {
        let token = options.start_after.as_ref().or(options.resume_after.as_ref());
        Resumption {
            token: token.map(|token| token.as_raw().to_owned()),
            operation_time: options.start_at_operation_time,
            start_after: options.start_after.is_some(),
            started_somewhere: token.is_some() || options.start_at_operation_time.is_some(),
        }
    }

    /// The token it would be resumed with now.
    pub(super) fn token(&self) -> Option<&RawDocumentBuf> {
        self.token.as_ref()
    }

    /// Adds to the stage where to go on.
    pub(super) fn write(&self, stage: &mut Document) -> Result<()> {
        for key in ["resumeAfter", "startAfter", "startAtOperationTime"] {
            stage.remove(key);
        }
        if let Some(token) = &self.token {
            let key = if self.start_after { "startAfter" } else { "resumeAfter" };
            stage.insert(key, Bson::Document(Document::try_from(token)?));
        } else if let Some(time) = self.operation_time {
            stage.insert("startAtOperationTime", time);
        }
        Ok(())
    }

    /// The server answered to the first `aggregate`.
    pub(super) fn opened(&mut self, reply: &RawDocument, empty: bool, token: bool) {
        if !self.started_somewhere && empty && !token {
            self.operation_time = reply.get_timestamp("operationTime").ok();
        }
    }

    /// A batch came that was empty.
    pub(super) fn empty_batch(&mut self, post_batch: Option<&RawDocumentBuf>) {
        if let Some(token) = post_batch {
            self.token = Some(token.clone());
        }
    }

    /// A document goes to the application.
    ///
    /// # Errors
    /// `MissingResumeToken` if it has no `_id`.
    pub(super) fn document(
        &mut self,
        document: &RawDocument,
        last: bool,
        post_batch: Option<&RawDocumentBuf>,
    ) -> Result<()> {
        let Ok(id) = document.get_document("_id") else {
            return Err(Error::new(ErrorKind::MissingResumeToken));
        };
        self.start_after = false;
        self.token = Some(match post_batch.filter(|_| last) {
            Some(token) => token.clone(),
            None => id.to_owned(),
        });
        Ok(())
    }
}

/// Whether the stream goes on after this error of a `getMore` ("Resumable error").
pub(super) fn is_resumable(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(refusal) => {
            refusal.code == CURSOR_NOT_FOUND
                || error.contains_label(labels::RESUMABLE_CHANGE_STREAM_ERROR)
        }
        ErrorKind::Io(_)
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{doc, rawdoc};

    fn stage(resumption: &Resumption) -> Document {
        let mut stage = doc! { "fullDocument": "default" };
        resumption.write(&mut stage).unwrap();
        stage
    }

    #[test]
    fn start_after_holds_until_the_first_document() {
        let token = crate::client::ResumeToken::new(rawdoc! { "_data": "1" });
        let options =
            ChangeStreamOptions { start_after: Some(token), ..ChangeStreamOptions::default() };
        let mut resumption = Resumption::new(&options);
        assert_eq!(stage(&resumption)["startAfter"], doc! { "_data": "1" }.into());
        resumption.document(&rawdoc! { "_id": { "_data": "2" } }, false, None).unwrap();
        assert_eq!(stage(&resumption)["resumeAfter"], doc! { "_data": "2" }.into());
        let post_batch = rawdoc! { "_data": "4" };
        let document = rawdoc! { "_id": { "_data": "3" } };
        resumption.document(&document, true, Some(&post_batch)).unwrap();
        assert_eq!(stage(&resumption)["resumeAfter"], doc! { "_data": "4" }.into());
        assert!(resumption.document(&rawdoc! { "x": 1 }, false, None).is_err());
    }

    #[test]
    fn the_operation_time_is_kept_only_where_there_is_nothing_better() {
        let time = Timestamp { time: 5, increment: 1 };
        let reply = rawdoc! { "operationTime": time };
        let mut resumption = Resumption::new(&ChangeStreamOptions::default());
        resumption.opened(&reply, true, true);
        assert_eq!(stage(&resumption), doc! { "fullDocument": "default" });
        resumption.opened(&reply, true, false);
        assert_eq!(stage(&resumption)["startAtOperationTime"], time.into());
        resumption.empty_batch(Some(&rawdoc! { "_data": "9" }));
        assert_eq!(stage(&resumption)["resumeAfter"], doc! { "_data": "9" }.into());
        assert!(!stage(&resumption).contains_key("startAtOperationTime"));
    }
}
