//! A private copy of the Postgres installation, with the extension in it.
//!
//! Postgres finds its own files relative to its programs, so a copy with the same layout is a complete
//! installation. Tests install into the copy, and the machine's own servers never see a test build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{place, Result};

/// How the extension was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Unoptimized; tests and the demo.
    Debug,
    /// As it is installed; the bench.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Profile::Debug => "server-debug",
            Profile::Release => "server-release",
        }
    }
}

/// An installation of Postgres.
#[derive(Debug, Clone)]
pub struct Server {
    bin: PathBuf,
    pkglib: PathBuf,
    share: PathBuf,
    version: String,
}

/// The `pg_config` to copy from: `PG_CONFIG`, else Debian's for `PG` (15).
pub fn origin() -> PathBuf {
    if let Some(path) = std::env::var_os("PG_CONFIG") {
        return PathBuf::from(path);
    }
    let major = std::env::var("PG").unwrap_or_else(|_| "15".into());
    PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config"))
}

fn ask(pg_config: &Path, what: &str) -> Result<String> {
    let out = Command::new(pg_config)
        .arg(what)
        .output()
        .map_err(|e| format!("can't run {}: {e}; `make prerequisites` installs it", pg_config.display()))?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

impl Server {
    /// The installation that `pg_config` describes.
    pub fn of(pg_config: &Path) -> Result<Server> {
        Ok(Server {
            bin: ask(pg_config, "--bindir")?.into(),
            pkglib: ask(pg_config, "--pkglibdir")?.into(),
            share: ask(pg_config, "--sharedir")?.into(),
            version: ask(pg_config, "--version")?,
        })
    }

    /// The private copy, with the extension installed: `make test-install` made it.
    pub fn private(profile: Profile) -> Result<&'static Server> {
        static DEBUG: OnceLock<Server> = OnceLock::new();
        static RELEASE: OnceLock<Server> = OnceLock::new();
        let cell = match profile {
            Profile::Debug => &DEBUG,
            Profile::Release => &RELEASE,
        };
        if let Some(server) = cell.get() {
            return Ok(server);
        }
        let origin = Server::of(&origin())?;
        let root = place::base()?.join(profile.directory());
        let server = origin.under(&root);
        if !server.pkglib.join("startup_wh.so").exists() {
            return Err(format!(
                "the extension is not installed under {}: run `make test-install` (or `make bench`) first",
                root.display()
            )
            .into());
        }
        Ok(cell.get_or_init(|| server))
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Where pgxs keeps `pg_regress` and `pg_isolation_regress`.
    pub fn test_driver(&self, directory: &str, name: &str) -> PathBuf {
        self.pkglib.join("pgxs/src/test").join(directory).join(name)
    }

    /// A version, as a part of a file name.
    pub fn label(&self) -> String {
        self.version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect()
    }

    fn under(&self, root: &Path) -> Server {
        Server {
            bin: below(root, &self.bin),
            pkglib: below(root, &self.pkglib),
            share: below(root, &self.share),
            version: self.version.clone(),
        }
    }
}

/// An absolute path, moved below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes the private copy where there is none, or where the origin is another build now, and installs the
/// extension into it.
pub fn install(profile: Profile) -> Result<()> {
    let pg_config = origin();
    let origin = Server::of(&pg_config)?;
    let root = place::base()?.join(profile.directory());
    copy_installation(&pg_config, &origin, &root)?;

    let mut package = Command::new("cargo");
    package
        .current_dir(place::checkout())
        .env("PGRX_PG_CONFIG_PATH", &pg_config)
        .env("CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND", "1")
        .args(["pgrx", "package", "--package", "startup_wh", "--pg-config"])
        .arg(&pg_config)
        .arg("--out-dir")
        .arg(&root);
    if profile == Profile::Debug {
        package.arg("--debug");
    }
    match package.status() {
        Ok(status) if status.success() => label_provider(&pg_config, &origin.under(&root)),
        Ok(status) => Err(format!("cargo pgrx package: {status}").into()),
        Err(e) => Err(format!("can't run cargo pgrx: {e}; `make prerequisites` installs it").into()),
    }
}

/// Compiles the library that `session_preload_libraries = pg_test_labels` loads; see label_provider.c.
fn label_provider(pg_config: &Path, server: &Server) -> Result<()> {
    let source = place::checkout().join("pg_test/label_provider.c");
    let library = server.pkglib.join("pg_test_labels.so");
    let age = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified());
    if age(&library).is_ok_and(|made| age(&source).is_ok_and(|written| written < made)) {
        return Ok(());
    }
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-I"])
        .arg(ask(pg_config, "--includedir-server")?)
        .arg("-o")
        .arg(&library)
        .arg(source)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("cc: {status}").into()),
    }
}

fn copy_installation(pg_config: &Path, origin: &Server, root: &Path) -> Result<()> {
    let build = std::fs::metadata(origin.program("postgres"))?;
    let stamp = format!("{} {} {:?}\n", origin.version, build.len(), build.modified()?);
    // Packages of extensions put files into the same folders.
    let extensions = std::fs::metadata(origin.share.join("extension"))?.modified()?;
    let full = format!("{stamp}{extensions:?}\n");
    let stamp_file = root.join("copied");
    let have = std::fs::read_to_string(&stamp_file).unwrap_or_default();
    if have == full {
        return Ok(());
    }
    // Servers may run from the copy; what is there of the same build stays.
    if !have.starts_with(&stamp) && root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    let mut done: Vec<PathBuf> = Vec::new();
    for from in [&origin.bin, &origin.pkglib, &origin.share] {
        if done.iter().any(|d| from.starts_with(d)) {
            continue;
        }
        let to = below(root, from);
        std::fs::create_dir_all(&to)?;
        // -L: the programs find their installation from where they really lie.
        let copied = Command::new("cp")
            .args(["-RL", "--update", "--remove-destination"])
            .arg(from.join("."))
            .arg(&to)
            .status()?;
        if !copied.success() {
            return Err(format!("can't copy {} to {}", from.display(), to.display()).into());
        }
        done.push(from.clone());
    }
    // The rest is only read, by whoever compiles or links against the copy.
    for what in ["--includedir", "--libdir"] {
        let from = PathBuf::from(ask(pg_config, what)?);
        let to = below(root, &from);
        if !to.exists() && from.exists() {
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::os::unix::fs::symlink(&from, &to)?;
        }
    }
    std::fs::write(stamp_file, full)?;
    Ok(())
}
