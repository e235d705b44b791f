//! Operations on sessions.

use std::sync::{Arc, Mutex, PoisonError};

use bson::Bson;
use stepdown_driver::Error;
use stepdown_driver::error::ErrorKind;

use super::{Call, Performed, Produced};
use crate::unified::entities::{SessionEntity, transaction_options};
use crate::unified::{Failure, Operation};

pub async fn perform(mut call: Call<'_>, entity: &Arc<SessionEntity>) -> Performed {
    let session = entity.get()?;
    match call.operation.name.as_str() {
        "endSession" => {
            call.finish()?;
            entity.take();
            session.end().await;
        }
        "startTransaction" => {
            let options = transaction_options(&mut call.arguments)?;
            call.finish()?;
            session.start_transaction().with_options(options).await?;
        }
        "commitTransaction" => {
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            match timeout {
                Some(timeout) => session.commit_transaction_within(timeout).await?,
                None => session.commit_transaction().await?,
            }
        }
        "abortTransaction" => {
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            match timeout {
                Some(timeout) => session.abort_transaction_within(timeout).await?,
                None => session.abort_transaction().await?,
            }
        }
        "withTransaction" => {
            let callback = call.arguments.required_documents("callback")?;
            let operations = Operation::all(&callback)?;
            let options = transaction_options(&mut call.arguments)?;
            let timeout = call.arguments.millis("timeoutMS")?;
            call.finish()?;
            let mut start = session.start_transaction().with_options(options);
            if let Some(timeout) = timeout {
                start = start.timeout(timeout);
            }
            let wrong = Mutex::new(None);
            let case = call.case;
            let ran = start
                .and_run(async |_| {
                    for operation in &operations {
                        match super::operation(case, operation, true).await {
                            Ok(()) => {}
                            Err(Failure::Driver(error)) => return Err(error),
                            Err(Failure::Test(message)) => {
                                let problem = format!("callback, {}: {message}", operation.name);
                                *wrong.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(problem.clone());
                                return Err(Error::new(ErrorKind::Internal { message: problem }));
                            }
                        }
                    }
                    Ok(())
                })
                .await;
            if let Some(problem) = wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(Failure::Test(problem));
            }
            ran?;
        }
        "getSnapshotTime" => {
            call.finish()?;
            return match session.snapshot_time() {
                Some(time) => Ok(Produced::Value(Bson::Timestamp(time))),
                None => Err(Error::new(ErrorKind::Transaction {
                    message: "no snapshot time is known yet".to_owned(),
                })
                .into()),
            };
        }
        _ => return Err(call.unsupported("session")),
    }
    Ok(Produced::Nothing)
}
