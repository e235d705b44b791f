//! `$push` and `$pull`.

use bson::Bson;

use crate::mongod::error::CommandError;
use crate::mongod::query::collation::Collation;
use crate::mongod::query::compare::compare_collated;
use crate::mongod::query::expression::SortBy;
use crate::mongod::query::matcher::Matcher;

/// `$push` with its modifiers.
#[derive(Clone, Debug)]
pub(super) struct Push {
    pub values: Vec<Bson>,
    pub position: Option<i64>,
    pub slice: Option<i64>,
    pub sort: Option<SortBy>,
}

impl Push {
    /// The array after it, and whether it only grew at its end.
    pub(super) fn apply(&self, array: Option<&[Bson]>) -> (Vec<Bson>, bool) {
        let mut after = array.unwrap_or_default().to_vec();
        let length = after.len() as i64;
        let place = match self.position {
            None => length,
            Some(position) if position < 0 => length.saturating_add(position).max(0),
            Some(position) => position.min(length),
        };
        after.splice(place as usize..place as usize, self.values.iter().cloned());
        if let Some(sort) = &self.sort {
            sort.sort(&mut after);
        }
        let mut cut = false;
        if let Some(slice) = self.slice {
            let keep = usize::try_from(slice.unsigned_abs()).unwrap_or(usize::MAX);
            if keep < after.len() {
                cut = true;
                if slice < 0 {
                    after.drain(..after.len() - keep);
                } else {
                    after.truncate(keep);
                }
            }
        }
        (after, place == length && self.sort.is_none() && !cut)
    }
}

/// What `$pull` takes out.
#[derive(Clone, Debug)]
pub(super) enum Pull {
    /// Elements equal to this.
    Equal(Bson),
    /// Elements this condition lets through.
    Matching(Box<Matcher>),
    /// Documents this filter lets through.
    Documents(Box<Matcher>),
}

impl Pull {
    pub(super) fn takes(&self, element: &Bson, collation: Collation) -> Result<bool, CommandError> {
        match self {
            Pull::Equal(value) => {
                Ok(compare_collated(element.into(), value.into(), collation).is_eq())
            }
            Pull::Matching(matcher) => matcher.matches_value(element.into()),
            Pull::Documents(matcher) => match element {
                Bson::Document(document) => matcher.matches(document),
                _ => Ok(false),
            },
        }
    }
}
