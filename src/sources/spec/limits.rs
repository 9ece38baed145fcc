//! How much a fetch may take, and what it does about answers that are no data.

use serde::Deserialize;

use super::Pointer;

/// Those of a stream are laid over those of the source, member by member, when the spec is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests a second, over all streams of the source.
    pub rps: Option<f64>,
    /// Of the source: streams that are fetched at the same time. Of a stream: its parents, or records that are asked for
    /// one by one.
    pub concurrency: usize,
    pub connect_ms: u64,
    /// From sending a request to the last byte of its body.
    pub request_ms: u64,
    /// The whole run of a stream.
    pub run_ms: u64,
    /// Of one answer, inflated.
    pub max_body_bytes: u64,
    pub max_header_bytes: usize,
    /// Of one record, which is held in memory; of a longer one only its key and cursors are known.
    pub max_record_bytes: usize,
    pub max_pages: u64,
    pub max_redirects: u32,
    pub batch_rows: usize,
    pub batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rps: None,
            concurrency: 4,
            connect_ms: 10_000,
            request_ms: 60_000,
            run_ms: 4 * 3600 * 1000,
            max_body_bytes: 1 << 30,
            max_header_bytes: 64 << 10,
            max_record_bytes: 16 << 20,
            max_pages: 100_000,
            max_redirects: 5,
            batch_rows: 10_000,
            batch_bytes: 4 << 20,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ErrorRule {
    pub status: Vec<u16>,
    /// The value at the pointer must be this text as well (a number or boolean is compared as it is written).
    #[serde(default, deserialize_with = "super::read::body_equals")]
    pub body: Option<(Pointer, String)>,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Wait, then ask again.
    Retry,
    /// End the run with an error.
    Fail,
    /// Take it as an empty list. For a stream with a parent only: what the parent named is gone.
    Skip,
    /// Get a new token, once, then ask again.
    RefreshAuth,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Tries after the first.
    pub max: u32,
    /// The header that says how long to wait, in seconds or as a date.
    pub retry_after: String,
    /// The header that says when the limit is lifted.
    pub reset: Option<Reset>,
    /// Else: from this, doubled each time, with jitter,
    pub base_ms: u64,
    /// up to this.
    pub max_ms: u64,
    /// A header whose `false` means that asking again is useless, and whose `true` means that it is not.
    pub should_retry: Option<String>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            max: 6,
            retry_after: "Retry-After".into(),
            reset: None,
            base_ms: 500,
            max_ms: 60_000,
            should_retry: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reset {
    pub header: String,
    pub unit: ResetUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetUnit {
    /// Seconds since 1970.
    EpochS,
    /// Milliseconds since 1970.
    EpochMs,
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Ms,
}
