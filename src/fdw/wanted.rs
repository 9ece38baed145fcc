//! What the foreign tables should be: the product's relations less what is left out or hidden, with local types.

use std::collections::{HashMap, HashSet};

use super::apply::Done;
use super::mask::Rules;
use super::model::{Change, ColumnType, Existing, Options, Wanted, WantedColumn};
use super::registry::Registered;
use super::remote::{Remote, RemoteTable, FIRST_GENERATED_OID};
use super::types::Types;
use crate::error::Result;
use crate::pg::sql;
use crate::policy::Withheld;

/// Of (wanted table, column): why it is text here.
pub type Notes = HashMap<(usize, usize), String>;

/// At the first import a row each; later a notice, since nothing changes by it.
pub fn report_unreadable(app: &Registered, remote: &Remote, first: bool, done: &mut Done) {
    let names: Vec<&str> = remote.unreadable.iter().map(|t| t.name.as_str()).filter(|t| app.wants(t)).collect();
    if first {
        done.changes.extend(names.iter().map(|name| {
            Change::new(sql::qualified(&app.local_schema, name), "foreign table", "skipped")
                .detail("the mapped user may not read it on the product")
        }));
    } else if !names.is_empty() {
        pgrx::notice!("the mapped user may not read {} relations of the product: {}", names.len(), names.join(", "));
    }
}

/// A relation's identity and names alone.
pub fn identity(table: &RemoteTable) -> Wanted {
    let column = |c: &super::remote::RemoteColumn| WantedColumn {
        remote_num: Some(c.0),
        name: c.1.clone(),
        r#type: ColumnType { oid: 0, typmod: -1, collation: 0 },
        not_null: false,
        options: Options::new(),
    };
    Wanted {
        remote_oid: Some(table.oid),
        name: table.name.clone(),
        options: Options::new(),
        columns: table.columns.iter().map(column).collect(),
    }
}

/// Leaves out what the policy withholds, and says what that was. `notes` go by the columns' places.
pub fn withhold(
    app: &Registered,
    existing: &[Existing],
    wanted: &mut [Wanted],
    trust: bool,
    rules: &Rules,
    notes: &mut Notes,
) -> Vec<Withheld> {
    let mut withheld = Vec::new();
    for (w, want) in wanted.iter_mut().enumerate() {
        let by_oid = existing.iter().find(|e| trust && e.remote_oid.is_some() && e.remote_oid == want.remote_oid);
        let here = by_oid.or_else(|| existing.iter().find(|e| e.remote_name() == want.name));
        let (columns, old_notes) = (std::mem::take(&mut want.columns), notes.clone());
        for (c, column) in columns.into_iter().enumerate() {
            let note = old_notes.get(&(w, c));
            notes.remove(&(w, c));
            // What somebody has put a mask on reaches nobody without it.
            let was = here.and_then(|t| {
                let c =
                    t.columns.iter().find(|c| trust && c.remote_num.is_some() && c.remote_num == column.remote_num)?;
                rules.of(t.remote_name(), c.remote_name())
            });
            let mask = was.or_else(|| rules.of(&want.name, &column.name));
            if let Some((table, name)) = app.withholds(here, &want.name, &column.name).filter(|_| mask.is_none()) {
                let (remote_table, remote_column) = (want.name.clone(), column.name);
                withheld.push(Withheld { table, column: name, remote_table, remote_column });
                continue;
            }
            if let Some(note) = note {
                notes.insert((w, want.columns.len()), note.clone());
            }
            want.columns.push(column);
        }
    }
    withheld
}

/// A table as it is here, less what is hidden.
pub fn as_is(app: &Registered, table: &Existing) -> Wanted {
    Wanted {
        remote_oid: table.remote_oid,
        name: table.remote_name().into(),
        options: table.options.clone(),
        columns: table
            .columns
            .iter()
            .filter(|c| !app.hides(table.remote_name(), c.remote_name()))
            .map(|c| WantedColumn {
                remote_num: c.remote_num,
                name: c.remote_name().into(),
                r#type: c.r#type,
                not_null: c.not_null,
                options: c.options.clone(),
            })
            .collect(),
    }
}

/// Local types that columns of a remote type have already.
pub fn types_in_use(existing: &[Existing], remote: &Remote) -> HashMap<u32, u32> {
    let by_name: HashMap<&str, &RemoteTable> = remote.tables.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut in_use = HashMap::new();
    for table in existing {
        let Some(there) = by_name.get(table.remote_name()) else {
            continue;
        };
        for column in &table.columns {
            let Some(other) = there.columns.iter().find(|c| c.1 == column.remote_name()) else {
                continue;
            };
            if other.2 >= FIRST_GENERATED_OID {
                in_use.insert(other.2, column.r#type.oid);
            }
        }
    }
    in_use
}

/// The product's relations as foreign tables.
pub fn tables(
    app: &Registered,
    remote: &Remote,
    types: &mut Types,
    known: &HashSet<u32>,
    notes: &mut Notes,
) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    // A listed table keeps its place when the product renames it.
    let is_wanted = |t: &&RemoteTable| app.wants(&t.name) || app.follows(&t.name) && known.contains(&t.oid);
    types.tables = remote.tables.iter().filter(is_wanted).map(|t| t.name.clone()).collect();
    for table in remote.tables.iter().filter(is_wanted) {
        let mut columns = Vec::new();
        for column in table.columns.iter().filter(|c| !app.hides(&table.name, &c.1)) {
            let r#type = types.column(column)?;
            if let Some(note) = types.as_text_because(column.2) {
                notes.insert((wanted.len(), columns.len()), note);
            }
            columns.push(WantedColumn {
                remote_num: Some(column.0),
                name: column.1.clone(),
                r#type,
                not_null: column.4,
                options: Options::new(),
            });
        }
        wanted.push(Wanted {
            remote_oid: Some(table.oid),
            name: table.name.clone(),
            options: Options::from([
                ("schema_name".into(), app.remote_schema.clone()),
                ("table_name".into(), table.name.clone()),
            ]),
            columns,
        });
    }
    Ok(wanted)
}
