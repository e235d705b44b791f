//! Timelines as snapshots, over the crate insta: what a test would rather read than compute.
//!
//! Nothing in a timeline is random once the seed is given, so nothing is redacted: a snapshot is the
//! whole history, byte for byte. Review changes with `cargo insta review`, or accept them with
//! `INSTA_UPDATE=always cargo test`; for scenario files `stepdown record` does the same.
//!
//! ```no_run
//! use stepdown::Sim;
//! use stepdown::trace::{Category, Filter};
//!
//! let sim = Sim::builder().seed(7).members(3).build();
//! sim.elect();
//! stepdown::assert_timeline!(sim, Filter::new().category(Category::Election));
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

// The macro needs it under a path of its own.
#[doc(hidden)]
pub use insta;

use crate::scenario::{RunOptions, Scenario, recorded_path};
use crate::trace::FORMAT_VERSION;

/// Asserts that a world's timeline is the recorded one.
///
/// `assert_timeline!(sim)` compares everything recorded with a snapshot file named for the test;
/// `assert_timeline!(sim, filter)` what a [`Filter`](crate::trace::Filter) picks of it. A literal after
/// an `@` is an inline snapshot.
///
/// # Panics
/// As insta does: when the timeline is another one, or not recorded yet.
#[macro_export]
macro_rules! assert_timeline {
    ($sim:expr $(, @$inline:literal)? $(,)?) => {
        $crate::snapshot::insta::assert_snapshot!($sim.timeline() $(, @$inline)?)
    };
    ($sim:expr, $filter:expr $(, @$inline:literal)? $(,)?) => {
        $crate::snapshot::insta::assert_snapshot!($sim.timeline_of(&$filter) $(, @$inline)?)
    };
}

/// Runs every scenario file (`*.toml`) in `folder`: each must hold, and tell its recorded timeline
/// (`timelines/NAME.snap` in the folder). All are run, whatever becomes of the first. A test of one line:
///
/// ```no_run
/// # // As a test: #[test]
/// fn our_stories_are_told_as_recorded() {
///     stepdown::snapshot::assert_scenarios(concat!(env!("CARGO_MANIFEST_DIR"), "/stories"));
/// }
/// ```
///
/// # Panics
/// The folder cannot be read or has no scenario file; a file is wrong; a story does not hold or is not as
/// recorded. The message names each.
pub fn assert_scenarios(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no scenario file (*.toml)", folder.display());
    let failed: Vec<String> = files
        .iter()
        .filter(|file| catch_unwind(AssertUnwindSafe(|| assert_scenario(file))).is_err())
        .map(|file| file.display().to_string())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} stories are not as recorded (see above): {}",
        failed.len(),
        files.len(),
        failed.join(", ")
    );
}

/// Runs one scenario file: it must hold, and tell its recorded timeline.
///
/// # Panics
/// As [`assert_scenarios`].
pub fn assert_scenario(file: impl AsRef<Path>) {
    let file = file.as_ref();
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let scenario = Scenario::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
    let outcome = scenario.run(&RunOptions::default());
    if let Some(failure) = outcome.failures().first() {
        panic!("{failure}\n{}", outcome.timeline());
    }
    let record = recorded_path(file);
    let absolute = |path: &Path| {
        std::path::absolute(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(absolute(record.parent().unwrap_or(Path::new(""))));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(file);
    settings.set_description(format!("stepdown timeline {FORMAT_VERSION}"));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    settings.bind(|| insta::assert_snapshot!(stem, outcome.timeline()));
}
