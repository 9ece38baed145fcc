//! What there is in some schemas, from two readers that know nothing of the extension's own: whole catalog rows
//! ([facts.sql](facts.sql)), and what pg_dump writes.

use std::collections::BTreeSet;

use pg_test::{ClientExt, Pair};

/// All that is to stay, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    pub catalog: BTreeSet<String>,
    pub dump: BTreeSet<String>,
}

pub fn facts(pair: &Pair, schemas: &[&str]) -> Facts {
    let query = include_str!("facts.sql").replace("{schemas}", &format!("{{{}}}", schemas.join(",")));
    let catalog = pair.warehouse().table(&query);
    let catalog = catalog.lines().map(plain).collect();
    let arguments: Vec<String> =
        std::iter::once("--schema-only".into()).chain(schemas.iter().map(|s| format!("--schema={s}"))).collect();
    let dump = pair
        .warehouse_cluster()
        .dump(&pair.warehouse_database(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        .expect("a dump");
    // Its order depends on numbers of objects, and its last line on chance.
    let dump = dump.split("\n-- PostgreSQL database dump complete").next().unwrap_or_default();
    let dump = dump.split("\n--\n-- Name: ").skip(1).map(|entry| plain(entry.trim())).collect();
    Facts { catalog, dump }
}

/// The same text whatever the order of options and grants (the catalog rows say who granted what); and a list of values that was read once more has a space before it.
fn plain(text: &str) -> String {
    let text = text.replace("( VALUES", "(VALUES");
    if text.contains("; Type: ACL;") {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        return lines.join("\n");
    }
    let Some((head, (options, tail))) =
        text.split_once("\nWITH (").and_then(|(head, rest)| Some((head, rest.split_once(')')?)))
    else {
        return text;
    };
    let mut options: Vec<&str> = options.split(", ").collect();
    options.sort_unstable();
    format!("{head}\nWITH ({}){tail}", options.join(", "))
}

impl Facts {
    /// With one type called by another's name.
    pub fn called(&self, from: &str, to: &str) -> Facts {
        let all = |set: &BTreeSet<String>| set.iter().map(|line| line.replace(from, to)).collect();
        Facts { catalog: all(&self.catalog), dump: all(&self.dump) }
    }

    /// Without some lines and entries.
    pub fn without(mut self, out: impl Fn(&str) -> bool) -> Facts {
        self.catalog.retain(|line| !out(line));
        self.dump.retain(|entry| !out(entry));
        self
    }

    #[track_caller]
    pub fn assert_same(&self, after: &Facts) {
        for (what, before, after) in [("catalog", &self.catalog, &after.catalog), ("dump", &self.dump, &after.dump)] {
            let lost: Vec<&String> = before.difference(after).collect();
            let new: Vec<&String> = after.difference(before).collect();
            assert!(lost.is_empty() && new.is_empty(), "{what}\nbefore: {lost:#?}\nafter: {new:#?}");
        }
    }
}
