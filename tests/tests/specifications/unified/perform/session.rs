//! Operations on sessions.

use std::sync::Arc;

use super::{Call, Performed, Produced};
use crate::unified::entities::SessionEntity;

pub async fn perform(mut call: Call<'_>, session: &Arc<SessionEntity>) -> Performed {
    match call.operation.name.as_str() {
        "endSession" => {
            call.finish()?;
            session.end();
            Ok(Produced::Nothing)
        }
        _ => Err(call.unsupported("session")),
    }
}
