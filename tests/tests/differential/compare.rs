//! Compares two documents field by field, in order and with types.

use std::fmt;

use bson::{Bson, Document};

/// One thing that differs.
#[derive(Clone, Debug)]
pub struct Difference {
    pub path: Vec<String>,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.join("."), self.what)
    }
}

/// What is different in `simulated`.
pub fn compare(real: &Document, simulated: &Document) -> Vec<Difference> {
    let mut found = Vec::new();
    documents(real, simulated, &mut Vec::new(), &mut found);
    found
}

fn documents(
    real: &Document,
    simulated: &Document,
    path: &mut Vec<String>,
    found: &mut Vec<Difference>,
) {
    for (key, value) in real {
        path.push(key.clone());
        match simulated.get(key) {
            Some(other) => values(value, other, path, found),
            None => note(path, format!("missing, real {value}"), found),
        }
        path.pop();
    }
    for (key, value) in simulated {
        if !real.contains_key(key) {
            path.push(key.clone());
            note(path, format!("only simulated: {value}"), found);
            path.pop();
        }
    }
    let common = |one: &Document, other: &Document| -> Vec<String> {
        one.keys().filter(|key| other.contains_key(*key)).cloned().collect()
    };
    let (in_real, in_simulated) = (common(real, simulated), common(simulated, real));
    if in_real != in_simulated {
        path.push("$order".into());
        let what = format!("real {}, simulated {}", in_real.join(" "), in_simulated.join(" "));
        note(path, what, found);
        path.pop();
    }
}

fn values(real: &Bson, simulated: &Bson, path: &mut Vec<String>, found: &mut Vec<Difference>) {
    match (real, simulated) {
        (Bson::Document(real), Bson::Document(simulated)) => {
            documents(real, simulated, path, found);
        }
        (Bson::Array(real), Bson::Array(simulated)) => {
            for (index, value) in real.iter().enumerate() {
                path.push(index.to_string());
                match simulated.get(index) {
                    Some(other) => values(value, other, path, found),
                    None => note(path, format!("missing, real {value}"), found),
                }
                path.pop();
            }
            for (index, value) in simulated.iter().enumerate().skip(real.len()) {
                path.push(index.to_string());
                note(path, format!("only simulated: {value}"), found);
                path.pop();
            }
        }
        _ if same(real, simulated) => {}
        _ => {
            let kinds = (real.element_type(), simulated.element_type());
            let what = if kinds.0 == kinds.1 {
                format!("real {real}, simulated {simulated}")
            } else {
                format!("real {real} ({:?}), simulated {simulated} ({:?})", kinds.0, kinds.1)
            };
            note(path, what, found);
        }
    }
}

/// Bitwise for doubles: NaN is NaN, and -0 is not 0.
fn same(real: &Bson, simulated: &Bson) -> bool {
    match (real, simulated) {
        (Bson::Double(real), Bson::Double(simulated)) => real.to_bits() == simulated.to_bits(),
        _ => real == simulated,
    }
}

fn note(path: &[String], what: String, found: &mut Vec<Difference>) {
    found.push(Difference { path: path.to_vec(), what });
}
