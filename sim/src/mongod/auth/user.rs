//! Users and user-defined roles as documents of `admin.system.users` and `admin.system.roles`.

use bson::{Bson, Document, RawBsonRef, doc};

use super::role::{Pattern, Privilege, RoleName, built_in};
use crate::mongod::Mongod;
use crate::mongod::command::ReadAt;

/// Where users are.
pub(crate) const USERS: &str = "admin.system.users";
/// Where roles are.
pub(crate) const ROLES: &str = "admin.system.roles";
/// Roles that one role may inherit, over any number of steps.
const INHERITED_MAX: usize = 1_000;

/// A user and the database it is defined in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserName {
    pub user: String,
    pub db: String,
}

impl UserName {
    pub(crate) fn new(user: &str, db: &str) -> Self {
        UserName { user: user.to_owned(), db: db.to_owned() }
    }

    /// `_id` in `admin.system.users`.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.db, self.user)
    }
}

/// A user as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub name: UserName,
    pub roles: Vec<RoleName>,
    pub document: Document,
}

/// The roles an array of `{role, db}` names.
pub(crate) fn stored_roles(document: &Document, field: &str) -> Vec<RoleName> {
    let Ok(roles) = document.get_array(field) else { return Vec::new() };
    roles
        .iter()
        .filter_map(Bson::as_document)
        .filter_map(|role| {
            Some(RoleName::new(role.get_str("role").ok()?, role.get_str("db").ok()?))
        })
        .collect()
}

impl Mongod {
    /// The document of `namespace` with this `_id`.
    pub(crate) fn stored(&self, namespace: &str, id: &str) -> Option<Document> {
        let view = self.storage.collection(namespace, ReadAt::Newest)?;
        let (_, document) = view.find_id(RawBsonRef::String(id))?;
        Document::try_from(document.as_ref().as_ref()).ok()
    }

    /// A user, if it exists.
    pub(crate) fn user(&self, name: &UserName) -> Option<User> {
        let document = self.stored(USERS, &name.id())?;
        Some(User { name: name.clone(), roles: stored_roles(&document, "roles"), document })
    }

    /// Whether anybody is a user yet.
    pub(crate) fn has_users(&self) -> bool {
        self.storage.collection(USERS, ReadAt::Newest).is_some_and(|view| view.count() > 0)
    }

    /// Every stored document of `namespace`, by `_id`.
    pub(crate) fn all_stored(&self, namespace: &str) -> Vec<Document> {
        let Some(view) = self.storage.collection(namespace, ReadAt::Newest) else {
            return Vec::new();
        };
        let mut documents: Vec<Document> = view
            .scan(None)
            .filter_map(|(_, document)| Document::try_from(document.as_ref().as_ref()).ok())
            .collect();
        documents.sort_by(|left, right| left.get_str("_id").ok().cmp(&right.get_str("_id").ok()));
        documents
    }

    /// Whether there is such a role.
    pub(crate) fn has_role(&self, role: &RoleName) -> bool {
        built_in(role).is_some() || self.stored_role(role).is_some()
    }

    pub(crate) fn stored_role(&self, role: &RoleName) -> Option<Document> {
        self.stored(ROLES, &format!("{}.{}", role.db, role.role))
    }

    /// The roles themselves and everything they inherit.
    pub(crate) fn inherited_roles(&self, roles: &[RoleName]) -> Vec<RoleName> {
        let mut all: Vec<RoleName> = Vec::new();
        let mut waiting: Vec<RoleName> = roles.iter().rev().cloned().collect();
        while let Some(role) = waiting.pop() {
            if all.contains(&role) || all.len() >= INHERITED_MAX {
                continue;
            }
            if let Some(document) = self.stored_role(&role) {
                waiting.extend(stored_roles(&document, "roles"));
            }
            all.push(role);
        }
        all
    }

    /// What a role grants by itself, without what it inherits.
    pub(crate) fn role_privileges(&self, role: &RoleName) -> Vec<Privilege> {
        if let Some(privileges) = built_in(role) {
            return privileges;
        }
        let Some(document) = self.stored_role(role) else { return Vec::new() };
        let Ok(privileges) = document.get_array("privileges") else { return Vec::new() };
        privileges
            .iter()
            .filter_map(Bson::as_document)
            .filter_map(|privilege| {
                let pattern = Pattern::from_document(privilege.get_document("resource").ok()?)?;
                let actions = privilege
                    .get_array("actions")
                    .ok()?
                    .iter()
                    .filter_map(|action| action.as_str().map(str::to_owned))
                    .collect();
                Some(Privilege { pattern, actions })
            })
            .collect()
    }
}

/// Roles as an array of `{role, db}`.
pub(crate) fn roles_document(roles: &[RoleName]) -> Bson {
    Bson::Array(roles.iter().map(|role| Bson::Document(role.to_document())).collect())
}

/// What `usersInfo` shows of a stored user.
pub(crate) fn shown(user: &Document, credentials: bool) -> Document {
    let mut out = Document::new();
    for field in ["_id", "userId", "user", "db"] {
        if let Some(value) = user.get(field) {
            out.insert(field, value.clone());
        }
    }
    let mechanisms: Vec<Bson> = user
        .get_document("credentials")
        .map(|credentials| credentials.keys().map(|name| Bson::from(name.as_str())).collect())
        .unwrap_or_default();
    if credentials && let Some(value) = user.get("credentials") {
        out.insert("credentials", value.clone());
    }
    for field in ["customData", "roles"] {
        if let Some(value) = user.get(field) {
            out.insert(field, value.clone());
        }
    }
    let mechanisms = match mechanisms.is_empty() {
        true => vec![Bson::from("external")],
        false => mechanisms,
    };
    out.extend(doc! { "mechanisms": mechanisms });
    out
}
