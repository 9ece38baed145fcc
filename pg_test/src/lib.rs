//! The harness: throw-away clusters, clients, and what tests share.
//!
//! - [`place`]: where things lie, and as whom Postgres runs
//! - [`server`]: a private copy of the Postgres installation, with the extension in it
//! - [`cluster`]: a running Postgres that ends with its process, or goes on until it is stopped
//! - [`pair`]: a product and a warehouse for one test
//! - [`warehouse`]: one whose jobs run, shared by the tests of a file
//! - [`at_work`]: a server of a test's own that runs jobs
//! - [`client`]: queries as text, waiting for a condition
//! - [`jobs`]: servers that run jobs
//! - [`counterparts`]: servers that others wrote: emulators of vendors' APIs, and one that fails as it is told
//! - [`fake_api`]: an API that misbehaves on demand
//! - [`sources`]: sources that fetch from it
//! - [`usage`]: servers that count what queries cost
//! - [`sizes`]: a warehouse that is measured when a test says so
//!
//! A test that can't go on panics, with a message that says what it waited for. Nothing here touches a cluster
//! that it did not start, nor the Postgres installation that it was copied from.

pub mod at_work;
pub mod client;
pub mod cluster;
pub mod counterparts;
pub mod fake_api;
pub mod jobs;
pub mod pair;
pub mod place;
pub mod server;
pub mod sizes;
pub mod sources;
pub mod usage;
pub mod warehouse;

pub use at_work::Jobs;
pub use client::{
    actions, change_rows, changes, columns, error, exec, rows, table, value, wait_until, Change, ClientExt,
};
pub use cluster::Cluster;
pub use pair::Pair;
pub use postgres::Client;
pub use server::Profile;
pub use sources::Sources;
pub use warehouse::{JobsExt, Warehouse};

/// What went wrong, in words.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
