//! The product's identities, written down where they changed.

use std::collections::HashMap;

use super::change::Work;
use super::local;
use super::model::Existing;
use crate::error::Result;
use crate::pg::spi;

impl Work<'_> {
    /// Writes down the product's identities where they changed.
    pub fn remember(&self) -> Result<()> {
        let pairs = self.diff.same.iter().copied().chain(self.diff.alter.iter().map(|t| (t.existing, t.wanted)));
        let mut stale: Vec<usize> = Vec::new();
        let mut settled: Vec<u32> = Vec::new();
        for (e, w) in pairs {
            let (existing, wanted) = (&self.existing[e], &self.wanted[w]);
            let known: HashMap<&str, Option<i16>> =
                existing.columns.iter().map(|c| (c.remote_name(), c.remote_num)).collect();
            let same = existing.remote_oid == wanted.remote_oid
                && wanted.remote_oid.is_some()
                && known.len() == wanted.columns.len()
                && wanted.columns.iter().all(|c| known.get(c.name.as_str()) == Some(&c.remote_num));
            match same {
                true => settled.push(existing.oid),
                false => stale.push(w),
            }
        }
        stale.extend(&self.diff.create);
        spi::run(
            "DELETE FROM wh.fdw_table m WHERE m.fdw = $1 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)",
            &[self.app.name.as_str().into()],
        )?;
        if stale.is_empty() {
            return Ok(());
        }
        // Not all of them: readers of what was changed wait meanwhile.
        let now = local::others(self.app, &settled)?;
        let by_remote: HashMap<&str, &Existing> = now.iter().map(|t| (t.remote_name(), t)).collect();
        for w in stale {
            let wanted = &self.wanted[w];
            let Some(table) = by_remote.get(wanted.name.as_str()) else {
                continue;
            };
            let Some(remote_oid) = wanted.remote_oid else {
                continue;
            };
            let nums: HashMap<&str, i16> =
                wanted.columns.iter().filter_map(|c| Some((c.name.as_str(), c.remote_num?))).collect();
            let (names, nums): (Vec<String>, Vec<i16>) = table
                .columns
                .iter()
                .filter_map(|c| Some((c.remote_name().to_owned(), *nums.get(c.remote_name())?)))
                .unzip();
            spi::run(
                "INSERT INTO wh.fdw_table (fdw, relation, remote_oid, column_names, column_nums)
                 VALUES ($1, $2::regclass, $3, $4::text[]::name[], $5)
                 ON CONFLICT (relation) DO UPDATE SET fdw = excluded.fdw, remote_oid = excluded.remote_oid,
                    column_names = excluded.column_names, column_nums = excluded.column_nums",
                &[
                    self.app.name.as_str().into(),
                    spi::oid(table.oid),
                    i64::from(remote_oid).into(),
                    names.into(),
                    nums.into(),
                ],
            )?;
        }
        Ok(())
    }
}
