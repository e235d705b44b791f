//! Spans of operations and commands (OpenTelemetry specification of the drivers).
//!
//! The driver speaks to a [`Tracer`]; [`SpanRecorder`] keeps the spans for tests, and the feature
//! `opentelemetry` brings one that hands them to the OpenTelemetry API. Without a tracer nothing is
//! built and nothing is allocated.

#[cfg(feature = "opentelemetry")]
pub mod opentelemetry;
mod operation;
mod recorder;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

pub(crate) use self::operation::{
    CommandSpan, command_span, operation_span, record_error, transaction_span,
};
pub use self::recorder::{RecordedSpan, SpanRecorder};

/// Makes spans.
pub trait Tracer: Send + Sync + fmt::Debug {
    /// Starts a span of kind "client" under `parent`; without one, under whatever span the
    /// application is in.
    fn start(&self, name: &str, parent: Option<&dyn Span>) -> Arc<dyn Span>;
}

/// A span, from its start to its end.
pub trait Span: Send + Sync {
    /// Sets an attribute.
    fn set_attribute(&self, key: &'static str, value: AttributeValue);

    /// Ends it; what is set later is lost.
    fn end(&self);

    /// Itself, for the tracer that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A string.
    String(String),
    /// A 64-bit integer.
    Int(i64),
}

impl From<&str> for AttributeValue {
    fn from(value: &str) -> Self {
        AttributeValue::String(value.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(value: String) -> Self {
        AttributeValue::String(value)
    }
}

impl From<i64> for AttributeValue {
    fn from(value: i64) -> Self {
        AttributeValue::Int(value)
    }
}

/// Whether and how a client makes spans (`tracing` of the specification).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TracingOptions {
    /// Whether spans are made; default: not.
    pub enabled: Option<bool>,
    /// How long `db.query.text` may be, in characters; zero, the default, leaves it out.
    pub query_text_max_length: Option<usize>,
    /// Who makes them; default: the OpenTelemetry API if the feature `opentelemetry` is on, else nobody.
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl TracingOptions {
    /// Spans made by `tracer`.
    pub fn with_tracer(tracer: Arc<dyn Tracer>) -> Self {
        TracingOptions { enabled: Some(true), query_text_max_length: None, tracer: Some(tracer) }
    }

    /// What the environment variables `OTEL_RUST_INSTRUMENTATION_MONGODB_ENABLED` (`1`, `true`, `yes`)
    /// and `OTEL_RUST_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH` say; `None` if spans are not
    /// enabled there. Clients made over TCP whose options say nothing use this, if the feature
    /// `opentelemetry` is on.
    pub fn from_environment() -> Option<Self> {
        let read =
            |name: &str| std::env::var(format!("OTEL_RUST_INSTRUMENTATION_MONGODB_{name}")).ok();
        let enabled = read("ENABLED")?.to_ascii_lowercase();
        ["1", "true", "yes"].contains(&enabled.as_str()).then(|| TracingOptions {
            enabled: Some(true),
            query_text_max_length: read("QUERY_TEXT_MAX_LENGTH").and_then(|text| text.parse().ok()),
            tracer: None,
        })
    }

    /// Adds `db.query.text` of at most `characters`.
    #[must_use]
    pub fn query_text(mut self, characters: usize) -> Self {
        self.query_text_max_length = Some(characters);
        self
    }

    /// Who makes spans, if anybody does.
    pub(crate) fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        if self.enabled != Some(true) {
            return None;
        }
        #[cfg(feature = "opentelemetry")]
        if self.tracer.is_none() {
            return Some(Arc::new(self::opentelemetry::OpenTelemetryTracer::new()));
        }
        self.tracer.clone()
    }
}
