//! Errors as a server answers them: a code, its name, a message.

use bson::RawDocumentBuf;

/// A command's failure: what becomes `{ok: 0, errmsg, code, codeName}`.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandError {
    /// The server's error code.
    pub code: i32,
    /// `errmsg`.
    pub message: String,
    /// Further fields of the reply (`info`, `errInfo`, `keyPattern`, ...), if any.
    pub extra: Option<Box<RawDocumentBuf>>,
}

impl CommandError {
    /// An error of `code` that says `message`.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        CommandError { code, message: message.into(), extra: None }
    }

    /// The same error with further reply fields.
    pub fn with_extra(mut self, extra: RawDocumentBuf) -> Self {
        self.extra = Some(Box::new(extra));
        self
    }

    /// The server's name for the code (`codeName`).
    pub fn name(&self) -> &'static str {
        code_name(self.code)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal $name:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` (", $code, ").")]
            pub const $constant: i32 = $code;
        )*

        /// The server's name for `code`; `Location<code>` names of unnamed assertions are made by the
        /// caller, who knows the number.
        pub fn code_name(code: i32) -> &'static str {
            match code {
                $($code => $name,)*
                _ => "",
            }
        }
    };
}

codes! {
    INTERNAL_ERROR = 1 "InternalError";
    BAD_VALUE = 2 "BadValue";
    GRAPH_CONTAINS_CYCLE = 5 "GraphContainsCycle";
    HOST_UNREACHABLE = 6 "HostUnreachable";
    HOST_NOT_FOUND = 7 "HostNotFound";
    UNKNOWN_ERROR = 8 "UnknownError";
    FAILED_TO_PARSE = 9 "FailedToParse";
    CANNOT_MUTATE_OBJECT = 10 "CannotMutateObject";
    USER_NOT_FOUND = 11 "UserNotFound";
    UNSUPPORTED_FORMAT = 12 "UnsupportedFormat";
    UNAUTHORIZED = 13 "Unauthorized";
    TYPE_MISMATCH = 14 "TypeMismatch";
    OVERFLOW = 15 "Overflow";
    INVALID_LENGTH = 16 "InvalidLength";
    PROTOCOL_ERROR = 17 "ProtocolError";
    AUTHENTICATION_FAILED = 18 "AuthenticationFailed";
    ILLEGAL_OPERATION = 20 "IllegalOperation";
    EMPTY_ARRAY_OPERATION = 21 "EmptyArrayOperation";
    INVALID_BSON = 22 "InvalidBSON";
    ALREADY_INITIALIZED = 23 "AlreadyInitialized";
    LOCK_TIMEOUT = 24 "LockTimeout";
    NAMESPACE_NOT_FOUND = 26 "NamespaceNotFound";
    INDEX_NOT_FOUND = 27 "IndexNotFound";
    PATH_NOT_VIABLE = 28 "PathNotViable";
    NON_EXISTENT_PATH = 29 "NonExistentPath";
    CONFLICTING_UPDATE_OPERATORS = 40 "ConflictingUpdateOperators";
    CURSOR_NOT_FOUND = 43 "CursorNotFound";
    API_VERSION_ERROR = 322 "APIVersionError";
    API_STRICT_ERROR = 323 "APIStrictError";
    API_DEPRECATION_ERROR = 324 "APIDeprecationError";
    MECHANISM_UNAVAILABLE = 334 "MechanismUnavailable";
    NO_SUCH_KEY = 4 "NoSuchKey";
    ROLE_NOT_FOUND = 31 "RoleNotFound";
    NO_MATCHING_DOCUMENT = 47 "NoMatchingDocument";
    NAMESPACE_EXISTS = 48 "NamespaceExists";
    MAX_TIME_MS_EXPIRED = 50 "MaxTimeMSExpired";
    DOLLAR_PREFIXED_FIELD_NAME = 52 "DollarPrefixedFieldName";
    INVALID_ID_FIELD = 53 "InvalidIdField";
    COMMAND_NOT_FOUND = 59 "CommandNotFound";
    LOCATION_60 = 60 "Location60";
    INVALID_UUID = 207 "InvalidUUID";
    IMMUTABLE_FIELD = 66 "ImmutableField";
    CANNOT_CREATE_INDEX = 67 "CannotCreateIndex";
    WRITE_CONCERN_FAILED = 64 "WriteConcernFailed";
    INDEX_ALREADY_EXISTS = 68 "IndexAlreadyExists";
    INVALID_OPTIONS = 72 "InvalidOptions";
    INVALID_NAMESPACE = 73 "InvalidNamespace";
    NODE_NOT_FOUND = 74 "NodeNotFound";
    NO_REPLICATION_ENABLED = 76 "NoReplicationEnabled";
    UNKNOWN_REPL_WRITE_CONCERN = 79 "UnknownReplWriteConcern";
    INDEX_OPTIONS_CONFLICT = 85 "IndexOptionsConflict";
    INDEX_KEY_SPECS_CONFLICT = 86 "IndexKeySpecsConflict";
    NETWORK_TIMEOUT = 89 "NetworkTimeout";
    SHUTDOWN_IN_PROGRESS = 91 "ShutdownInProgress";
    INVALID_REPLICA_SET_CONFIG = 93 "InvalidReplicaSetConfig";
    NOT_YET_INITIALIZED = 94 "NotYetInitialized";
    NOT_SECONDARY = 95 "NotSecondary";
    OPERATION_FAILED = 96 "OperationFailed";
    UNSATISFIABLE_WRITE_CONCERN = 100 "UnsatisfiableWriteConcern";
    NEW_REPLICA_SET_CONFIGURATION_INCOMPATIBLE = 103 "NewReplicaSetConfigurationIncompatible";
    NODE_NOT_ELECTABLE = 104 "NodeNotElectable";
    INCOMPATIBLE_SHARDING_METADATA = 105 "IncompatibleShardingMetadata";
    INCONSISTENT_REPLICA_SET_NAMES = 108 "InconsistentReplicaSetNames";
    CONFIGURATION_IN_PROGRESS = 109 "ConfigurationInProgress";
    CANNOT_INITIALIZE_NODE_WITH_DATA = 110 "CannotInitializeNodeWithData";
    WRITE_CONFLICT = 112 "WriteConflict";
    INITIAL_SYNC_FAILURE = 113 "InitialSyncFailure";
    COMMAND_NOT_SUPPORTED = 115 "CommandNotSupported";
    CONFLICTING_OPERATION_IN_PROGRESS = 117 "ConflictingOperationInProgress";
    INVALID_SYNC_SOURCE = 119 "InvalidSyncSource";
    OPLOG_START_MISSING = 120 "OplogStartMissing";
    DOCUMENT_VALIDATION_FAILURE = 121 "DocumentValidationFailure";
    NOT_A_REPLICA_SET = 123 "NotAReplicaSet";
    COMMAND_FAILED = 125 "CommandFailed";
    UNRECOVERABLE_ROLLBACK_ERROR = 127 "UnrecoverableRollbackError";
    FAILED_TO_SATISFY_READ_PREFERENCE = 133 "FailedToSatisfyReadPreference";
    READ_CONCERN_MAJORITY_NOT_AVAILABLE_YET = 134 "ReadConcernMajorityNotAvailableYet";
    STALE_TERM = 135 "StaleTerm";
    CAPPED_POSITION_LOST = 136 "CappedPositionLost";
    INITIAL_SYNC_ACTIVE = 164 "InitialSyncActive";
    VIEW_DEPTH_LIMIT_EXCEEDED = 165 "ViewDepthLimitExceeded";
    COMMAND_NOT_SUPPORTED_ON_VIEW = 166 "CommandNotSupportedOnView";
    OPTION_NOT_SUPPORTED_ON_VIEW = 167 "OptionNotSupportedOnView";
    INVALID_PIPELINE_OPERATOR = 168 "InvalidPipelineOperator";
    QUERY_PLAN_KILLED = 175 "QueryPlanKilled";
    CLIENT_METADATA_CANNOT_BE_MUTATED = 186 "ClientMetadataCannotBeMutated";
    LINEARIZABLE_READ_CONCERN_ERROR = 187 "LinearizableReadConcernError";
    PRIMARY_STEPPED_DOWN = 189 "PrimarySteppedDown";
    CANNOT_INDEX_PARALLEL_ARRAYS = 171 "CannotIndexParallelArrays";
    INVALID_INDEX_SPECIFICATION_OPTION = 197 "InvalidIndexSpecificationOption";
    CLUSTER_TIME_FAILS_RATE_LIMITER = 205 "ClusterTimeFailsRateLimiter";
    NO_SUCH_SESSION = 206 "NoSuchSession";
    INCOMPLETE_TRANSACTION_HISTORY = 217 "IncompleteTransactionHistory";
    PREPARED_TRANSACTION_IN_PROGRESS = 267 "PreparedTransactionInProgress";
    TRANSACTION_TOO_LARGE = 257 "TransactionTooLarge";
    TRANSACTION_EXCEEDED_LIFETIME_LIMIT_SECONDS = 290 "TransactionExceededLifetimeLimitSeconds";
    CHANGE_STREAM_FATAL_ERROR = 280 "ChangeStreamFatalError";
    CHANGE_STREAM_HISTORY_LOST = 286 "ChangeStreamHistoryLost";
    INVALID_RESUME_TOKEN = 260 "InvalidResumeToken";
    RETRY_CHANGE_STREAM = 234 "RetryChangeStream";
    TRANSACTION_TOO_OLD = 225 "TransactionTooOld";
    CURSOR_KILLED = 237 "CursorKilled";
    SNAPSHOT_TOO_OLD = 239 "SnapshotTooOld";
    CONVERSION_FAILURE = 241 "ConversionFailure";
    SNAPSHOT_UNAVAILABLE = 246 "SnapshotUnavailable";
    NO_SUCH_TRANSACTION = 251 "NoSuchTransaction";
    TRANSACTION_COMMITTED = 256 "TransactionCommitted";
    UNKNOWN_FEATURE_COMPATIBILITY_VERSION = 258 "UnknownFeatureCompatibilityVersion";
    EXCEEDED_TIME_LIMIT = 262 "ExceededTimeLimit";
    OPERATION_NOT_SUPPORTED_IN_TRANSACTION = 263 "OperationNotSupportedInTransaction";
    FAIL_POINT_SET_FAILED = 266 "FailPointSetFailed";
    CURRENT_CONFIG_NOT_COMMITTED_YET = 308 "CurrentConfigNotCommittedYet";
    CANNOT_CONVERT_INDEX_TO_UNIQUE = 359 "CannotConvertIndexToUnique";
    NO_QUERY_EXECUTION_PLANS = 291 "NoQueryExecutionPlans";
    UNSUPPORTED_OP_QUERY_COMMAND = 352 "UnsupportedOpQueryCommand";
    NOT_WRITABLE_PRIMARY = 10107 "NotWritablePrimary";
    BSON_OBJECT_TOO_LARGE = 10334 "BSONObjectTooLarge";
    DUPLICATE_KEY = 11000 "DuplicateKey";
    INTERRUPTED_AT_SHUTDOWN = 11600 "InterruptedAtShutdown";
    INTERRUPTED = 11601 "Interrupted";
    INTERRUPTED_DUE_TO_REPL_STATE_CHANGE = 11602 "InterruptedDueToReplStateChange";
    NOT_PRIMARY_NO_SECONDARY_OK = 13435 "NotPrimaryNoSecondaryOk";
    NOT_PRIMARY_OR_SECONDARY = 13436 "NotPrimaryOrSecondary";
    NOT_A_RETRYABLE_WRITE_COMMAND = 50768 "NotARetryableWriteCommand";
}
