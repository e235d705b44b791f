//! Whether a deployment can run a file or a case (`runOnRequirements`).

use std::collections::BTreeMap;

use bson::{Bson, Document};

use super::matching::{Names, matches};

/// What requirements can be about.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The server's version.
    pub version: Vec<u64>,
    /// What kind of deployment it is.
    pub topology: &'static str,
    /// The parameters of the server.
    pub parameters: BTreeMap<String, Bson>,
    /// Whether clients authenticate.
    pub auth: bool,
}

impl Facts {
    /// Whether one of `requirements` is met; none at all always are.
    ///
    /// # Errors
    /// Why none of them is met.
    pub fn meet(&self, requirements: &[Document]) -> Result<(), String> {
        let mut reasons: Vec<String> = Vec::new();
        for requirement in requirements {
            match self.meets(requirement) {
                Ok(()) => return Ok(()),
                Err(reason) if !reasons.contains(&reason) => reasons.push(reason),
                Err(_) => {}
            }
        }
        if requirements.is_empty() { Ok(()) } else { Err(reasons.join(", or ")) }
    }

    fn meets(&self, requirement: &Document) -> Result<(), String> {
        // The most telling reason first.
        if let Ok(topologies) = requirement.get_array("topologies") {
            let names: Vec<&str> = topologies.iter().filter_map(Bson::as_str).collect();
            let same = |name: &str| {
                name == self.topology
                    || (self.topology == "sharded" && name == "sharded-replicaset")
            };
            if !names.iter().any(|name| same(name)) {
                return Err(format!("topology {}", names.join(" or ")));
            }
        }
        match requirement.get("csfle") {
            None | Some(Bson::Boolean(false)) => {}
            Some(_) => return Err("client-side encryption".to_owned()),
        }
        if matches!(requirement.get_str("serverless"), Ok("require")) {
            return Err("Atlas Serverless".to_owned());
        }
        match requirement.get_bool("auth") {
            Ok(auth) if auth != self.auth => {
                return Err(format!("authentication {}", if auth { "on" } else { "off" }));
            }
            _ => {}
        }
        if let Ok(least) = requirement.get_str("minServerVersion")
            && self.compare(least).is_lt()
        {
            return Err(format!("server {least} or later"));
        }
        if let Ok(most) = requirement.get_str("maxServerVersion")
            && self.compare(most).is_gt()
        {
            return Err(format!("server {most} or earlier"));
        }
        if let Ok(mechanism) = requirement.get_str("authMechanism") {
            let known = match self.parameters.get("authenticationMechanisms") {
                Some(Bson::Array(known)) => known.as_slice(),
                _ => &[],
            };
            let mut known = known.iter().filter_map(Bson::as_str);
            if !known.any(|known| known.eq_ignore_ascii_case(mechanism)) {
                return Err(format!("authentication by {mechanism}"));
            }
        }
        if let Ok(parameters) = requirement.get_document("serverParameters") {
            for (name, value) in parameters {
                let found = self.parameters.get(name);
                if found.is_none() || matches(value, found, false, &Nothing).is_err() {
                    return Err(format!("server parameter {name}: {value}"));
                }
            }
        }
        Ok(())
    }

    /// How the server's version compares with `other`.
    fn compare(&self, other: &str) -> std::cmp::Ordering {
        let other: Vec<u64> = other.split('.').map(|part| part.parse().unwrap_or(0)).collect();
        let part = |version: &[u64], index: usize| version.get(index).copied().unwrap_or(0);
        (0..3)
            .map(|index| part(&self.version, index).cmp(&part(&other, index)))
            .find(|order| order.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    }
}

/// Requirements refer to nothing.
struct Nothing;

impl Names for Nothing {
    fn value(&self, _: &str) -> Option<Bson> {
        None
    }

    fn lsid(&self, _: &str) -> Option<Document> {
        None
    }
}
