//! Sizes: bytes by relation and by schema, without a lock on anybody's table.
//!
//! measure (walks the files and reads pg_class) → attribute (pure: whose each file is) → snapshot (writes what has
//! changed; observe, pure, says what counters tell). api has the doors, notice what a reader is told where there is
//! nothing to read, worker the process that measures again and again.

mod api;
mod attribute;
mod files;
mod measure;
mod notice;
mod observe;
mod snapshot;
mod worker;

pub use worker::SizeKeeper;
