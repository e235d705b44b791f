//! Users and roles: making, changing, showing and dropping them.

use std::sync::Arc;

use bson::{Binary, Bson, Document, RawBsonRef, RawDocumentBuf, doc};
use stepdown_driver::Instant;

use super::arguments::{
    array, boolean, each_argument, first_value, missing_field, string, wrong_type,
};
use super::catalog::{ensure_collection, log};
use super::operation::{Operation, OplogDraft, Outcome, ReadAt};
use super::spec::{CommandSpec, Gate};
use super::write::insert::id_document;
use crate::mongod::Mongod;
use crate::mongod::auth::role::{Pattern, RoleName, built_in, built_in_roles, merged};
use crate::mongod::auth::user::{ROLES, USERS, UserName, roles_document, shown, stored_roles};
use crate::mongod::error::{
    BAD_VALUE, CommandError, ILLEGAL_OPERATION, INTERNAL_ERROR, INVALID_BSON, ROLE_NOT_FOUND,
    USER_NOT_FOUND,
};
use crate::mongod::oplog_entry::OpKind;

type Run = fn(&mut Mongod, Instant, &Operation) -> Result<Outcome, CommandError>;

const fn write(names: &'static [&'static str], run: Run) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Write,
        accepts_write_concern: true,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

const fn read(names: &'static [&'static str], run: Run) -> CommandSpec {
    CommandSpec {
        names,
        gate: Gate::Read,
        accepts_write_concern: false,
        retryable_write: false,
        admin_only: false,
        run,
    }
}

pub(crate) const COMMANDS: &[CommandSpec] = &[
    write(&["createUser"], create_user),
    write(&["updateUser"], update_user),
    write(&["dropUser"], drop_user),
    write(&["dropAllUsersFromDatabase"], drop_all_users),
    write(&["grantRolesToUser"], grant_roles),
    write(&["revokeRolesFromUser"], revoke_roles),
    read(&["usersInfo"], users_info),
    write(&["createRole"], create_role),
    write(&["dropRole"], drop_role),
    write(&["dropAllRolesFromDatabase"], drop_all_roles),
    read(&["rolesInfo"], roles_info),
];

/// The mechanisms that keep credentials, as the server lists them.
const SCRAM: [&str; 2] = ["SCRAM-SHA-1", "SCRAM-SHA-256"];

fn bad(message: impl Into<String>) -> CommandError {
    CommandError::new(BAD_VALUE, message)
}

/// What `createUser` and `updateUser` take.
#[derive(Default)]
struct UserArguments {
    password: Option<String>,
    roles: Option<Vec<RoleName>>,
    custom_data: Option<Document>,
    mechanisms: Option<Vec<&'static str>>,
    digest_password: bool,
}

