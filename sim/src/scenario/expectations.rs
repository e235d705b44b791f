//! What a file says must be: the `expect` of an operation, of a load, and of a step alone.

use super::diagnostic::{Diagnostics, suggest};
use super::format::{Balanced, Check, Expected, Family, LoadExpected, MemberRef};
use super::parse::{Names, parse_namespace};
use super::reader::{
    Table, Value, as_document, as_integer, as_list, as_string, position_of, wrong_type,
};
use super::steps::{count_of, parse_state, text_of};
use crate::trace::MemberState;

/// The `expect` of an operation; success where it says nothing.
pub(crate) fn parse_expected(
    diagnostics: &mut Diagnostics<'_>,
    step: &mut Table<'_>,
) -> Option<Expected> {
    let Some(value) = step.take("expect") else {
        return Some(Expected::Ok);
    };
    if let Some(text) = value.get_ref().as_str() {
        if text == "ok" {
            return Some(Expected::Ok);
        }
        let found = Family::NAMES.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let mut known = vec!["ok"];
            known.extend(Family::NAMES.map(|(name, _)| name));
            let hint = suggest(text, &known);
            diagnostics.problem(&value.span(), format!("no outcome is called \"{text}\""), hint);
        }
        return found.map(|(_, family)| Expected::Error(*family));
    }
    let Some(table) = value.get_ref().as_table() else {
        let hint = "expect = \"ok\", \"AutoReconnect\", { code = 11000 }, { label = \"..\" }, { documents = [..] }, \
                    { n = 1 } or { includes = {..} }";
        wrong_type(diagnostics, "expect", value, "a string or a table", Some(hint.to_string()));
        return None;
    };
    let mut table = Table::new(table, value.span(), "`expect`");
    let code = table.integer(diagnostics, "code", 1..i64::from(i32::MAX));
    let label = table.string(diagnostics, "label").map(|(label, _)| label.to_string());
    let n = table.integer(diagnostics, "n", 0..i64::MAX);
    let includes = table.document(diagnostics, "includes");
    let documents = match table.take("documents") {
        Some(value) => Some(documents_of(diagnostics, "documents", value)?),
        None => None,
    };
    table.finish(diagnostics);
    let mut all = Vec::new();
    all.extend(code.map(|code| Expected::Code(code as i32)));
    all.extend(label.map(Expected::Label));
    all.extend(n.map(Expected::Number));
    all.extend(includes.map(Expected::Includes));
    all.extend(documents.map(Expected::Documents));
    if all.len() != 1 {
        diagnostics.problem(
            &value.span(),
            "`expect` says one thing of an operation",
            Some("one of: code, label, n, documents, includes".to_string()),
        );
        return None;
    }
    all.pop()
}

fn documents_of(
    diagnostics: &mut Diagnostics<'_>,
    key: &str,
    value: &Value<'_>,
) -> Option<Vec<bson::Document>> {
    let mut documents = Vec::new();
    for item in as_list(diagnostics, key, value, "documents")? {
        documents.push(as_document(diagnostics, key, item)?);
    }
    Some(documents)
}

/// The `expect` of `reads`, `writes` and `finish`; no errors where it says nothing.
pub(crate) fn parse_load_expected(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<LoadExpected> {
    let mut expected = LoadExpected {
        at: diagnostics.position(step.span().start),
        errors: 0,
        errors_at_least: 0,
        balanced: None,
        at_least: Vec::new(),
        nothing_from: Vec::new(),
    };
    if !step.has("expect") {
        step.take("expect");
        return Some(expected);
    }
    expected.at = diagnostics.position(step.key_span("expect").start);
    let mut table = step.table(diagnostics, "expect")?;
    let errors = table.take("errors").map(|value| count_of(diagnostics, "errors", value));
    let least =
        table.take("errors_at_least").map(|value| count_of(diagnostics, "errors_at_least", value));
    match (errors, least) {
        (None, None) => {}
        (errors, least) => {
            expected.errors_at_least = least.unwrap_or(Some(0))?;
            expected.errors = errors.unwrap_or(Some(u32::MAX))?;
        }
    }
    if let Some(value) = table.take("balanced") {
        expected.balanced = parse_balanced(diagnostics, names, value)?;
    }
    if let Some(shares) = table.table(diagnostics, "at_least") {
        for (member, value) in members_and_values(diagnostics, names, shares)? {
            expected.at_least.push((member, count_of(diagnostics, "at_least", value)?));
        }
    }
    if let Some(value) = table.take("nothing_from") {
        for item in as_list(diagnostics, "nothing_from", value, "members")? {
            let member = names.member_value(diagnostics, "nothing_from", item)?;
            expected.nothing_from.push(member);
        }
    }
    table.finish(diagnostics);
    Some(expected)
}

fn parse_balanced(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    value: &Value<'_>,
) -> Option<Option<Balanced>> {
    if let Some(balanced) = value.get_ref().as_bool() {
        return Some(balanced.then_some(Balanced::Secondaries));
    }
    let mut members = Vec::new();
    for item in as_list(diagnostics, "balanced", value, "members, or true")? {
        members.push(names.member_value(diagnostics, "balanced", item)?);
    }
    if members.len() < 2 {
        diagnostics.problem(&value.span(), "a balance needs two members at least", None);
        return None;
    }
    Some(Some(Balanced::Members(members)))
}

/// A table whose keys are members.
fn members_and_values<'t>(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    table: Table<'t>,
) -> Option<Vec<(MemberRef, &'t Value<'t>)>> {
    let mut found = Vec::new();
    for (key, span, value) in table.into_entries() {
        found.push((names.member(diagnostics, key, &span)?, value));
    }
    Some(found)
}

