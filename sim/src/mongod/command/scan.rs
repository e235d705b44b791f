//! Finding documents: which access path a filter takes, and scans that go on where they stopped.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, Uuid};

use super::ReadAt;
use super::cursor::Batch;
use super::plan::{Examined, Query, plan};
use crate::mongod::Mongod;
use crate::mongod::error::{self, CommandError};
use crate::mongod::optime::Ts;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::matcher::{MatchDetails, Matcher};
use crate::mongod::query::project::Projection;
use crate::mongod::query::value::{DocumentRef, to_raw};
use crate::mongod::storage::{CollectionView, RecordId};

/// A document a filter found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub record: RecordId,
    pub document: Arc<RawDocumentBuf>,
    pub details: MatchDetails,
}

/// The documents that match, at most `limit`, in the order of the access path: natural order, or that
/// of the index that gives them.
pub(crate) fn find_matching(
    view: &CollectionView<'_>,
    matcher: &Matcher,
    collation: Collation,
    limit: usize,
) -> Result<Vec<Found>, CommandError> {
    let plan = plan(view, Query::of(matcher, collation))?;
    plan.run(view, matcher, limit, &mut Examined::default())
}

/// The same, sorted; with a hint of which index to use.
pub(crate) fn find_sorted(
    view: &CollectionView<'_>,
    query: Query<'_>,
    limit: usize,
) -> Result<Vec<Found>, CommandError> {
    let plan = plan(view, query)?;
    let wanted = if plan.sorted { limit } else { usize::MAX };
    let mut found = plan.run(view, query.matcher, wanted, &mut Examined::default())?;
    if let Some(sort) = query.sort.filter(|_| !plan.sorted) {
        sort.sort_by_document(&mut found, |found| DocumentRef::from(&*found.document));
        found.truncate(limit);
    }
    Ok(found)
}

fn matched(
    matcher: &Matcher,
    record: RecordId,
    document: &Arc<RawDocumentBuf>,
) -> Result<Option<Found>, CommandError> {
    let details = matcher.match_details(&**document)?;
    Ok(details.map(|details| Found { record, document: document.clone(), details }))
}

/// A scan that can be left and taken up again.
#[derive(Debug)]
pub(crate) struct Scan {
    pub target: Target,
    pub matcher: Matcher,
    pub output: Output,
    /// Documents still to be passed over.
    pub skip: u64,
    /// Documents still to be given; `None` without a limit.
    pub limit: Option<u64>,
    pub tailable: bool,
}

/// What is scanned, and how far it is.
#[derive(Debug)]
pub(crate) enum Target {
    /// A collection in natural order, or backwards.
    Collection { namespace: String, uuid: Uuid, last: Option<RecordId>, backwards: bool },
    /// `local.oplog.rs`, after a timestamp, or backwards; `read` once that timestamp is one it was at.
    Oplog { last: Ts, read: bool, backwards: bool },
}

/// What is made of a document that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    pub projection: Option<Projection>,
    pub show_record_id: bool,
}

impl Output {
    /// The document as the client gets it.
    pub(crate) fn of(&self, found: &Found) -> Result<Arc<RawDocumentBuf>, CommandError> {
        if self.projection.is_none() && !self.show_record_id {
            return Ok(found.document.clone());
        }
        let mut document = match &self.projection {
            Some(projection) => {
                let whole = decode(&found.document)?;
                to_raw(&projection.apply(&whole, Some(found.details))?)
            }
            None => (*found.document).clone(),
        };
        if self.show_record_id {
            document.append(cstr!("$recordId"), found.record.0 as i64);
        }
        Ok(Arc::new(document))
    }
}

