//! Keeps spans, for tests and for teaching.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{AttributeValue, Span, Tracer};
use crate::sync::lock;

/// How many spans are kept; what comes later is dropped.
const CAPACITY: usize = 100_000;

/// A span as it was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedSpan {
    /// The name.
    pub name: String,
    /// The attributes.
    pub attributes: BTreeMap<&'static str, AttributeValue>,
    /// Whether it has ended.
    pub ended: bool,
    /// The spans within it, in the order of their start.
    pub nested: Vec<RecordedSpan>,
}

/// Keeps all spans of the clients that use it. Clones are the same recorder.
#[derive(Clone, Debug, Default)]
pub struct SpanRecorder {
    spans: Arc<Mutex<Vec<Flat>>>,
}

#[derive(Debug)]
struct Flat {
    parent: Option<usize>,
    name: String,
    attributes: BTreeMap<&'static str, AttributeValue>,
    ended: bool,
}

impl SpanRecorder {
    /// An empty recorder.
    pub fn new() -> Self {
        SpanRecorder::default()
    }

    /// The spans that are in no other, in the order of their start, with those within them.
    pub fn spans(&self) -> Vec<RecordedSpan> {
        let flat = lock(&self.spans);
        let mut whole: Vec<Option<RecordedSpan>> = flat
            .iter()
            .map(|span| {
                Some(RecordedSpan {
                    name: span.name.clone(),
                    attributes: span.attributes.clone(),
                    ended: span.ended,
                    nested: Vec::new(),
                })
            })
            .collect();
        // A span starts after its parent: from the last to the first, each goes into a whole one.
        for (index, span) in flat.iter().enumerate().rev() {
            if let Some(parent) = span.parent {
                let child = whole[index].take().expect("each span is moved once");
                if let Some(parent) = &mut whole[parent] {
                    parent.nested.insert(0, child);
                }
            }
        }
        whole.into_iter().flatten().collect()
    }

    /// Forgets what has ended; spans that go on are forgotten when they end.
    pub fn clear(&self) {
        lock(&self.spans).clear();
    }
}

impl Tracer for SpanRecorder {
    fn start(&self, name: &str, parent: Option<&dyn Span>) -> Arc<dyn Span> {
        let parent = parent.and_then(|parent| parent.as_any().downcast_ref::<Recording>());
        let mut spans = lock(&self.spans);
        let index = spans.len();
        if index < CAPACITY {
            spans.push(Flat {
                parent: parent.map(|parent| parent.index).filter(|parent| *parent < index),
                name: name.to_owned(),
                attributes: BTreeMap::new(),
                ended: false,
            });
        }
        Arc::new(Recording { recorder: self.clone(), index })
    }
}

struct Recording {
    recorder: SpanRecorder,
    index: usize,
}

impl Span for Recording {
    fn set_attribute(&self, key: &'static str, value: AttributeValue) {
        if let Some(span) = lock(&self.recorder.spans).get_mut(self.index) {
            span.attributes.insert(key, value);
        }
    }

    fn end(&self) {
        if let Some(span) = lock(&self.recorder.spans).get_mut(self.index) {
            span.ended = true;
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_a_tree() {
        let recorder = SpanRecorder::new();
        let outer = recorder.start("outer", None);
        let first = recorder.start("first", Some(&*outer));
        recorder.start("second", Some(&*outer));
        recorder.start("inmost", Some(&*first)).set_attribute("key", AttributeValue::Int(1));
        outer.end();
        let spans = recorder.spans();
        assert_eq!(spans.len(), 1);
        assert!(spans[0].ended);
        let names: Vec<_> = spans[0].nested.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(spans[0].nested[0].nested[0].attributes["key"], AttributeValue::Int(1));
    }
}
