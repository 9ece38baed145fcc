//! A running Postgres that ends with its process, or goes on until it is stopped.
//!
//! A shell stands between a test and its postmaster, reading from a pipe that only the test holds. However the test
//! ends, kill -9 included, the shell reads end of file, stops the postmaster and removes its files.

mod files;
mod process;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};

use crate::client::{wait_until, POLL};
use crate::server::{Profile, Server};
use crate::{place, Result};

use files::{postmaster_of, remove_leftovers, template};
use process::children;
pub use process::{kill9, runs, signal};

/// The superuser of every cluster, and its password over TCP.
pub const SUPERUSER: &str = "postgres";
pub const SUPERUSER_PASSWORD: &str = "super secret";

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Throw-away data needs no durability; everything else is as Postgres ships it.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("max_locks_per_transaction", "256"),
    // Each run is recorded by a worker, and many tests run at once.
    ("max_worker_processes", "32"),
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_permissions", "0700"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("log_line_prefix", "%m [%p] %u@%d "),
];

const SUPERVISOR: &str = r#"
postgres=$1 dir=$2 socket=$3
("$postgres" -D "$dir/data" -k "$socket" >>"$dir/log" 2>&1 </dev/null; echo down) &
read -r word
if [ "$word" = stop ]; then wait; exit; fi
pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
wait
[ -n "$PG_TEST_KEEP" ] || rm -rf "$dir"
rm -rf "$socket"
"#;

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    profile: Profile,
    settings: Vec<(String, String)>,
}

impl Builder {
    /// A setting for postgresql.conf; the last of one name counts.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The build of the extension that the cluster sees.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// A cluster that ends with this process, or when it is dropped.
    pub fn start(self) -> Result<Cluster> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let runs = place::base()?.join("run");
        place::own_directory(&runs)?;
        if COUNT.load(Ordering::Relaxed) == 0 {
            remove_leftovers(&runs);
        }
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = runs.join(format!("{}-{n}-{}", std::process::id(), self.name));
        let socket = PathBuf::from(format!("/tmp/.wh-{}-{n}", std::process::id()));
        let mut cluster = self.lay_out(dir, socket, None)?;
        cluster.run()?;
        Ok(cluster)
    }

    /// A cluster that goes on when this process ends, until [`stop_standing`]. One of the same name is replaced.
    pub fn start_standing(self, preferred_port: u16) -> Result<Cluster> {
        stop_standing(&self.name)?;
        let dir = standing_directory(&self.name)?;
        let socket = dir.clone();
        let mut cluster = self.lay_out(dir, socket, Some(preferred_port))?;
        cluster.standing = true;
        let started = cluster
            .tool("pg_ctl")?
            .args(["start", "-w", "-s", "-t", "60", "-D"])
            .arg(cluster.dir.join("data"))
            .arg("-l")
            .arg(cluster.dir.join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .status()?;
        if !started.success() {
            return Err(format!("the cluster \"{}\" did not start:\n{}", self.name, cluster.log_tail()).into());
        }
        Ok(cluster)
    }

    fn lay_out(&self, dir: PathBuf, socket: PathBuf, preferred: Option<u16>) -> Result<Cluster> {
        let server = Server::private(self.profile)?;
        let template = template(server)?;
        place::own_directory(&dir)?;
        if socket != dir {
            place::own_directory(&socket)?;
        }
        let copied = place::run_as_server(Path::new("/bin/cp"))?
            .arg("-R")
            .arg("--reflink=auto")
            .arg("-p")
            .arg(&template)
            .arg(dir.join("data"))
            .status()?;
        if !copied.success() {
            return Err(format!("can't copy {} to {}", template.display(), dir.display()).into());
        }
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        settings.extend(self.settings.iter().cloned());
        let mut cluster = Cluster {
            name: self.name.clone(),
            server,
            dir,
            socket,
            port: 0,
            settings,
            supervisor: None,
            standing: false,
        };
        // A data directory's path can be longer than a socket's may be; over TCP all are reachable.
        if preferred.is_some() {
            cluster.set("unix_socket_directories", "");
        }
        cluster.port = free_port(preferred)?;
        cluster.configure()?;
        Ok(cluster)
    }
}

