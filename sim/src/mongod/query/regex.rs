//! Regular expressions of filters and expressions.
//!
//! The server's are PCRE's. Here they are the `regex` crate's: the same but for look-around and back
//! references, which are refused as invalid.

use crate::mongod::error::{self, CommandError};

/// A compiled regular expression that remembers how it was written.
#[derive(Clone, Debug)]
pub struct Regex {
    /// The pattern.
    pub pattern: String,
    /// The options.
    pub options: String,
    compiled: regex::Regex,
}

impl Regex {
    /// Compiles `pattern` with options out of `imsxu`.
    ///
    /// # Errors
    /// 51108 for an unknown option, 51091 for an invalid pattern.
    pub fn new(pattern: &str, options: &str) -> Result<Regex, CommandError> {
        let mut builder = regex::RegexBuilder::new(pattern);
        for option in options.chars() {
            match option {
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                's' => builder.dot_matches_new_line(true),
                'x' => builder.ignore_whitespace(true),
                'u' => &mut builder,
                _ => {
                    return Err(CommandError::new(
                        51108,
                        format!("invalid flag in regex options: {option}"),
                    ));
                }
            };
        }
        if pattern.contains('\0') {
            return Err(CommandError::new(
                error::BAD_VALUE,
                "Regular expression cannot contain an embedded null byte",
            ));
        }
        let compiled = builder.build().map_err(|reason| {
            let reason = reason.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            CommandError::new(51091, format!("Regular expression is invalid: {}", words(reason)))
        })?;
        Ok(Regex { pattern: pattern.to_owned(), options: options.to_owned(), compiled })
    }

    /// What every match begins with, if the pattern says so plainly: `^abc`. Regular expressions match
    /// values that are themselves such, which no string is.
    pub fn prefix(&self) -> Option<String> {
        let rest = self.pattern.strip_prefix('^').filter(|_| self.options.is_empty())?;
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || " _-/:,;#@".contains(*letter);
        let mut prefix: String = rest.chars().take_while(plain).collect();
        // What follows may make the last letter optional.
        let after = rest[prefix.len()..].chars().next();
        if after.is_some_and(|after| "*?{|".contains(after)) {
            prefix.pop();
        }
        (!prefix.is_empty() && !rest.contains('|')).then_some(prefix)
    }

    /// Whether it matches anywhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The first match at or after byte `start`: the byte ranges of the whole and of each group.
    pub fn captures_at(&self, text: &str, start: usize) -> Option<Vec<Option<(usize, usize)>>> {
        let captures = self.compiled.captures_at(text, start)?;
        Some(captures.iter().map(|group| group.map(|found| (found.start(), found.end()))).collect())
    }
}

/// What is wrong with a pattern, in the words of PCRE where they are known.
fn words(reason: &str) -> &str {
    match reason {
        "unclosed group" => "missing )",
        "unopened group" => "unmatched parentheses",
        "unclosed character class" => "missing terminating ] for character class",
        "repetition operator missing expression" => "nothing to repeat",
        reason => reason,
    }
}
