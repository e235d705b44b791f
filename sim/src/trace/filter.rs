//! Picks parts of the story.

use stepdown_driver::Instant;

use super::{Category, Event};

/// Which events to show. Conditions of different kinds must all hold; of one kind, any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    categories: Vec<Category>,
    who: Vec<String>,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Filter {
    /// Everything.
    pub fn new() -> Self {
        Filter::default()
    }

    /// Only events of this category (or of another one given).
    pub fn category(mut self, category: Category) -> Self {
        self.categories.push(category);
        self
    }

    /// Only events of this member or client (or of another one given): `a:27017`, `client`, `world`.
    pub fn who(mut self, who: impl Into<String>) -> Self {
        self.who.push(who.into());
        self
    }

    /// Only events at `at` or later.
    pub fn since(mut self, at: Instant) -> Self {
        self.since = Some(at);
        self
    }

    /// Only events at `at` or earlier.
    pub fn until(mut self, at: Instant) -> Self {
        self.until = Some(at);
        self
    }

    /// Whether `event` is to be shown.
    pub fn shows(&self, event: &Event) -> bool {
        (self.categories.is_empty() || self.categories.contains(&event.kind.category()))
            && (self.who.is_empty() || self.who.iter().any(|who| **who == *event.who))
            && self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at <= until)
    }
}
