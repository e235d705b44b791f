//! Whether what was seen is what was expected; every verdict says both in words.

use bson::Document;
use stepdown_driver::error::{Error, ErrorKind, WriteFailure};

use super::format::{Expected, Family, includes, same_document};

/// What an operation gave back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// How many documents it inserted, found, matched, deleted or counted.
    pub(crate) number: Option<i64>,
    /// What it found, or the reply of a command.
    pub(crate) documents: Vec<Document>,
}

/// What was expected, and what was seen instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disappointment {
    pub(crate) expected: String,
    pub(crate) seen: String,
}

/// Judges how an operation ended.
pub(crate) fn judge(
    expected: &Expected,
    outcome: &Result<Answer, Error>,
) -> Result<(), Disappointment> {
    let holds = match (expected, outcome) {
        (Expected::Ok, Ok(_)) => true,
        (Expected::Error(family), Err(error)) => is_of(*family, error),
        (Expected::Code(code), Err(error)) => error.code() == Some(*code),
        (Expected::Label(label), Err(error)) => error.contains_label(label),
        (Expected::Number(number), Ok(answer)) => answer.number == Some(*number),
        (Expected::Documents(wanted), Ok(answer)) => same_documents(&answer.documents, wanted),
        (Expected::Includes(wanted), Ok(answer)) => {
            answer.documents.first().is_some_and(|document| includes(document, wanted))
        }
        _ => false,
    };
    if holds {
        return Ok(());
    }
    let seen = match (expected, outcome) {
        (_, Err(error)) => describe_error(error),
        (Expected::Number(_), Ok(Answer { number: Some(number), .. })) => number.to_string(),
        (Expected::Documents(_) | Expected::Includes(_), Ok(answer)) => {
            documents(&answer.documents)
        }
        (_, Ok(_)) => "success".to_string(),
    };
    Err(Disappointment { expected: describe_expected(expected), seen })
}

/// Whether these are the wanted documents, in the wanted order.
pub(crate) fn same_documents(actual: &[Document], wanted: &[Document]) -> bool {
    actual.len() == wanted.len()
        && actual.iter().zip(wanted).all(|(actual, wanted)| same_document(actual, wanted))
}

pub(crate) fn describe_error(error: &Error) -> String {
    let family = if error.is_auto_reconnect() { "AutoReconnect: " } else { "" };
    format!("{family}{error}")
}

/// At most so many characters of documents are printed.
const PRINTED_MAX: usize = 2_000;

pub(crate) fn documents(documents: &[Document]) -> String {
    let all: Vec<String> = documents.iter().map(ToString::to_string).collect();
    let mut text = format!("[{}]", all.join(", "));
    if let Some((end, _)) = text.char_indices().nth(PRINTED_MAX) {
        text.truncate(end);
        text.push_str(" ..");
    }
    text
}

fn describe_expected(expected: &Expected) -> String {
    match expected {
        Expected::Ok => "success".to_string(),
        Expected::Error(Family::Any) => "an error".to_string(),
        Expected::Error(family) => format!("an error of the family {}", family.name()),
        Expected::Code(code) => format!("an error with code {code}"),
        Expected::Label(label) => format!("an error with the label {label}"),
        Expected::Number(number) => number.to_string(),
        Expected::Documents(wanted) => documents(wanted),
        Expected::Includes(wanted) => format!("a document that includes {wanted}"),
    }
}

fn is_of(family: Family, error: &Error) -> bool {
    const DUPLICATE_KEY: i32 = 11_000;
    match family {
        Family::Any => true,
        Family::AutoReconnect => error.is_auto_reconnect(),
        Family::NotPrimary => error.is_not_primary(),
        Family::ServerSelectionTimeout => {
            matches!(*error.kind, ErrorKind::ServerSelection { .. })
        }
        Family::DuplicateKey => error.code() == Some(DUPLICATE_KEY),
        Family::WriteConcern => {
            matches!(*error.kind, ErrorKind::Write(WriteFailure::WriteConcernError(_)))
        }
    }
}

/// The chi-square values that an even distribution exceeds once in a thousand runs, in
/// thousandths, by degrees of freedom from 1.
const CHI_SQUARE_THOUSANDTHS: [u128; 49] = [
    10_828, 13_816, 16_266, 18_467, 20_515, 22_458, 24_322, 26_124, 27_877, 29_588, 31_264, 32_909,
    34_528, 36_123, 37_697, 39_252, 40_790, 42_312, 43_820, 45_315, 46_797, 48_268, 49_728, 51_179,
    52_620, 54_052, 55_476, 56_892, 58_301, 59_703, 61_098, 62_487, 63_870, 65_247, 66_619, 67_985,
    69_346, 70_703, 72_055, 73_402, 74_745, 76_084, 77_419, 78_750, 80_077, 81_400, 82_720, 84_037,
    85_351,
];

/// Whether counts are as even as chance makes them: a chi-square test at the level of one in a
/// thousand, in integers. `None` if the counts are too few to tell (less than five each).
pub(crate) fn is_even(counts: &[u32]) -> Option<bool> {
    let members = counts.len() as u128;
    let total: u128 = counts.iter().map(|count| u128::from(*count)).sum();
    let critical = CHI_SQUARE_THOUSANDTHS.get(counts.len().checked_sub(2)?)?;
    if total < 5 * members {
        return None;
    }
    // Sum of (count - total/members)^2 / (total/members) = members/total * sum of squares - total.
    let squares: u128 = counts.iter().map(|count| u128::from(*count).pow(2)).sum();
    let statistic_times_total = members * squares - total * total;
    Some(statistic_times_total * 1_000 <= critical * total)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn even_counts_pass_the_chi_square_test_and_skewed_ones_do_not() {
        assert_eq!(is_even(&[100, 100, 100]), Some(true));
        assert_eq!(is_even(&[180, 220]), Some(true));
        assert_eq!(is_even(&[140, 260]), Some(false));
        assert_eq!(is_even(&[200, 200, 0]), Some(false));
        assert_eq!(is_even(&[3, 4]), None);
        assert_eq!(is_even(&[400]), None);
    }

    #[test]
    fn the_test_turns_at_the_critical_value() {
        // For two members the statistic is (a - b)^2 / (a + b): 10.816 and 10.924 of 10.828.
        assert_eq!(is_even(&[552, 448]), Some(true));
        assert_eq!(is_even(&[1104, 896]), Some(false));
    }

    #[test]
    fn a_verdict_says_what_was_expected_and_what_was_seen() {
        let answer = Answer { number: Some(1), documents: vec![doc! { "_id": 1, "x": 2 }] };
        assert_eq!(judge(&Expected::Number(1), &Ok(answer.clone())), Ok(()));
        assert_eq!(judge(&Expected::Includes(doc! { "x": 2_i64 }), &Ok(answer.clone())), Ok(()));
        let wanted = Expected::Documents(vec![doc! { "_id": 1, "x": 3 }]);
        let verdict = judge(&wanted, &Ok(answer)).unwrap_err();
        assert_eq!(verdict.expected, r#"[{ "_id": 1, "x": 3 }]"#);
        assert_eq!(verdict.seen, r#"[{ "_id": 1, "x": 2 }]"#);

        let gone = Error::server_selection("no server available");
        let verdict = judge(&Expected::Ok, &Err(gone)).unwrap_err();
        assert_eq!(verdict.expected, "success");
        assert!(verdict.seen.contains("no server available"), "{}", verdict.seen);
    }
}
