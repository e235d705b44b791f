//! Finds test files, names them, and recognises their formats.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How deep folders are searched.
const MAX_DEPTH: usize = 16;

/// A test file.
pub struct TestFile {
    /// Where it is.
    pub path: PathBuf,
    /// The specification it belongs to.
    pub spec: String,
    /// Specification and file, without extension.
    pub name: String,
    /// What is in it, or why that cannot be read.
    content: Result<Value, String>,
}

/// The formats of test files.
pub enum Format {
    /// Server discovery and monitoring: phases of responses and outcomes.
    Sdam,
    /// Server selection and max staleness: one selection.
    Selection,
    /// Server selection: many selections among servers with operation counts.
    InWindow,
    /// Server selection: one more round-trip time.
    RoundTripTime,
    /// Connection strings and URI options.
    ConnectionString,
    /// Read and write concerns, and the documents they make.
    Concern,
    /// Connection strings and the credential they make.
    Credential,
    /// Connection strings and what DNS makes of them.
    Seedlist,
    /// Connection pools: operations of threads, and events.
    Cmap,
    /// BSON: documents in all their encodings.
    BsonCorpus,
    /// BSON: vectors in binary values.
    BsonVector,
    /// The unified test format.
    Unified,
    /// The DNS records that files of seed lists are about: no test themselves.
    Records,
    /// Any other, by its name.
    NotRun(&'static str),
}

impl TestFile {
    /// The content; `Null` if it could not be read.
    pub fn json(&self) -> Value {
        self.content.clone().unwrap_or_default()
    }

    /// The format, by the shape of the content.
    ///
    /// # Errors
    /// If the file is not JSON.
    pub fn format(&self) -> Result<Format, String> {
        let json = self.content.as_ref().map_err(Clone::clone)?;
        let has = |key: &str| json.get(key).is_some();
        let tests = json.get("tests").and_then(Value::as_array);
        let any_test_has =
            |key: &str| tests.is_some_and(|tests| tests.iter().any(|test| test.get(key).is_some()));
        let is_srv = json
            .get("uri")
            .and_then(Value::as_str)
            .is_some_and(|uri| uri.starts_with("mongodb+srv://"));
        Ok(if has("schemaVersion") || self.name.starts_with("unified-test-format/") {
            Format::Unified
        } else if has("phases") && has("uri") {
            Format::Sdam
        } else if has("mocked_topology_state") {
            Format::InWindow
        } else if has("topology_description") && has("read_preference") {
            Format::Selection
        } else if has("new_avg_rtt") {
            Format::RoundTripTime
        } else if is_srv && (has("seeds") || has("numSeeds") || has("error")) {
            Format::Seedlist
        } else if any_test_has("readConcernDocument") || any_test_has("writeConcernDocument") {
            Format::Concern
        } else if any_test_has("uri") && any_test_has("credential") {
            Format::Credential
        } else if any_test_has("uri") && any_test_has("valid") {
            Format::ConnectionString
        } else if has("style") && has("operations") {
            Format::Cmap
        } else if has("bson_type") {
            Format::BsonCorpus
        } else if has("test_key") {
            Format::BsonVector
        } else if has("SRV") && has("TXT") {
            // The records that other files are about.
            Format::Records
        } else {
            Format::NotRun("not a known test format")
        })
    }
}

/// All JSON files below `root` (or `root` itself), in the order of their paths.
///
/// # Errors
/// If `root` cannot be read.
pub fn files_below(root: &Path) -> io::Result<Vec<TestFile>> {
    let root = root.canonicalize()?;
    let mut paths = Vec::new();
    if root.is_file() {
        paths.push(root.clone());
    } else {
        collect(&root, MAX_DEPTH, &mut paths)?;
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| read(&root, path)).collect())
}

fn collect(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name == "node_modules" || name.to_string_lossy().starts_with('.'));
        if path.is_dir() {
            if depth > 0 && !hidden {
                collect(&path, depth - 1, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    Ok(())
}

fn read(root: &Path, path: PathBuf) -> TestFile {
    let (spec, file) = spec_and_file(root, &path);
    let content = fs::read_to_string(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
    TestFile { name: format!("{spec}/{file}"), path, spec, content }
}

/// The folder before the last `tests`, and the path after it; without a folder `tests`, the name of
/// the root and the path below it.
fn spec_and_file(root: &Path, path: &Path) -> (String, String) {
    let parts: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    if let Some(tests) = folders.iter().rposition(|part| part == "tests")
        && tests > 0
    {
        return (parts[tests - 1].clone(), parts[tests + 1..].join("/"));
    }
    let base = if root.is_file() { root.parent().unwrap_or(root) } else { root };
    let below = &parts[base.components().count().min(parts.len() - 1)..];
    match below {
        [spec, rest @ ..] if !rest.is_empty() => (spec.clone(), rest.join("/")),
        _ => {
            let name = base
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            (name, below.join("/"))
        }
    }
}
