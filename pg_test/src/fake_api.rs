//! An API that misbehaves on demand: listings of stateful objects in each style of paging, over HTTP or HTTPS, with
//! faults that a test puts in their way, and a log of what was asked. It stands alone, so that unit tests include it.
//!
//! | path | answer |
//! |---|---|
//! | `/cursor/NAME?limit&starting_after` | `{"data": […], "has_more": …}` |
//! | `/offset/NAME?limit&offset` | `{"items": […], "total": n}` |
//! | `/page/NAME?per_page&page` | `{"items": […], "pages": n, "total": n}` |
//! | `/link/NAME?per_page&page` | `[…]` and a Link header |
//! | `/next_url/NAME?limit&at` | `{"results": […], "paging": {"next": "http://…"}}` |
//! | `/next_path/NAME?limit&at` | `{"records": […], "done": …, "nextRecordsUrl": "/…"}` |
//! | `/scroll/NAME?limit&scroll_param` | `{"data": […], "scroll_param": "…"}` |
//! | `POST /search/NAME` `{"limit", "after", "since"}` | `{"results": […], "paging": {"next": {"after": …}}}` |
//! | `/one/NAME/ID` | the object, or 404 |
//! | `POST /token` | `{"access_token": "token-N", "expires_in": …}` |
//!
//! Listings are newest first by `created`; `order=asc` turns them, `FIELD[gte]` and `FIELD[lte]` filter by a number.

#[path = "fake_api/answers.rs"]
mod answers;
#[path = "fake_api/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub at: Instant,
}

impl Asked {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What goes back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(body: &Value) -> Reply {
        Reply::text(200, "application/json", &body.to_string())
    }

