//! Processes by their numbers.

use std::process::Command;

use crate::Result;

/// Whether a process runs; a zombie does not.
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

pub fn children(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .map(|s| s.split_whitespace().filter_map(|p| p.parse().ok()).collect())
        .unwrap_or_default()
}

/// `kill -9` of one process.
pub fn kill9(pid: u32) -> Result<()> {
    signal("KILL", pid)
}

/// Sends a signal (by its name without SIG) to one process.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    let sent = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$1\" \"$2\" 2>/dev/null", "sh", name, &pid.to_string()])
        .status()?;
    if !sent.success() && runs(pid) {
        return Err(format!("can't send SIG{name} to process {pid}").into());
    }
    Ok(())
}
