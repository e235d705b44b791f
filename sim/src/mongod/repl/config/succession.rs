//! The rules between a configuration and its successor.

use bson::oid::ObjectId;

use super::{ReplSetConfig, same_host};
use crate::mongod::error::{
    CommandError, INVALID_REPLICA_SET_CONFIG, NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE,
};

/// The rules between a configuration and its successor.
pub(crate) fn compatible(
    old: &ReplSetConfig,
    new: &ReplSetConfig,
    force: bool,
) -> Result<(), CommandError> {
    let refused = |message: String| {
        Err(CommandError::new(NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE, message))
    };
    if new.set_name != old.set_name {
        return Err(CommandError::new(
            INVALID_REPLICA_SET_CONFIG,
            format!(
                "Rejecting reconfig where new config set name differs from command line set name, new config set name: {}, old config set name: {}",
                new.set_name, old.set_name
            ),
        ));
    }
    if new.implicit_default_is_majority() != old.implicit_default_is_majority() {
        return refused(
            "Reconfig attempted to install a config that would change the implicit default write concern. Use the setDefaultRWConcern command to set a cluster-wide write concern and try the reconfig again.".into(),
        );
    }
    new.validate()?;
    if new.settings.replica_set_id != old.settings.replica_set_id {
        let shown = |id: Option<ObjectId>| id.map(|id| id.to_hex()).unwrap_or_default();
        return refused(format!(
            "New and old configurations differ in replica set ID; old was {}, and new is {}",
            shown(old.settings.replica_set_id),
            shown(new.settings.replica_set_id)
        ));
    }
    if new.version <= old.version {
        return refused(format!(
            "New replica set configuration version and term must be greater than old, but {{version: {}, term: {}}} is not greater than {{version: {}, term: {}}} for replica set {}",
            new.version, new.term, old.version, old.term, new.set_name
        ));
    }
    for member in &new.members {
        for before in &old.members {
            let (same_id, same_address) =
                (member.id == before.id, same_host(&member.host, &before.host));
            if same_address && !same_id {
                return refused(format!(
                    "New and old configurations both have members with host of {} but in the new configuration the _id field is MemberId({}) and in the old configuration it is MemberId({}) for replica set {}",
                    member.host, member.id, before.id, new.set_name
                ));
            }
            if same_id && same_address {
                if member.build_indexes != before.build_indexes {
                    return refused(format!(
                        "New and old configurations differ in the setting of the buildIndexes field for member {}; to make this change, remove then re-add the member",
                        member.host
                    ));
                }
                if member.arbiter_only != before.arbiter_only {
                    return refused(format!(
                        "New and old configurations differ in the setting of the arbiterOnly field for member {}; to make this change, remove then re-add the member",
                        member.host
                    ));
                }
            }
        }
    }
    if !force {
        let votes = |config: &ReplSetConfig| -> Vec<i32> {
            config.members.iter().filter(|m| m.votes == 1).map(|m| m.id).collect()
        };
        let (before, after) = (votes(old), votes(new));
        let added = after.iter().filter(|id| !before.contains(id)).count();
        let removed = before.iter().filter(|id| !after.contains(id)).count();
        if added + removed > 1 {
            return refused(
                "Non force replica set reconfig can only add or remove at most 1 voting member."
                    .into(),
            );
        }
    }
    Ok(())
}
