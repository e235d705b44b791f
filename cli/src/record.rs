//! `stepdown record`: accepts the timelines of scenario files as they are now.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use stepdown::scenario::{RunOptions, from_recorded, recorded_path, to_recorded};

use crate::run::{WRONG_FILE, read, scenario_files, verdict};

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RecordArguments {
    /// Scenario files, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

const EXAMPLES: &str = "\
Each timeline is written to timelines/NAME.snap beside its scenario, where `stepdown run --check` and
the crate's snapshot tests look for it. A story that does not hold is not recorded. Exit codes:
  0  every timeline is recorded
  1  a story did not hold; its old record stays
  2  wrong usage
  3  a file is wrong, or the record cannot be written

Examples:
  stepdown record fixtures/failover.toml
  stepdown record fixtures && git diff fixtures/timelines";

pub(crate) fn record(arguments: &RecordArguments) -> ExitCode {
    let files = match scenario_files(&arguments.files) {
        Ok(files) => files,
        Err(code) => return code,
    };
    let mut worst = 0;
    for file in &files {
        let name = file.display();
        let scenario = match read(file) {
            Ok(scenario) => scenario,
            Err(code) => {
                worst = worst.max(code);
                continue;
            }
        };
        let outcome = scenario.run(&RunOptions::default());
        let code = verdict(&outcome);
        if code != 0 {
            println!("FAILED     {name}");
            worst = worst.max(code);
            continue;
        }
        let path = recorded_path(file);
        let before = std::fs::read_to_string(&path).ok();
        let same = |text: &str| text.trim_end() == outcome.timeline().trim_end();
        if before.as_deref().and_then(from_recorded).is_some_and(same) {
            println!("unchanged  {name}");
            continue;
        }
        // The name in the head is the same wherever the command is run from.
        let source = file.file_name().unwrap_or_default().to_string_lossy();
        let text = to_recorded(&source, outcome.timeline());
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = folder.and_then(|()| std::fs::write(&path, text)) {
            eprintln!("{}: {error}", path.display());
            worst = worst.max(WRONG_FILE);
            continue;
        }
        println!("recorded   {name}");
    }
    ExitCode::from(worst)
}
