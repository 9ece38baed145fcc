//! Runs in another database: its runner cannot write our records, so it answers, and the scheduler writes them.

use serde::{Deserialize, Serialize};

use super::model::Status;
use super::shared::outcome;
use super::store::Ended;
use crate::error::{cut, Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{parcel, portal};

/// What the runner answers.
#[derive(Serialize, Deserialize, Default)]
struct Answer {
    rows: Option<i64>,
    sqlstate: Option<String>,
    error: Option<String>,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
}

/// So much of a text that an answer always fits.
fn short(text: String) -> String {
    cut(text, 1000)
}

/// Runs the command behind `handle` and answers.
pub fn run(handle: u32, stopped: impl FnOnce() -> Result<()>) -> u64 {
    let result = worker::transaction(Snapshot::Taken, || {
        parcel::open(handle).ok_or_else(|| Error::new("55000", "the command is gone"))
    })
    .and_then(|command| {
        worker::report(Some(&command));
        worker::hold_cancel(false);
        stopped()?;
        crate::usage::count(true);
        super::runner::uncounted(worker::transaction(Snapshot::None, || portal::run(&command)))
    });
    worker::hold_cancel(true);
    let answer = match result {
        Ok(rows) => Answer { rows: Some(rows as i64), ..Answer::default() },
        Err(mut e) => Answer {
            rows: None,
            context: portal::complete(&mut e).map(short),
            sqlstate: Some(e.sqlstate),
            error: Some(short(e.message)),
            detail: e.detail.map(short),
            hint: e.hint.map(short),
        },
    };
    let written = serde_json::to_string(&answer)
        .map_err(Error::from)
        .and_then(|text| worker::transaction(Snapshot::Taken, || Ok(parcel::answer(handle, &text))));
    match written {
        Ok(true) => outcome::UNRECORDED,
        _ => outcome::NONE,
    }
}

/// How the run behind `handle` ended; `None` where its runner did not live to say it. The answer stays there: the
/// transaction that writes it down may fail. Inside a transaction.
pub fn ended(handle: u32, stop: u64, started: Option<i64>, pid: Option<i32>) -> Option<(Status, Ended)> {
    let answer: Answer = serde_json::from_str(&parcel::answered(handle)?).ok()?;
    let mut ended = Ended { started, pid, rows: answer.rows, context: answer.context, ..Ended::default() };
    let Some(message) = answer.error else { return Some((Status::Succeeded, ended)) };
    let mut error = Error::new(answer.sqlstate.as_deref().unwrap_or("XX000"), message);
    (error.detail, error.hint) = (answer.detail, answer.hint);
    let (status, error) = super::runner::judge(error, stop);
    ended.error = Some(error);
    Some((status, ended))
}
