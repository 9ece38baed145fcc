//! Where things lie, and as whom Postgres runs.
//!
//! Postgres refuses to run as root, so under root it runs as the user `postgres`, who must be able to reach the
//! files: a checkout under a closed home directory sends everything to /tmp instead.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::Result;

/// The system user that runs Postgres when we are root.
const SERVICE_USER: &str = "postgres";

/// The top of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => checkout().join(dir),
        None => checkout().join("target"),
    }
}

/// Clusters, server copies and results: `target/pg_test`, or a directory under /tmp that Postgres' user can reach.
/// `PG_TEST_DIR` overrides both.
pub fn base() -> Result<&'static Path> {
    static BASE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BASE.get_or_init(|| choose_base().map_err(|e| e.to_string())).as_deref().map_err(|e| e.clone().into())
}

fn choose_base() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("PG_TEST_DIR") {
        let dir = checkout().join(dir);
        own_directory(&dir)?;
        return match reachable(&dir)? {
            true => Ok(dir),
            false => Err(format!("{SERVICE_USER} can't reach PG_TEST_DIR, {}", dir.display()).into()),
        };
    }
    let wanted = target().join("pg_test");
    own_directory(&wanted)?;
    if reachable(&wanted)? {
        return Ok(wanted);
    }
    // One directory for each checkout: two of them must not share a server with the extension in it.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in wanted.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    let fallback = PathBuf::from(format!("/tmp/startup_wh-{:08x}", hash as u32));
    eprintln!(
        "The user {SERVICE_USER} can't reach {}; using {} (PG_TEST_DIR names another place)",
        wanted.display(),
        fallback.display()
    );
    own_directory(&fallback)?;
    if std::fs::metadata(&fallback)?.uid() != user()?.map_or(current_uid()?, |u| u.uid) {
        return Err(format!("{} belongs to somebody else", fallback.display()).into());
    }
    Ok(fallback)
}

/// Makes a directory that Postgres' user owns.
pub fn own_directory(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| format!("can't make {}: {e}", dir.display()))?;
    give(dir)
}

/// Gives a file or directory to Postgres' user.
pub fn give(path: &Path) -> Result<()> {
    if let Some(user) = user()? {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// A file that only Postgres' user may read.
pub fn private_file(path: &Path, content: &str) -> Result<()> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    give(path)
}

fn reachable(dir: &Path) -> Result<bool> {
    let mut test = run_as_server(Path::new("/bin/sh"))?;
    test.args(["-c", "cd \"$1\" 2>/dev/null && [ -w . ]", "sh"]).arg(dir);
    Ok(test.stdin(Stdio::null()).status()?.success())
}

#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

fn current_uid() -> Result<u32> {
    // /proc/self belongs to the effective user.
    Ok(std::fs::metadata("/proc/self")?.uid())
}

/// The user to become before running Postgres; none where we are no root.
fn user() -> Result<Option<User>> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Ok(*user);
    }
    let found = if current_uid()? == 0 {
        let id = |flag: &str| -> Result<u32> {
            let out = Command::new("id").args([flag, SERVICE_USER]).output()?;
            let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            text.parse().map_err(|_| format!("there is no user {SERVICE_USER} to run Postgres as").into())
        };
        Some(User { uid: id("-u")?, gid: id("-g")? })
    } else {
        None
    };
    Ok(*USER.get_or_init(|| found))
}

/// A command that runs as Postgres' user, without our environment's Postgres settings.
pub fn run_as_server(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some(user) = user()? {
        command.uid(user.uid).gid(user.gid).current_dir("/");
        command.env("HOME", "/nonexistent").env("USER", SERVICE_USER);
    }
    for name in [
        "PGHOST",
        "PGHOSTADDR",
        "PGPORT",
        "PGDATABASE",
        "PGUSER",
        "PGPASSWORD",
        "PGPASSFILE",
        "PGSERVICE",
        "PGSERVICEFILE",
        "PGOPTIONS",
        "PGDATA",
        "PGTZ",
        "PGDATESTYLE",
        "PGCLIENTENCODING",
        "PGSSLMODE",
        "PGAPPNAME",
        "RUST_LIB_BACKTRACE",
    ] {
        command.env_remove(name);
    }
    // A server may have it, and errors say nothing of it.
    command.env("RUST_BACKTRACE", "1");
    command.env("STARTUP_WH_SECRET_OF_TESTS", "from the environment");
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    Ok(command)
}
