//! The quorum check: a heartbeat to everybody in a proposed configuration.

use std::sync::Arc;

use stepdown_driver::Instant;

use super::config::ReplSetConfig;
use crate::mongod::command::wait::Waiting;
use crate::mongod::error::{
    CANNOT_INITIALIZE_NODE_WITH_DATA, CommandError, NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
    NODE_NOT_FOUND, PRIMARY_STEPPED_DOWN,
};
use crate::mongod::peer::{PeerFailure, PeerReply};
use crate::mongod::timer::Timer;
use crate::mongod::{Mongod, RpcId};

/// A question to every member of a proposed configuration.
#[derive(Debug)]
pub(crate) struct QuorumCheck {
    pub config: Arc<ReplSetConfig>,
    /// An initiation: everybody must answer and be empty.
    pub initiate: bool,
    pub pending: Vec<(RpcId, usize)>,
    pub answered: Vec<usize>,
    pub failures: Vec<String>,
    pub error: Option<CommandError>,
    pub deadline: Instant,
}

impl Mongod {
    pub(super) fn begin_quorum_check(
        &mut self,
        now: Instant,
        config: Arc<ReplSetConfig>,
        own: usize,
        initiate: bool,
    ) {
        let timeout = config.settings.heartbeat_timeout;
        let mut pending = Vec::new();
        for (index, member) in config.members.iter().enumerate() {
            if index == own {
                continue;
            }
            let rpc =
                self.send_quorum_heartbeat(&member.host, (config.version, config.term), initiate);
            pending.push((rpc, index));
        }
        let deadline = now + timeout;
        self.timers.set_earlier(Timer::Parked, deadline);
        self.repl.quorum_check = Some(Box::new(QuorumCheck {
            config,
            initiate,
            pending,
            answered: vec![own],
            failures: Vec::new(),
            error: None,
            deadline,
        }));
        self.settle_quorum_check(now);
    }

    /// An answer to a quorum check.
    pub(crate) fn on_quorum_reply(
        &mut self,
        now: Instant,
        rpc: RpcId,
        outcome: Result<PeerReply, PeerFailure>,
    ) {
        let Some(check) = &mut self.repl.quorum_check else { return };
        let Some(place) = check.pending.iter().position(|(asked, _)| *asked == rpc) else { return };
        let (_, index) = check.pending.remove(place);
        let host = check.config.members[index].host.clone();
        match outcome {
            Ok(PeerReply::Heartbeat(reply)) => {
                if check.initiate && reply.has_data {
                    check.error.get_or_insert(CommandError::new(
                        CANNOT_INITIALIZE_NODE_WITH_DATA,
                        format!("'{host}' has data already, cannot initiate set."),
                    ));
                } else if reply.config_version >= check.config.version
                    && reply.config_term >= check.config.term
                {
                    check.error.get_or_insert(CommandError::new(
                        NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                        format!(
                            "Our config version is {} and the one of {host} is {}; cannot proceed",
                            check.config.version, reply.config_version
                        ),
                    ));
                } else {
                    check.answered.push(index);
                }
            }
            Ok(PeerReply::Error(error)) => {
                check.error.get_or_insert(CommandError::new(
                    NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
                    format!("{host}: {}", error.message),
                ));
            }
            Ok(_) => unreachable!("a heartbeat is answered by a heartbeat reply or an error"),
            Err(failure) => {
                let why = match failure {
                    PeerFailure::Refused => "Connection refused",
                    PeerFailure::Reset => "Connection reset by peer",
                    PeerFailure::UnknownHost => "Could not find address",
                };
                check.failures.push(format!(
                    "{host} failed with Error connecting to {host} :: caused by :: {why}"
                ));
            }
        }
        self.settle_quorum_check(now);
    }

    /// Ends a quorum check that has heard enough, or waited long enough.
    pub(crate) fn settle_quorum_check(&mut self, now: Instant) {
        let Some(check) = &mut self.repl.quorum_check else { return };
        if check.deadline <= now {
            for (_, index) in std::mem::take(&mut check.pending) {
                let host = &check.config.members[index].host;
                check.failures.push(format!("{host} failed with Request timed out"));
            }
        }
        if !check.pending.is_empty() && check.error.is_none() {
            return;
        }
        let check = self.repl.quorum_check.take().expect("just seen");
        let outcome = match (&check.error, check.initiate) {
            (Some(error), _) => Err(error.clone()),
            (None, true) if !check.failures.is_empty() => Err(CommandError::new(
                NODE_NOT_FOUND,
                format!(
                    "replSetInitiate quorum check failed because not all proposed set members responded affirmatively: {}",
                    check.failures.join(", ")
                ),
            )),
            (None, true) => Ok(()),
            (None, false) => quorum_of_reconfig(&check),
        };
        let outcome = outcome.and_then(|()| {
            if check.initiate {
                self.finish_initiate(now, check.config.clone());
                Ok(())
            } else {
                self.finish_reconfig(now, check.config.clone())
            }
        });
        match outcome {
            Ok(()) if check.initiate => self.finish_waiting(now, Waiting::Quorum, Ok(())),
            // A reconfiguration goes on waiting: for a majority to have installed it.
            Ok(()) => self.reconfig_progress(now),
            Err(error) => self.finish_waiting(now, Waiting::Quorum, Err(error)),
        }
    }

    /// The role is lost: a check in progress ends with it.
    pub(crate) fn abandon_quorum_check(&mut self, now: Instant) {
        if self.repl.quorum_check.as_ref().is_some_and(|check| !check.initiate) {
            self.repl.quorum_check = None;
            let error =
                CommandError::new(PRIMARY_STEPPED_DOWN, "Primary stepped down during reconfig");
            self.finish_waiting(now, Waiting::Quorum, Err(error));
        }
    }
}

fn quorum_of_reconfig(check: &QuorumCheck) -> Result<(), CommandError> {
    let config = &check.config;
    let voters = check.answered.iter().filter(|&&index| config.members[index].is_voter()).count();
    let electable = check.answered.iter().any(|&index| config.members[index].is_electable());
    if voters >= config.majority_vote_count() && electable {
        return Ok(());
    }
    Err(CommandError::new(
        NODE_NOT_FOUND,
        format!(
            "Quorum check failed because not enough voting nodes responded; required {} but only the following {voters} voting nodes responded: {}; the following nodes did not respond affirmatively: {}",
            config.majority_vote_count(),
            check
                .answered
                .iter()
                .map(|&index| config.members[index].host.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            check.failures.join(", ")
        ),
    ))
}
