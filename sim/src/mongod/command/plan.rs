//! Which way a query goes to its documents: by an index, or by all of them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawBsonRef};

use super::scan::Found;
use crate::mongod::error::{self, CommandError};
use crate::mongod::query::Matcher;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::key::append_key;
use crate::mongod::query::matcher::Condition;
use crate::mongod::query::sort::SortPattern;
use crate::mongod::query::value::ValueRef;
use crate::mongod::storage::{CollectionView, IndexSpec, RecordId};

/// More ranges than this and fewer fields of an index are used.
const MAX_RANGES: usize = 1000;
/// So many keys of each index are looked at to compare them.
const TRIAL_KEYS: usize = 200;

/// The way to the documents.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Every document in natural order.
    Collection,
    /// The one document of an `_id`.
    Id(Bson),
    Index(IndexScan),
    /// The indexes that the branches of an `$or` take.
    Union(Vec<IndexScan>),
}

/// Ranges of an index.
/// A range of encoded keys.
type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

#[derive(Clone, Debug)]
pub(crate) struct IndexScan {
    pub spec: Arc<IndexSpec>,
    pub multikey: bool,
    pub backwards: bool,
    /// What each field of the index is bounded by, in the order of the scan.
    pub bounds: Vec<Vec<Interval>>,
    ranges: Vec<KeyRange>,
}

/// A plan, and whether what it gives is sorted as was asked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub access: Access,
    pub sorted: bool,
}

/// What a scan looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Examined {
    pub keys: u64,
    pub documents: u64,
}

/// Values between two others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interval {
    pub low: Bson,
    pub low_included: bool,
    pub high: Bson,
    pub high_included: bool,
}

/// What a query asks of a plan.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub matcher: &'a Matcher,
    pub sort: Option<&'a SortPattern>,
    pub hint: Option<RawBsonRef<'a>>,
    pub collation: Collation,
}

impl<'a> Query<'a> {
    /// A filter alone.
    pub(crate) fn of(matcher: &'a Matcher, collation: Collation) -> Self {
        Query { matcher, sort: None, hint: None, collation }
    }
}

/// Chooses the way to the documents of a query.
///
/// # Errors
/// 2 BadValue: a hint that names no index.
pub(crate) fn plan(view: &CollectionView<'_>, query: Query<'_>) -> Result<Plan, CommandError> {
    let sort = query.sort.filter(|sort| !sort.is_empty());
    let unsorted = Plan { access: Access::Collection, sorted: sort.is_none() };
    let hinted = match hinted(view, query.hint)? {
        Hint::None => None,
        Hint::Natural => return Ok(unsorted),
        Hint::Index(spec) => Some(spec),
    };
    if hinted.is_none()
        && let Some(id) = exact_id(query.matcher, query.collation)
    {
        return Ok(Plan { access: Access::Id(id), sorted: true });
    }
    // What each candidate costs by a trial of its first keys; the first of the cheapest wins.
    let mut best: Option<(usize, Plan)> = None;
    for (spec, multikey) in view.indexes() {
        let forced = hinted.as_ref().is_some_and(|hinted| Arc::ptr_eq(hinted, spec));
        if hinted.is_some() && !forced {
            continue;
        }
        let Some((scan, sorted)) = index_scan(spec, multikey, query, sort, forced) else {
            continue;
        };
        let keys = scan.entries(view).take(TRIAL_KEYS).count();
        let cost = if sorted || sort.is_none() { keys } else { keys * 2 + 1 };
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, Plan { access: Access::Index(scan), sorted }));
        }
    }
    if let Some((_, plan)) = best {
        return Ok(plan);
    }
    if let Some(union) = union(view, query) {
        return Ok(Plan { access: Access::Union(union), sorted: sort.is_none() });
    }
    Ok(unsorted)
}

enum Hint {
    None,
    Natural,
    Index(Arc<IndexSpec>),
}

fn hinted(view: &CollectionView<'_>, hint: Option<RawBsonRef<'_>>) -> Result<Hint, CommandError> {
    let found = match hint {
        None => return Ok(Hint::None),
        Some(RawBsonRef::String(name)) => {
            view.indexes().map(|(spec, _)| spec).find(|spec| &*spec.name == name)
        }
        Some(RawBsonRef::Document(key)) if key.is_empty() => return Ok(Hint::None),
        Some(RawBsonRef::Document(key)) if key.get("$natural").is_ok_and(|at| at.is_some()) => {
            return Ok(Hint::Natural);
        }
        Some(RawBsonRef::Document(key)) => view
            .indexes()
            .map(|(spec, _)| spec)
            .find(|spec| spec.key_pattern().as_bytes() == key.as_bytes()),
        Some(_) => {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "Hint must be a string or an object",
            ));
        }
    };
    match found {
        Some(spec) if !spec.hidden => Ok(Hint::Index(spec.clone())),
        _ => Err(CommandError::new(
            error::BAD_VALUE,
            "hint provided does not correspond to an existing index",
        )),
    }
}

