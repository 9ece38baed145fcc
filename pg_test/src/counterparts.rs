//! Servers that others wrote, from their packages: emulators of vendors' APIs, and one whose answers go wrong as told. What
//! we fetch from is not only what we made up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::client::wait_until;
use crate::place;

/// What `prerequisites` ends with where a registry cannot be reached.
const NO_REGISTRY: i32 = 75;

/// Ends the server when the pipe to it does: with this process, however that ends. A server that ends by itself is told of.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" </dev/null >/dev/null 2>&1 &
server=$!
{ read -r _ <&3; kill -9 "$server"; } 2>/dev/null &
end=$!
wait "$server"
status=$?
kill "$end" 2>/dev/null
exit "$status"
"#;

/// A server that ends with its test.
pub struct Counterpart {
    supervisor: Child,
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
            .then(|| Counterpart::start(&python, &["-c", &program], port, "Bearer sk_test_made_up", "/"))
    }

    /// A service of emulate, which lists the newest first.
    #[track_caller]
    pub fn emulate(service: &str, authorization: &'static str) -> Option<Counterpart> {
        let port = free_port();
        let modules = place::target().join("tools/emulate/node_modules");
        let program = modules.join("emulate/dist/index.js");
        let arguments = [&program.display().to_string(), "--service", service, "--port", &port.to_string()];
        installed("emulate")
            .then(|| Counterpart::start(&modules.join("node/bin/node"), &arguments, port, authorization, "/"))
    }

    /// WireMock, which answers as `/__admin/mappings` tells it to: late, in drips, with noise, or not at all.
    #[track_caller]
    pub fn wiremock() -> Option<Counterpart> {
        let port = free_port();
        let home = place::target().join("tools/wiremock");
        let jar = home.join("wiremock.jar").display().to_string();
        // It makes its directories where it is told, else where it is started.
        let files = home.join("files").display().to_string();
        let place = ["--port", &port.to_string(), "--bind-address", "127.0.0.1", "--root-dir", &files];
        let arguments =
            [&["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", &jar], &place[..]].concat();
        installed("wiremock")
            .then(|| Counterpart::start(Path::new("java"), &arguments, port, "None", "/__admin/health"))
    }

    /// Starts a program, and waits until it answers at `health`, whatever it says there.
    #[track_caller]
    fn start(program: &Path, arguments: &[&str], port: u16, authorization: &'static str, health: &str) -> Counterpart {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISOR, "supervisor"]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let supervisor = match command.spawn() {
            Ok(supervisor) => supervisor,
            Err(e) => panic!("{command:?}: {e}"),
        };
        let mut server = Counterpart { supervisor, port, authorization };
        wait_until("the counterpart answers", || {
            if let Ok(Some(status)) = server.supervisor.try_wait() {
                panic!("{command:?} ended: {status}");
            }
            server.exchange("GET", health, "text/plain", "").is_ok_and(|answer| answer.starts_with("HTTP/"))
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
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}
