//! The product's grants, read as text: which tables and columns the mapped user may read. Pure.
//!
//! The text form of `aclitem[]` is that of `aclitemout` (src/backend/utils/adt/acl.c) inside an array literal.
//! `relacl` NULL means the owner alone; PUBLIC is the empty grantee; roles are those that the mapped user has the
//! privileges of (`has_privs_of_role`), which is what information_schema.enabled_roles lists.

use std::collections::HashSet;

/// The mapped user's roles on the product.
#[derive(Debug, Default)]
pub struct Roles {
    pub oids: HashSet<u32>,
    pub names: HashSet<String>,
}

impl Roles {
    /// Whether an object with this owner and ACL grants `privilege` (a letter of `ACL_ALL_RIGHTS_STR`).
    pub fn may(&self, privilege: char, owner: u32, acl: Option<&str>) -> bool {
        self.oids.contains(&owner)
            || (privilege == 'r' || privilege == 'U') && self.names.contains("pg_read_all_data")
            || acl.is_some_and(|acl| self.granted(privilege, acl))
    }

    /// Whether an ACL alone grants `privilege`, to PUBLIC or one of the roles.
    pub fn granted(&self, privilege: char, acl: &str) -> bool {
        array_elements(acl).iter().any(|item| {
            let (grantee, rest) = split_grantee(item);
            let privileges = rest.split('/').next().unwrap_or("");
            privileges.contains(privilege) && (grantee.is_empty() || self.names.contains(&grantee))
        })
    }
}

/// `grantee=privileges/grantor` into the unquoted grantee and the rest.
fn split_grantee(item: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = item.char_indices().peekable();
    let mut quoted = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if quoted && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                name.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            '=' if !quoted => return (name, &item[at + 1..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// Elements of a one-dimensional array literal (src/backend/utils/adt/arrayfuncs.c, array_out).
fn array_elements(literal: &str) -> Vec<String> {
    let inner = literal.trim().strip_prefix('{').and_then(|l| l.strip_suffix('}')).unwrap_or("");
    let (mut elements, mut current) = (Vec::new(), String::new());
    let (mut quoted, mut escaped) = (false, false);
    for c in inner.chars() {
        match c {
            _ if escaped => {
                current.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => elements.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
    }
    if !current.is_empty() {
        elements.push(current);
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> Roles {
        Roles { oids: HashSet::from([10]), names: HashSet::from(["reader".into(), "we, \"us\"".into()]) }
    }

    #[test]
    fn owner_public_and_member_may_read() {
        let r = roles();
        assert!(r.may('r', 10, None));
        assert!(!r.may('r', 11, None));
        assert!(r.may('r', 11, Some("{app=arwdDxt/app,=r/app}")));
        assert!(r.may('r', 11, Some("{app=arwdDxt/app,reader=r*/app}")));
        assert!(!r.may('r', 11, Some("{app=arwdDxt/app,reader=w/app}")));
        assert!(!r.may('r', 11, Some("{app=arwdDxt/app,readers=r/app}")));
        assert!(!r.may('r', 11, Some("{}")));
    }

    #[test]
    fn quoted_role_names_are_read() {
        // aclitemout quotes the name, array_out quotes the element and escapes the quotes.
        assert!(roles().may('r', 11, Some(r#"{app=r/app,"\"we, \"\"us\"\"\"=r/app"}"#)));
    }
}
