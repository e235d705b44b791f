//! Makes messages of events.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::{LogComponent, LogLevel, LogOptions};
use crate::error::Error;
use crate::event::{
    CmapEvent, CommandEvent, ConnectionCheckoutFailedReason, ConnectionClosedReason,
    ConnectionInfo, EventHandler, SdamEvent,
};
use crate::options::ClientOptions;
use crate::sync::lock;
use crate::uri::ServerAddress;

/// Lets the events of a client with these options be told in words as well.
pub(crate) fn attach(options: &mut ClientOptions) {
    let Some(log) = options.logging.clone() else { return };
    let log = Arc::new(log);
    if log.command.is_some() {
        let (log, next) = (log.clone(), options.command_event_handler.take());
        options.command_event_handler = Some(EventHandler::callback(move |event| {
            command(&log, &event);
            hand_on(next.as_ref(), event);
        }));
    }
    if log.connection.is_some() {
        let (log, next) = (log.clone(), options.cmap_event_handler.take());
        options.cmap_event_handler = Some(EventHandler::callback(move |event| {
            connection(&log, &event);
            hand_on(next.as_ref(), event);
        }));
    }
    if log.topology.is_some() {
        let next = options.sdam_event_handler.take();
        let topology_id = Mutex::new(ObjectId::from_bytes([0; 12]));
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            if let SdamEvent::TopologyOpening(event) = &event {
                *lock(&topology_id) = event.topology_id;
            }
            let id = *lock(&topology_id);
            topology(&log, id, &event);
            hand_on(next.as_ref(), event);
        }));
    }
}

fn hand_on<T>(next: Option<&EventHandler<T>>, event: T) {
    if let Some(next) = next {
        next.handle(event);
    }
}

/// Adds the server's address.
fn server(fields: &mut Document, address: &ServerAddress) {
    fields.insert("serverHost", address.host());
    if let Some(port) = address.port() {
        fields.insert("serverPort", i32::from(port));
    }
}

fn millis(duration: Duration) -> i64 {
    crate::operation::millis(duration)
}

fn command(log: &LogOptions, event: &CommandEvent) {
    log.tell(LogComponent::Command, LogLevel::Debug, || {
        let about = |message: &str, request_id: i32, operation_id: i64, to: &ConnectionInfo| {
            let mut fields = doc! { "message": message };
            fields.insert("commandName", event.command_name());
            fields.insert("requestId", request_id);
            fields.insert("operationId", operation_id);
            fields.insert("driverConnectionId", i64::from(to.id));
            server(&mut fields, &to.address);
            if let Some(id) = to.server_id {
                fields.insert("serverConnectionId", id);
            }
            fields
        };
        match event {
            CommandEvent::Started(event) => {
                let mut fields = about(
                    "Command started",
                    event.request_id,
                    event.operation_id,
                    &event.connection,
                );
                fields.insert("databaseName", &event.db);
                fields.insert("command", log.show(&event.command));
                fields
            }
            CommandEvent::Succeeded(event) => {
                let mut fields = about(
                    "Command succeeded",
                    event.request_id,
                    event.operation_id,
                    &event.connection,
                );
                fields.insert("databaseName", &event.db);
                fields.insert("durationMS", millis(event.duration));
                let reply = Document::try_from(event.reply.as_ref()).unwrap_or_default();
                fields.insert("reply", log.show(&reply));
                fields
            }
            CommandEvent::Failed(event) => {
                let mut fields = about(
                    "Command failed",
                    event.request_id,
                    event.operation_id,
                    &event.connection,
                );
                fields.insert("databaseName", &event.db);
                fields.insert("durationMS", millis(event.duration));
                fields.insert("failure", failure(log, &event.failure));
                fields
            }
        }
    });
}

/// An error, with the whole reply if there was one.
fn failure(log: &LogOptions, error: &Error) -> String {
    let reply = error.server_response().and_then(|reply| Document::try_from(&**reply).ok());
    match reply {
        Some(reply) => log.show(&reply),
        None => log.cut(error.to_string()),
    }
}

