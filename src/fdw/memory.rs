//! The product's identities, written down where they changed.

use std::collections::HashMap;

use super::change::Work;
use super::local;
use super::model::{Existing, Wanted};
use crate::error::Result;
use crate::pg::spi;

/// Forgets tables that are gone.
pub fn forget_gone(fdw: &str) -> Result<()> {
    spi::run(
        "DELETE FROM wh.fdw_table m WHERE m.fdw = $1 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)",
        &[fdw.into()],
    )?;
    Ok(())
}

/// Whether a table has the product's columns, by name and number; they may stand in another order.
fn same_columns(existing: &Existing, wanted: &Wanted) -> bool {
    let here = || existing.columns.iter().map(|c| (c.remote_name(), c.remote_num));
    let there = || wanted.columns.iter().map(|c| (c.name.as_str(), c.remote_num));
    here().eq(there()) || {
        let known: HashMap<&str, Option<i16>> = here().collect();
        known.len() == wanted.columns.len() && there().all(|(name, num)| known.get(name) == Some(&num))
    }
}

impl Work<'_> {
    /// Writes down the product's identities where they changed. Readers of what was changed wait meanwhile.
    pub fn remember(&self, may_have_gone: bool) -> Result<()> {
        let pairs = self.diff.same.iter().copied().chain(self.diff.alter.iter().map(|t| (t.existing, t.wanted)));
        // Wanted tables with the existing ones that they were paired with.
        let mut stale: Vec<(usize, Option<usize>)> = Vec::new();
        let mut settled: Vec<u32> = Vec::new();
        for (e, w) in pairs {
            let (existing, wanted) = (&self.existing[e], &self.wanted[w]);
            let same = existing.remote_oid == wanted.remote_oid
                && wanted.remote_oid.is_some()
                && existing.waiting == self.diff.waiting(w);
            match same && same_columns(existing, wanted) {
                true => settled.push(existing.oid),
                false => stale.push((w, Some(e))),
            }
        }
        stale.extend(self.diff.create.iter().map(|w| (*w, None)));
        if may_have_gone {
            forget_gone(&self.app.name)?;
        }
        if stale.is_empty() {
            return Ok(());
        }
        // Not all of them, for the time that it takes.
        let now = local::others(self.app, &settled)?;
        let mut found: Vec<(&Existing, usize, u32)> = Vec::new();
        for (w, e) in stale {
            let wanted = &self.wanted[w];
            if let (Some(table), Some(remote_oid)) = (self.now(&now, wanted, e), wanted.remote_oid) {
                found.push((table, w, remote_oid));
            }
        }
        // One table of the product is one here, also where two of them have changed places.
        spi::run(
            "DELETE FROM wh.fdw_table WHERE fdw = $1 AND remote_oid = ANY ($2) OR relation = ANY ($3)",
            &[
                self.app.name.as_str().into(),
                found.iter().map(|(_, _, oid)| i64::from(*oid)).collect::<Vec<_>>().into(),
                spi::oids(found.iter().map(|(table, ..)| table.oid)),
            ],
        )?;
        for (table, w, remote_oid) in found {
            let (wanted, waiting) = (&self.wanted[w], self.diff.waiting(w));
            let nums: HashMap<&str, i16> =
                wanted.columns.iter().filter_map(|c| Some((c.name.as_str(), c.remote_num?))).collect();
            let (names, nums): (Vec<String>, Vec<i16>) = table
                .columns
                .iter()
                .filter_map(|c| Some((c.remote_name().to_owned(), *nums.get(c.remote_name())?)))
                .unzip();
            spi::run(
                "INSERT INTO wh.fdw_table (fdw, relation, remote_oid, column_names, column_nums, waiting_name, waiting_columns)
                 VALUES ($1, $2::regclass, $3, $4::text[]::name[], $5, $6::text::name, $7::text[]::name[])",
                &[
                    self.app.name.as_str().into(),
                    spi::oid(table.oid),
                    i64::from(remote_oid).into(),
                    names.into(),
                    nums.into(),
                    waiting.table.into(),
                    waiting.columns.into(),
                ],
            )?;
        }
        Ok(())
    }

    /// The table that a wanted one is now: the one that it was paired with, or what was made in its place, which a second
    /// table over the same remote one is not.
    fn now<'a>(&self, now: &'a [Existing], wanted: &Wanted, paired: Option<usize>) -> Option<&'a Existing> {
        let before = paired.map(|e| &self.existing[e]);
        if let Some(kept) = before.and_then(|e| now.iter().find(|t| t.oid == e.oid)) {
            return Some(kept);
        }
        // One that was made again has its name still, or has got the product's.
        let names = [before.map(|e| e.name.as_str()), Some(wanted.name.as_str())];
        let made = |t: &&Existing| t.remote_name() == wanted.name && self.existing.iter().all(|e| e.oid != t.oid);
        names.into_iter().flatten().find_map(|name| now.iter().filter(made).find(|t| t.name == name))
    }
}
