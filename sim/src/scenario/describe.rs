//! Steps in words, for the timeline.

use std::fmt::Write as _;
use std::time::Duration;

use super::format::{
    Acknowledgement, Action, Configuration, EndRef, Fault, Load, LoadKind, MemberRef, Modification,
    Namespace, Operation, OperationKind, ReadMode, ReadSpec, Reconfiguration, Wait, Watch, Watched,
    WriteConcernSpec,
};
use crate::trace::MemberState;

/// What a step does, in a line; `None` for those that are said by their outcome.
pub(crate) fn action(action: &Action) -> Option<String> {
    Some(match action {
        Action::Note
        | Action::Expect(_)
        | Action::Operation(_)
        | Action::StartTransaction { .. }
        | Action::CommitTransaction { .. }
        | Action::AbortTransaction { .. }
        | Action::Watch(_)
        | Action::Next { .. } => return None,
        Action::StartSession { session, client, causal, snapshot } => {
            let kind = match (snapshot, causal) {
                (true, _) => ", which reads a snapshot",
                (false, Some(false)) => ", not causally consistent",
                (false, _) => "",
            };
            format!("{client} starts the session {session}{kind}")
        }
        Action::EndSession { session } => format!("end the session {session}"),
        Action::Close { stream } => format!("close the change stream {stream}"),
        Action::FinishOperation { operation, .. } => format!("wait for {operation} to finish"),
        Action::Start { member } => format!("start {member}"),
        Action::Initiate { on, configuration, .. } => initiate(on, configuration),
        Action::Reconfigure { change: Reconfiguration::Add(host), .. } => {
            format!("reconfigure: add {host}")
        }
        Action::Reconfigure { change: Reconfiguration::Remove(member), .. } => {
            format!("reconfigure: remove {}", self::member(member))
        }
        Action::WaitFor { what, within } => {
            format!("wait for {}, at most {}", wait(what), duration(*within))
        }
        Action::Connect { client, uri } => format!("connect {client} to {uri}"),
        Action::Load(load) => match &load.background {
            Some(name) => format!("{} in the background, as {name}", self::load(load)),
            None => self::load(load),
        },
        Action::Finish { load, .. } => format!("wait for {load} to finish"),
        Action::Fault(fault) => self::fault(fault),
        Action::Advance(by) => format!("{} pass", duration(*by)),
    })
}

pub(crate) fn member(member: &MemberRef) -> &str {
    match member {
        MemberRef::Primary => "primary",
        MemberRef::Secondary => "secondary",
        MemberRef::Named(name) | MemberRef::Remembered(name) => name,
    }
}

fn initiate(on: &MemberRef, configuration: &Configuration) -> String {
    let on = member(on);
    match configuration {
        Configuration::None => format!("initiate on {on}, without a configuration"),
        Configuration::Members(members) => {
            format!("initiate on {on}, with {}", members.join(", "))
        }
        Configuration::Document(document) => format!("initiate on {on}, with {document}"),
    }
}

pub(crate) fn wait(what: &Wait) -> String {
    match what {
        Wait::Primary => "a primary".to_string(),
        Wait::Settled => "a primary, and everyone else following".to_string(),
        Wait::CaughtUp => "everyone to have caught up".to_string(),
        Wait::State { member, state, seen_by } => {
            let seen = seen_by.as_ref().map(|client| format!(" in the eyes of {client}"));
            let name = self::member(member);
            let state = match state {
                MemberState::Down => "DOWN",
                state => state.name(),
            };
            format!("{name} to be {state}{}", seen.unwrap_or_default())
        }
        Wait::PrimarySeenBy { client } => format!("{client} to know a primary"),
    }
}

