//! Views: pipelines under a name, kept as documents of `system.views`.

use bson::{Bson, RawBsonRef, RawDocumentBuf};

use super::ReadAt;
use crate::mongod::error::{self, CommandError};
use crate::mongod::storage::Storage;

/// How deep views may stand on views.
const MAX_DEPTH: usize = 20;

/// A view as `system.views` has it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The namespace it stands on.
    pub on: String,
    pub pipeline: Vec<Bson>,
    /// Its own collation; without one it is the simple one.
    pub collation: Option<RawDocumentBuf>,
}

/// What is left of a view when the views below it are looked through: a collection, and the stages that
/// make the view of it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub namespace: String,
    pub pipeline: Vec<Bson>,
}

/// The namespace of a database's views.
pub(crate) fn views_namespace(namespace: &str) -> String {
    format!("{}.system.views", super::catalog::split(namespace).0)
}

/// The view of a namespace, if there is one.
pub(crate) fn view_of(storage: &Storage, namespace: &str, at: ReadAt) -> Option<View> {
    let views = storage.collection(&views_namespace(namespace), at)?;
    let (_, document) = views.find_id(RawBsonRef::String(namespace))?;
    let db = super::catalog::split(namespace).0;
    let pipeline = document.get_array("pipeline").ok()?;
    Some(View {
        on: format!("{db}.{}", document.get_str("viewOn").ok()?),
        pipeline: pipeline.into_iter().filter_map(|stage| stage.ok()?.try_into().ok()).collect(),
        collation: document.get_document("collation").ok().map(ToOwned::to_owned),
    })
}

/// Looks through a view down to the collection it is made of; `None` if it is no view.
///
/// # Errors
/// 165 ViewDepthLimitExceeded.
pub(crate) fn resolve(
    storage: &Storage,
    namespace: &str,
    at: ReadAt,
) -> Result<Option<Resolved>, CommandError> {
    if storage.collection(namespace, at).is_some() {
        return Ok(None);
    }
    let Some(mut view) = view_of(storage, namespace, at) else { return Ok(None) };
    for _ in 0..MAX_DEPTH {
        match view_of(storage, &view.on, at) {
            None => return Ok(Some(Resolved { namespace: view.on, pipeline: view.pipeline })),
            Some(below) => {
                let mut pipeline = below.pipeline;
                pipeline.append(&mut view.pipeline);
                view = View { on: below.on, pipeline, ..view };
            }
        }
    }
    Err(CommandError::new(
        error::VIEW_DEPTH_LIMIT_EXCEEDED,
        format!("View depth too deep or view cycle detected; maximum depth is {MAX_DEPTH}"),
    ))
}

/// Refuses what cannot be done to a view.
///
/// # Errors
/// 166 CommandNotSupportedOnView.
pub(crate) fn check_not_view(storage: &Storage, namespace: &str) -> Result<(), CommandError> {
    let is_view = storage.collection(namespace, ReadAt::Newest).is_none()
        && view_of(storage, namespace, ReadAt::Newest).is_some();
    if !is_view {
        return Ok(());
    }
    Err(CommandError::new(
        error::COMMAND_NOT_SUPPORTED_ON_VIEW,
        format!("Namespace {namespace} is a view, not a collection"),
    ))
}
