//! Steps that break and mend.

use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic::Diagnostics;
use super::format::{EndRef, Fault, MemberRef};
use super::parse::Names;
use super::reader::{Table, as_duration, as_list, wrong_type};

pub(crate) fn parse_fault(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
    verb: &str,
) -> Option<Fault> {
    type OfOne = (&'static str, fn(MemberRef) -> Fault);
    let one: Option<OfOne> = match verb {
        "kill" => Some(("kill", Fault::Kill)),
        "shutdown" => Some(("shutdown", Fault::Shutdown)),
        "restart" => Some(("restart", Fault::Restart)),
        "restart_empty" => Some(("restart_empty", Fault::RestartEmpty)),
        "pause" => Some(("pause", Fault::Pause)),
        "resume" => Some(("resume", Fault::Resume)),
        "isolate" => Some(("isolate", Fault::Isolate)),
        _ => None,
    };
    if let Some((key, fault)) = one {
        let value = step.take(key)?;
        return names.member_value(diagnostics, key, value).map(fault);
    }
    match verb {
        "heal" => {
            let value = step.take("heal")?;
            if value.get_ref().as_bool() != Some(true) {
                let hint = "heal = true ends every fault of the network".to_string();
                wrong_type(diagnostics, "heal", value, "true", Some(hint));
                return None;
            }
            Some(Fault::Heal)
        }
        "partition" => parse_partition(diagnostics, names, step),
        "cut" => pair(diagnostics, names, step, "cut").map(|(a, b)| Fault::Cut(a, b)),
        "refuse" => pair(diagnostics, names, step, "refuse").map(|(a, b)| Fault::Refuse(a, b)),
        "reset" => pair(diagnostics, names, step, "reset").map(|(a, b)| Fault::Reset(a, b)),
        "delay" => {
            let ends = pair(diagnostics, names, step, "delay");
            if !step.has("by") {
                step.missing(diagnostics, "by", Some("by = \"50ms\"".to_string()));
            }
            let by = step.take("by").and_then(|value| as_duration(diagnostics, "by", value));
            let ((a, b), by) = ends.zip(by)?;
            Some(Fault::Delay(a, b, by))
        }
        "skew" => parse_skew(diagnostics, names, step),
        "drift" => {
            let value = step.take("drift")?;
            let member = names.member_value(diagnostics, "drift", value);
            if !step.has("ppm") {
                let hint = "parts per million, for example ppm = 100; 0 ends it".to_string();
                step.missing(diagnostics, "ppm", Some(hint));
            }
            let ppm = step.integer(diagnostics, "ppm", -100_000..100_001);
            member.zip(ppm).map(|(member, ppm)| Fault::Drift(member, ppm))
        }
        _ => unreachable!("`{verb}` is no fault"),
    }
}

fn parse_skew(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Fault> {
    let value = step.take("skew")?;
    let member = names.member_value(diagnostics, "skew", value);
    let (has_ahead, has_behind) = (step.has("ahead"), step.has("behind"));
    let ahead = step.duration(diagnostics, "ahead");
    let behind = step.duration(diagnostics, "behind");
    if has_ahead == has_behind {
        let hint = Some("ahead = \"5m\", or behind = \"5m\"; ahead = \"0s\" sets it right".into());
        diagnostics.problem(&value.span(), "a clock is ahead, or it is behind", hint);
        return None;
    }
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let skew = ahead.map(millis).or_else(|| behind.map(|behind| -millis(behind)))?;
    Some(Fault::Skew(member?, skew))
}

fn parse_partition(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Fault> {
    let value = step.take("partition")?;
    let hint = || Some("two groups: partition = [[\"a\"], [\"b\", \"c\"]]".to_string());
    let DeValue::Array(groups) = value.get_ref() else {
        wrong_type(diagnostics, "partition", value, "two groups", hint());
        return None;
    };
    let groups: Vec<_> = groups.iter().collect();
    let [left, right] = groups.as_slice() else {
        diagnostics.problem(&value.span(), "a partition has two groups", hint());
        return None;
    };
    let group = |diagnostics: &mut Diagnostics<'_>, value| {
        let mut ends = Vec::new();
        for item in as_list(diagnostics, "partition", value, "member names")? {
            ends.push(match item.get_ref().as_str() {
                Some("secondaries") => EndRef::Secondaries,
                _ => names.end(diagnostics, "partition", item)?,
            });
        }
        Some(ends)
    };
    let left = group(diagnostics, left);
    let right = group(diagnostics, right);
    Some(Fault::Partition(left?, right?))
}

fn pair(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
    key: &'static str,
) -> Option<(EndRef, EndRef)> {
    let value = step.take(key)?;
    let list = as_list(diagnostics, key, value, "two ends")?;
    match list.as_slice() {
        [from, to] => {
            let from = names.end(diagnostics, key, from);
            let to = names.end(diagnostics, key, to);
            Some((from?, to?))
        }
        _ => {
            let hint = Some(format!("{key} = [\"a\", \"b\"]"));
            diagnostics.problem(&value.span(), format!("`{key}` needs two ends"), hint);
            None
        }
    }
}
