//! Emulators of vendors' APIs that others wrote, from their packages: what we fetch from is not only what we made up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::client::wait_until;
use crate::place;

/// What `prerequisites` ends with where a registry cannot be reached.
const NO_REGISTRY: i32 = 75;

/// A server that ends with its test.
pub struct Counterpart {
    process: Child,
    port: u16,
    /// The header that says who asks.
    authorization: &'static str,
}

/// Installs a package, once for all runs; `false`, with a message, where its registry cannot be reached.
#[track_caller]
fn installed(package: &str) -> bool {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let script = place::checkout().join("pg_test/prerequisites");
    match Command::new(&script).arg(package).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => true,
        Ok(status) if status.code() == Some(NO_REGISTRY) => {
            eprintln!("SKIPPED: the registry of {package} cannot be reached from here");
            false
        }
        Ok(status) => panic!("{} {package}: {status}", script.display()),
        Err(e) => panic!("{}: {e}", script.display()),
    }
}

#[track_caller]
fn free_port() -> u16 {
    match TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()) {
        Ok(address) => address.port(),
        Err(e) => panic!("no free port: {e}"),
    }
}

impl Counterpart {
    /// localstripe, which lists the oldest first.
    #[track_caller]
    pub fn localstripe() -> Option<Counterpart> {
        let port = free_port();
        let program = format!(
            "from aiohttp import web; from localstripe.server import app; web.run_app(app, host='127.0.0.1', port={port})"
        );
        let python = place::target().join("tools/localstripe/bin/python");
        installed("localstripe")
            .then(|| Counterpart::start(Command::new(python).args(["-c", &program]), port, "Bearer sk_test_made_up"))
    }

    /// A service of emulate, which lists the newest first.
    #[track_caller]
    pub fn emulate(service: &str, authorization: &'static str) -> Option<Counterpart> {
        let port = free_port();
        let modules = place::target().join("tools/emulate/node_modules");
        let mut command = Command::new(modules.join("node/bin/node"));
        command.arg(modules.join("emulate/dist/index.js")).args(["--service", service, "--port", &port.to_string()]);
        installed("emulate").then(|| Counterpart::start(&mut command, port, authorization))
    }

    #[track_caller]
    fn start(command: &mut Command, port: u16, authorization: &'static str) -> Counterpart {
        let process = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => process,
            Err(e) => panic!("{command:?}: {e}"),
        };
        let mut server = Counterpart { process, port, authorization };
        wait_until("the counterpart accepts connections", || {
            if let Ok(Some(status)) = server.process.try_wait() {
                panic!("{command:?} ended: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    /// As the server names itself in its links.
    pub fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    /// Sends a request and expects success; the answer's JSON.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> Value {
        let answer = self.exchange(method, path, content_type, body);
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => panic!("{method} {path}: {e}"),
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('2'), "{method} {path}: {answer}");
        match serde_json::from_str(body) {
            Ok(value) => value,
            Err(e) => panic!("{method} {path}: {e} in {answer}"),
        }
    }

    /// HTTP 1.0: the body comes in one piece, and the connection's end is its end.
    fn exchange(&self, method: &str, path: &str, content_type: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost:{}\r\nAuthorization: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            self.authorization,
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, "text/plain", "")
    }

    /// As Stripe takes objects.
    #[track_caller]
    pub fn post_form(&self, path: &str, form: &str) -> Value {
        self.ask("POST", path, "application/x-www-form-urlencoded", form)
    }

    #[track_caller]
    pub fn send_json(&self, method: &str, path: &str, json: &Value) -> Value {
        self.ask(method, path, "application/json", &json.to_string())
    }
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        // It holds nothing that lasts.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
