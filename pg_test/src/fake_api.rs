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

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
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
                    thread::spawn(move || drop(serve(stream, config, &base, &state, &stopping)));
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
    store.entry(collection.into()).or_default().retain(|o| text(&o["id"]) != id);
}

/// `n` objects of `collection`, `created` growing by `step` seconds.
pub fn fill(api: &FakeApi, collection: &str, n: u64, step: u64) {
    let objects = (0..n).map(|i| json!({"id": format!("id_{i:06}"), "created": 1_700_000_000 + i * step, "n": i}));
    api.change(|store| store.entry(collection.into()).or_default().extend(objects));
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

trait Stream: Read + Write {
    fn close(&mut self);
}

impl Stream for TcpStream {
    fn close(&mut self) {
        drop(self.shutdown(std::net::Shutdown::Both));
    }
}

impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn close(&mut self) {
        self.sock.close();
    }
}

fn serve(
    stream: TcpStream,
    config: Option<Arc<rustls::ServerConfig>>,
    base: &str,
    state: &Mutex<State>,
    stopping: &AtomicBool,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    match config {
        None => converse(stream, base, state, stopping),
        Some(config) => {
            let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            converse(rustls::StreamOwned::new(connection, stream), base, state, stopping)
        }
    }
}

fn converse(mut stream: impl Stream, base: &str, state: &Mutex<State>, stopping: &AtomicBool) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let Some(asked) = next_request(&mut stream, &mut input, stopping)? else { return Ok(()) };
        let (reply, fault) = decide(state, &asked, base);
        let mut reply = reply;
        match fault {
            Some(Fault::Hang) => return wait_for_the_end(&mut stream, stopping),
            Some(Fault::Gzip) => reply = zipped(reply),
            Some(Fault::Bomb(mib)) => reply = bomb(mib),
            Some(Fault::HugeHeader(n)) => reply = reply.with("X-Padding", &"x".repeat(n)),
            Some(Fault::Reply(instead)) => reply = instead,
            Some(Fault::Cut(n)) => {
                write_reply(&mut stream, &reply, n)?;
                stream.close();
                return Ok(());
            }
            Some(Fault::Stall(n)) => {
                write_reply(&mut stream, &reply, n)?;
                return wait_for_the_end(&mut stream, stopping);
            }
            Some(Fault::Drip(each)) => {
                write_reply(&mut stream, &reply, 0)?;
                for byte in &reply.body {
                    if stopping.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    thread::sleep(each);
                    stream.write_all(&[*byte])?;
                    stream.flush()?;
                }
                continue;
            }
            None => {}
        }
        write_reply(&mut stream, &reply, usize::MAX)?;
    }
}

fn write_reply(stream: &mut impl Stream, reply: &Reply, body: usize) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Whatever\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut all = head.into_bytes();
    all.extend_from_slice(&reply.body[..body.min(reply.body.len())]);
    stream.write_all(&all)?;
    stream.flush()
}

fn waits(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn wait_for_the_end(stream: &mut impl Stream, stopping: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while !stopping.load(Ordering::SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if waits(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn more(stream: &mut impl Stream, input: &mut Vec<u8>, stopping: &AtomicBool) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                input.extend_from_slice(&buffer[..n]);
                return Ok(true);
            }
            Err(e) if waits(&e) && !stopping.load(Ordering::SeqCst) => {}
            Err(e) => return Err(e),
        }
    }
}

