//! A server of made-up customers that is faster than whoever asks: a record is a template whose digits are filled in, and
//! a listing that is not too long is rendered before it is asked for.
//!
//! `/v1/customers?limit&starting_after&updated[gte]` lists as Stripe does, newest change first. `/v1/whole` is everything
//! in one page.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use pg_test::Result;

/// Seconds since 1970 of the first customer.
const EPOCH: u64 = 1_600_000_000;
/// `#` the number, `@` created, `%` updated, `&` an amount. 650 bytes.
const RECORD: &str = concat!(
    r#"{"id":"cus_Q########","object":"customer","address":null,"balance":-1&&&&,"created":@@@@@@@@@@,"currency":"usd","#,
    r#""default_source":null,"delinquent":false,"description":"Customer ######## on plan &&&&","discount":null,"#,
    r#""email":"customer########@example.com","invoice_prefix":"P########","invoice_settings":{"custom_fields":null,"#,
    r#""default_payment_method":null,"footer":null,"rendering_options":null},"livemode":false,"metadata":{"account":"a########","#,
    r#""plan":"team","region":"eu-central-1"},"name":"Customer ########","next_invoice_sequence":1,"phone":"+15550########","#,
    r#""preferred_locales":[],"shipping":null,"tax_exempt":"none","test_clock":null,"updated":%%%%%%%%%%}"#,
);

/// What it has, and what it did.
#[derive(Default)]
pub struct Shared {
    pub customers: AtomicU64,
    /// Every hundredth of them changed, after all were made, if this says so.
    pub changed: AtomicU64,
    pub requests: AtomicU64,
    /// All records in the order of the listing, each with a comma, where they are rendered beforehand.
    rendered: RwLock<Arc<Vec<u8>>>,
    /// Time between a request's last byte and its answer's.
    busy_ns: AtomicU64,
    /// Time on a processor.
    cpu_ns: AtomicU64,
    stop: AtomicBool,
}

/// What the server did.
#[derive(Clone, Copy)]
pub struct Did {
    pub requests: u64,
    /// From a request's last byte to its answer's: with the time that the client took to read it.
    pub busy: Duration,
    /// On a processor, in the kernel as well.
    pub cpu: Duration,
}

/// Records that are rendered before they are asked for: they are all held in memory.
const RENDERED: u64 = 250_000;

pub struct Server {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
}

impl Server {
    pub fn start() -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.stop.load(Relaxed) {
                    return;
                }
                let theirs = Arc::clone(&theirs);
                // An error is the client's going away.
                thread::spawn(move || stream.and_then(|s| serve(s, &theirs)));
            }
        });
        Ok(Server { address, shared })
    }

    pub fn has(&self, customers: u64, changed: u64) {
        self.shared.customers.store(customers, Relaxed);
        self.shared.changed.store(changed, Relaxed);
        let mut all = Vec::new();
        if customers + changed <= RENDERED {
            all.reserve(((customers + changed) * (record_bytes() + 1)) as usize);
            for place in 0..customers + changed {
                at_place(&mut all, place, customers, changed);
                all.push(b',');
            }
        }
        *self.shared.rendered.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    /// What it did since this was asked last.
    pub fn take(&self) -> Did {
        let ns = |of: &AtomicU64| Duration::from_nanos(of.swap(0, Relaxed));
        let requests = self.shared.requests.swap(0, Relaxed);
        Did { requests, busy: ns(&self.shared.busy_ns), cpu: ns(&self.shared.cpu_ns) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// Writes a number over the places of a mark, from the right.
fn fill(record: &mut [u8], places: &[usize], mut value: u64, width: usize) {
    for run in places.chunks(width) {
        let whole = value;
        for at in run.iter().rev() {
            record[*at] = b'0' + (value % 10) as u8;
            value /= 10;
        }
        value = whole;
    }
}

fn places() -> &'static [Vec<usize>; 4] {
    static PLACES: OnceLock<[Vec<usize>; 4]> = OnceLock::new();
    PLACES.get_or_init(|| {
        [b'#', b'@', b'%', b'&'].map(|mark| {
            let at = |(i, b): (usize, u8)| (b == mark && !is_address(i)).then_some(i);
            RECORD.bytes().enumerate().filter_map(at).collect()
        })
    })
}

/// The sign in the mail address is one.
fn is_address(at: usize) -> bool {
    RECORD[at..].starts_with("@example")
}

/// A customer as JSON; one that changed has another balance and a later `updated`.
pub fn record(into: &mut Vec<u8>, n: u64, customers: u64, changed: Option<u64>) {
    let begin = into.len();
    into.extend_from_slice(RECORD.as_bytes());
    let record = &mut into[begin..];
    let [number, created, updated, amount] = places();
    fill(record, number, n, 8);
    fill(record, created, EPOCH + n, 10);
    fill(record, updated, EPOCH + changed.map_or(n, |k| customers + k), 10);
    fill(record, amount, (n * 7 + u64::from(changed.is_some())) % 10_000, 4);
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let mut body = Vec::new();
    let mut spent = thread_ns();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let begun = Instant::now();
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/v1/whole" {
            whole(&mut out, shared)?;
        } else {
            page(&mut body, query, shared);
            out.write_all(&body)?;
        }
        shared.requests.fetch_add(1, Relaxed);
        shared.busy_ns.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        let now = thread_ns();
        shared.cpu_ns.fetch_add(now.saturating_sub(spent), Relaxed);
        spent = now;
    }
    Ok(())
}