    pub fn text(status: u16, content_type: &str, body: &str) -> Reply {
        Reply { status, headers: vec![("Content-Type".into(), content_type.into())], body: body.into() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What happens instead of a good answer, or to it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead.
    Reply(Reply),
    /// The good answer's body is cut after so many bytes, and the connection closed.
    Cut(usize),
    /// The good answer stops after so many bytes of its body, and the connection stays.
    Stall(usize),
    /// The good answer, a byte at a time.
    Drip(Duration),
    /// No answer at all.
    Hang,
    /// The good answer, compressed.
    Gzip,
    /// So many MiB of blanks in a few KiB of gzip, as the body of a listing.
    Bomb(usize),
    /// The good answer with a header of so many bytes.
    HugeHeader(usize),
}

type Change = Box<dyn FnOnce(&mut Store) + Send>;
type Route = Box<dyn Fn(&Asked) -> Reply + Send>;

/// The objects, by collection; each has at least `id` and `created`.
pub type Store = BTreeMap<String, Vec<Value>>;

#[derive(Default)]
struct State {
    store: Store,
    log: Vec<Asked>,
    /// Path, requests to let pass, times, fault.
    faults: Vec<(String, u64, u64, Fault)>,
    /// Path, requests to answer before.
    changes: Vec<(String, u64, Change)>,
    routes: Vec<(String, Route)>,
    /// The header and value that listings ask for, if any.
    wanted: Option<(String, String)>,
    /// Tokens last so many requests.
    token_lasts: Option<u64>,
    tokens: u64,
    token_uses: u64,
    /// The one refresh token that is good, where they are rotated.
    refresh: Option<String>,
}

pub struct FakeApi {
    address: SocketAddr,
    scheme: &'static str,
    certificate: Option<String>,
    state: Arc<Mutex<State>>,
    stopping: Arc<AtomicBool>,
    /// Connections that were accepted.
    connections: Arc<AtomicU64>,
    listener: Option<thread::JoinHandle<()>>,
}

impl FakeApi {
    pub fn http() -> FakeApi {
        FakeApi::start(None)
    }

    /// With a certificate of its own for `localhost` and 127.0.0.1, which nobody trusts yet.
    pub fn https() -> FakeApi {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a key that fits");
        FakeApi::start(Some((Arc::new(config), made.cert.pem())))
    }

    fn start(tls: Option<(Arc<rustls::ServerConfig>, String)>) -> FakeApi {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicU64::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (config, certificate) = tls.unzip();
        let base = format!("{scheme}://{address}");
        let handle = thread::spawn({
            let (state, stopping, connections) = (Arc::clone(&state), Arc::clone(&stopping), Arc::clone(&connections));
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (state, stopping, config) = (Arc::clone(&state), Arc::clone(&stopping), config.clone());
                    let base = base.clone();
                    // A client that goes away ends its connection's thread, nothing else.
                    thread::spawn(move || drop(wire::serve(stream, config, &base, &state, &stopping)));
                }
            }
        });
        FakeApi { address, scheme, certificate, state, stopping, connections, listener: Some(handle) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The server's certificate, PEM.
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().expect("an HTTPS server")
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        change(&mut self.state().store)
    }

    /// Makes an object, or puts it in the place of the one with its id.
    pub fn put(&self, collection: &str, object: Value) {
        self.change(|store| put(store, collection, object));
    }

    pub fn delete(&self, collection: &str, id: &str) {
        self.change(|store| delete(store, collection, id));
    }

    pub fn objects(&self, collection: &str) -> Vec<Value> {
        self.state().store.get(collection).cloned().unwrap_or_default()
    }

    /// After `skip` requests for paths that begin with `path`, the next `times` meet a fault.
    pub fn fault(&self, path: &str, skip: u64, times: u64, fault: Fault) {
        self.state().faults.push((path.into(), skip, times, fault));
    }

    /// All answers are good ones again.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Changes the objects before the request for `path` that comes after `answered` others.
    pub fn before_request(&self, path: &str, answered: u64, change: impl FnOnce(&mut Store) + Send + 'static) {
        self.state().changes.push((path.into(), answered, Box::new(change)));
    }

    /// Answers requests for paths that begin with `path`.
    pub fn route(&self, path: &str, answer: impl Fn(&Asked) -> Reply + Send + 'static) {
        self.state().routes.insert(0, (path.into(), Box::new(answer)));
    }

    /// Everything but `/token` asks for this header, and answers 401 without it.
    pub fn want_header(&self, name: &str, value: &str) {
        self.state().wanted = Some((name.to_lowercase(), value.into()));
    }

    /// Everything but `/token` wants the last token, which is good for so many requests.
    pub fn want_token(&self, lasts: u64) {
        self.state().token_lasts = Some(lasts);
    }

    /// `/token` takes this refresh token, once, and gives the next one with each token.
    pub fn rotate_refresh_tokens(&self, first: &str) {
        self.state().refresh = Some(first.into());
    }

    /// The refresh token that is good now.
    pub fn refresh_token(&self) -> String {
        self.state().refresh.clone().unwrap_or_default()
    }

    pub fn log(&self) -> Vec<Asked> {
        self.state().log.clone()
    }

    pub fn asked(&self, path: &str) -> usize {
        self.state().log.iter().filter(|a| a.path.starts_with(path)).count()
    }

    pub fn forget(&self) {
        self.state().log.clear();
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the listener; where that fails, it has ended.
        drop(TcpStream::connect(self.address));
        if let Some(handle) = self.listener.take() {
            drop(handle.join());
        }
    }
}

pub fn put(store: &mut Store, collection: &str, object: Value) {
    let objects = store.entry(collection.into()).or_default();
    match objects.iter_mut().find(|o| o["id"] == object["id"]) {
        Some(old) => *old = object,
        None => objects.push(object),
    }
}

pub fn delete(store: &mut Store, collection: &str, id: &str) {
    store.entry(collection.into()).or_default().retain(|o| answers::text(&o["id"]) != id);
}

/// `n` objects of `collection`, `created` growing by `step` seconds.
pub fn fill(api: &FakeApi, collection: &str, n: u64, step: u64) {
    let objects = (0..n).map(|i| json!({"id": format!("id_{i:06}"), "created": 1_700_000_000 + i * step, "n": i}));
    api.change(|store| store.entry(collection.into()).or_default().extend(objects));
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `application/x-www-form-urlencoded`.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(&name.replace('+', " ")), decode(&value.replace('+', " "))))
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let byte = if bytes[i] == b'%' {
            text.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok())
        } else {
            None
        };
        out.push(byte.unwrap_or(bytes[i]));
        i += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
