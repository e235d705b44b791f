//! Collations: how strings compare.
//!
//! The order is the root order of the Unicode collation algorithm for the Latin script, by tables of our
//! own: base letters, then accents, then case. Locales without a tailored order of their own have it;
//! those with one need ICU's tables, which the server has and this simulator has not, and are refused.
//! Letters of other scripts compare by their code points.

use std::borrow::Cow;

use bson::{RawDocumentBuf, rawdoc};

use crate::mongod::error::{self, CommandError};

use super::number::as_exact_i64;
use super::text::document_text;
use super::value::{DocumentRef, ValueRef};

/// How strings compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collation {
    /// By their bytes.
    #[default]
    Simple,
    /// By a language's rules.
    Rules(Rules),
}

/// The rules of a collation that is not simple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    locale: &'static str,
    /// 1 to 5: base letters, accents, case, punctuation (if shifted), everything.
    strength: u8,
    case_level: bool,
    case_first: CaseFirst,
    numeric: bool,
    /// `alternate: "shifted"`.
    shifted: bool,
    /// `maxVariable: "space"`: only spaces are shifted, not punctuation.
    spaces_only: bool,
    backwards: bool,
    normalization: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaseFirst {
    Off,
    Upper,
    Lower,
}

/// The locales whose letters of the Latin script have the root order.
const LOCALES: &[&str] = &[
    "en",
    "en_US",
    "en_US_POSIX",
    "en_GB",
    "en_AU",
    "en_CA",
    "de",
    "de_AT",
    "de_DE",
    "fr",
    "fr_FR",
    "fr_CA",
    "ga",
    "id",
    "it",
    "it_IT",
    "lb",
    "ms",
    "nl",
    "nl_NL",
    "pt",
    "pt_BR",
    "pt_PT",
    "sw",
    "zu",
    "ca",
    "eu",
];

impl Collation {
    /// Parses `{locale, strength, ...}`; an empty document is the simple collation.
    ///
    /// # Errors
    /// 40414 without a locale, 40415 for an unknown field, `BadValue` for an unknown locale or value.
    pub fn parse(spec: DocumentRef<'_>) -> Result<Collation, CommandError> {
        if spec.is_empty() {
            return Ok(Collation::Simple);
        }
        let mut rules = Rules {
            locale: "",
            strength: 3,
            case_level: false,
            case_first: CaseFirst::Off,
            numeric: false,
            shifted: false,
            spaces_only: false,
            backwards: false,
            normalization: false,
        };
        let mut locale = None;
        for (name, value) in spec.iter() {
            match name {
                "locale" => locale = Some(text(name, value)?),
                "strength" => rules.strength = strength(value)?,
                "caseLevel" => rules.case_level = flag(name, value)?,
                "numericOrdering" => rules.numeric = flag(name, value)?,
                "normalization" => rules.normalization = flag(name, value)?,
                "backwards" => rules.backwards = flag(name, value)?,
                "caseFirst" => {
                    rules.case_first = match text(name, value)? {
                        "off" => CaseFirst::Off,
                        "upper" => CaseFirst::Upper,
                        "lower" => CaseFirst::Lower,
                        other => return Err(no_such_value(name, other)),
                    };
                }
                "alternate" => {
                    rules.shifted = match text(name, value)? {
                        "non-ignorable" => false,
                        "shifted" => true,
                        other => return Err(no_such_value(name, other)),
                    };
                }
                "maxVariable" => {
                    rules.spaces_only = match text(name, value)? {
                        "punct" => false,
                        "space" => true,
                        other => return Err(no_such_value(name, other)),
                    };
                }
                "version" => {
                    text(name, value)?;
                }
                _ => {
                    return Err(CommandError::new(
                        40415,
                        format!("BSON field 'collation.{name}' is an unknown field."),
                    ));
                }
            }
        }
        let Some(locale) = locale else {
            return Err(CommandError::new(
                40414,
                "BSON field 'collation.locale' is missing but a required field",
            ));
        };
        if locale == "simple" {
            return Ok(Collation::Simple);
        }
        let Some(known) = LOCALES.iter().find(|known| **known == locale) else {
            return Err(CommandError::new(
                error::BAD_VALUE,
                format!("Field 'locale' is invalid in: {}", document_text(spec)),
            ));
        };
        if rules.backwards && rules.strength == 1 {
            return Err(CommandError::new(
                error::BAD_VALUE,
                format!("'backwards' is invalid with 'strength' of 1 in: {}", document_text(spec)),
            ));
        }
        rules.locale = known;
        if *known == "fr_CA" && spec.get("backwards").is_none() {
            rules.backwards = true;
        }
        Ok(Collation::Rules(rules))
    }