/// The `expect` that is a step of its own.
pub(crate) fn parse_checks(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    step: &mut Table<'_>,
) -> Option<Vec<Check>> {
    let expect_span = step.key_span("expect");
    let mut table = step.table(diagnostics, "expect")?;
    let mut checks = Vec::new();
    if let Some(value) = table.take("primary") {
        checks.push(Check::Primary(member_or_none(diagnostics, names, "primary", value)?));
    }
    if let Some(value) = table.take("primary_is_not") {
        let member = names.member_value(diagnostics, "primary_is_not", value)?;
        checks.push(Check::PrimaryIsNot(member));
    }
    if let Some(states) = table.table(diagnostics, "states") {
        for (member, value) in members_and_values(diagnostics, names, states)? {
            let mut allowed: Vec<MemberState> = Vec::new();
            for item in as_list(diagnostics, "states", value, "states")? {
                let text = text_of(diagnostics, "states", item)?;
                allowed.push(parse_state(diagnostics, text, &item.span())?);
            }
            checks.push(Check::State(member, allowed));
        }
    }
    if let Some(value) = table.take("down") {
        for item in as_list(diagnostics, "down", value, "members")? {
            checks.push(Check::Down(names.member_value(diagnostics, "down", item)?));
        }
    }
    parse_client_checks(diagnostics, names, &mut table, &mut checks)?;
    parse_holds(diagnostics, names, &mut table, &mut checks)?;
    let name = table.name().to_string();
    table.finish(diagnostics);
    if checks.is_empty() {
        diagnostics.problem(
            &expect_span,
            format!("{name} expects nothing"),
            Some("for example expect = { primary = \"b\" }".to_string()),
        );
        return None;
    }
    Some(checks)
}

fn parse_client_checks(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    table: &mut Table<'_>,
    checks: &mut Vec<Check>,
) -> Option<()> {
    let sees_primary = table.take("sees_primary");
    let sees_members = table.take("sees_members");
    if sees_primary.is_none() && sees_members.is_none() {
        if table.has("client") {
            let hint = Some("`sees_primary` or `sees_members`".to_string());
            let span = table.key_span("client");
            diagnostics.problem(&span, "what of this client?", hint);
        }
        table.take("client");
        return Some(());
    }
    let client = names.client(diagnostics, table)?;
    if let Some(value) = sees_primary {
        let primary = member_or_none(diagnostics, names, "sees_primary", value)?;
        checks.push(Check::ClientPrimary { client: client.clone(), primary });
    }
    if let Some(value) = sees_members {
        let count = as_integer(diagnostics, "sees_members", value, 0..1_000)? as usize;
        checks.push(Check::ClientMembers { client, count });
    }
    Some(())
}

fn parse_holds(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    table: &mut Table<'_>,
    checks: &mut Vec<Check>,
) -> Option<()> {
    let members = table.take("on");
    let of = table.string(diagnostics, "of");
    let Some(value) = table.take("documents") else {
        if members.is_some() || of.is_some() {
            let hint = Some("documents = [{ _id = 1 }]".to_string());
            table.missing(diagnostics, "documents", hint);
        }
        return Some(());
    };
    let documents = documents_of(diagnostics, "documents", value)?;
    let (Some(members), Some((namespace, span))) = (members, of) else {
        let at = position_of(diagnostics, value);
        let hint = "expect = { on = \"b\", of = \"shop.orders\", documents = [..] }".to_string();
        diagnostics.problem_at(at, "whose documents, of which collection?", Some(hint));
        return None;
    };
    let of = parse_namespace(diagnostics, namespace, &span)?;
    for item in as_list(diagnostics, "on", members, "members")? {
        let member = names.member_value(diagnostics, "on", item)?;
        let documents = documents.clone();
        checks.push(Check::Holds { member, of: of.clone(), documents });
    }
    Some(())
}

fn member_or_none(
    diagnostics: &mut Diagnostics<'_>,
    names: &Names,
    key: &str,
    value: &Value<'_>,
) -> Option<Option<MemberRef>> {
    match as_string(diagnostics, key, value)? {
        "none" => Some(None),
        text => names.member(diagnostics, text, &value.span()).map(Some),
    }
}