impl Scan {
    /// Fills a batch; true if nothing is left.
    pub(crate) fn fill(
        &mut self,
        server: &Mongod,
        at: ReadAt,
        batch: &mut Batch,
    ) -> Result<bool, CommandError> {
        match &self.target {
            Target::Collection { namespace, uuid, last, backwards } => {
                let (last, backwards) = (*last, *backwards);
                let view = server.storage.collection(namespace, at);
                let Some(view) = view.filter(|view| view.uuid() == *uuid) else {
                    return Err(CommandError::new(
                        error::QUERY_PLAN_KILLED,
                        format!("collection dropped. UUID {uuid}"),
                    ));
                };
                if self.tailable && last.is_some_and(|last| view.get(last).is_none()) {
                    return Err(CommandError::new(
                        error::CAPPED_POSITION_LOST,
                        format!(
                            "Executor error during getMore :: caused by :: CollectionScan died due \
                             to failure to restore tailable cursor position. Last seen record id: \
                             RecordId({})",
                            last.map_or(0, |last| last.0)
                        ),
                    ));
                }
                if backwards {
                    self.take(view.scan_between(None, last).rev(), batch)
                } else {
                    self.take(view.scan(last), batch)
                }
            }
            Target::Oplog { last, read, backwards } => {
                let (last, read, backwards) = (*last, *read, *backwards);
                let until = match at {
                    ReadAt::Newest => Ts::MAX,
                    ReadAt::Timestamp(ts) => ts,
                };
                let oplog = server.storage.oplog();
                if backwards {
                    let entries = oplog.iter().rev();
                    let entries = entries
                        .filter(|entry| entry.optime.ts <= until && entry.optime.ts < last)
                        .map(|entry| (RecordId(entry.optime.ts.0), Arc::new(entry.to_document())));
                    self.take(entries, batch)
                } else {
                    // A reader whose place has fallen off the end must not miss it.
                    let oldest = oplog.oldest().map_or(Ts::NULL, |entry| entry.optime.ts);
                    if read && last < oldest {
                        return Err(CommandError::new(
                            error::CAPPED_POSITION_LOST,
                            "CollectionScan died due to position in capped collection being deleted.",
                        ));
                    }
                    let entries = oplog
                        .iter_after(last)
                        .take_while(|entry| entry.optime.ts <= until)
                        .map(|entry| (RecordId(entry.optime.ts.0), Arc::new(entry.to_document())));
                    self.take(entries, batch)
                }
            }
        }
    }

    fn take<D>(
        &mut self,
        documents: impl Iterator<Item = (RecordId, D)>,
        batch: &mut Batch,
    ) -> Result<bool, CommandError>
    where
        D: std::borrow::Borrow<Arc<RawDocumentBuf>>,
    {
        for (record, document) in documents {
            if self.limit == Some(0) {
                return Ok(true);
            }
            // A full batch is not asked whether more would come, as on the server.
            if batch.is_full() {
                return Ok(false);
            }
            if let Some(found) = matched(&self.matcher, record, document.borrow())? {
                if self.skip > 0 {
                    self.skip -= 1;
                } else {
                    let document = self.output.of(&found)?;
                    if !batch.push(&document) {
                        return Ok(false);
                    }
                    if let Some(limit) = &mut self.limit {
                        *limit -= 1;
                    }
                }
            }
            match &mut self.target {
                Target::Collection { last, .. } => *last = Some(record),
                Target::Oplog { last, read, .. } => {
                    *last = Ts(record.0);
                    *read = true;
                }
            }
        }
        Ok(self.limit == Some(0) || !batch.is_full())
    }
}

/// Where a scan of the oplog may begin: after the last timestamp that a filter on `ts` rules out.
pub(crate) fn oplog_start(filter: &RawDocument) -> Ts {
    let from = match filter.get("ts") {
        Ok(Some(RawBsonRef::Timestamp(ts))) => Some(Ts::from(ts)),
        Ok(Some(RawBsonRef::Document(range))) => ["$gte", "$gt", "$eq"]
            .iter()
            .filter_map(|bound| range.get_timestamp(bound).ok())
            .map(Ts::from)
            .max(),
        _ => None,
    };
    from.map_or(Ts::NULL, |from| Ts(from.0.saturating_sub(1)))
}

/// The decoded document.
pub(crate) fn decode(document: &RawDocument) -> Result<Document, CommandError> {
    Document::try_from(document).map_err(super::arguments::malformed)
}