    /// The collation with all its fields, as catalogs show it; `None` for the simple one.
    pub fn to_document(self) -> Option<RawDocumentBuf> {
        let Collation::Rules(rules) = self else { return None };
        Some(rawdoc! {
            "locale": rules.locale,
            "caseLevel": rules.case_level,
            "caseFirst": match rules.case_first {
                CaseFirst::Off => "off",
                CaseFirst::Upper => "upper",
                CaseFirst::Lower => "lower",
            },
            "strength": i32::from(rules.strength),
            "numericOrdering": rules.numeric,
            "alternate": if rules.shifted { "shifted" } else { "non-ignorable" },
            "maxVariable": if rules.spaces_only { "space" } else { "punct" },
            "normalization": rules.normalization,
            "backwards": rules.backwards,
            "version": "57.1",
        })
    }

    /// What strings are compared by instead of their own bytes.
    pub fn key(self, text: &str) -> Cow<'_, [u8]> {
        match self {
            Collation::Simple => Cow::Borrowed(text.as_bytes()),
            Collation::Rules(rules) => Cow::Owned(rules.key(text)),
        }
    }
}

fn text<'a>(name: &str, value: ValueRef<'a>) -> Result<&'a str, CommandError> {
    value.as_str().ok_or_else(|| wrong_type(name, value, "type 'string'"))
}

fn flag(name: &str, value: ValueRef<'_>) -> Result<bool, CommandError> {
    match value {
        ValueRef::Boolean(flag) => Ok(flag),
        value => Err(wrong_type(name, value, "type 'bool'")),
    }
}

fn wrong_type(name: &str, value: ValueRef<'_>, expected: &str) -> CommandError {
    CommandError::new(
        error::TYPE_MISMATCH,
        format!(
            "BSON field 'collation.{name}' is the wrong type '{}', expected {expected}",
            value.type_name()
        ),
    )
}

fn no_such_value(name: &str, value: &str) -> CommandError {
    CommandError::new(
        error::BAD_VALUE,
        format!("Enumeration value '{value}' for field 'collation.{name}' is not a valid value."),
    )
}

fn strength(value: ValueRef<'_>) -> Result<u8, CommandError> {
    if !value.is_number() {
        return Err(wrong_type("strength", value, "types '[long, int, decimal, double']"));
    }
    match as_exact_i64(value) {
        Some(strength @ 1..=5) => Ok(strength as u8),
        Some(0) => Err(no_such_value("strength", "0")),
        Some(strength) if strength < 0 => Err(CommandError::new(
            51024,
            format!("BSON field 'strength' value must be >= 0, actual value '{strength}'"),
        )),
        _ => Err(CommandError::new(
            51024,
            format!(
                "BSON field 'strength' value must be <= 5, actual value '{}'",
                super::text::value_text(value)
            ),
        )),
    }
}

/// ASCII characters that are neither letters nor digits, in the root order: spaces, punctuation, then
/// (from the accent on) symbols.
const BEFORE_DIGITS: &str = "\t\n\u{b}\u{c}\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";
const FIRST_SYMBOL: char = '`';

