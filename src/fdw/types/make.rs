//! Makes the local type that stands for an enum, a domain, a composite or a range of the product's.

use super::super::labels;
use super::super::model::Change;
use super::super::remote::RemoteType;
use super::{is_taken, named, Remembered, Replaced, Types};
use crate::error::Result;
use crate::pg::catalog::format_type;
use crate::pg::{spi, sql};

impl Types<'_> {
    pub(super) fn r#enum(&mut self, t: &RemoteType) -> Result<Option<u32>> {
        let wanted: Vec<&str> = t.labels.iter().map(|(_, l)| l.as_str()).collect();
        if let Some(known) = self.known(t)? {
            let name = sql::qualified(&known.schema, &known.name);
            let have: Vec<String> = spi::rows(
                "SELECT to_json(enumlabel)::text FROM pg_enum WHERE enumtypid = $1 ORDER BY enumsortorder",
                &[spi::oid(known.oid)],
            )?;
            // Labels keep their OIDs only within one type.
            let before: &[(u32, String)] = if known.remote_oid == t.oid { &known.labels } else { &[] };
            let (steps, result) = labels::steps(&have, &t.labels, before);
            if labels::in_order(&wanted, &result) {
                for step in steps {
                    spi::run(&format!("ALTER TYPE {name} {}", step.command()), &[])?;
                    self.changes.push(Change::new(name.clone(), "type", step.action()).detail(step.label()));
                }
                self.remember(known.oid, t)?;
                return Ok(Some(known.oid));
            }
            self.replace(&known)?;
        }
        let labels: Vec<String> = wanted.iter().map(|l| sql::literal(l)).collect();
        self.create(t, &format!("AS ENUM ({})", labels.join(", ")), "TYPE")
    }

    pub(super) fn domain(&mut self, t: &RemoteType) -> Result<Option<u32>> {
        let base = self.resolve(t.base)?;
        let typmod = if base.typmod { t.base_typmod } else { -1 };
        if let Some(known) = self.known(t)? {
            let have: Option<(u32, i32)> = spi::first(
                "SELECT json_build_array(typbasetype::int8, typtypmod)::text FROM pg_type WHERE oid = $1",
                &[spi::oid(known.oid)],
            )?;
            if have == Some((base.oid, typmod)) {
                self.remember(known.oid, t)?;
                return Ok(Some(known.oid));
            }
            self.replace(&known)?;
        }
        let base = format_type(base.oid, typmod);
        self.create(t, &format!("AS {base}"), "DOMAIN")
    }

    pub(super) fn composite(&mut self, t: &RemoteType) -> Result<Option<u32>> {
        let mut wanted = Vec::new();
        for a in &t.attributes {
            wanted.push((a.1.clone(), self.column(a)?));
        }
        if let Some(known) = self.known(t)? {
            let have: Vec<(String, u32, i32)> = spi::rows(
                "SELECT json_build_array(a.attname, a.atttypid::int8, a.atttypmod)::text FROM pg_attribute a
                 JOIN pg_type t ON t.typrelid = a.attrelid WHERE t.oid = $1 AND a.attnum > 0 AND NOT a.attisdropped
                 ORDER BY a.attnum",
                &[spi::oid(known.oid)],
            )?;
            if have.iter().map(|h| (&h.0, h.1, h.2)).eq(wanted.iter().map(|w| (&w.0, w.1.oid, w.1.typmod))) {
                self.remember(known.oid, t)?;
                return Ok(Some(known.oid));
            }
            self.replace(&known)?;
        }
        let mut attributes = Vec::new();
        for (name, r#type) in &wanted {
            attributes.push(format!("{} {}", sql::ident(name), format_type(r#type.oid, r#type.typmod)));
        }
        self.create(t, &format!("AS ({})", attributes.join(", ")), "TYPE")
    }

    pub(super) fn range(&mut self, t: &RemoteType) -> Result<Option<u32>> {
        let subtype = self.resolve(t.subtype)?;
        if let Some(known) = self.known(t)? {
            let have: Option<u32> = spi::first(
                "SELECT to_json(rngsubtype::int8)::text FROM pg_range WHERE rngtypid = $1",
                &[spi::oid(known.oid)],
            )?;
            if have == Some(subtype.oid) {
                self.remember(known.oid, t)?;
                return Ok(Some(known.oid));
            }
            self.replace(&known)?;
        }
        let subtype = format_type(subtype.oid, -1);
        self.create(t, &format!("AS RANGE (SUBTYPE = {subtype})"), "TYPE")
    }

    /// Moves a type that cannot be altered into what the product has out of the way of its successor.
    fn replace(&mut self, old: &Remembered) -> Result<()> {
        self.set_aside(old.oid, &old.schema, &old.name)?;
        let multirange: Option<(u32, String, String)> = spi::first(
            "SELECT json_build_array(t.oid::int8, n.nspname, t.typname)::text FROM pg_range r JOIN pg_type t ON t.oid = r.rngmultitypid
             JOIN pg_namespace n ON n.oid = t.typnamespace WHERE r.rngtypid = $1",
            &[spi::oid(old.oid)],
        )?;
        if let Some((oid, schema, name)) = multirange {
            self.set_aside(oid, &schema, &name)?;
            // Its constructor without arguments would clash with the successor's (src/backend/commands/typecmds.c,
            // makeMultirangeConstructors); the others take types of their own.
            let aside = format!("wh_replaced_{oid}_{}", std::process::id());
            spi::run(
                &format!("ALTER FUNCTION {}() RENAME TO {}", sql::qualified(&schema, &name), sql::ident(&aside)),
                &[],
            )?;
        }
        self.changes.push(
            Change::new(sql::qualified(&old.schema, &old.name), "type", "replaced").detail("the product made it anew"),
        );
        spi::run(
            "DELETE FROM wh.fdw_type WHERE fdw = $1 AND type::oid = $2",
            &[self.app.name.as_str().into(), spi::oid(old.oid)],
        )?;
        self.remembered.retain(|r| r.oid != old.oid);
        Ok(())
    }

    /// Renames a type to a name that no definition can hold by chance: texts that are read later say it, and are
    /// given the successor's name instead.
    fn set_aside(&mut self, oid: u32, schema: &str, name: &str) -> Result<()> {
        let aside = format!("wh_replaced_{oid}_{}", std::process::id());
        let (from, to) = (sql::qualified(schema, name), sql::qualified(schema, &aside));
        spi::run(&format!("ALTER TYPE {from} RENAME TO {}", sql::ident(&aside)), &[])?;
        self.replaced.push(Replaced { aside: to, name: from });
        Ok(())
    }

    fn create(&mut self, t: &RemoteType, definition: &str, what: &str) -> Result<Option<u32>> {
        let schema = self.app.local_schema.as_str();
        let own = self.names.get(&t.oid).cloned().unwrap_or_else(|| self.beside_tables(&t.name));
        let name = sql::qualified(schema, &own);
        if is_taken(schema, &own, t.kind)? {
            self.changes.push(
                Change::new(name, "type", "skipped")
                    .detail("another type or relation has this name here: its columns are text"),
            );
            return Ok(None);
        }
        spi::run(&format!("CREATE {what} {name} {definition}"), &[])?;
        let replaced = self.changes.iter().any(|c| c.object == name);
        let oid = named(schema, &own)?;
        if let Some(oid) = oid {
            self.claimed.insert(oid, t.oid);
            self.remember(oid, t)?;
        }
        if !replaced {
            let mut change = Change::new(name, "type", "created");
            if own != t.name {
                change.detail = Some(format!("for type \"{}\": a table has that name", t.name));
            }
            self.changes.push(change);
        }
        Ok(oid)
    }
}