/// Nanoseconds that this thread has been on a processor.
fn thread_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}

/// The record at a place of the listing: those that changed come first, and all descend.
fn at_place(into: &mut Vec<u8>, place: u64, customers: u64, changed: u64) {
    match place < changed {
        true => record(into, place * EVERY, customers, Some(place)),
        false => record(into, customers - 1 - (place - changed), customers, None),
    }
}

/// Which of them change.
const EVERY: u64 = 100;

/// A page by its place in the listing, with its head.
fn page(answer: &mut Vec<u8>, query: &str, shared: &Shared) {
    let (customers, changed) = (shared.customers.load(Relaxed), shared.changed.load(Relaxed));
    let (mut limit, mut from, mut since) = (100, 0, 0);
    for (name, value) in query.split('&').filter_map(|p| p.split_once('=')) {
        match name {
            "limit" => limit = value.parse().unwrap_or(limit),
            "starting_after" => {
                let n: u64 = value.trim_start_matches("cus_Q").parse().unwrap_or(0);
                from = 1 + match n.is_multiple_of(EVERY) && n / EVERY < changed {
                    true => n / EVERY,
                    false => changed + (customers - 1 - n),
                };
            }
            _ if name.starts_with("updated") => since = value.parse::<u64>().map_or(0, |s| s.saturating_sub(EPOCH)),
            _ => {}
        }
    }
    // Places from 0 to changed - 1 have updated = customers + place, the others descend from customers - 1.
    let end = match since {
        0 => customers + changed,
        s if s < customers => changed + customers - s,
        s => changed.saturating_sub(s - customers),
    };
    let until = end.min(from + limit).max(from);
    let (head, tail) =
        (r#"{"object":"list","url":"/v1/customers","data":["#, format!(r#"],"has_more":{}}}"#, until < end));
    let each = record_bytes() + 1;
    let records = ((until - from) * each).saturating_sub(1) as usize;
    let length = head.len() + records + tail.len();
    answer.clear();
    answer.extend_from_slice(
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{head}")
            .as_bytes(),
    );
    let rendered = Arc::clone(&shared.rendered.read().unwrap_or_else(PoisonError::into_inner));
    let at = (from * each) as usize;
    match rendered.get(at..at + records) {
        Some(ready) => answer.extend_from_slice(ready),
        None => {
            for place in from..until {
                if place > from {
                    answer.push(b',');
                }
                at_place(answer, place, customers, changed);
            }
        }
    }
    answer.extend_from_slice(tail.as_bytes());
}

fn whole(out: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let customers = shared.customers.load(Relaxed);
    let (head, tail) = (r#"{"object":"list","data":["#, r#"],"has_more":false}"#);
    let length = head.len() + tail.len() + customers as usize * (RECORD.len() + 1) - 1;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{head}")?;
    let mut part = Vec::with_capacity(1 << 20);
    for n in 0..customers {
        if n > 0 {
            part.push(b',');
        }
        record(&mut part, n, customers, None);
        if part.len() > 900_000 {
            out.write_all(&part)?;
            part.clear();
        }
    }
    out.write_all(&part)?;
    out.write_all(tail.as_bytes())
}

/// Bytes of a record.
pub const fn record_bytes() -> u64 {
    RECORD.len() as u64
}
