//! The properties of views, materialized views and foreign tables: read, compared, restored.
//!
//! One query ([properties.sql](properties.sql)) says of each property both its value and the statement that makes
//! it so again, so what a run checks is what it restores.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::grants;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{identity, limit, spi, sql};

/// relation, place, key, value, statement, role, whether a plain view can have it
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property(u32, pub i32, pub String, pub Option<String>, pub Option<String>, pub u32, pub bool);

const GRANT: i32 = 20;
const COLUMN_GRANT: i32 = 21;
const OWNER: i32 = 10;
const PARENT: i32 = 51;
const TRIGGER: i32 = 62;

impl Property {
    pub fn is_identity(&self) -> bool {
        [OWNER, GRANT, COLUMN_GRANT, 90, 91].contains(&self.1)
    }

    /// The statement that makes it so, where one does.
    pub fn statement(&self) -> Option<&str> {
        self.4.as_deref()
    }

    /// Changes the texts, where they say names that have moved. A value that is no SQL is somebody's words.
    pub fn rewrite(&mut self, change: impl Fn(String) -> String) {
        if self.is_expression() || [40, 51].contains(&self.1) {
            self.3 = self.3.take().map(&change);
        }
        self.4 = self.4.take().map(&change);
    }

    /// Whether the statement is the definer's to run: it needs rights over more than the relation, and holds no
    /// expression of anybody's.
    fn is_definers(&self) -> bool {
        [51, 71, 82, 95, 97, 98, 99].contains(&self.1) || self.makes_an_object() && self.5 == 0
    }

    /// An index or a statistics object: its schema is asked for CREATE.
    fn makes_an_object(&self) -> bool {
        [70, 80].contains(&self.1)
    }

    /// Whether making it so reads or runs what somebody wrote.
    pub fn is_code(&self) -> bool {
        self.5 != 0
    }

    /// Whether its value is SQL that names the relation's columns.
    pub fn is_expression(&self) -> bool {
        [41, 50, 60, 62, 70, 80].contains(&self.1)
    }

    fn is_grant(&self) -> bool {
        self.1 == GRANT || self.1 == COLUMN_GRANT
    }
}

pub type Properties = Vec<Property>;

/// Properties of each relation.
pub fn read(relations: impl IntoIterator<Item = u32>) -> Result<HashMap<u32, Properties>> {
    let mut all: HashMap<u32, Properties> = HashMap::new();
    let relations: Vec<u32> = relations.into_iter().collect();
    if relations.is_empty() {
        return Ok(all);
    }
    let rows: Vec<Property> = spi::prepared(include_str!("properties.sql"), &[spi::oids(relations)])?;
    for row in rows {
        all.entry(row.0).or_default().push(row);
    }
    Ok(all)
}

/// Properties of one relation.
pub fn of(relation: u32) -> Result<Properties> {
    Ok(read([relation])?.remove(&relation).unwrap_or_default())
}

/// Differences between two states as `key: before → after`, but for keys that `explained` accepts.
pub fn differences(before: &[Property], after: &[Property], explained: impl Fn(&str) -> bool) -> Vec<String> {
    let map =
        |p: &[Property]| -> BTreeMap<String, Option<String>> { p.iter().map(|p| (p.2.clone(), p.3.clone())).collect() };
    let (before, after) = (map(before), map(after));
    let shown = |v: Option<&Option<String>>| match v {
        Some(Some(v)) if v.is_empty() => String::from("set"),
        Some(Some(v)) => v.clone(),
        _ => String::from("nothing"),
    };
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|k| before.get(*k) != after.get(*k) && !explained(k))
        .map(|k| format!("{}: {} → {}", k.replace('\u{1f}', " "), shown(before.get(k)), shown(after.get(k))))
        .collect()
}

