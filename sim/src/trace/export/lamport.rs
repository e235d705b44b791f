//! A space-time diagram: time runs down, each end has a line of life in the colour of its state, each
//! message is an arrow. Rows are events, not seconds: what happens close together stays readable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::everybody;
use crate::trace::{Event, EventKind, MemberState};

const ROW: usize = 18;
const COLUMN: usize = 300;
const LEFT: usize = 120;
const TOP: usize = 60;
/// More rows than this are no drawing any more.
const ROWS_MAX: usize = 3_000;
/// So many characters fit beside a line of life.
const LABEL_MAX: usize = 44;

const STYLE: &str = "\
text { font: 11px ui-monospace, monospace; fill: #222; paint-order: stroke; stroke: white; stroke-width: 3px }
.who { font-weight: bold; font-size: 13px; text-anchor: middle }
.time { text-anchor: end; fill: #666 }
.life { stroke-width: 4 }
.message { stroke: #555; stroke-width: 1.2; marker-end: url(#tip) }
.stopped { stroke: #c0392b; stroke-width: 1.2; stroke-dasharray: 4 3 }
.fault { fill: #c0392b }
.election { fill: #6c3483 }
.client { fill: #1a5276 }
circle { fill: #222 }
";

/// Draws the events of `all` that are to be shown; the others still colour the lines of life.
pub(super) fn draw(all: &[Event], is_shown: impl Fn(&Event) -> bool) -> String {
    let shown: Vec<usize> = (0..all.len()).filter(|at| is_shown(&all[*at])).collect();
    let left_out = shown.len().saturating_sub(ROWS_MAX);
    let shown = &shown[..shown.len() - left_out];
    let events: Vec<&Event> = shown.iter().map(|at| &all[*at]).collect();
    let events = events.as_slice();
    let (names, places) = everybody(events.iter().copied());
    let width = LEFT + COLUMN * names.len().max(1) + 40;
    let height = TOP + ROW * (events.len() + 2) + 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>\n{STYLE}</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, name) in names.iter().enumerate() {
        let x = column(place);
        let _ = writeln!(
            svg,
            "<text class=\"who\" x=\"{x}\" y=\"{}\">{}</text>",
            TOP - 26,
            escaped(name)
        );
    }
    lives(&mut svg, all, shown, &places);
    arrows(&mut svg, events, &places);
    labels(&mut svg, events, &places);
    if left_out > 0 {
        let y = row(events.len() + 1);
        let _ =
            writeln!(svg, "<text x=\"10\" y=\"{y}\">{left_out} more events are not drawn</text>");
    }
    svg.push_str("</svg>\n");
    svg
}

type Places = BTreeMap<std::sync::Arc<str>, usize>;

fn column(place: usize) -> usize {
    LEFT + 20 + COLUMN * place
}

fn row(at: usize) -> usize {
    TOP + ROW * at
}

/// The lines of life, from row to row, in the colour of the state.
fn lives(svg: &mut String, all: &[Event], shown: &[usize], places: &Places) {
    let mut current: Vec<(usize, &'static str)> = vec![(0, "#d5d8dc"); places.len()];
    let draw = |svg: &mut String, place: usize, from: usize, to: usize, colour: &str| {
        if from < to {
            let x = column(place);
            let _ = writeln!(
                svg,
                "<line class=\"life\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\" stroke=\"{colour}\"/>",
                row(from),
                row(to)
            );
        }
    };
    for (at, event) in all.iter().enumerate() {
        let colour = match &event.kind {
            EventKind::ProcessStarted { .. } => colour_of(MemberState::Startup),
            EventKind::ProcessKilled | EventKind::ProcessExited { .. } => "#f2f3f4",
            EventKind::StateChanged { to, .. } => colour_of(*to),
            _ => continue,
        };
        let Some(&place) = places.get(&event.who) else { continue };
        // The row of the event, or of the next one that is shown.
        let to = shown.partition_point(|shown| *shown < at);
        let (from, before) = std::mem::replace(&mut current[place], (to, colour));
        draw(svg, place, from, to, before);
    }
    for (place, (from, colour)) in current.into_iter().enumerate() {
        draw(svg, place, from, shown.len(), colour);
    }
}

fn colour_of(state: MemberState) -> &'static str {
    match state {
        MemberState::Primary => "#27ae60",
        MemberState::Secondary => "#5dade2",
        MemberState::Arbiter => "#af7ac5",
        MemberState::Recovering | MemberState::Startup2 => "#f5b041",
        MemberState::Rollback => "#e74c3c",
        MemberState::Startup | MemberState::Unknown | MemberState::Down | MemberState::Removed => {
            "#aab7b8"
        }
    }
}

fn arrows(svg: &mut String, events: &[&Event], places: &Places) {
    let mut sent: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let place = places[&event.who];
        match &event.kind {
            EventKind::MessageSent { message, .. } => {
                sent.insert(*message, (at, place));
            }
            EventKind::MessageReceived { message, from, what, .. } => {
                let Some((sent_at, sender)) = sent.remove(message) else { continue };
                let title = escaped(&format!("{from} -> {}: {what}", event.who));
                let _ = writeln!(
                    svg,
                    "<line class=\"message\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"><title>{title}</title></line>",
                    column(sender),
                    row(sent_at),
                    column(place),
                    row(at)
                );
            }
            EventKind::MessageStopped { to, what, why, .. } => {
                let x = column(place);
                let away = places.get(to).is_some_and(|other| *other < place);
                let tip = if away { x.saturating_sub(40) } else { x + 40 };
                let title = escaped(&format!("{} -x {to}: {what}: {why}", event.who));
                let y = row(at);
                let _ = writeln!(
                    svg,
                    "<line class=\"stopped\" x1=\"{x}\" y1=\"{y}\" x2=\"{tip}\" y2=\"{}\"><title>{title}</title></line>",
                    y + ROW / 2
                );
            }
            _ => {}
        }
    }
}

fn labels(svg: &mut String, events: &[&Event], places: &Places) {
    let mut shown = None;
    for (at, event) in events.iter().enumerate() {
        let (x, y) = (column(places[&event.who]), row(at));
        if shown != Some(event.at) {
            let _ = writeln!(
                svg,
                "<text class=\"time\" x=\"{}\" y=\"{}\">{}</text>",
                LEFT - 12,
                y + 4,
                event.at
            );
            shown = Some(event.at);
        }
        let text = event.kind.to_string();
        // What arrives is written where it left; the arrow leads there.
        if matches!(event.kind, EventKind::MessageReceived { .. }) {
            let title = escaped(&text);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\"><title>{title}</title></circle>"
            );
            continue;
        }
        let mut label: String = text.chars().take(LABEL_MAX).collect();
        if label.len() < text.len() {
            label.push('\u{2026}');
        }
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\"/><text class=\"{}\" x=\"{}\" y=\"{}\"><title>{}</title>{}</text>",
            event.kind.category().name(),
            x + 8,
            y + 4,
            escaped(&text),
            escaped(&label)
        );
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML 1.0 has no other control characters, not even escaped.
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