fn connection(log: &LogOptions, event: &CmapEvent) {
    log.tell(LogComponent::Connection, LogLevel::Debug, || {
        let mut fields = Document::new();
        let message = match event {
            CmapEvent::PoolCreated(_) => "Connection pool created",
            CmapEvent::PoolReady(_) => "Connection pool ready",
            CmapEvent::PoolCleared(_) => "Connection pool cleared",
            CmapEvent::PoolClosed(_) => "Connection pool closed",
            CmapEvent::ConnectionCreated(_) => "Connection created",
            CmapEvent::ConnectionReady(_) => "Connection ready",
            CmapEvent::ConnectionClosed(_) => "Connection closed",
            CmapEvent::ConnectionCheckoutStarted(_) => "Connection checkout started",
            CmapEvent::ConnectionCheckoutFailed(_) => "Connection checkout failed",
            CmapEvent::ConnectionCheckedOut(_) => "Connection checked out",
            CmapEvent::ConnectionCheckedIn(_) => "Connection checked in",
        };
        fields.insert("message", message);
        server(&mut fields, event.address());
        match event {
            CmapEvent::PoolCreated(event) => {
                let options = &event.options;
                let times = [
                    ("maxIdleTimeMS", options.max_idle_time),
                    ("waitQueueTimeoutMS", options.wait_queue_timeout),
                ];
                for (name, time) in times {
                    fields.extend(time.map(|time| (name.to_owned(), Bson::from(millis(time)))));
                }
                let counts = [
                    ("minPoolSize", options.min_pool_size),
                    ("maxPoolSize", options.max_pool_size),
                    ("maxConnecting", options.max_connecting),
                ];
                for (name, count) in counts {
                    let number = count.map(|count| Bson::from(i64::from(count)));
                    fields.extend(number.map(|number| (name.to_owned(), number)));
                }
            }
            CmapEvent::PoolCleared(event) => {
                if let Some(id) = event.service_id {
                    fields.insert("serviceId", id.to_hex());
                }
            }
            CmapEvent::ConnectionCreated(event) => {
                fields.insert("driverConnectionId", i64::from(event.connection_id));
            }
            CmapEvent::ConnectionReady(event) => {
                fields.insert("driverConnectionId", i64::from(event.connection_id));
                fields.insert("durationMS", millis(event.duration));
            }
            CmapEvent::ConnectionClosed(event) => {
                fields.insert("driverConnectionId", i64::from(event.connection_id));
                fields.insert(
                    "reason",
                    match event.reason {
                        ConnectionClosedReason::Stale => {
                            "Connection became stale because the pool was cleared"
                        }
                        ConnectionClosedReason::Idle => {
                            "Connection has been available but unused for longer than the configured \
                             max idle time"
                        }
                        ConnectionClosedReason::Error => {
                            "An error occurred while using the connection"
                        }
                        ConnectionClosedReason::PoolClosed => "Connection pool was closed",
                    },
                );
                if let Some(error) = &event.error {
                    fields.insert("error", log.cut(error.to_string()));
                }
            }
            CmapEvent::ConnectionCheckoutFailed(event) => {
                fields.insert(
                    "reason",
                    match event.reason {
                        ConnectionCheckoutFailedReason::Timeout => {
                            "Wait queue timeout elapsed without a connection becoming available"
                        }
                        ConnectionCheckoutFailedReason::ConnectionError => {
                            "An error occurred while trying to establish a new connection"
                        }
                        ConnectionCheckoutFailedReason::PoolClosed => "Connection pool was closed",
                    },
                );
                if let Some(error) = &event.error {
                    fields.insert("error", log.cut(error.to_string()));
                }
                fields.insert("durationMS", millis(event.duration));
            }
            CmapEvent::ConnectionCheckedOut(event) => {
                fields.insert("driverConnectionId", i64::from(event.connection_id));
                fields.insert("durationMS", millis(event.duration));
            }
            CmapEvent::ConnectionCheckedIn(event) => {
                fields.insert("driverConnectionId", i64::from(event.connection_id));
            }
            CmapEvent::PoolReady(_)
            | CmapEvent::PoolClosed(_)
            | CmapEvent::ConnectionCheckoutStarted(_) => {}
        }
        fields
    });
}