/// The `_id` that is all a filter asks for.
fn exact_id(matcher: &Matcher, collation: Collation) -> Option<Bson> {
    let id = matcher.only_equality("_id")?;
    (collation == Collation::Simple || !holds_text(&id)).then_some(id)
}

/// The scans of the branches of an `$or`, if each has one.
fn union(view: &CollectionView<'_>, query: Query<'_>) -> Option<Vec<IndexScan>> {
    let branches = query.matcher.alternatives()?;
    let mut scans = Vec::new();
    for branch in &branches {
        let query = Query { matcher: branch, sort: None, hint: None, ..query };
        let scan = view.indexes().find_map(|(spec, multikey)| {
            index_scan(spec, multikey, query, None, false).map(|(scan, _)| scan)
        })?;
        scans.push(scan);
    }
    Some(scans)
}

/// The scan of one index that serves a query, and whether it gives the order asked for.
fn index_scan(
    spec: &Arc<IndexSpec>,
    multikey: bool,
    query: Query<'_>,
    sort: Option<&SortPattern>,
    forced: bool,
) -> Option<(IndexScan, bool)> {
    if spec.hidden || spec.pattern.is_special() {
        return None;
    }
    if let Some(filter) = spec.filter()
        && !query.matcher.implies(filter)
        && !forced
    {
        return None;
    }
    // The keys on `_id` do not know the collection's collation.
    let of_id = spec.is_id();
    let own = if of_id { Collation::Simple } else { spec.collation() };
    let same_order = own == query.collation;
    let mut bounds: Vec<Vec<Interval>> = Vec::new();
    let mut bounded = true;
    for field in spec.pattern.fields() {
        // What a number in a path means depends on the document: left to the scan.
        let numbered =
            field.path.split('.').any(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let conditions =
            if numbered { Vec::new() } else { query.matcher.conditions_on(&field.path) };
        let intervals = intervals(&conditions, multikey, spec.sparse)
            .filter(|intervals| same_order || !intervals.iter().any(Interval::holds_text));
        if bounds.is_empty() && intervals.is_none() {
            bounded = false;
        }
        bounds.push(intervals.unwrap_or_else(|| vec![Interval::all()]));
    }
    let points = |at: usize| bounds[at].len() == 1 && bounds[at][0].is_point();
    let mut sorted = sort.is_none();
    let mut backwards = false;
    if let Some(sort) = sort
        && same_order
        && !(multikey && sort_meets_arrays(spec, sort))
        && spec.filter().is_none_or(|filter| query.matcher.implies(filter))
        && (!spec.sparse || bounded)
        && let Some(direction) = direction(spec, sort, &points)
    {
        sorted = true;
        backwards = direction;
    }
    let useful = bounded || forced || (sort.is_some() && sorted);
    let complete = !spec.sparse || bounded || forced;
    if !useful || !complete {
        return None;
    }
    let ranges = ranges(spec, &bounds, own);
    let mut scan = IndexScan { spec: spec.clone(), multikey, backwards, bounds, ranges };
    scan.turn();
    Some((scan, sorted))
}

/// Arrays have one key per element: their order is that of the least or the greatest.
fn sort_meets_arrays(spec: &IndexSpec, sort: &SortPattern) -> bool {
    sort.fields().any(|(path, _)| spec.pattern.fields().iter().any(|field| field.path == path))
}

/// Whether an index gives the order of a sort: forwards (false) or backwards (true).
fn direction(
    spec: &IndexSpec,
    sort: &SortPattern,
    is_point: &dyn Fn(usize) -> bool,
) -> Option<bool> {
    let wanted: Vec<(&str, bool)> = sort.fields().collect();
    let fields = spec.pattern.fields();
    let mut place = 0;
    let mut backwards = None;
    for (path, descending) in &wanted {
        // Fields of one value stand anywhere.
        while place < fields.len() && fields[place].path != *path && is_point(place) {
            place += 1;
        }
        let field = fields.get(place).filter(|field| field.path == *path)?;
        let turned = field.descending != *descending;
        if !is_point(place) && *backwards.get_or_insert(turned) != turned {
            return None;
        }
        place += 1;
    }
    Some(backwards.unwrap_or(false))
}

/// What the conditions on a field leave of its values; `None` if that is everything.
fn intervals(conditions: &[Condition], multikey: bool, sparse: bool) -> Option<Vec<Interval>> {
    let points = |values: &[Bson]| -> Option<Vec<Interval>> {
        let mut intervals = Vec::new();
        for value in values {
            match value {
                // Elements of arrays are keys, arrays themselves are not.
                Bson::Array(_) => return None,
                Bson::Null if sparse => return None,
                Bson::Null => {
                    intervals.push(Interval::point(Bson::Undefined));
                    intervals.push(Interval::point(Bson::Null));
                }
                value => intervals.push(Interval::point(value.clone())),
            }
        }
        Some(intervals)
    };
    let mut low: Option<(Bson, bool)> = None;
    let mut high: Option<(Bson, bool)> = None;
    for condition in conditions {
        match condition {
            Condition::Equal(value) => {
                if let Some(found) = points(std::slice::from_ref(value)) {
                    return Some(found);
                }
            }
            Condition::In(values) if !values.is_empty() => {
                if let Some(found) = points(values) {
                    return Some(found);
                }
            }
            Condition::From(value, included) => {
                low.get_or_insert((value.clone(), *included));
            }
            Condition::To(value, included) => {
                high.get_or_insert((value.clone(), *included));
            }
            _ => {}
        }
    }
    for condition in conditions {
        if let Condition::Prefix(prefix) = condition {
            let mut end = prefix.clone().into_bytes();
            let last = end.last_mut()?;
            *last = last.checked_add(1).filter(|last| last.is_ascii())?;
            return Some(vec![Interval {
                low: Bson::String(prefix.clone()),
                low_included: true,
                high: Bson::String(String::from_utf8(end).ok()?),
                high_included: false,
            }]);
        }
    }
    let kind = |edge: &(Bson, bool)| ValueRef::from(&edge.0).canonical_type();
    let both = match (&low, &high) {
        (Some(low), Some(high)) => kind(low) == kind(high),
        _ => false,
    };
    // Of an array, one element may satisfy one condition and another the other.
    if (!both || multikey) && low.is_some() {
        high = None;
    }
    let (least, greatest) = ends_of_type(&low.as_ref().or(high.as_ref())?.0)?;
    let (low, low_included) = low.unwrap_or((least, true));
    let (high, high_included) = high.unwrap_or(greatest);
    Some(vec![Interval { low, low_included, high, high_included }])
}

/// The least value of a value's type, and the greatest with whether it belongs to it.
fn ends_of_type(value: &Bson) -> Option<(Bson, (Bson, bool))> {
    let empty = Bson::Document(Document::new());
    Some(match value {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => {
            (Bson::Double(f64::NEG_INFINITY), (Bson::Double(f64::INFINITY), true))
        }
        Bson::String(_) | Bson::Symbol(_) => (Bson::String(String::new()), (empty, false)),
        Bson::Document(_) => (empty, (Bson::Array(Vec::new()), false)),
        Bson::Boolean(_) => (Bson::Boolean(false), (Bson::Boolean(true), true)),
        Bson::DateTime(_) => (
            Bson::DateTime(DateTime::from_millis(i64::MIN)),
            (Bson::DateTime(DateTime::from_millis(i64::MAX)), true),
        ),
        Bson::ObjectId(_) => (
            Bson::ObjectId(ObjectId::from_bytes([0; 12])),
            (Bson::ObjectId(ObjectId::from_bytes([0xff; 12])), true),
        ),
        _ => return None,
    })
}

impl Interval {
    fn point(value: Bson) -> Interval {
        Interval { low: value.clone(), low_included: true, high: value, high_included: true }
    }

    fn all() -> Interval {
        Interval { low: Bson::MinKey, low_included: true, high: Bson::MaxKey, high_included: true }
    }

    pub(crate) fn is_point(&self) -> bool {
        self.low == self.high && self.low_included && self.high_included
    }

    fn is_all(&self) -> bool {
        self.low == Bson::MinKey && self.high == Bson::MaxKey
    }

    fn holds_text(&self) -> bool {
        holds_text(&self.low) || holds_text(&self.high)
    }
}

/// Whether a collation may make a difference to a value.
fn holds_text(value: &Bson) -> bool {
    matches!(value, Bson::String(_) | Bson::Symbol(_) | Bson::Document(_) | Bson::Array(_))
}

/// The encoded ranges of an index that hold everything within the bounds: points field by field, then
/// the intervals of one more field.
fn ranges(spec: &IndexSpec, bounds: &[Vec<Interval>], collation: Collation) -> Vec<KeyRange> {
    let mut prefixes: Vec<Vec<u8>> = vec![Vec::new()];
    for (field, intervals) in spec.pattern.fields().iter().zip(bounds) {
        let too_many = prefixes.len() * intervals.len() > MAX_RANGES;
        if too_many || intervals.iter().any(Interval::is_all) {
            break;
        }
        let key = |prefix: &[u8], value: &Bson| {
            let mut key = prefix.to_vec();
            append_key(&mut key, value.into(), collation, field.descending);
            key
        };
        if intervals.iter().all(Interval::is_point) {
            let mut next: Vec<Vec<u8>> = prefixes
                .iter()
                .flat_map(|prefix| intervals.iter().map(|at| key(prefix, &at.low)))
                .collect();
            next.sort_unstable();
            next.dedup();
            prefixes = next;
            continue;
        }
        let mut found = Vec::new();
        for prefix in &prefixes {
            for interval in intervals {
                let edge = |value: &Bson, included: bool| match included {
                    true => Bound::Included(key(prefix, value)),
                    false => Bound::Excluded(key(prefix, value)),
                };
                let low = edge(&interval.low, interval.low_included);
                let high = edge(&interval.high, interval.high_included);
                found.push(if field.descending { (high, low) } else { (low, high) });
            }
        }
        return found;
    }
    prefixes
        .into_iter()
        .map(|prefix| match prefix.is_empty() {
            true => (Bound::Unbounded, Bound::Unbounded),
            false => (Bound::Included(prefix.clone()), Bound::Included(prefix)),
        })
        .collect()
}

impl IndexScan {
    /// The bounds as the scan meets them.
    fn turn(&mut self) {
        for (field, intervals) in self.spec.pattern.fields().iter().zip(&mut self.bounds) {
            if field.descending != self.backwards {
                intervals.reverse();
                for interval in intervals {
                    std::mem::swap(&mut interval.low, &mut interval.high);
                    std::mem::swap(&mut interval.low_included, &mut interval.high_included);
                }
            }
        }
    }

    /// The records in the order of the scan; one of several keys comes several times.
    fn entries<'a>(
        &'a self,
        view: &'a CollectionView<'_>,
    ) -> Box<dyn Iterator<Item = (RecordId, &'a Arc<bson::RawDocumentBuf>)> + 'a> {
        let of = move |(low, high): &'a (Bound<Vec<u8>>, Bound<Vec<u8>>)| {
            let (low, high) = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
            view.scan_index(&self.spec.name, low, high).into_iter().flatten()
        };
        match self.backwards {
            false => Box::new(self.ranges.iter().flat_map(of)),
            true => Box::new(self.ranges.iter().rev().flat_map(move |range| of(range).rev())),
        }
    }
}

