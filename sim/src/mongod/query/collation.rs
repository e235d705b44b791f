//! Collations: how strings compare.
//!
//! Supported are the simple collation (bytes) and strengths 1 and 2 of any locale, by Unicode case
//! folding (and, at strength 1, without the accents of Latin letters). Tailored orders of single locales
//! and strength 3 and above need ICU's tables, which the server has and this simulator has not.

use std::borrow::Cow;

use crate::mongod::error::{self, CommandError};

use super::value::{DocumentRef, ValueRef};

/// How strings compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collation {
    /// By their bytes.
    #[default]
    Simple,
    /// Strength 1: base letters only.
    Primary,
    /// Strength 2: case is ignored, accents count.
    Secondary,
}

impl Collation {
    /// Parses `{locale, strength, ...}`.
    ///
    /// # Errors
    /// `FailedToParse` without a locale; `BadValue` for what is not supported here.
    pub fn parse(spec: DocumentRef<'_>) -> Result<Collation, CommandError> {
        if spec.is_empty() {
            return Ok(Collation::Simple);
        }
        let Some(locale) = spec.get("locale").and_then(ValueRef::as_str) else {
            return Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "BSON field 'collation.locale' is missing but a required field",
            ));
        };
        if locale == "simple" {
            return Ok(Collation::Simple);
        }
        for (name, value) in spec.iter() {
            let ignored = match name {
                "locale" | "strength" | "version" => true,
                "caseLevel" | "numericOrdering" | "backwards" | "normalization" => {
                    !value.is_truthy()
                }
                "caseFirst" => value.as_str() == Some("off"),
                "alternate" => value.as_str() == Some("non-ignorable"),
                "maxVariable" => value.as_str() == Some("punct"),
                _ => {
                    return Err(CommandError::new(
                        40415,
                        format!("BSON field 'collation.{name}' is an unknown field."),
                    ));
                }
            };
            if !ignored {
                return Err(not_supported(name));
            }
        }
        match spec.get("strength").map(super::number::as_exact_i64) {
            Some(Some(1)) => Ok(Collation::Primary),
            Some(Some(2)) => Ok(Collation::Secondary),
            None | Some(Some(3..=5)) => Err(not_supported("strength")),
            _ => Err(CommandError::new(
                error::FAILED_TO_PARSE,
                "Enumeration value for field 'collation.strength' is not a valid value.",
            )),
        }
    }

    /// What strings are compared by instead of themselves.
    pub fn fold(self, text: &str) -> Cow<'_, str> {
        match self {
            Collation::Simple => Cow::Borrowed(text),
            Collation::Secondary => Cow::Owned(text.to_lowercase()),
            Collation::Primary => {
                Cow::Owned(text.to_lowercase().chars().map(without_accent).collect())
            }
        }
    }
}

fn not_supported(what: &str) -> CommandError {
    CommandError::new(
        error::BAD_VALUE,
        format!(
            "collation option '{what}': this server supports the locale 'simple' and the \
             strengths 1 and 2"
        ),
    )
}

/// The base letter of a lower-case Latin letter with an accent.
fn without_accent(letter: char) -> char {
    match letter {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => 'c',
        'ď' => 'd',
        'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => 'e',
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => 'g',
        'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' => 'i',
        'ñ' | 'ń' | 'ņ' | 'ň' => 'n',
        'ò'..='ö' | 'ō' | 'ŏ' | 'ő' => 'o',
        'ŕ' | 'ŗ' | 'ř' => 'r',
        'ś' | 'ŝ' | 'ş' | 'š' => 's',
        'ţ' | 'ť' => 't',
        'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn strength_two_ignores_case_and_strength_one_accents_too() {
        assert_eq!(Collation::Secondary.fold("Éva"), "éva");
        assert_eq!(Collation::Primary.fold("Éva"), "eva");
        assert_eq!(Collation::Simple.fold("Éva"), "Éva");
    }

    #[test]
    fn what_needs_icu_is_refused_openly() {
        let parse = |spec: bson::Document| Collation::parse((&spec).into());
        assert_eq!(parse(doc! { "locale": "simple" }), Ok(Collation::Simple));
        assert_eq!(parse(doc! { "locale": "en", "strength": 2 }), Ok(Collation::Secondary));
        assert_eq!(parse(doc! { "locale": "sv" }).unwrap_err().code, error::BAD_VALUE);
        assert_eq!(parse(doc! { "strength": 1 }).unwrap_err().code, error::FAILED_TO_PARSE);
    }
}
