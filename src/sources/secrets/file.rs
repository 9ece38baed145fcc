//! Secrets that are the server's: files by their names in `startup_wh.secret_dir`, or variables of its environment.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Secret;
use crate::error::{Error, Result};

fn path(name: &str) -> Option<PathBuf> {
    let dir = crate::settings::SECRET_DIR.get().filter(|d| !d.is_empty())?;
    Some(Path::new(OsStr::new(dir.to_str().unwrap_or_default())).join(name))
}

fn trouble(name: &str, what: &str, e: &io::Error) -> Error {
    Error::new("58030", format!("secret \"{name}\" cannot be {what} its file: {}", e.kind()))
}

/// A secret, without the line's end.
pub fn read(name: &str) -> Result<Option<String>> {
    let Some(path) = path(name) else { return Ok(None) };
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()).filter(|t| !t.is_empty())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(trouble(name, "read from", &e)),
    }
}

/// Begins the variables that are secrets: no other one is a source's to read.
const VARIABLE: &str = "STARTUP_WH_SECRET_";

/// The variable of a secret: its name in capitals, with `_` for what a shell takes in no name.
fn variable(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    VARIABLE.chars().chain(letters).collect()
}

/// A secret of the environment that the server was started with.
pub fn from_environment(name: &str) -> Option<String> {
    let value = std::env::var(variable(name)).ok()?;
    Some(value.trim_end_matches(['\n', '\r']).to_owned()).filter(|v| !v.is_empty())
}

/// Puts `new` in the place of `old`, where the server may write the file; what is neither stays.
pub fn replace(name: &str, old: &Secret, new: &Secret) -> Result<()> {
    let Some(path) = path(name).filter(|_| read(name).is_ok_and(|now| now.as_deref() == Some(old.expose()))) else {
        return match from_environment(name).as_deref() == Some(old.expose()) {
            true => Err(Error::new("55000", format!("secret \"{name}\" is a variable of the environment"))
                .hint("Keep this secret by wh.set_secret, or in a file of startup_wh.secret_dir.")),
            false => Ok(()),
        };
    };
    write(&path, new.expose()).map_err(|e| {
        trouble(name, "written to", &e).hint(
            "Let the server's user write the file and its directory, or keep this secret by wh.set_secret instead.",
        )
    })
}

/// A file that is whole at any moment: the old one, or the new one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // Where a link leads.
    let path = path.canonicalize()?;
    // A file that we may not write is not to be replaced either.
    let mode = OpenOptions::new().write(true).open(&path)?.metadata()?.permissions().mode();
    let dir = path.parent().ok_or(ErrorKind::NotFound)?;
    // No secret's name begins with a dot.
    let mut beside = OsStr::new(".startup_wh.").to_owned();
    beside.push(path.file_name().ok_or(ErrorKind::NotFound)?);
    let beside = dir.join(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = (|| {
        writeln!(file, "{text}")?;
        file.set_permissions(PermissionsExt::from_mode(mode & 0o777))?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Its trouble is what counts.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_with_our_beginning_are_secrets() {
        assert_eq!(variable("stripe-key.2"), "STARTUP_WH_SECRET_STRIPE_KEY_2");
        assert_eq!(variable("path"), "STARTUP_WH_SECRET_PATH");
        assert_eq!(from_environment("path"), None);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_keeps_its_mode() {
        let dir = std::env::temp_dir().join(format!("startup_wh_secrets_{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, link) = (dir.join("key"), dir.join("link"));
        fs::write(&file, "old\n").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside it");
        assert!(write(&dir.join("none"), "new").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
