//! A batch of a stream into its table, with the state that it stands for, in one transaction.

use std::sync::Arc;

use super::{confirming, is_hard, End, Loading, Phase};
use crate::error::{sqlstate, Error, Result};
use crate::policy;
use crate::sources::fetch::{ours, Context};
use crate::sources::http::{self, State};
use crate::sources::load::{self, aside, Batch, Change, Counts, Keys, Rejected, Seen, Table};
use crate::sources::names::identifier;
use crate::sources::spec::{OnBadRow, Stream, Write};
use crate::sources::{store, tour};

/// Records that a run remembers having listed under a parent; they take six mebibytes.
const MOST_LISTED: usize = 200_000;

impl Loading {
    /// Commits a batch with the state that it stands for.
    pub(super) fn store(&mut self, cx: &Context, state: Option<&State>, end: Option<&End>) -> Result<()> {
        let stream = &cx.spec.streams[self.index];
        let waiting = std::mem::take(&mut self.waiting);
        (self.received, self.held, self.certain) = (0, 0, 0);
        let reached = self.reached.take();
        let done = std::mem::take(&mut self.done);
        let mut batch = Batch::default();
        waiting.into_iter().for_each(|more| batch.append(more));
        batch.settle(&self.plan.layout, self.salt);
        let fails = stream.on_bad_row == OnBadRow::Fail;
        if let Some(bad) = batch.rejected.first().filter(|_| fails) {
            return self.refuse(cx, stream, bad);
        }
        let received = batch.received() as u64;
        let again = self.leave_to_the_first_parent(stream, &mut batch);
        self.advance(&done);
        if end.is_some() && self.plan.full {
            self.plan.progress.changes.clone_from(&self.plan.tip);
        }
        let mut quarantined = 0;
        let (run, source, counts) = (cx.run, &cx.source, self.spent());
        let layout = Arc::clone(&self.plan.layout);
        let mut bad = None;
        let stored = ours(cx.owner, || {
            self.refuse_another_policy(stream)?;
            let known = store::known(&source.name, &stream.name)?;
            if known.epoch != self.plan.epoch || (known.lost && self.plan.there) {
                return Err(begun_anew(&stream.name, known.lost));
            }
            let table = Table::open(&source.name, &source.schema, stream, known.relation, &self.plan.layout)?;
            let made = known.relation != Some(table.oid);
            if !made {
                table.follow(&batch.changes)?;
            }
            let (mut into, mut rows) = (table.clone(), 0);
            if self.plan.aside {
                let just_now;
                (into, just_now) = aside::open(&table, self.fresh)?;
                if !just_now {
                    into.follow(&batch.changes)?;
                }
            }
            let seen = self.see(&table, &batch, made)?;
            let only = self.keys_of(&into)?;
            let mut did = load::merge(&into, &layout, &mut batch, only)?;
            did.received += again;
            did.duplicate += again;
            if let Some(first) = batch.rejected.first().filter(|_| fails) {
                bad = Some(first.clone());
                return Err(cannot_be_stored(&stream.name));
            }
            let told = did.deleted;
            quarantined = did.quarantined;
            if let Some(seen) = &seen {
                self.see_rejected(seen, &batch)?;
            }
            self.remove(&table, seen.as_ref(), stream, &done, &mut did)?;
            self.replace_arrays(source, &mut batch)?;
            if let Some(first) = batch.rejected.first().filter(|_| fails) {
                bad = Some(first.clone());
                return Err(cannot_be_stored(&stream.name));
            }
            if !self.plan.aside {
                rows += did.inserted as i64 - did.removed as i64;
            }
            let mut refused = None;
            if end.is_some() && !self.plan.aside {
                let went = self.follow_parents(cx, &table, stream)?;
                did.deleted += went;
                if is_hard(stream) {
                    rows -= went as i64;
                }
            }
            if end.is_some() {
                if self.plan.aside {
                    let how = match (stream.write, &stream.incremental) {
                        (Write::Replace, _) => aside::Into::Instead,
                        (_, Some(_)) => aside::Into::BesideOnce,
                        (_, None) => aside::Into::Beside,
                    };
                    let (came, went, again) = aside::take_over(&table, &into, how)?;
                    did.deleted += went;
                    did.again = again;
                    rows += came as i64 - went as i64;
                } else if let Some(seen) = seen {
                    refused = self.sweep(&table, stream, seen, &mut did, &mut rows)?;
                }
            }
            if did.deleted > told || (is_hard(stream) && told > 0) {
                for array in &self.plan.arrays {
                    array.follow_deleted(&source.name, &table, &self.plan.layout, is_hard(stream))?;
                }
            }
            self.plan.progress.gone += did.deleted;
            let state = end.map(|e| e.state).or(state).or(reached.as_ref()).unwrap_or(&known.state);
            let kept = (state, &self.kept(stream, state, end.is_some()));
            store::remember(&source.name, &stream.name, &table, kept, &self.plan.layout.fields, rows)?;
            store::account(run, &source.name, &stream.name, &did, counts, &batch.rejected)?;
            if !batch.withheld.is_empty() {
                let table = identifier(&stream.name);
                policy::remember_unstored(&source.name, &source.schema, &table, &batch.withheld)?;
            }
            Ok((refused, did))
        });
        if let Some(bad) = bad {
            return self.refuse(cx, stream, &bad);
        }
        let (refused, did) = stored.map_err(|e| cx.without_rows(&stream.name, e))?;
        self.plan.there = true;
        self.preparing.expect_unchanged(!self.plan.aside && did.unchanged + did.stale > did.received / 2);
        self.fresh = false;
        self.stored += received;
        self.refused += quarantined;
        match refused {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Ends a stream that is to fail with its first bad record, which is kept where only those look who may see it: its
    /// reason quotes values, and the error of a run is read by all.
    fn refuse(&self, cx: &Context, stream: &Stream, bad: &Rejected) -> Result<()> {
        ours(cx.owner, || store::keep_rejected(cx.run, &cx.source.name, &stream.name, std::slice::from_ref(bad)))?;
        Err(cannot_be_stored(&stream.name))
    }

    /// A record that several parents list alike is the first one's: else each run would write it as often as it is listed,
    /// as happens to those beyond the first [`MOST_LISTED`]. Returns how many were taken out.
    fn leave_to_the_first_parent(&mut self, stream: &Stream, batch: &mut Batch) -> u64 {
        let shared = stream.parent.as_ref().is_some_and(|p| !p.in_key) && !self.plan.aside;
        if !shared || self.phase != Phase::Listing {
            return 0;
        }
        let before = batch.rows.len();
        batch.rows.retain(|row| {
            let [key, parent, record] = row.traits();
            let first = self.listed.get(&key);
            let is_anothers = first.is_some_and(|first| first.0 != parent && first.1 == record);
            if !is_anothers && (first.is_some() || self.listed.len() < MOST_LISTED) {
                self.listed.insert(key, (parent, record));
            }
            !is_anothers
        });
        (before - batch.rows.len()) as u64
    }

    /// Which keys the table may have, if that is known: it was empty when the first batch came. Should somebody else write
    /// to it meanwhile, the merge notices.
    fn keys_of(&mut self, table: &Table) -> Result<Option<&mut Keys>> {
        if self.keys.is_none() {
            let empty = table.keyed && table.is_empty()?;
            self.keys = Some(empty.then(Keys::default));
        }
        let keys = self.keys.as_mut().and_then(Option::as_mut);
        Ok(keys.filter(|keys| !keys.is_full()))
    }

    /// Elements of the rows that were written; those that can't be stored join the rejected.
    fn replace_arrays(&mut self, source: &store::Source, batch: &mut load::Batch) -> Result<()> {
        if batch.written.is_empty() {
            return Ok(());
        }
        for (at, array) in self.plan.arrays.iter_mut().enumerate() {
            let bad = array.replace(&source.name, &source.schema, &self.plan.layout, at, &batch.written)?;
            batch.rejected.extend(bad);
            let (name, withheld) = array.take_withheld();
            if !withheld.is_empty() {
                policy::remember_unstored(&source.name, &source.schema, &identifier(name), &withheld)?;
            }
        }
        Ok(())
    }

    /// Records were made ready under the policy that held when the run began. Where another one holds by now, they are not
    /// stored: the next run reads them again.
    fn refuse_another_policy(&self, stream: &Stream) -> Result<()> {
        policy::hold()?;
        if policy::read()? == self.plan.patterns {
            return Ok(());
        }
        let message = format!("the policy of sensitive data changed while stream \"{}\" was fetched", stream.name);
        Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .hint("Nothing is lost: the next run goes on from here, under the policy that holds then."))
    }

    /// Where the tour stands once the batch is stored.
    fn advance(&mut self, done: &[(usize, bool)]) {
        let at = done.last().and_then(|(stop, _)| self.stops.get(*stop)).and_then(|stop| stop.at.clone());
        match self.phase {
            _ if at.is_none() => {}
            Phase::Listing => self.plan.progress.parents = at,
            Phase::Changes => self.plan.progress.changes = at,
            Phase::Confirm => {}
        }
    }

    /// What is written down of the progress: parents of a stream whose rows wait aside begin anew.
    fn kept(&self, stream: &Stream, state: &State, ended: bool) -> store::Progress {
        let mut progress = self.plan.progress.clone();
        let rule = stream.incremental.as_ref().zip(state.mark.as_deref());
        progress.shown = rule.and_then(|(rule, mark)| http::incremental::readable(mark, rule.format));
        if self.plan.aside {
            progress.parents = None;
        }
        if ended {
            progress.sweep = None;
        }
        progress
    }

    /// Writes down which keys the listing shows.
    fn see(&mut self, table: &Table, batch: &load::Batch, made: bool) -> Result<Option<Seen>> {
        if !self.plan.sweeping {
            return Ok(None);
        }
        let fresh = self.fresh && self.phase == Phase::Listing;
        let Some(seen) = Seen::open(table, fresh)? else {
            self.plan.sweeping = false;
            return Ok(None);
        };
        let key: Vec<&str> =
            self.plan.layout.key.iter().map(|at| self.plan.layout.fields[*at].column.as_str()).collect();
        let respelt = |c: &Change| matches!(c, Change::Retype { column, .. } if key.contains(&column.as_str()));
        let unknown = batch.rejected.iter().any(|r| r.key.is_none());
        if unknown || (!made && batch.changes.iter().any(respelt)) {
            let why = if unknown { "a record without a readable key" } else { "a key of another type" };
            pgrx::warning!("deleted rows of {} are not looked for in this run, because there is {why}", table.name);
            self.plan.sweeping = false;
            seen.forget()?;
            return Ok(None);
        }
        if self.phase == Phase::Listing {
            let keys: Vec<&[String]> = batch.rows.iter().map(|r| r.key.as_slice()).collect();
            seen.add(&self.plan.layout, &keys)?;
        }
        Ok(Some(seen))
    }

    /// What can't be stored is there all the same.
    fn see_rejected(&self, seen: &Seen, batch: &load::Batch) -> Result<()> {
        let keys: Vec<&[String]> = batch.rejected.iter().filter_map(|r| r.key.as_deref()).collect();
        seen.add_as_text(&self.plan.layout, &keys)
    }

    /// Rows that were asked for one by one, and are gone; whatever came of it, they are not asked for again.
    fn remove(
        &self,
        table: &Table,
        seen: Option<&Seen>,
        stream: &Stream,
        done: &[(usize, bool)],
        did: &mut Counts,
    ) -> Result<()> {
        if self.phase == Phase::Listing {
            return Ok(());
        }
        let hard = is_hard(stream);
        let asked = || done.iter().filter_map(|(stop, gone)| Some((self.stops.get(*stop)?, *gone)));
        let gone: Vec<&[String]> =
            asked().filter(|(stop, gone)| *gone || stop.deleted).map(|(stop, _)| stop.key.as_slice()).collect();
        let removed = load::remove(table, &self.plan.layout, &gone, hard)?;
        did.deleted += removed;
        if hard {
            did.removed += removed;
        }
        if let (Phase::Confirm, Some(seen)) = (self.phase, seen) {
            let keys: Vec<&[String]> = asked().map(|(stop, _)| stop.key.as_slice()).collect();
            seen.add(&self.plan.layout, &keys)?;
        }
        Ok(())
    }

    /// What belongs to a parent that is deleted is deleted as well. Returns how many rows that were.
    fn follow_parents(&mut self, cx: &Context, table: &Table, stream: &Stream) -> Result<u64> {
        let Some(parent) = &stream.parent else { return Ok(0) };
        let gone = store::seen(&cx.source.name, &parent.stream)?.progress.gone;
        if gone == self.plan.progress.followed {
            return Ok(0);
        }
        self.plan.progress.followed = gone;
        let removed = cx.spec.streams.iter().any(|s| s.name == parent.stream && is_hard(s));
        tour::follow_deleted(&cx.source.name, stream, &cx.spec, table, &self.plan.layout, removed, is_hard(stream))
    }

    /// The listing is complete: what it did not show is gone, unless that is too much of the table, or asked for first.
    fn sweep(
        &mut self,
        table: &Table,
        stream: &Stream,
        seen: Seen,
        did: &mut Counts,
        rows: &mut i64,
    ) -> Result<Option<Error>> {
        let Some(began) = self.plan.progress.sweep else { return Ok(None) };
        let hard = is_hard(stream);
        if let Some(deletes) = stream.deletes.as_ref().filter(|_| stream.write != Write::Replace) {
            let (all, missing) = seen.count(table, &self.plan.layout, began)?;
            if missing as f64 > all as f64 * deletes.max_fraction {
                seen.forget()?;
                let message = format!("a sweep of stream \"{}\" would delete {missing} of {all} rows", stream.name);
                return Ok(Some(
                    Error::new("54000", message)
                        .detail(format!(
                            "That is more than the part of {} that max_fraction allows. Nothing was deleted.",
                            deletes.max_fraction
                        ))
                        .hint(
                            "If the API really lost them, raise max_fraction in the stream's deletes for the next run.",
                        ),
                ));
            }
            if confirming(stream).is_some() {
                return Ok(None);
            }
        }
        let gone = seen.apply(table, &self.plan.layout, began, hard)?;
        did.deleted += gone;
        if hard {
            *rows -= gone as i64;
        }
        seen.forget()?;
        Ok(None)
    }
}

fn cannot_be_stored(stream: &str) -> Error {
    Error::new("22000", format!("a record of stream \"{stream}\" cannot be stored, and on_bad_row is \"fail\""))
        .detail("It is the last one in wh.fetch_errors, with its reason.")
        .hint("Nothing of its batch is stored. The next run reads it again; \"on_bad_row\": \"quarantine\" goes on without it.")
}

/// What was read so far would pass for all of it: the state that this run began with holds no more.
fn begun_anew(stream: &str, lost: bool) -> Error {
    let what = if lost { "the table of stream" } else { "stream" };
    let how = if lost { "dropped" } else { "reset or altered" };
    Error::new(
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{what} \"{stream}\" was {how} while it was fetched"),
    )
    .hint("The next run reads it from its start.")
}
