//! A job, a run of it, and how a run ended: plain structs.

use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Sql,
    Refresh,
    KeepFresh,
    RecreateFdw,
    /// A source is fetched, in transactions of its own.
    Fetch,
    /// A saved query runs, and its result is kept.
    Query,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sql => "sql",
            Kind::Refresh => "refresh",
            Kind::KeepFresh => "keep_fresh",
            Kind::RecreateFdw => "recreate_fdw",
            Kind::Fetch => "fetch",
            Kind::Query => "query",
        }
    }

    /// Whether it is made of a step per view.
    pub fn refreshes(self) -> bool {
        matches!(self, Kind::Refresh | Kind::KeepFresh)
    }
}

/// A job as the scheduler knows it. Times are microseconds since 1970, spans microseconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    pub id: i64,
    pub name: String,
    pub owner: u32,
    pub kind: Kind,
    pub schedule: Option<String>,
    pub timezone: Option<String>,
    pub database: Option<String>,
    pub relation: Option<u32>,
    pub view_schema: Option<String>,
    pub view_name: Option<String>,
    pub upstream: bool,
    pub max_lag: Option<i64>,
    pub timeout: Option<i64>,
    pub max_retries: i32,
    pub retry_delay: i64,
    pub catch_up: CatchUp,
    pub anchor: i64,
    pub next_run: Option<i64>,
    pub retry_at: Option<i64>,
    pub retry_for: Option<i64>,
    pub attempt: i32,
    pub failures: i32,
}

/// What becomes of runs that came due while nothing could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    Skip,
    Once,
}

/// Why a run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Schedule,
    Retry,
    CatchUp,
    Hand,
}

impl Trigger {
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Retry => "retry",
            Trigger::CatchUp => "catch up",
            Trigger::Hand => "hand",
        }
    }
}

/// How a run or a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Crashed,
    Skipped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::TimedOut => "timed_out",
            Status::Cancelled => "cancelled",
            Status::Crashed => "crashed",
            Status::Skipped => "skipped",
        }
    }

    /// Whether it counts against the job, and is tried again.
    pub fn is_failure(self) -> bool {
        matches!(self, Status::Failed | Status::TimedOut | Status::Crashed)
    }
}

/// What follows from the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Failures in a row, this one included.
    pub failures: i32,
    /// When to try again (microseconds), and as which attempt.
    pub retry: Option<(i64, i32)>,
    /// The job is paused, for this reason.
    pub pause: Option<String>,
}

/// Decides what follows: another attempt where the job has one left, a pause where it has failed `most` times in a row
/// (0: never). A cancelled run is somebody's will: no retry, and no mark against the job.
pub fn after(job: &Job, attempt: i32, status: Status, now: i64, most: i32) -> After {
    let failures = match status {
        s if s.is_failure() => job.failures + 1,
        Status::Succeeded => 0,
        _ => job.failures,
    };
    let pause =
        (status.is_failure() && most > 0 && failures >= most).then(|| format!("failed {failures} times in a row"));
    let again = status.is_failure() && pause.is_none() && attempt <= job.max_retries;
    After { failures, retry: again.then(|| (now.saturating_add(job.retry_delay), attempt + 1)), pause }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn job() -> Job {
        Job {
            id: 1,
            name: "j".into(),
            owner: 10,
            kind: Kind::Sql,
            schedule: Some("1 minute".into()),
            timezone: None,
            database: None,
            relation: None,
            view_schema: None,
            view_name: None,
            upstream: true,
            max_lag: None,
            timeout: None,
            max_retries: 2,
            retry_delay: 5,
            catch_up: CatchUp::Skip,
            anchor: 0,
            next_run: None,
            retry_at: None,
            retry_for: None,
            attempt: 1,
            failures: 0,
        }
    }

    #[test]
    fn a_failure_is_tried_again_as_often_as_asked() {
        let j = job();
        assert_eq!(after(&j, 1, Status::Failed, 100, 0).retry, Some((105, 2)));
        assert_eq!(after(&j, 2, Status::Crashed, 100, 0).retry, Some((105, 3)));
        assert_eq!(after(&j, 3, Status::TimedOut, 100, 0).retry, None);
    }

    #[test]
    fn only_failures_count_and_success_forgets_them() {
        let j = Job { failures: 4, ..job() };
        assert_eq!(after(&j, 1, Status::Failed, 0, 0).failures, 5);
        assert_eq!(after(&j, 1, Status::Cancelled, 0, 0), After { failures: 4, retry: None, pause: None });
        assert_eq!(after(&j, 1, Status::Succeeded, 0, 0).failures, 0);
    }

    #[test]
    fn a_job_that_fails_too_often_is_paused_and_not_retried() {
        let j = Job { failures: 4, ..job() };
        let paused = after(&j, 1, Status::Failed, 0, 5);
        assert_eq!(paused, After { failures: 5, retry: None, pause: Some("failed 5 times in a row".into()) });
        assert_eq!(after(&j, 1, Status::Failed, 0, 6).pause, None);
    }
}