impl Plan {
    /// Whether an index finds the documents.
    pub(crate) fn uses_index(&self) -> bool {
        !matches!(self.access, Access::Collection)
    }

    /// The documents that match, at most `limit`, in the order of the access.
    ///
    /// # Errors
    /// What the filter fails with.
    pub(crate) fn run(
        &self,
        view: &CollectionView<'_>,
        matcher: &Matcher,
        limit: usize,
        examined: &mut Examined,
    ) -> Result<Vec<Found>, CommandError> {
        let mut found: Vec<Found> = Vec::new();
        let mut take = |record, document: &Arc<bson::RawDocumentBuf>, examined: &mut Examined| {
            if found.len() >= limit {
                return Ok(false);
            }
            examined.documents += 1;
            if let Some(details) = matcher.match_details(&**document)? {
                found.push(Found { record, document: document.clone(), details });
            }
            Ok::<bool, CommandError>(true)
        };
        match &self.access {
            Access::Collection => {
                for (record, document) in view.scan(None) {
                    if !take(record, document, examined)? {
                        break;
                    }
                }
            }
            Access::Id(id) => {
                let id = crate::mongod::query::value::to_raw(&bson::doc! { "": id.clone() });
                let value = id.get("").ok().flatten().unwrap_or(RawBsonRef::Null);
                if let Some((record, document)) = view.find_id(value) {
                    examined.keys += 1;
                    take(record, document, examined)?;
                }
            }
            Access::Index(scan) => {
                let mut seen = BTreeSet::new();
                for (record, document) in scan.entries(view) {
                    if scan.multikey && !seen.insert(record) {
                        examined.keys += 1;
                        continue;
                    }
                    if !take(record, document, examined)? {
                        break;
                    }
                    examined.keys += 1;
                }
            }
            Access::Union(scans) => {
                let mut seen = BTreeSet::new();
                for scan in scans {
                    for (record, document) in scan.entries(view) {
                        examined.keys += 1;
                        if seen.insert(record) {
                            take(record, document, examined)?;
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}
