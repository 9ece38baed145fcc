//! Data directories: the one that all are copied from, and those that nobody uses any more.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use super::process::runs;
use super::{SUPERUSER, SUPERUSER_PASSWORD};
use crate::server::Server;
use crate::{place, Result};

/// An initialised data directory, made once for each version of Postgres.
pub fn template(server: &Server) -> Result<PathBuf> {
    // Tests of one file that start clusters at the same time.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = place::base()?.join(format!("template-{}", server.label()));
    if dir.exists() {
        return Ok(dir);
    }
    let making = place::base()?.join(format!("template-{}.{}", server.label(), std::process::id()));
    let password = place::base()?.join(format!("password.{}", std::process::id()));
    place::private_file(&password, &format!("{SUPERUSER_PASSWORD}\n"))?;
    let out = place::run_as_server(&server.program("initdb"))?
        .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--username", SUPERUSER])
        .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
        .arg(format!("--pwfile={}", password.display()))
        .arg("-D")
        .arg(&making)
        .stdin(Stdio::null())
        .output()?;
    std::fs::remove_file(&password)?;
    if !out.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    // Another process may have been as fast; either's is as good.
    if std::fs::rename(&making, &dir).is_err() {
        std::fs::remove_dir_all(&making)?;
    }
    Ok(dir)
}

/// Removes what processes left behind that are gone: after a power failure, say.
pub fn remove_leftovers(runs_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(runs_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let owner = entry.file_name().to_str().and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        let alive = owner.is_some_and(runs) || postmaster_of(&entry.path()).is_some_and(runs);
        if owner.is_some() && !alive && std::env::var_os("PG_TEST_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

pub fn postmaster_of(dir: &Path) -> Option<u32> {
    let file = std::fs::read_to_string(dir.join("data/postmaster.pid")).ok()?;
    file.lines().next()?.trim().parse().ok()
}