/// A running Postgres.
pub struct Cluster {
    name: String,
    server: &'static Server,
    dir: PathBuf,
    socket: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    supervisor: Option<Supervisor>,
    standing: bool,
}

struct Supervisor {
    child: Child,
    pipe: Option<ChildStdin>,
    down: Arc<AtomicBool>,
}

impl Cluster {
    /// A cluster to be; the name is for its files and messages.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.into(), profile: Profile::Debug, settings: Vec::new() }
    }

    /// One with the usual settings.
    pub fn start(name: &str) -> Result<Cluster> {
        Cluster::builder(name).start()
    }

    /// Its port on 127.0.0.1, where passwords are asked for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Changes a setting; it counts from the next start or reload.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.into(), value.into()));
    }

    /// As the superuser, over the socket.
    pub fn connect(&self, database: &str) -> Result<Client> {
        let mut config = self.config(database, SUPERUSER);
        if self.standing {
            config.host("127.0.0.1").password(SUPERUSER_PASSWORD);
        } else {
            config.host_path(&self.socket);
        }
        Ok(config.connect(NoTls)?)
    }

    /// As anybody, over TCP with a password.
    pub fn connect_as(&self, database: &str, user: &str, password: &str) -> Result<Client> {
        Ok(self.config(database, user).host("127.0.0.1").password(password).connect(NoTls)?)
    }

    fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config
            .port(self.port)
            .dbname(database)
            .user(user)
            .application_name("pg_test")
            .connect_timeout(Duration::from_secs(20));
        config
    }

    /// `postgresql://user:password@127.0.0.1:port/database`, with everything escaped.
    pub fn uri(&self, database: &str, user: &str, password: &str) -> String {
        format!("postgresql://{}:{}@127.0.0.1:{}/{}", percent(user), percent(password), self.port, percent(database))
    }

    /// One of the server's programs, run as the server's user and pointed at this cluster as its superuser.
    pub fn tool(&self, program: &str) -> Result<Command> {
        let mut command = place::run_as_server(&self.server.program(program))?;
        command
            .env("PGHOST", if self.standing { Path::new("127.0.0.1") } else { &self.socket })
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", SUPERUSER_PASSWORD)
            .env("PGCONNECT_TIMEOUT", "20");
        Ok(command)
    }

    /// A test driver of pgxs, pointed at this cluster.
    pub fn driver(&self, directory: &str, program: &str) -> Result<Command> {
        let mut command = self.tool("psql")?;
        let mut driver = place::run_as_server(&self.server.test_driver(directory, program))?;
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => driver.env(name, value),
                None => driver.env_remove(name),
            };
        }
        command.env_clear();
        driver.arg(format!("--bindir={}", self.server.program("").display()));
        Ok(driver)
    }

    /// `psql` with a script on its standard input, stopping at the first error.
    pub fn psql(&self, database: &str, script: &str) -> Result<Output> {
        let mut command = self.tool("psql")?;
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
        feed(command, script.as_bytes())
    }

    /// `pg_dump` of a database, as SQL.
    pub fn dump(&self, database: &str, arguments: &[&str]) -> Result<String> {
        let out = self.tool("pg_dump")?.args(arguments).arg(database).output()?;
        if !out.status.success() {
            return Err(format!("pg_dump: {}", String::from_utf8_lossy(&out.stderr)).into());
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        match std::fs::read(self.dir.join("log")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// The postmaster's process, while one runs.
    pub fn postmaster(&self) -> Option<u32> {
        postmaster_of(&self.dir)
    }

    /// Stops it with a mode of pg_ctl (smart, fast, immediate) and keeps its files.
    pub fn stop(&mut self, mode: &str) -> Result<()> {
        let stopped =
            self.tool("pg_ctl")?.args(["stop", "-s", "-w", "-t", "30", "-m", mode, "-D"]).arg(self.data()).status()?;
        if !stopped.success() {
            return Err(format!("pg_ctl stop -m {mode}: {stopped}\n{}", self.log_tail()).into());
        }
        self.let_go();
        Ok(())
    }

    /// Kills the postmaster and every backend as a power failure would, and keeps the files.
    pub fn crash(&mut self) -> Result<()> {
        let postmaster = self.postmaster().ok_or("no postmaster runs")?;
        // One that sees its children die would have new ones before it dies itself.
        signal("STOP", postmaster)?;
        let mut pids = children(postmaster);
        pids.push(postmaster);
        for pid in &pids {
            kill9(*pid)?;
        }
        wait_until("every process of the cluster is gone", || pids.iter().all(|pid| !runs(*pid)));
        self.let_go();
        // The next postmaster would take a file for a running server where its pid has been given to another.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        Ok(())
    }

    /// Starts it again after [`Cluster::stop`] or [`Cluster::crash`].
    pub fn restart(&mut self) -> Result<()> {
        if self.supervisor.is_some() {
            self.stop("fast")?;
        }
        self.configure()?;
        self.run()
    }

    fn let_go(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            if let Some(mut pipe) = supervisor.pipe.take() {
                let _ = pipe.write_all(b"stop\n");
            }
            let _ = supervisor.child.wait();
        }
    }

    fn configure(&self) -> Result<()> {
        let mut conf = String::new();
        for (name, value) in &self.settings {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        conf.push_str(&format!("port = {}\n", self.port));
        place::private_file(&self.data().join("postgresql.auto.conf"), &conf)
    }

    fn run(&mut self) -> Result<()> {
        for attempt in 0.. {
            let mut supervisor = self.spawn()?;
            let deadline = Instant::now() + START_TIMEOUT;
            loop {
                if supervisor.down.load(Ordering::Acquire) {
                    break;
                }
                if self.connect("postgres").is_ok() {
                    self.supervisor = Some(supervisor);
                    return Ok(());
                }
                if Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(POLL);
            }
            let log = self.log_tail();
            if let Some(mut pipe) = supervisor.pipe.take() {
                let _ = pipe.write_all(b"stop\n");
            }
            if !supervisor.down.load(Ordering::Acquire) {
                if let Some(pid) = self.postmaster() {
                    kill9(pid)?;
                }
            }
            let _ = supervisor.child.wait();
            // Somebody else took the port between our look and the start.
            if attempt < 5 && log.contains("Address already in use") {
                self.port = free_port(None)?;
                let _ = std::fs::remove_file(self.dir.join("log"));
                self.configure()?;
                continue;
            }
            return Err(format!("the cluster \"{}\" did not start:\n{log}", self.name).into());
        }
        unreachable!("the loop above returns")
    }

    fn spawn(&self) -> Result<Supervisor> {
        let mut child = place::run_as_server(Path::new("/bin/sh"))?
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(self.server.program("postgres"))
            .arg(&self.dir)
            .arg(&self.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        let down = Arc::new(AtomicBool::new(false));
        if let Some(out) = child.stdout.take() {
            let down = Arc::clone(&down);
            std::thread::spawn(move || {
                let _ = BufReader::new(out).read_line(&mut String::new());
                down.store(true, Ordering::Release);
            });
        }
        Ok(Supervisor { child, pipe, down })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        match self.supervisor.take() {
            Some(mut supervisor) => {
                drop(supervisor.pipe.take());
                let _ = supervisor.child.wait();
            }
            None if !self.standing && std::env::var_os("PG_TEST_KEEP").is_none() => {
                let _ = std::fs::remove_dir_all(&self.dir);
                let _ = std::fs::remove_dir_all(&self.socket);
            }
            None => {}
        }
    }
}

/// Stops a standing cluster and removes its files; nothing where there is none.
pub fn stop_standing(name: &str) -> Result<bool> {
    let dir = standing_directory(name)?;
    let running = postmaster_of(&dir).filter(|pid| runs(*pid));
    if let Some(pid) = running {
        // SIGINT: a fast shutdown.
        signal("INT", pid)?;
        wait_until("the cluster has shut down", || !runs(pid));
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(running.is_some())
}

fn standing_directory(name: &str) -> Result<PathBuf> {
    let parent = place::base()?.join("standing");
    place::own_directory(&parent)?;
    Ok(parent.join(name))
}

/// A port that nothing listens on at present.
fn free_port(preferred: Option<u16>) -> Result<u16> {
    if let Some(port) = preferred {
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn feed(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipe = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut pipe) = pipe {
                // A program that ends early says so in its status.
                let _ = pipe.write_all(input);
            }
        });
        Ok(child.wait_with_output()?)
    })
}

/// Escapes a part of a URI.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
