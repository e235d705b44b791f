//! Operations on cursors and change streams.

use std::sync::Arc;

use bson::Bson;

use super::{Call, Performed, Produced};
use crate::unified::Failure;
use crate::unified::entities::{AnyCursor, CursorEntity};

pub async fn perform(mut call: Call<'_>, entity: &Arc<CursorEntity>) -> Performed {
    let timeout = call.arguments.millis("timeoutMS")?;
    call.finish()?;
    let Some(mut cursor) = entity.take() else {
        return Err(Failure::test("the cursor was closed"));
    };
    let found = match (call.operation.name.as_str(), &mut cursor) {
        ("iterateUntilDocumentOrError", AnyCursor::Documents(cursor)) => cursor.try_next().await,
        ("iterateUntilDocumentOrError", AnyCursor::Changes(stream)) => stream.next().await,
        ("iterateOnce", AnyCursor::Documents(cursor)) => cursor.next_if_any().await,
        ("iterateOnce", AnyCursor::Changes(stream)) => stream.next_if_any().await,
        ("close", AnyCursor::Documents(cursor)) => {
            // What closing fails with is for the server's log alone.
            let _closed = match timeout {
                Some(timeout) => cursor.close_within(timeout).await,
                None => cursor.close().await,
            };
            Ok(None)
        }
        ("close", AnyCursor::Changes(stream)) => {
            let _closed = stream.close().await;
            Ok(None)
        }
        _ => return Err(call.unsupported("cursor")),
    };
    entity.put(cursor);
    Ok(found?.map_or(Produced::Nothing, |found| Produced::Value(Bson::Document(found))))
}