/// Where the primary weights of the classes begin.
const DIGITS: u32 = 0x100;
const NUMBER: u32 = 0x140;
const LETTERS: u32 = 0x200;
const OTHERS: u32 = 0x1000;

/// The secondary and tertiary weight of what has none of its own.
const COMMON: u8 = 5;
const UPPER: u8 = 0x9c;

/// Latin letters with an accent: the letters, what each is without, and the accent's weight.
const ACCENTED: &[(&str, &str, u8)] = &[
    ("áéíóúýćĺńŕśź", "aeiouyclnrsz", 0x24),
    ("àèìòùǹ", "aeioun", 0x25),
    ("ăĕĭŏŭğ", "aeioug", 0x26),
    ("âêîôûĉĝĥĵŝŵŷ", "aeioucghjswy", 0x27),
    ("ǎěǐǒǔčďňřšťž", "aeioucdnrstz", 0x28),
    ("åů", "au", 0x29),
    ("äëïöüÿ", "aeiouy", 0x2b),
    ("őű", "ou", 0x2c),
    ("ãõñĩũ", "aoniu", 0x2d),
    ("ċėġż", "cegz", 0x2e),
    ("øł", "ol", 0x2f),
    ("çģķļņŗşţ", "cgklnrst", 0x30),
    ("ąęįų", "aeiu", 0x31),
    ("āēīōū", "aeiou", 0x32),
];

/// Combining marks and the weights of the accents they are.
const MARKS: &[(char, u8)] = &[
    ('\u{301}', 0x24),
    ('\u{300}', 0x25),
    ('\u{306}', 0x26),
    ('\u{302}', 0x27),
    ('\u{30c}', 0x28),
    ('\u{30a}', 0x29),
    ('\u{308}', 0x2b),
    ('\u{30b}', 0x2c),
    ('\u{303}', 0x2d),
    ('\u{307}', 0x2e),
    ('\u{338}', 0x2f),
    ('\u{327}', 0x30),
    ('\u{328}', 0x31),
    ('\u{304}', 0x32),
];

