//! Spans by the OpenTelemetry API: whatever SDK the application installed receives them.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::trace::{SpanKind, TraceContextExt, Tracer as _, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value, global};

use super::{AttributeValue, Span, Tracer};

/// Makes spans by the OpenTelemetry API, with the application's tracer provider.
pub struct OpenTelemetryTracer {
    tracer: global::BoxedTracer,
}

impl OpenTelemetryTracer {
    /// A tracer of the global provider.
    pub fn new() -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        OpenTelemetryTracer { tracer: global::tracer_provider().tracer_with_scope(scope) }
    }
}

impl Default for OpenTelemetryTracer {
    fn default() -> Self {
        OpenTelemetryTracer::new()
    }
}

impl std::fmt::Debug for OpenTelemetryTracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenTelemetryTracer")
    }
}

impl Tracer for OpenTelemetryTracer {
    fn start(&self, name: &str, parent: Option<&dyn Span>) -> Arc<dyn Span> {
        let parent = parent.and_then(|parent| parent.as_any().downcast_ref::<ContextSpan>());
        let around = parent.map_or_else(Context::current, |parent| parent.context.clone());
        let builder = self.tracer.span_builder(Cow::Owned(name.to_owned()));
        let span = self.tracer.build_with_context(builder.with_kind(SpanKind::Client), &around);
        Arc::new(ContextSpan { context: around.with_span(span) })
    }
}

struct ContextSpan {
    context: Context,
}

impl Span for ContextSpan {
    fn set_attribute(&self, key: &'static str, value: AttributeValue) {
        let value = match value {
            AttributeValue::String(text) => Value::from(text),
            AttributeValue::Int(number) => Value::from(number),
        };
        self.context.span().set_attribute(KeyValue::new(key, value));
    }

    fn end(&self) {
        self.context.span().end();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
