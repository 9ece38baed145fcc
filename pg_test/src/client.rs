//! Queries as text, and waiting for a condition.

use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::{Client, SimpleQueryMessage};

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(5);

/// How long a condition may take to come true on a slow, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, and panics where it does not come true in [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(POLL);
    }
}

/// A server's error in full, as psql prints it.
pub fn describe(e: &postgres::Error) -> String {
    let Some(e) = e.as_db_error() else {
        return e.to_string();
    };
    let mut lines = vec![format!("{}:  {}: {}", e.severity(), e.code().code(), e.message())];
    lines.extend(e.detail().map(|d| format!("DETAIL:  {d}")));
    lines.extend(e.hint().map(|h| format!("HINT:  {h}")));
    lines.extend(e.where_().map(|w| format!("CONTEXT:  {w}")));
    lines.join("\n")
}

/// Runs statements.
#[track_caller]
pub fn exec(client: &mut Client, sql: &str) {
    if let Err(e) = client.batch_execute(sql) {
        panic!("{}\nin: {sql}", describe(&e));
    }
}

/// The rows of the last query in some statements, as text.
#[track_caller]
pub fn rows(client: &mut Client, sql: &str) -> Vec<Vec<Option<String>>> {
    match client.simple_query(sql) {
        Ok(messages) => collect(&messages).1,
        Err(e) => panic!("{}\nin: {sql}", describe(&e)),
    }
}

/// The same as lines, columns separated by `|`, NULL empty: as `psql -At` prints them.
#[track_caller]
pub fn table(client: &mut Client, sql: &str) -> String {
    let lines: Vec<String> = rows(client, sql)
        .into_iter()
        .map(|row| {
            let cells: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            cells.join("|")
        })
        .collect();
    lines.join("\n")
}

/// The one value of a query; NULL is the empty string.
#[track_caller]
pub fn value(client: &mut Client, sql: &str) -> String {
    let mut found = rows(client, sql);
    assert_eq!(found.len(), 1, "one row expected of: {sql}");
    let mut row = found.remove(0);
    assert_eq!(row.len(), 1, "one column expected of: {sql}");
    row.remove(0).unwrap_or_default()
}

/// The error that statements must end in.
#[track_caller]
pub fn error(client: &mut Client, sql: &str) -> DbError {
    match client.simple_query(sql) {
        Ok(_) => panic!("an error was expected of: {sql}"),
        Err(e) => match e.as_db_error() {
            Some(db) => db.clone(),
            None => panic!("{e}\nin: {sql}"),
        },
    }
}

fn collect(messages: &[SimpleQueryMessage]) -> (Vec<String>, Vec<Vec<Option<String>>>) {
    let mut columns = Vec::new();
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(description) => {
                columns = description.iter().map(|c| c.name().to_owned()).collect();
                rows.clear();
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
            _ => {}
        }
    }
    (columns, rows)
}

/// A row of `wh.recreate_fdw` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub object: String,
    pub kind: String,
    pub action: String,
    pub detail: String,
}

/// What was done to which objects, sorted.
pub fn actions(changes: &[Change]) -> Vec<String> {
    let mut lines: Vec<String> = changes.iter().map(|c| format!("{} {} {}", c.kind, c.object, c.action)).collect();
    lines.sort();
    lines
}

/// The columns of a table in their order, names only.
#[track_caller]
pub fn columns(client: &mut Client, table: &str) -> String {
    value(
        client,
        &format!(
            "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        ),
    )
}

/// The rows of a function that says what it did.
#[track_caller]
pub fn changes(client: &mut Client, sql: &str) -> Vec<Change> {
    match change_rows(client, sql) {
        Ok(changes) => changes,
        Err(e) => panic!("{}\nin: {sql}", describe(&e)),
    }
}

/// The same, where an error is one of the things that may happen.
pub fn change_rows(client: &mut Client, sql: &str) -> Result<Vec<Change>, postgres::Error> {
    let messages = client.simple_query(sql)?;
    let (columns, rows) = collect(&messages);
    assert_eq!(columns, ["object", "kind", "action", "detail"], "of: {sql}");
    Ok(rows
        .into_iter()
        .map(|row| {
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let mut next = || cells.next().unwrap_or_default();
            Change { object: next(), kind: next(), action: next(), detail: next() }
        })
        .collect())
}

/// The same helpers as methods.
pub trait ClientExt {
    fn exec(&mut self, sql: &str);
    fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>>;
    fn table(&mut self, sql: &str) -> String;
    fn value(&mut self, sql: &str) -> String;
    fn error(&mut self, sql: &str) -> DbError;
    fn changes(&mut self, sql: &str) -> Vec<Change>;
    fn pid(&mut self) -> u32;
}

impl ClientExt for Client {
    #[track_caller]
    fn exec(&mut self, sql: &str) {
        exec(self, sql);
    }

    #[track_caller]
    fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        rows(self, sql)
    }

    #[track_caller]
    fn table(&mut self, sql: &str) -> String {
        table(self, sql)
    }

    #[track_caller]
    fn value(&mut self, sql: &str) -> String {
        value(self, sql)
    }

    #[track_caller]
    fn error(&mut self, sql: &str) -> DbError {
        error(self, sql)
    }

    #[track_caller]
    fn changes(&mut self, sql: &str) -> Vec<Change> {
        changes(self, sql)
    }

    /// The backend's process.
    #[track_caller]
    fn pid(&mut self) -> u32 {
        match value(self, "SELECT pg_catalog.pg_backend_pid()").parse() {
            Ok(pid) => pid,
            Err(e) => panic!("a backend without a pid: {e}"),
        }
    }
}