/// A change stream: `watch shop.orders as orders`.
pub(crate) fn watch(watch: &Watch) -> String {
    let what = match &watch.watched {
        Watched::Collection(of) => namespace(of),
        Watched::Database(name) => name.clone(),
        Watched::Deployment => "everything".to_string(),
    };
    let full = watch.full_document.as_ref().map(|full| format!(" fullDocument:{full}"));
    let stages = match watch.pipeline.as_slice() {
        [] => String::new(),
        stages => format!(" {}", super::judge::documents(stages)),
    };
    format!("watch {what}{stages}{} as {}", full.unwrap_or_default(), watch.stream)
}

/// An operation with its essentials: `insert app.notes { "_id": 1 } w:majority`.
pub(crate) fn operation(operation: &Operation) -> String {
    let text = kind(&operation.kind);
    match &operation.session {
        Some(session) => format!("{text} in {session}"),
        None => text,
    }
}

fn kind(kind: &OperationKind) -> String {
    match kind {
        OperationKind::Insert { into, documents, write_concern } => {
            let all: Vec<String> = documents.iter().map(ToString::to_string).collect();
            format!("insert {} {}{}", namespace(into), all.join(", "), concern(write_concern))
        }
        OperationKind::Find { from, filter, sort, limit, read } => {
            let mut text = format!("find {} {filter}", namespace(from));
            if let Some(sort) = sort {
                let _ = write!(text, " sort {sort}");
            }
            if let Some(limit) = limit {
                let _ = write!(text, " limit {limit}");
            }
            text + &self::read(read)
        }
        OperationKind::Update { of, filter, change, many, upsert, write_concern } => format!(
            "update {}{}{} {filter} {change}{}",
            namespace(of),
            if *many { " (many)" } else { "" },
            if *upsert { " (upsert)" } else { "" },
            concern(write_concern)
        ),
        OperationKind::Delete { from, filter, many, write_concern } => format!(
            "delete {}{} {filter}{}",
            namespace(from),
            if *many { " (many)" } else { "" },
            concern(write_concern)
        ),
        OperationKind::Count { of, filter, read } => {
            format!("count {} {filter}{}", namespace(of), self::read(read))
        }
        OperationKind::Command { database, command, read } => {
            format!("{database} {command}{}", self::read(read))
        }
        OperationKind::Aggregate { of, pipeline, read, write_concern } => {
            let stages = super::judge::documents(pipeline);
            let (read, concern) = (self::read(read), concern(write_concern));
            format!("aggregate {} {stages}{read}{concern}", namespace(of))
        }
        OperationKind::Distinct { of, field, filter, read } => {
            format!("distinct {field} of {} {filter}{}", namespace(of), self::read(read))
        }
        OperationKind::Replace { of, filter, document, upsert, write_concern } => format!(
            "replace {}{} {filter} {document}{}",
            namespace(of),
            if *upsert { " (upsert)" } else { "" },
            concern(write_concern)
        ),
        OperationKind::FindAndModify {
            of,
            filter,
            modification,
            sort,
            upsert,
            new: _,
            write_concern,
        } => {
            let (verb, change) = match modification {
                Modification::Change(change) => ("update", change.to_string()),
                Modification::Replace(document) => ("replace", document.to_string()),
                Modification::Remove => ("remove", String::new()),
            };
            let sort = sort.as_ref().map(|sort| format!(" sort {sort}")).unwrap_or_default();
            let upsert = if *upsert { " (upsert)" } else { "" };
            let text = format!("find and {verb} {}{upsert} {filter}{sort} {change}", namespace(of));
            format!("{}{}", text.trim_end(), concern(write_concern))
        }
    }
}

/// What a load does: `400 reads from shop.orders, secondary, every 5ms`.
pub(crate) fn load(load: &Load) -> String {
    let mut text = match &load.kind {
        LoadKind::Reads { from, read } => {
            format!("{} reads from {}{}", load.count, namespace(from), self::read(read))
        }
        LoadKind::Writes { into, write_concern } => {
            let to = namespace(into);
            format!("{} writes to {to}{}", load.count, concern(write_concern))
        }
    };
    if !load.every.is_zero() {
        let _ = write!(text, ", every {}", duration(load.every));
    }
    text
}

