//! What a reader is told where sizes are missing or old, and what to do about it.

use super::measure::micros;
use crate::error::Result;
use crate::pg::{session, shmem, spi};
use crate::settings;

/// Older than this is old where nobody but an administrator measures.
const BY_HAND: i64 = 25 * 3600;

/// Says so in a NOTICE, where there is something to be said. Runs as the extension's owner.
pub fn unless_kept() -> Result<()> {
    let as_of: Option<(Option<i64>, Option<String>)> = spi::look_first(
        "SELECT pg_catalog.json_build_array(wh.micros(as_of), pg_catalog.date_trunc('second', as_of)::text)::text FROM wh.size_snapshot",
        &[],
    )?;
    let (as_of, text) = as_of.unwrap_or_default();
    let age = as_of.map(|at| (micros(std::time::SystemTime::now()) - at) / 1_000_000);
    let found = tell(age, text.as_deref().unwrap_or_default(), shmem::is_preloaded(), settings::SIZE_INTERVAL.get());
    if let Some((message, hint)) = found {
        session::notice(&message, "", &hint);
    }
    Ok(())
}

/// Decides what to say of sizes of this age (seconds), if anything.
fn tell(age: Option<i64>, as_of: &str, preloaded: bool, interval: i32) -> Option<(String, String)> {
    let worker = preloaded && interval > 0;
    let most = if worker { (3 * i64::from(interval)).max(600) } else { BY_HAND };
    let message = match age {
        Some(age) if age <= most => return None,
        Some(_) => format!("sizes were last measured at {as_of}"),
        None => String::from("sizes have not been measured yet"),
    };
    let by_hand = "A wh_admin can measure now: SELECT * FROM wh.snapshot_usage(). Without keeping it, wh.schema_sizes_now() does.";
    let hint = match (preloaded, worker) {
        (false, _) => format!(
            "The worker that measures needs shared_preload_libraries = 'startup_wh' in postgresql.conf, and a restart. {by_hand}"
        ),
        (true, false) => format!("startup_wh.size_interval is 0, so no worker measures. {by_hand}"),
        (true, true) => format!(
            "The worker measures each {interval} s, in the databases of startup_wh.databases, when it finds a free slot of max_worker_processes; the server's log has its errors. {by_hand}"
        ),
    };
    Some((message, hint))
}

#[cfg(test)]
mod tests {
    use super::tell;

    #[test]
    fn who_reads_nothing_or_something_old_is_told_why() {
        let hint = |age, preloaded, interval| {
            tell(age, "noon", preloaded, interval).map(|(message, hint)| {
                assert!(message == "sizes have not been measured yet" && age.is_none() || message.ends_with("at noon"));
                hint
            })
        };
        assert!(hint(None, false, 300).is_some_and(|h| h.contains("shared_preload_libraries")));
        assert!(hint(None, true, 0).is_some_and(|h| h.contains("size_interval is 0")));
        assert!(hint(None, true, 300).is_some_and(|h| h.contains("max_worker_processes")));
        assert_eq!(hint(Some(899), true, 300), None);
        assert!(hint(Some(901), true, 300).is_some());
        assert_eq!(hint(Some(599), true, 1), None);
        // By hand, once a day.
        assert_eq!(hint(Some(86_400), false, 300), None);
        assert_eq!(hint(Some(86_400), true, 0), None);
        assert!(hint(Some(100_000), false, 300).is_some());
    }
}