/// Gives a relation that was just made under the name `name` (quoted) the properties saved from its predecessor.
pub fn restore(
    relation: u32,
    schema: &str,
    name: &str,
    saved: &[Property],
    keep: impl Fn(&Property) -> bool,
) -> Result<()> {
    let kept: Vec<&Property> = saved.iter().filter(|p| keep(p)).collect();
    if let Some(owner) = kept.iter().find(|p| p.1 == OWNER).and_then(|p| p.4.as_deref()) {
        spi::run(owner, &[])?;
    }
    let owner: Option<(u32, String, bool)> = spi::prepared(
        "SELECT json_build_array(relowner::int8, pg_get_userbyid(relowner), has_table_privilege(relowner, oid, 'TRIGGER'))::text
         FROM pg_class WHERE oid = $1",
        &[spi::oid(relation)],
    )?
    .pop();
    let (owner, owner_name, may_make_triggers) = owner.unwrap_or_default();
    if !may_make_triggers {
        let _owner = identity::As::role(owner)?;
        spi::run(&format!("GRANT TRIGGER ON {name} TO {}", sql::ident(&owner_name)), &[])?;
    }
    let value = |key: &str| kept.iter().find(|p| p.2 == key).and_then(|p| p.3.as_deref());
    // Index expressions, defaults, rules and the like are the owner's code: parsing them can run it.
    let _place = identity::Usable::schemas(&[schema.to_owned()], &owner_name)?;
    for property in kept.iter().filter(|p| p.1 != OWNER && !p.is_grant()) {
        if let Some(statement) = &property.4 {
            let place = value(&format!("schema of {}", property.2)).unwrap_or(schema);
            if property.makes_an_object() && property.is_code() {
                identity::refuse_to_lend_create(place, &owner_name, &property.2)?;
            }
            let _elsewhere = match place == schema {
                true => None,
                false => Some(identity::Usable::schemas(&[place.to_owned()], &owner_name)?),
            };
            if property.is_definers() {
                spi::run(statement, &[])?;
                continue;
            }
            let _owner = identity::As::named(&owner_name)?;
            let _armed = limit::arm();
            spi::run(statement, &[])?;
        }
    }
    // Grants come last: an owner may have taken from themselves what the statements above need. What default privileges
    // put on top goes first: who made the relation must not show.
    let present: Vec<(String, String)> = spi::prepared(PRESENT_GRANTS, &[spi::oid(relation)])?;
    let grants = |list: &[&Property]| -> Vec<(String, String)> {
        list.iter().filter(|p| p.is_grant()).map(|p| (p.2.clone(), p.3.clone().unwrap_or_default())).collect()
    };
    if grants(&kept) != present {
        let grantees: BTreeSet<&str> = present.iter().filter_map(|(key, _)| key.split('\u{1f}').nth(2)).collect();
        for grantee in grantees {
            let _owner = identity::As::role(owner)?;
            spi::run(&format!("REVOKE ALL ON {name} FROM {grantee}"), &[])?;
        }
        let wanted: Vec<grants::Grant> =
            kept.iter().filter(|p| p.is_grant()).filter_map(|p| grants::Grant::read(p)).collect();
        // The owner may look up there already.
        let place = [schema.to_owned()];
        for grant in grants::in_order(owner, wanted) {
            let closed = if grant.grantor == owner { &[][..] } else { &place[..] };
            grants::as_grantor(&grant, closed, |g| spi::run(&g.statement, &[]))?;
        }
    }
    Ok(())
}

/// Grants on the relation itself, with the keys of properties.sql.
const PRESENT_GRANTS: &str = "
SELECT json_build_array(g.key, g.value)::text FROM (
  SELECT concat_ws(chr(31), 'grant', x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                   quote_ident(pg_get_userbyid(x.grantor))) AS key, CASE WHEN x.is_grantable THEN 'with grant option' ELSE '' END AS value
  FROM pg_class c CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x WHERE c.oid = $1) g
ORDER BY g.key";

/// Refuses a relation that an extension made: its next update would meet something else. And one with a trigger whose
/// condition cannot be read without running the code of somebody who is not the relation's owner.
pub fn refuse_to_make_again(kind: &str, name: &str, properties: &[Property]) -> Result<()> {
    if let Some(trigger) = properties.iter().find(|p| p.1 == TRIGGER && p.4.is_none()) {
        return Err(Error::new(
            sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
            format!("\"{name}\" would have to be made again, but {} cannot be", trigger.2),
        )
        .detail("Its condition holds a value of a type of somebody who does not own the relation, and reading it runs their code.")
        .hint("Nothing was changed. Drop the trigger, run this again, and create it anew."));
    }
    if let Some(parent) = properties.iter().find(|p| p.1 == PARENT && p.is_code()) {
        let parent = parent.3.as_deref().unwrap_or("");
        return Err(Error::new(
            sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
            format!(
                "\"{name}\" would have to be made again, but is a partition of {parent}, whose key has expressions"
            ),
        )
        .detail("Attaching it anew would run the code of the parent's owner, who is no superuser.")
        .hint(format!(
            "Nothing was changed. ALTER TABLE {parent} DETACH PARTITION {name}, run this again, and attach it."
        )));
    }
    let Some(member) = properties.iter().find(|p| p.2 == "member of extension") else {
        return Ok(());
    };
    let extension = member.3.as_deref().unwrap_or("");
    Err(Error::new(
        sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
        format!("\"{name}\" would have to be made again, but belongs to extension \"{extension}\""),
    )
    .hint(format!(
        "Nothing was changed. ALTER EXTENSION {} DROP {kind} {name} makes it an ordinary one.",
        sql::ident(extension)
    )))
}