fn topology(log: &LogOptions, id: ObjectId, event: &SdamEvent) {
    let message = match event {
        SdamEvent::TopologyOpening(_) => "Starting topology monitoring",
        SdamEvent::TopologyClosed(_) => "Stopped topology monitoring",
        SdamEvent::TopologyDescriptionChanged(_) => "Topology description changed",
        SdamEvent::ServerOpening(_) => "Starting server monitoring",
        SdamEvent::ServerClosed(_) => "Stopped server monitoring",
        SdamEvent::ServerHeartbeatStarted(_) => "Server heartbeat started",
        SdamEvent::ServerHeartbeatSucceeded(_) => "Server heartbeat succeeded",
        SdamEvent::ServerHeartbeatFailed(_) => "Server heartbeat failed",
        // The change of the whole topology, which follows, says it.
        SdamEvent::ServerDescriptionChanged(_) => return,
    };
    log.tell(LogComponent::Topology, LogLevel::Debug, || {
        let mut fields = doc! { "message": message, "topologyId": id.to_hex() };
        if let Some(address) = event.address() {
            server(&mut fields, address);
        }
        let mut connection = |driver: Option<u32>, own: Option<i64>| {
            if let Some(id) = driver {
                fields.insert("driverConnectionId", i64::from(id));
            }
            if let Some(id) = own {
                fields.insert("serverConnectionId", id);
            }
        };
        match event {
            SdamEvent::TopologyDescriptionChanged(event) => {
                let (old, new) = (&event.previous_description, &event.new_description);
                fields.insert("previousDescription", log.cut(old.to_string()));
                fields.insert("newDescription", log.cut(new.to_string()));
            }
            SdamEvent::ServerHeartbeatStarted(event) => {
                connection(event.driver_connection_id, None);
                fields.insert("awaited", event.awaited);
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                connection(event.driver_connection_id, event.server_connection_id);
                fields.insert("awaited", event.awaited);
                fields.insert("durationMS", millis(event.duration));
                let reply = Document::try_from(event.reply.as_ref()).unwrap_or_default();
                fields.insert("reply", log.show(&reply));
            }
            SdamEvent::ServerHeartbeatFailed(event) => {
                connection(event.driver_connection_id, None);
                fields.insert("awaited", event.awaited);
                fields.insert("durationMS", millis(event.duration));
                fields.insert("failure", failure(log, &event.failure));
            }
            _ => {}
        }
        fields
    });
}

/// The messages about one search for a server.
pub(crate) mod selection {
    use std::time::Duration;

    use bson::{Document, doc};

    use super::{LogComponent, LogLevel, LogOptions, failure, millis, server};
    use crate::error::Error;
    use crate::operation::{Command, Target};
    use crate::sdam::TopologyDescription;
    use crate::uri::ServerAddress;

    /// What each of the messages says.
    pub(crate) struct Search<'a> {
        /// Who is to hear it.
        pub(crate) log: &'a LogOptions,
        /// What a server is searched for.
        pub(crate) command: &'a Command,
        /// The number of the operation.
        pub(crate) operation_id: i64,
    }

    impl Search<'_> {
        /// It begins.
        pub(crate) fn started(&self, topology: &TopologyDescription) {
            self.tell(LogLevel::Debug, "Server selection started", topology, |_| {});
        }

        /// Nobody suits yet.
        pub(crate) fn waiting(&self, topology: &TopologyDescription, remaining: Duration) {
            let message = "Waiting for suitable server to become available";
            self.tell(LogLevel::Info, message, topology, |fields| {
                fields.insert("remainingTimeMS", millis(remaining));
            });
        }

        /// This one it is.
        pub(crate) fn succeeded(&self, topology: &TopologyDescription, chosen: &ServerAddress) {
            self.tell(LogLevel::Debug, "Server selection succeeded", topology, |fields| {
                server(fields, chosen);
            });
        }

        /// Nobody was found.
        pub(crate) fn failed(&self, topology: &TopologyDescription, error: &Error) {
            self.tell(LogLevel::Debug, "Server selection failed", topology, |fields| {
                fields.insert("failure", failure(self.log, error));
            });
        }

        fn tell(
            &self,
            level: LogLevel,
            message: &str,
            topology: &TopologyDescription,
            more: impl FnOnce(&mut Document),
        ) {
            self.log.tell(LogComponent::ServerSelection, level, || {
                let mut fields = doc! {
                    "message": message,
                    "selector": selector(&self.command.target),
                    "operation": &*self.command.name,
                    "operationId": self.operation_id,
                    "topologyDescription": self.log.cut(topology.to_string()),
                };
                more(&mut fields);
                fields
            });
        }
    }

    fn selector(target: &Target) -> String {
        match target {
            Target::Writable => "a server that takes writes".to_owned(),
            Target::Server(address) => format!("the server {address}"),
            Target::Readable(criteria) | Target::Output(criteria) => {
                match criteria.as_read_preference() {
                    Some(preference) => crate::extended_json::relaxed(&preference.to_document()),
                    None => "a function of the application".to_owned(),
                }
            }
        }
    }
}