impl Rules {
    /// The weights of a string, level by level: strings compare as their keys do.
    fn key(self, text: &str) -> Vec<u8> {
        let (mut primary, mut secondary, mut cases, mut fourth) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut push = |weight: u32| primary.extend_from_slice(&weight.to_be_bytes()[1..]);
        let mut chars = text.chars().peekable();
        while let Some(character) = chars.next() {
            if let Some((_, mark)) = MARKS.iter().find(|(mark, _)| *mark == character) {
                secondary.push(*mark);
                continue;
            }
            if let Some(place) = BEFORE_DIGITS.chars().position(|known| known == character) {
                let symbol = BEFORE_DIGITS.chars().position(|known| known == FIRST_SYMBOL);
                let variable = match self.spaces_only {
                    true => character.is_whitespace(),
                    false => symbol.is_some_and(|symbol| place < symbol),
                };
                if self.shifted && variable {
                    fourth.push(place as u8 + 1);
                    continue;
                }
                push(place as u32 + 1);
                secondary.push(COMMON);
                cases.push(COMMON);
                fourth.push(0xff);
                continue;
            }
            if let Some(digit) = character.to_digit(10) {
                if self.numeric {
                    let mut digits = vec![digit];
                    while let Some(digit) = chars.peek().and_then(|next| next.to_digit(10)) {
                        digits.push(digit);
                        chars.next();
                    }
                    let leading = digits.iter().take_while(|digit| **digit == 0).count();
                    let significant = &digits[leading.min(digits.len() - 1)..];
                    push(NUMBER);
                    push(significant.len() as u32);
                    significant.iter().for_each(|digit| push(DIGITS + digit));
                } else {
                    push(DIGITS + digit);
                }
                secondary.push(COMMON);
                cases.push(COMMON);
                fourth.push(0xff);
                continue;
            }
            if character.is_control() {
                continue;
            }
            let upper = character.is_uppercase();
            let lower = character.to_lowercase().next().unwrap_or(character);
            let case = if upper { UPPER } else { COMMON };
            let expanded = match lower {
                'ß' => Some(("ss", 0x33)),
                'æ' => Some(("ae", 0x33)),
                'œ' => Some(("oe", 0x33)),
                _ => None,
            };
            if let Some((letters, mark)) = expanded {
                for letter in letters.chars() {
                    push(LETTERS + letter as u32);
                    secondary.push(COMMON);
                    cases.push(case);
                    fourth.push(0xff);
                }
                secondary.push(mark);
                continue;
            }
            let accented = ACCENTED.iter().find_map(|(letters, bases, mark)| {
                let place = letters.chars().position(|letter| letter == lower)?;
                Some((bases.chars().nth(place)?, *mark))
            });
            let (base, mark) = accented.map_or((lower, None), |(base, mark)| (base, Some(mark)));
            push(if base.is_ascii_alphabetic() {
                LETTERS + base as u32
            } else {
                OTHERS + base as u32
            });
            secondary.push(COMMON);
            cases.push(case);
            fourth.push(0xff);
            secondary.extend(mark);
        }
        let mut key = primary;
        if self.strength >= 2 {
            key.extend_from_slice(&[0, 0, 0]);
            if self.backwards {
                secondary.reverse();
            }
            key.extend(secondary);
        }
        if self.strength >= 3 || self.case_level {
            key.extend_from_slice(&[0, 0, 0]);
            let upper_first = self.case_first == CaseFirst::Upper;
            key.extend(cases.iter().map(|case| match case {
                case if upper_first && *case >= UPPER => case - UPPER + 2,
                case => *case,
            }));
        }
        if self.strength >= 4 && self.shifted {
            key.extend_from_slice(&[0, 0, 0]);
            key.extend(fourth);
        }
        if self.strength >= 5 {
            key.extend_from_slice(&[0, 0, 0]);
            key.extend_from_slice(text.as_bytes());
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn collation(spec: bson::Document) -> Collation {
        Collation::parse((&spec).into()).unwrap()
    }

    fn sorted(spec: bson::Document, words: &str) -> String {
        let collation = collation(spec);
        let mut words: Vec<&str> = words.split(' ').collect();
        words.sort_by(|a, b| collation.key(a).cmp(&collation.key(b)));
        words.join(" ")
    }

    fn equal(spec: bson::Document, a: &str, b: &str) -> bool {
        let collation = collation(spec);
        collation.key(a) == collation.key(b)
    }

    #[test]
    fn strength_two_ignores_case_and_strength_one_accents_too() {
        let of_strength = |strength: i32| doc! { "locale": "en", "strength": strength };
        assert!(equal(of_strength(1), "Éva", "eva"));
        assert!(equal(of_strength(2), "Éva", "éva"));
        assert!(!equal(of_strength(2), "Éva", "Eva"));
        assert!(!equal(of_strength(3), "Eva", "eva"));
    }

    #[test]
    fn letters_come_before_accents_and_accents_before_case() {
        let words = sorted(doc! { "locale": "en" }, "b B á a A Á z Z ab 10 9 _x");
        assert_eq!(words, "_x 10 9 a A á Á ab b B z Z");
    }

    #[test]
    fn numbers_in_strings_can_compare_as_numbers() {
        let words = sorted(doc! { "locale": "en", "numericOrdering": true }, "a10 a9 a010 a1");
        assert_eq!(words, "a1 a9 a10 a010");
    }

    #[test]
    fn what_needs_tables_of_its_own_is_refused_openly() {
        let parse = |spec: bson::Document| Collation::parse((&spec).into());
        assert_eq!(parse(doc! { "locale": "simple" }), Ok(Collation::Simple));
        assert_eq!(parse(doc! { "locale": "sv" }).unwrap_err().code, error::BAD_VALUE);
        assert_eq!(parse(doc! { "strength": 1 }).unwrap_err().code, 40414);
    }
}
