//! The command `stepdown`: runs scenario files, serves a simulated replica set, and breaks it.

// The edge of the house: real time, signals and sockets are its trade.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod ctl;
mod explore;
mod record;
mod run;
mod serve;

/// A MongoDB replica set in a box: it elects, replicates, fails over and rolls back under a clock
/// that you hold.
#[derive(Parser)]
#[command(name = "stepdown", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  stepdown run fixtures/failover.toml           tell a story, and check that it holds
  stepdown run fixtures/failover.toml --seed 2  the same story, another history
  stepdown run fixtures --check                 compare every story with its recorded timeline
  stepdown explore --seeds 0..1000              a thousand storms, each its own
  stepdown serve                                a set on 127.0.0.1:27017 to 27019, for any client
  stepdown ctl kill primary                     kill -9 the primary of the set being served

Exit codes of `run`:
  0  the story held
  1  an expectation failed
  2  wrong usage
  3  the file is wrong: line and column are on stderr";

const SCHEMA_HELP: &str = "\
An editor with a TOML language server completes keys and marks mistakes by it. With Taplo (Even Better TOML):
  stepdown schema > scenario.schema.json
and, as the first line of a scenario file:
  #:schema ./scenario.schema.json";

#[derive(Subcommand)]
enum Command {
    /// Run scenario files and print their timelines, or compare them with recorded ones
    Run(run::RunArguments),
    /// Accept the timelines of scenario files as they are now
    Record(record::RecordArguments),
    /// Play many seeds of random faults, check everything, report what breaks
    Explore(explore::ExploreArguments),
    /// Print the JSON Schema of scenario files, for editors
    #[command(after_help = SCHEMA_HELP)]
    Schema,
    /// Serve a simulated set on real ports
    Serve(serve::ServeArguments),
    /// Break and mend a set being served
    Ctl(ctl::CtlArguments),
}

fn main() -> ExitCode {
    // clap ends the process with exit code 2 on wrong usage.
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Record(arguments) => record::record(&arguments),
        Command::Explore(arguments) => explore::explore(arguments),
        Command::Schema => {
            print!("{}", stepdown::scenario::Scenario::JSON_SCHEMA);
            ExitCode::SUCCESS
        }
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Ctl(arguments) => ctl::ctl(arguments),
    }
}
