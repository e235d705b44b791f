//! Operations on cursors.

use std::sync::Arc;

use bson::Bson;

use super::{Call, Performed, Produced};
use crate::unified::Failure;
use crate::unified::entities::{AnyCursor, CursorEntity};

pub async fn perform(mut call: Call<'_>, entity: &Arc<CursorEntity>) -> Performed {
    call.finish()?;
    let Some(mut cursor) = entity.take() else {
        return Err(Failure::test("the cursor was closed"));
    };
    let performed = match call.operation.name.as_str() {
        "iterateUntilDocumentOrError" | "iterateOnce" => iterate(&mut cursor).await,
        "close" => {
            // Dropping it closes it on the server; that is a task of its own.
            drop(cursor);
            call.case.internal.sleep(std::time::Duration::from_millis(10)).await;
            return Ok(Produced::Nothing);
        }
        _ => Err(call.unsupported("cursor")),
    };
    entity.put(cursor);
    performed
}

async fn iterate(cursor: &mut AnyCursor) -> Performed {
    let document = match cursor {
        AnyCursor::Documents(cursor) => cursor.try_next().await?,
    };
    Ok(document.map_or(Produced::Nothing, |found| Produced::Value(Bson::Document(found))))
}
