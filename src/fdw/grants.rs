//! Grants are given and taken in the name of who gave them. The order in which that goes is plain code: who grants must
//! hold the grant option by then.

use super::properties::Property;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{identity, session};

/// One privilege for one grantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `SELECT`, or `SELECT (column)`.
    pub privilege: String,
    pub grantee: String,
    pub grantor_name: String,
    pub grantor: u32,
    pub grantable: bool,
    pub statement: String,
}

impl Grant {
    /// From a property whose key is `grant`, privilege, grantee and grantor, parted by unit separators.
    pub fn read(property: &Property) -> Option<Self> {
        let [_, privilege, grantee, grantor_name] = property.2.split('\u{1f}').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Grant {
            privilege: privilege.into(),
            grantee: grantee.into(),
            grantor_name: grantor_name.into(),
            grantor: property.5,
            grantable: property.3.as_deref() == Some("with grant option"),
            statement: property.4.clone()?,
        })
    }
}

/// Does something about a grant as who gave it, with the right to look up in `schemas`: they may have lost it since.
pub fn as_grantor<T>(grant: &Grant, schemas: &[String], act: impl FnOnce(&Grant) -> Result<T>) -> Result<T> {
    let _named = identity::Usable::schemas(schemas, &session::name_of_role(grant.grantor))?;
    let _grantor = identity::As::role(grant.grantor)?;
    act(grant)
}

/// The error of a grant on `on` that is still there when all were taken: its grantor has got the owner's rights since, and
/// takes in the owner's name, who did not give it. `then` says what to do once it is gone.
pub fn left_over(privilege: &str, on: &str, grantee: &str, grantor: &str, then: &str) -> Error {
    Error::new(
        sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
        format!("{privilege} on {on} could not be taken from {grantee}"),
    )
    .detail(format!("{grantor} passed it on, and has the rights of the owner by now."))
    .hint(format!("REVOKE {privilege} ON {on} FROM {grantor} CASCADE takes both; then {then}."))
}

/// Sorts grants so that each grantor has the option already; what cannot be reached comes last, and fails there. Those of
/// columns come after all of the relation's, which depend on none of them: a right that is taken from a relation is taken
/// from its columns, too (src/backend/catalog/aclchk.c), and in reverse order nothing depends on those by then.
pub fn in_order(owner: u32, mut grants: Vec<Grant>) -> Vec<Grant> {
    let mut ordered: Vec<Grant> = Vec::with_capacity(grants.len());
    while !grants.is_empty() {
        let may = |g: &Grant, ordered: &[Grant]| {
            g.grantor == owner
                || ordered.iter().any(|o| {
                    // A table's grant option covers its columns (src/backend/catalog/aclchk.c).
                    let covers = o.privilege == g.privilege || g.privilege.starts_with(&format!("{} (", o.privilege));
                    o.grantable && covers && o.grantee == g.grantor_name
                })
        };
        // In a column's list the option counts that is there, whatever the relation's list says.
        let waits =
            |g: &Grant| grants.iter().any(|o| o.grantable && o.privilege == g.privilege && o.grantee == g.grantor_name);
        let next = grants.iter().position(|g| may(g, &ordered) && !waits(g));
        match next.or_else(|| grants.iter().position(|g| may(g, &ordered))) {
            Some(next) => ordered.push(grants.remove(next)),
            None => ordered.append(&mut grants),
        }
    }
    ordered.sort_by_key(|g| g.privilege.contains(" ("));
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(privilege: &str, grantee: &str, grantor: (u32, &str), grantable: bool) -> Grant {
        Grant {
            privilege: privilege.into(),
            grantee: grantee.into(),
            grantor_name: grantor.1.into(),
            grantor: grantor.0,
            grantable,
            statement: format!("{privilege} {grantee}"),
        }
    }

    #[test]
    fn a_chain_is_given_from_the_owner_down() {
        let chain = vec![
            grant("SELECT", "c", (3, "b"), false),
            grant("SELECT", "b", (2, "a"), true),
            grant("SELECT (email)", "d", (2, "a"), false),
            grant("SELECT", "a", (1, "owner"), true),
        ];
        let names: Vec<String> = in_order(1, chain).into_iter().map(|g| g.grantee).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn columns_come_after_the_relation() {
        let both = vec![
            grant("SELECT (email)", "c", (2, "a"), false),
            grant("SELECT (email)", "a", (1, "owner"), true),
            grant("SELECT", "a", (1, "owner"), true),
        ];
        let order: Vec<String> = in_order(1, both).into_iter().map(|g| g.statement).collect();
        assert_eq!(order, ["SELECT a", "SELECT (email) a", "SELECT (email) c"]);
    }
}