impl UserArguments {
    fn read(command: &str, op: &Operation) -> Result<Self, CommandError> {
        let mut found = UserArguments { digest_password: true, ..UserArguments::default() };
        each_argument(command, &op.body, |field, value| {
            let full = format!("{command}.{field}");
            match field {
                "pwd" => found.password = Some(string(&full, value)?.to_owned()),
                "roles" => found.roles = Some(read_roles(&full, op, value)?),
                "customData" => {
                    let data = super::arguments::document(&full, value)?;
                    let data = Document::try_from(data)
                        .map_err(|error| CommandError::new(INVALID_BSON, error.to_string()))?;
                    found.custom_data = Some(data);
                }
                "mechanisms" => found.mechanisms = Some(read_mechanisms(&full, value)?),
                "digestPassword" => found.digest_password = boolean(&full, value)?,
                "authenticationRestrictions" => {
                    if array(&full, value)?.into_iter().next().is_some() {
                        return Err(CommandError::new(
                            crate::mongod::error::COMMAND_NOT_SUPPORTED,
                            "This simulated server does not restrict where users come from",
                        ));
                    }
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The mechanisms a password is kept for.
    fn kept_for(&self) -> Result<Vec<&'static str>, CommandError> {
        let mechanisms = self.mechanisms.clone().unwrap_or_else(|| SCRAM.to_vec());
        if !self.digest_password && mechanisms.contains(&"SCRAM-SHA-256") {
            return Err(bad("Use of SCRAM-SHA-256 requires undigested passwords"));
        }
        Ok(mechanisms)
    }
}

fn read_roles(
    field: &str,
    op: &Operation,
    value: RawBsonRef<'_>,
) -> Result<Vec<RoleName>, CommandError> {
    let mut roles = Vec::new();
    for role in array(field, value)?.into_iter().flatten() {
        roles.push(match role {
            RawBsonRef::String(role) => RoleName::new(role, &op.db),
            RawBsonRef::Document(role) => {
                let part = |name: &str| {
                    role.get_str(name).map_err(|_absent| {
                        bad(format!("RoleName must contain a field named: {name}"))
                    })
                };
                RoleName::new(part("role")?, part("db")?)
            }
            _ => return Err(bad("Role names must be either strings or objects")),
        });
    }
    Ok(roles)
}

fn read_mechanisms(field: &str, value: RawBsonRef<'_>) -> Result<Vec<&'static str>, CommandError> {
    let mut mechanisms = Vec::new();
    for name in array(field, value)?.into_iter().flatten() {
        let name = name.as_str().ok_or_else(|| wrong_type(field, name, "'string'"))?;
        let known = SCRAM.into_iter().find(|known| *known == name);
        mechanisms.push(known.ok_or_else(|| bad(format!("Unknown auth mechanism '{name}'")))?);
    }
    if mechanisms.is_empty() {
        return Err(bad("mechanisms field must not be empty"));
    }
    mechanisms.sort_unstable();
    mechanisms.dedup();
    Ok(mechanisms)
}

fn check_roles(server: &Mongod, roles: &[RoleName]) -> Result<(), CommandError> {
    match roles.iter().find(|role| !server.has_role(role)) {
        None => Ok(()),
        Some(RoleName { role, db }) => Err(role_not_found(role, db)),
    }
}

fn role_not_found(role: &str, db: &str) -> CommandError {
    CommandError::new(ROLE_NOT_FOUND, format!("Could not find role: {role}@{db}"))
}

/// The name that a command's first field gives.
fn named(op: &Operation) -> Result<&str, CommandError> {
    string(&format!("{0}.{0}", op.name), first_value(&op.body)?)
}

fn raw(document: &Document) -> Result<Arc<RawDocumentBuf>, CommandError> {
    RawDocumentBuf::try_from(document)
        .map(Arc::new)
        .map_err(|error| CommandError::new(INTERNAL_ERROR, error.to_string()))
}

/// Stores a document, in the place of what stands under its `_id` now.
fn store(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    document: &Document,
) -> Result<(), CommandError> {
    let uuid = ensure_collection(server, now, op, namespace)?;
    let object = raw(document)?;
    let id = document.get_str("_id").unwrap_or_default();
    let kind = match server.stored(namespace, id) {
        Some(_) => OpKind::Update,
        None => OpKind::Insert,
    };
    let draft = OplogDraft {
        kind,
        ns: namespace.into(),
        collection_uuid: Some(uuid),
        object2: Some(Arc::new(id_document(&object))),
        object,
        upsert: false,
        session: None,
    };
    log(server, now, op, draft).map(|_| ())
}

/// Removes what stands under an `_id`; whether there was anything.
fn remove(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
    id: &str,
) -> Result<bool, CommandError> {
    let Some(view) = server.storage.collection(namespace, ReadAt::Newest) else { return Ok(false) };
    if view.find_id(RawBsonRef::String(id)).is_none() {
        return Ok(false);
    }
    let draft = OplogDraft {
        kind: OpKind::Delete,
        ns: namespace.into(),
        collection_uuid: Some(view.uuid()),
        object: raw(&doc! { "_id": id })?,
        object2: None,
        upsert: false,
        session: None,
    };
    log(server, now, op, draft).map(|_| true)
}

fn done() -> Result<Outcome, CommandError> {
    Ok(Outcome::Reply(RawDocumentBuf::new()))
}

fn create_user(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let user = named(op)?.to_owned();
    let arguments = UserArguments::read("createUser", op)?;
    let Some(roles) = &arguments.roles else {
        return Err(missing_field("createUser.roles"));
    };
    if user.is_empty() {
        return Err(bad("User document needs 'user' field to be non-empty"));
    }
    if op.db == "local" {
        return Err(bad("Cannot create users in the local database"));
    }
    let external = op.db == "$external";
    if arguments.password.is_none() && !external {
        return Err(bad(
            "Must provide a 'pwd' field for all user documents, except those with '$external' as the user's source db",
        ));
    }
    if external && arguments.password.is_some() {
        return Err(bad("Cannot set the password for users defined on the '$external' database"));
    }
    check_roles(server, roles)?;
    let name = UserName::new(&user, &op.db);
    if server.user(&name).is_some() {
        return Err(CommandError::new(51_003, format!("User \"{user}@{}\" already exists", op.db)));
    }
    let credentials = match &arguments.password {
        Some(password) => credentials(server, &user, password, &arguments)?,
        None => doc! { "external": true },
    };
    let id = server.new_uuid();
    let mut document = doc! {
        "_id": name.id(),
        "userId": Binary::from_uuid(id),
        "user": user,
        "db": op.db.as_str(),
        "credentials": credentials,
    };
    if let Some(data) = arguments.custom_data.clone() {
        document.insert("customData", data);
    }
    document.insert("roles", roles_document(roles));
    store(server, now, op, USERS, &document)?;
    done()
}

#[cfg(feature = "auth")]
fn credentials(
    server: &mut Mongod,
    user: &str,
    password: &str,
    arguments: &UserArguments,
) -> Result<Document, CommandError> {
    let mut credentials = Document::new();
    for mechanism in arguments.kept_for()? {
        let kept =
            super::sasl::credential(server, mechanism, user, password, arguments.digest_password)?;
        credentials.insert(mechanism, kept);
    }
    Ok(credentials)
}

#[cfg(not(feature = "auth"))]
fn credentials(
    _: &mut Mongod,
    _: &str,
    _: &str,
    arguments: &UserArguments,
) -> Result<Document, CommandError> {
    arguments.kept_for()?;
    Err(CommandError::new(
        crate::mongod::error::COMMAND_NOT_SUPPORTED,
        "This simulated server was built without its feature `auth`: it keeps no passwords",
    ))
}

fn update_user(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let user = named(op)?.to_owned();
    let arguments = UserArguments::read("updateUser", op)?;
    let nothing = arguments.password.is_none()
        && arguments.roles.is_none()
        && arguments.custom_data.is_none()
        && arguments.mechanisms.is_none();
    if nothing {
        return Err(bad("Must specify at least one field to update in updateUser"));
    }
    let name = UserName::new(&user, &op.db);
    let Some(found) = server.user(&name) else {
        return Err(CommandError::new(USER_NOT_FOUND, format!("User {user}@{} not found", op.db)));
    };
    let mut document = found.document;
    if let Some(password) = &arguments.password {
        let credentials = credentials(server, &user, password, &arguments)?;
        document.insert("credentials", credentials);
    } else if let Some(mechanisms) = &arguments.mechanisms
        && let Ok(kept) = document.get_document_mut("credentials")
    {
        if mechanisms.iter().any(|mechanism| !kept.contains_key(mechanism)) {
            return Err(bad("mechanisms field must be a subset of previously set mechanisms"));
        }
        for name in SCRAM.iter().filter(|name| !mechanisms.contains(name)) {
            kept.remove(name);
        }
    }
    if let Some(data) = arguments.custom_data {
        document.insert("customData", data);
    }
    if let Some(roles) = &arguments.roles {
        check_roles(server, roles)?;
        document.insert("roles", roles_document(roles));
    }
    store(server, now, op, USERS, &document)?;
    done()
}

fn drop_user(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    each_argument("dropUser", &op.body, |_, _| Ok(false))?;
    let name = UserName::new(named(op)?, &op.db);
    if remove(server, now, op, USERS, &name.id())? {
        return done();
    }
    Err(CommandError::new(USER_NOT_FOUND, format!("User '{}@{}' not found", name.user, name.db)))
}

/// Drops every document of a database; how many.
fn drop_all(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    namespace: &str,
) -> Result<Outcome, CommandError> {
    let of_db: Vec<String> = server
        .all_stored(namespace)
        .iter()
        .filter(|document| document.get_str("db").ok() == Some(op.db.as_str()))
        .filter_map(|document| document.get_str("_id").ok().map(str::to_owned))
        .collect();
    let mut dropped = 0;
    for id in of_db {
        dropped += i32::from(remove(server, now, op, namespace, &id)?);
    }
    Outcome::document(&doc! { "n": dropped })
}

fn drop_all_users(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    drop_all(server, now, op, USERS)
}

/// Changes the roles of a user by `change`.
fn change_roles(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
    change: fn(&mut Vec<RoleName>, Vec<RoleName>),
) -> Result<Outcome, CommandError> {
    let command = op.name.clone();
    let mut given = None;
    each_argument(&command, &op.body, |field, value| {
        if field == "roles" {
            given = Some(read_roles(&format!("{command}.roles"), op, value)?);
        }
        Ok(field == "roles")
    })?;
    let given = given.ok_or_else(|| missing_field(&format!("{command}.roles")))?;
    if given.is_empty() {
        return Err(bad(format!("{command} command requires a non-empty \"roles\" array")));
    }
    check_roles(server, &given)?;
    let name = UserName::new(named(op)?, &op.db);
    let Some(mut user) = server.user(&name) else {
        return Err(CommandError::new(
            USER_NOT_FOUND,
            format!("Could not find user \"{}\" for db \"{}\"", name.user, name.db),
        ));
    };
    change(&mut user.roles, given);
    user.document.insert("roles", roles_document(&user.roles));
    store(server, now, op, USERS, &user.document)?;
    done()
}

fn grant_roles(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    change_roles(server, now, op, |roles, given| {
        for role in given {
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
    })
}

fn revoke_roles(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    change_roles(server, now, op, |roles, given| roles.retain(|role| !given.contains(role)))
}

/// Whom `usersInfo` and `rolesInfo` are asked about.
enum Asked {
    /// Everything of the database.
    Database,
    /// Everything.
    Everywhere,
    /// These: name and database.
    Named(Vec<(String, String)>),
}

impl Asked {
    fn read(op: &Operation, part: &str) -> Result<Asked, CommandError> {
        let one = |value: RawBsonRef<'_>| match value {
            RawBsonRef::String(name) => Ok((name.to_owned(), op.db.clone())),
            RawBsonRef::Document(named) => {
                let name = named.get_str(part).ok();
                let db = named.get_str("db").ok();
                match (name, db) {
                    (Some(name), Some(db)) => Ok((name.to_owned(), db.to_owned())),
                    _ => Err(bad(format!("{} takes names as {{{part}, db}}", op.name))),
                }
            }
            _ => Err(bad(format!("{} takes a name, several, or 1", op.name))),
        };
        match first_value(&op.body)? {
            RawBsonRef::Document(all) if all.get_bool("forAllDBs").unwrap_or(false) => {
                Ok(Asked::Everywhere)
            }
            RawBsonRef::Array(several) => {
                let named: Result<_, _> = several.into_iter().flatten().map(one).collect();
                named.map(Asked::Named)
            }
            value @ (RawBsonRef::String(_) | RawBsonRef::Document(_)) => {
                Ok(Asked::Named(vec![one(value)?]))
            }
            _ => Ok(Asked::Database),
        }
    }
}

fn flag(op: &Operation, field: &str) -> bool {
    op.argument(field).and_then(|value| value.as_bool()).unwrap_or(false)
}

fn users_info(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let asked = Asked::read(op, "user")?;
    let (credentials, privileges) = (flag(op, "showCredentials"), flag(op, "showPrivileges"));
    let exact = matches!(asked, Asked::Named(_));
    if privileges && !exact {
        return Err(CommandError::new(
            ILLEGAL_OPERATION,
            "Privilege or restriction details require exact-match usersInfo queries",
        ));
    }
    let found: Vec<Document> = match asked {
        Asked::Everywhere => server.all_stored(USERS),
        Asked::Database => {
            let mut all = server.all_stored(USERS);
            all.retain(|user| user.get_str("db").ok() == Some(op.db.as_str()));
            all
        }
        Asked::Named(names) => names
            .iter()
            .filter_map(|(user, db)| server.stored(USERS, &UserName::new(user, db).id()))
            .collect(),
    };
    let mut users = Vec::new();
    let filter = match op.argument("filter") {
        Some(RawBsonRef::Document(filter)) => {
            let context = super::context::parse_context(server, now, op)?;
            Some(crate::mongod::query::Matcher::parse(filter, &context)?)
        }
        _ => None,
    };
    for user in found {
        let mut out = shown(&user, credentials);
        if let Some(filter) = &filter
            && !filter.matches(&out)?
        {
            continue;
        }
        if privileges {
            let roles = server.inherited_roles(&stored_roles(&user, "roles"));
            out.extend(inherited(server, &roles));
            out.insert("inheritedAuthenticationRestrictions", Bson::Array(Vec::new()));
            out.insert("authenticationRestrictions", Bson::Array(Vec::new()));
        }
        users.push(Bson::Document(out));
    }
    Outcome::document(&doc! { "users": users })
}

/// `inheritedRoles` and `inheritedPrivileges`.
fn inherited(server: &Mongod, roles: &[RoleName]) -> Document {
    let granted = roles.iter().flat_map(|role| server.role_privileges(role)).collect();
    let privileges: Vec<Bson> =
        merged(granted).iter().map(|granted| Bson::Document(granted.to_document())).collect();
    doc! { "inheritedRoles": roles_document(roles), "inheritedPrivileges": privileges }
}

fn create_role(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let name = RoleName::new(named(op)?, &op.db);
    let (mut roles, mut privileges) = (None, None);
    each_argument("createRole", &op.body, |field, value| {
        let full = format!("createRole.{field}");
        match field {
            "roles" => roles = Some(read_roles(&full, op, value)?),
            "privileges" => privileges = Some(read_privileges(&full, value)?),
            "authenticationRestrictions" => {}
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let roles = roles.ok_or_else(|| missing_field("createRole.roles"))?;
    let privileges = privileges.ok_or_else(|| missing_field("createRole.privileges"))?;
    if built_in(&name).is_some() {
        return Err(bad("Cannot create roles with the same name as a built-in role"));
    }
    check_roles(server, &roles)?;
    if server.stored_role(&name).is_some() {
        return Err(CommandError::new(
            51_002,
            format!("Role \"{}@{}\" already exists", name.role, name.db),
        ));
    }
    let document = doc! {
        "_id": format!("{}.{}", name.db, name.role),
        "role": name.role.as_str(),
        "db": name.db.as_str(),
        "privileges": privileges,
        "roles": roles_document(&roles),
    };
    store(server, now, op, ROLES, &document)?;
    done()
}

fn read_privileges(field: &str, value: RawBsonRef<'_>) -> Result<Bson, CommandError> {
    let mut privileges = Vec::new();
    for (number, privilege) in array(field, value)?.into_iter().flatten().enumerate() {
        let full = format!("{field}.{number}");
        let privilege = super::arguments::document(&full, privilege)?;
        let privilege = Document::try_from(privilege)
            .map_err(|error| CommandError::new(INVALID_BSON, error.to_string()))?;
        let resource = privilege.get_document("resource").ok();
        let pattern = resource.and_then(Pattern::from_document);
        let pattern = pattern.ok_or_else(|| bad("a privilege needs a resource and actions"))?;
        let Ok(actions) = privilege.get_array("actions") else {
            return Err(missing_field(&format!("{full}.actions")));
        };
        let root = built_in(&RoleName::new("root", "admin")).unwrap_or_default();
        for action in actions {
            let action = action.as_str().unwrap_or_default();
            let known = root.iter().any(|granted| granted.actions.contains(action));
            if !known && !matches!(action, "anyAction" | "internal") {
                return Err(bad(format!("Unrecognized action: {action}")));
            }
        }
        privileges.push(Bson::Document(doc! {
            "resource": pattern.to_document(),
            "actions": actions.clone(),
        }));
    }
    Ok(Bson::Array(privileges))
}

fn drop_role(server: &mut Mongod, now: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    each_argument("dropRole", &op.body, |_, _| Ok(false))?;
    let name = RoleName::new(named(op)?, &op.db);
    if built_in(&name).is_some() {
        return Err(bad(format!(
            "{}@{} is a built-in role and cannot be modified",
            name.role, name.db
        )));
    }
    if !remove(server, now, op, ROLES, &format!("{}.{}", name.db, name.role))? {
        return Err(role_not_found(&name.role, &name.db));
    }
    // Nobody has it any more.
    for namespace in [USERS, ROLES] {
        for mut holder in server.all_stored(namespace) {
            let mut roles = stored_roles(&holder, "roles");
            let before = roles.len();
            roles.retain(|role| *role != name);
            if roles.len() != before {
                holder.insert("roles", roles_document(&roles));
                store(server, now, op, namespace, &holder)?;
            }
        }
    }
    done()
}

fn drop_all_roles(
    server: &mut Mongod,
    now: Instant,
    op: &Operation,
) -> Result<Outcome, CommandError> {
    drop_all(server, now, op, ROLES)
}

fn roles_info(server: &mut Mongod, _: Instant, op: &Operation) -> Result<Outcome, CommandError> {
    let asked = Asked::read(op, "role")?;
    let (privileges, built_ins) = (flag(op, "showPrivileges"), flag(op, "showBuiltinRoles"));
    let stored = |document: &Document| {
        let part = |field: &str| document.get_str(field).unwrap_or_default().to_owned();
        RoleName { role: part("role"), db: part("db") }
    };
    let names: Vec<RoleName> = match asked {
        Asked::Named(names) => names
            .into_iter()
            .map(|(role, db)| RoleName { role, db })
            .filter(|name| server.has_role(name))
            .collect(),
        Asked::Database | Asked::Everywhere => {
            let own = server.all_stored(ROLES);
            let own = own.iter().map(stored).filter(|name| name.db == op.db);
            let others = if built_ins { built_in_roles(&op.db) } else { Vec::new() };
            own.chain(others).collect()
        }
    };
    let roles: Vec<Bson> = names
        .iter()
        .map(|name| {
            let stored = server.stored_role(name);
            let direct = stored.as_ref().map_or(Vec::new(), |role| stored_roles(role, "roles"));
            let all = server.inherited_roles(&direct);
            let mut out = Document::new();
            if stored.is_some() {
                out.insert("_id", format!("{}.{}", name.db, name.role));
            }
            out.extend(name.to_document());
            out.insert("isBuiltin", stored.is_none());
            out.insert("roles", roles_document(&direct));
            out.insert("inheritedRoles", roles_document(&all));
            if privileges {
                let own = server.role_privileges(name);
                let shown: Vec<Bson> =
                    own.iter().map(|granted| Bson::Document(granted.to_document())).collect();
                out.insert("privileges", shown);
                let with_own: Vec<RoleName> =
                    std::iter::once(name.clone()).chain(all.iter().cloned()).collect();
                let inherited = inherited(server, &with_own);
                out.insert(
                    "inheritedPrivileges",
                    inherited.get("inheritedPrivileges").cloned().unwrap_or(Bson::Null),
                );
            }
            Bson::Document(out)
        })
        .collect();
    Outcome::document(&doc! { "roles": roles })
}
