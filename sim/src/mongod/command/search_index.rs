//! Search indexes: commands and a stage that only Atlas answers; other servers say so.

use stepdown_driver::Instant;

use super::spec::{CommandSpec, Gate};
use super::{Operation, Outcome};
use crate::mongod::error::{self, CommandError};
use crate::mongod::{Mongod, ServerVersion};

/// SearchNotEnabled.
const SEARCH_NOT_ENABLED: i32 = 31_082;

const fn command(names: &'static [&'static str]) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Always,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] = &[
    command(&["createSearchIndexes"]),
    command(&["dropSearchIndex"]),
    command(&["listSearchIndexes"]),
    command(&["updateSearchIndex"]),
];

fn run(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    Err(match server.options.version {
        // Measured: 6.0 does not know them.
        ServerVersion::V6_0 => {
            CommandError::new(error::COMMAND_NOT_FOUND, format!("no such command: '{}'", op.name))
        }
        _ => not_enabled(),
    })
}

/// What servers outside of Atlas say to all of it.
pub(crate) fn not_enabled() -> CommandError {
    CommandError::new(
        SEARCH_NOT_ENABLED,
        "Using Atlas Search Database Commands and the $listSearchIndexes aggregation stage requires \
         additional configuration. Please connect to Atlas or an AtlasCLI local deployment to enable. \
         For more information on how to connect, see \
         https://dochub.mongodb.org/core/atlas-cli-deploy-local-reqs.",
    )
}