fn fault(fault: &Fault) -> String {
    let end = |end: &EndRef| match end {
        EndRef::Member(member) => self::member(member).to_string(),
        EndRef::Secondaries => "secondaries".to_string(),
        EndRef::Client(name) => name.clone(),
    };
    let ends = |ends: &[EndRef]| ends.iter().map(end).collect::<Vec<_>>().join(", ");
    match fault {
        Fault::Kill(member) => format!("kill {}", self::member(member)),
        Fault::Shutdown(member) => format!("shut down {}", self::member(member)),
        Fault::Restart(member) => format!("restart {}", self::member(member)),
        Fault::RestartEmpty(member) => {
            format!("restart {} with an emptied dbpath", self::member(member))
        }
        Fault::Pause(member) => format!("pause {}", self::member(member)),
        Fault::Resume(member) => format!("resume {}", self::member(member)),
        Fault::Isolate(member) => format!("isolate {}", self::member(member)),
        Fault::Partition(left, right) => format!("partition {} | {}", ends(left), ends(right)),
        Fault::Cut(from, to) => format!("cut {} -> {}", end(from), end(to)),
        Fault::Refuse(from, to) => format!("{} is refused by {}", end(from), end(to)),
        Fault::Reset(a, b) => format!("reset connections between {} and {}", end(a), end(b)),
        Fault::Delay(a, b, by) => {
            format!("delay {} - {} by {}", end(a), end(b), duration(*by))
        }
        Fault::Skew(member, millis) => {
            let by = duration(Duration::from_millis(millis.unsigned_abs()));
            let way = if *millis < 0 { "behind" } else { "ahead of" };
            format!("set the clock of {} {by} {way} true time", self::member(member))
        }
        Fault::Drift(member, parts_per_million) => {
            format!("let the clock of {} drift by {parts_per_million} ppm", self::member(member))
        }
        Fault::Heal => "heal the network".to_string(),
    }
}

pub(crate) fn namespace(namespace: &Namespace) -> String {
    format!("{}.{}", namespace.database, namespace.collection)
}

fn read(read: &ReadSpec) -> String {
    let mode = read.mode.map(|mode| match mode {
        ReadMode::Primary => " primary",
        ReadMode::PrimaryPreferred => " primaryPreferred",
        ReadMode::Secondary => " secondary",
        ReadMode::SecondaryPreferred => " secondaryPreferred",
        ReadMode::Nearest => " nearest",
    });
    let concern = read.concern.as_ref().map(|level| format!(" readConcern:{level}"));
    format!("{}{}", mode.unwrap_or_default(), concern.unwrap_or_default())
}

fn concern(concern: &Option<WriteConcernSpec>) -> String {
    let Some(WriteConcernSpec { w, journal, wtimeout }) = concern else {
        return String::new();
    };
    let mut text = String::new();
    match w {
        Some(Acknowledgement::Majority) => text.push_str(" w:majority"),
        Some(Acknowledgement::Members(count)) => {
            let _ = write!(text, " w:{count}");
        }
        Some(Acknowledgement::Tagged(name)) => {
            let _ = write!(text, " w:{name}");
        }
        None => {}
    }
    if let Some(journal) = journal {
        let _ = write!(text, " j:{journal}");
    }
    if let Some(wtimeout) = wtimeout {
        let _ = write!(text, " wtimeout:{}", duration(*wtimeout));
    }
    text
}

/// A duration as the file writes it.
pub(crate) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, nanos_per_unit) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos >= nanos_per_unit && nanos.is_multiple_of(nanos_per_unit) {
            return format!("{}{unit}", nanos / nanos_per_unit);
        }
    }
    match nanos {
        0 => "0s".to_string(),
        _ => format!("{duration:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for (millis, text) in [(5, "5ms"), (2_000, "2s"), (1_500, "1500ms"), (0, "0s")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
