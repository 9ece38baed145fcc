//! What the policy of sensitive data keeps out of a stream: members by their names, at any depth, and declared columns by
//! theirs. Pure.

use std::collections::{BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::layout::Layout;
use crate::error::{sqlstate, Error, Result};
use crate::policy::Patterns;
use crate::sources::columns;
use crate::sources::names::identifier;
use crate::sources::spec::{Pointer, Spec, Stream};

/// Names that are remembered; records whose members are numbers of something could have any number of them.
const MOST_NAMES: usize = 10_000;

/// The policy as one table sees it.
#[derive(Debug, Clone, Default)]
pub struct Withhold {
    patterns: Patterns,
    schema: String,
    /// As it is called, and as the stream is.
    tables: Vec<String>,
    known: HashMap<String, bool>,
    /// Columns that were kept out since this was last asked.
    found: BTreeSet<String>,
}

impl Withhold {
    pub fn new(patterns: &Patterns, schema: &str, tables: &[&str]) -> Withhold {
        let mut tables: Vec<String> = tables.iter().map(|t| (*t).to_owned()).collect();
        tables.dedup();
        Withhold { patterns: patterns.clone(), schema: schema.to_owned(), tables, ..Withhold::default() }
    }

    pub fn column(&self, column: &str) -> bool {
        self.tables.iter().any(|table| self.patterns.matches(&self.schema, table, column))
    }

    /// Whether a member of this name stays out: by its name, or by the one that its column would have.
    fn member(&mut self, name: &str) -> bool {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let column = identifier(name);
        let sensitive = self.column(&column) || self.column(name);
        if sensitive {
            self.found.insert(column);
        }
        if self.known.len() < MOST_NAMES {
            self.known.insert(name.to_owned(), sensitive);
        }
        sensitive
    }

    /// The record without what stays out; none where nothing does.
    pub fn strip(&mut self, record: &RawValue) -> Option<String> {
        match self.patterns.is_empty() {
            true => None,
            false => columns::without_named(record, &mut |name| self.member(name)),
        }
    }

    /// The columns that were kept out for the first time.
    pub fn take_found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found).into_iter().collect()
    }

    /// Refuses what a stream cannot do without: its key, its version, what it is marked by, and what others ask with.
    pub fn refuse_used(&mut self, spec: &Spec, stream: &Stream) -> Result<()> {
        let mut used: Vec<(&str, &Pointer)> = Vec::new();
        used.extend(stream.primary_key.iter().map(|p| ("its key", p)));
        used.extend(stream.version.iter().map(|p| ("its version", p)));
        used.extend(stream.incremental.iter().map(|i| ("its cursor", &i.cursor)));
        used.extend(stream.deletes.iter().flat_map(|d| &d.flag).map(|p| ("its mark of deleted records", p)));
        let children = spec.streams.iter().filter_map(|s| s.parent.as_ref()).filter(|p| p.stream == stream.name);
        used.extend(children.flat_map(|p| &p.bind).map(|(_, p)| ("what another stream is asked for with", p)));
        for (what, pointer) in used {
            let Some(member) = pointer.tokens().iter().find(|t| self.member(t)) else { continue };
            return Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the policy withholds member \"{member}\" of stream \"{}\", which cannot do without it", stream.name),
            )
            .detail(format!("{pointer} is {what}."))
            .hint("Mark less as sensitive (SELECT * FROM wh.sensitive_columns), or leave the stream out with wh.alter_source(..., streams => ...)."));
        }
        Ok(())
    }
}

impl Layout {
    /// Has the policy kept.
    pub fn withhold(&mut self, withhold: Withhold) {
        let kept_out = |at: &usize| {
            let field = &self.fields[*at];
            !self.key.contains(at) && !self.bound.contains(at) && withhold.column(&field.column)
        };
        let places: Vec<usize> = (0..self.fields.len()).filter(kept_out).collect();
        for at in places {
            let field = &self.fields[at];
            let pointer = field.path.clone().or_else(|| Pointer::from_tokens(std::slice::from_ref(&field.member)));
            self.hide.extend(pointer);
        }
        self.withhold = withhold;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withhold(patterns: &[&str]) -> Withhold {
        let patterns = Patterns::from(patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        Withhold::new(&patterns, "crm", &["people"])
    }

    fn strip(w: &mut Withhold, record: &str) -> Option<String> {
        w.strip(&RawValue::from_string(record.to_owned()).unwrap())
    }

    #[test]
    fn members_stay_out_at_any_depth_whatever_they_are_spelled_like() {
        let mut w = withhold(&["%.%.%password%", "%.%.api\\_token"]);
        let record = r#"{"id": 1.50, "Password": "x", "deep": [{"apiToken": [1, {"a": "}"}], "n": "\"password\": 1"}, []], "\u0070assword": 2}"#;
        assert_eq!(strip(&mut w, record).as_deref(), Some(r#"{"id": 1.50,"deep": [{"n": "\"password\": 1"},[]]}"#));
        assert_eq!(w.take_found(), ["api_token", "password"]);
        assert_eq!(w.take_found(), [""; 0]);
    }

    #[test]
    fn a_record_without_sensitive_members_is_left_as_it_came() {
        assert_eq!(strip(&mut withhold(&["%.%.%token%"]), r#"{ "a" : [ 1 , {} ] }"#), None);
        assert_eq!(strip(&mut withhold(&[]), r#"{"token": 1}"#), None);
        assert_eq!(strip(&mut withhold(&["%.orders.%"]), r#"{"token": 1}"#), None);
    }
}