fn next_request(stream: &mut impl Stream, input: &mut Vec<u8>, stopping: &AtomicBool) -> io::Result<Option<Asked>> {
    let head_ends = loop {
        if let Some(at) = input.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if !more(stream, input, stopping)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&input[..head_ends]).into_owned();
    input.drain(..head_ends + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    while input.len() < length {
        if !more(stream, input, stopping)? {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&input[..length]).into_owned();
    input.drain(..length);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Asked {
        method: method.into(),
        path: decode(path),
        query: pairs(query),
        headers,
        body,
        at: Instant::now(),
    }))
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

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b == b'_' { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Logs the request, lets what was planned happen, and answers.
fn decide(state: &Mutex<State>, asked: &Asked, base: &str) -> (Reply, Option<Fault>) {
    let mut state = lock(state);
    state.log.push(asked.clone());
    let planned = std::mem::take(&mut state.changes);
    for (path, answered, change) in planned {
        match (asked.path.starts_with(&path), answered) {
            (true, 0) => change(&mut state.store),
            (true, n) => state.changes.push((path, n - 1, change)),
            (false, n) => state.changes.push((path, n, change)),
        }
    }
    let mut fault = None;
    for (path, skip, times, what) in &mut state.faults {
        if fault.is_none() && asked.path.starts_with(path.as_str()) && *times > 0 {
            if *skip > 0 {
                *skip -= 1;
            } else {
                *times -= 1;
                fault = Some(what.clone());
            }
        }
    }
    // What a fault stands in for is still computed: a cut or slow answer is a good one.
    (answer(&mut state, asked, base), fault)
}

fn answer(state: &mut State, asked: &Asked, base: &str) -> Reply {
    if asked.path == "/token" {
        if let Some(good) = &mut state.refresh {
            let form = pairs(&asked.body);
            let sent = form.iter().find(|(n, _)| n == "refresh_token").map_or("", |(_, v)| v.as_str());
            if sent != good {
                let error = json!({"error": "invalid_grant", "error_description": format!("{sent} is spent")});
                return Reply::text(400, "application/json", &error.to_string());
            }
            *good = format!("refresh-{}", state.tokens + 1);
        }
        state.tokens += 1;
        state.token_uses = 0;
        return Reply::json(&json!({"access_token": format!("token-{}", state.tokens), "expires_in": 3600,
            "token_type": "Bearer", "refresh_token": format!("refresh-{}", state.tokens)}));
    }
    let mut welcome = true;
    if let Some((name, value)) = &state.wanted {
        welcome = asked.header(name) == Some(value);
    }
    if let Some(lasts) = state.token_lasts {
        let good = format!("Bearer token-{}", state.tokens);
        welcome = asked.header("authorization") == Some(good.as_str()) && state.token_uses < lasts;
        state.token_uses += 1;
    }
    if !welcome {
        let seen = asked.header("authorization").unwrap_or("nothing");
        return Reply::text(401, "application/json", &json!({"error": format!("not with {seen}")}).to_string());
    }
    if let Some((_, route)) = state.routes.iter().find(|(path, _)| asked.path.starts_with(path.as_str())) {
        return route(asked);
    }
    let mut parts = asked.path.trim_start_matches('/').splitn(3, '/');
    let (style, name, id) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    let none = Vec::new();
    let objects = state.store.get(name).unwrap_or(&none);
    if let (true, Some(id)) = (style == "one", id) {
        return match objects.iter().find(|o| text(&o["id"]) == id) {
            Some(object) => Reply::json(object),
            None => Reply::text(404, "application/json", "{\"error\":\"no such object\"}"),
        };
    }
    listing(style, asked, base, &sorted(objects, asked))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn sorted(objects: &[Value], asked: &Asked) -> Vec<Value> {
    let bound = |value: &Value, name: &str, ordering: std::cmp::Ordering| {
        let Some(limit) = asked.param(name).and_then(|v| v.parse::<i64>().ok()) else { return true };
        value.as_i64().is_none_or(|value| value.cmp(&limit) != ordering)
    };
    let mut all: Vec<Value> = objects
        .iter()
        .filter(|o| {
            ["created", "updated"].iter().all(|field| {
                bound(&o[*field], &format!("{field}[gte]"), std::cmp::Ordering::Less)
                    && bound(&o[*field], &format!("{field}[lte]"), std::cmp::Ordering::Greater)
            })
        })
        .cloned()
        .collect();
    let by = asked.param("by").unwrap_or("created").to_owned();
    all.sort_by_key(|o| (o[&by].as_i64(), text(&o["id"])));
    if asked.param("order") != Some("asc") {
        all.reverse();
    }
    all
}

fn listing(style: &str, asked: &Asked, base: &str, all: &[Value]) -> Reply {
    let number = |name: &str| asked.param(name).and_then(|v| v.parse::<usize>().ok());
    let limit = number("limit").or_else(|| number("per_page")).unwrap_or(10).max(1);
    let window = |at: usize| &all[at.min(all.len())..(at + limit).min(all.len())];
    let rest = |at: usize| {
        // The other parameters go on to the next page.
        let mut query = format!("at={}", at + limit);
        for (name, value) in asked.query.iter().filter(|(n, _)| n != "at" && n != "page") {
            query.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        format!("{}?{query}", asked.path)
    };
    let at = number("at").unwrap_or(0);
    let pages = all.len().div_ceil(limit);
    match style {
        "cursor" => {
            let after = asked.param("starting_after").unwrap_or("");
            let begin = all.iter().position(|o| text(&o["id"]) == after).map_or(0, |i| i + 1);
            if !after.is_empty() && begin == 0 {
                return Reply::text(400, "application/json", "{\"error\":\"no such object\"}");
            }
            Reply::json(&json!({"object": "list", "data": window(begin), "has_more": begin + limit < all.len()}))
        }
        "offset" => Reply::json(&json!({"items": window(number("offset").unwrap_or(0)), "total": all.len()})),
        "page" => {
            let page = number("page").unwrap_or(1).max(1);
            Reply::json(&json!({"items": window((page - 1) * limit), "pages": pages, "total": all.len()}))
        }
        "link" => {
            let page = number("page").unwrap_or(1).max(1);
            let reply = Reply::json(&json!(window((page - 1) * limit)));
            if page < pages {
                let next = format!("{base}{}", rest(0).replace(&format!("at={limit}"), &format!("page={}", page + 1)));
                reply.with("Link", &format!("<{base}{}?page=1>; rel=\"first\", <{next}>; rel=\"next\"", asked.path))
            } else {
                reply
            }
        }
        "next_url" => {
            let next = (at + limit < all.len()).then(|| format!("{base}{}", rest(at)));
            Reply::json(&json!({"results": window(at), "paging": {"next": next}}))
        }
        "next_path" => {
            let mut page = json!({"records": window(at), "done": at + limit >= all.len()});
            if at + limit < all.len() {
                page["nextRecordsUrl"] = json!(rest(at));
            }
            Reply::json(&page)
        }
        "scroll" => {
            let at: usize =
                asked.param("scroll_param").and_then(|p| p.strip_prefix("scroll-")?.parse().ok()).unwrap_or(0);
            Reply::json(&json!({"data": window(at), "scroll_param": format!("scroll-{}", at + limit)}))
        }
        "search" => {
            let Ok(body) = serde_json::from_str::<Value>(&asked.body) else {
                return Reply::text(400, "text/plain", "no JSON");
            };
            let limit = body["limit"].as_u64().unwrap_or(10) as usize;
            let since = text(&body["since"]).parse::<i64>().unwrap_or(i64::MIN);
            let at = text(&body["after"]).parse::<usize>().unwrap_or(0);
            let all: Vec<&Value> = all.iter().filter(|o| o["created"].as_i64() >= Some(since)).collect();
            let page = &all[at.min(all.len())..(at + limit).min(all.len())];
            let mut reply = json!({"results": page});
            if at + limit < all.len() {
                reply["paging"] = json!({"next": {"after": (at + limit).to_string()}});
            }
            Reply::json(&reply)
        }
        _ => Reply::text(404, "application/json", "{\"error\":\"no such path\"}"),
    }
}

fn zip(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    write(&mut encoder).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn zipped(reply: Reply) -> Reply {
    let body = zip(|w| w.write_all(&reply.body));
    Reply { body, ..reply }.with("Content-Encoding", "gzip")
}

fn bomb(mib: usize) -> Reply {
    let body = zip(|w| {
        w.write_all(b"{\"data\":[")?;
        let blanks = vec![b' '; 1 << 20];
        (0..mib).try_for_each(|_| w.write_all(&blanks))?;
        w.write_all(b"],\"has_more\":false}")
    });
    Reply { status: 200, headers: vec![("Content-Type".into(), "application/json".into())], body }
        .with("Content-Encoding", "gzip")
}
